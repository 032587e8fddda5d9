//! `securityContext` of the pod and of a container, merged into what holds for one container.

use oci_spec::runtime::Capability;

use super::field::{Field, Fields};

/// The largest id Kubernetes allows (2^31 - 1).
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// Who a container runs as and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    /// Absent: as the image says.
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) non_root: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) no_new_privileges: bool,
    pub(crate) read_only_root: bool,
    pub(crate) add: CapabilityList,
    pub(crate) drop: CapabilityList,
}

/// Which system calls are filtered. A container that says nothing gets the runtime's default profile, as
/// under a kubelet with `seccompDefault`: the embedded default is the safe one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A JSON profile beside the manifest.
    Localhost(String),
}

/// Capabilities by name, or every one there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CapabilityList {
    pub(crate) all: bool,
    pub(crate) named: Vec<Capability>,
}

/// The pod's part: what its containers start from, and the groups all of them get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodSecurity {
    pub(super) defaults: Security,
    pub(super) fs_group: Option<u32>,
    pub(super) supplemental_groups: Vec<u32>,
}

pub(super) fn decode_pod(field: &Field<'_>) -> PodSecurity {
    let mut fields = field.fields();
    let defaults = shared(&mut fields, Security::default());
    let fs_group = fields.take("fsGroup").and_then(|f| f.integer(0..=MAX_ID));
    let groups = fields.take("supplementalGroups").map(|f| f.items()).unwrap_or_default();
    let supplemental_groups = groups.iter().filter_map(|f| f.integer(0..=MAX_ID)).collect();
    if let Some(policy) = fields.take("supplementalGroupsPolicy") {
        policy.word(&[("Merge", ())]);
    }
    if let Some(policy) = fields.take("fsGroupChangePolicy") {
        // Both mean the same for volumes that are made for the run.
        policy.word(&[("Always", ()), ("OnRootMismatch", ())]);
    }
    fields.refuse(&[("sysctls", "the pod keeps the kernel's defaults")]);
    fields.finish();
    PodSecurity { defaults, fs_group, supplemental_groups }
}

pub(super) fn decode_container(field: &Field<'_>, pod: &PodSecurity) -> Security {
    let mut fields = field.fields();
    let mut security = shared(&mut fields, pod.defaults.clone());
    if let Some(capabilities) = fields.take("capabilities") {
        let mut lists = capabilities.fields();
        security.add = lists.take("add").map(|f| capability_list(&f)).unwrap_or_default();
        security.drop = lists.take("drop").map(|f| capability_list(&f)).unwrap_or_default();
        lists.finish();
    }
    if let Some(escalation) = fields.take("allowPrivilegeEscalation") {
        security.no_new_privileges = escalation.boolean() == Some(false);
        if security.no_new_privileges && security.add.contains(Capability::SysAdmin) {
            escalation.fault("cannot be false beside capabilities.add SYS_ADMIN");
        }
    }
    if let Some(read_only) = fields.take("readOnlyRootFilesystem") {
        security.read_only_root = read_only.boolean() == Some(true);
    }
    if let Some(proc_mount) = fields.take("procMount") {
        proc_mount.word(&[("Default", ())]);
    }
    fields.refuse_true(&[("privileged", "give the container the capabilities and volumes it needs instead")]);
    fields.finish();
    security
}

/// The fields that pod and container have in common; the container's word counts.
fn shared(fields: &mut Fields<'_>, mut security: Security) -> Security {
    if let Some(user) = fields.take("runAsUser") {
        security.user = user.integer(0..=MAX_ID);
    }
    if let Some(group) = fields.take("runAsGroup") {
        security.group = group.integer(0..=MAX_ID);
    }
    if let Some(non_root) = fields.take("runAsNonRoot") {
        security.non_root = non_root.boolean() == Some(true);
    }
    if let Some(profile) = fields.take("seccompProfile") {
        security.seccomp = seccomp(&profile).unwrap_or_default();
    }
    if let Some(profile) = fields.take("appArmorProfile") {
        let mut inner = profile.fields();
        if let Some(kind) = inner.need("type") {
            kind.word(&[("Unconfined", ())]);
        }
        inner.finish();
    }
    fields.refuse(&[
        ("seLinuxOptions", "containers run with the label of the caller"),
        ("windowsOptions", "this is Linux"),
    ]);
    security
}

fn seccomp(field: &Field<'_>) -> Option<Seccomp> {
    let mut fields = field.fields();
    let kind = fields.need("type");
    let path = fields.take("localhostProfile");
    fields.finish();
    let kind = kind?.word(&[("RuntimeDefault", 0), ("Unconfined", 1), ("Localhost", 2)])?;
    match (kind, path) {
        (2, None) => {
            field.fault("type Localhost needs localhostProfile");
            None
        }
        (2, Some(path)) => {
            let text = path.name()?;
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                path.fault("must be a path below the folder of the manifest, without `..`");
                return None;
            }
            Some(Seccomp::Localhost(text.to_owned()))
        }
        (_, Some(path)) => {
            path.refuse("goes with type Localhost only");
            None
        }
        (0, None) => Some(Seccomp::RuntimeDefault),
        (_, None) => Some(Seccomp::Unconfined),
    }
}

fn capability_list(field: &Field<'_>) -> CapabilityList {
    let mut list = CapabilityList::default();
    for item in field.items() {
        let Some(name) = item.string() else { continue };
        match name.parse::<Capability>() {
            _ if name == "ALL" => list.all = true,
            Ok(capability) => list.named.push(capability),
            Err(_) if name.starts_with("CAP_") => {
                item.fault(format!("`{name}` is written without CAP_ in a Pod: `{}`", &name[4..]));
            }
            Err(_) => item.fault(format!("`{name}` is no capability of Linux (capabilities(7))")),
        }
    }
    list
}

impl CapabilityList {
    pub(crate) fn contains(&self, capability: Capability) -> bool {
        self.all || self.named.contains(&capability)
    }
}

//! The Pod itself: its fields, its defaults and the rules that hold between its parts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dunnage_spec::QosClass;

use super::container::{self, Container, Context};
use super::field::{Field, Fields};
use super::name;
use super::problem::{ManifestError, Problem, Report};
use super::security::{self, PodSecurity};
use super::volume::{self, Volume};
use super::yaml;
use crate::quantity::Quantity;

/// A pod to run, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) hostname: String,
    pub(crate) host_network: bool,
    pub(crate) share_process_namespace: bool,
    pub(crate) restart: RestartPolicy,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    /// Owner of the volumes made for the run, and a group of every container.
    pub(crate) fs_group: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Never,
    OnFailure,
}

/// What Kubernetes takes when the manifest does not say.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Longest host name of Linux.
const MAX_HOSTNAME: usize = 63;

impl Pod {
    /// Reads the manifest `text`; `file` is only for messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the text.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let root = yaml::read(text).map_err(|error| {
            ManifestError::new(file, vec![Problem { at: error.at, path: String::new(), text: error.text }])
        })?;
        let report = Report::default();
        let pod = decode(&Field::root(&root, &report));
        let problems = report.into_problems();
        match pod {
            Some(pod) if problems.is_empty() => Ok(pod),
            _ => Err(ManifestError::new(file, problems)),
        }
    }

    /// The quality-of-service class by the rule of `pkg/apis/core/v1/helper/qos`: only cpu and memory count,
    /// only amounts above zero, and init containers count as much as the others.
    pub(crate) fn qos_class(&self) -> QosClass {
        let counted = |amount: Option<Quantity>| amount.filter(|amount| amount.is_positive());
        let mut any = false;
        let mut all_limited = true;
        let mut equal = true;
        for container in self.init_containers.iter().chain(&self.containers) {
            for amounts in [container.resources.cpu, container.resources.memory] {
                let (request, limit) = (counted(amounts.request), counted(amounts.limit));
                any |= request.is_some() || limit.is_some();
                all_limited &= limit.is_some();
                equal &= request == limit;
            }
        }
        match (any, all_limited && equal) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    }
}

fn decode(root: &Field<'_>) -> Option<Pod> {
    let mut fields = root.fields();
    let version = fields.need("apiVersion").and_then(|f| f.word(&[("v1", ())]));
    let kind = fields.need("kind").and_then(|f| {
        let kind = f.string()?;
        if kind != "Pod" {
            f.fault(format!("`{kind}` is not supported: `pod run` runs one Pod"));
        }
        Some(())
    });
    let metadata = fields.need("metadata").and_then(|f| metadata(&f));
    let spec = fields.need("spec");
    fields.pass(&["status"]);
    fields.finish();
    let pod = spec.and_then(|f| decode_spec(&f));
    version?;
    kind?;
    let (metadata, mut pod) = (metadata?, pod?);
    if pod.hostname.is_empty() {
        pod.hostname = metadata.name.chars().take(MAX_HOSTNAME).collect::<String>();
        pod.hostname = pod.hostname.trim_end_matches(['-', '.']).to_owned();
    }
    Some(Pod {
        name: metadata.name,
        namespace: metadata.namespace,
        labels: metadata.labels,
        annotations: metadata.annotations,
        ..pod
    })
}

struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn metadata(field: &Field<'_>) -> Option<Metadata> {
    let mut fields = field.fields();
    let name = fields.need("name").and_then(|f| name::subdomain(&f));
    let namespace = fields.take("namespace").map_or(Some("default".to_owned()), |f| name::label(&f));
    let labels = fields.take("labels").map(|f| strings(&f)).unwrap_or_default();
    let annotations = fields.take("annotations").map(|f| strings(&f)).unwrap_or_default();
    // What a server wrote when the manifest was copied from a cluster.
    fields.pass(&["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"]);
    fields.refuse(&[
        ("generateName", "give the pod a name"),
        ("finalizers", "nothing outlives the run"),
        ("ownerReferences", "nothing owns a pod here"),
        ("deletionTimestamp", "this pod is being deleted"),
        ("deletionGracePeriodSeconds", "this pod is being deleted"),
    ]);
    fields.finish();
    Some(Metadata { name: name?, namespace: namespace?, labels, annotations })
}

fn strings(field: &Field<'_>) -> BTreeMap<String, String> {
    let pairs = field.fields().take_all();
    pairs.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.string()?.to_owned()))).collect()
}

fn decode_spec(field: &Field<'_>) -> Option<Pod> {
    let mut fields = field.fields();
    let security: PodSecurity =
        fields.take("securityContext").map(|f| security::decode_pod(&f)).unwrap_or_default();
    let volumes = fields.take("volumes").map(|f| volumes(&f)).unwrap_or_default();
    let flag = |field: Option<Field<'_>>| field.and_then(|f| f.boolean()).unwrap_or(false);
    let host_network = flag(fields.take("hostNetwork"));
    let context = |init| Context { volumes: &volumes, security: &security, init, host_network };
    let inits = fields.take("initContainers").map(|f| f.items()).unwrap_or_default();
    let mains = fields.need("containers").map(|f| not_empty(&f)).unwrap_or_default();
    let init_containers: Vec<_> = inits.iter().filter_map(|f| container::decode(f, context(true))).collect();
    let containers: Vec<_> = mains.iter().filter_map(|f| container::decode(f, context(false))).collect();
    unique_names(inits.iter().chain(&mains));
    let restart = restart_policy(&mut fields);
    let grace = fields.take("terminationGracePeriodSeconds").map_or(Some(DEFAULT_GRACE), |f| {
        f.integer(0..=86_400_u32).map(|seconds| Duration::from_secs(u64::from(seconds)))
    });
    let hostname = fields.take("hostname").map_or(Some(String::new()), |f| name::label(&f));
    let share_process_namespace = flag(fields.take("shareProcessNamespace"));
    unsupported(&mut fields);
    fields.finish();
    Some(Pod {
        name: String::new(),
        namespace: String::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        hostname: hostname?,
        host_network,
        share_process_namespace,
        restart: restart?,
        grace: grace?,
        fs_group: security.fs_group,
        supplemental_groups: security.supplemental_groups.clone(),
        volumes,
        init_containers,
        containers,
    })
}

/// Kubernetes' own default is Always, which no run would ever end under; so the manifest must say.
fn restart_policy(fields: &mut Fields<'_>) -> Option<RestartPolicy> {
    let Some(field) = fields.take("restartPolicy") else {
        fields.missing(
            "restartPolicy",
            "must be stated: Never or OnFailure (Kubernetes' default is Always, and such a pod never ends)",
        );
        return None;
    };
    let policy = field.word(&[
        ("Never", Some(RestartPolicy::Never)),
        ("OnFailure", Some(RestartPolicy::OnFailure)),
        ("Always", None),
    ])?;
    if policy.is_none() {
        field.fault("Always is not supported: such a pod never ends; write Never or OnFailure");
    }
    policy
}

fn not_empty<'a>(field: &Field<'a>) -> Vec<Field<'a>> {
    let items = field.items();
    if items.is_empty() {
        field.fault("a pod has at least one container");
    }
    items
}

fn unique_names<'a, 'f: 'a>(containers: impl Iterator<Item = &'a Field<'f>>) {
    let mut seen = std::collections::BTreeSet::new();
    for container in containers {
        let mut fields = container.fields();
        let Some(field) = fields.take("name") else { continue };
        if let Some(name) = field.plain()
            && !seen.insert(name)
        {
            field.fault(format!("another container is called `{name}`"));
        }
    }
}

fn volumes(field: &Field<'_>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for item in field.items() {
        let Some(volume) = volume::decode(&item) else { continue };
        if volumes.iter().any(|other| other.name == volume.name) {
            item.fault(format!("another volume is called `{}`", volume.name));
        }
        volumes.push(volume);
    }
    volumes
}

/// The rest of PodSpec: what says nothing on one machine passes, what would change the run is refused.
fn unsupported(fields: &mut Fields<'_>) {
    fields.pass(&[
        "enableServiceLinks",
        "imagePullSecrets",
        "preemptionPolicy",
        "schedulerName",
        "tolerations",
        "topologySpreadConstraints",
    ]);
    if let Some(os) = fields.take("os") {
        let mut inner = os.fields();
        if let Some(name) = inner.need("name") {
            name.word(&[("linux", ())]);
        }
        inner.finish();
    }
    if let Some(policy) = fields.take("dnsPolicy") {
        let cluster =
            policy.word(&[("Default", false), ("ClusterFirst", true), ("ClusterFirstWithHostNet", true)]);
        if cluster == Some(true) {
            policy.fault("is not supported: there is no cluster DNS here; write Default for the resolver of this machine");
        }
    }
    if let Some(class) = fields.take("runtimeClassName")
        && let Some(name) = class.string()
        && name != "dunnage"
    {
        class.fault(format!("`{name}` is not supported: this is dunnage"));
    }
    let one_machine = "the pod runs on this machine; there is nothing to choose from";
    let account = "there is no API server to be known to";
    fields.refuse_true(&[
        ("automountServiceAccountToken", account),
        ("hostIPC", "containers share the pod's IPC namespace"),
        ("hostPID", "containers see the pod's processes at most (shareProcessNamespace)"),
        ("setHostnameAsFQDN", "the host name is `hostname`, or the name of the pod"),
    ]);
    if let Some(users) = fields.take("hostUsers")
        && users.boolean() == Some(false)
    {
        users.refuse("false is not supported: the pod has no user namespace of its own");
    }
    fields.refuse(&[
        ("activeDeadlineSeconds", "stop the run from outside, for example with timeout(1)"),
        ("affinity", one_machine),
        ("dnsConfig", "containers get the resolver of this machine"),
        ("ephemeralContainers", "they are added to running pods only"),
        ("hostAliases", "containers get a hosts file with the pod's own name"),
        ("hostnameOverride", "write `hostname`"),
        ("nodeName", one_machine),
        ("nodeSelector", one_machine),
        ("overhead", "it goes with a RuntimeClass"),
        ("priority", "there are no other pods to rank it with"),
        ("priorityClassName", "there are no other pods to rank it with"),
        ("readinessGates", "nothing here waits for a pod to be ready"),
        ("resourceClaims", "dynamic resource allocation needs a cluster"),
        ("resources", "write them at the containers"),
        ("schedulingGates", one_machine),
        ("serviceAccount", account),
        ("serviceAccountName", account),
        ("subdomain", "there is no cluster DNS here"),
        ("workloadRef", "there is no cluster"),
    ]);
}

#[cfg(test)]
mod tests;

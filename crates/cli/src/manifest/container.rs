//! One entry of `containers` or `initContainers`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dunnage_net::{HostPort, Protocol};

use super::expand::expand;
use super::field::{Field, Fields};
use super::name;
use super::resources::{self, Resources};
use super::security::{self, PodSecurity, Security};
use super::volume::{self, Volume, VolumeMount};
use super::yaml::Place;

/// A container to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// As written.
    pub(crate) image: String,
    /// Where, for faults that only its resolution finds.
    pub(crate) image_at: Place,
    /// Replaces the image's entry point; empty: the image's.
    pub(crate) command: Vec<String>,
    /// Replaces the image's arguments; empty: the image's.
    pub(crate) args: Vec<String>,
    /// In the order of the manifest, with `$(NAME)` expanded.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) resources: Resources,
    pub(crate) security: Security,
    pub(crate) mounts: Vec<VolumeMount>,
    pub(crate) ports: Vec<Port>,
}

/// A port the container says it listens on; only a host port opens anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    /// The port of the host that leads here.
    pub(crate) host: Option<HostPort>,
}

/// What a container of one pod is decoded with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) volumes: &'a [Volume],
    pub(super) security: &'a PodSecurity,
    pub(super) init: bool,
    pub(super) host_network: bool,
}

pub(super) fn decode(field: &Field<'_>, context: Context<'_>) -> Option<Container> {
    let mut fields = field.fields();
    let name = fields.need("name").and_then(|f| name::label(&f));
    let image = fields.need("image").and_then(|f| Some((f.name()?.to_owned(), f.at())));
    let env = fields.take("env").map(|f| environment(&f)).unwrap_or_default();
    let variables: BTreeMap<String, String> = env.iter().cloned().collect();
    let words = |field: Option<Field<'_>>| -> Vec<String> {
        field.map(|f| f.strings()).unwrap_or_default().iter().map(|word| expand(word, &variables)).collect()
    };
    let command = words(fields.take("command"));
    let args = words(fields.take("args"));
    let working_dir = fields.take("workingDir").and_then(|f| working_dir(&f));
    let resources = fields.take("resources").map(|f| resources::decode(&f)).unwrap_or_default();
    let security = match fields.take("securityContext") {
        Some(context_field) => security::decode_container(&context_field, context.security),
        None => context.security.defaults.clone(),
    };
    let mounts = fields.take("volumeMounts").map(|f| mounts(&f, context.volumes)).unwrap_or_default();
    let ports = fields.take("ports").map(|f| ports(&f, context.host_network)).unwrap_or_default();
    unsupported(&mut fields, context.init);
    fields.finish();
    let (image, image_at) = image?;
    Some(Container {
        name: name?,
        image,
        image_at,
        command,
        args,
        env,
        working_dir,
        resources,
        security,
        mounts,
        ports,
    })
}

/// Fields of Kubernetes that would change what runs, and the few that would not.
fn unsupported(fields: &mut Fields<'_>, init: bool) {
    if let Some(policy) = fields.take("imagePullPolicy")
        && policy.word(&[("Never", false), ("IfNotPresent", false), ("Always", true)]) == Some(true)
    {
        policy.fault("is not supported: images are local, nothing is pulled");
    }
    if let Some(policy) = fields.take("restartPolicy") {
        policy.refuse(if init {
            "is not supported: an init container here ends before the next one starts; make it a container"
        } else {
            "is not supported: the policy of the pod holds for all its containers"
        });
    }
    fields.refuse_true(&[
        ("stdin", "nothing is attached to the container's input"),
        ("stdinOnce", "nothing is attached to the container's input"),
        ("tty", "output goes to the terminal by lines, with the container's name"),
    ]);
    let probes = "nothing here probes containers; the pod ends when its containers end";
    fields.refuse(&[
        ("livenessProbe", probes),
        ("readinessProbe", probes),
        ("startupProbe", probes),
        ("lifecycle", "hooks are not run; containers get SIGTERM, the grace period, then SIGKILL"),
        ("envFrom", "there are no ConfigMaps and Secrets; write the variables under env"),
        ("volumeDevices", "volumes are emptyDir and hostPath here"),
        ("resizePolicy", "resources stay as they are for the run"),
        ("restartPolicyRules", "the policy of the pod holds for all its containers"),
        ("terminationMessagePath", "the log is the message"),
        ("terminationMessagePolicy", "the log is the message"),
    ]);
}

fn environment(field: &Field<'_>) -> Vec<(String, String)> {
    let mut known = BTreeMap::new();
    let mut list = Vec::new();
    for item in field.items() {
        let mut fields = item.fields();
        let name = fields.need("name");
        let value = fields.take("value");
        fields.refuse(&[("valueFrom", "write the value under `value`")]);
        fields.finish();
        let Some(name) = name.and_then(|f| variable_name(&f)) else { continue };
        let text = match value {
            Some(value) => match value.string() {
                Some(text) => expand(text, &known),
                None => continue,
            },
            None => String::new(),
        };
        known.insert(name.clone(), text.clone());
        list.push((name, text));
    }
    list
}

fn variable_name(field: &Field<'_>) -> Option<String> {
    let name = field.name()?;
    if !name.bytes().all(|b| b.is_ascii_graphic() && b != b'=') {
        field.fault(format!("`{name}` is no name of a variable: printable ASCII without `=`"));
        return None;
    }
    Some(name.to_owned())
}

fn working_dir(field: &Field<'_>) -> Option<String> {
    let path = field.name()?;
    if !path.starts_with('/') {
        field.fault(format!("`{path}` must be an absolute path"));
        return None;
    }
    Some(path.to_owned())
}

fn mounts(field: &Field<'_>, volumes: &[Volume]) -> Vec<VolumeMount> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for item in field.items() {
        let Some(mount) = volume::decode_mount(&item, volumes) else { continue };
        if mounts.iter().any(|other| other.path == mount.path) {
            item.fault(format!("`{}` already has a volume", mount.path));
        }
        mounts.push(mount);
    }
    mounts
}

fn ports(field: &Field<'_>, host_network: bool) -> Vec<Port> {
    field.items().iter().filter_map(|item| port(item, host_network)).collect()
}

fn port(item: &Field<'_>, host_network: bool) -> Option<Port> {
    let mut fields = item.fields();
    let number = fields.need("containerPort").and_then(|f| f.integer(1..=u16::MAX));
    let protocol = fields.take("protocol").map_or(Some(Protocol::Tcp), |f| {
        f.word(&[("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)])
    });
    let host_port = fields.take("hostPort").and_then(|f| f.integer(1..=u16::MAX));
    let host_ip = fields.take("hostIP").and_then(|f| address(&f));
    fields.pass(&["name"]);
    fields.finish();
    let (number, protocol) = (number?, protocol?);
    if host_network && host_port.is_some_and(|host_port| host_port != number) {
        item.fault("with hostNetwork the host port is the container's port");
    }
    let host = host_port.map(|host_port| HostPort { host_ip, host_port, container_port: number, protocol });
    Some(Port { number, protocol, host })
}

/// `0.0.0.0` and `::` are every address, which is also what saying nothing means.
fn address(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.string()?;
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address).filter(|address| !address.is_unspecified()),
        Err(_) => {
            field.fault(format!("`{text}` is no IP address"));
            None
        }
    }
}

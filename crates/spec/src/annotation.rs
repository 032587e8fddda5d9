//! The few annotations that have a meaning for a runtime.
//!
//! Annotations can come from image labels and pod authors (the containerd advisories of 2026): nothing here is
//! a path or a command, and what is not in this module has no effect.

use std::collections::BTreeMap;

/// `sandbox` for the pause container of a pod, `container` for the others.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Id of the pod sandbox, on all of its containers.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// Name of the pod.
pub const POD_NAME: &str = "io.kubernetes.cri.sandbox-name";
/// Kubernetes namespace of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// Uid of the pod.
pub const POD_UID: &str = "io.kubernetes.cri.sandbox-uid";
/// Name of the container in the pod's manifest.
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
/// Containers with the same value share one shim, as with containerd's shim for runc.
pub const GROUP: &str = "io.containerd.runc.v2.group";
/// The class of a container outside Kubernetes: `guaranteed`, `burstable` or `besteffort`.
pub const QOS_CLASS: &str = "io.dunnage.qos-class";

/// What containerd's CRI plugin says about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Its part in the pod.
    pub role: Role,
    /// Id of the pod sandbox.
    pub sandbox_id: String,
    /// Name in the manifest; a sandbox has none.
    pub container_name: Option<String>,
    /// The pod, as far as it is named (containerd 1.5 and later name it).
    pub pod: Pod,
}

/// Identity of a pod, for messages and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Name.
    pub name: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Uid; of a static pod a hash.
    pub uid: Option<String>,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds the namespaces: the pause container.
    Sandbox,
    /// Joins them.
    Container,
}

impl Kubernetes {
    /// What the annotations say; `None` when the container is no part of a pod.
    #[must_use]
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let value = |key| annotations.get(key).filter(|value| !value.is_empty()).cloned();
        let role = match annotations.get(CONTAINER_TYPE)?.as_str() {
            "sandbox" => Role::Sandbox,
            "container" => Role::Container,
            _ => return None,
        };
        let pod = Pod { name: value(POD_NAME), namespace: value(POD_NAMESPACE), uid: value(POD_UID) };
        let container_name = value(CONTAINER_NAME).filter(|_| role == Role::Container);
        Some(Self { role, sandbox_id: value(SANDBOX_ID)?, container_name, pod })
    }
}

/// The name under which containers share one shim: the group, else the pod's sandbox; `None` means alone.
#[must_use]
pub fn group(annotations: &BTreeMap<String, String>) -> Option<&str> {
    let value = |key| annotations.get(key).map(String::as_str).filter(|value| !value.is_empty());
    value(GROUP).or_else(|| value(SANDBOX_ID))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_container_of_a_pod_is_known_by_its_annotations() {
        let annotations = annotations(&[
            (CONTAINER_TYPE, "container"),
            (SANDBOX_ID, "s1"),
            (CONTAINER_NAME, "web"),
            (POD_NAME, "web-0"),
            (POD_NAMESPACE, "default"),
            (POD_UID, "u1"),
        ]);
        let pod =
            Pod { name: Some("web-0".into()), namespace: Some("default".into()), uid: Some("u1".into()) };
        let expected = Kubernetes {
            role: Role::Container,
            sandbox_id: "s1".into(),
            container_name: Some("web".into()),
            pod,
        };
        assert_eq!(Kubernetes::from_annotations(&annotations), Some(expected));
    }

    #[test]
    fn without_a_known_type_or_a_sandbox_it_is_no_part_of_a_pod() {
        for pairs in [
            &[][..],
            &[(SANDBOX_ID, "s1")],
            &[(CONTAINER_TYPE, "pod"), (SANDBOX_ID, "s1")],
            &[(CONTAINER_TYPE, "sandbox")],
            &[(CONTAINER_TYPE, "sandbox"), (SANDBOX_ID, "")],
        ] {
            assert_eq!(Kubernetes::from_annotations(&annotations(pairs)), None, "{pairs:?}");
        }
    }

    #[test]
    fn the_group_goes_before_the_sandbox() {
        assert_eq!(group(&annotations(&[(SANDBOX_ID, "s1"), (GROUP, "g")])), Some("g"));
        assert_eq!(group(&annotations(&[(SANDBOX_ID, "s1"), (GROUP, "")])), Some("s1"));
        assert_eq!(group(&annotations(&[])), None);
    }
}

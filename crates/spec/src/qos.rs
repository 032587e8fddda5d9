//! The pod's quality-of-service class, read from what reaches a runtime (nothing in CRI or OCI names it).
//!
//! Four kinds of evidence, best first: the cgroup path that the kubelet chose, an operator's annotation, the
//! out-of-memory score the kubelet computed, and the shape of the limits. Only the first is right for critical
//! pods and for pods with pod-level resources; what a class was taken from is kept beside it.

use std::collections::BTreeMap;

use crate::Spec;
use crate::annotation::{self, Kubernetes};
use crate::resources::{CgroupPath, Limit, Resources};

/// Kubernetes' classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// Requests equal limits.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// The word of the Kubernetes API: `Guaranteed`, `Burstable`, `BestEffort`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A class and what says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qos {
    /// The class.
    pub class: QosClass,
    /// What it was taken from.
    pub evidence: QosEvidence,
}

/// What a class was taken from, most trusted first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QosEvidence {
    /// The cgroup path or slice, as given.
    CgroupPath(String),
    /// The annotation [`annotation::QOS_CLASS`].
    Annotation,
    /// `process.oomScoreAdj` of a container that CRI made. -997 is Guaranteed or a node-critical pod.
    OomScoreAdj(i32),
    /// The shape of `linux.resources`; a Burstable pod can look like another class.
    Resources,
}

impl Qos {
    /// The class of a container, or `None` when nothing tells one: then no policy applies.
    #[must_use]
    pub fn of(spec: &Spec) -> Option<Self> {
        let kubernetes = Kubernetes::from_annotations(&spec.annotations).is_some();
        Self::from_cgroup_path(&spec.cgroup)
            .or_else(|| {
                let class = class_of_annotations(&spec.annotations)?;
                Some(Self { class, evidence: QosEvidence::Annotation })
            })
            // Outside Kubernetes the score is the user's own choice and says nothing about a class.
            .or_else(|| {
                Self::from_oom_score_adj(spec.process.as_ref()?.oom_score_adj?).filter(|_| kubernetes)
            })
            .or_else(|| {
                let derive = if kubernetes { class_of_kubernetes_resources } else { class_of_resources };
                Some(Self { class: derive(&spec.resources)?, evidence: QosEvidence::Resources })
            })
    }

    fn from_cgroup_path(cgroup: &CgroupPath) -> Option<Self> {
        let path = match cgroup {
            CgroupPath::Cgroupfs(path) => path.to_str()?,
            CgroupPath::Systemd { slice, .. } => slice,
        };
        let class = class_of_path(path)?;
        Some(Self { class, evidence: QosEvidence::CgroupPath(path.to_owned()) })
    }

    fn from_oom_score_adj(score: i32) -> Option<Self> {
        let class = class_of_oom_score_adj(score)?;
        Some(Self { class, evidence: QosEvidence::OomScoreAdj(score) })
    }
}

/// The class that a cgroup path or slice names, in the forms of both cgroup drivers; `None` when it is not the
/// kubelet's.
///
/// Words between `kubepods` and `pod…` decide, wherever those are: a cgroup root may stand before them (kind:
/// `kubelet-kubepods-burstable-pod….slice`), and KEP-5894 puts a level between them. A Guaranteed pod has no
/// word of its own. The uid is not looked at, since a static pod's is a hash.
#[must_use]
pub fn class_of_path(path: &str) -> Option<QosClass> {
    let components = path.split('/').map(|part| part.strip_suffix(".slice").unwrap_or(part));
    let words: Vec<&str> = components.flat_map(|part| part.split('-')).collect();
    let pod = words.iter().rposition(|word| word.starts_with("pod"))?;
    let root = words[..pod].iter().rposition(|&word| word == "kubepods")?;
    let between = &words[root + 1..pod];
    Some(if between.contains(&"besteffort") {
        QosClass::BestEffort
    } else if between.contains(&"burstable") {
        QosClass::Burstable
    } else {
        QosClass::Guaranteed
    })
}

/// The class that an operator gave by [`annotation::QOS_CLASS`]; an unknown word is none.
#[must_use]
pub fn class_of_annotations(annotations: &BTreeMap<String, String>) -> Option<QosClass> {
    match annotations.get(annotation::QOS_CLASS)?.to_ascii_lowercase().as_str() {
        "guaranteed" => Some(QosClass::Guaranteed),
        "burstable" => Some(QosClass::Burstable),
        "besteffort" => Some(QosClass::BestEffort),
        _ => None,
    }
}

/// The class for which the kubelet computes this `oom_score_adj`; `None` for the pause container's -998 and
/// for values it never gives.
#[must_use]
pub fn class_of_oom_score_adj(score: i32) -> Option<QosClass> {
    match score {
        -997 => Some(QosClass::Guaranteed),
        1000 => Some(QosClass::BestEffort),
        3..=999 => Some(QosClass::Burstable),
        _ => None,
    }
}

/// The class that limits set by the kubelet look like. It always sends shares, 2 when nothing was requested.
#[must_use]
pub fn class_of_kubernetes_resources(resources: &Resources) -> Option<QosClass> {
    let cpu_limited = matches!(resources.cpu.quota_us, Some(Limit::To(_)));
    let memory_limited = matches!(resources.memory.limit, Some(Limit::To(_)));
    match resources.cpu.shares? {
        2 if !cpu_limited && !memory_limited => Some(QosClass::BestEffort),
        _ if memory_limited && cpu_limited && shares_equal_quota(resources) => Some(QosClass::Guaranteed),
        _ => Some(QosClass::Burstable),
    }
}

/// The class that limits outside Kubernetes look like; `None` when there are none, since a user who asks for
/// nothing does not expect the class that is stopped first.
#[must_use]
pub fn class_of_resources(resources: &Resources) -> Option<QosClass> {
    let (cpu, memory) = (&resources.cpu, &resources.memory);
    let limited = |limit: Option<Limit>| matches!(limit, Some(Limit::To(_)));
    let reserved_in_full = memory.reservation.is_none() || memory.reservation == memory.limit;
    let shared_in_full = cpu.shares.is_none() || shares_equal_quota(resources);
    if limited(memory.limit) && limited(cpu.quota_us) && reserved_in_full && shared_in_full {
        return Some(QosClass::Guaranteed);
    }
    let asks = limited(memory.limit)
        || limited(memory.reservation)
        || limited(cpu.quota_us)
        || cpu.shares.is_some()
        || cpu.cpus.is_some()
        || cpu.mems.is_some();
    asks.then_some(QosClass::Burstable)
}

// 1024 shares are one processor; the kubelet rounds both numbers down from the same quantity, hence the 1 %.
fn shares_equal_quota(resources: &Resources) -> bool {
    let (Some(shares), Some(Limit::To(quota))) = (resources.cpu.shares, resources.cpu.quota_us) else {
        return false;
    };
    let expected = u128::from(quota) * 1024 / u128::from(resources.cpu.period_us.unwrap_or(100_000));
    expected.abs_diff(u128::from(shares)) * 100 <= expected.max(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Cpu, Memory};

    #[test]
    fn the_path_of_either_driver_names_the_class() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (path, class) in [
            ("/kubepods/pod1b2c-3d/abc", Some(Guaranteed)),
            ("/kubepods/burstable/pod1b2c-3d/abc", Some(Burstable)),
            ("/kubepods/besteffort/pod1b2c-3d/abc", Some(BestEffort)),
            ("kubepods-pod1b2c_3d.slice", Some(Guaranteed)),
            ("kubepods-burstable-pod1b2c_3d.slice", Some(Burstable)),
            ("kubepods-besteffort-pod1b2c_3d.slice", Some(BestEffort)),
            // The full path after expansion names the class more than once.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-x.scope",
                Some(Burstable),
            ),
            ("/kubepods.slice/kubepods-pod1.slice/cri-containerd-x.scope", Some(Guaranteed)),
            // kind's cgroup root, in both drivers.
            ("kubelet-kubepods-besteffort-pod1.slice", Some(BestEffort)),
            ("/kubelet/kubepods/burstable/pod1/abc", Some(Burstable)),
            // A static pod's uid is a hash.
            ("/kubepods/burstable/pod0123456789abcdef0123456789abcdef/abc", Some(Burstable)),
            // KEP-5894.
            ("/kubepods/system/pod1/abc", Some(Guaranteed)),
            ("/kubepods/system/besteffort/pod1/abc", Some(BestEffort)),
            ("kubepods-system-burstable-pod1.slice", Some(Burstable)),
            // A node inside a pod of another cluster: the inner kubelet's words count.
            ("/kubepods/burstable/podA/c1/kubelet/kubepods/besteffort/podB/c2", Some(BestEffort)),
            ("/default/abc", None),
            ("/kubepods/burstable", None),
            ("system.slice", None),
            ("/podman/pod1", None),
            ("", None),
        ] {
            assert_eq!(class_of_path(path), class, "{path}");
        }
    }

    #[test]
    fn the_oom_score_names_the_class_the_kubelet_computed_it_for() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (score, class) in [
            (-999, None),
            (-998, None),
            (-997, Some(Guaranteed)),
            (0, None),
            (2, None),
            (3, Some(Burstable)),
            (999, Some(Burstable)),
            (1000, Some(BestEffort)),
        ] {
            assert_eq!(class_of_oom_score_adj(score), class, "{score}");
        }
    }

    fn resources(shares: Option<u64>, quota: Option<u64>, memory: Option<u64>) -> Resources {
        Resources {
            cpu: Cpu { shares, quota_us: quota.map(Limit::To), period_us: Some(100_000), ..Cpu::default() },
            memory: Memory { limit: memory.map(Limit::To), ..Memory::default() },
            ..Resources::default()
        }
    }

    #[test]
    fn the_shape_of_the_limits_names_a_class() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (shares, quota, memory, in_kubernetes, outside) in [
            (Some(2), None, None, Some(BestEffort), Some(Burstable)),
            (Some(512), Some(50_000), Some(1 << 20), Some(Guaranteed), Some(Guaranteed)),
            // 333 m: 340 shares, and 33300 / 100000 of a period is 340.99.
            (Some(340), Some(33_300), Some(1 << 20), Some(Guaranteed), Some(Guaranteed)),
            (Some(102), Some(50_000), Some(1 << 20), Some(Burstable), Some(Burstable)),
            (Some(2), None, Some(1 << 20), Some(Burstable), Some(Burstable)),
            (None, Some(50_000), Some(1 << 20), None, Some(Guaranteed)),
            (None, None, Some(1 << 20), None, Some(Burstable)),
            (None, None, None, None, None),
        ] {
            let resources = resources(shares, quota, memory);
            let derived = (class_of_kubernetes_resources(&resources), class_of_resources(&resources));
            assert_eq!(derived, (in_kubernetes, outside), "{shares:?} {quota:?} {memory:?}");
        }
    }
}

//! What the kubelet computes from a pod before a runtime sees it: CPU shares and quota, memory limits, the OOM
//! score and the cgroup of the pod. Sources: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`.

use dunnage_spec::QosClass;

use crate::manifest::{Amounts, Container, Pod, Resources};
use crate::quantity::Quantity;

/// Length of a CPU period, in microseconds.
pub(crate) const CPU_PERIOD_US: i64 = 100_000;
/// Score of a container that holds a pod's namespaces, from containerd.
pub(crate) const SANDBOX_OOM_SCORE_ADJ: i32 = -998;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_US: i64 = 1000;

/// Limits of one cgroup, in the terms of cgroup v1 that OCI uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CgroupLimits {
    pub(crate) cpu_shares: i64,
    /// Microseconds in a period of [`CPU_PERIOD_US`].
    pub(crate) cpu_quota_us: Option<i64>,
    /// Bytes.
    pub(crate) memory: Option<i64>,
}

/// The limits of one container: what it asks for becomes shares, what it may use becomes quota and memory.
pub(crate) fn container_limits(resources: &Resources) -> CgroupLimits {
    CgroupLimits {
        cpu_shares: shares(resources.cpu.request.map_or(0, Quantity::millis)),
        cpu_quota_us: quota_us(resources.cpu.limit.map_or(0, Quantity::millis)),
        memory: resources.memory.limit.map(Quantity::whole).filter(|bytes| *bytes > 0),
    }
}

/// The limits of the pod's own cgroup. A resource is limited there only when every container limits it.
pub(crate) fn pod_limits(pod: &Pod) -> CgroupLimits {
    if pod.qos_class() == QosClass::BestEffort {
        return CgroupLimits { cpu_shares: MIN_SHARES, cpu_quota_us: None, memory: None };
    }
    let cpu = whole_pod(pod, |resources| resources.cpu);
    let memory = whole_pod(pod, |resources| resources.memory);
    CgroupLimits {
        cpu_shares: shares(cpu.request.map_or(0, Quantity::millis)),
        cpu_quota_us: cpu.limit.and_then(|limit| quota_us(limit.millis())),
        memory: memory.limit.map(Quantity::whole).filter(|bytes| *bytes > 0),
    }
}

/// Containers run together, init containers one after another: the pod needs the larger of the two sums.
fn whole_pod(pod: &Pod, resource: impl Fn(&Resources) -> Amounts) -> Amounts {
    let amounts = |containers: &[Container]| -> Vec<Amounts> {
        containers.iter().map(|container| resource(&container.resources)).collect()
    };
    let (init, main) = (amounts(&pod.init_containers), amounts(&pod.containers));
    let positive = |amount: Option<Quantity>| amount.filter(|amount| amount.is_positive());
    let total = |pick: fn(&Amounts) -> Option<Quantity>| -> Quantity {
        let together: Quantity = main.iter().filter_map(pick).sum();
        init.iter().filter_map(pick).fold(together, Quantity::max)
    };
    let limited = main.iter().chain(&init).all(|amounts| positive(amounts.limit).is_some());
    Amounts {
        request: positive(Some(total(|amounts| amounts.request))),
        limit: limited.then(|| total(|amounts| amounts.limit)),
    }
}

fn shares(millis: i64) -> i64 {
    (millis.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota_us(millis: i64) -> Option<i64> {
    (millis > 0).then(|| (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_QUOTA_US))
}

/// Who is killed first when the machine runs out of memory: 1000 goes first. `node_memory` is in bytes.
pub(crate) fn oom_score_adj(class: QosClass, resources: &Resources, node_memory: u64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = i128::from(resources.memory.request.map_or(0, Quantity::whole));
            let score = 1000 - 1000 * request / i128::from(node_memory.max(1));
            // Never as safe as a Guaranteed pod, never as exposed as a BestEffort one.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The pod's cgroup below `root`, named as the kubelet names it with the cgroupfs driver.
pub(crate) fn cgroup_parent(root: &str, class: QosClass, uid: &str) -> String {
    let level = match class {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "/burstable",
        QosClass::BestEffort => "/besteffort",
    };
    format!("{root}/kubepods{level}/pod{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn pod(containers: &[&str], inits: &[&str]) -> Pod {
        let list = |names: &str, resources: &[&str]| -> String {
            let one = |(index, text): (usize, &&str)| {
                format!("    - {{name: {names}{index}, image: x, resources: {{{text}}}}}\n")
            };
            resources.iter().enumerate().map(one).collect()
        };
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: Never\n  containers:\n{}  \
             initContainers:\n{}",
            list("c", containers),
            if inits.is_empty() { "    []\n".to_owned() } else { list("i", inits) },
        );
        Pod::parse(Path::new("p"), &text).unwrap()
    }

    fn limits(resources: &str) -> CgroupLimits {
        container_limits(&pod(&[resources], &[]).containers[0].resources)
    }

    #[test]
    fn containers_get_the_shares_quota_and_memory_the_kubelet_gives() {
        let rows = [
            ("", 2, None, None),
            ("requests: {cpu: 1m}", 2, None, None),
            ("requests: {cpu: 100m}", 102, None, None),
            ("limits: {cpu: 500m}", 512, Some(50_000), None),
            ("requests: {cpu: 250m}, limits: {cpu: 2, memory: 64Mi}", 256, Some(200_000), Some(64 << 20)),
            ("limits: {cpu: 1m}", 2, Some(1000), None),
            ("requests: {cpu: 1000}", 262_144, None, None),
        ];
        for (resources, cpu_shares, cpu_quota_us, memory) in rows {
            assert_eq!(limits(resources), CgroupLimits { cpu_shares, cpu_quota_us, memory }, "{resources}");
        }
    }

    #[test]
    fn the_pod_is_limited_only_where_every_container_is() {
        let full = "limits: {cpu: 500m, memory: 64Mi}";
        let both = pod_limits(&pod(&[full, full], &[]));
        assert_eq!(
            both,
            CgroupLimits { cpu_shares: 1024, cpu_quota_us: Some(100_000), memory: Some(128 << 20) }
        );
        let one = pod_limits(&pod(&[full, "limits: {memory: 1Mi}"], &[]));
        assert_eq!(one, CgroupLimits { cpu_shares: 512, cpu_quota_us: None, memory: Some(65 << 20) });
        let none = pod_limits(&pod(&[""], &[]));
        assert_eq!(none, CgroupLimits { cpu_shares: 2, cpu_quota_us: None, memory: None });
        let init = pod_limits(&pod(&[full], &["limits: {cpu: 2, memory: 1Mi}"]));
        assert_eq!(
            init,
            CgroupLimits { cpu_shares: 2048, cpu_quota_us: Some(200_000), memory: Some(64 << 20) }
        );
    }

    #[test]
    fn the_score_is_the_one_of_the_class() {
        let resources =
            |memory: &str| pod(&[&format!("requests: {{memory: {memory}}}")], &[]).containers[0].resources;
        let gib = 1_u64 << 30;
        let burstable = |memory: &str| oom_score_adj(QosClass::Burstable, &resources(memory), 8 * gib);
        assert_eq!(
            (burstable("1Gi"), burstable("4Gi"), burstable("8Gi"), burstable("1Ki")),
            (875, 500, 3, 999)
        );
        assert_eq!(oom_score_adj(QosClass::Guaranteed, &resources("1Gi"), 8 * gib), -997);
        assert_eq!(oom_score_adj(QosClass::BestEffort, &resources("0"), 8 * gib), 1000);
    }

    #[test]
    fn the_path_of_the_cgroup_names_the_class() {
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let path = format!("{}/id", cgroup_parent("/dunnage", class, "1-2"));
            assert_eq!(dunnage_spec::qos::class_of_path(&path), Some(class), "{path}");
        }
        assert_eq!(
            cgroup_parent("/dunnage", QosClass::Burstable, "1-2"),
            "/dunnage/kubepods/burstable/pod1-2"
        );
    }
}

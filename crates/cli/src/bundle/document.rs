//! What the specs of a pod's containers have in common: identity, mounts, masked paths, devices, limits.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use dunnage_spec::{QosClass, annotation};
use serde_json::{Value, json};

use crate::kubelet::{CPU_PERIOD_US, CgroupLimits};
use crate::manifest::Pod;

/// The version of the runtime spec that the documents follow.
pub(super) const OCI_VERSION: &str = "1.2.0";

/// Facts of this machine that a spec depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Whether cgroup v2 is all there is.
    pub(crate) unified: bool,
    /// Whether swap is accounted, so that it can be limited.
    pub(crate) swap_accounting: bool,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Capabilities this process may give, as a mask.
    pub(crate) bounding: u64,
    /// Below this, an OOM score would be refused: a process without `CAP_SYS_RESOURCE` cannot lower it.
    pub(crate) lowest_oom_score_adj: i32,
}

/// The pod as its bundles see it.
#[derive(Debug, Clone)]
pub(crate) struct PodFrame<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) uid: &'a str,
    pub(crate) sandbox_id: &'a str,
    pub(crate) class: QosClass,
    /// Cgroup of the pod; containers are its children.
    pub(crate) cgroup_parent: &'a str,
    /// Where the pod's network namespace is pinned; absent with `hostNetwork`.
    pub(crate) netns: Option<&'a Path>,
    /// The host name containers see.
    pub(crate) hostname: &'a str,
    pub(crate) machine: Machine,
}

impl Machine {
    /// Looks at this machine.
    ///
    /// # Errors
    /// A file of /proc is missing or says something else than proc(5).
    pub(crate) fn look(unified: bool) -> anyhow::Result<Self> {
        let status = read("/proc/self/status")?;
        let capabilities = |name: &str| -> anyhow::Result<u64> {
            let mask = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            Ok(u64::from_str_radix(mask.trim(), 16)?)
        };
        let effective = capabilities("CapEff:").context("read CapEff of /proc/self/status")?;
        let own_score: i32 =
            read("/proc/self/oom_score_adj")?.trim().parse().context("read oom_score_adj")?;
        let swap_accounting = if unified {
            Path::new("/proc/swaps").exists()
        } else {
            Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        };
        Ok(Self {
            unified,
            swap_accounting,
            memory: total_memory(&read("/proc/meminfo")?).context("read MemTotal of /proc/meminfo")?,
            bounding: capabilities("CapBnd:").context("read CapBnd of /proc/self/status")?,
            lowest_oom_score_adj: if effective & CAP_SYS_RESOURCE != 0 { -1000 } else { own_score },
        })
    }
}

const CAP_SYS_RESOURCE: u64 = 1 << 24;

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

impl Machine {
    /// The nearest OOM score to `wanted` that this process may set.
    pub(crate) fn oom_score_adj(&self, wanted: i32) -> i32 {
        wanted.max(self.lowest_oom_score_adj)
    }
}

impl PodFrame<'_> {
    /// Annotations every container of the pod has.
    pub(super) fn annotations(&self, role: &str) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (annotation::CONTAINER_TYPE, role.to_owned()),
            (annotation::SANDBOX_ID, self.sandbox_id.to_owned()),
            (annotation::POD_NAME, self.pod.name.clone()),
            (annotation::POD_NAMESPACE, self.pod.namespace.clone()),
            (annotation::POD_UID, self.uid.to_owned()),
        ])
    }

    pub(super) fn cgroups_path(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup_parent)
    }
}

/// A mount of a spec.
pub(super) fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// A bind mount that hears nothing from the host, unless it is a slave.
pub(super) fn bind(destination: &str, source: &Path, options: &[&str]) -> Value {
    mount(destination, "bind", &source.to_string_lossy(), options)
}

/// The kernel's file systems, with the options containerd gives them.
pub(super) fn kernel_mounts() -> Vec<Value> {
    let quiet = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", "proc", &quiet),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

/// The container's own cgroup, to read.
pub(super) fn cgroup_mount() -> Value {
    mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
}

/// What /proc and /sys would tell about the host.
pub(super) const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What /proc would let a container change.
pub(super) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Nothing but the devices every container has (the list of runc).
pub(super) fn device_rules() -> Value {
    let allow = |major: u32, minor: Option<u32>| {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = minor.into();
        }
        rule
    };
    let known = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(known.map(|(major, minor)| allow(major, Some(minor))));
    // /dev/pts/*, whose numbers are not known beforehand.
    rules.push(allow(136, None));
    rules.into()
}

/// Limits as `linux.resources`.
pub(super) fn resources(limits: &CgroupLimits, machine: Machine) -> Value {
    let mut cpu = json!({"shares": limits.cpu_shares});
    if let Some(quota) = limits.cpu_quota_us {
        cpu["quota"] = quota.into();
        cpu["period"] = CPU_PERIOD_US.into();
    }
    let mut resources = json!({"devices": device_rules(), "cpu": cpu});
    if let Some(bytes) = limits.memory {
        resources["memory"] = json!({"limit": bytes});
        if machine.swap_accounting {
            // Memory and swap together, so no swap: the kubelet's NoSwap.
            resources["memory"]["swap"] = bytes.into();
        }
        if machine.unified {
            // One process killed for memory takes the container along, as the kubelet has it since 1.28.
            resources["unified"] = json!({"memory.oom.group": "1"});
        }
    }
    resources
}

/// The five capability sets of a container: nothing inheritable or ambient (CVE-2022-24769).
pub(super) fn capabilities(set: &std::collections::BTreeSet<String>) -> Value {
    json!({"bounding": set, "effective": set, "permitted": set})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_read_in_bytes() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::look(false).unwrap();
        assert!(machine.memory > 1 << 20 && machine.lowest_oom_score_adj <= 1000);
    }
}

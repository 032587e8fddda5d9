//! `config.json` as it is written: every member optional, numbers as Go prints them, nothing checked.
//!
//! Own shapes instead of the `oci-spec` crate for three reasons: its closed enums turn an unknown capability
//! into an error where the specification demands a warning; it has no `null` for lists, which Go writes for
//! every empty one; and the strings here move into the checked types without a copy, on the hot path of
//! create. Unknown members are ignored, as the specification demands ("Extensibility"); known ones that
//! dunnage does not act on are listed here so that the checks can refuse them by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) oci_version: Option<String>,
    pub(crate) process: Option<Process>,
    pub(crate) root: Option<Root>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) linux: Option<Linux>,
    pub(crate) vm: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Root {
    pub(crate) path: Option<String>,
    pub(crate) readonly: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hooks {
    pub(crate) prestart: Option<Vec<IgnoredAny>>,
    pub(crate) create_runtime: Option<Vec<IgnoredAny>>,
    pub(crate) create_container: Option<Vec<IgnoredAny>>,
    pub(crate) start_container: Option<Vec<IgnoredAny>>,
    pub(crate) poststart: Option<Vec<IgnoredAny>>,
    pub(crate) poststop: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) terminal: Option<bool>,
    pub(crate) console_size: Option<ConsoleSize>,
    pub(crate) user: Option<User>,
    pub(crate) args: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cwd: Option<String>,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) rlimits: Option<Vec<Rlimit>>,
    pub(crate) no_new_privileges: Option<bool>,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) scheduler: Option<IgnoredAny>,
    pub(crate) io_priority: Option<IgnoredAny>,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsoleSize {
    pub(crate) height: Option<u16>,
    pub(crate) width: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) umask: Option<u32>,
    pub(crate) additional_gids: Option<Vec<u32>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Capabilities {
    pub(crate) bounding: Option<Vec<String>>,
    pub(crate) effective: Option<Vec<String>>,
    pub(crate) inheritable: Option<Vec<String>>,
    pub(crate) permitted: Option<Vec<String>>,
    pub(crate) ambient: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rlimit {
    #[serde(rename = "type")]
    pub(crate) resource: Option<String>,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) destination: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) options: Option<Vec<String>>,
    pub(crate) uid_mappings: Option<Vec<IgnoredAny>>,
    pub(crate) gid_mappings: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Linux {
    pub(crate) uid_mappings: Option<Vec<IgnoredAny>>,
    pub(crate) gid_mappings: Option<Vec<IgnoredAny>>,
    pub(crate) sysctl: Option<BTreeMap<String, String>>,
    pub(crate) resources: Option<Resources>,
    pub(crate) cgroups_path: Option<String>,
    pub(crate) namespaces: Option<Vec<Namespace>>,
    pub(crate) devices: Option<Vec<Device>>,
    pub(crate) net_devices: Option<BTreeMap<String, IgnoredAny>>,
    pub(crate) seccomp: Option<Seccomp>,
    pub(crate) rootfs_propagation: Option<String>,
    pub(crate) masked_paths: Option<Vec<String>>,
    pub(crate) readonly_paths: Option<Vec<String>>,
    pub(crate) mount_label: Option<String>,
    pub(crate) intel_rdt: Option<Value>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) personality: Option<Personality>,
    pub(crate) time_offsets: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) path: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) file_mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: Option<String>,
    pub(crate) nodes: Option<String>,
    pub(crate) flags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Personality {
    pub(crate) domain: Option<String>,
    pub(crate) flags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seccomp {
    pub(crate) default_action: Option<String>,
    pub(crate) default_errno_ret: Option<u32>,
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) flags: Option<Vec<String>>,
    pub(crate) listener_path: Option<String>,
    pub(crate) syscalls: Option<Vec<Syscall>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Syscall {
    pub(crate) names: Option<Vec<String>>,
    pub(crate) action: Option<String>,
    pub(crate) errno_ret: Option<u32>,
    pub(crate) args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Argument {
    pub(crate) index: Option<u64>,
    pub(crate) value: Option<u64>,
    pub(crate) value_two: Option<u64>,
    pub(crate) op: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resources {
    pub(crate) devices: Option<Vec<DeviceRule>>,
    pub(crate) memory: Option<Memory>,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub(crate) block_io: Option<BlockIo>,
    pub(crate) hugepage_limits: Option<Vec<HugepageLimit>>,
    pub(crate) network: Option<Network>,
    pub(crate) rdma: Option<BTreeMap<String, IgnoredAny>>,
    pub(crate) unified: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DeviceRule {
    pub(crate) allow: Option<bool>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) access: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    pub(crate) limit: Option<i64>,
    pub(crate) reservation: Option<i64>,
    pub(crate) swap: Option<i64>,
    pub(crate) kernel: Option<i64>,
    #[serde(rename = "kernelTCP")]
    pub(crate) kernel_tcp: Option<i64>,
    pub(crate) swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub(crate) disable_oom_killer: Option<bool>,
    pub(crate) use_hierarchy: Option<bool>,
    pub(crate) check_before_update: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cpu {
    pub(crate) shares: Option<u64>,
    pub(crate) quota: Option<i64>,
    pub(crate) burst: Option<u64>,
    pub(crate) period: Option<u64>,
    pub(crate) realtime_runtime: Option<i64>,
    pub(crate) realtime_period: Option<u64>,
    pub(crate) cpus: Option<String>,
    pub(crate) mems: Option<String>,
    pub(crate) idle: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Pids {
    pub(crate) limit: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockIo {
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
    pub(crate) weight_device: Option<Vec<WeightDevice>>,
    pub(crate) throttle_read_bps_device: Option<Vec<ThrottleDevice>>,
    pub(crate) throttle_write_bps_device: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "throttleReadIOPSDevice")]
    pub(crate) throttle_read_iops_device: Option<Vec<ThrottleDevice>>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub(crate) throttle_write_iops_device: Option<Vec<ThrottleDevice>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WeightDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) weight: Option<u16>,
    pub(crate) leaf_weight: Option<u16>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ThrottleDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) rate: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HugepageLimit {
    pub(crate) page_size: Option<String>,
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Network {
    #[serde(rename = "classID")]
    pub(crate) class_id: Option<u32>,
    pub(crate) priorities: Option<Vec<IgnoredAny>>,
}

/// Whether a value asks for nothing: `null`, zero, false, or empty through and through.
pub(crate) fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(is_blank),
        Value::Object(members) => members.values().all(is_blank),
    }
}

//! `linux.resources` and `linux.cgroupsPath`, checked.

mod cgroup_path;
mod check;
mod device;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a container's cgroup is; the form of the path chooses the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// `/a/b/id`: directories made by dunnage, relative to the root of every hierarchy; absolute, without `..`.
    Cgroupfs(PathBuf),
    /// `slice:prefix:name`: a systemd scope `prefix-name.scope` in `slice`.
    Systemd {
        /// Such as `kubepods-burstable-pod1234.slice`; empty means `system.slice`.
        slice: String,
        /// Such as `cri-containerd`.
        prefix: String,
        /// Usually the container id.
        name: String,
    },
}

/// Limits; an absent value means "leave it as it is".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// CPU time and placement.
    pub cpu: Cpu,
    /// Memory and swap.
    pub memory: Memory,
    /// Number of tasks; `None` inside means unlimited.
    pub pids: Option<Limit>,
    /// Block devices.
    pub block_io: BlockIo,
    /// In order; later rules win.
    pub devices: Vec<DeviceRule>,
    /// Huge pages by page size, such as `2MB`.
    pub hugepages: Vec<(String, u64)>,
    /// Files of cgroup v2 by name, written last, value as it is.
    pub unified: BTreeMap<String, String>,
}

/// A number or no limit at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `max`, -1.
    Unlimited,
    /// In the unit of its field.
    To(u64),
}

/// `resources.cpu`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// v1 shares, 2 to 262144; converted to a weight on v2.
    pub shares: Option<u64>,
    /// Microseconds of CPU time per period.
    pub quota_us: Option<Limit>,
    /// Microseconds, 1000 to 1000000.
    pub period_us: Option<u64>,
    /// Microseconds that may be saved up.
    pub burst_us: Option<u64>,
    /// `SCHED_IDLE` for the group.
    pub idle: Option<bool>,
    /// CPU list, such as `0-3,7`.
    pub cpus: Option<String>,
    /// Memory node list.
    pub mems: Option<String>,
    /// v1 only: microseconds.
    pub realtime_runtime_us: Option<i64>,
    /// v1 only: microseconds.
    pub realtime_period_us: Option<u64>,
}

/// `resources.memory`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Hard limit.
    pub limit: Option<Limit>,
    /// Memory plus swap, as v1 counts it; never below `limit`.
    pub swap: Option<Limit>,
    /// Kept under pressure.
    pub reservation: Option<Limit>,
    /// v1 only, 0 to 100.
    pub swappiness: Option<u64>,
    /// v1 only: tasks wait instead of being killed.
    pub disable_oom_killer: bool,
    /// Refuse an update below the present usage.
    pub check_before_update: bool,
}

/// `resources.blockIO`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockIo {
    /// 10 to 1000.
    pub weight: Option<u16>,
    /// Per device.
    pub weight_devices: Vec<(DeviceNumber, u16)>,
    /// Bytes per second.
    pub read_bps: Vec<(DeviceNumber, u64)>,
    /// Bytes per second.
    pub write_bps: Vec<(DeviceNumber, u64)>,
    /// Operations per second.
    pub read_iops: Vec<(DeviceNumber, u64)>,
    /// Operations per second.
    pub write_iops: Vec<(DeviceNumber, u64)>,
}

/// Major and minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Instance.
    pub minor: u32,
}

/// One rule of the device list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allows or denies.
    pub allow: bool,
    /// Which nodes.
    pub kind: DeviceRuleKind,
    /// `None` is every major number.
    pub major: Option<u32>,
    /// `None` is every minor number.
    pub minor: Option<u32>,
    /// What.
    pub access: DeviceAccess,
}

/// Nodes a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRuleKind {
    /// `a`: both kinds, all numbers.
    All,
    /// `c`.
    Char,
    /// `b`.
    Block,
}

/// What a rule allows or denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceAccess {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `m`
    pub mknod: bool,
}

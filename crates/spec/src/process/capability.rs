//! Capability names and numbers (capabilities(7)).

use crate::json;
use crate::process::Capabilities;

/// In the order of their numbers, 0 to 40 (linux/capability.h of 6.18).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capabilities {
    /// Every name that dunnage knows, bit n being the n-th, for `features` and for messages.
    pub const NAMES: &'static [&'static str] = &NAMES;

    /// An unknown name is ignored and told: the specification wants a warning, not an error, for what the
    /// kernel does not have.
    pub(crate) fn check(sets: &json::Capabilities, warnings: &mut Vec<String>) -> Self {
        let mut set = |field: &str, names: &Option<Vec<String>>| {
            let mut mask = 0;
            for name in names.iter().flatten() {
                match NAMES.iter().position(|known| known == name) {
                    Some(number) => mask |= 1 << number,
                    None => warnings
                        .push(format!("process.capabilities.{field}: {name:?} is unknown and was ignored")),
                }
            }
            mask
        };
        Self {
            bounding: set("bounding", &sets.bounding),
            effective: set("effective", &sets.effective),
            inheritable: set("inheritable", &sets.inheritable),
            permitted: set("permitted", &sets.permitted),
            ambient: set("ambient", &sets.ambient),
        }
    }
}

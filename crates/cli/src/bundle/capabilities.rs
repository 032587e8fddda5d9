//! The capabilities of a container: the default set, and what the manifest adds and drops.

use std::collections::BTreeSet;

use oci_spec::runtime::Capability;

use crate::manifest::Security;

/// What a container has that asks for nothing (containerd's default).
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// All of them by their numbers in linux/capability.h.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Names as OCI writes them. `bounding` is the mask of what this process may give at all: `ALL` is all of
/// those, as in containerd.
pub(super) fn of(security: &Security, bounding: u64) -> BTreeSet<String> {
    let mut set: Vec<Capability> = if security.add.all {
        let held = |(number, _): &(usize, &Capability)| bounding >> number & 1 == 1;
        BY_NUMBER.iter().enumerate().filter(held).map(|(_, capability)| *capability).collect()
    } else {
        DEFAULT.to_vec()
    };
    if security.drop.all {
        set.clear();
    }
    set.extend(&security.add.named);
    set.retain(|capability| !security.drop.named.contains(capability));
    set.iter().map(|capability| format!("CAP_{capability}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::CapabilityList;

    fn names(add: CapabilityList, drop: CapabilityList) -> Vec<String> {
        of(&Security { add, drop, ..Security::default() }, 0b1111).into_iter().collect()
    }

    fn only(named: &[Capability]) -> CapabilityList {
        CapabilityList { all: false, named: named.to_vec() }
    }

    #[test]
    fn adding_and_dropping_start_from_the_default_set() {
        let all = || CapabilityList { all: true, named: Vec::new() };
        let none = CapabilityList::default;
        assert_eq!(names(none(), none()).len(), 14);
        assert_eq!(names(none(), all()), Vec::<String>::new());
        assert_eq!(names(only(&[Capability::NetBindService]), all()), ["CAP_NET_BIND_SERVICE"]);
        assert!(!names(none(), only(&[Capability::NetRaw])).contains(&"CAP_NET_RAW".to_owned()));
        // No more than this process has.
        assert_eq!(names(all(), none()).len(), 4);
        assert_eq!(names(all(), only(&[Capability::Chown])).len(), 3);
    }
}

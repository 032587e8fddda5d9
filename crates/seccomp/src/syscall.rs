//! Names of system calls to their numbers, and the calls that x86 also reaches through a multiplexer.

use std::ops::Range;

use dunnage_spec::seccomp::{Arch, Condition, Operator};

use crate::table::TABLE;

/// The numbers of one name; [`NONE`] where an architecture does not have the call.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    numbers: [u32; 5],
}

/// No call has this number: it is what a tracer sets to skip one.
pub(crate) const NONE: u32 = u32::MAX;

/// Set in the numbers of x32 calls, which otherwise come with the architecture of x86-64.
pub(crate) const X32: u32 = 0x4000_0000;

pub(crate) const fn row(name: &'static str, x86_64: u32, x32: u32, x86: u32, aarch64: u32, arm: u32) -> Row {
    Row { name, numbers: [x86_64, x32, x86, aarch64, arm] }
}

/// The number of the call `name` on `arch`, for x32 with its bit; `None` when there is no such call.
#[must_use]
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    let column = match arch {
        Arch::X86_64 => 0,
        Arch::X32 => 1,
        Arch::X86 => 2,
        Arch::Aarch64 => 3,
        Arch::Arm => 4,
    };
    let row = TABLE.binary_search_by(|row| row.name.cmp(name)).ok()?;
    Some(TABLE[row].numbers[column]).filter(|&number| number != NONE)
}

/// Whether any architecture has a call of this name.
pub(crate) fn is_known(name: &str) -> bool {
    TABLE.binary_search_by(|row| row.name.cmp(name)).is_ok() || multiplexed(name, Arch::X86).is_some()
}

/// Numbers that are no part of the row in which new calls are added.
pub(crate) fn reserved(arch: Arch) -> Range<u32> {
    match arch {
        // asm/unistd.h: the calls private to ARM, such as set_tls.
        Arch::Arm => 0xf_0000..0x10_0000,
        // syscall_64.tbl: x32's own entries of calls that x86-64 has as well.
        Arch::X32 => X32 + 512..X32 + 548,
        Arch::X86 | Arch::X86_64 | Arch::Aarch64 => 0..0,
    }
}

/// The multiplexer through which `arch` also reaches the call `name`, and the condition that it is this call.
pub(crate) fn multiplexed(name: &str, arch: Arch) -> Option<(u32, Condition)> {
    if arch != Arch::X86 {
        return None;
    }
    // linux/net.h, linux/ipc.h.
    if let Some(call) = SOCKET_CALLS.iter().position(|&call| call == name) {
        let operator = Operator::Equal;
        return Some((102, Condition { argument: 0, operator, value: call as u64 + 1, value_two: 0 }));
    }
    let (_, call) = IPC_CALLS.iter().find(|(call, _)| *call == name)?;
    // The upper half of the argument is a version that the kernel takes off.
    let operator = Operator::MaskedEqual;
    Some((117, Condition { argument: 0, operator, value: 0xffff, value_two: *call }))
}

/// In the order of their numbers, from 1.
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_without_duplicates() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn no_two_names_have_one_number_except_the_known_alias() {
        for column in 0..5 {
            let mut numbers: Vec<_> = TABLE.iter().map(|row| (row.numbers[column], row.name)).collect();
            numbers.retain(|(number, _)| *number != NONE);
            numbers.sort_unstable();
            for pair in numbers.windows(2) {
                let alias = pair[1].1 == "sync_file_range2" && pair[0].1 == "arm_sync_file_range";
                assert!(pair[0].0 != pair[1].0 || alias, "{pair:?}");
            }
        }
    }

    #[test]
    fn well_known_calls_have_their_numbers() {
        for (name, arch, expected) in [
            ("read", Arch::X86_64, Some(0)),
            ("execve", Arch::X86_64, Some(59)),
            ("execve", Arch::X32, Some(X32 + 520)),
            ("execve", Arch::X86, Some(11)),
            ("execve", Arch::Aarch64, Some(221)),
            ("execve", Arch::Arm, Some(11)),
            ("set_tls", Arch::Arm, Some(0xf_0005)),
            ("mseal", Arch::Aarch64, Some(462)),
            ("open", Arch::Aarch64, None),
            ("uretprobe", Arch::X86_64, Some(335)),
            ("no_such_call", Arch::X86_64, None),
        ] {
            assert_eq!(number(name, arch), expected, "{name} on {arch:?}");
        }
    }

    #[test]
    fn only_x86_has_multiplexers() {
        assert_eq!(multiplexed("socket", Arch::X86_64), None);
        let (number, condition) = multiplexed("shmat", Arch::X86).unwrap();
        assert_eq!((number, condition.value_two), (117, 21));
        assert_eq!(multiplexed("accept4", Arch::X86).unwrap().1.value, 18);
        assert!(is_known("send"));
    }
}

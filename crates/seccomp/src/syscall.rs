//! Names of system calls to their numbers, and the calls that x86 also reaches through a multiplexer.

use std::ops::Range;

use dunnage_spec::seccomp::{Arch, Condition, Operator};

use crate::row::{NONE, X32};
use crate::table::TABLE;

/// The number of the call `name` on `arch`, for x32 with its bit; `None` when there is no such call.
#[must_use]
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    Call::named(name)?.number(arch)
}

/// One call on every architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    numbers: [u32; 5],
    multiplexed: Option<(u32, Condition)>,
}

impl Call {
    /// `None` when no architecture has a call of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let row = TABLE.binary_search_by(|row| row.name.cmp(name)).ok();
        let numbers = row.map(|row| TABLE[row].numbers);
        let multiplexed = multiplexed(name);
        (numbers.is_some() || multiplexed.is_some())
            .then(|| Self { numbers: numbers.unwrap_or([NONE; 5]), multiplexed })
    }

    /// Its number on `arch`, for x32 with its bit.
    pub(crate) fn number(&self, arch: Arch) -> Option<u32> {
        let column = match arch {
            Arch::X86_64 => 0,
            Arch::X32 => 1,
            Arch::X86 => 2,
            Arch::Aarch64 => 3,
            Arch::Arm => 4,
        };
        Some(self.numbers[column]).filter(|&number| number != NONE)
    }

    /// The multiplexer through which `arch` also reaches it, and the condition that it is this call.
    pub(crate) fn multiplexed(&self, arch: Arch) -> Option<(u32, Condition)> {
        self.multiplexed.filter(|_| arch == Arch::X86)
    }
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

fn multiplexed(name: &str) -> Option<(u32, Condition)> {
    let call = MULTIPLEXED.binary_search_by(|(call, ..)| call.cmp(&name)).ok()?;
    let (_, multiplexer, value) = MULTIPLEXED[call];
    let condition = match multiplexer {
        Multiplexer::Socketcall => Condition { argument: 0, operator: Operator::Equal, value, value_two: 0 },
        // The upper half of the argument is a version that the kernel takes off.
        Multiplexer::Ipc => {
            Condition { argument: 0, operator: Operator::MaskedEqual, value: 0xffff, value_two: value }
        }
    };
    Some((multiplexer as u32, condition))
}

/// The multiplexers of x86, by their numbers.
#[derive(Debug, Clone, Copy)]
enum Multiplexer {
    Socketcall = 102,
    Ipc = 117,
}

/// What the first argument of a multiplexer selects (linux/net.h, linux/ipc.h), sorted by name.
#[rustfmt::skip]
const MULTIPLEXED: [(&str, Multiplexer, u64); 32] = {
    use Multiplexer::{Ipc, Socketcall};
    [
        ("accept", Socketcall, 5),
        ("accept4", Socketcall, 18),
        ("bind", Socketcall, 2),
        ("connect", Socketcall, 3),
        ("getpeername", Socketcall, 7),
        ("getsockname", Socketcall, 6),
        ("getsockopt", Socketcall, 15),
        ("listen", Socketcall, 4),
        ("msgctl", Ipc, 14),
        ("msgget", Ipc, 13),
        ("msgrcv", Ipc, 12),
        ("msgsnd", Ipc, 11),
        ("recv", Socketcall, 10),
        ("recvfrom", Socketcall, 12),
        ("recvmmsg", Socketcall, 19),
        ("recvmsg", Socketcall, 17),
        ("semctl", Ipc, 3),
        ("semget", Ipc, 2),
        ("semop", Ipc, 1),
        ("semtimedop", Ipc, 4),
        ("send", Socketcall, 9),
        ("sendmmsg", Socketcall, 20),
        ("sendmsg", Socketcall, 16),
        ("sendto", Socketcall, 11),
        ("setsockopt", Socketcall, 14),
        ("shmat", Ipc, 21),
        ("shmctl", Ipc, 24),
        ("shmdt", Ipc, 22),
        ("shmget", Ipc, 23),
        ("shutdown", Socketcall, 13),
        ("socket", Socketcall, 1),
        ("socketpair", Socketcall, 8),
    ]
};

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
        let multiplexed = |name, arch| Call::named(name).unwrap().multiplexed(arch);
        assert_eq!(multiplexed("socket", Arch::X86_64), None);
        assert_eq!(multiplexed("read", Arch::X86), None);
        let (number, condition) = multiplexed("shmat", Arch::X86).unwrap();
        assert_eq!((number, condition.value_two), (117, 21));
        assert_eq!(multiplexed("accept4", Arch::X86).unwrap().1.value, 18);
    }

    #[test]
    fn every_multiplexed_call_is_found() {
        for (name, ..) in MULTIPLEXED {
            assert!(multiplexed(name).is_some(), "{name}");
        }
        assert_eq!(number("send", Arch::X86), None);
        assert!(Call::named("send").is_some() && Call::named("no_such_call").is_none());
    }
}

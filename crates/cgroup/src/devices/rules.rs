//! Device rules as a list in order, and as cgroup v1 keeps them: a default with exceptions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dunnage_spec::resources::{DeviceAccess, DeviceRule, DeviceRuleKind};

use crate::error::{Error, Result};

const ALL: DeviceAccess = DeviceAccess { read: true, write: true, mknod: true };
const MKNOD: DeviceAccess = DeviceAccess { read: false, write: false, mknod: true };

const fn allow(
    kind: DeviceRuleKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
) -> DeviceRule {
    DeviceRule { allow: true, kind, major, minor, access }
}

/// What every container may do, as runc and crun have it: make any node, use the harmless ones.
const DEFAULTS: [DeviceRule; 11] = {
    use DeviceRuleKind::{Block, Char};
    [
        allow(Char, None, None, MKNOD),
        allow(Block, None, None, MKNOD),
        allow(Char, Some(1), Some(3), ALL),    // null
        allow(Char, Some(1), Some(5), ALL),    // zero
        allow(Char, Some(1), Some(7), ALL),    // full
        allow(Char, Some(1), Some(8), ALL),    // random
        allow(Char, Some(1), Some(9), ALL),    // urandom
        allow(Char, Some(5), Some(0), ALL),    // tty
        allow(Char, Some(5), Some(2), ALL),    // ptmx
        allow(Char, Some(136), None, ALL),     // pts/*
        allow(Char, Some(10), Some(200), ALL), // net/tun
    ]
};

/// The spec's rules and after them [`DEFAULTS`].
pub(super) fn with_defaults(user: &[DeviceRule]) -> Vec<DeviceRule> {
    user.iter().chain(&DEFAULTS).copied().collect()
}

/// Access as the kernel's bits (`BPF_DEVCG_ACC_*`).
pub(super) fn bits(access: DeviceAccess) -> i32 {
    i32::from(access.mknod) | i32::from(access.read) << 1 | i32::from(access.write) << 2
}

/// A rule about every device and every access.
pub(super) fn is_everything(rule: &DeviceRule) -> bool {
    rule.kind == DeviceRuleKind::All && rule.major.is_none() && rule.minor.is_none() && rule.access == ALL
}

/// `c` or `b`, numbers; ordered so that the lines come out the same every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Pattern {
    fn covers(self, other: Self) -> bool {
        let one = |mine: Option<u32>, its: Option<u32>| mine.is_none() || mine == its;
        self.kind == other.kind && one(self.major, other.major) && one(self.minor, other.minor)
    }

    fn overlaps(self, other: Self) -> bool {
        let one = |mine: Option<u32>, its: Option<u32>| mine.is_none() || its.is_none() || mine == its;
        self.kind == other.kind && one(self.major, other.major) && one(self.minor, other.minor)
    }
}

/// The state of a v1 devices cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    allow: bool,
    /// What is not as the default says.
    exceptions: BTreeMap<Pattern, DeviceAccess>,
}

impl List {
    /// # Errors
    /// [`Error::Invalid`] for a rule that takes a part out of an exception with wildcards: v1 cannot say that.
    pub(super) fn fold(rules: &[DeviceRule]) -> Result<Self> {
        let mut list = Self { allow: false, exceptions: BTreeMap::new() };
        for rule in rules {
            list.add(rule)?;
        }
        Ok(list)
    }

    fn add(&mut self, rule: &DeviceRule) -> Result<()> {
        if is_everything(rule) {
            self.allow = rule.allow;
            self.exceptions.clear();
            return Ok(());
        }
        let kinds: &[char] = match rule.kind {
            DeviceRuleKind::All => &['b', 'c'],
            DeviceRuleKind::Char => &['c'],
            DeviceRuleKind::Block => &['b'],
        };
        for kind in kinds {
            let pattern = Pattern { kind: *kind, major: rule.major, minor: rule.minor };
            if rule.allow == self.allow {
                self.take_out(pattern, rule)?;
            } else {
                self.except(pattern, rule.access);
            }
        }
        Ok(())
    }

    fn except(&mut self, pattern: Pattern, access: DeviceAccess) {
        let nothing = DeviceAccess { read: false, write: false, mknod: false };
        let now = self.exceptions.entry(pattern).or_insert(nothing);
        *now = DeviceAccess {
            read: now.read || access.read,
            write: now.write || access.write,
            mknod: now.mknod || access.mknod,
        };
    }

    fn take_out(&mut self, pattern: Pattern, rule: &DeviceRule) -> Result<()> {
        for (exception, access) in &mut self.exceptions {
            if !pattern.overlaps(*exception) || bits(*access) & bits(rule.access) == 0 {
                continue;
            }
            if !pattern.covers(*exception) {
                let (new, old) = (line(pattern, rule.access), line(*exception, *access));
                return Err(Error::Invalid(format!(
                    "device rule {new} takes a part out of {old}, which cgroup v1 cannot express"
                )));
            }
            access.read &= !rule.access.read;
            access.write &= !rule.access.write;
            access.mknod &= !rule.access.mknod;
        }
        self.exceptions.retain(|_, access| bits(*access) != 0);
        Ok(())
    }

    /// What to write to `devices.allow` (true) and `devices.deny` in a directory that has its parent's list.
    pub(super) fn lines(&self) -> impl Iterator<Item = (bool, String)> {
        let everything = (self.allow, "a".to_owned());
        let exceptions = self.exceptions.iter();
        std::iter::once(everything)
            .chain(exceptions.map(|(pattern, access)| (!self.allow, line(*pattern, *access))))
    }
}

fn line(pattern: Pattern, access: DeviceAccess) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let mut line = format!("{} {}:{} ", pattern.kind, number(pattern.major), number(pattern.minor));
    for (letter, has) in [('r', access.read), ('w', access.write), ('m', access.mknod)] {
        if has {
            // Writing to a String does not fail.
            let _ = line.write_char(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY_ALL: DeviceRule =
        DeviceRule { allow: false, kind: DeviceRuleKind::All, major: None, minor: None, access: ALL };

    #[test]
    fn containerds_deny_all_becomes_the_default_list() {
        let list = List::fold(&with_defaults(&[DENY_ALL])).unwrap();
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines[0], (false, "a".to_owned()));
        assert_eq!(lines.len(), 12);
        assert!(lines.contains(&(true, "c 1:3 rwm".to_owned())));
        assert!(lines.contains(&(true, "c 136:* rwm".to_owned())));
        assert!(lines.contains(&(true, "b *:* m".to_owned())));
    }

    #[test]
    fn a_privileged_container_is_one_line() {
        let everything = DeviceRule { allow: true, ..DENY_ALL };
        let list = List::fold(&with_defaults(&[DENY_ALL, everything])).unwrap();
        assert_eq!(list.lines().collect::<Vec<_>>(), [(true, "a".to_owned())]);
    }

    #[test]
    fn denying_what_was_allowed_before_takes_it_back() {
        let kvm = allow(DeviceRuleKind::Char, Some(10), Some(232), ALL);
        let read_only = DeviceRule {
            allow: false,
            access: DeviceAccess { read: false, write: true, mknod: true },
            ..kvm
        };
        let list = List::fold(&[DENY_ALL, kvm, read_only]).unwrap();
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines, [(false, "a".to_owned()), (true, "c 10:232 r".to_owned())]);
    }

    #[test]
    fn what_v1_cannot_express_is_refused_by_name() {
        let ttys = allow(DeviceRuleKind::Char, Some(4), None, ALL);
        let not_this = DeviceRule { allow: false, minor: Some(7), ..ttys };
        let error = List::fold(&[DENY_ALL, ttys, not_this]).unwrap_err();
        assert!(error.to_string().contains("c 4:7 rwm takes a part out of c 4:* rwm"), "{error}");
    }

    #[test]
    fn exceptions_of_an_allowing_list_are_denied() {
        let everything = DeviceRule { allow: true, ..DENY_ALL };
        let sda = DeviceRule { allow: false, ..allow(DeviceRuleKind::Block, Some(8), Some(0), ALL) };
        let list = List::fold(&with_defaults(&[everything, sda])).unwrap();
        // Making nodes is what every container may do, and it comes last.
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(lines, [(true, "a".to_owned()), (false, "b 8:0 rw".to_owned())]);
    }
}

//! Checks device numbers and the rules of the device list.

use crate::error::{Checked, invalid};
use crate::json;
use crate::resources::{DeviceAccess, DeviceNumber, DeviceRule, DeviceRuleKind};

// The kernel's dev_t has 12 and 20 bits; more would be cut off and name another device.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

impl DeviceNumber {
    pub(crate) fn check(major: i64, minor: i64) -> Checked<Self> {
        Ok(Self { major: part("major", major, MAJOR_MAX)?, minor: part("minor", minor, MINOR_MAX)? })
    }
}

fn part(field: &str, number: i64, max: u32) -> Checked<u32> {
    match u32::try_from(number) {
        Ok(number) if number <= max => Ok(number),
        _ => invalid(field, format!("{number} is not between 0 and {max}")),
    }
}

pub(super) fn rule(rule: &json::DeviceRule) -> Checked<DeviceRule> {
    let kind = kind(rule.kind.as_deref().unwrap_or_default())?;
    let major = wildcard("major", rule.major, MAJOR_MAX)?;
    let minor = wildcard("minor", rule.minor, MINOR_MAX)?;
    // The kernel of cgroup v1 ignores the numbers of `a`: the rule would be wider than it reads.
    if kind == DeviceRuleKind::All && (major.is_some() || minor.is_some()) {
        return invalid("type", "a rule for all kinds of devices cannot have numbers");
    }
    let access = access(rule.access.as_deref().unwrap_or_default())?;
    Ok(DeviceRule { allow: rule.allow.unwrap_or(false), kind, major, minor, access })
}

fn kind(word: &str) -> Checked<DeviceRuleKind> {
    match word {
        "" | "a" => Ok(DeviceRuleKind::All),
        "c" | "u" => Ok(DeviceRuleKind::Char),
        "b" => Ok(DeviceRuleKind::Block),
        _ => invalid("type", format!("{word:?} is none of a, c, u and b")),
    }
}

fn wildcard(field: &str, number: Option<i64>, max: u32) -> Checked<Option<u32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => part(field, number, max).map(Some),
    }
}

fn access(word: &str) -> Checked<DeviceAccess> {
    if let Some(letter) = word.chars().find(|&letter| !"rwm".contains(letter)) {
        return invalid("access", format!("{letter:?} is none of r, w and m"));
    }
    let has = |letter: char| word.is_empty() || word.contains(letter);
    Ok(DeviceAccess { read: has('r'), write: has('w'), mknod: has('m') })
}

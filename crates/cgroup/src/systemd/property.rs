//! Limits as properties of the unit, so that systemd, which writes its own idea of every file it knows at each
//! `daemon-reload`, has the same idea as the container's spec.
//!
//! Derived from the very writes that go to the files: whatever decides a file decides its property too. Files
//! that no systemd knows (`cpu.max.burst`, `hugetlb.*`, `io.max` of a device, device programs) need none.

use dunnage_spec::resources::Limit;

use super::message::{Property, Value};
use crate::limits::{Write, parse_bytes, parse_list};

/// systemd's word for "as if never set", and for no limit.
const NONE: u64 = u64::MAX;

/// systemd keeps the CPU quota in whole percents in the unit's file, which it reads again at each reload.
const PERCENT_US: u64 = 10_000;
const SECOND_US: u64 = 1_000_000;

/// Properties for some writes; those that systemd may be too old to know are apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Known since systemd 244.
    pub(crate) known: Vec<Property>,
    /// `CPUWeight` of 0 since 252; `OOMPolicy` of a scope and `MemoryZSwapMax` since 253; `MemoryZSwapWriteback`
    /// since 256.
    pub(crate) newer: Vec<Property>,
}

/// Rounds the CPU quotas up to what the unit's file can say, or a reload would change them. runc does the same.
pub(crate) fn round(writes: &mut [Write]) {
    for write in writes.iter_mut().filter(|write| write.file == "cpu.max") {
        if let Some((Some(quota), period)) = bandwidth(&write.value) {
            let rounded = per_second(quota, period).saturating_mul(period) / SECOND_US;
            write.value = format!("{rounded} {period}");
        }
    }
}

/// The properties of a unit that is being made (`new`) or changed.
pub(crate) fn of(writes: &[Write], new: bool) -> Properties {
    let mut properties = Properties::default();
    // cpu.idle is a weight to systemd, and comes before the weight among the writes.
    let idle = writes.iter().rfind(|write| write.file == "cpu.idle").map(|write| write.value.trim() == "1");
    let weight = writes.iter().rfind(|write| write.file == "cpu.weight");
    match (idle, weight) {
        (Some(true), _) => properties.newer.push(number("CPUWeight", 0)),
        (Some(false), None) => properties.known.push(number("CPUWeight", NONE)),
        (_, Some(weight)) => properties.number("CPUWeight", weight.value.trim().parse().ok()),
        (None, None) => {}
    }
    for write in writes {
        properties.add(write, new);
    }
    properties
}

impl Properties {
    /// A later write of the same file counts, as it does in the kernel.
    fn put(list: &mut Vec<Property>, property: Property) {
        list.retain(|other| other.name != property.name);
        list.push(property);
    }

    fn number(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            Self::put(&mut self.known, number(name, value));
        }
    }

    fn add(&mut self, write: &Write, new: bool) {
        let value = write.value.trim();
        match write.file.as_ref() {
            "memory.min" => self.number("MemoryMin", bytes(value)),
            "memory.low" => self.number("MemoryLow", bytes(value)),
            "memory.high" => self.number("MemoryHigh", bytes(value)),
            "memory.max" => self.number("MemoryMax", bytes(value)),
            "memory.swap.max" => self.number("MemorySwapMax", bytes(value)),
            "pids.max" => self.number("TasksMax", bytes(value)),
            "cpu.max" => self.quota(value),
            "cpuset.cpus" => self.set("AllowedCPUs", value),
            "cpuset.mems" => self.set("AllowedMemoryNodes", value),
            "io.weight" => self.number("IOWeight", default_weight(value)),
            "io.bfq.weight" => self.number("IOWeight", default_weight(value).map(from_bfq)),
            "memory.zswap.max" => {
                if let Some(bytes) = bytes(value) {
                    Self::put(&mut self.newer, number("MemoryZSwapMax", bytes));
                }
            }
            "memory.zswap.writeback" => {
                let writeback = Value::Bool(value == "1");
                Self::put(&mut self.newer, Property { name: "MemoryZSwapWriteback", value: writeback });
            }
            // Cannot be changed later. A delegated scope has `continue` unless told otherwise.
            "memory.oom.group" if new => {
                let policy = if value == "1" { "kill" } else { "continue" };
                let value = Value::Text(policy.to_owned());
                Self::put(&mut self.newer, Property { name: "OOMPolicy", value });
            }
            _ => {}
        }
    }

    fn quota(&mut self, value: &str) {
        let Some((quota, period)) = bandwidth(value) else { return };
        self.number("CPUQuotaPerSecUSec", Some(quota.map_or(NONE, |quota| per_second(quota, period))));
        self.number("CPUQuotaPeriodUSec", Some(period));
    }

    /// One bit for each CPU or node, the first in the lowest bit of the first byte.
    fn set(&mut self, name: &'static str, list: &str) {
        let Some(numbers) = parse_list(list) else { return };
        let mut mask = Vec::new();
        for index in numbers.into_iter().filter_map(|number| usize::try_from(number).ok()) {
            if mask.len() <= index / 8 {
                mask.resize(index / 8 + 1, 0u8);
            }
            mask[index / 8] |= 1 << (index % 8);
        }
        Self::put(&mut self.known, Property { name, value: Value::Bytes(mask) });
    }
}

fn number(name: &'static str, value: u64) -> Property {
    Property { name, value: Value::U64(value) }
}

/// As the kernel reads a limit: a number, perhaps with a suffix, or `max`.
fn bytes(value: &str) -> Option<u64> {
    if let Some(limit) = parse_bytes(value) {
        return Some(match limit {
            Limit::Unlimited => NONE,
            Limit::To(bytes) => bytes,
        });
    }
    let shift = match value.bytes().last()?.to_ascii_lowercase() {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        _ => return None,
    };
    let bytes: u64 = value[..value.len() - 1].parse().ok()?;
    bytes.checked_mul(1 << shift)
}

/// `cpu.max`: quota, unless it is `max`, and period.
fn bandwidth(value: &str) -> Option<(Option<u64>, u64)> {
    let mut fields = value.split_whitespace();
    let quota = match fields.next()? {
        "max" => None,
        quota => Some(quota.parse().ok()?),
    };
    let period = fields.next().map_or(Some(100_000), |period| period.parse().ok())?;
    (period > 0).then_some((quota, period))
}

fn per_second(quota: u64, period: u64) -> u64 {
    (quota.saturating_mul(SECOND_US) / period).div_ceil(PERCENT_US).saturating_mul(PERCENT_US)
}

/// `100`, `default 100`; a line about one device is no property of ours.
fn default_weight(value: &str) -> Option<u64> {
    value.strip_prefix("default ").unwrap_or(value).parse().ok()
}

/// systemd squeezes 1 to 10000 into BFQ's 1 to 1000, leaving 100 where it is; this is the way back.
fn from_bfq(weight: u64) -> u64 {
    if weight <= 100 { weight } else { 100 + (weight - 100) * 9900 / 900 }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use crate::controller::Controller;

    use super::*;

    fn writes(files: &[(&'static str, &str)]) -> Vec<Write> {
        let write = |(file, value): &(&'static str, &str)| Write {
            controller: Controller::Misc,
            file: Cow::Borrowed(*file),
            value: (*value).to_owned(),
            undo: None,
            dispensable: None,
        };
        files.iter().map(write).collect()
    }

    fn named(properties: &[Property]) -> Vec<String> {
        let text = |Property { name, value }: &Property| match value {
            Value::U64(NONE) => format!("{name}=none"),
            Value::U64(value) => format!("{name}={value}"),
            Value::Text(value) => format!("{name}={value}"),
            Value::Bool(value) => format!("{name}={value}"),
            Value::Bytes(value) => format!("{name}={value:?}"),
            Value::U32s(value) => format!("{name}={value:?}"),
        };
        properties.iter().map(text).collect()
    }

    fn known(files: &[(&'static str, &str)]) -> Vec<String> {
        named(&of(&writes(files), true).known)
    }

    #[test]
    fn every_file_that_systemd_writes_has_its_property() {
        let files = [
            ("cpuset.cpus", "0,2,8-9"),
            ("cpuset.mems", "0"),
            ("memory.max", "134217728"),
            ("memory.swap.max", "0"),
            ("memory.low", "4096"),
            ("memory.high", "64M"),
            ("memory.min", "max"),
            ("pids.max", "max"),
            ("io.weight", "4950"),
        ];
        let expected = [
            "AllowedCPUs=[5, 3]",
            "AllowedMemoryNodes=[1]",
            "MemoryMax=134217728",
            "MemorySwapMax=0",
            "MemoryLow=4096",
            "MemoryHigh=67108864",
            "MemoryMin=none",
            "TasksMax=none",
            "IOWeight=4950",
        ];
        assert_eq!(known(&files), expected);
    }

    #[test]
    fn files_that_systemd_never_writes_have_none() {
        let files = [
            ("cpu.max.burst", "1"),
            ("hugetlb.2MB.max", "0"),
            ("io.max", "8:0 rbps=1"),
            ("io.weight", "8:0 10"),
        ];
        assert_eq!(of(&writes(&files), true), Properties::default());
    }

    #[test]
    fn a_quota_is_rounded_up_to_a_percent_in_file_and_property_alike() {
        let mut files = writes(&[("cpu.max", "12500 100000")]);
        round(&mut files);
        assert_eq!(files[0].value, "13000 100000");
        assert_eq!(
            named(&of(&files, true).known),
            ["CPUQuotaPerSecUSec=130000", "CPUQuotaPeriodUSec=100000"]
        );
        for (quota, rounded) in
            [("max 50000", "max 50000"), ("50000 100000", "50000 100000"), ("1000 1000000", "10000 1000000")]
        {
            let mut files = writes(&[("cpu.max", quota)]);
            round(&mut files);
            assert_eq!(files[0].value, rounded);
        }
        assert_eq!(
            known(&[("cpu.max", "max 50000")]),
            ["CPUQuotaPerSecUSec=none", "CPUQuotaPeriodUSec=50000"]
        );
    }

    #[test]
    fn an_idle_group_has_the_weight_0_whatever_else_was_asked_for() {
        let idle = of(&writes(&[("cpu.idle", "1"), ("cpu.weight", "59")]), true);
        assert_eq!((named(&idle.known), named(&idle.newer)), (vec![], vec!["CPUWeight=0".to_owned()]));
        assert_eq!(known(&[("cpu.idle", "0"), ("cpu.weight", "59")]), ["CPUWeight=59"]);
        assert_eq!(known(&[("cpu.idle", "0")]), ["CPUWeight=none"]);
    }

    #[test]
    fn the_last_write_of_a_file_counts() {
        assert_eq!(known(&[("memory.max", "1000"), ("memory.max", "2000")]), ["MemoryMax=2000"]);
    }

    #[test]
    fn group_kill_is_a_policy_that_only_a_new_unit_can_have() {
        let group = writes(&[("memory.oom.group", "1")]);
        assert_eq!(named(&of(&group, true).newer), ["OOMPolicy=kill"]);
        assert_eq!(of(&group, false), Properties::default());
    }

    #[test]
    fn a_weight_of_bfq_comes_back_as_systemd_would_write_it() {
        for weight in [1, 100, 101, 550, 1000] {
            let systemd = from_bfq(weight);
            // systemd.git, BFQ_WEIGHT in cgroup-util.h.
            let bfq = if systemd <= 100 { systemd } else { 100 + (systemd - 100) * 900 / 9900 };
            assert_eq!(bfq, weight);
        }
    }
}

//! Limits as files of cgroup v2.

use std::collections::BTreeMap;

use dunnage_spec::Resources;
use dunnage_spec::resources::{BlockIo, Cpu, DeviceNumber, Limit, Memory};
use dunnage_sys::Errno;

use super::bandwidth::{self, Bandwidth, Step};
use super::{Draft, Live, Seen, convert};
use crate::controller::Controller;
use crate::error::{Error, Result};

pub(super) const BURST_CUT: &str = "a burst is at most the quota; it was cut";
const V1_ONLY: &str = "cgroup v2 has nothing like it";

pub(super) fn draft<L: Live>(wanted: &Resources, draft: &mut Draft<'_, L>) -> Result<()> {
    check_unified(&wanted.unified)?;
    for (file, value) in [("cpuset.cpus", &wanted.cpu.cpus), ("cpuset.mems", &wanted.cpu.mems)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            draft.set(Controller::Cpuset, file, value)?;
        }
    }
    memory(&wanted.memory, draft)?;
    if let Some(pids) = wanted.pids {
        draft.set(Controller::Pids, "pids.max", pids_max(pids))?;
    }
    weight(wanted, draft)?;
    time(&wanted.cpu, draft)?;
    block_io(&wanted.block_io, draft)?;
    for (size, limit) in last_of_each(&wanted.hugepages) {
        draft.set(Controller::Hugetlb, format!("hugetlb.{size}.max"), limit.to_string())?;
        let file = format!("hugetlb.{size}.rsvd.max");
        draft.set_if_there(
            Controller::Hugetlb,
            file,
            limit.to_string(),
            "this kernel counts no reservations",
        )?;
    }
    refuse_v1_only(wanted, draft);
    unified(&wanted.unified, draft)
}

/// 0 as runc has it: systemd refuses 0 tasks, and no container runs with none.
pub(super) fn pids_max(pids: Limit) -> String {
    match pids {
        Limit::Unlimited => "max".to_owned(),
        Limit::To(tasks) => tasks.max(1).to_string(),
    }
}

/// containerd appends to the list of huge pages at each update, so the last of each size counts.
pub(super) fn last_of_each(hugepages: &[(String, u64)]) -> BTreeMap<&str, u64> {
    hugepages.iter().map(|(size, limit)| (size.as_str(), *limit)).collect()
}

fn memory<L: Live>(wanted: &Memory, draft: &mut Draft<'_, L>) -> Result<()> {
    let limit = wanted.limit.filter(|limit| *limit != Limit::To(0));
    let swap = swap_max(wanted, limit, draft)?;
    if wanted.check_before_update
        && let Some(Limit::To(limit)) = limit
    {
        check_usage("memory.max", "memory.current", limit, draft)?;
        if let Some(Limit::To(swap)) = swap {
            check_usage("memory.swap.max", "memory.swap.current", swap, draft)?;
        }
    }
    // More swap goes first, so that memory can be reclaimed into it; less goes last. A memory.max below usage
    // reclaims, and then kills, within the write.
    let swap_first = match (swap, draft.seen(Controller::Memory, "memory.swap.max")?) {
        (Some(Limit::To(new)), Seen::Text(old)) => {
            matches!(convert::parse_bytes(&old), Some(Limit::To(old)) if new > old)
        }
        (Some(Limit::Unlimited), _) => true,
        _ => false,
    };
    if swap_first {
        set_swap(swap, draft)?;
    }
    if let Some(limit) = limit {
        draft.set(Controller::Memory, "memory.max", convert::max(limit))?;
    }
    if !swap_first {
        set_swap(swap, draft)?;
    }
    if let Some(reservation) = wanted.reservation.filter(|reservation| *reservation != Limit::To(0)) {
        draft.set(Controller::Memory, "memory.low", convert::max(reservation))?;
    }
    Ok(())
}

/// OCI counts memory and swap together, v2 swap alone.
fn swap_max<L: Live>(wanted: &Memory, limit: Option<Limit>, draft: &Draft<'_, L>) -> Result<Option<Limit>> {
    let both = match (wanted.swap, limit) {
        (None | Some(Limit::To(0)), Some(Limit::Unlimited)) | (Some(Limit::Unlimited), _) => {
            return Ok(Some(Limit::Unlimited));
        }
        (None | Some(Limit::To(0)), _) => return Ok(None),
        (Some(Limit::To(both)), _) => both,
    };
    let limit = match limit {
        Some(limit) => limit,
        None => match draft.seen(Controller::Memory, "memory.max")? {
            Seen::Text(text) => convert::parse_bytes(&text).unwrap_or(Limit::Unlimited),
            Seen::Default | Seen::Absent => Limit::Unlimited,
        },
    };
    match limit {
        Limit::Unlimited => Err(Error::Invalid("a limit on memory and swap needs a memory limit".to_owned())),
        Limit::To(limit) => match both.checked_sub(limit) {
            Some(swap) => Ok(Some(Limit::To(swap))),
            None => Err(Error::Invalid(format!(
                "memory and swap of {both} bytes are less than memory of {limit}"
            ))),
        },
    }
}

fn set_swap<L: Live>(swap: Option<Limit>, draft: &mut Draft<'_, L>) -> Result<()> {
    match swap {
        None => Ok(()),
        Some(swap @ (Limit::Unlimited | Limit::To(0))) => {
            let why = "this kernel does not account swap";
            draft.set_if_there(Controller::Memory, "memory.swap.max", convert::max(swap), why)
        }
        Some(swap) => draft.set(Controller::Memory, "memory.swap.max", convert::max(swap)),
    }
}

fn check_usage<L: Live>(
    file: &'static str,
    usage_file: &str,
    limit: u64,
    draft: &Draft<'_, L>,
) -> Result<()> {
    if let Seen::Text(usage) = draft.seen(Controller::Memory, usage_file)?
        && let Ok(usage) = usage.parse()
        && usage > limit
    {
        return Err(Error::BelowUsage { file, limit, usage });
    }
    Ok(())
}

/// The kernel refuses a weight while the group is idle. The kubelet always sends one, so whoever adds `idle`
/// meets it: the weight is left out. `unified` is written last and therefore decides.
fn weight<L: Live>(wanted: &Resources, draft: &mut Draft<'_, L>) -> Result<()> {
    let idle = match wanted.unified.get("cpu.idle").map(|idle| idle.trim()) {
        Some(idle) => Some(idle == "1"),
        None => wanted.cpu.idle,
    };
    if let Some(idle) = idle {
        draft.set(Controller::Cpu, "cpu.idle", u8::from(idle).to_string())?;
    }
    let Some(shares) = wanted.cpu.shares.filter(|shares| *shares > 0) else { return Ok(()) };
    let weight = convert::weight(shares).to_string();
    if is_idle(idle, draft)? {
        draft.refuse("cpu.weight", weight, Errno::INVAL, "the group is idle, which has no weight");
        return Ok(());
    }
    if draft.seen(Controller::Cpu, "cpu.weight")? == Seen::Default && weight == "100" {
        return Ok(());
    }
    draft.set(Controller::Cpu, "cpu.weight", weight)
}

/// Whether the group will be idle: as wanted, or as it is.
pub(super) fn is_idle<L: Live>(wanted: Option<bool>, draft: &Draft<'_, L>) -> Result<bool> {
    match wanted {
        Some(idle) => Ok(idle),
        None => Ok(draft.seen(Controller::Cpu, "cpu.idle")? == Seen::Text("1".to_owned())),
    }
}

fn time<L: Live>(wanted: &Cpu, draft: &mut Draft<'_, L>) -> Result<()> {
    if (wanted.quota_us, wanted.period_us, wanted.burst_us) == (None, None, None) {
        return Ok(());
    }
    let from = bandwidth(draft)?;
    let (to, cut) = bandwidth::target(wanted, from);
    if let Some(burst) = cut {
        draft.refuse("cpu.max.burst", burst.to_string(), Errno::INVAL, BURST_CUT);
    }
    let text = |at: Bandwidth| format!("{} {}", convert::max(at.quota), at.period);
    let mut quota_and_period = false;
    for step in bandwidth::steps(from, to) {
        match step {
            Step::Burst(burst) => {
                draft.push(Controller::Cpu, "cpu.max.burst", burst.to_string(), Some(from.burst.to_string()));
            }
            // One file for both.
            Step::Quota(_) | Step::Period(_) if quota_and_period => {}
            Step::Quota(_) | Step::Period(_) => {
                quota_and_period = true;
                draft.push(Controller::Cpu, "cpu.max", text(to), Some(text(from)));
            }
        }
    }
    Ok(())
}

fn bandwidth<L: Live>(draft: &Draft<'_, L>) -> Result<Bandwidth> {
    let mut bandwidth = bandwidth::DEFAULT;
    if let Seen::Text(text) = draft.seen(Controller::Cpu, "cpu.max")? {
        let mut fields = text.split(' ');
        let quota = fields.next().and_then(|quota| quota.parse().ok());
        bandwidth.quota = quota.map_or(Limit::Unlimited, Limit::To);
        let period = fields.next().and_then(|period| period.parse().ok());
        bandwidth.period = period.unwrap_or(bandwidth::DEFAULT.period);
    }
    if let Seen::Text(text) = draft.seen(Controller::Cpu, "cpu.max.burst")? {
        bandwidth.burst = text.parse().unwrap_or(0);
    }
    Ok(bandwidth)
}

fn block_io<L: Live>(wanted: &BlockIo, draft: &mut Draft<'_, L>) -> Result<()> {
    let weights = wanted.weight.is_some() || !wanted.weight_devices.is_empty();
    let bfq = weights && draft.live.exists(Controller::Io, "io.bfq.weight");
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    let scaled = |weight: u16| if bfq { u64::from(weight) } else { convert::io_weight(weight) };
    if let Some(weight) = wanted.weight.filter(|weight| *weight > 0) {
        draft.set(Controller::Io, file, scaled(weight).to_string())?;
    }
    for (device, weight) in &wanted.weight_devices {
        let value = format!("{}:{} {}", device.major, device.minor, scaled(*weight));
        draft.push(Controller::Io, file, value, None);
    }
    let mut lines: BTreeMap<DeviceNumber, Vec<(&str, u64)>> = BTreeMap::new();
    let throttles = [
        ("rbps", &wanted.read_bps),
        ("wbps", &wanted.write_bps),
        ("riops", &wanted.read_iops),
        ("wiops", &wanted.write_iops),
    ];
    for (key, rates) in throttles {
        for (device, rate) in rates {
            lines.entry(*device).or_default().push((key, *rate));
        }
    }
    for (device, rates) in lines {
        throttle(device, &rates, draft)?;
    }
    Ok(())
}

/// `io.max` has one line for each device with a limit, with all four keys; a write changes the keys it names.
fn throttle<L: Live>(device: DeviceNumber, rates: &[(&str, u64)], draft: &mut Draft<'_, L>) -> Result<()> {
    let DeviceNumber { major, minor } = device;
    let text = match draft.seen(Controller::Io, "io.max")? {
        Seen::Text(text) => Some(text),
        Seen::Default | Seen::Absent => None,
    };
    let live = text.as_deref().unwrap_or_default();
    let prefix = format!("{major}:{minor} ");
    let line = live.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default();
    let old = |key: &str| {
        let fields = line.split(' ').filter_map(|field| field.split_once('='));
        fields
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .next_back()
            .unwrap_or("max")
            .to_owned()
    };
    let (mut value, mut undo) = (format!("{major}:{minor}"), format!("{major}:{minor}"));
    let mut differs = text.is_none();
    for (key, rate) in rates {
        // On v1 a rate of 0 removes the limit; the kernel refuses it here.
        let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
        let old = old(key);
        differs |= rate != old;
        value.push_str(&format!(" {key}={rate}"));
        undo.push_str(&format!(" {key}={old}"));
    }
    if differs {
        draft.push(Controller::Io, "io.max", value, text.is_some().then_some(undo));
    }
    Ok(())
}

fn refuse_v1_only<L>(wanted: &Resources, draft: &mut Draft<'_, L>)
where
    L: Live,
{
    if let Some(swappiness) = wanted.memory.swappiness {
        draft.refuse("memory.swappiness", swappiness.to_string(), Errno::NOENT, V1_ONLY);
    }
    if wanted.memory.disable_oom_killer {
        draft.refuse("memory.oom_control", "1", Errno::NOENT, V1_ONLY);
    }
    if let Some(period) = wanted.cpu.realtime_period_us.filter(|period| *period > 0) {
        draft.refuse("cpu.rt_period_us", period.to_string(), Errno::NOENT, V1_ONLY);
    }
    if let Some(runtime) = wanted.cpu.realtime_runtime_us.filter(|runtime| *runtime != 0) {
        draft.refuse("cpu.rt_runtime_us", runtime.to_string(), Errno::NOENT, V1_ONLY);
    }
}

/// Files that move or kill processes are no limits.
const NOT_LIMITS: [&str; 4] = ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze"];

fn check_unified(unified: &BTreeMap<String, String>) -> Result<()> {
    for (file, value) in unified {
        if file.is_empty() || file.contains('/') || file.starts_with('.') || file.contains('\0') {
            return Err(Error::Invalid(format!("unified resource {file:?} is not the name of a file")));
        }
        if NOT_LIMITS.contains(&file.as_str()) {
            return Err(Error::Invalid(format!("unified resource {file} is not a limit")));
        }
        // The kernel reads an empty memory.swap.max as 0.
        if value.trim().is_empty() {
            return Err(Error::Invalid(format!("unified resource {file} has no value")));
        }
    }
    Ok(())
}

/// As they are, last, line by line.
fn unified<L: Live>(unified: &BTreeMap<String, String>, draft: &mut Draft<'_, L>) -> Result<()> {
    for (file, value) in unified {
        if file == "cpu.idle" {
            continue; // With the weight, which depends on it.
        }
        let controller = owner(file);
        let mut lines = value.lines().filter(|line| !line.trim().is_empty());
        match (lines.next(), lines.next()) {
            (Some(line), None) => {
                // What was set above is not yet what the directory says: written, whatever is there.
                let overrides = draft.writes.iter().any(|write| write.file == file.as_str());
                if overrides {
                    draft.push(controller, file.clone(), line, None);
                } else {
                    draft.set(controller, file.clone(), line)?;
                }
            }
            _ => {
                for line in value.lines().filter(|line| !line.trim().is_empty()) {
                    draft.push(controller, file.clone(), line, None);
                }
            }
        }
    }
    Ok(())
}

/// By the first word of the file's name; on v2 all files are in one directory, so it matters only for messages.
fn owner(file: &str) -> Controller {
    match file.split('.').next() {
        Some("cpu") => Controller::Cpu,
        Some("cpuset") => Controller::Cpuset,
        Some("memory") => Controller::Memory,
        Some("io") => Controller::Io,
        Some("pids") => Controller::Pids,
        Some("hugetlb") => Controller::Hugetlb,
        Some("rdma") => Controller::Rdma,
        _ => Controller::Misc,
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft as drafted;
    use super::super::tests::{Files, lines};
    use super::*;

    fn kubelets() -> Resources {
        let mut wanted = Resources::default();
        wanted.cpu.shares = Some(512);
        wanted.cpu.quota_us = Some(Limit::To(50_000));
        wanted.cpu.period_us = Some(100_000);
        wanted.memory.limit = Some(Limit::To(1 << 27));
        wanted.memory.swap = Some(Limit::To(1 << 27));
        wanted.pids = Some(Limit::To(100));
        wanted.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        wanted
    }

    #[test]
    fn what_a_kubelet_sends_becomes_one_write_for_each_file() {
        let files = Files::fresh();
        let draft = drafted(true, &kubelets(), &files).unwrap();
        let expected = [
            "memory.max=134217728",
            "memory.swap.max=0",
            "pids.max=100",
            "cpu.weight=59",
            "cpu.max=50000 100000",
            "memory.oom.group=1",
        ];
        assert_eq!(lines(&draft), expected);
    }

    #[test]
    fn an_update_with_the_same_values_writes_nothing() {
        let files = Files::with(&[
            ("memory.max", "134217728"),
            ("memory.swap.max", "0"),
            ("pids.max", "100"),
            ("cpu.weight", "59"),
            ("cpu.idle", "0"),
            ("cpu.max", "50000 100000"),
            ("cpu.max.burst", "0"),
            ("memory.oom.group", "1"),
        ]);
        assert_eq!(lines(&drafted(true, &kubelets(), &files).unwrap()), [""; 0]);
    }

    #[test]
    fn an_absent_swap_file_is_reported_and_no_failure_when_no_swap_was_wanted() {
        let files = Files { fails_at: Some(("memory.swap.max", Errno::NOENT)), ..Files::fresh() };
        let refused = drafted(true, &kubelets(), &files).unwrap().apply(&files).unwrap();
        assert_eq!(refused[0].file, "memory.swap.max");
        let mut wanted = kubelets();
        wanted.memory.swap = Some(Limit::To(1 << 28));
        assert!(drafted(true, &wanted, &files).unwrap().apply(&files).is_err());
    }

    #[test]
    fn unified_values_come_last_and_win_even_when_the_old_value_equals_them() {
        let files = Files::with(&[("memory.max", "max"), ("memory.swap.max", "max")]);
        let mut wanted = Resources::default();
        wanted.memory.limit = Some(Limit::To(1 << 27));
        wanted.memory.swap = Some(Limit::To(1 << 27));
        wanted.unified.insert("memory.swap.max".to_owned(), "max".to_owned());
        let draft = drafted(true, &wanted, &files).unwrap();
        assert_eq!(lines(&draft).last().unwrap(), "memory.swap.max=max");
        draft.apply(&files).unwrap();
        assert_eq!(files.texts.borrow()["memory.swap.max"], "max");
    }

    #[test]
    fn idle_by_a_unified_file_leaves_the_weight_out() {
        let mut wanted = kubelets();
        wanted.unified.insert("cpu.idle".to_owned(), "1".to_owned());
        let files = Files::fresh();
        let draft = drafted(true, &wanted, &files).unwrap();
        assert!(lines(&draft).contains(&"cpu.idle=1".to_owned()));
        assert_eq!(draft.refused[0].file, "cpu.weight");
    }

    #[test]
    fn a_live_idle_group_that_is_given_shares_again_stays_idle_and_says_so() {
        let files = Files::with(&[("cpu.idle", "1"), ("cpu.weight", "0")]);
        let mut wanted = Resources::default();
        wanted.cpu.shares = Some(1024);
        let draft = drafted(true, &wanted, &files).unwrap();
        assert!(draft.writes.is_empty());
        assert_eq!(draft.refused.len(), 1);
    }

    #[test]
    fn swap_needs_memory_and_is_what_remains_above_it() {
        let mut wanted = Resources::default();
        wanted.memory.swap = Some(Limit::To(300 << 20));
        assert!(matches!(drafted(true, &wanted, &Files::fresh()), Err(Error::Invalid(_))));
        let files = Files::with(&[("memory.max", "104857600"), ("memory.swap.max", "0")]);
        assert_eq!(lines(&drafted(true, &wanted, &files).unwrap()), ["memory.swap.max=209715200"]);
    }

    #[test]
    fn several_throttles_of_a_device_are_one_line_that_can_be_taken_back() {
        let device = DeviceNumber { major: 8, minor: 0 };
        let mut wanted = Resources::default();
        wanted.block_io.read_bps = vec![(device, 1000)];
        wanted.block_io.write_iops = vec![(device, 0)];
        let files = Files::with(&[("io.max", "8:0 rbps=5 wbps=max riops=max wiops=9")]);
        let draft = drafted(true, &wanted, &files).unwrap();
        assert_eq!(lines(&draft), ["io.max=8:0 rbps=1000 wiops=max"]);
        assert_eq!(draft.writes[0].undo.as_deref(), Some("8:0 rbps=5 wiops=9"));
    }

    #[test]
    fn the_last_of_repeated_huge_page_limits_counts() {
        let hugepages = vec![("2MB".to_owned(), 1), ("2MB".to_owned(), 2)];
        let wanted = Resources { hugepages, ..Resources::default() };
        let files = Files::fresh();
        let draft = drafted(true, &wanted, &files).unwrap();
        assert_eq!(lines(&draft), ["hugetlb.2MB.max=2", "hugetlb.2MB.rsvd.max=2"]);
    }

    #[test]
    fn names_that_are_no_limits_are_refused() {
        for (file, value) in
            [("../x", "1"), ("cgroup.procs", "1"), ("a/b", "1"), ("memory.max", " "), ("", "1")]
        {
            let mut wanted = Resources::default();
            wanted.unified.insert(file.to_owned(), value.to_owned());
            assert!(drafted(true, &wanted, &Files::fresh()).is_err(), "{file}");
        }
    }
}

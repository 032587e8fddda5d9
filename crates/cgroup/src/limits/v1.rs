//! Limits as files of cgroup v1.

use dunnage_spec::Resources;
use dunnage_spec::resources::{BlockIo, Cpu, DeviceNumber, Limit, Memory};
use dunnage_sys::Errno;

use super::bandwidth::{self, Bandwidth, Step};
use super::convert::{self, SHARES};
use super::{Draft, Live, Seen};
use crate::controller::Controller;
use crate::error::{Error, Result};

const SWAP_FILE: &str = "memory.memsw.limit_in_bytes";
const LIMIT_FILE: &str = "memory.limit_in_bytes";

pub(super) fn draft<L: Live>(wanted: &Resources, draft: &mut Draft<'_, L>) -> Result<()> {
    if let Some(file) = wanted.unified.keys().next() {
        return Err(Error::Invalid(format!("unified resource {file} needs cgroup v2, this machine has v1")));
    }
    cpuset(&wanted.cpu, draft)?;
    memory(&wanted.memory, draft)?;
    if let Some(pids) = wanted.pids {
        draft.set(Controller::Pids, "pids.max", super::v2::pids_max(pids))?;
    }
    weight(&wanted.cpu, draft)?;
    time(&wanted.cpu, draft)?;
    realtime(&wanted.cpu, draft)?;
    block_io(&wanted.block_io, draft)?;
    for (size, limit) in super::v2::last_of_each(&wanted.hugepages) {
        draft.set(Controller::Hugetlb, format!("hugetlb.{size}.limit_in_bytes"), limit.to_string())?;
        let file = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        draft.set_if_there(
            Controller::Hugetlb,
            file,
            limit.to_string(),
            "this kernel counts no reservations",
        )?;
    }
    Ok(())
}

fn cpuset<L: Live>(wanted: &Cpu, draft: &mut Draft<'_, L>) -> Result<()> {
    for (file, value) in [("cpuset.cpus", &wanted.cpus), ("cpuset.mems", &wanted.mems)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            draft.set(Controller::Cpuset, file, value)?;
        }
    }
    Ok(())
}

/// Memory plus swap may at no instant be below memory.
fn memory<L: Live>(wanted: &Memory, draft: &mut Draft<'_, L>) -> Result<()> {
    let limit = wanted.limit.filter(|limit| *limit != Limit::To(0));
    let swap = wanted.swap.filter(|swap| *swap != Limit::To(0));
    // Without its own word, swap follows when the limit on memory is lifted.
    let swap = swap.or_else(|| limit.filter(|limit| *limit == Limit::Unlimited));
    let (old_limit, old_swap) = (bytes(draft, LIMIT_FILE)?, bytes(draft, SWAP_FILE)?);
    let effective = limit.or(old_limit).unwrap_or(Limit::Unlimited);
    if let (Some(Limit::To(swap)), Limit::To(limit)) = (swap, effective)
        && swap < limit
    {
        return Err(Error::Invalid(format!(
            "memory and swap of {swap} bytes are less than memory of {limit}"
        )));
    }
    if wanted.check_before_update
        && let Some(Limit::To(limit)) = limit
    {
        check_usage(draft, limit)?;
    }
    let swap_first = match (swap, old_limit.unwrap_or(Limit::Unlimited)) {
        (Some(Limit::Unlimited), _) => old_swap.is_some(),
        (Some(Limit::To(swap)), Limit::To(old)) => swap > old,
        _ => false,
    };
    if swap_first {
        set_swap(swap, limit, draft)?;
    }
    if let Some(limit) = limit {
        draft.set(Controller::Memory, LIMIT_FILE, convert::minus_one(limit))?;
    }
    if !swap_first {
        set_swap(swap, limit, draft)?;
    }
    if let Some(reservation) = wanted.reservation.filter(|reservation| *reservation != Limit::To(0)) {
        draft.set(Controller::Memory, "memory.soft_limit_in_bytes", convert::minus_one(reservation))?;
    }
    if let Some(swappiness) = wanted.swappiness {
        draft.set(Controller::Memory, "memory.swappiness", swappiness.to_string())?;
    }
    if wanted.disable_oom_killer {
        draft.push(Controller::Memory, "memory.oom_control", "1", None);
    }
    Ok(())
}

fn set_swap<L: Live>(swap: Option<Limit>, limit: Option<Limit>, draft: &mut Draft<'_, L>) -> Result<()> {
    let Some(swap) = swap else { return Ok(()) };
    let value = convert::minus_one(swap);
    // Without swap accounting "no limit" is true already, and "no swap at all" is the usual default of a
    // kubelet rather than somebody's wish.
    if swap == Limit::Unlimited || Some(swap) == limit {
        return draft.set_if_there(Controller::Memory, SWAP_FILE, value, "this kernel does not account swap");
    }
    draft.set(Controller::Memory, SWAP_FILE, value)
}

/// `None` where the file is absent or a fresh directory has the default.
fn bytes<L: Live>(draft: &Draft<'_, L>, file: &str) -> Result<Option<Limit>> {
    Ok(match draft.seen(Controller::Memory, file)? {
        Seen::Text(text) => convert::parse_bytes(&text),
        Seen::Default | Seen::Absent => None,
    })
}

fn check_usage<L: Live>(draft: &Draft<'_, L>, limit: u64) -> Result<()> {
    match bytes(draft, "memory.usage_in_bytes")? {
        Some(Limit::To(usage)) if usage > limit => Err(Error::BelowUsage { file: LIMIT_FILE, limit, usage }),
        _ => Ok(()),
    }
}

/// The kernel refuses shares while the group is idle, so idleness goes first in both directions.
fn weight<L: Live>(wanted: &Cpu, draft: &mut Draft<'_, L>) -> Result<()> {
    if let Some(idle) = wanted.idle {
        draft.set(Controller::Cpu, "cpu.idle", u8::from(idle).to_string())?;
    }
    let Some(shares) = wanted.shares.filter(|shares| *shares > 0) else { return Ok(()) };
    let shares = shares.clamp(*SHARES.start(), *SHARES.end()).to_string();
    if super::v2::is_idle(wanted.idle, draft)? {
        draft.refuse("cpu.shares", shares, Errno::INVAL, "the group is idle, which has no shares");
        return Ok(());
    }
    if draft.seen(Controller::Cpu, "cpu.shares")? == Seen::Default && shares == "1024" {
        return Ok(());
    }
    draft.set(Controller::Cpu, "cpu.shares", shares)
}

fn time<L: Live>(wanted: &Cpu, draft: &mut Draft<'_, L>) -> Result<()> {
    if (wanted.quota_us, wanted.period_us, wanted.burst_us) == (None, None, None) {
        return Ok(());
    }
    let from = Bandwidth {
        quota: match micros(draft, "cpu.cfs_quota_us")? {
            Some(quota) => Limit::To(quota),
            None => Limit::Unlimited,
        },
        period: micros(draft, "cpu.cfs_period_us")?.unwrap_or(bandwidth::DEFAULT.period),
        burst: micros(draft, "cpu.cfs_burst_us")?.unwrap_or(0),
    };
    let (to, cut) = bandwidth::target(wanted, from);
    if let Some(burst) = cut {
        draft.refuse("cpu.cfs_burst_us", burst.to_string(), Errno::INVAL, super::v2::BURST_CUT);
    }
    // A cpu.cfs_quota_us that nobody wrote is missing only together with the whole controller.
    for step in bandwidth::steps(from, to) {
        let (file, value, undo) = match step {
            Step::Quota(quota) => {
                ("cpu.cfs_quota_us", convert::minus_one(quota), convert::minus_one(from.quota))
            }
            Step::Period(period) => ("cpu.cfs_period_us", period.to_string(), from.period.to_string()),
            Step::Burst(burst) => ("cpu.cfs_burst_us", burst.to_string(), from.burst.to_string()),
        };
        draft.push(Controller::Cpu, file, value, Some(undo));
    }
    Ok(())
}

/// A positive number; `-1`, absent and default are `None`.
fn micros<L: Live>(draft: &Draft<'_, L>, file: &str) -> Result<Option<u64>> {
    Ok(match draft.seen(Controller::Cpu, file)? {
        Seen::Text(text) => text.parse().ok(),
        Seen::Default | Seen::Absent => None,
    })
}

fn realtime<L: Live>(wanted: &Cpu, draft: &mut Draft<'_, L>) -> Result<()> {
    // The runtime is checked against the period.
    if let Some(period) = wanted.realtime_period_us.filter(|period| *period > 0) {
        draft.set(Controller::Cpu, "cpu.rt_period_us", period.to_string())?;
    }
    if let Some(runtime) = wanted.realtime_runtime_us.filter(|runtime| *runtime != 0) {
        draft.set(Controller::Cpu, "cpu.rt_runtime_us", runtime.to_string())?;
    }
    Ok(())
}

fn block_io<L: Live>(wanted: &BlockIo, draft: &mut Draft<'_, L>) -> Result<()> {
    let bfq = |draft: &Draft<'_, L>| draft.live.exists(Controller::Io, "blkio.bfq.weight");
    if let Some(weight) = wanted.weight.filter(|weight| *weight > 0) {
        let file = if bfq(draft) { "blkio.bfq.weight" } else { "blkio.weight" };
        draft.set(Controller::Io, file, weight.to_string())?;
    }
    for (device, weight) in &wanted.weight_devices {
        let file = if bfq(draft) { "blkio.bfq.weight_device" } else { "blkio.weight_device" };
        draft.push(Controller::Io, file, format!("{} {weight}", number(*device)), None);
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &wanted.read_bps),
        ("blkio.throttle.write_bps_device", &wanted.write_bps),
        ("blkio.throttle.read_iops_device", &wanted.read_iops),
        ("blkio.throttle.write_iops_device", &wanted.write_iops),
    ];
    for (file, rates) in throttles {
        for (device, rate) in rates {
            throttle(file, *device, *rate, draft)?;
        }
    }
    Ok(())
}

/// The file lists the devices that have a limit; writing 0 removes one.
fn throttle<L: Live>(
    file: &'static str,
    device: DeviceNumber,
    rate: u64,
    draft: &mut Draft<'_, L>,
) -> Result<()> {
    let device = number(device);
    let undo = match draft.seen(Controller::Io, file)? {
        Seen::Text(text) => {
            let old = text.lines().find_map(|line| line.strip_prefix(&device)?.strip_prefix(' '));
            let old = old.unwrap_or("0").to_owned();
            if old == rate.to_string() {
                return Ok(());
            }
            Some(format!("{device} {old}"))
        }
        Seen::Default | Seen::Absent => None,
    };
    draft.push(Controller::Io, file, format!("{device} {rate}"), undo);
    Ok(())
}

fn number(device: DeviceNumber) -> String {
    format!("{}:{}", device.major, device.minor)
}

#[cfg(test)]
mod tests {
    use super::super::draft as drafted;
    use super::super::tests::{Files, lines};
    use super::*;

    const MEBI: u64 = 1 << 20;

    fn memory(limit: u64, swap: u64) -> Resources {
        let memory =
            Memory { limit: Some(Limit::To(limit)), swap: Some(Limit::To(swap)), ..Memory::default() };
        Resources { memory, ..Resources::default() }
    }

    fn live(limit: u64, swap: u64) -> Files {
        let (limit, swap) = (limit.to_string(), swap.to_string());
        Files::with(&[(LIMIT_FILE, &limit), (SWAP_FILE, &swap), ("memory.usage_in_bytes", "4194304")])
    }

    #[test]
    fn raising_writes_memory_and_swap_before_memory_and_lowering_after_it() {
        let files = live(10 * MEBI, 10 * MEBI);
        let up = drafted(false, &memory(20 * MEBI, 20 * MEBI), &files).unwrap();
        assert_eq!(lines(&up), [format!("{SWAP_FILE}=20971520"), format!("{LIMIT_FILE}=20971520")]);
        let down = drafted(false, &memory(5 * MEBI, 5 * MEBI), &files).unwrap();
        assert_eq!(lines(&down), [format!("{LIMIT_FILE}=5242880"), format!("{SWAP_FILE}=5242880")]);
        let first = Files::fresh();
        let fresh = drafted(false, &memory(5 * MEBI, 5 * MEBI), &first).unwrap();
        assert_eq!(lines(&fresh), [format!("{LIMIT_FILE}=5242880"), format!("{SWAP_FILE}=5242880")]);
    }

    #[test]
    fn a_limit_below_usage_is_refused_only_when_asked_to_check() {
        let files = live(10 * MEBI, 10 * MEBI);
        let mut wanted = memory(2 * MEBI, 2 * MEBI);
        assert!(drafted(false, &wanted, &files).is_ok());
        wanted.memory.check_before_update = true;
        let error = drafted(false, &wanted, &files).unwrap_err();
        assert!(matches!(error, Error::BelowUsage { usage: 4_194_304, .. }), "{error}");
    }

    #[test]
    fn swap_below_memory_is_a_contradiction() {
        assert!(matches!(drafted(false, &memory(2, 1), &Files::fresh()), Err(Error::Invalid(_))));
    }

    #[test]
    fn lifting_the_memory_limit_lifts_the_one_on_swap_first() {
        let files = live(10 * MEBI, 10 * MEBI);
        let mut wanted = Resources::default();
        wanted.memory.limit = Some(Limit::Unlimited);
        let up = drafted(false, &wanted, &files).unwrap();
        assert_eq!(lines(&up), [format!("{SWAP_FILE}=-1"), format!("{LIMIT_FILE}=-1")]);
    }

    #[test]
    fn a_fresh_directory_with_the_kernels_defaults_needs_no_write() {
        let mut wanted = Resources::default();
        wanted.cpu.shares = Some(1024);
        wanted.cpu.period_us = Some(100_000);
        wanted.cpu.quota_us = Some(Limit::Unlimited);
        assert_eq!(lines(&drafted(false, &wanted, &Files::fresh()).unwrap()), [""; 0]);
    }

    #[test]
    fn an_idle_group_keeps_no_shares_and_gets_them_back() {
        let mut wanted = Resources::default();
        wanted.cpu.shares = Some(512);
        wanted.cpu.idle = Some(true);
        let files = Files::with(&[("cpu.idle", "0"), ("cpu.shares", "1024")]);
        let draft = drafted(false, &wanted, &files).unwrap();
        assert_eq!(lines(&draft), ["cpu.idle=1"]);
        assert_eq!(draft.refused[0].file, "cpu.shares");
        wanted.cpu.idle = Some(false);
        let files = Files::with(&[("cpu.idle", "1"), ("cpu.shares", "3")]);
        assert_eq!(lines(&drafted(false, &wanted, &files).unwrap()), ["cpu.idle=0", "cpu.shares=512"]);
    }

    #[test]
    fn a_throttle_that_is_there_is_left_and_a_new_one_can_be_taken_back() {
        let mut wanted = Resources::default();
        let (a, b) = (DeviceNumber { major: 8, minor: 0 }, DeviceNumber { major: 8, minor: 16 });
        wanted.block_io.read_bps = vec![(a, 1000), (b, 2000)];
        let files = Files::with(&[("blkio.throttle.read_bps_device", "8:0 1000\n8:160 7")]);
        let draft = drafted(false, &wanted, &files).unwrap();
        assert_eq!(lines(&draft), ["blkio.throttle.read_bps_device=8:16 2000"]);
        assert_eq!(draft.writes[0].undo.as_deref(), Some("8:16 0"));
    }

    #[test]
    fn unified_files_are_refused_by_name() {
        let mut wanted = Resources::default();
        wanted.unified.insert("memory.high".to_owned(), "1".to_owned());
        let error = drafted(false, &wanted, &Files::fresh()).unwrap_err();
        assert!(error.to_string().contains("memory.high"), "{error}");
    }
}

//! Checks `linux.resources`: absent, zero and -1 become what they mean, and relations are enforced.

use std::collections::BTreeMap;

use crate::document;
use crate::error::{Checked, Error, Within as _, invalid, unsupported};
use crate::json;
use crate::resources::{BlockIo, Cpu, DeviceNumber, DeviceRule, Limit, Memory, Resources, device};

impl Resources {
    /// Reads and checks the resources document that comes with an update.
    ///
    /// # Errors
    /// `InvalidArgument` when it can never work, `Unimplemented` when it asks for what dunnage does not do.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        let resources = document::parse("resources", text)?;
        Self::check(resources, &mut Vec::new())
            .map_err(|refusal| Error::Refused { document: "resources", refusal })
    }

    pub(crate) fn check(resources: json::Resources, warnings: &mut Vec<String>) -> Checked<Self> {
        refuse_unsupported(&resources)?;
        Ok(Self {
            cpu: cpu(resources.cpu.unwrap_or_default()).within(|| "cpu")?,
            memory: memory(&resources.memory.unwrap_or_default(), warnings).within(|| "memory")?,
            pids: resources.pids.and_then(|pids| pids.limit).map(pids),
            block_io: block_io(resources.block_io.unwrap_or_default()).within(|| "blockIO")?,
            devices: devices(&resources.devices.unwrap_or_default())?,
            hugepages: hugepages(resources.hugepage_limits.unwrap_or_default())?,
            unified: unified(resources.unified.unwrap_or_default())?,
        })
    }
}

fn refuse_unsupported(resources: &json::Resources) -> Checked<()> {
    if resources.rdma.as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return unsupported("rdma", "RDMA limits are");
    }
    let Some(network) = &resources.network else { return Ok(()) };
    if network.class_id.is_some_and(|class| class != 0) {
        return unsupported("network.classID", "network classes are");
    }
    if network.priorities.as_ref().is_some_and(|priorities| !priorities.is_empty()) {
        return unsupported("network.priorities", "network priorities are");
    }
    Ok(())
}

fn cpu(cpu: json::Cpu) -> Checked<Cpu> {
    Ok(Cpu {
        // The kernel clamps to this range as well, without a word.
        shares: cpu.shares.filter(|&shares| shares != 0).map(|shares| shares.clamp(2, 262_144)),
        quota_us: quota(cpu.quota.unwrap_or(0))?,
        period_us: period("period", cpu.period)?,
        burst_us: cpu.burst,
        idle: idle(cpu.idle)?,
        cpus: list("cpus", cpu.cpus)?,
        mems: list("mems", cpu.mems)?,
        realtime_runtime_us: cpu.realtime_runtime.filter(|&runtime| runtime != 0),
        realtime_period_us: cpu.realtime_period.filter(|&period| period != 0),
    })
}

// A negative quota is how every caller writes "no limit"; a millisecond is the least the kernel takes.
fn quota(quota: i64) -> Checked<Option<Limit>> {
    match u64::try_from(quota) {
        Err(_) => Ok(Some(Limit::Unlimited)),
        Ok(0) => Ok(None),
        Ok(quota) if quota < 1000 => invalid("quota", format!("{quota} is below 1000 microseconds")),
        Ok(quota) => Ok(Some(Limit::To(quota))),
    }
}

fn period(field: &str, period: Option<u64>) -> Checked<Option<u64>> {
    match period {
        None | Some(0) => Ok(None),
        Some(period) if (1000..=1_000_000).contains(&period) => Ok(Some(period)),
        Some(period) => invalid(field, format!("{period} is not between 1000 and 1000000 microseconds")),
    }
}

fn idle(idle: Option<i64>) -> Checked<Option<bool>> {
    match idle {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(idle) => invalid("idle", format!("{idle} is neither 0 nor 1")),
    }
}

// The kernel's list format (bitmap_parselist: `0-3,7,8-15:1/4`); only its characters are checked here, since
// only the kernel knows which processors there are.
fn list(field: &str, list: Option<String>) -> Checked<Option<String>> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    if list.bytes().all(|b| b.is_ascii_digit() || b",-:/ \n".contains(&b)) {
        return Ok(Some(list));
    }
    invalid(field, format!("{list:?} is no list such as 0-3,7"))
}

fn memory(memory: &json::Memory, warnings: &mut Vec<String>) -> Checked<Memory> {
    for (field, value) in [("kernel", memory.kernel), ("kernelTCP", memory.kernel_tcp)] {
        if value.is_some_and(|value| value > 0) {
            warnings.push(format!("linux.resources.memory.{field}: the kernel has no such limit any more"));
        }
    }
    if memory.use_hierarchy == Some(false) {
        warnings.push("linux.resources.memory.useHierarchy: the kernel always accounts by hierarchy".into());
    }
    let limit = bytes("limit", memory.limit)?;
    Ok(Memory {
        limit,
        swap: swap(bytes("swap", memory.swap)?, limit)?,
        reservation: bytes("reservation", memory.reservation)?,
        swappiness: swappiness(memory.swappiness)?,
        disable_oom_killer: memory.disable_oom_killer.unwrap_or(false),
        check_before_update: memory.check_before_update.unwrap_or(false),
    })
}

// Zero is Go's way to leave a number out.
fn bytes(field: &str, value: Option<i64>) -> Checked<Option<Limit>> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Limit::Unlimited)),
        Some(value) => match u64::try_from(value) {
            Ok(value) => Ok(Some(Limit::To(value))),
            Err(_) => invalid(field, format!("{value} is neither a size nor -1")),
        },
    }
}

// The field counts memory and swap together, so it has no meaning without the limit, or below it.
fn swap(swap: Option<Limit>, limit: Option<Limit>) -> Checked<Option<Limit>> {
    match (swap, limit) {
        (None, Some(Limit::Unlimited)) => Ok(Some(Limit::Unlimited)),
        (Some(Limit::To(_)), None) => invalid("swap", "has no meaning without a memory limit"),
        (Some(Limit::To(swap)), Some(Limit::To(limit))) if swap < limit => {
            invalid("swap", format!("{swap} is below the memory limit {limit}, which it includes"))
        }
        (Some(Limit::To(swap)), Some(Limit::Unlimited)) => {
            invalid("swap", format!("{swap} is below the memory limit, which it includes and which is none"))
        }
        (swap, _) => Ok(swap),
    }
}

fn swappiness(swappiness: Option<u64>) -> Checked<Option<u64>> {
    match swappiness {
        Some(swappiness) if swappiness > 100 => {
            invalid("swappiness", format!("{swappiness} is not between 0 and 100"))
        }
        swappiness => Ok(swappiness),
    }
}

// A group that may hold no task at all cannot start one; runc reads 0 as 1.
fn pids(limit: i64) -> Limit {
    u64::try_from(limit).map_or(Limit::Unlimited, |limit| Limit::To(limit.max(1)))
}

fn block_io(io: json::BlockIo) -> Checked<BlockIo> {
    if io.leaf_weight.is_some_and(|weight| weight != 0) {
        return unsupported("leafWeight", "leaf weights (gone from the kernel since 5.0) are");
    }
    Ok(BlockIo {
        weight: weight("weight", io.weight)?,
        weight_devices: weight_devices(io.weight_device.unwrap_or_default())?,
        read_bps: throttle("throttleReadBpsDevice", io.throttle_read_bps_device)?,
        write_bps: throttle("throttleWriteBpsDevice", io.throttle_write_bps_device)?,
        read_iops: throttle("throttleReadIOPSDevice", io.throttle_read_iops_device)?,
        write_iops: throttle("throttleWriteIOPSDevice", io.throttle_write_iops_device)?,
    })
}

fn weight(field: &str, weight: Option<u16>) -> Checked<Option<u16>> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight) if (10..=1000).contains(&weight) => Ok(Some(weight)),
        Some(weight) => invalid(field, format!("{weight} is not between 10 and 1000")),
    }
}

fn weight_devices(listed: Vec<json::WeightDevice>) -> Checked<Vec<(DeviceNumber, u16)>> {
    let mut devices = Vec::with_capacity(listed.len());
    for (i, entry) in listed.into_iter().enumerate() {
        let at = || format!("weightDevice[{i}]");
        if entry.leaf_weight.is_some_and(|weight| weight != 0) {
            return unsupported(format!("{}.leafWeight", at()), "leaf weights are");
        }
        let number = DeviceNumber::check(entry.major, entry.minor).within(at)?;
        if let Some(weight) = weight("weight", entry.weight).within(at)? {
            devices.push((number, weight));
        }
    }
    Ok(devices)
}

fn throttle(field: &str, listed: Option<Vec<json::ThrottleDevice>>) -> Checked<Vec<(DeviceNumber, u64)>> {
    let check = |(i, entry): (usize, json::ThrottleDevice)| {
        let number = DeviceNumber::check(entry.major, entry.minor).within(|| format!("{field}[{i}]"))?;
        Ok((number, entry.rate.unwrap_or(0)))
    };
    listed.unwrap_or_default().into_iter().enumerate().map(check).collect()
}

fn devices(listed: &[json::DeviceRule]) -> Checked<Vec<DeviceRule>> {
    let check = |(i, rule)| device::rule(rule).within(|| format!("devices[{i}]"));
    listed.iter().enumerate().map(check).collect()
}

// containerd appends to the list with every resize, so of one size the last entry counts.
fn hugepages(listed: Vec<json::HugepageLimit>) -> Checked<Vec<(String, u64)>> {
    let mut limits: Vec<(String, u64)> = Vec::with_capacity(listed.len());
    for (i, entry) in listed.into_iter().enumerate() {
        let size = entry.page_size.unwrap_or_default();
        if !is_page_size(&size) {
            return invalid(
                format!("hugepageLimits[{i}].pageSize"),
                format!("{size:?} is no size such as 2MB"),
            );
        }
        limits.retain(|(listed, _)| *listed != size);
        limits.push((size, entry.limit.unwrap_or(0)));
    }
    Ok(limits)
}

// It becomes part of a file name (runtime-spec: `^[1-9][0-9]*[KMG]B$`).
fn is_page_size(size: &str) -> bool {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
    !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

fn unified(files: BTreeMap<String, String>) -> Checked<BTreeMap<String, String>> {
    let is_file_name = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    match files.keys().find(|name| !is_file_name(name)) {
        Some(name) => invalid("unified", format!("{name:?} is no file name")),
        None => Ok(files),
    }
}

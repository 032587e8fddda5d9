//! What a cgroup has used: everything that the two Metrics messages of containerd hold.
//!
//! Field names are the kernel's or those of the messages; an absent file is an absent value, never zero. The
//! network is not in here, and neither are the device names of block devices.

mod parse;
mod v1;
mod v2;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use dunnage_sys::kernfs::{Access, Dir, read_again};

use crate::controller::Controller;

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Stats {
    /// `io.containerd.cgroups.v1.Metrics`: legacy and hybrid machines.
    V1(V1),
    /// `io.containerd.cgroups.v2.Metrics`.
    V2(V2),
}

impl Stats {
    /// Processes killed for want of memory, as far as the kernel counts them.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        match self {
            Self::V1(stats) => stats.oom_control.as_ref()?.oom_kill,
            Self::V2(stats) => stats.memory_events.as_ref()?.oom_kill,
        }
    }

    /// An earlier reading with a later count.
    pub(crate) fn with_oom_kills(mut self, kills: u64) -> Self {
        if let Self::V2(stats) = &mut self
            && let Some(events) = &mut stats.memory_events
        {
            events.oom_kill = events.oom_kill.max(Some(kills));
        }
        self
    }
}

/// The line `oom_kill` of either version's file.
pub(crate) fn kills(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// A number of tasks and its limit; a limit of `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pids {
    /// Tasks now.
    pub current: u64,
    /// Tasks at most.
    pub limit: Option<u64>,
}

/// Pressure stall information of one resource (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Option<Stall>,
    /// All tasks waited.
    pub full: Option<Stall>,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

/// One RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rdma {
    /// Such as `mlx4_0`.
    pub device: String,
    /// `u32::MAX` is no limit.
    pub hca_handles: u32,
    /// `u32::MAX` is no limit.
    pub hca_objects: u32,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hugepages {
    /// Such as `2MB`.
    pub size: String,
    /// In use.
    pub usage: u64,
    /// v1: the most that was in use. v2: the limit.
    pub max: Option<u64>,
    /// Allocations refused.
    pub failures: Option<u64>,
}

/// Cgroup v2. Times are in microseconds, memory in bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct V2 {
    /// `pids.current`, `pids.max`
    pub pids: Option<Pids>,
    /// `cpu.stat`, there even without the controller.
    pub cpu: Option<CpuV2>,
    /// `memory.stat` and the single numbers.
    pub memory: Option<MemoryV2>,
    /// `memory.events`
    pub memory_events: Option<MemoryEvents>,
    /// `rdma.current`
    pub rdma_current: Vec<Rdma>,
    /// `rdma.max`
    pub rdma_limit: Vec<Rdma>,
    /// `io.stat`
    pub io: Option<Vec<IoV2>>,
    /// `io.pressure`
    pub io_pressure: Option<Pressure>,
    /// `hugetlb.*`
    pub hugepages: Vec<Hugepages>,
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? } $(plus { $($(#[$extra_doc:meta])* $extra:ident: $type:ty),* $(,)? })?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $name {
            $(#[doc = concat!("`", stringify!($field), "`")] pub $field: Option<u64>,)*
            $($($(#[$extra_doc])* pub $extra: $type,)*)?
        }

        impl $name {
            /// Where the value of a key of the kernel's file goes.
            fn field(&mut self, key: &str) -> Option<&mut Option<u64>> {
                match key {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

counters! {
    /// `cpu.stat` and `cpu.pressure`.
    CpuV2 {
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec,
    } plus {
        /// `cpu.pressure`
        pressure: Option<Pressure>,
    }
}

counters! {
    /// `memory.stat` by its keys, the single numbers and `memory.pressure`.
    MemoryV2 {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable,
        slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate,
        workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed,
        thp_fault_alloc, thp_collapse_alloc,
    } plus {
        /// `memory.current`
        usage: Option<u64>,
        /// `memory.max`; `u64::MAX` is none.
        usage_limit: Option<u64>,
        /// `memory.peak`
        max_usage: Option<u64>,
        /// `memory.swap.current`
        swap_usage: Option<u64>,
        /// `memory.swap.max`; `u64::MAX` is none.
        swap_limit: Option<u64>,
        /// `memory.swap.peak`
        swap_max_usage: Option<u64>,
        /// `memory.pressure`
        pressure: Option<Pressure>,
    }
}

counters! {
    /// `memory.events`.
    MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill }
}

counters! {
    /// One line of `io.stat`.
    IoV2 { rbytes, wbytes, rios, wios } plus {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    }
}

/// Cgroup v1. Times are in nanoseconds, memory in bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct V1 {
    /// `pids.current`, `pids.max`
    pub pids: Option<Pids>,
    /// `cpuacct.*`
    pub usage: Option<CpuUsage>,
    /// `cpu.stat`
    pub throttling: Option<Throttling>,
    /// `memory.stat` and the four groups of numbers.
    pub memory: Option<MemoryV1>,
    /// `memory.oom_control`
    pub oom_control: Option<OomControl>,
    /// `blkio.*`
    pub block_io: BlockIoV1,
    /// `hugetlb.*`
    pub hugepages: Vec<Hugepages>,
    /// `rdma.current`
    pub rdma_current: Vec<Rdma>,
    /// `rdma.max`
    pub rdma_limit: Vec<Rdma>,
}

/// `cpuacct.*`, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuUsage {
    /// `cpuacct.usage`
    pub total: u64,
    /// `cpuacct.stat`, which counts hundredths of a second.
    pub kernel: Option<u64>,
    /// `cpuacct.stat`, which counts hundredths of a second.
    pub user: Option<u64>,
    /// `cpuacct.usage_percpu`
    pub per_cpu: Vec<u64>,
}

counters! {
    /// `cpu.stat`; the time is in nanoseconds.
    Throttling { nr_periods, nr_throttled, throttled_time }
}

counters! {
    /// `memory.oom_control`.
    OomControl { oom_kill_disable, under_oom, oom_kill }
}

counters! {
    /// One level's counters of `memory.stat`.
    MemoryCounters {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pgpgin, pgpgout, pgfault, pgmajfault,
        inactive_anon, active_anon, inactive_file, active_file, unevictable,
    }
}

/// `memory.*` of v1.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemoryV1 {
    /// This cgroup alone.
    pub own: MemoryCounters,
    /// `total_*`: with everything below.
    pub total: MemoryCounters,
    /// The smallest limit of this cgroup and its ancestors.
    pub hierarchical_memory_limit: Option<u64>,
    /// The same for memory and swap.
    pub hierarchical_memsw_limit: Option<u64>,
    /// `memory.*_in_bytes`
    pub usage: Option<MemoryEntry>,
    /// `memory.memsw.*`
    pub swap: Option<MemoryEntry>,
    /// `memory.kmem.*`
    pub kernel: Option<MemoryEntry>,
    /// `memory.kmem.tcp.*`
    pub kernel_tcp: Option<MemoryEntry>,
}

/// Four numbers about one kind of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEntry {
    /// In use.
    pub usage: u64,
    /// No limit is about 2^63.
    pub limit: Option<u64>,
    /// The most that was in use.
    pub max: Option<u64>,
    /// How often the limit was hit.
    pub failures: Option<u64>,
}

/// Lists of `blkio`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockIoV1 {
    /// Bytes.
    pub service_bytes: Vec<BlockIoEntry>,
    /// Operations.
    pub serviced: Vec<BlockIoEntry>,
    /// Operations waiting (BFQ with debugging).
    pub queued: Vec<BlockIoEntry>,
    /// Nanoseconds (BFQ with debugging).
    pub service_time: Vec<BlockIoEntry>,
    /// Nanoseconds (BFQ with debugging).
    pub wait_time: Vec<BlockIoEntry>,
    /// Operations (BFQ with debugging).
    pub merged: Vec<BlockIoEntry>,
    /// Milliseconds (BFQ with debugging).
    pub time: Vec<BlockIoEntry>,
    /// Sectors (BFQ with debugging).
    pub sectors: Vec<BlockIoEntry>,
}

/// One number for a device and an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIoEntry {
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the file has none.
    pub op: String,
    /// In the unit of its list.
    pub value: u64,
}

/// Reads again and again from the same descriptors into the same buffer.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// By name, which is the same in no two hierarchies; `None` is absent.
    files: HashMap<&'static str, Option<OwnedFd>>,
    buffer: Vec<u8>,
    /// Sizes of huge pages that have files here; asked for once.
    sizes: Option<Vec<String>>,
}

/// Where the files of a controller are.
type Dirs<'a> = dyn Fn(Controller) -> Option<&'a Dir> + 'a;

impl Reader {
    /// The text of a file, or nothing if it is absent, cannot be read now (pressure switched off) or the cgroup is
    /// gone.
    fn text<'b>(
        &'b mut self,
        dirs: &Dirs<'_>,
        controller: Controller,
        name: &'static str,
    ) -> Option<&'b str> {
        let open = || dirs(controller)?.open_file(name, Access::Read).ok();
        let file = self.files.entry(name).or_insert_with(open).as_ref()?;
        read_again(file, &mut self.buffer).ok()?;
        str::from_utf8(&self.buffer).ok()
    }

    fn number(&mut self, dirs: &Dirs<'_>, controller: Controller, name: &'static str) -> Option<u64> {
        parse::number(self.text(dirs, controller, name)?)
    }

    fn pids(&mut self, dirs: &Dirs<'_>) -> Option<Pids> {
        let current = self.number(dirs, Controller::Pids, "pids.current")?;
        Some(Pids { current, limit: self.number(dirs, Controller::Pids, "pids.max") })
    }

    fn rdma(&mut self, dirs: &Dirs<'_>, name: &'static str) -> Vec<Rdma> {
        self.text(dirs, Controller::Rdma, name).map(parse::rdma).unwrap_or_default()
    }

    /// Huge pages, by the names of the files for usage and maximum and by where the failures are.
    fn hugepages(
        &mut self,
        dirs: &Dirs<'_>,
        names: [&str; 3],
        failures: fn(&str) -> Option<u64>,
    ) -> Vec<Hugepages> {
        let Some(dir) = dirs(Controller::Hugetlb) else { return Vec::new() };
        let [usage, max, failed] = names;
        let sizes = self.sizes.get_or_insert_with(|| sizes(dir, usage));
        let mut read = |size: &str, name: &str| {
            dir.read(format!("hugetlb.{size}.{name}"), &mut self.buffer).ok()?;
            str::from_utf8(&self.buffer).ok().map(str::to_owned)
        };
        let one = |size: &String| {
            Some(Hugepages {
                size: size.clone(),
                usage: parse::number(&read(size, usage)?)?,
                max: read(size, max).and_then(|text| parse::number(&text)),
                failures: read(size, failed).and_then(|text| failures(&text)),
            })
        };
        sizes.iter().filter_map(one).collect()
    }
}

fn sizes(dir: &Dir, usage: &str) -> Vec<String> {
    let size = |name: std::ffi::OsString| {
        let name = name.into_string().ok()?;
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.')?.to_owned();
        // `hugetlb.2MB.rsvd.current` is about reservations.
        (!size.contains('.')).then_some(size)
    };
    let mut sizes: Vec<_> = dir.files().unwrap_or_default().into_iter().filter_map(size).collect();
    sizes.sort();
    sizes
}

//! Reading cgroup v1.

use super::{
    BlockIoEntry, BlockIoV1, CpuUsage, Dirs, MemoryEntry, MemoryV1, OomControl, Reader, Throttling, V1, parse,
};
use crate::controller::Controller;

/// `cpuacct.stat` counts in USER_HZ, which is 100 on every machine (time(7)).
const TICK_NS: u64 = 10_000_000;

impl Reader {
    pub(crate) fn v1(&mut self, dirs: &Dirs<'_>) -> V1 {
        V1 {
            pids: self.pids(dirs),
            usage: self.cpu_usage(dirs),
            throttling: self.throttling(dirs),
            memory: self.memory_v1(dirs),
            oom_control: self.oom_control(dirs),
            block_io: self.block_io_v1(dirs),
            hugepages: self.hugepages(
                dirs,
                ["usage_in_bytes", "max_usage_in_bytes", "failcnt"],
                parse::number,
            ),
            rdma_current: self.rdma(dirs, "rdma.current"),
            rdma_limit: self.rdma(dirs, "rdma.max"),
        }
    }

    fn cpu_usage(&mut self, dirs: &Dirs<'_>) -> Option<CpuUsage> {
        let mut usage = CpuUsage {
            total: self.number(dirs, Controller::Cpuacct, "cpuacct.usage")?,
            ..CpuUsage::default()
        };
        for (key, ticks) in
            parse::keyed(self.text(dirs, Controller::Cpuacct, "cpuacct.stat").unwrap_or_default())
        {
            match key {
                "user" => usage.user = Some(ticks.saturating_mul(TICK_NS)),
                "system" => usage.kernel = Some(ticks.saturating_mul(TICK_NS)),
                _ => {}
            }
        }
        let per_cpu = self.text(dirs, Controller::Cpuacct, "cpuacct.usage_percpu").unwrap_or_default();
        usage.per_cpu = per_cpu.split_ascii_whitespace().filter_map(|cpu| cpu.parse().ok()).collect();
        Some(usage)
    }

    fn throttling(&mut self, dirs: &Dirs<'_>) -> Option<Throttling> {
        let mut throttling = Throttling::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Cpu, "cpu.stat")?) {
            if let Some(field) = throttling.field(key) {
                *field = Some(value);
            }
        }
        Some(throttling)
    }

    fn memory_v1(&mut self, dirs: &Dirs<'_>) -> Option<MemoryV1> {
        let mut memory = MemoryV1::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Memory, "memory.stat")?) {
            let field = match (key, key.strip_prefix("total_")) {
                ("hierarchical_memory_limit", _) => Some(&mut memory.hierarchical_memory_limit),
                ("hierarchical_memsw_limit", _) => Some(&mut memory.hierarchical_memsw_limit),
                (_, Some(key)) => memory.total.field(key),
                (key, None) => memory.own.field(key),
            };
            if let Some(field) = field {
                *field = Some(value);
            }
        }
        memory.usage = self.entry(
            dirs,
            ["memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt"],
        );
        memory.swap = self.entry(
            dirs,
            [
                "memory.memsw.usage_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.memsw.max_usage_in_bytes",
                "memory.memsw.failcnt",
            ],
        );
        memory.kernel = self.entry(
            dirs,
            [
                "memory.kmem.usage_in_bytes",
                "memory.kmem.limit_in_bytes",
                "memory.kmem.max_usage_in_bytes",
                "memory.kmem.failcnt",
            ],
        );
        memory.kernel_tcp = self.entry(
            dirs,
            [
                "memory.kmem.tcp.usage_in_bytes",
                "memory.kmem.tcp.limit_in_bytes",
                "memory.kmem.tcp.max_usage_in_bytes",
                "memory.kmem.tcp.failcnt",
            ],
        );
        Some(memory)
    }

    fn entry(
        &mut self,
        dirs: &Dirs<'_>,
        [usage, limit, max, failures]: [&'static str; 4],
    ) -> Option<MemoryEntry> {
        Some(MemoryEntry {
            usage: self.number(dirs, Controller::Memory, usage)?,
            limit: self.number(dirs, Controller::Memory, limit),
            max: self.number(dirs, Controller::Memory, max),
            failures: self.number(dirs, Controller::Memory, failures),
        })
    }

    fn oom_control(&mut self, dirs: &Dirs<'_>) -> Option<OomControl> {
        let mut control = OomControl::default();
        for (key, value) in parse::keyed(self.text(dirs, Controller::Memory, "memory.oom_control")?) {
            if let Some(field) = control.field(key) {
                *field = Some(value);
            }
        }
        Some(control)
    }

    /// BFQ counts what goes through it, the throttling layer everything; the first that has numbers is taken.
    fn block_io_v1(&mut self, dirs: &Dirs<'_>) -> BlockIoV1 {
        let mut list = |names: &[&'static str]| -> Vec<BlockIoEntry> {
            let read = |name: &&'static str| self.text(dirs, Controller::Io, name).map(parse::block_io);
            names.iter().filter_map(read).find(|entries| !entries.is_empty()).unwrap_or_default()
        };
        BlockIoV1 {
            service_bytes: list(&[
                "blkio.throttle.io_service_bytes_recursive",
                "blkio.throttle.io_service_bytes",
            ]),
            serviced: list(&["blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"]),
            queued: list(&["blkio.bfq.io_queued_recursive"]),
            service_time: list(&["blkio.bfq.io_service_time_recursive"]),
            wait_time: list(&["blkio.bfq.io_wait_time_recursive"]),
            merged: list(&["blkio.bfq.io_merged_recursive"]),
            time: list(&["blkio.bfq.time_recursive"]),
            sectors: list(&["blkio.bfq.sectors_recursive"]),
        }
    }
}

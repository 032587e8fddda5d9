//! `io.containerd.cgroups.v1.Metrics`.

use dunnage_api::metrics::v1 as wire;
use dunnage_cgroup::stats;

use super::same_names;

pub(super) fn metrics(stats: &stats::V1) -> wire::Metrics {
    wire::Metrics {
        hugetlb: stats.hugepages.iter().map(hugepages).collect(),
        pids: stats
            .pids
            .map(|pids| wire::PidsStat { current: pids.current, limit: pids.limit.unwrap_or_default() }),
        cpu: cpu(stats),
        memory: stats.memory.as_ref().map(memory),
        blkio: block_io(&stats.block_io),
        rdma: rdma(&stats.rdma_current, &stats.rdma_limit),
        network: Vec::new(),
        cgroup_stats: None,
        memory_oom_control: stats.oom_control.as_ref().map(
            |control| same_names!(control => MemoryOomControl { oom_kill_disable, under_oom, oom_kill }),
        ),
    }
}

fn cpu(stats: &stats::V1) -> Option<wire::CpuStat> {
    let usage = stats.usage.as_ref().map(|usage| wire::CpuUsage {
        total: usage.total,
        kernel: usage.kernel.unwrap_or_default(),
        user: usage.user.unwrap_or_default(),
        per_cpu: usage.per_cpu.clone(),
    });
    let throttling = stats.throttling.as_ref().map(|throttling| wire::Throttle {
        periods: throttling.nr_periods.unwrap_or_default(),
        throttled_periods: throttling.nr_throttled.unwrap_or_default(),
        throttled_time: throttling.throttled_time.unwrap_or_default(),
    });
    (usage.is_some() || throttling.is_some()).then_some(wire::CpuStat { usage, throttling })
}

fn memory(memory: &stats::MemoryV1) -> wire::MemoryStat {
    let (own, total) = (&memory.own, &memory.total);
    let entry = |entry: stats::MemoryEntry| wire::MemoryEntry {
        limit: entry.limit.unwrap_or_default(),
        usage: entry.usage,
        max: entry.max.unwrap_or_default(),
        failcnt: entry.failures.unwrap_or_default(),
    };
    same_names!(own => MemoryStat {
        cache, rss, rss_huge, mapped_file, dirty, writeback, inactive_anon, active_anon, inactive_file,
        active_file, unevictable,
    }
        pg_pg_in: own.pgpgin.unwrap_or_default(),
        pg_pg_out: own.pgpgout.unwrap_or_default(),
        pg_fault: own.pgfault.unwrap_or_default(),
        pg_maj_fault: own.pgmajfault.unwrap_or_default(),
        hierarchical_memory_limit: memory.hierarchical_memory_limit.unwrap_or_default(),
        hierarchical_swap_limit: memory.hierarchical_memsw_limit.unwrap_or_default(),
        total_cache: total.cache.unwrap_or_default(),
        total_rss: total.rss.unwrap_or_default(),
        total_rss_huge: total.rss_huge.unwrap_or_default(),
        total_mapped_file: total.mapped_file.unwrap_or_default(),
        total_dirty: total.dirty.unwrap_or_default(),
        total_writeback: total.writeback.unwrap_or_default(),
        total_pg_pg_in: total.pgpgin.unwrap_or_default(),
        total_pg_pg_out: total.pgpgout.unwrap_or_default(),
        total_pg_fault: total.pgfault.unwrap_or_default(),
        total_pg_maj_fault: total.pgmajfault.unwrap_or_default(),
        total_inactive_anon: total.inactive_anon.unwrap_or_default(),
        total_active_anon: total.active_anon.unwrap_or_default(),
        total_inactive_file: total.inactive_file.unwrap_or_default(),
        total_active_file: total.active_file.unwrap_or_default(),
        total_unevictable: total.unevictable.unwrap_or_default(),
        usage: memory.usage.map(entry),
        swap: memory.swap.map(entry),
        kernel: memory.kernel.map(entry),
        kernel_tcp: memory.kernel_tcp.map(entry),
    )
}

fn block_io(io: &stats::BlockIoV1) -> Option<wire::BlkIoStat> {
    let entries = |entries: &[stats::BlockIoEntry]| {
        let entry = |entry: &stats::BlockIoEntry| wire::BlkIoEntry {
            op: entry.op.clone(),
            device: String::new(),
            major: entry.major.into(),
            minor: entry.minor.into(),
            value: entry.value,
        };
        entries.iter().map(entry).collect()
    };
    (*io != stats::BlockIoV1::default()).then(|| wire::BlkIoStat {
        io_service_bytes_recursive: entries(&io.service_bytes),
        io_serviced_recursive: entries(&io.serviced),
        io_queued_recursive: entries(&io.queued),
        io_service_time_recursive: entries(&io.service_time),
        io_wait_time_recursive: entries(&io.wait_time),
        io_merged_recursive: entries(&io.merged),
        io_time_recursive: entries(&io.time),
        sectors_recursive: entries(&io.sectors),
    })
}

fn hugepages(pages: &stats::Hugepages) -> wire::HugetlbStat {
    wire::HugetlbStat {
        usage: pages.usage,
        max: pages.max.unwrap_or_default(),
        failcnt: pages.failures.unwrap_or_default(),
        pagesize: pages.size.clone(),
    }
}

fn rdma(current: &[stats::Rdma], limit: &[stats::Rdma]) -> Option<wire::RdmaStat> {
    let entry = |rdma: &stats::Rdma| wire::RdmaEntry {
        device: rdma.device.clone(),
        hca_handles: rdma.hca_handles,
        hca_objects: rdma.hca_objects,
    };
    (!current.is_empty() || !limit.is_empty()).then(|| wire::RdmaStat {
        current: current.iter().map(entry).collect(),
        limit: limit.iter().map(entry).collect(),
    })
}

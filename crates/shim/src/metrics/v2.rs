//! `io.containerd.cgroups.v2.Metrics`.

use dunnage_api::metrics::v2 as wire;
use dunnage_cgroup::stats;

use super::same_names;

pub(super) fn metrics(stats: &stats::V2) -> wire::Metrics {
    wire::Metrics {
        pids: stats
            .pids
            .map(|pids| wire::PidsStat { current: pids.current, limit: pids.limit.unwrap_or_default() }),
        cpu: stats.cpu.as_ref().map(cpu),
        memory: stats.memory.as_ref().map(memory),
        rdma: rdma(&stats.rdma_current, &stats.rdma_limit),
        io: stats.io.as_ref().map(|entries| wire::IoStat {
            usage: entries.iter().map(io).collect(),
            psi: stats.io_pressure.map(pressure),
        }),
        hugetlb: stats.hugepages.iter().map(hugepages).collect(),
        memory_events: stats.memory_events.as_ref().map(
            |events| same_names!(events => MemoryEvents { low, high, max, oom, oom_kill, oom_group_kill }),
        ),
        network: Vec::new(),
    }
}

fn cpu(cpu: &stats::CpuV2) -> wire::CpuStat {
    same_names!(cpu => CpuStat {
        usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec,
    } psi: cpu.pressure.map(pressure))
}

fn memory(memory: &stats::MemoryV2) -> wire::MemoryStat {
    same_names!(memory => MemoryStat {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
        inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable,
        slab_unreclaimable, pgfault, pgmajfault, workingset_refault, workingset_activate,
        workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed,
        thp_fault_alloc, thp_collapse_alloc, usage, usage_limit, swap_usage, swap_limit, max_usage,
        swap_max_usage,
    } psi: memory.pressure.map(pressure))
}

fn io(entry: &stats::IoV2) -> wire::IoEntry {
    same_names!(entry => IoEntry { rbytes, wbytes, rios, wios }
        major: entry.major.into(), minor: entry.minor.into())
}

fn hugepages(pages: &stats::Hugepages) -> wire::HugeTlbStat {
    wire::HugeTlbStat {
        current: pages.usage,
        max: pages.max.unwrap_or_default(),
        pagesize: pages.size.clone(),
        failcnt: pages.failures.unwrap_or_default(),
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

fn pressure(pressure: stats::Pressure) -> wire::PsiStats {
    let stall = |stall: stats::Stall| wire::PsiData {
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
        total: stall.total_us,
    };
    wire::PsiStats { some: pressure.some.map(stall), full: pressure.full.map(stall) }
}

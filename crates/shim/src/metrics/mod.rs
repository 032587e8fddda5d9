//! A reading of a cgroup as containerd's Metrics message of its version. An absent value is 0 on the wire,
//! where proto3 cannot tell the two apart; an absent group is an absent message.

mod v1;
mod v2;

use dunnage_api::any::{self, Any};
use dunnage_cgroup::Stats;

/// Packs the reading.
pub(crate) fn wire(stats: &Stats) -> Any {
    match stats {
        Stats::V1(stats) => any::pack(&v1::metrics(stats)),
        Stats::V2(stats) => any::pack(&v2::metrics(stats)),
    }
}

/// `$message { $field: from.$field or 0, … }`, for the many fields that carry the kernel's own names.
macro_rules! same_names {
    ($from:expr => $message:ident { $($field:ident),* $(,)? } $($rest:tt)*) => {
        wire::$message { $($field: $from.$field.unwrap_or_default(),)* $($rest)* }
    };
}
use same_names;

#[cfg(test)]
mod tests {
    use dunnage_api::metrics;
    use dunnage_cgroup::stats;

    use super::*;

    #[test]
    fn a_v2_reading_keeps_the_kernels_names_and_the_out_of_memory_count() {
        let memory_events = Some(stats::MemoryEvents { oom_kill: Some(3), ..Default::default() });
        let cpu = Some(stats::CpuV2 { nr_throttled: Some(7), ..Default::default() });
        let any = wire(&Stats::V2(stats::V2 { memory_events, cpu, ..Default::default() }));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let message: metrics::v2::Metrics = any::unpack(&any).unwrap().unwrap();
        assert_eq!(message.memory_events.unwrap().oom_kill, 3);
        assert_eq!(message.cpu.unwrap().nr_throttled, 7);
        assert_eq!(message.memory, None, "what was not there is not sent");
    }

    #[test]
    fn a_v1_reading_has_both_levels_of_memory_and_the_throttling() {
        let own = stats::MemoryCounters { rss: Some(1), ..Default::default() };
        let total = stats::MemoryCounters { rss: Some(2), ..Default::default() };
        let memory = Some(stats::MemoryV1 { own, total, ..Default::default() });
        let throttling = Some(stats::Throttling { nr_throttled: Some(5), ..Default::default() });
        let any = wire(&Stats::V1(stats::V1 { memory, throttling, ..Default::default() }));
        let message: metrics::v1::Metrics = any::unpack(&any).unwrap().unwrap();
        let memory = message.memory.unwrap();
        assert_eq!((memory.rss, memory.total_rss), (1, 2));
        assert_eq!(message.cpu.unwrap().throttling.unwrap().throttled_periods, 5);
    }
}

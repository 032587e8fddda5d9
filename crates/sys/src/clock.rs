//! Clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, also while it slept (`CLOCK_BOOTTIME`).
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is negative: this clock begins at zero.
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::since_boot;

    #[test]
    fn it_is_what_proc_uptime_says_and_goes_on() {
        let before = since_boot();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        let after = since_boot();
        assert!((before.as_secs()..=after.as_secs()).contains(&uptime), "{before:?} {uptime} {after:?}");
    }
}

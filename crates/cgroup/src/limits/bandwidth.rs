//! CPU quota, period and burst: three values that the kernel checks against each other at every write.
//!
//! The rules (kernel/sched/core.c, tg_set_cfs_bandwidth): a burst is at most the quota; newer kernels refuse a
//! burst without a quota; on v1, quota/period is at most the parent's and the two are separate files.

use dunnage_spec::resources::{Cpu, Limit};

/// Values in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bandwidth {
    pub(super) quota: Limit,
    pub(super) period: u64,
    pub(super) burst: u64,
}

pub(super) const DEFAULT: Bandwidth = Bandwidth { quota: Limit::Unlimited, period: 100_000, burst: 0 };

/// One write on the way; v2 joins quota and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Quota(Limit),
    Period(u64),
    Burst(u64),
}

/// What is wanted, completed by what is there. The second value is a burst that had to be cut, since an update
/// that only shrinks the quota must not fail because of it.
pub(super) fn target(wanted: &Cpu, live: Bandwidth) -> (Bandwidth, Option<u64>) {
    let quota = match wanted.quota_us {
        None | Some(Limit::To(0)) => live.quota,
        Some(quota) => quota,
    };
    let period = wanted.period_us.filter(|period| *period > 0).unwrap_or(live.period);
    let wish = wanted.burst_us.unwrap_or(live.burst);
    let burst = match quota {
        Limit::Unlimited => 0,
        Limit::To(quota) => wish.min(quota),
    };
    let cut = (wanted.burst_us.is_some() && burst < wish).then_some(wish);
    (Bandwidth { quota, period, burst }, cut)
}

/// The writes from one valid state to another through valid states only.
pub(super) fn steps(from: Bandwidth, to: Bandwidth) -> Vec<Step> {
    let mut steps = Vec::new();
    // A smaller burst fits under both quotas only before, a larger one only after the quota has changed.
    if to.burst < from.burst {
        steps.push(Step::Burst(to.burst));
    }
    let (quota, period) = (Step::Quota(to.quota), Step::Period(to.period));
    match (to.quota == from.quota, to.period == from.period) {
        (true, true) => {}
        (true, false) => steps.push(period),
        (false, true) => steps.push(quota),
        (false, false) if period_first(from, to) => steps.extend([period, quota]),
        (false, false) => steps.extend([quota, period]),
    }
    if to.burst > from.burst {
        steps.push(Step::Burst(to.burst));
    }
    steps
}

/// Of the two states in between, the one with the smaller share of CPU is never above both ends, so a parent
/// that allows both ends allows it.
fn period_first(from: Bandwidth, to: Bandwidth) -> bool {
    match (from.quota, to.quota) {
        (Limit::Unlimited, _) => true,
        (_, Limit::Unlimited) => false,
        (Limit::To(old), Limit::To(new)) => {
            u128::from(old) * u128::from(from.period) <= u128::from(new) * u128::from(to.period)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpu(quota: Option<Limit>, period: Option<u64>, burst: Option<u64>) -> Cpu {
        Cpu { quota_us: quota, period_us: period, burst_us: burst, ..Cpu::default() }
    }

    const HALF: Bandwidth = Bandwidth { quota: Limit::To(50_000), period: 100_000, burst: 20_000 };

    #[test]
    fn a_period_alone_keeps_the_quota() {
        let (to, _) = target(&cpu(None, Some(50_000), None), HALF);
        assert_eq!(to, Bandwidth { period: 50_000, ..HALF });
    }

    #[test]
    fn a_quota_below_a_stale_burst_shrinks_the_burst_first() {
        let (to, cut) = target(&cpu(Some(Limit::To(10_000)), None, None), HALF);
        assert_eq!(steps(HALF, to), [Step::Burst(10_000), Step::Quota(Limit::To(10_000))]);
        assert_eq!(cut, None);
    }

    #[test]
    fn without_a_quota_there_is_no_burst() {
        let (to, cut) = target(&cpu(Some(Limit::Unlimited), None, Some(30_000)), HALF);
        assert_eq!(steps(HALF, to), [Step::Burst(0), Step::Quota(Limit::Unlimited)]);
        assert_eq!(cut, Some(30_000));
    }

    #[test]
    fn a_larger_burst_waits_for_its_quota() {
        let (to, _) = target(&cpu(Some(Limit::To(80_000)), None, Some(60_000)), HALF);
        assert_eq!(steps(HALF, to), [Step::Quota(Limit::To(80_000)), Step::Burst(60_000)]);
    }

    prop_compose! {
        fn bandwidth()(quota in prop::option::of(1000u64..1_000_000), period in 1000u64..1_000_000, share in 0u64..=100)
            -> Bandwidth {
            match quota {
                None => Bandwidth { quota: Limit::Unlimited, period, burst: 0 },
                Some(quota) => Bandwidth { quota: Limit::To(quota), period, burst: quota * share / 100 },
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn share(bandwidth: Bandwidth) -> f64 {
        match bandwidth.quota {
            Limit::Unlimited => 0.0, // On v1 it means the parent's.
            Limit::To(quota) => quota as f64 / bandwidth.period as f64,
        }
    }

    proptest! {
        #[test]
        fn every_state_on_the_way_is_allowed(from in bandwidth(), to in bandwidth()) {
            let parent = share(from).max(share(to)) + 1e-9;
            let mut now = from;
            for step in steps(from, to) {
                match step {
                    Step::Quota(quota) => now.quota = quota,
                    Step::Period(period) => now.period = period,
                    Step::Burst(burst) => now.burst = burst,
                }
                prop_assert!(share(now) <= parent, "{now:?} is more than the parent's");
                match now.quota {
                    Limit::Unlimited => prop_assert_eq!(now.burst, 0),
                    Limit::To(quota) => prop_assert!(now.burst <= quota, "{now:?} has too much burst"),
                }
            }
            prop_assert_eq!(now, to);
        }
    }
}

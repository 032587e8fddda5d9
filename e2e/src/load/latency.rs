//! How long calls took, by name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

/// Durations of calls by the call's name.
#[derive(Debug, Default)]
pub struct Latencies {
    calls: RefCell<BTreeMap<&'static str, Vec<Duration>>>,
}

impl Latencies {
    /// Awaits a call and keeps how long it took, whatever it answered.
    pub async fn time<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let answer = call.await;
        self.calls.borrow_mut().entry(name).or_default().push(start.elapsed());
        answer
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18}{:>8}{:>10}{:>10}{:>10}{:>10}  ms",
            "call", "count", "median", "p90", "p99", "max"
        )?;
        for (name, took) in self.calls.borrow().iter() {
            let mut took = took.clone();
            took.sort();
            let ms = |percent| at(&took, percent).as_secs_f64() * 1e3;
            writeln!(
                f,
                "{name:<18}{:>8}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
                took.len(),
                ms(50),
                ms(90),
                ms(99),
                ms(100)
            )?;
        }
        Ok(())
    }
}

/// The value that `percent` of the sorted values do not exceed (nearest rank).
fn at(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        let ms = |percent| at(&sorted, percent).as_millis();
        assert_eq!([ms(50), ms(90), ms(99), ms(100)], [5, 9, 10, 10]);
        assert_eq!(at(&sorted[..1], 50), Duration::from_millis(1));
    }
}

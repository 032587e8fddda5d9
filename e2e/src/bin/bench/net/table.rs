//! What was measured of the pod network, as a table for people and as JSON for programs.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// How long ADD and DEL took, of one contender in one situation.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    adds: Vec<Duration>,
    dels: Vec<Duration>,
}

/// One situation.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Pods that are present, or that come at the same time.
    pods: usize,
    pub(super) ours: Samples,
    pub(super) reference: Samples,
    pub(super) library: Samples,
    pub(super) floor: Samples,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(super) rows: Vec<Row>,
    pub(super) parallel: Row,
    pub(super) status: Samples,
    /// Who is missing from some of it, and why.
    pub(crate) failures: Vec<String>,
}

impl Samples {
    pub(super) fn push(&mut self, counts: bool, (add, del): (Duration, Duration)) {
        if counts {
            self.adds.push(add);
            self.dels.push(del);
        }
    }
}

impl Row {
    pub(super) fn with(pods: usize) -> Self {
        Self { pods, ..Self::default() }
    }

    fn json(&self) -> Value {
        let of = |samples: &Samples| json!({"add": summary(&samples.adds), "del": summary(&samples.dels)});
        json!({"pods": self.pods, "dunnage": of(&self.ours), "reference": of(&self.reference),
            "library": of(&self.library), "floor": of(&self.floor)})
    }

    /// Programs: ours, the reference, how many times faster.
    fn programs(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        write!(f, "  {name:<15}")?;
        for (ours, reference) in
            [(&self.ours.adds, &self.reference.adds), (&self.ours.dels, &self.reference.dels)]
        {
            let times = ratio(reference, ours).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.0}×"));
            write!(f, " {:>15} {:>15} {times:>5}", cell(ours, 1e3), cell(reference, 1e3))?;
        }
        writeln!(f)
    }

    /// In process: the library, the floor, how many times slower.
    fn process(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        write!(f, "  {name:<15}")?;
        for (library, floor) in
            [(&self.library.adds, &self.floor.adds), (&self.library.dels, &self.floor.dels)]
        {
            let times = ratio(library, floor).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            write!(f, " {:>15} {:>15} {times:>5}", cell(library, 1e6), cell(floor, 1e6))?;
        }
        writeln!(f)
    }
}

impl Table {
    pub(crate) fn json(&self) -> Value {
        json!({"rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(), "parallel": self.parallel.json(),
            "status": summary(&self.status.adds), "failures": self.failures})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |row: &Row| if row.pods == 0 { "alone".to_owned() } else { format!("{} pods there", row.pods) };
        let rounds = self.rows.first().map_or(0, |row| row.ours.adds.len());
        writeln!(f, "\npod network, {rounds} rounds, milliseconds: median (p90), and how many times faster")?;
        writeln!(
            f,
            "  {:<15} {:>15} {:>15} {:>5} {:>15} {:>15}",
            "", "ADD dunnage", "reference", "", "DEL dunnage", "reference"
        )?;
        for row in &self.rows {
            row.programs(f, &name(row))?;
        }
        self.parallel.programs(f, &format!("{} at a time", self.parallel.pods))?;
        writeln!(f, "  {:<15} {:>15}", "STATUS", cell(&self.status.adds, 1e3))?;
        writeln!(f, "\nin one process, microseconds: median (p90), and how many times the bare messages")?;
        writeln!(
            f,
            "  {:<15} {:>15} {:>15} {:>5} {:>15} {:>15}",
            "", "attach", "floor", "", "detach", "floor"
        )?;
        for row in &self.rows {
            row.process(f, &name(row))?;
        }
        self.failures.iter().try_for_each(|failure| writeln!(f, "  FAILED: {failure}"))
    }
}

fn cell(samples: &[Duration], unit: f64) -> String {
    if samples.is_empty() {
        return "-".to_owned();
    }
    let digits = if unit > 1e4 { 0 } else { 1 };
    let [median, ninetieth] = [5, 9].map(|tenths| quantile(samples, tenths).as_secs_f64() * unit);
    format!("{median:.digits$} ({ninetieth:.digits$})")
}

fn ratio(slow: &[Duration], fast: &[Duration]) -> Option<f64> {
    let (slow, fast) = (quantile(slow, 5), quantile(fast, 5));
    (!slow.is_zero() && !fast.is_zero()).then(|| slow.as_secs_f64() / fast.as_secs_f64())
}

fn summary(samples: &[Duration]) -> Value {
    let [median, ninetieth] = [5, 9].map(|tenths| quantile(samples, tenths).as_secs_f64() * 1e3);
    json!({"median_ms": median, "p90_ms": ninetieth, "rounds": samples.len()})
}

fn quantile(samples: &[Duration], tenths: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * tenths / 10).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

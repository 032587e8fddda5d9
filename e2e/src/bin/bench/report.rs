//! Medians and ninetieth percentiles, as a table for people and JSON for programs.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::footprint::Footprint;
use crate::net::Table;
use crate::peer::{self, Peer};
use crate::rounds::Round;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    contenders: Vec<&'static str>,
    measurements: Vec<Measurement>,
    footprints: Vec<(&'static str, Footprint)>,
    footprint_failures: Vec<(&'static str, String)>,
    network: Option<Table>,
}

#[derive(Debug)]
struct Measurement {
    name: String,
    rest: Duration,
    samples: Vec<Samples>,
}

/// What one contender took.
#[derive(Debug)]
pub(crate) struct Samples {
    /// Its name.
    pub(crate) contender: &'static str,
    /// The phases of each round.
    pub(crate) rounds: Vec<Round>,
    /// Why it did not go on to the end.
    pub(crate) failure: Option<String>,
}

impl Samples {
    pub(crate) fn of(contender: &'static str) -> Self {
        Self { contender, rounds: Vec::new(), failure: None }
    }
}

impl Report {
    pub(crate) fn new(peers: &[Peer]) -> Self {
        let contenders = peers.iter().map(|peer| peer.name).collect();
        Self {
            contenders,
            measurements: Vec::new(),
            footprints: Vec::new(),
            footprint_failures: Vec::new(),
            network: None,
        }
    }

    pub(crate) fn add(&mut self, name: &str, rest: Duration, samples: Vec<Samples>) {
        self.measurements.push(Measurement { name: name.to_owned(), rest, samples });
    }

    /// Why a contender failed, if it did anywhere.
    pub(crate) fn failure_of(&self, contender: &str) -> Option<&str> {
        let samples = self.measurements.iter().flat_map(|measurement| &measurement.samples);
        let failed = self.footprint_failures.iter().find(|(failed, _)| *failed == contender);
        samples
            .filter(|samples| samples.contender == contender)
            .find_map(|samples| samples.failure.as_deref())
            .or(failed.map(|(_, failure)| failure.as_str()))
    }

    pub(crate) fn add_footprint(&mut self, contender: &'static str, footprint: Footprint) {
        self.footprints.push((contender, footprint));
    }

    pub(crate) fn add_footprint_failure(&mut self, contender: &'static str, failure: String) {
        self.footprint_failures.push((contender, failure));
    }

    pub(crate) fn add_network(&mut self, table: Table) {
        self.network = Some(table);
    }

    /// Writes the numbers with all samples to a file named by the time.
    pub(crate) fn save(&self) -> Result<PathBuf> {
        let dir = peer::cache().context("no folder for results")?.join("bench");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = dir.join(format!("{seconds}.json"));
        fs::write(&path, self.json().to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn json(&self) -> Value {
        let measurements: Vec<Value> = self.measurements.iter().map(Measurement::json).collect();
        let footprints: Vec<Value> = self
            .footprints
            .iter()
            .map(|(contender, found)| {
                json!({
                    "contender": contender,
                    "private_kib": found.private,
                    "proportional_kib": found.proportional,
                    "threads": found.threads,
                })
            })
            .collect();
        let network = self.network.as_ref().map(Table::json);
        json!({
            "contenders": self.contenders,
            "measurements": measurements,
            "footprints": footprints,
            "network": network,
        })
    }
}

impl Measurement {
    fn json(&self) -> Value {
        let contenders: Vec<Value> = self
            .samples
            .iter()
            .map(|Samples { contender, rounds, failure }| {
                let totals: Vec<f64> = rounds.iter().map(|round| milliseconds(total(round))).collect();
                let phases: Vec<Value> = phases(rounds)
                    .into_iter()
                    .map(|(phase, samples)| summary(phase, &samples))
                    .chain([summary("total", &rounds.iter().map(total).collect::<Vec<_>>())])
                    .collect();
                json!({ "contender": contender, "phases": phases, "totals_ms": totals, "failure": failure })
            })
            .collect();
        json!({ "name": self.name, "rest_ms": milliseconds(self.rest), "contenders": contenders })
    }
}

fn summary(phase: &str, samples: &[Duration]) -> Value {
    let (median, ninetieth) = quantiles(samples);
    json!({ "phase": phase, "median_ms": milliseconds(median), "p90_ms": milliseconds(ninetieth) })
}

fn total(round: &Round) -> Duration {
    round.iter().map(|(_, took)| *took).sum()
}

/// The samples of each phase.
fn phases(rounds: &[Round]) -> Vec<(&'static str, Vec<Duration>)> {
    let Some(first) = rounds.first() else { return Vec::new() };
    let of = |index: usize| rounds.iter().map(|round| round[index].1).collect();
    first.iter().enumerate().map(|(index, (phase, _))| (*phase, of(index))).collect()
}

/// Median and ninetieth percentile.
fn quantiles(samples: &[Duration]) -> (Duration, Duration) {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |tenths: usize| sorted.get((sorted.len() * tenths / 10).min(sorted.len().saturating_sub(1)));
    (at(5).copied().unwrap_or_default(), at(9).copied().unwrap_or_default())
}

fn milliseconds(duration: Duration) -> f64 {
    // Nanoseconds beyond the microsecond are noise.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for measurement in &self.measurements {
            let rounds = measurement.samples.first().map_or(0, |samples| samples.rounds.len());
            let pace = if measurement.rest.is_zero() {
                "one after the other".to_owned()
            } else {
                format!("{} ms apart", measurement.rest.as_millis())
            };
            writeln!(f, "\n{}, {pace}, {rounds} rounds, milliseconds: median (p90)", measurement.name)?;
            for Samples { contender, rounds, failure } in &measurement.samples {
                let cell = |samples: &[Duration]| {
                    let (median, ninetieth) = quantiles(samples);
                    format!("{:.2} ({:.2})", milliseconds(median), milliseconds(ninetieth))
                };
                let totals: Vec<Duration> = rounds.iter().map(total).collect();
                write!(f, "  {contender:<10} total {:<18}", cell(&totals))?;
                for (phase, samples) in phases(rounds) {
                    write!(f, " {phase} {:<16}", cell(&samples))?;
                }
                writeln!(f)?;
                if let Some(failure) = failure {
                    writeln!(f, "  {contender:<10} FAILED: {failure}")?;
                }
            }
        }
        if !self.footprints.is_empty() {
            writeln!(
                f,
                "\na shim with a pod of one container: memory of its own, with its share of the rest; threads"
            )?;
        }
        for (contender, found) in &self.footprints {
            let (private, proportional) = (found.private, found.proportional);
            writeln!(
                f,
                "  {contender:<10} {private:>6} KiB {proportional:>7} KiB {:>3} threads",
                found.threads
            )?;
        }
        for (contender, failure) in &self.footprint_failures {
            writeln!(f, "  {contender:<10} FAILED: {failure}")?;
        }
        self.network.as_ref().map_or(Ok(()), |network| write!(f, "{network}"))
    }
}

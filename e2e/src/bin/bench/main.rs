//! Measures what a container costs: dunnage beside other shims and the kernel's floor, interleaved in one run.
//!
//! Every contender is a shim program driven over ttrpc by the same client with the same specification, the one
//! that containerd's CRI plugin writes for a default pod (with seccomp, a new network namespace and limits).
//! Rounds go around all contenders, so that a change of the machine's mood hits all alike. Results are a table
//! on stdout and JSON under `e2e/cache/bench`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is for people")]

mod floor;
mod footprint;
mod peer;
mod report;
mod rounds;
mod template;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dunnage_e2e::events::Events;
use dunnage_e2e::world::World;

use crate::floor::Floor;
use crate::peer::Peer;
use crate::report::{Report, Samples};
use crate::template::Template;

/// Measure dunnage beside other shims and the kernel's floor.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Rest before each measurement in milliseconds: 0 is a tight loop, a node starts containers apart.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 60])]
    rest: Vec<u64>,
    /// Only these measurements.
    #[arg(long, value_delimiter = ',', default_values_t = ["task", "pod", "exec", "footprint"].map(str::to_owned))]
    measure: Vec<String>,
    /// Only these contenders.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Where the contenders run.
#[derive(Debug)]
struct Course {
    world: World,
    // Shims that find nobody to take their events wait for somebody.
    _events: Events,
    template: Template,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let peers: Vec<Peer> = peer::all()
        .into_iter()
        .filter(|peer| args.only.is_empty() || args.only.iter().any(|name| name == peer.name))
        .collect();
    for absent in peer::absent() {
        eprintln!("bench: {absent} is not here: e2e/fetch-peers fetches what can be fetched");
    }
    let course = Course::lay_out().await?;
    peer::link_libraries()?;
    let mut report = Report::new(&peers);
    for measure in &args.measure {
        if measure == "footprint" {
            for peer in &peers {
                report.add_footprint(
                    peer.name,
                    footprint::of_a_pod(&course, peer).await.with_context(|| peer.name)?,
                );
            }
            continue;
        }
        for rest in &args.rest {
            let rest = Duration::from_millis(*rest);
            let found = measured(&course, &peers, measure, args.rounds, rest).await;
            report.add(measure, rest, found.with_context(|| measure.clone())?);
        }
    }
    println!("{report}");
    println!("{}", report.save()?.display());
    match report.failure_of("dunnage") {
        Some(failure) => bail!("dunnage failed: {failure}"),
        None => Ok(()),
    }
}

impl Course {
    async fn lay_out() -> Result<Self> {
        let world = World::enter()?;
        let template = Template::take(&world).await?;
        let events = Events::listen(peer::EVENTS.as_ref()).await?;
        Ok(Self { world, _events: events, template })
    }
}

/// The samples of one measurement for each contender. One that fails is out for the rest of it, and said to be.
async fn measured(
    course: &Course,
    peers: &[Peer],
    measure: &str,
    rounds: usize,
    rest: Duration,
) -> Result<Vec<Samples>> {
    let mut found: Vec<Samples> = peers.iter().map(|peer| Samples::of(peer.name)).collect();
    let mut floor = if measure == "task" { Some(Floor::start(course)?) } else { None };
    let mut of_floor = Samples::of(floor::NAME);
    let mut hosts = Vec::new();
    if measure == "exec" {
        for peer in peers {
            hosts.push(rounds::Host::start(course, peer, "host").await.with_context(|| peer.name)?);
        }
    }
    // The first round of each warms caches and is not counted.
    for round in 0..=rounds {
        for (index, peer) in peers.iter().enumerate() {
            if found[index].failure.is_some() {
                continue;
            }
            tokio::time::sleep(rest).await;
            let id = format!("{measure}-{}-{round}", peer.name);
            let took = match measure {
                "task" => rounds::task(course, peer, &id).await,
                "pod" => rounds::pod(course, peer, &id).await,
                "exec" => hosts[index].exec(&id).await,
                other => bail!("{other} is not among the measurements: task, pod, exec, footprint"),
            };
            match took {
                Ok(took) if round > 0 => found[index].rounds.push(took),
                Ok(_) => {}
                Err(error) => found[index].failure = Some(format!("round {round}: {error:#}")),
            }
        }
        if let Some(floor) = &mut floor {
            tokio::time::sleep(rest).await;
            let took = floor.round()?;
            if round > 0 {
                of_floor.rounds.push(took);
            }
        }
    }
    for (host, samples) in hosts.into_iter().zip(&mut found) {
        if let Err(error) = host.end(course).await {
            samples.failure.get_or_insert(format!("the end: {error:#}"));
        }
    }
    found.extend(floor.is_some().then_some(of_floor));
    Ok(found)
}

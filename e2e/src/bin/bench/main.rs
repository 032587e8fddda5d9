//! Measures what a container costs: dunnage beside other shims and the kernel's floor, interleaved in one run.
//!
//! Every contender is a shim program driven over ttrpc by the same client with the same specification, the one
//! that containerd's CRI plugin writes for a default pod (with seccomp, a new network namespace and limits).
//! Rounds go around all contenders, so that a change of the machine's mood hits all alike, each in another order, so
//! that nobody always comes behind the same one. Results are a table on stdout and JSON under `e2e/cache/bench`.
//! Who hangs or fails is out of that measurement, with a line that says why, what it left is ended, and the others
//! go on.
//!
//! `net` measures the pod network in the same way: `net/mod.rs`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is for people")]

mod abandon;
mod driven;
mod floor;
mod footprint;
mod net;
mod peer;
mod report;
mod rounds;
mod template;

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dunnage_e2e::events::Events;
use dunnage_e2e::wait;
use dunnage_e2e::world::World;

use crate::abandon::abandon;
use crate::floor::Floor;
use crate::peer::Peer;
use crate::report::{Report, Samples};
use crate::rounds::{Host, Round};
use crate::template::Template;

/// Measure dunnage beside other shims and the kernel's floor.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Rest before each measurement in milliseconds: 0 is a tight loop, a node starts containers apart.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 60])]
    rest: Vec<u64>,
    /// Only these measurements.
    #[arg(long, value_delimiter = ',', default_values_t = ["task", "pod", "exec", "footprint", "net"].map(str::to_owned))]
    measure: Vec<String>,
    /// Only these contenders.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pods that are present in `net`.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 500, 1000])]
    pods: Vec<usize>,
    /// A first impression: five rounds, no rest, at most 100 pods present.
    #[arg(long)]
    quick: bool,
}

impl Args {
    fn effort(mut self) -> Self {
        if self.quick {
            self.rounds = self.rounds.min(5);
            self.rest = vec![0];
            self.pods = vec![0, 100];
        }
        self.pods.sort_unstable();
        self
    }

    fn wants(&self, contender: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == contender)
    }
}

/// How long one round of one contender may take. A slow one takes a third of a second.
const ROUND_LIMIT: Duration = Duration::from_secs(15);
/// The same for what prepares a measurement: containerd runs a pod for its specification.
const LAY_OUT_LIMIT: Duration = Duration::from_secs(120);

/// Where the orders of rounds come from: what somebody leaves to the kernel falls on whoever comes next.
const ORDER: u64 = 1;

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
    let args = Args::parse().effort();
    for measure in &args.measure {
        if !["task", "pod", "exec", "footprint", "net"].contains(&measure.as_str()) {
            bail!("{measure} is not among the measurements: task, pod, exec, footprint, net");
        }
    }
    let peers: Vec<Peer> = peer::all().into_iter().filter(|peer| args.wants(peer.name)).collect();
    let mut report = Report::new(&peers);
    let (net, others): (Vec<_>, Vec<_>) = args.measure.iter().partition(|measure| *measure == "net");
    // What was measured is told, whatever becomes of the rest.
    let mut done = Ok(());
    if !others.is_empty() {
        done = containers(&args, &peers, &others, &mut report).await;
    }
    if !net.is_empty() {
        done = done.and(network(&args, &mut report).context("net"));
    }
    println!("{report}");
    println!("{}", report.save()?.display());
    match report.failure_of("dunnage") {
        Some(failure) => bail!("dunnage failed: {failure}"),
        None => done,
    }
}

/// The pod network, in a world of its own.
fn network(args: &Args, report: &mut Report) -> Result<()> {
    let reference = args.wants("reference");
    let effort = net::Effort { rounds: args.rounds, pods: args.pods.clone(), reference };
    let world = World::enter()?;
    report.add_network(net::measure(&world, &effort)?);
    Ok(())
}

/// Everything that a shim is needed for.
async fn containers(args: &Args, peers: &[Peer], measures: &[&String], report: &mut Report) -> Result<()> {
    for absent in peer::absent() {
        eprintln!("bench: {absent} is not here: e2e/fetch-peers fetches what can be fetched");
    }
    let course = within(LAY_OUT_LIMIT, Course::lay_out()).await.context("lay out the course")?;
    peer::link_libraries()?;
    for measure in measures {
        if measure.as_str() == "footprint" {
            weigh(&course, peers, report).await;
            continue;
        }
        for rest in &args.rest {
            let rest = Duration::from_millis(*rest);
            let found = measured(&course, peers, measure, args.rounds, rest).await;
            report.add(measure, rest, found.with_context(|| (*measure).clone())?);
        }
    }
    Ok(())
}

impl Course {
    async fn lay_out() -> Result<Self> {
        let world = World::enter()?;
        let template = Template::take(&world).await?;
        let events = Events::listen(peer::EVENTS.as_ref()).await?;
        Ok(Self { world, _events: events, template })
    }
}

async fn weigh(course: &Course, peers: &[Peer], report: &mut Report) {
    for peer in peers {
        match within(ROUND_LIMIT, footprint::of_a_pod(course, peer)).await {
            Ok(footprint) => report.add_footprint(peer.name, footprint),
            Err(error) => {
                out("footprint", peer.name, &error);
                report.add_footprint_failure(peer.name, format!("{error:#}"));
                abandon(course, &ids(&[footprint::BESIDE, footprint::WEIGHED], peer));
            }
        }
    }
}

/// The samples of one measurement for each contender. One that hangs or fails is out for the rest of it.
async fn measured(
    course: &Course,
    peers: &[Peer],
    measure: &str,
    rounds: usize,
    rest: Duration,
) -> Result<Vec<Samples>> {
    let mut found: Vec<Samples> = peers.iter().map(|peer| Samples::of(peer.name)).collect();
    // The pod in which execs are measured. Another each time: files of one that was given up stay until the end.
    let exec_host = format!("host{}", rest.as_millis());
    let mut hosts = hosts(course, peers, &mut found, measure, &exec_host).await;
    let mut floor = if measure == "task" { Some(Floor::start(course)?) } else { None };
    found.extend(floor.is_some().then(|| Samples::of(floor::NAME)));
    let mut order: Vec<usize> = (0..found.len()).collect();
    let mut chance = fastrand::Rng::with_seed(ORDER);
    // The first round of each warms caches and is not counted.
    for round in 0..=rounds {
        chance.shuffle(&mut order);
        for &index in &order {
            if found[index].failure.is_some() {
                continue;
            }
            tokio::time::sleep(rest).await;
            let name = format!("{measure}-{}-{round}", found[index].contender);
            let took = match (peers.get(index), &mut floor) {
                (Some(peer), _) => one(course, peer, measure, hosts.get(index), &name).await,
                (None, Some(floor)) => floor.round(),
                (None, None) => continue,
            };
            match took {
                Ok(took) if round > 0 => found[index].rounds.push(took),
                Ok(_) => {}
                Err(error) => {
                    let mut left = vec![name.clone(), format!("{name}-c")];
                    left.extend(peers.get(index).map(|peer| ids(&[&exec_host], peer)).unwrap_or_default());
                    give_up(course, &mut found[index], measure, &format!("round {round}"), &error, &left);
                    match hosts.get_mut(index) {
                        Some(host) => *host = None,
                        None if index == peers.len() => floor = None,
                        None => {}
                    }
                }
            }
        }
    }
    for ((peer, host), samples) in peers.iter().zip(hosts).zip(&mut found) {
        let Some(host) = host else { continue };
        if let Err(error) = within(ROUND_LIMIT, host.end(course)).await {
            give_up(course, samples, measure, "the end", &error, &ids(&[&exec_host], peer));
        }
    }
    Ok(found)
}

/// The containers in which execs are measured, for each contender; none for other measurements.
async fn hosts(
    course: &Course,
    peers: &[Peer],
    found: &mut [Samples],
    measure: &str,
    name: &str,
) -> Vec<Option<Host>> {
    let mut hosts = Vec::new();
    for (peer, samples) in peers.iter().zip(found).filter(|_| measure == "exec") {
        hosts.push(match within(ROUND_LIMIT, Host::start(course, peer, name)).await {
            Ok(host) => Some(host),
            Err(error) => {
                give_up(course, samples, measure, "its container", &error, &ids(&[name], peer));
                None
            }
        });
    }
    hosts
}

/// One round of one contender.
async fn one(
    course: &Course,
    peer: &Peer,
    measure: &str,
    host: Option<&Option<Host>>,
    name: &str,
) -> Result<Round> {
    match (measure, host) {
        ("task", _) => within(ROUND_LIMIT, rounds::task(course, peer, name)).await,
        ("pod", _) => within(ROUND_LIMIT, rounds::pod(course, peer, name)).await,
        (_, Some(Some(host))) => within(ROUND_LIMIT, host.exec(name)).await,
        (other, _) => bail!("{other} has no container"),
    }
}

/// The containers of a pod of [`Host`].
fn ids(names: &[&str], peer: &Peer) -> Vec<String> {
    names
        .iter()
        .flat_map(|name| [format!("{name}-{}", peer.name), format!("{name}-{}-c", peer.name)])
        .collect()
}

/// Takes a contender out of a measurement, says so, and ends what it has left.
fn give_up(
    course: &Course,
    samples: &mut Samples,
    measure: &str,
    when: &str,
    error: &anyhow::Error,
    left: &[String],
) {
    out(measure, samples.contender, error);
    samples.failure.get_or_insert(format!("{when}: {error:#}"));
    abandon(course, left);
}

fn out(measure: &str, contender: &str, error: &anyhow::Error) {
    eprintln!("bench: {contender} is out of {measure}: {error:#}");
}

/// Waits so long and no longer.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = limit * wait::patience();
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => bail!("hangs: nothing for {limit:?}"),
    }
}

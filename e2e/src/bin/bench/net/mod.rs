//! The pod network: our plugin beside the chain of reference plugins, and the library beside the bare messages.
//!
//! Two hosts, each a network namespace of the benchmark's world: one with our plugin, one with the reference's.
//! Rounds go around everybody, so that a change of the machine's mood hits all alike. In process, the library
//! shares the network of our plugin, and the floor its host, so that all three meet the same number of pods.

mod chain;
mod crowd;
mod host;
mod table;

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dunnage_e2e::programs;
use dunnage_e2e::world::World;

use self::chain::{Chain, Pod};
use self::crowd::Crowd;
use self::host::Host;
pub(crate) use self::table::Table;
use self::table::{Row, Samples};
use crate::driven::{Driven, compiled};

/// Pods that are attached at the same time.
const AT_ONCE: usize = 16;
/// Host ports of pods that come and go; those that stay have others.
const FIRST_PORT: usize = 10_000;

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    /// Rounds of each measurement.
    pub(crate) rounds: usize,
    /// Numbers of pods that are present, rising.
    pub(crate) pods: Vec<usize>,
    /// Whether the reference chain is measured beside.
    pub(crate) reference: bool,
}

/// Everybody, with the pods that are present.
struct Contest {
    ours: Side,
    reference: Option<Side>,
    library: Driven,
    floor: Driven,
    next: usize,
}

/// One chain of plugins, on its host.
struct Side {
    host: Host,
    chain: Chain,
    crowd: Crowd,
    /// Why it is out.
    failure: Option<String>,
}

/// Measures everything in fresh network namespaces, which are gone behind it.
pub(crate) fn measure(world: &World, effort: &Effort) -> Result<Table> {
    let mut contest = Contest::begin(world, effort)?;
    let parallel = contest.parallel(effort.rounds)?;
    let mut rows = Vec::new();
    for pods in &effort.pods {
        contest.crowd(*pods)?;
        rows.push(contest.rounds(*pods, effort.rounds)?);
    }
    let status = contest.status(effort.rounds)?;
    let failures = contest.reference.and_then(|side| side.failure).into_iter().collect();
    Ok(Table { rows, parallel, status, failures })
}

impl Contest {
    fn begin(world: &World, effort: &Effort) -> Result<Self> {
        let ours = Side::new(Host::make("ours")?, Chain::ours()?);
        let reference = effort.reference.then(|| {
            anyhow::Ok(Side::new(
                Host::make("reference")?,
                Chain::reference(&world.dir().join("host-local"))?,
            ))
        });
        let library = programs::build_dir()?.join("examples/attach_cost");
        ensure!(library.is_file(), "{} is not built: use `make bench`", library.display());
        let netns = ours.host.netns().as_os_str();
        let words =
            [netns, OsStr::new(chain::STATE_DIR), OsStr::new(chain::OUR_NETWORK), OsStr::new(chain::SUBNET)];
        let library = Driven::start(&library, &words)?;
        let floor = Driven::start(&compiled("net")?, &[netns, OsStr::new(chain::GATEWAY)])?;
        Ok(Self { ours, reference: reference.transpose()?, library, floor, next: 0 })
    }

    /// Brings the number of pods that are present up to `pods`, on both hosts.
    fn crowd(&mut self, pods: usize) -> Result<()> {
        let Side { host, crowd, .. } = &mut self.ours;
        crowd.grow(host, pods, |_, pod| {
            let Pod { id, port, .. } = pod;
            self.library.time(&format!("add {} {id} {port}\n", pod.netns().display())).map(drop)
        })?;
        self.reference(&format!("{pods} pods"), |side| {
            side.crowd.grow_reference(&side.host, &side.chain, pods)
        });
        Ok(())
    }

    /// The reference's part, unless it is out. With a failure it is, from then on.
    fn reference<T>(&mut self, when: &str, part: impl FnOnce(&mut Side) -> Result<T>) -> Option<T> {
        let side = self.reference.as_mut().filter(|side| side.failure.is_none())?;
        match part(side) {
            Ok(done) => Some(done),
            Err(error) => {
                side.failure = Some(format!("reference, {when}: {error:#}"));
                None
            }
        }
    }

    fn rounds(&mut self, pods: usize, rounds: usize) -> Result<Row> {
        let mut row = Row::with(pods);
        // The first round makes networks and warms caches.
        for round in 0..=rounds {
            let counts = round > 0;
            // Each comes first as often as second: who comes second meets what the first has left to the kernel.
            let first = round % 2 == 0;
            if first {
                row.ours.push(counts, self.ours.round(self.next)?);
            }
            let next = self.next;
            if let Some(took) =
                self.reference(&format!("{pods} pods, round {round}"), |side| side.round(next))
            {
                row.reference.push(counts, took);
            }
            if !first {
                row.ours.push(counts, self.ours.round(self.next)?);
            }
            // The bare messages take microseconds: a few more of them cost nothing and steady the ratio.
            for _ in 0..2 {
                self.next += 1;
                let (library, floor) = (self.library_round()?, self.floor_round()?);
                self.next += 1;
                let (floor_first, library_second) = (self.floor_round()?, self.library_round()?);
                // Coming first and second do not take the same time, and a median of both would be now of the one and
                // now of the other.
                row.library.push(counts, mean(library, library_second));
                row.floor.push(counts, mean(floor, floor_first));
            }
            self.next += 1;
        }
        Ok(row)
    }

    fn library_round(&mut self) -> Result<(Duration, Duration)> {
        let pod = Pod::make("library", self.next, FIRST_PORT)?;
        let line = format!("add {} {} {}\n", pod.netns().display(), pod.id, pod.port);
        let add = self.library.time(&line)?;
        let del = self.library.time(&format!("del {}\n", pod.id))?;
        self.ours.host.settle(pod, self.ours.crowd.size())?;
        Ok((add, del))
    }

    fn floor_round(&mut self) -> Result<(Duration, Duration)> {
        let pod = Pod::make("floor", self.next, FIRST_PORT)?;
        let what = format!("vethfloor{} 10.87.0.9 {}", self.next % 1000, pod.port);
        let add = self.floor.time(&format!("add {} {what}\n", pod.netns().display()))?;
        let del = self.floor.time(&format!("del {what}\n"))?;
        self.ours.host.settle(pod, self.ours.crowd.size())?;
        Ok((add, del))
    }

    /// 16 pods at a time, with nobody else there.
    fn parallel(&mut self, rounds: usize) -> Result<Row> {
        let mut row = Row::with(AT_ONCE);
        // The first pod of a node comes alone: 16 that find no chains make them in each other's way.
        let next = self.next;
        self.ours.round(next)?;
        self.reference("the first pod", |side| side.round(next));
        self.next += 1;
        for round in 0..=rounds.div_ceil(8) {
            let counts = round > 0;
            for took in self.ours.together(self.next)? {
                row.ours.push(counts, took);
            }
            let next = self.next;
            let together = self.reference(&format!("{AT_ONCE} at a time"), |side| side.together(next));
            for took in together.into_iter().flatten() {
                row.reference.push(counts, took);
            }
            self.next += AT_ONCE;
        }
        Ok(row)
    }

    /// Of our plugin only: the reference that Debian has knows no STATUS.
    fn status(&mut self, rounds: usize) -> Result<Samples> {
        let mut samples = Samples::default();
        for round in 0..=rounds {
            let took = self.ours.host.inside(|| self.ours.chain.status())??;
            samples.push(round > 0, (took, Duration::ZERO));
        }
        Ok(samples)
    }
}

/// Of ADDs, and of DELs.
fn mean(one: (Duration, Duration), other: (Duration, Duration)) -> (Duration, Duration) {
    ((one.0 + other.0) / 2, (one.1 + other.1) / 2)
}

impl Side {
    fn new(host: Host, chain: Chain) -> Self {
        Self { host, chain, crowd: Crowd::default(), failure: None }
    }

    /// ADD and DEL of one pod.
    fn round(&self, number: usize) -> Result<(Duration, Duration)> {
        let pod = Pod::make(self.chain.name, number, FIRST_PORT)?;
        let took = self.host.inside(|| {
            let started = Instant::now();
            self.chain.add(&pod)?;
            let added = started.elapsed();
            let started = Instant::now();
            self.chain.del(&pod)?;
            anyhow::Ok((added, started.elapsed()))
        })??;
        self.host.settle(pod, self.crowd.size())?;
        Ok(took)
    }

    /// ADD of many pods at the same time, and then DEL.
    fn together(&self, number: usize) -> Result<Vec<(Duration, Duration)>> {
        let pods = (0..AT_ONCE).map(|each| Pod::make(self.chain.name, number + each, FIRST_PORT + each));
        let pods: Vec<Pod> = pods.collect::<Result<_>>()?;
        let adds = self.host.together(&pods, |pod| self.chain.add(pod).map(drop))?;
        let dels = self.host.together(&pods, |pod| self.chain.del(pod))?;
        for pod in pods {
            self.host.settle(pod, self.crowd.size() + AT_ONCE)?;
        }
        self.host.wait_for_links(self.crowd.size())?;
        Ok(adds.into_iter().zip(dels).collect())
    }
}

//! Load through CRI: pods that live random lives at the same time, each answer of which is checked.
//!
//! Owns the course of a run: so many pods at a time until the time is over, one more that stays and is given
//! work throughout (its shim must not grow), and containerd's events from beginning to end. What a single pod
//! does is in `life`, how long calls took in [`latency`]. All choices come from one seed; what the machine
//! makes of them does not.

pub mod latency;
mod life;

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use tokio::process::{Child, Command};
use tokio::task::{JoinSet, LocalSet};

use crate::containerd::Containerd;
use crate::cri::{self, Cri};
use crate::events::Event;
use crate::footprint::Footprint;
use crate::history;
use crate::programs::Runtime;
use crate::wait;
use crate::world::World;

use latency::Latencies;
use life::{Counts, Life};

/// What private memory of the staying pod's shim may grow by: what its allocator takes ahead.
const GROWTH_KIB: u64 = 256;

/// Of how many moments the outcome shows the staying pod's shim.
const SHOWN: usize = 12;

/// Rounds of the staying pod between two looks at its shim, and before the first.
const WARM_UP: usize = 5;

/// How much load, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Pods at a time.
    pub pods: usize,
    /// After this no new pod begins.
    pub time: Duration,
    /// Where all choices come from.
    pub seed: u64,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    load: Load,
    elapsed: Duration,
    latencies: Rc<Latencies>,
    counts: Counts,
    footprints: Vec<Footprint>,
    /// Everything that was not as it should be, one line each.
    pub wrongs: Vec<String>,
}

/// What all lives share.
#[derive(Debug)]
struct Course {
    cri: Cri,
    template: cri::api::PodSandboxConfig,
    logs: PathBuf,
    latencies: Rc<Latencies>,
}

/// Puts `load` on a containerd whose CRI service is ready.
///
/// # Errors
/// When the run itself fails; what the runtime does wrong is in the outcome.
pub async fn run(world: &World, containerd: &Containerd, cri: &Cri, load: Load) -> Result<Outcome> {
    let begin = Instant::now();
    let latencies = Rc::new(Latencies::default());
    let course = Rc::new(Course {
        cri: cri.clone(),
        template: cri::pod(world, "load"),
        logs: cri::log_dir(world),
        latencies: Rc::clone(&latencies),
    });
    let told = Told::begin(world, containerd).await?;
    let mut outcome = Outcome {
        load,
        elapsed: Duration::ZERO,
        latencies,
        counts: Counts::default(),
        footprints: Vec::new(),
        wrongs: Vec::new(),
    };
    // The world belongs to this thread: so do all lives.
    let lives = LocalSet::new();
    lives.run_until(live(world, &course, load, begin, &mut outcome)).await?;
    let unheard = told.wrongs(outcome.counts.tasks()).await?;
    outcome.wrongs.extend(unheard);
    outcome.elapsed = begin.elapsed();
    Ok(outcome)
}

async fn live(
    world: &World,
    course: &Rc<Course>,
    load: Load,
    begin: Instant,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut seeds = Rng::with_seed(load.seed);
    let mut staying = Life::begin(course, "staying".to_owned(), seeds.fork()).await?;
    let shim = only_shim(world)?;
    let mut lives = JoinSet::new();
    for worker in 0..load.pods {
        let (course, seed) = (Rc::clone(course), seeds.fork());
        lives.spawn_local(async move { work(&course, worker, seed, begin + load.time).await });
    }
    let mut rounds = 0_usize;
    while begin.elapsed() < load.time {
        rounds += 1;
        if let Err(error) = staying.round().await {
            outcome.wrongs.push(format!("staying, round {rounds}: {error:#}"));
        }
        if rounds.is_multiple_of(WARM_UP) {
            outcome.footprints.extend(Footprint::of(shim));
        }
    }
    while let Some(work) = lives.join_next().await {
        let (counts, wrongs) = work.context("a life ended in a panic")?;
        outcome.counts += counts;
        outcome.wrongs.extend(wrongs);
    }
    // Once more, with nothing going on.
    outcome.footprints.extend(Footprint::of(shim));
    outcome.wrongs.extend(growth(&outcome.footprints));
    outcome.counts += staying.end().await.context("end the staying pod")?;
    Ok(())
}

/// One pod after the other.
async fn work(course: &Rc<Course>, worker: usize, mut seeds: Rng, until: Instant) -> (Counts, Vec<String>) {
    let (mut counts, mut wrongs) = (Counts::default(), Vec::new());
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let name = format!("w{worker}-{number}");
        match life::whole(course, &name, seeds.fork()).await {
            Ok(more) => counts += more,
            Err(error) => wrongs.push(format!("{name}: {error:#}")),
        }
    }
    (counts, wrongs)
}

fn only_shim(world: &World) -> Result<i32> {
    let shims = world.shims(&Runtime::under_test().shim()?);
    ensure!(shims.len() == 1, "one pod and the shims {shims:?}");
    Ok(shims[0])
}

/// What the shim of the staying pod has more of at the end than after its warm-up.
fn growth(footprints: &[Footprint]) -> Vec<String> {
    match footprints {
        [first, .., last] => first.growth(last, GROWTH_KIB),
        _ => Vec::new(),
    }
}

/// containerd's events, taken down by its own client.
#[derive(Debug)]
struct Told {
    client: Child,
    path: PathBuf,
}

impl Told {
    async fn begin(world: &World, containerd: &Containerd) -> Result<Self> {
        let path = world.dir().join("events");
        let file = File::create(&path).context("make a file for events")?;
        let mut command: Command = containerd.ctr_k8s().command();
        command.arg("events").stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).kill_on_drop(true);
        let client = command.spawn().context("start ctr events")?;
        let told = Self { client, path };
        told.is_listening(containerd).await?;
        Ok(told)
    }

    /// A subscription begins some time after its client: what is told before is not heard.
    async fn is_listening(&self, containerd: &Containerd) -> Result<()> {
        wait::until_ok("ctr events", || async {
            let words = ["namespaces", "label", "k8s.io", "load=begins"];
            containerd.ctr_k8s().run(words).await?.ok()?;
            ensure!(!fs::read(&self.path)?.is_empty(), "nothing heard");
            Ok(())
        })
        .await
    }

    /// What is wrong with what was told of so many tasks.
    async fn wrongs(mut self, tasks: usize) -> Result<Vec<String>> {
        let is_over = |events: &[Event]| {
            let deleted = |id: &str| {
                events.iter().any(|event| matches!(event, Event::Delete { id: of, .. } if of == id))
            };
            ids(events).into_iter().all(deleted)
        };
        // The last events may be on their way; what never comes is found below.
        for _ in 0..200 {
            if is_over(&self.events()?) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.client.kill().await.context("end ctr events")?;
        let events = self.events()?;
        let mut wrongs: Vec<String> =
            ids(&events).into_iter().flat_map(|id| history::wrongs(id, &events)).collect();
        let heard = ids(&events).len();
        if heard != tasks {
            wrongs.push(format!("events of {heard} tasks, not {tasks}"));
        }
        Ok(wrongs)
    }

    fn events(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(&self.path).context("read the events")?;
        Ok(text.lines().filter_map(event).collect())
    }
}

fn ids(events: &[Event]) -> std::collections::BTreeSet<&str> {
    events.iter().map(Event::id).filter(|id| !id.is_empty()).collect()
}

/// A line of `ctr events`: time, namespace, topic and the message as JSON.
fn event(line: &str) -> Option<Event> {
    let (head, json) = line.split_once(" {").map(|(head, json)| (head, format!("{{{json}")))?;
    let topic = head.rsplit(' ').next()?;
    let json: serde_json::Value = serde_json::from_str(&json).ok()?;
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| json[key].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let id = text("container_id");
    Some(match topic {
        "/tasks/create" => Event::Create { id, pid: number("pid") },
        "/tasks/start" => Event::Start { id, pid: number("pid") },
        "/tasks/exit" => {
            Event::Exit { id, exec_id: text("id"), pid: number("pid"), status: number("exit_status") }
        }
        "/tasks/delete" => Event::Delete { id, pid: number("pid"), status: number("exit_status") },
        "/tasks/exec-added" => Event::ExecAdded { id, exec_id: text("exec_id") },
        "/tasks/exec-started" => Event::ExecStarted { id, exec_id: text("exec_id"), pid: number("pid") },
        "/tasks/oom" => Event::Oom { id },
        _ => return None,
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { pods, seed, .. } = self.load;
        writeln!(
            f,
            "{} pods at a time, {:.1} s, seed {seed}, {}",
            pods,
            self.elapsed.as_secs_f64(),
            Runtime::under_test().type_name()
        )?;
        writeln!(f, "{}", self.counts)?;
        write!(f, "{}", self.latencies)?;
        if let [first, .., last] = self.footprints.as_slice() {
            let step = self.footprints.len().div_ceil(SHOWN).max(1);
            let shown = self.footprints.iter().step_by(step).chain([last]);
            let private: Vec<String> = shown.map(|footprint| footprint.private_kib.to_string()).collect();
            writeln!(
                f,
                "shim of the staying pod: {} descriptors at first, {} at the end; private KiB in {} rounds: {}",
                first.descriptors.values().sum::<usize>(),
                last.descriptors.values().sum::<usize>(),
                WARM_UP * (self.footprints.len() - 1),
                private.join(" "),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_ctr_prints_them() {
        let line = "2026-11-22 16:00:00.5 +0000 UTC k8s.io /tasks/exit \
                    {\"container_id\":\"c\",\"id\":\"e\",\"pid\":7,\"exit_status\":3}";
        let exit = Event::Exit { id: "c".to_owned(), exec_id: "e".to_owned(), pid: 7, status: 3 };
        assert_eq!(event(line), Some(exit));
        assert_eq!(event("2026-11-22 16:00:00.5 +0000 UTC k8s.io /containers/create {\"id\":\"c\"}"), None);
    }
}

//! One pod's random life: containers that end by themselves or are ended, commands in them, their logs, and an end
//! from any state. Each answer is compared with what was asked for.

use std::fmt;
use std::ops::AddAssign;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cri::{self, Pod, api};
use crate::load::Course;

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pods: usize,
    containers: usize,
    execs: usize,
    log_bytes: usize,
}

impl Counts {
    /// Sandboxes and containers: each is a task.
    pub(crate) fn tasks(self) -> usize {
        self.pods + self.containers
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.pods += more.pods;
        self.containers += more.containers;
        self.execs += more.execs;
        self.log_bytes += more.log_bytes;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, containers, execs, log_bytes } = self;
        write!(f, "{pods} pods, {containers} containers, {execs} execs, {log_bytes} bytes of logs compared")
    }
}

/// What a container does and how it must end.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// Ends with a code after so many milliseconds.
    Exit { code: u8, after: u32 },
    /// Writes so many lines to each stream and ends with a code.
    Print { lines: usize, errors: usize, code: u8 },
    /// Takes more memory than it may.
    Greedy,
    /// Stays until it is killed from outside.
    Stay,
    /// Says goodbye when it is asked to end.
    Polite { code: u8 },
}

impl Work {
    fn draw(rng: &mut Rng) -> Self {
        let code = rng.u8(..);
        match rng.u8(0..10) {
            0..2 => Self::Exit { code, after: rng.u32(0..200) },
            2..5 => Self::Print { lines: rng.usize(0..2000), errors: rng.usize(0..200), code },
            5 => Self::Greedy,
            6..8 => Self::Stay,
            _ => Self::Polite { code },
        }
    }

    fn config(self, name: &str) -> api::ContainerConfig {
        let shell = |script: &str| cri::container(name, &["sh", "-c", script]);
        match self {
            Self::Exit { code, after } => shell(&format!("sleep 0.{after:03}; exit {code}")),
            Self::Print { lines, errors, code } => {
                let (out, err) = (lines * LINE, errors * LINE);
                shell(&format!("probe print {out}; probe print-error {err}; exit {code}"))
            }
            Self::Greedy => {
                let mut config = cri::container(name, &["probe", "allocate", "64"]);
                cri::resources(&mut config).memory_limit_in_bytes = 24 << 20;
                config
            }
            Self::Stay => cri::container(name, &["sleep", "100000"]),
            Self::Polite { code } => cri::container(name, &["probe", "on-term", &code.to_string()]),
        }
    }

    /// Whether it goes on until somebody ends it.
    fn stays(self) -> bool {
        matches!(self, Self::Stay | Self::Polite { .. })
    }
}

/// Bytes of a line that the probe prints.
const LINE: usize = 64;

/// What `probe print` writes for so many lines.
fn printed(lines: usize) -> String {
    (0..lines).map(|number| format!("{number:08} {:.<54}\n", "")).collect()
}

/// A pod and what is known of it.
#[derive(Debug)]
pub(crate) struct Life {
    course: Rc<Course>,
    pod: Pod,
    name: String,
    rng: Rng,
    counts: Counts,
}

/// A container in it.
#[derive(Debug)]
struct Container {
    id: String,
    name: String,
    work: Work,
}

/// A pod's life from beginning to end. When something in it is wrong, the pod is removed all the same.
pub(crate) async fn whole(course: &Rc<Course>, name: &str, rng: Rng) -> Result<Counts> {
    let mut life = Life::begin(course, name.to_owned(), rng).await?;
    let lived = life.live().await;
    let ended = life.end().await;
    lived?;
    ended
}

impl Life {
    pub(crate) async fn begin(course: &Rc<Course>, name: String, rng: Rng) -> Result<Self> {
        let mut config = course.template.clone();
        config.hostname.clone_from(&name);
        let metadata = config.metadata.as_mut().context("a pod without metadata")?;
        metadata.uid = format!("{}-{name}", metadata.uid);
        metadata.name.clone_from(&name);
        let pod = course.latencies.time("RunPodSandbox", course.cri.run_pod(config)).await;
        let pod = pod.context("RunPodSandbox")?;
        let counts = Counts { pods: 1, ..Default::default() };
        Ok(Self { course: Rc::clone(course), pod, name, rng, counts })
    }

    /// One to three containers, side by side; some are left for the pod's end.
    async fn live(&mut self) -> Result<()> {
        let mut containers = Vec::new();
        for _ in 0..self.rng.usize(1..=3) {
            containers.push(self.start().await?);
        }
        self.rng.shuffle(&mut containers);
        for container in containers {
            if !container.work.stays() || self.rng.u8(0..4) > 0 {
                self.follow(&container).await?;
            }
        }
        Ok(())
    }

    /// One container from beginning to end, for a pod that stays.
    pub(crate) async fn round(&mut self) -> Result<()> {
        let container = self.start().await?;
        let followed = self.follow(&container).await;
        // It must not stand in the way of the next round.
        if followed.is_err() {
            _ = self.course.cri.remove_container(&container.id).await;
        }
        followed
    }

    /// Stops and removes the pod, or removes it at once.
    pub(crate) async fn end(mut self) -> Result<Counts> {
        let Course { cri, latencies, .. } = &*self.course;
        if self.rng.bool() {
            latencies.time("StopPodSandbox", cri.stop_pod(&self.pod)).await.context("StopPodSandbox")?;
        }
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: self.pod.id.clone() };
        let mut client = cri.runtime();
        let removed = latencies.time("RemovePodSandbox", client.remove_pod_sandbox(request)).await;
        removed.context("RemovePodSandbox")?;
        Ok(self.counts)
    }

    async fn start(&mut self) -> Result<Container> {
        let work = Work::draw(&mut self.rng);
        let name = format!("{}-c{}", self.name, self.counts.containers);
        self.counts.containers += 1;
        let story = || format!("{name} ({work:?})");
        let Course { cri, latencies, .. } = &*self.course;
        let created = cri.create_container(&self.pod, work.config(&name));
        let id = latencies
            .time("CreateContainer", created)
            .await
            .with_context(|| format!("CreateContainer of {}", story()))?;
        let started = latencies.time("StartContainer", cri.start_container(&id)).await;
        started.with_context(|| format!("StartContainer of {}", story()))?;
        Ok(Container { id, name, work })
    }

    /// Works in a container until its end, which must be the expected one, and removes it.
    async fn follow(&mut self, container: &Container) -> Result<()> {
        self.follow_through(container)
            .await
            .with_context(|| format!("{} ({:?})", container.name, container.work))
    }

    async fn follow_through(&mut self, container: &Container) -> Result<()> {
        if container.work.stays() {
            for _ in 0..self.rng.usize(0..4) {
                self.exec(container).await?;
            }
        }
        let expected = match container.work {
            Work::Exit { code, .. } | Work::Print { code, .. } => i32::from(code),
            Work::Greedy => 137,
            Work::Stay => self.kill(container).await?,
            Work::Polite { code } => self.ask_to_end(container, code).await?,
        };
        let status = self.course.cri.ended(&container.id).await?;
        ensure!(status.exit_code == expected, "ended with {}, not {expected}: {status:?}", status.exit_code);
        // Not its start: containerd notes that once it was answered, when a short life may be over.
        ensure!(status.finished_at >= status.created_at, "ended before it was made: {status:?}");
        let reason = match container.work {
            Work::Greedy => "OOMKilled",
            _ if expected == 0 => "Completed",
            _ => "Error",
        };
        ensure!(status.reason == reason, "{}, not {reason}: {status:?}", status.reason);
        self.compare_log(container)?;
        let removed = self.course.cri.remove_container(&container.id);
        self.course.latencies.time("RemoveContainer", removed).await.context("RemoveContainer")
    }

    /// Ends a container that does not listen, in one of three ways.
    async fn kill(&mut self, container: &Container) -> Result<i32> {
        let Course { cri, latencies, .. } = &*self.course;
        match self.rng.u8(0..3) {
            0 => {
                let pid = Pid::from_raw(cri.pid(&container.id).await?);
                kill(pid, Signal::SIGKILL).context("kill the container's process")?;
            }
            grace => {
                let stopped = cri.stop_container(&container.id, i64::from(grace) - 1);
                latencies.time("StopContainer", stopped).await.context("StopContainer")?;
            }
        }
        Ok(137)
    }

    async fn ask_to_end(&self, container: &Container, code: u8) -> Result<i32> {
        let Course { cri, latencies, .. } = &*self.course;
        // Only once it listens can it be polite.
        let is_ready = || async {
            ensure!(self.log(container)?.0 == "ready\n", "not ready");
            Ok(())
        };
        crate::wait::until_ok("the container's first words", is_ready).await?;
        let stopped = cri.stop_container(&container.id, 60);
        latencies.time("StopContainer", stopped).await.context("StopContainer")?;
        Ok(i32::from(code))
    }

    async fn exec(&mut self, container: &Container) -> Result<()> {
        self.counts.execs += 1;
        let Course { cri, latencies, .. } = &*self.course;
        let (lines, code) = (self.rng.usize(0..300), self.rng.u8(..));
        let script = format!("probe print {}; echo {code} >&2; exit {code}", lines * LINE);
        let words = ["sh", "-c", &script];
        let answer = cri.exec(&container.id, &words, 0);
        let answer = latencies.time("ExecSync", answer).await.context("ExecSync")?;
        ensure!(answer.exit_code == i32::from(code), "exec of `{script}` ended with {}", answer.exit_code);
        ensure!(
            answer.stdout == printed(lines).as_bytes(),
            "exec of `{script}` wrote {} bytes",
            answer.stdout.len()
        );
        ensure!(answer.stderr == format!("{code}\n").as_bytes(), "exec of `{script}`: {:?}", answer.stderr);
        let status = latencies.time("ContainerStatus", cri.container(&container.id)).await?;
        ensure!(status.state() == api::ContainerState::ContainerRunning, "after an exec: {status:?}");
        Ok(())
    }

    fn compare_log(&mut self, container: &Container) -> Result<()> {
        let expected = match container.work {
            Work::Exit { .. } | Work::Greedy | Work::Stay => (String::new(), String::new()),
            Work::Print { lines, errors, .. } => (printed(lines), printed(errors)),
            Work::Polite { .. } => ("ready\nterminated\n".to_owned(), String::new()),
        };
        let logged = self.log(container)?;
        for (stream, logged, expected) in
            [("stdout", &logged.0, &expected.0), ("stderr", &logged.1, &expected.1)]
        {
            ensure!(
                logged == expected,
                "{} bytes of {stream} in the log, not {}",
                logged.len(),
                expected.len()
            );
            self.counts.log_bytes += logged.len();
        }
        Ok(())
    }

    /// What is in a container's log, stream by stream.
    fn log(&self, container: &Container) -> Result<(String, String)> {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        for line in cri::parse_log(&self.course.logs.join(format!("{}.log", container.name)))? {
            let stream = if line.stream == "stdout" { &mut stdout } else { &mut stderr };
            stream.push_str(&line.text);
            if line.tag == "F" {
                stream.push('\n');
            }
        }
        Ok((stdout, stderr))
    }
}

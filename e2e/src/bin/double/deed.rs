//! What the double does once, at a moment: somebody dies or something is left behind.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::fault::{self, Act, Deed, Leak, Moment, Script, Victim};
use dunnage_e2e::process::Process;
use dunnage_e2e::{cgroup, programs, world};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Argument of the double that is a careless parent.
pub(crate) const NEGLECT: &str = "neglect";

/// The acts that are still to be done.
pub(crate) struct Deeds {
    acts: Mutex<Vec<Act>>,
    shim: AtomicI32,
    dir: PathBuf,
}

impl Deeds {
    pub(crate) fn new(script: &Script) -> Self {
        Self { acts: Mutex::new(script.acts.clone()), shim: AtomicI32::new(0), dir: script.dir.clone() }
    }

    pub(crate) fn shim_is(&self, pid: i32) {
        self.shim.store(pid, Ordering::SeqCst);
    }

    /// Does what is to be done at `moment`. Says whether whoever called is still there.
    #[expect(clippy::print_stderr, reason = "the double's standard error is its log")]
    pub(crate) async fn at(&self, moment: &Moment) -> bool {
        let mut is_called = true;
        for deed in self.due(moment) {
            is_called &= deed != Deed::Kill(Victim::Containerd);
            let done = match &deed {
                Deed::Kill(victim) => self.kill(*victim).await,
                Deed::Leak(what) => leak(*what, &self.dir),
            };
            if let Err(error) = done {
                eprintln!("{deed:?} at {moment:?}: {error:#}");
            }
        }
        is_called
    }

    /// Each is due once.
    fn due(&self, moment: &Moment) -> Vec<Deed> {
        let mut acts = self.acts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (due, rest) = acts.drain(..).partition(|act| act.moment == *moment);
        *acts = rest;
        due.into_iter().map(|act: Act| act.deed).collect()
    }

    pub(crate) async fn kill(&self, victim: Victim) -> Result<()> {
        match victim {
            // Whoever is connected sees what it would see of a shim that was killed: nothing more comes.
            Victim::Shim => {
                fault::kill(self.shim.load(Ordering::SeqCst)).await?;
                fault::kill(own_pid()?).await
            }
            Victim::Caller => fault::kill(own_pid()?).await,
            Victim::Containerd => {
                let id = world_id()?;
                let is_daemon = |process: &Process| process.name == "containerd" && process.is_in(&id);
                let daemon = Process::all().into_iter().find(is_daemon).context("no containerd here")?;
                fault::kill(daemon.pid).await
            }
        }
    }
}

fn own_pid() -> Result<i32> {
    Ok(i32::try_from(std::process::id())?)
}

/// The id of the world, which this process's cgroup carries.
fn world_id() -> Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read own cgroup")?;
    let part = text.split(['/', '\n']).find(|part| part.starts_with(world::PREFIX));
    part.map(str::to_owned).context("not in a world")
}

fn leak(what: Leak, dir: &Path) -> Result<()> {
    match what {
        Leak::Mount => {
            fs::create_dir("/run/leak")?;
            mount(Some("leak"), "/run/leak", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        }
        Leak::Cgroup => fs::create_dir(cgroup::with_controller("memory")?.dir(&world_id()?).join("leak"))?,
        Leak::NetworkNamespace => named_namespace()?,
        Leak::Link => ip("link add leak0 type bridge")?,
        Leak::Route => ip("route add 10.99.0.0/16 dev lo")?,
        Leak::Table => run(Command::new("nft").args(["add", "table", "ip", "leak"]))?,
        Leak::Process => keep(Command::new("sleep").arg("100000"))?,
        Leak::Zombie => keep(Command::new(env::current_exe()?).arg(NEGLECT))?,
        Leak::File => fs::write("/run/leak-file", "")?,
        Leak::Socket => keep(Command::new(programs::built("probe")?).args(["serve", "4711"]))?,
        Leak::Lease => leave(&dir.join("containerd/leases/e2e"), "10.166.0.77")?,
        Leak::WorkDir => leave(&dir.join("containerd/root/io.containerd.runtime.v2.task/k8s.io"), "leak")?,
        Leak::OwnDescriptor => std::mem::forget(File::open("/dev/null")?),
        Leak::OwnZombie => std::mem::forget(Command::new("true").spawn()?),
        Leak::OwnThread => _ = thread::spawn(|| thread::sleep(Duration::MAX)),
        Leak::OwnMemory => std::mem::forget(vec![1_u8; 1 << 20]),
    }
    Ok(())
}

/// A network namespace that nothing but its name holds.
fn named_namespace() -> Result<()> {
    fs::create_dir_all("/run/netns")?;
    File::create("/run/netns/leak")?;
    let none: Option<&str> = None;
    let name = move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), "/run/netns/leak", none, MsFlags::MS_BIND, none)
    };
    let named = thread::spawn(name).join();
    named.map_err(|_| anyhow::anyhow!("the thread died"))?.context("name a namespace")
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A parent that never asks how its child ended. A shell that goes over to another program will not do: it may have
/// asked before.
pub(crate) fn neglect() -> Result<()> {
    std::mem::forget(Command::new("true").spawn()?);
    thread::sleep(Duration::MAX);
    Ok(())
}

/// Starts a program that stays.
fn keep(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    std::mem::forget(command.spawn().with_context(|| format!("start {command:?}"))?);
    Ok(())
}

fn leave(dir: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(name), "").with_context(|| format!("write {name}"))
}

//! What the double does: a file in the world that it reads when it is started.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::programs::Runtime;
use crate::world::World;

/// The double's own folder below `/run`, which no census counts.
pub const PLACE: &str = "/run/rig";

/// What the double does besides passing everything on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Script {
    /// The shim behind it.
    pub shim: PathBuf,
    /// The world's folder.
    pub dir: PathBuf,
    /// What it does once, each at its moment.
    pub acts: Vec<Act>,
    /// What it tells wrongly throughout.
    pub lies: Vec<Lie>,
}

/// Something that happens once, at the first such moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When.
    pub moment: Moment,
    /// What.
    pub deed: Deed,
}

/// A moment in a task's life, as the protocol shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The shim has not seen this call yet.
    Before(String),
    /// The shim has answered this call; the caller has not seen the answer yet.
    After(String),
    /// The shim publishes an event of this topic; nobody has seen it yet.
    Event(String),
}

/// What happens then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// SIGKILL.
    Kill(Victim),
    /// Something is left behind.
    Leak(Leak),
}

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Victim {
    /// The shim; its caller then finds its connection closed.
    Shim,
    /// The shim's caller: the double itself, which is who the shim knows.
    Caller,
    /// The world's containerd.
    Containerd,
}

/// What a leaking shim leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the thing it names")]
pub enum Leak {
    Mount,
    Cgroup,
    NetworkNamespace,
    Link,
    Route,
    Table,
    Process,
    Zombie,
    File,
    Socket,
    Lease,
    WorkDir,
    /// An open descriptor of the shim itself.
    OwnDescriptor,
    /// A child of the shim that it never reaps.
    OwnZombie,
    /// A thread of the shim.
    OwnThread,
    /// A mebibyte of the shim's own memory.
    OwnMemory,
}

/// What a lying shim tells wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lie {
    /// `Wait` answers with another exit code.
    ExitCode,
    /// TaskExit comes twice.
    ExitTwice,
    /// TaskExit never comes.
    ExitNever,
    /// TaskExit comes before TaskStart.
    ExitBeforeStart,
    /// `Wait` answers while the process runs.
    WaitEarly,
    /// TaskDelete never comes.
    NoDelete,
    /// `State` names another pid.
    WrongPid,
    /// The last byte of the standard output is missing.
    LogCut,
}

impl Script {
    /// A double that passes everything on.
    ///
    /// # Errors
    /// When the shim under test is not built.
    pub fn new(world: &World) -> Result<Self> {
        let shim = Runtime::under_test().shim()?;
        Ok(Self { shim, dir: world.dir().to_owned(), acts: Vec::new(), lies: Vec::new() })
    }

    /// And does `deed` at `moment`.
    #[must_use]
    pub fn at(mut self, moment: Moment, deed: Deed) -> Self {
        self.acts.push(Act { moment, deed });
        self
    }

    /// And tells this lie.
    #[must_use]
    pub fn telling(mut self, lie: Lie) -> Self {
        self.lies.push(lie);
        self
    }

    /// Puts it where doubles of this world find it. Those that run keep theirs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        fs::create_dir_all(PLACE).with_context(|| format!("make {PLACE}"))?;
        fs::write(path(), serde_json::to_vec(self)?).context("write the double's script")
    }

    /// The script of this world.
    ///
    /// # Errors
    /// When there is none.
    pub fn read() -> Result<Self> {
        let text = fs::read(path()).context("read the double's script")?;
        serde_json::from_slice(&text).context("the double's script")
    }
}

fn path() -> PathBuf {
    Path::new(PLACE).join("script.json")
}

impl Moment {
    /// Before the shim sees the call.
    pub fn before(call: &str) -> Self {
        Self::Before(call.to_owned())
    }

    /// After the shim has answered the call.
    pub fn after(call: &str) -> Self {
        Self::After(call.to_owned())
    }

    /// When the shim publishes an event.
    pub fn event(topic: &str) -> Self {
        Self::Event(topic.to_owned())
    }
}

/// Where a double notes the address of the shim behind it.
pub fn shim_address_file(id: &str) -> PathBuf {
    Path::new(PLACE).join(format!("{id}.address"))
}

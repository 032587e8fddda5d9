//! What can be asked of a sandbox, and what is answered.

use std::path::PathBuf;

use dunnage_spec::{ContainerId, ExecId};
use tokio::sync::oneshot;

use crate::error::Result;
use crate::rootfs::RootfsMount;
use crate::state::{Exit, State};
use crate::stdio::StdioPaths;

/// A new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Its name.
    pub id: ContainerId,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    /// What to mount on `rootfs` of the bundle; empty when the root is ready.
    pub rootfs: Vec<RootfsMount>,
    /// Streams of the init.
    pub stdio: StdioPaths,
    /// Leave the session keyring of the shim in force.
    pub no_new_keyring: bool,
}

/// A process to execute in a running container.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// Container.
    pub id: ContainerId,
    /// Its name.
    pub exec: ExecId,
    /// What runs.
    pub process: dunnage_spec::Process,
    /// Its streams.
    pub stdio: StdioPaths,
}

/// The init of a container, or one of its execs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Container.
    pub id: ContainerId,
    /// `None` is the init.
    pub exec: Option<ExecId>,
}

/// A signal to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// To whom.
    pub target: Target,
    /// Number, 1 to 64.
    pub signal: i32,
    /// To every process of the container; only with the init as target.
    pub all: bool,
}

/// What is known of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Bundle of its container.
    pub bundle: PathBuf,
    /// Pid, also after the exit; 0 for an exec that was never started.
    pub pid: u32,
    /// Where it stands.
    pub state: State,
    /// Whether its container is frozen.
    pub paused: bool,
    /// Whether its container is being frozen.
    pub pausing: bool,
    /// Its streams, as they were given.
    pub stdio: StdioPaths,
}

/// How a removed process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Pid it had.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Pid in the shim's namespace.
    pub pid: u32,
    /// The exec it was started as, if it was.
    pub exec: Option<ExecId>,
}

/// Where the answer to a command goes.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// Everything that can be asked.
#[derive(Debug)]
pub enum Command {
    /// Make a container; answers the pid of its init, parked at its gate.
    Create(Box<Create>, Reply<u32>),
    /// Start a process; answers its pid once `execve` succeeded.
    Start(Target, Reply<u32>),
    /// Register a process to execute.
    Exec(Box<Exec>, Reply<()>),
    /// Send a signal.
    Kill(Kill, Reply<()>),
    /// Remove a container or an exec that has ended.
    Delete(Target, Reply<Deleted>),
    /// Wait for the end.
    Wait(Target, Reply<Exit>),
    /// Tell what is known.
    Status(Target, Reply<Status>),
    /// Pid of the init, 0 when the container is not known.
    InitPid(ContainerId, Reply<u32>),
    /// All processes.
    Pids(ContainerId, Reply<Vec<Member>>),
    /// Read the counters.
    Stats(ContainerId, Reply<Box<dunnage_cgroup::Stats>>),
    /// Change limits.
    Update(ContainerId, Box<dunnage_spec::Resources>, Reply<()>),
    /// Freeze.
    Pause(ContainerId, Reply<()>),
    /// Thaw.
    Resume(ContainerId, Reply<()>),
    /// Change the size of a terminal.
    Resize(Target, dunnage_spec::process::WindowSize, Reply<()>),
    /// Let a process see the end of its input.
    CloseStdin(Target, Reply<()>),
    /// End the sandbox, if it has no containers; answers whether it ends.
    Shutdown(Reply<bool>),
}

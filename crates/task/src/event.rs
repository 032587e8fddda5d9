//! What the outside world is told, in the order in which it happened.

use std::path::PathBuf;
use std::time::SystemTime;

use dunnage_spec::{ContainerId, ExecId};

use crate::rootfs::RootfsMount;
use crate::state::Exit;
use crate::stdio::StdioPaths;

/// One event of a container. The driver emits them in order; the sink must keep that order and never block.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The init is parked at its gate.
    Created {
        /// Container.
        id: ContainerId,
        /// Its bundle.
        bundle: PathBuf,
        /// What was mounted as its root.
        rootfs: Vec<RootfsMount>,
        /// Its streams.
        stdio: StdioPaths,
        /// Pid of the init, in the shim's pid namespace.
        pid: u32,
    },
    /// The user's program runs.
    Started {
        /// Container.
        id: ContainerId,
        /// Pid.
        pid: u32,
    },
    /// An exec was registered.
    ExecAdded {
        /// Container.
        id: ContainerId,
        /// Exec.
        exec: ExecId,
    },
    /// An exec runs.
    ExecStarted {
        /// Container.
        id: ContainerId,
        /// Exec.
        exec: ExecId,
        /// Pid.
        pid: u32,
    },
    /// The kernel killed something in the container for its memory limit. Before the exit it caused.
    Oom {
        /// Container.
        id: ContainerId,
    },
    /// A process ended: exactly once for each.
    Exited {
        /// Container.
        id: ContainerId,
        /// `None` is the init.
        exec: Option<ExecId>,
        /// Pid it had.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// Frozen.
    Paused {
        /// Container.
        id: ContainerId,
    },
    /// Thawed.
    Resumed {
        /// Container.
        id: ContainerId,
    },
    /// Removed, with everything it had.
    Deleted {
        /// Container.
        id: ContainerId,
        /// Pid of the init.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
}

/// An event with the time at which it happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamped {
    /// When.
    pub at: SystemTime,
    /// What.
    pub event: Event,
}

/// Where events go: an unbounded channel, so that nothing the reader does can hold up the driver.
pub type EventSink = tokio::sync::mpsc::UnboundedSender<Stamped>;

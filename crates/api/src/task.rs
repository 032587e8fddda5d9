//! The Task service: how containerd drives the containers of a shim.
//!
//! Versions 2 and 3 differ in the name only, so one set of messages and one handler serve both.

use crate::service::service;
pub use crate::wire::containerd::task::v3::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};

/// The service's name since containerd 2.0.
pub const V3: &str = "containerd.task.v3.Task";
/// Its name for containerd 1.6 and 1.7, and for shims that answered `start` with version 2.
pub const V2: &str = "containerd.task.v2.Task";

service! {
    /// The Task service.
    ///
    /// Handlers run concurrently on one thread. All but `wait` run to their end when the caller leaves: half a
    /// container is worth less than a finished one that nobody waits for.
    TaskService, TaskServer, TaskClient in [V3, V2] {
        /// State of a task or an exec; answered from memory.
        state = "State"(StateRequest) -> StateResponse, detached;
        /// Makes a task whose first process waits for `start`.
        create = "Create"(CreateTaskRequest) -> CreateTaskResponse, detached;
        /// Lets the first process run its program, or spawns an exec.
        start = "Start"(StartRequest) -> StartResponse, detached;
        /// Removes a task that does not run, or an exec.
        delete = "Delete"(DeleteRequest) -> DeleteResponse, detached;
        /// Every process of a task.
        pids = "Pids"(PidsRequest) -> PidsResponse, detached;
        /// Freezes a task.
        pause = "Pause"(PauseRequest) -> (), detached;
        /// Thaws a task.
        resume = "Resume"(ResumeRequest) -> (), detached;
        /// Writes a task to disk.
        checkpoint = "Checkpoint"(CheckpointTaskRequest) -> (), detached;
        /// Sends a signal.
        kill = "Kill"(KillRequest) -> (), detached;
        /// Registers a further process of a task.
        exec = "Exec"(ExecProcessRequest) -> (), detached;
        /// Sets the size of a terminal.
        resize_pty = "ResizePty"(ResizePtyRequest) -> (), detached;
        /// Closes the shim's own end of stdin.
        close_io = "CloseIO"(CloseIoRequest) -> (), detached;
        /// Changes the limits of a task.
        update = "Update"(UpdateTaskRequest) -> (), detached;
        /// Waits for an exit, as often as asked; ends with its caller.
        wait = "Wait"(WaitRequest) -> WaitResponse, attached;
        /// Usage counters of a task.
        stats = "Stats"(StatsRequest) -> StatsResponse, detached;
        /// Pids of the shim and of a task; never fails.
        connect = "Connect"(ConnectRequest) -> ConnectResponse, detached;
        /// Ends the shim when it has no task left.
        shutdown = "Shutdown"(ShutdownRequest) -> (), detached;
    }
}

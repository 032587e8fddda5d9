//! The Task service: requests become commands of the sandbox, answers become messages.
//!
//! Owns the border between wire and domain: every id is checked here, every `Any` opened, and nothing behind
//! it sees a wire type. Leaves all decisions to the sandbox.

use std::path::PathBuf;

use dunnage_api::Status;
use dunnage_api::any::Any;
use dunnage_api::options::runc;
use dunnage_api::task::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, TaskService, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use dunnage_api::types::{ProcessInfo, Status as WireState};
use dunnage_spec::process::WindowSize;
use dunnage_spec::{ContainerId, ExecId};
use dunnage_task::command::{self, Member, Reply};
use dunnage_task::rootfs::RootfsMount;
use dunnage_task::stdio::StdioPaths;
use dunnage_task::{Command, Handle, State, Target};

use crate::event::{exited_at, timestamp};
use crate::options::Options;
use crate::stop::Stop;
use crate::{metrics, status};

/// Serves the containers of one sandbox.
#[derive(Debug)]
pub(crate) struct Service {
    sandbox: Handle,
    stop: Stop,
}

type Answer<T> = Result<T, Status>;

impl Service {
    pub(crate) fn new(sandbox: Handle, stop: Stop) -> Self {
        Self { sandbox, stop }
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        self.sandbox.ask(make).await.map_err(|error| status::status(&error))
    }
}

impl TaskService for Service {
    async fn create(&self, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(Status::unimplemented("restore from a checkpoint is not supported yet"));
        }
        let options = options(request.options.as_ref())?;
        let create = command::Create {
            id: container_id(&request.id)?,
            bundle: bundle(&request.bundle)?,
            rootfs: request.rootfs.into_iter().map(rootfs_mount).collect(),
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            no_new_keyring: options.no_new_keyring,
        };
        let pid = self.ask(|reply| Command::Create(Box::new(create), reply)).await?;
        Ok(CreateTaskResponse { pid })
    }

    async fn start(&self, request: StartRequest) -> Answer<StartResponse> {
        let target = target(&request.id, &request.exec_id)?;
        let pid = self.ask(|reply| Command::Start(target, reply)).await?;
        Ok(StartResponse { pid })
    }

    async fn delete(&self, request: DeleteRequest) -> Answer<DeleteResponse> {
        let target = target(&request.id, &request.exec_id)?;
        let deleted = self.ask(|reply| Command::Delete(target, reply)).await?;
        Ok(DeleteResponse {
            pid: deleted.pid,
            exit_status: deleted.exit.status,
            exited_at: Some(timestamp(deleted.exit.at)),
        })
    }

    async fn state(&self, request: StateRequest) -> Answer<StateResponse> {
        let target = target(&request.id, &request.exec_id)?;
        let known = self.ask(|reply| Command::Status(target, reply)).await?;
        let id = if request.exec_id.is_empty() { request.id } else { request.exec_id.clone() };
        let exit = known.state.exit();
        Ok(StateResponse {
            id,
            bundle: known.bundle.display().to_string(),
            pid: known.pid,
            status: wire_state(&known).into(),
            stdin: known.stdio.stdin,
            stdout: known.stdio.stdout,
            stderr: known.stdio.stderr,
            terminal: known.stdio.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exited_at(exit),
            exec_id: request.exec_id,
        })
    }

    async fn wait(&self, request: WaitRequest) -> Answer<WaitResponse> {
        let target = target(&request.id, &request.exec_id)?;
        let exit = self.ask(|reply| Command::Wait(target, reply)).await?;
        Ok(WaitResponse { exit_status: exit.status, exited_at: Some(timestamp(exit.at)) })
    }

    async fn kill(&self, request: KillRequest) -> Answer<()> {
        let target = target(&request.id, &request.exec_id)?;
        let signal = i32::try_from(request.signal)
            .map_err(|_| Status::invalid_argument(format!("signal {} does not exist", request.signal)))?;
        let kill = command::Kill { target, signal, all: request.all };
        self.ask(|reply| Command::Kill(kill, reply)).await
    }

    async fn exec(&self, request: ExecProcessRequest) -> Answer<()> {
        let spec = request.spec.ok_or_else(|| Status::invalid_argument("exec: no process given"))?;
        let process = dunnage_spec::Process::from_json(&spec.value)
            .map_err(|error| status::status(&dunnage_task::Error::from(error)))?;
        let exec = command::Exec {
            id: container_id(&request.id)?,
            exec: exec_id(&request.exec_id)?,
            process,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
        };
        self.ask(|reply| Command::Exec(Box::new(exec), reply)).await
    }

    async fn pids(&self, request: PidsRequest) -> Answer<PidsResponse> {
        let id = container_id(&request.id)?;
        let members = self.ask(|reply| Command::Pids(id, reply)).await?;
        Ok(PidsResponse { processes: members.into_iter().map(process_info).collect() })
    }

    async fn pause(&self, request: PauseRequest) -> Answer<()> {
        let id = container_id(&request.id)?;
        self.ask(|reply| Command::Pause(id, reply)).await
    }

    async fn resume(&self, request: ResumeRequest) -> Answer<()> {
        let id = container_id(&request.id)?;
        self.ask(|reply| Command::Resume(id, reply)).await
    }

    async fn checkpoint(&self, _: CheckpointTaskRequest) -> Answer<()> {
        Err(Status::unimplemented("checkpoint is not supported yet"))
    }

    async fn resize_pty(&self, request: ResizePtyRequest) -> Answer<()> {
        let target = target(&request.id, &request.exec_id)?;
        let side = |value: u32| {
            u16::try_from(value).map_err(|_| Status::invalid_argument(format!("terminal size {value}")))
        };
        let size = WindowSize { rows: side(request.height)?, columns: side(request.width)? };
        self.ask(|reply| Command::Resize(target, size, reply)).await
    }

    async fn close_io(&self, request: CloseIoRequest) -> Answer<()> {
        let target = target(&request.id, &request.exec_id)?;
        if !request.stdin {
            return Ok(());
        }
        self.ask(|reply| Command::CloseStdin(target, reply)).await
    }

    async fn update(&self, request: UpdateTaskRequest) -> Answer<()> {
        let id = container_id(&request.id)?;
        let wanted =
            request.resources.ok_or_else(|| Status::invalid_argument("update: no resources given"))?;
        let resources = dunnage_spec::Resources::from_json(&wanted.value)
            .map_err(|error| status::status(&dunnage_task::Error::from(error)))?;
        self.ask(|reply| Command::Update(id, Box::new(resources), reply)).await
    }

    async fn stats(&self, request: StatsRequest) -> Answer<StatsResponse> {
        let id = container_id(&request.id)?;
        let stats = self.ask(|reply| Command::Stats(id, reply)).await?;
        Ok(StatsResponse { stats: Some(metrics::wire(&stats)) })
    }

    async fn connect(&self, request: ConnectRequest) -> Answer<ConnectResponse> {
        // Never fails: containerd asks it at load time for names that the shim may not know.
        let task_pid = match request.id.parse() {
            Ok(id) => self.ask(|reply| Command::InitPid(id, reply)).await.unwrap_or(0),
            Err(_) => 0,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version })
    }

    async fn shutdown(&self, _: ShutdownRequest) -> Answer<()> {
        // A sandbox that has ended already is what was asked for.
        if self.sandbox.ask(Command::Shutdown).await.unwrap_or(true) {
            self.stop.request();
        }
        Ok(())
    }
}

// Options that only mean something to a runtime that is executed (its name, its root directory) are taken and
// have no effect, so that a handler's table can be kept when its type changes.
fn options(options: Option<&Any>) -> Answer<runc::Options> {
    let options = Options::load(options).map_err(|error| Status::invalid_argument(error.to_string()))?;
    if !options.ignored.is_empty() {
        tracing::warn!(keys = options.ignored.join(" "), "runtime options without a meaning here");
    }
    if options.asked.no_pivot_root {
        return Err(Status::unimplemented("runtime option NoPivotRoot is not supported yet"));
    }
    Ok(options.asked)
}

fn container_id(id: &str) -> Answer<ContainerId> {
    id.parse().map_err(|error: dunnage_spec::id::InvalidId| Status::invalid_argument(error.to_string()))
}

fn exec_id(id: &str) -> Answer<ExecId> {
    id.parse().map_err(|error: dunnage_spec::id::InvalidId| Status::invalid_argument(error.to_string()))
}

fn target(id: &str, exec: &str) -> Answer<Target> {
    let exec = if exec.is_empty() { None } else { Some(exec_id(exec)?) };
    Ok(Target { id: container_id(id)?, exec })
}

fn bundle(path: &str) -> Answer<PathBuf> {
    let bundle = PathBuf::from(path);
    if bundle.is_absolute() {
        Ok(bundle)
    } else {
        Err(Status::invalid_argument(format!("bundle {path:?} is not an absolute path")))
    }
}

fn rootfs_mount(mount: dunnage_api::types::Mount) -> RootfsMount {
    RootfsMount { fs_type: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}

fn wire_state(known: &command::Status) -> WireState {
    match known.state {
        State::Stopped(_) => WireState::Stopped,
        _ if known.paused => WireState::Paused,
        _ if known.pausing => WireState::Pausing,
        State::Creating | State::Created => WireState::Created,
        State::Starting | State::Running => WireState::Running,
        State::Paused => WireState::Paused,
    }
}

fn process_info(member: Member) -> ProcessInfo {
    let info = member
        .exec
        .map(|exec| -> Any { dunnage_api::any::pack(&runc::ProcessDetails { exec_id: exec.to_string() }) });
    ProcessInfo { pid: member.pid, info }
}

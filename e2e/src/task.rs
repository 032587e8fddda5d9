//! A client of a shim's task service, on the `ttrpc` crate and rust-protobuf: an implementation independent of
//! ours, so that both must agree with containerd's definitions.
//!
//! Version 2 and 3 of the service have the same messages under two names (`containerd.task.v2.Task`, spoken by
//! containerd 1.x, and `containerd.task.v3.Task`), so one client serves both.

use std::time::Duration;

use anyhow::{Context, Result};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::{Message, MessageField, well_known_types::any::Any};
use serde_json::Value;
use ttrpc::asynchronous::Client;

use crate::wait::limit;

pub use containerd_shim_protos::api::Status;
pub use ttrpc::Code;

/// The version of the task service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `containerd.task.v2.Task`.
    V2,
    /// `containerd.task.v3.Task`.
    V3,
}

impl Version {
    fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }
}

/// A connection to a shim.
#[derive(Clone)]
pub struct TaskClient {
    client: Client,
    version: Version,
}

impl std::fmt::Debug for TaskClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskClient").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What `Create` needs to know.
#[derive(Clone, Debug, Default)]
pub struct Create<'a> {
    /// The task's id.
    pub id: &'a str,
    /// The bundle's folder.
    pub bundle: &'a str,
    /// What the shim mounts on the bundle's `rootfs`.
    pub rootfs: Vec<api::Mount>,
    /// Paths of the fifos, or empty.
    pub stdio: [&'a str; 3],
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// The runtime's options.
    pub options: Option<Any>,
}

/// What `Exec` needs to know.
#[derive(Clone, Debug, Default)]
pub struct Exec<'a> {
    /// The task's id.
    pub id: &'a str,
    /// The new process's id.
    pub exec_id: &'a str,
    /// The process as the OCI specification's `process`.
    pub spec: Value,
    /// Paths of the fifos, or empty.
    pub stdio: [&'a str; 3],
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

impl TaskClient {
    /// Connects to a shim's address, as its `start` printed it.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str, version: Version) -> Result<Self> {
        let client = Client::connect(address).await.with_context(|| format!("connect to {address}"))?;
        Ok(Self { client, version })
    }

    /// The same connection, speaking another version of the service.
    #[must_use]
    pub fn speaking(&self, version: Version) -> Self {
        Self { client: self.client.clone(), version }
    }

    /// Calls any method with any message. `limit` travels with the request, as containerd sends it.
    ///
    /// # Errors
    /// The shim's status, or what went wrong with the connection.
    pub async fn call<Q: Message, R: Message>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> ttrpc::Result<R> {
        let others = |error: protobuf::Error| ttrpc::Error::Others(error.to_string());
        let mut message = ttrpc::Request::new();
        message.service = self.version.service().to_owned();
        message.method = method.to_owned();
        message.timeout_nano = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        message.payload = request.write_to_bytes().map_err(others)?;
        let response = self.client.request(message).await.map_err(|error| match error {
            // A status speaks for itself; what happened to the connection needs the call's name.
            ttrpc::Error::Others(text) => ttrpc::Error::Others(format!("{method}: {text}")),
            other => other,
        })?;
        R::parse_from_bytes(&response.payload).map_err(others)
    }

    async fn ask<Q: Message, R: Message>(&self, method: &str, request: Q) -> ttrpc::Result<R> {
        self.call(method, &request, limit()).await
    }

    /// Creates a task: answers the pid of its parked first process.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn create(&self, create: Create<'_>) -> ttrpc::Result<u32> {
        let [stdin, stdout, stderr] = create.stdio.map(str::to_owned);
        let request = api::CreateTaskRequest {
            id: create.id.to_owned(),
            bundle: create.bundle.to_owned(),
            rootfs: create.rootfs,
            terminal: create.terminal,
            stdin,
            stdout,
            stderr,
            options: MessageField::from_option(create.options),
            ..Default::default()
        };
        Ok(self.ask::<_, api::CreateTaskResponse>("Create", request).await?.pid)
    }

    /// Starts a task or, with an `exec_id`, one of its other processes: answers its pid.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request =
            api::StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        Ok(self.ask::<_, api::StartResponse>("Start", request).await?.pid)
    }

    /// The state of a process.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn state(&self, id: &str, exec_id: &str) -> ttrpc::Result<api::StateResponse> {
        let request =
            api::StateRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.ask("State", request).await
    }

    /// Waits for a process's end: its exit status.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn wait(&self, id: &str, exec_id: &str) -> ttrpc::Result<api::WaitResponse> {
        let request =
            api::WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.ask("Wait", request).await
    }

    /// Deletes a process that has ended.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<api::DeleteResponse> {
        let request =
            api::DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.ask("Delete", request).await
    }

    /// Sends a signal to a process or, with `all`, to every process of the task.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> ttrpc::Result<()> {
        let request = api::KillRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.ask::<_, api::Empty>("Kill", request).await.map(drop)
    }

    /// Registers a further process.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn exec(&self, exec: Exec<'_>) -> ttrpc::Result<()> {
        let [stdin, stdout, stderr] = exec.stdio.map(str::to_owned);
        let request = api::ExecProcessRequest {
            id: exec.id.to_owned(),
            exec_id: exec.exec_id.to_owned(),
            terminal: exec.terminal,
            stdin,
            stdout,
            stderr,
            spec: json_any("types.containerd.io/opencontainers/runtime-spec/1/Process", &exec.spec),
            ..Default::default()
        };
        self.ask::<_, api::Empty>("Exec", request).await.map(drop)
    }

    /// The pids of a task as the machine sees them.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn pids(&self, id: &str) -> ttrpc::Result<Vec<u32>> {
        let request = api::PidsRequest { id: id.to_owned(), ..Default::default() };
        let response: api::PidsResponse = self.ask("Pids", request).await?;
        Ok(response.processes.into_iter().map(|process| process.pid).collect())
    }

    /// Freezes a task.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn pause(&self, id: &str) -> ttrpc::Result<()> {
        let request = api::PauseRequest { id: id.to_owned(), ..Default::default() };
        self.ask::<_, api::Empty>("Pause", request).await.map(drop)
    }

    /// Lets a frozen task go on.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn resume(&self, id: &str) -> ttrpc::Result<()> {
        let request = api::ResumeRequest { id: id.to_owned(), ..Default::default() };
        self.ask::<_, api::Empty>("Resume", request).await.map(drop)
    }

    /// Changes a task's limits: `resources` as the OCI specification's `linux.resources`.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn update(&self, id: &str, resources: &Value) -> ttrpc::Result<()> {
        let request = api::UpdateTaskRequest {
            id: id.to_owned(),
            resources: json_any(
                "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
                resources,
            ),
            ..Default::default()
        };
        self.ask::<_, api::Empty>("Update", request).await.map(drop)
    }

    /// A task's usage: type and bytes of the metrics.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn stats(&self, id: &str) -> ttrpc::Result<(String, Vec<u8>)> {
        let request = api::StatsRequest { id: id.to_owned(), ..Default::default() };
        let response: api::StatsResponse = self.ask("Stats", request).await?;
        let stats = response.stats.unwrap_or_default();
        Ok((stats.type_url, stats.value))
    }

    /// The pids of shim and task.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn pids_of_shim_and_task(&self, id: &str) -> ttrpc::Result<(u32, u32)> {
        let request = api::ConnectRequest { id: id.to_owned(), ..Default::default() };
        let response: api::ConnectResponse = self.ask("Connect", request).await?;
        Ok((response.shim_pid, response.task_pid))
    }

    /// Closes the shim's own end of a process's input.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn close_input(&self, id: &str, exec_id: &str) -> ttrpc::Result<()> {
        let request = api::CloseIORequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            stdin: true,
            ..Default::default()
        };
        self.ask::<_, api::Empty>("CloseIO", request).await.map(drop)
    }

    /// Resizes a process's terminal.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn resize(&self, id: &str, exec_id: &str, columns: u32, rows: u32) -> ttrpc::Result<()> {
        let request = api::ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width: columns,
            height: rows,
            ..Default::default()
        };
        self.ask::<_, api::Empty>("ResizePty", request).await.map(drop)
    }

    /// Asks the shim to leave once it has no task. The answer may be lost with the connection.
    ///
    /// # Errors
    /// The shim's status.
    pub async fn shutdown(&self, id: &str) -> ttrpc::Result<()> {
        let request = api::ShutdownRequest { id: id.to_owned(), ..Default::default() };
        use ttrpc::Error::{Eof, LocalClosed, RemoteClosed, Socket};
        match self.ask::<_, api::Empty>("Shutdown", request).await {
            Ok(_) | Err(Eof | LocalClosed | RemoteClosed | Socket(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The code of a refused call.
pub fn code<T>(result: &ttrpc::Result<T>) -> Option<Code> {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code.enum_value().ok(),
        _ => None,
    }
}

/// The words of a refused call.
pub fn message<T>(result: &ttrpc::Result<T>) -> &str {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => &status.message,
        _ => "",
    }
}

fn json_any(type_url: &str, value: &Value) -> MessageField<Any> {
    let any =
        Any { type_url: type_url.to_owned(), value: value.to_string().into_bytes(), ..Default::default() };
    MessageField::some(any)
}

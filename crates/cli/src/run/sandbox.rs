//! The sandbox: the shim started for it, the process that holds the pod's namespaces, and the end of both.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use dunnage_api::task::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, KillRequest, ShutdownRequest, StartRequest, TaskClient,
    V2, V3, WaitRequest,
};
use dunnage_api::ttrpc;
use dunnage_sys::fifo;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;

use super::folder::{Folder, Process};
use super::shim::{self, Answer};
use super::stop::{Listener, Stop};
use crate::bundle::SandboxBundle;
use crate::output;

const SIGKILL: u32 = 9;
/// For a shim to end after its last container.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(2);

/// A running sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Of the process that holds the namespaces.
    pub(super) pid: u32,
    pub(super) task: TaskClient,
    pub(super) shim_version: i32,
    shim: Option<Process>,
    took: Duration,
    /// Set when its end is wanted.
    ending: Rc<Cell<bool>>,
    watch: AbortHandle,
    log: AbortHandle,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.watch.abort();
        self.log.abort();
    }
}

/// What starting a sandbox takes.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) bundle: SandboxBundle<'a>,
    pub(super) folder: &'a Folder,
    pub(super) shim: &'a std::path::Path,
    pub(super) debug: bool,
}

/// Connects under the name of the service that the shim's version has.
pub(super) async fn connect(answer: &Answer) -> anyhow::Result<TaskClient> {
    let client = ttrpc::Client::connect(&answer.socket).await;
    let client = client.with_context(|| format!("connect to the shim at {}", answer.socket.display()))?;
    Ok(TaskClient::new(client).named(if answer.version >= 3 { V3 } else { V2 }))
}

impl Start<'_> {
    /// Starts the shim and in it the sandbox; `halt` is asked when the sandbox ends by itself.
    pub(super) async fn run(self, id: &str, halt: &Rc<Listener>) -> anyhow::Result<Sandbox> {
        let asked = Instant::now();
        let bundle = self.folder.bundle(id);
        std::fs::create_dir(&bundle).with_context(|| format!("create {}", bundle.display()))?;
        self.bundle.write(&bundle)?;
        let log = read_log(&bundle.join("log"), self.debug)?;
        let answer = shim::start(self.shim, self.folder, id, self.debug).await?;
        let task = connect(&answer).await?;
        let connect = ConnectRequest { id: id.to_owned() };
        let shim = Process::of(task.connect(&connect).await.context("greet the shim")?.shim_pid);
        let create = CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.to_string_lossy().into_owned(),
            ..CreateTaskRequest::default()
        };
        task.create(&create).await.context("create the sandbox")?;
        let start = StartRequest { id: id.to_owned(), ..StartRequest::default() };
        let pid = task.start(&start).await.context("start the sandbox")?.pid;
        let ending = Rc::new(Cell::new(false));
        let watch =
            tokio::task::spawn_local(watch(task.clone(), id.to_owned(), Rc::clone(&ending), Rc::clone(halt)));
        Ok(Sandbox {
            id: id.to_owned(),
            pid,
            task,
            shim_version: answer.version,
            shim,
            took: asked.elapsed(),
            ending,
            watch: watch.abort_handle(),
            log,
        })
    }
}

impl Sandbox {
    /// One line for people.
    pub(super) fn describe(&self) -> String {
        let shim = self.shim.map_or(0, |process| process.pid);
        format!("pid {}, shim pid {shim}, up in {}", self.pid, output::duration(self.took))
    }

    /// Ends the sandbox, and the shim after it. Whatever does not work here is done by force afterwards.
    pub(super) async fn end(&self) -> anyhow::Result<()> {
        self.ending.set(true);
        let id = || self.id.clone();
        let kill = KillRequest { id: id(), signal: SIGKILL, ..KillRequest::default() };
        // It may have ended already.
        let _ = self.task.kill(&kill).await;
        self.task
            .wait(&WaitRequest { id: id(), ..WaitRequest::default() })
            .await
            .context("wait for the sandbox")?;
        let delete = DeleteRequest { id: id(), ..DeleteRequest::default() };
        self.task.delete(&delete).await.context("delete the sandbox")?;
        // The shim may close the connection before its answer is read.
        let _ = self.task.shutdown(&ShutdownRequest { id: id(), now: false }).await;
        let gone = async {
            while self.shim.as_ref().is_some_and(Process::lives) {
                tokio::time::sleep(SHUTDOWN_PAUSE).await;
            }
        };
        tokio::time::timeout(SHUTDOWN_PATIENCE, gone).await.context("wait for the shim to end")
    }
}

/// Without the sandbox its containers are alone with their namespaces; the kubelet ends such a pod too.
async fn watch(task: TaskClient, id: String, ending: Rc<Cell<bool>>, halt: Rc<Listener>) {
    let _ = task.wait(&WaitRequest { id, ..WaitRequest::default() }).await;
    if !ending.get() {
        output::warn("the sandbox has ended, so the pod ends");
        halt.ask(Stop::Now);
    }
}

/// Reads what the shim logs, as containerd does: the fifo is open at both ends, so it never ends. Lines are
/// shown only when asked for; that they are read keeps the shim from losing any.
fn read_log(path: &std::path::Path, show: bool) -> anyhow::Result<AbortHandle> {
    fifo::make(path)?;
    let reader = pipe::OpenOptions::new().read_write(true).open_receiver(path);
    let mut reader = reader.with_context(|| format!("open {}", path.display()))?;
    let task = tokio::task::spawn_local(async move {
        let mut text = Vec::new();
        while let Ok(1..) = reader.read_buf(&mut text).await {
            let end = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            let rest = text.split_off(end);
            if show && !text.is_empty() {
                output::note(String::from_utf8_lossy(&text).trim_end());
            }
            text = rest;
        }
    });
    Ok(task.abort_handle())
}

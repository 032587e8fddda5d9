//! The double's task service: each call goes to the shim and its answer back, altered if the script says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::create_events;
use dunnage_e2e::bundle::Fifo;
use dunnage_e2e::fault::{Lie, Moment, PLACE, Script, Victim};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use ttrpc::asynchronous::{Client, MethodHandler, Server, Service, TtrpcContext};
use ttrpc::{Request, Response};

use crate::deed::Deeds;
use crate::events::Relay;

/// Both generations of the service.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

const METHODS: [&str; 17] = [
    "State",
    "Create",
    "Start",
    "Delete",
    "Pids",
    "Pause",
    "Resume",
    "Checkpoint",
    "Kill",
    "Exec",
    "ResizePty",
    "CloseIO",
    "Update",
    "Wait",
    "Stats",
    "Connect",
    "Shutdown",
];

/// Where the double takes events from its shim.
pub(crate) fn events_socket(id: &str) -> String {
    format!("{PLACE}/{id}.events")
}

/// Where the double serves.
pub(crate) fn task_socket(id: &str) -> String {
    format!("{PLACE}/{id}.task")
}

/// Serves until the shim is gone.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(id: &str, events: &str) -> Result<()> {
    let script = Script::read()?;
    let deeds = Arc::new(Deeds::new(&script));
    let relay = Relay::new(events.to_owned(), script.lies.clone(), Arc::clone(&deeds));
    let mut endpoint = Server::new()
        .bind(&format!("unix://{}", events_socket(id)))
        .context("listen for events")?
        .register_service(create_events(Arc::new(relay)));
    endpoint.start().await.context("serve events")?;
    crate::say("listens")?;

    let address = crate::hear()?;
    let shim = Client::connect(&address).await.context("connect to the shim")?;
    deeds.shim_is(shim_pid(&shim, id).await?);
    let path = address.trim_start_matches("unix://");
    // A connection for nothing but to see the shim's end.
    let mut life = UnixStream::connect(path).await.context("connect to the shim")?;
    let double = Arc::new(Double { shim, lies: script.lies, deeds });
    let mut server = Server::new().bind(&format!("unix://{}", task_socket(id))).context("listen")?;
    for service in SERVICES {
        server = server.register_service(HashMap::from([(service.to_owned(), methods(&double))]));
    }
    server.start().await.context("serve")?;
    crate::say("serves")?;
    _ = life.read(&mut [0]).await;
    // Answers that are on their way arrive.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Of a shim that has no task yet, too.
async fn shim_pid(shim: &Client, id: &str) -> Result<i32> {
    let ask = ConnectRequest { id: id.to_owned(), ..Default::default() }.write_to_bytes()?;
    let connect = |service: &str| {
        let mut request = Request::new();
        (request.service, request.method) = (service.to_owned(), "Connect".to_owned());
        request.payload.clone_from(&ask);
        shim.request(request)
    };
    let [older, newer] = SERVICES.map(connect);
    // The Go shim of containerd 2 serves the newer one alone.
    let answer = match newer.await {
        Ok(answer) => answer,
        Err(_) => older.await.context("Connect")?,
    };
    Ok(i32::try_from(ConnectResponse::parse_from_bytes(&answer.payload)?.shim_pid)?)
}

fn methods(double: &Arc<Double>) -> Service {
    let method = |name: &&str| {
        let handler = Method { name: (*name).to_owned(), double: Arc::clone(double) };
        ((*name).to_owned(), Box::new(handler) as Box<dyn MethodHandler + Send + Sync>)
    };
    Service { methods: METHODS.iter().map(method).collect(), streams: HashMap::new() }
}

struct Double {
    shim: Client,
    lies: Vec<Lie>,
    deeds: Arc<Deeds>,
}

struct Method {
    name: String,
    double: Arc<Double>,
}

#[async_trait]
impl MethodHandler for Method {
    async fn handler(&self, _: TtrpcContext, mut request: Request) -> ttrpc::Result<Response> {
        let Double { shim, deeds, .. } = &*self.double;
        if !deeds.at(&Moment::before(&self.name)).await {
            // What its caller took along the shim never sees.
            return Err(ttrpc::Error::Others("the caller is gone".to_owned()));
        }
        let others = |error: anyhow::Error| ttrpc::Error::Others(format!("{error:#}"));
        if let Some(answer) = self.double.lie_before(&self.name, &mut request).map_err(others)? {
            return Ok(answer);
        }
        let mut answer = match shim.request(request).await {
            Err(error) if !matches!(error, ttrpc::Error::RpcStatus(_)) => {
                // The shim is gone, so its callers lose their connection and hear nothing more.
                _ = deeds.kill(Victim::Caller).await;
                return Err(error);
            }
            // The crate would make UNKNOWN of every status that a handler returns as its error.
            Err(ttrpc::Error::RpcStatus(status)) => {
                let mut refused = Response::new();
                refused.set_status(status);
                refused
            }
            answered => answered?,
        };
        self.double.lie_after(&self.name, &mut answer).map_err(others)?;
        deeds.at(&Moment::after(&self.name)).await;
        Ok(answer)
    }
}

impl Double {
    fn tells(&self, lie: Lie) -> bool {
        self.lies.contains(&lie)
    }

    /// Changes what the shim is asked, or answers in its stead.
    fn lie_before(&self, method: &str, request: &mut Request) -> Result<Option<Response>> {
        match method {
            "Wait" if self.tells(Lie::WaitEarly) => {
                // A call about nothing is refused as ever.
                WaitRequest::parse_from_bytes(&request.payload)?;
                let answer = WaitResponse::default();
                Ok(Some(Response { payload: answer.write_to_bytes()?, ..Default::default() }))
            }
            "Create" if self.tells(Lie::LogCut) => {
                let mut create = CreateTaskRequest::parse_from_bytes(&request.payload)?;
                if !create.stdout.is_empty() {
                    create.stdout = cut(&create.stdout)?;
                    request.payload = create.write_to_bytes()?;
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn lie_after(&self, method: &str, answer: &mut Response) -> Result<()> {
        match method {
            "Wait" if self.tells(Lie::ExitCode) => {
                let mut wait = WaitResponse::parse_from_bytes(&answer.payload)?;
                wait.exit_status += 1;
                answer.payload = wait.write_to_bytes()?;
            }
            "State" if self.tells(Lie::WrongPid) => {
                let mut state = StateResponse::parse_from_bytes(&answer.payload)?;
                state.pid += 1;
                answer.payload = state.write_to_bytes()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A fifo from which everything but the last byte goes on to `stdout`.
fn cut(stdout: &str) -> Result<String> {
    let own = format!("{stdout}.cut");
    let mut from = Fifo::open(own.as_ref())?;
    let to = pipe::OpenOptions::new().open_sender(stdout).context("open the output")?;
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let part = from.read_some(4096).await?;
            kept.extend(&part);
            let all_but_one = kept.len().saturating_sub(1);
            write(&to, &kept[..all_but_one]).await?;
            kept.drain(..all_but_one);
            if part.is_empty() {
                return anyhow::Ok(());
            }
        }
    });
    Ok(own)
}

async fn write(to: &pipe::Sender, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => bail!("write the output: {error}"),
        }
    }
    Ok(())
}

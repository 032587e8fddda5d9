//! The server side: connections in, calls to services, answers out.
//!
//! Every call is a task of its own, so a slow one holds up nobody. A *detached* call runs to its end when its
//! caller leaves or loses patience, because its effects are half done otherwise; an *attached* one (a wait)
//! ends with its caller. Only peers with our own user and group are served.
//!
//! What a service decides stays with the service; this file answers only what never reaches one: unknown
//! services and methods, streaming calls, oversize and malformed requests, stream ids out of order.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::envelope::{self, Request};
use super::frame::{Frame, Header, MAX_PAYLOAD, flag, kind};
use super::wire::Wire;
use crate::Status;

/// How long to wait before accepting again when descriptors or memory ran out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A service as the server sees it. Made by the tables in [`task`](crate::task) and beside it.
pub trait Dispatch {
    /// Every full name the service is called by.
    fn names(&self) -> &'static [&'static str];

    /// Starts the handler of `method` with the encoded request, or refuses the call.
    fn dispatch(&self, method: &str, payload: &[u8], call: Call);
}

/// Serves a set of services to every peer of the same user.
#[derive(Default)]
pub struct Server {
    services: Vec<Rc<dyn Dispatch>>,
    calls: Rc<Calls>,
}

impl Server {
    /// A server that knows no service yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one service more.
    #[must_use]
    pub fn with(mut self, service: impl Dispatch + 'static) -> Self {
        self.services.push(Rc::new(service));
        self
    }

    /// Serves until `stop` is ready; then takes no more calls, lets detached calls finish and their answers
    /// leave, and returns. Bound that time from outside if it must be bounded.
    pub async fn serve(self, listener: UnixListener, stop: impl Future<Output = ()>) {
        let server = Rc::new(self);
        let stopping = Rc::new(Stopping::default());
        tokio::select! {
            () = stop => {}
            () = accept(&server, &listener, &stopping) => {}
        }
        drop(listener);
        stopping.begin();
        server.calls.none().await;
    }

    fn on_frame(&self, wire: &Rc<Wire>, streams: &mut Streams, frame: &Frame<'_>) {
        let header = match frame {
            Frame::Whole(header, _) | Frame::Oversize(header) => *header,
        };
        if let Err(status) = self.on_checked_frame(wire, streams, header, frame) {
            wire.send(&envelope::encode_response(header.stream, Err::<(), _>(status)));
        }
    }

    fn on_checked_frame(
        &self,
        wire: &Rc<Wire>,
        streams: &mut Streams,
        header: Header,
        frame: &Frame<'_>,
    ) -> Result<(), Status> {
        let payload = match frame {
            Frame::Whole(_, payload) => *payload,
            Frame::Oversize(header) => return Err(oversize(*header)),
        };
        match header.kind {
            kind::REQUEST => streams.open(header.stream)?,
            kind::DATA => return streams.check_data(header.stream),
            _ => return Ok(()),
        }
        let request = Request::decode(payload).map_err(|error| {
            Status::invalid_argument(format!("request on stream {}: {error}", header.stream))
        })?;
        if header.flags & flag::REMOTE_OPEN != 0 {
            let text = format!("{}/{}: streaming calls are not implemented", request.service, request.method);
            return Err(Status::unimplemented(text));
        }
        let service = self
            .services
            .iter()
            .find(|service| service.names().contains(&request.service))
            .ok_or_else(|| Status::unimplemented(format!("service {}", request.service)))?;
        let call = Call {
            wire: Rc::clone(wire),
            stream: header.stream,
            timeout: request.timeout,
            calls: Rc::clone(&self.calls),
        };
        service.dispatch(request.method, request.payload, call);
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.services.iter().flat_map(|service| service.names()).collect();
        f.debug_struct("Server").field("services", &names).finish_non_exhaustive()
    }
}

async fn accept(server: &Rc<Server>, listener: &UnixListener, stopping: &Rc<Stopping>) {
    loop {
        match listener.accept().await.and_then(|(stream, _)| same_user(stream)) {
            Ok(stream) => {
                tokio::task::spawn_local(serve_connection(Rc::clone(server), stream, Rc::clone(stopping)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "connection refused");
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn same_user(stream: UnixStream) -> io::Result<UnixStream> {
    let peer = stream.peer_cred()?;
    let own = dunnage_sys::process::effective_ids();
    if (peer.uid(), peer.gid()) == own {
        return Ok(stream);
    }
    let text = format!("peer is user {} group {}, not {} and {}", peer.uid(), peer.gid(), own.0, own.1);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

async fn serve_connection(server: Rc<Server>, stream: UnixStream, stopping: Rc<Stopping>) {
    let wire = Wire::new(stream);
    let mut streams = Streams::default();
    let read = std::pin::pin!(wire.read(|frame| server.on_frame(&wire, &mut streams, &frame)));
    tokio::select! {
        // By reference, because dropping the future closes the wire.
        () = read => {}
        () = stopping.begun() => {
            // Reading is over, so no call comes in any more; answers to those that run still leave.
            server.calls.none().await;
        }
    }
}

/// The stream ids a connection has used.
#[derive(Debug, Default)]
struct Streams {
    last: u32,
}

impl Streams {
    fn open(&mut self, stream: u32) -> Result<(), Status> {
        odd(stream)?;
        if stream <= self.last {
            return Err(Status::invalid_argument(format!(
                "stream {stream} after stream {}: ids must increase",
                self.last
            )));
        }
        self.last = stream;
        Ok(())
    }

    /// A client may still send on a streaming call that was refused; that is no news to it.
    fn check_data(&self, stream: u32) -> Result<(), Status> {
        odd(stream)?;
        if stream <= self.last {
            return Ok(());
        }
        Err(Status::invalid_argument(format!("stream {stream} is not open")))
    }
}

fn odd(stream: u32) -> Result<(), Status> {
    if stream % 2 == 1 {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("stream {stream}: ids of a client must be odd")))
}

fn oversize(header: Header) -> Status {
    Status::resource_exhausted(format!("message of {} bytes is larger than {MAX_PAYLOAD}", header.length))
}

/// A call that waits for its handler: where the answer goes.
#[derive(Debug)]
pub struct Call {
    wire: Rc<Wire>,
    stream: u32,
    timeout: Option<Duration>,
    calls: Rc<Calls>,
}

impl Call {
    /// Runs the handler to its end, whoever still waits for it.
    pub fn detached<Q, R, F>(self, payload: &[u8], handler: impl FnOnce(Q) -> F)
    where
        Q: Message + Default,
        R: Message,
        F: Future<Output = Result<R, Status>> + 'static,
    {
        let Some(request) = self.decode(payload) else { return };
        let handled = handler(request);
        let running = Running::new(&self.calls);
        tokio::task::spawn_local(async move {
            let result = handled.await;
            self.answer(result);
            self.wire.flushed().await;
            drop(running);
        });
    }

    /// Runs the handler until it ends, the caller leaves or its time is over.
    pub fn attached<Q, R, F>(self, payload: &[u8], handler: impl FnOnce(Q) -> F)
    where
        Q: Message + Default,
        R: Message,
        F: Future<Output = Result<R, Status>> + 'static,
    {
        let Some(request) = self.decode(payload) else { return };
        let handled = handler(request);
        tokio::task::spawn_local(async move {
            let result = tokio::select! {
                biased;
                result = handled => result,
                () = self.wire.closed() => return,
                () = over(self.timeout) => Err(Status::deadline_exceeded("the time of the call is over")),
            };
            self.answer(result);
        });
    }

    /// Answers that the service has no such method.
    pub fn refuse_method(self, method: &str) {
        self.answer(Err::<(), _>(Status::unimplemented(format!("method {method}"))));
    }

    fn decode<Q: Message + Default>(&self, payload: &[u8]) -> Option<Q> {
        Q::decode(payload)
            .map_err(|error| self.answer(Err::<(), _>(Status::invalid_argument(error.to_string()))))
            .ok()
    }

    fn answer(&self, result: Result<impl Message, Status>) {
        // A caller that left does not want the answer.
        if !self.wire.is_closed() {
            self.wire.send(&envelope::encode_response(self.stream, result));
        }
    }
}

async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// How many detached calls run.
#[derive(Debug, Default)]
struct Calls {
    running: Cell<usize>,
    ended: Notify,
}

impl Calls {
    async fn none(&self) {
        while self.running.get() != 0 {
            self.ended.notified().await;
        }
    }
}

/// One detached call that runs.
#[derive(Debug)]
struct Running(Rc<Calls>);

impl Running {
    fn new(calls: &Rc<Calls>) -> Self {
        calls.running.set(calls.running.get() + 1);
        Self(Rc::clone(calls))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_waiters();
    }
}

/// Whether the server stops.
#[derive(Debug, Default)]
struct Stopping {
    begun: Cell<bool>,
    changed: Notify,
}

impl Stopping {
    fn begin(&self) {
        self.begun.set(true);
        self.changed.notify_waiters();
    }

    async fn begun(&self) {
        while !self.begun.get() {
            self.changed.notified().await;
        }
    }
}

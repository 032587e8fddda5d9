//! The client side: concurrent calls over one connection.
//!
//! A small task reads answers and gives each to the call that waits for it. It ends with the last handle, or
//! when the peer leaves; then every waiting call fails with [`CallError::Closed`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, io};

use prost::{DecodeError, Message};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::envelope;
use super::frame::{Frame, kind};
use super::wire::Wire;
use crate::Status;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer answered with a status; its text is the error's.
    #[error(transparent)]
    Status(#[from] Status),
    /// The connection is gone. Whether the call was carried out is unknown.
    #[error("connection closed")]
    Closed,
    /// The time given with the call is over. The peer may still carry it out.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The peer's answer is not the message it should be.
    #[error("malformed answer")]
    Malformed(#[from] DecodeError),
}

/// A connection to a ttrpc server. Clones share it.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
    _reader: Rc<EndOnDrop>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// What `connect` says.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    /// A client on a socket that is connected already.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        let shared = Rc::new(Shared {
            wire: Wire::new(stream),
            waiting: RefCell::default(),
            next_stream: Cell::new(1),
        });
        let reader = tokio::task::spawn_local(Rc::clone(&shared).read_answers());
        Self { shared, _reader: Rc::new(EndOnDrop(reader.abort_handle())) }
    }

    /// One call. Dropping the future forgets the answer; the peer carries the call out regardless.
    ///
    /// # Errors
    /// Whatever kept the answer away.
    pub async fn call<R: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let mut waiting = self.shared.send((service, method), request, timeout)?;
        let answer = match timeout {
            Some(limit) => tokio::time::timeout(limit, &mut waiting.answer)
                .await
                .map_err(|_| CallError::TimedOut(limit))?,
            None => (&mut waiting.answer).await,
        };
        let bytes = answer.map_err(|_| CallError::Closed)??;
        Ok(R::decode(bytes.as_slice())?)
    }

    /// Whether the peer is known to have left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.wire.is_closed()
    }

    /// Returns when the peer has left.
    pub async fn closed(&self) {
        self.shared.wire.closed().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

type Answer = Result<Vec<u8>, CallError>;

struct Shared {
    wire: Rc<Wire>,
    waiting: RefCell<BTreeMap<u32, oneshot::Sender<Answer>>>,
    next_stream: Cell<u32>,
}

impl Shared {
    fn send(
        self: &Rc<Self>,
        name: (&str, &str),
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<Waiting, CallError> {
        let stream = self.next_stream.get();
        let frame = envelope::encode_request(stream, name, request, timeout)?;
        // Ids are used up after two thousand million calls; a new connection starts again.
        self.next_stream.set(stream.checked_add(2).ok_or(CallError::Closed)?);
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(stream, sender);
        let waiting = Waiting { shared: Rc::clone(self), stream, answer };
        if self.wire.send(&frame) { Ok(waiting) } else { Err(CallError::Closed) }
    }

    async fn read_answers(self: Rc<Self>) {
        self.wire.read(|frame| self.on_frame(&frame)).await;
        // Dropping the senders tells every waiting call.
        self.waiting.borrow_mut().clear();
    }

    fn on_frame(&self, frame: &Frame<'_>) {
        let (header, answer) = match frame {
            Frame::Whole(header, payload) if header.kind == kind::RESPONSE => (
                header,
                envelope::decode_response(payload).map_or_else(
                    |error| Err(CallError::from(error)),
                    |answer| answer.map_err(CallError::from),
                ),
            ),
            Frame::Oversize(header) if header.kind == kind::RESPONSE => {
                (header, Err(Status::resource_exhausted(format!("answer of {} bytes", header.length)).into()))
            }
            _ => return,
        };
        // Nobody waits any more for an answer that comes late.
        if let Some(waiting) = self.waiting.borrow_mut().remove(&header.stream) {
            let _ = waiting.send(answer);
        }
    }
}

/// A call on its way; forgets its stream when dropped.
struct Waiting {
    shared: Rc<Shared>,
    stream: u32,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().remove(&self.stream);
    }
}

/// Ends the reading task, and with it the connection.
struct EndOnDrop(AbortHandle);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

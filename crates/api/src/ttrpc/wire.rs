//! One connection: the socket, what could not be written yet, and whether the peer left.
//!
//! Shared by everybody who writes to it, so an answer is written by whoever has it, at once and without
//! waking another task. Only when the peer does not read fast enough a task is spawned to write the rest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::frame::{Decoder, Frame};

/// One read; the stack holds it only while frames are cut from it.
const READ_SIZE: usize = 8192;
/// When this much is waiting for the peer to read, nothing more is read from it.
const BACKLOG_LIMIT: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    /// Bytes the socket did not take yet. Not empty exactly while a task writes them.
    backlog: RefCell<VecDeque<u8>>,
    closed: Cell<bool>,
    /// Wakes whoever waits for `closed`.
    left: Notify,
    /// Wakes whoever waits for the backlog to shrink.
    drained: Notify,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Rc<Self> {
        Rc::new(Self {
            stream,
            backlog: RefCell::default(),
            closed: Cell::new(false),
            left: Notify::new(),
            drained: Notify::new(),
        })
    }

    /// Hands every frame that comes to `on_frame` until the peer leaves. The wire is closed when this returns or
    /// is dropped.
    pub(super) async fn read(&self, mut on_frame: impl FnMut(Frame<'_>)) {
        let _closed = CloseOnDrop(self);
        let mut decoder = Decoder::default();
        loop {
            self.backlog_below_limit().await;
            if self.closed.get() || self.stream.readable().await.is_err() {
                return;
            }
            match self.read_once(&mut decoder, &mut on_frame) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Writes a frame, or keeps what the socket does not take for later. Frames are never mixed.
    ///
    /// False when the peer is gone and nobody will read this.
    pub(super) fn send(self: &Rc<Self>, frame: &[u8]) -> bool {
        if self.closed.get() {
            return false;
        }
        let mut backlog = self.backlog.borrow_mut();
        if !backlog.is_empty() {
            backlog.extend(frame);
            return true;
        }
        let mut rest = frame;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    backlog.extend(rest);
                    drop(backlog);
                    tokio::task::spawn_local(Rc::clone(self).write_backlog());
                    return true;
                }
                Err(_) => {
                    drop(backlog);
                    self.close();
                    return false;
                }
            }
        }
        true
    }

    /// Returns when the peer has left.
    pub(super) async fn closed(&self) {
        wait_until(&self.left, || self.closed.get()).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Returns when everything is written or the peer has left.
    pub(super) async fn flushed(&self) {
        wait_until(&self.drained, || self.backlog.borrow().is_empty()).await;
    }

    fn read_once(&self, decoder: &mut Decoder, on_frame: &mut impl FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut buffer = [0; READ_SIZE];
        let read = self.stream.try_read(&mut buffer)?;
        let mut input = &buffer[..read];
        while let Some(frame) = decoder.next(&mut input) {
            on_frame(frame);
        }
        Ok(read)
    }

    async fn backlog_below_limit(&self) {
        wait_until(&self.drained, || self.backlog.borrow().len() < BACKLOG_LIMIT).await;
    }

    async fn write_backlog(self: Rc<Self>) {
        loop {
            let writable = tokio::select! {
                writable = self.stream.writable() => writable.is_ok(),
                () = self.closed() => false,
            };
            if !writable || !self.write_some() {
                self.close();
            }
            self.drained.notify_waiters();
            if self.backlog.borrow().is_empty() {
                return;
            }
        }
    }

    /// False when the socket is broken.
    fn write_some(&self) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        while !backlog.is_empty() {
            match self.stream.try_write(backlog.as_slices().0) {
                Ok(written) => drop(backlog.drain(..written)),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        // Given back: a connection that once lagged should not keep its size.
        *backlog = VecDeque::new();
        true
    }

    fn close(&self) {
        self.closed.set(true);
        *self.backlog.borrow_mut() = VecDeque::new();
        self.left.notify_waiters();
        self.drained.notify_waiters();
    }
}

/// Closes the wire also when the reading future is dropped.
struct CloseOnDrop<'a>(&'a Wire);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn wait_until(changed: &Notify, done: impl Fn() -> bool) {
    while !done() {
        // Nothing else runs on this thread between the check and the registration.
        changed.notified().await;
    }
}

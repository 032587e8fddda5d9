//! The relay that a terminal needs: bytes between the pseudo terminal's master and the client's fifos.
//!
//! The only bytes of a container that pass through the shim. Owns the master and its two copy loops; both
//! sides are non-blocking, so a client that stops reading stops this terminal and nothing else.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use dunnage_spec::process::WindowSize;
use dunnage_sys::ready::{self, AsyncFd, Interest};
use dunnage_sys::{Errno, stream, tty};
use tokio::task::{AbortHandle, JoinHandle};

use crate::stdio::{self, KeptEnds, OutputFifo, StdioPaths};

// Time that the relay has for what the terminal still holds, as containerd's own shims give it.
const DRAIN: Duration = Duration::from_secs(10);

// A page: terminals are typed at and read by people; more would only cost memory.
const BUFFER: usize = 4096;

/// A terminal and its relay.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: Rc<OwnedFd>,
    input: Option<AbortHandle>,
    output: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts the relay between the master and what `paths` names; the shim's end of the output goes to `kept`.
    pub(crate) fn attach(
        master: OwnedFd,
        paths: &StdioPaths,
        kept: &mut KeptEnds,
    ) -> Result<Self, stdio::Error> {
        let failed = |source| stdio::Error::Open { stream: "terminal", source };
        stream::set_nonblocking(&master).map_err(failed)?;
        let master = Rc::new(master);
        let input = attach_input(&master, &paths.stdin).map_err(failed)?;
        let output = attach_output(&master, &paths.stdout, kept).map_err(failed)?;
        Ok(Self { master, input, output })
    }

    /// Tells the terminal its size (`TIOCSWINSZ`); the kernel signals the processes.
    pub(crate) fn resize(&self, size: WindowSize) -> Result<(), dunnage_sys::Error> {
        use dunnage_sys::Call;
        tty::set_size(&self.master, size.rows, size.columns).call(|| "ioctl TIOCSWINSZ on the terminal")
    }

    /// The relay of the output; it ends when no process has the terminal any more.
    pub(crate) fn relay(&self) -> Option<AbortHandle> {
        self.output.as_ref().map(JoinHandle::abort_handle)
    }

    /// Stops taking input.
    pub(crate) fn close_input(&mut self) {
        if let Some(input) = self.input.take() {
            input.abort();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.close_input();
        if let Some(output) = &self.output {
            output.abort();
        }
    }
}

/// Waits until the last output was passed on, or for as long as [`DRAIN`] allows.
pub(crate) async fn drain(terminal: Option<Terminal>) {
    let Some(mut terminal) = terminal else { return };
    terminal.close_input();
    if let Some(output) = terminal.output.take() {
        // Late output is given up, not waited for: the process has ended.
        let _ = tokio::time::timeout(DRAIN, output).await;
    }
}

fn attach_input(master: &Rc<OwnedFd>, path: &str) -> Result<Option<AbortHandle>, dunnage_sys::Error> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(path);
    let reader = stream::open_reader(path)?;
    // Our own writing end keeps the end of file away while the client is detached.
    let writer = stream::open_writer(path)?;
    let master = Rc::clone(master);
    let copying = tokio::task::spawn_local(async move {
        let _writer = writer;
        copy(Rc::new(reader), master).await;
    });
    Ok(Some(copying.abort_handle()))
}

fn attach_output(
    master: &Rc<OwnedFd>,
    path: &str,
    kept: &mut KeptEnds,
) -> Result<Option<JoinHandle<()>>, dunnage_sys::Error> {
    if path.is_empty() {
        return Ok(None);
    }
    // With its reading end kept, a restart of containerd is no EPIPE.
    let (writer, fifo) = OutputFifo::open(Path::new(path))?;
    kept.keep(fifo);
    Ok(Some(tokio::task::spawn_local(copy(Rc::clone(master), Rc::new(writer)))))
}

async fn copy(from: Rc<OwnedFd>, to: Rc<OwnedFd>) {
    let Ok(from) = ready::watch(from, Interest::READABLE) else { return };
    let Ok(to) = ready::watch(to, Interest::WRITABLE) else { return };
    let mut buffer = vec![0; BUFFER];
    loop {
        // EIO is how a terminal says that nobody holds its other end any more.
        match read(&from, &mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if write_all(&to, &buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn read(from: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        let mut ready = from.readable().await.map_err(|_| Errno::IO)?;
        match stream::read(from.get_ref(), buffer) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            read => return read,
        }
    }
}

async fn write_all(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let mut ready = to.writable().await.map_err(|_| Errno::IO)?;
        match stream::write(to.get_ref(), bytes) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(written) => bytes = &bytes[written..],
        }
    }
    Ok(())
}

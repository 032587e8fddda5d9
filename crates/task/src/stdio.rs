//! A process's streams: containerd's fifos handed over as they are, and the relay that a terminal needs.
//!
//! Owns the opening of what the client named, and which ends stay open how long. The bytes of a process
//! without a terminal never pass through the shim (architecture, decision 7): the fifo itself becomes
//! descriptor 1, and the shim keeps a reading end that it never reads. So neither a restart of containerd
//! (nobody reads: the process would die of SIGPIPE) nor a slow reader does more than fill the fifo. Leaves what
//! is still unread when the process has ended to `crate::last_output`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dunnage_sys::{Errno, stream};

/// The stream names of a request, as the client gave them: `State` must return the same strings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StdioPaths {
    /// Fifo, or empty.
    pub stdin: String,
    /// Fifo, plain file, `file://` address, or empty.
    pub stdout: String,
    /// The same; empty with a terminal.
    pub stderr: String,
    /// Whether a pseudo terminal was asked for.
    pub terminal: bool,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The open failed.
    #[error("{stream}: {source}")]
    Open {
        /// `stdin`, `stdout` or `stderr`.
        stream: &'static str,
        /// The failed call.
        source: dunnage_sys::Error,
    },
    /// A log address of a kind that does not exist (yet).
    #[error("unknown STDIO scheme {scheme} in {address}: fifo paths and file:// are supported")]
    Scheme {
        /// Before `://`.
        scheme: String,
        /// The whole address.
        address: String,
    },
}

impl Error {
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Scheme { .. })
    }
}

/// The ends that become descriptors 0, 1 and 2 of the process; `None` is its own `/dev/null`. Dropped by the
/// shim once the process has them, so that the reader sees the end when the last process closes its copy.
#[derive(Debug, Default)]
pub struct ProcessEnds {
    /// Reads.
    pub stdin: Option<OwnedFd>,
    /// Writes.
    pub stdout: Option<OwnedFd>,
    /// Writes.
    pub stderr: Option<OwnedFd>,
}

/// The ends that the shim keeps.
#[derive(Debug, Default)]
pub struct KeptEnds {
    // Keeps the end of file away from the process while the client is detached; closed by CloseIO.
    stdin_writer: Option<OwnedFd>,
    outputs: Vec<OutputFifo>,
}

impl KeptEnds {
    /// Lets the process see the end of its input once the client has closed its end too.
    pub fn close_stdin(&mut self) {
        self.stdin_writer = None;
    }

    /// The fifos of a process that has ended.
    pub(crate) fn take_outputs(&mut self) -> Vec<OutputFifo> {
        std::mem::take(&mut self.outputs)
    }

    /// The fifo that a terminal's relay writes to: opened with the terminal, kept like the others.
    pub(crate) fn keep(&mut self, output: OutputFifo) {
        self.outputs.push(output);
    }
}

/// A fifo that a process writes to, while the process runs.
#[derive(Debug)]
pub(crate) struct OutputFifo {
    // Keeps SIGPIPE away from the process while nobody else reads; never read.
    reader: OwnedFd,
    // Whether somebody else had opened it for reading when it was opened here. That somebody may still wait in
    // open(2), which counts.
    met: bool,
}

/// A fifo whose process has ended.
#[derive(Debug)]
pub(crate) struct LeftFifo {
    // Keeps what is unread, and lets a reader in that comes late; closing it is the end that the reader sees.
    writer: OwnedFd,
    met: bool,
}

impl OutputFifo {
    /// Opens both ends; the writing one is for the process, and does not block yet.
    ///
    /// # Errors
    /// The failed call.
    pub(crate) fn open(path: &Path) -> Result<(OwnedFd, Self), dunnage_sys::Error> {
        let met = match stream::open_writer(path) {
            Err(error) if error.errno() == Errno::NXIO => None,
            opened => Some(opened?),
        };
        let reader = stream::open_reader(path)?;
        let fifo = Self { reader, met: met.is_some() };
        // With our own reader there it opens in any case.
        let writer = met.map_or_else(|| stream::open_writer(path), Ok)?;
        Ok((writer, fifo))
    }

    /// Changes ends: our reader would hide whether anybody else reads.
    ///
    /// # Errors
    /// The failed `open`.
    pub(crate) fn leave(self) -> Result<LeftFifo, dunnage_sys::Error> {
        Ok(LeftFifo { writer: stream::open_writer_of(&self.reader)?, met: self.met })
    }
}

impl LeftFifo {
    /// Whether nothing is unread and nobody is still to come.
    pub(crate) fn is_over(&self) -> bool {
        self.is_empty() && (self.met || self.has_reader())
    }

    /// Whether something is unread that somebody reads, or will read once he comes.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.is_empty() && (!self.met || self.has_reader())
    }

    // What the kernel refuses to say is not waited for.
    fn is_empty(&self) -> bool {
        stream::unread(&self.writer).unwrap_or(0) == 0
    }

    fn has_reader(&self) -> bool {
        stream::has_reader(&self.writer).unwrap_or(true)
    }
}

impl ProcessEnds {
    /// The three ends, borrowed in the order of their numbers.
    #[must_use]
    pub fn borrowed(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [&self.stdin, &self.stdout, &self.stderr].map(|end| end.as_ref().map(AsFd::as_fd))
    }
}

/// Opens what `paths` names; nothing when there is a terminal, which opens its own ends when it is there.
///
/// # Errors
/// [`Error`] with the stream; nothing stays open then.
pub fn open(paths: &StdioPaths) -> Result<(ProcessEnds, KeptEnds), Error> {
    if paths.terminal {
        return Ok(Default::default());
    }
    let (stdin, stdin_writer) = open_stdin(&paths.stdin).map_err(named("stdin"))?;
    let mut kept = KeptEnds { stdin_writer, ..KeptEnds::default() };
    let stdout = open_output("stdout", &paths.stdout, &mut kept)?;
    // One file for both streams is opened once, so that both append to one offset.
    let stderr = if !paths.stderr.is_empty() && paths.stderr == paths.stdout {
        duplicate(stdout.as_ref())?
    } else {
        open_output("stderr", &paths.stderr, &mut kept)?
    };
    Ok((ProcessEnds { stdin, stdout, stderr }, kept))
}

fn named(stream: &'static str) -> impl Fn(dunnage_sys::Error) -> Error {
    move |source| Error::Open { stream, source }
}

fn duplicate(fd: Option<&OwnedFd>) -> Result<Option<OwnedFd>, Error> {
    fd.map(OwnedFd::try_clone).transpose().map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        named("stderr")(dunnage_sys::Error::new("fcntl F_DUPFD_CLOEXEC", errno))
    })
}

fn open_stdin(path: &str) -> Result<(Option<OwnedFd>, Option<OwnedFd>), dunnage_sys::Error> {
    if path.is_empty() {
        return Ok((None, None));
    }
    let path = Path::new(path);
    let reader = stream::open_reader(path)?;
    let writer = if stream::is_fifo(path)? { Some(stream::open_writer(path)?) } else { None };
    stream::set_blocking(&reader)?;
    Ok((Some(reader), writer))
}

fn open_output(stream: &'static str, address: &str, kept: &mut KeptEnds) -> Result<Option<OwnedFd>, Error> {
    let Some(path) = output_path(address)? else { return Ok(None) };
    let opened = if path.exists() && stream::is_fifo(&path).map_err(named(stream))? {
        open_output_fifo(&path, kept)
    } else {
        make_file(&path)
    };
    opened.map(Some).map_err(named(stream))
}

fn open_output_fifo(path: &Path, kept: &mut KeptEnds) -> Result<OwnedFd, dunnage_sys::Error> {
    let (writer, fifo) = OutputFifo::open(path)?;
    stream::set_blocking(&writer)?;
    kept.keep(fifo);
    Ok(writer)
}

fn make_file(path: &Path) -> Result<OwnedFd, dunnage_sys::Error> {
    use dunnage_sys::Call;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).call(|| format!("mkdir {}", parent.display()))?;
    }
    stream::open_append(path)
}

// `/a/fifo`, `fifo:///a/fifo` and `file:///a/file`; the logger programs of `binary://` are not there yet.
fn output_path(address: &str) -> Result<Option<PathBuf>, Error> {
    match address.split_once("://") {
        _ if address.is_empty() => Ok(None),
        None | Some(("", _)) => Ok(Some(PathBuf::from(address))),
        Some(("fifo" | "file", rest)) => {
            let path = rest.split_once('?').map_or(rest, |(path, _)| path);
            Ok(Some(PathBuf::from(path)))
        }
        Some((scheme, _)) => Err(Error::Scheme { scheme: scheme.to_owned(), address: address.to_owned() }),
    }
}

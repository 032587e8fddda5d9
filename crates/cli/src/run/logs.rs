//! What containers print: read from their fifos and passed on by lines, each with its container's name.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use dunnage_sys::fifo;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::output::{Console, Stream};

/// A longer line is passed on in pieces (CRI's own limit).
const MAX_LINE: usize = 16 << 10;

/// The two fifos of a container, open for reading before the shim opens them for writing.
#[derive(Debug)]
pub(crate) struct Fifos {
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
    readers: [pipe::Receiver; 2],
}

/// A container's output being passed on.
#[derive(Debug)]
pub(crate) struct Following {
    tasks: [JoinHandle<()>; 2],
    paths: [PathBuf; 2],
}

impl Fifos {
    /// Makes the fifos in `folder`.
    ///
    /// # Errors
    /// A fifo cannot be made or opened.
    pub(crate) fn make(folder: &Path, id: &str) -> anyhow::Result<Self> {
        let open = |name: &str| -> anyhow::Result<(PathBuf, pipe::Receiver)> {
            let path = folder.join(format!("{id}-{name}"));
            fifo::make(&path)?;
            let reader = pipe::OpenOptions::new().open_receiver(&path);
            let reader = reader.with_context(|| format!("open {}", path.display()))?;
            Ok((path, reader))
        };
        let (stdout, out) = open("stdout")?;
        let (stderr, err) = open("stderr")?;
        Ok(Self { stdout, stderr, readers: [out, err] })
    }

    /// Starts reading. Only once the shim has the other ends open: before, a read finds the end of the file.
    pub(crate) fn follow(self, name: &str, console: &Rc<Console>) -> Following {
        let [out, err] = self.readers;
        let pass = |reader, stream| {
            let (name, console) = (name.to_owned(), Rc::clone(console));
            tokio::task::spawn_local(async move { pass_on(reader, &name, stream, &console).await })
        };
        Following {
            tasks: [pass(out, Stream::Stdout), pass(err, Stream::Stderr)],
            paths: [self.stdout, self.stderr],
        }
    }
}

impl Following {
    /// Waits for the last line, but not longer than `patience`: a process that outlived its container may hold
    /// the other end.
    pub(crate) async fn finish(self, patience: Duration) {
        let [mut out, mut err] = self.tasks;
        let both = async {
            let _ = (&mut out).await;
            let _ = (&mut err).await;
        };
        if tokio::time::timeout(patience, both).await.is_err() {
            out.abort();
            err.abort();
        }
        for path in self.paths {
            // Whatever stays goes with the directory of the run.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn pass_on(mut reader: pipe::Receiver, name: &str, stream: Stream, console: &Console) {
    let mut pending = Vec::new();
    loop {
        pending.reserve(MAX_LINE);
        match reader.read_buf(&mut pending).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let whole = whole_lines(&pending);
                if whole > 0 {
                    let rest = pending.split_off(whole);
                    console.log(name, stream, &pending).await;
                    pending = rest;
                }
            }
        }
    }
    if !pending.is_empty() {
        console.log(name, stream, &pending).await;
    }
}

/// How many bytes can be passed on: up to the last line end, or all when a line has grown too long.
fn whole_lines(bytes: &[u8]) -> usize {
    let lines = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    if lines == 0 && bytes.len() >= MAX_LINE { bytes.len() } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_passed_on_whole_unless_they_are_endless() {
        assert_eq!(whole_lines(b"one\ntwo\nthr"), 8);
        assert_eq!(whole_lines(b"thr"), 0);
        assert_eq!(whole_lines(&[b'x'; MAX_LINE]), MAX_LINE);
    }
}

//! Going on in the background after the program has answered.
//!
//! Owns the fork and what the child must let go of, so that nobody who waits for the program waits for it. Leaves
//! what the child does to the caller.

use rustix::fs::{Mode, OFlags, open};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::{Call, Errno, Error, Result};

/// Which of the two goes on behind [`fork`].
#[derive(Debug)]
pub enum Side {
    /// The program itself, which has to answer and end.
    Foreground,
    /// The child: a session of its own, with nothing but `/dev/null` as stdin, stdout and stderr. Descriptors
    /// that were open are open in both.
    Background,
}

/// Splits the process. A reader of its output sees the end of it when the foreground has ended, and whoever waits
/// for it waits for the foreground.
///
/// # Errors
/// The process has more than one thread (`EBUSY`), because a fork would leave the others' locks locked for ever;
/// `EAGAIN` or `ENOMEM` from the kernel.
pub fn fork() -> Result<Side> {
    if threads()? != 1 {
        return Err(Error::new("fork a process with several threads", Errno::BUSY));
    }
    // SAFETY: no other thread exists that could hold a lock of the allocator or of the library.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).call(|| "fork into the background"),
        0 => {
            if let_go().is_err() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the answer is the foreground's: nobody to return to"
                )]
                std::process::exit(1);
            }
            Ok(Side::Background)
        }
        _ => Ok(Side::Foreground),
    }
}

fn threads() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task").call(|| "list /proc/self/task")?.count())
}

fn let_go() -> Result<()> {
    setsid().call(|| "setsid")?;
    let null = open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).call(|| "open /dev/null")?;
    dup2_stdin(&null).call(|| "replace stdin")?;
    dup2_stdout(&null).call(|| "replace stdout")?;
    dup2_stderr(&null).call(|| "replace stderr")
}

//! Processes by descriptor: a pidfd names one process for ever, a number only until it is used again.
//!
//! Owns opening, signalling and waiting. Leaves what an exit means to the caller.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{
    PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};

pub use rustix::process::{Pid, Signal};

use crate::{Call, Errno, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called `exit` with this status, 0 to 255.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
}

impl Exit {
    /// The status as a shell gives it: 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Opens a pidfd. Race-free only for a child that has not been waited for.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).call(|| format!("pidfd_open {pid}"))
}

/// Sends a signal.
///
/// # Errors
/// `ESRCH` when the process has ended and was waited for, `EPERM` without privilege.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> std::result::Result<(), Errno> {
    pidfd_send_signal(pidfd, signal)
}

/// Reaps the child when it has ended; `None` while it runs.
///
/// # Errors
/// `ECHILD` when it is no child of this process, or has been reaped already.
pub fn try_reap(pidfd: impl AsFd) -> std::result::Result<Option<Exit>, Errno> {
    wait_with(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Like [`try_reap`], but leaves the zombie, so that its entry in /proc stays readable.
///
/// # Errors
/// As [`try_reap`].
pub fn peek_exit(pidfd: impl AsFd) -> std::result::Result<Option<Exit>, Errno> {
    wait_with(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Waits until the child has ended, and reaps it.
///
/// # Errors
/// As [`try_reap`].
pub fn reap(pidfd: impl AsFd) -> std::result::Result<Exit, Errno> {
    loop {
        match wait_with(pidfd.as_fd(), WaitIdOptions::EXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until the child has ended, and leaves the zombie to whoever reaps it.
///
/// # Errors
/// As [`try_reap`].
pub fn await_exit(pidfd: impl AsFd) -> std::result::Result<Exit, Errno> {
    loop {
        match wait_with(pidfd.as_fd(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a child that has not been reaped has executed a program since its clone; zombies tell as well. The
/// kernel clears `PF_FORKNOEXEC` (sched.h; field `flags` of proc_pid_stat(5)) past the point of no return of
/// execve, and before it closes what is close-on-exec.
///
/// # Errors
/// `ENOENT` when it was reaped, or /proc is not mounted.
pub fn has_executed(pid: Pid) -> Result<bool> {
    const PF_FORKNOEXEC: u64 = 0x40;
    let name = || format!("read /proc/{pid}/stat");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()).call(name)?;
    let mut buffer = [0; 1024];
    let length = rustix::io::read(&file, &mut buffer).call(name)?;
    let flags = process_flags(&buffer[..length]).ok_or(Errno::INVAL).call(name)?;
    Ok(flags & PF_FORKNOEXEC == 0)
}

/// The name in parentheses may hold anything; flags are the seventh field after it.
fn process_flags(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_whitespace().nth(6)?.parse().ok()
}

fn wait_with(pidfd: impl AsFd, options: WaitIdOptions) -> std::result::Result<Option<Exit>, Errno> {
    Ok(waitid(WaitId::PidFd(pidfd.as_fd()), options)?.and_then(|status| exit(&status)))
}

fn exit(status: &WaitIdStatus) -> Option<Exit> {
    status.exit_status().map(Exit::Status).or_else(|| status.terminating_signal().map(Exit::Signal))
}

/// The signal with this number, real-time ones included; `None` outside 1 to 64.
#[must_use]
pub fn signal(number: i32) -> Option<Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is that of a signal. rustix asks for the unchecked way because libc keeps two
    // real-time signals to itself for its own threads; they are only ever sent to other programs here.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_executed_and_a_clone_has_not() {
        let (pid, pidfd) =
            crate::clone::child(crate::namespace::Kinds::empty(), None, |_| crate::clone::exit(0)).unwrap();
        await_exit(&pidfd).unwrap();
        assert!(!has_executed(pid).unwrap());
        reap(&pidfd).unwrap();
        assert_eq!(has_executed(pid).unwrap_err().errno(), Errno::NOENT);
        assert!(has_executed(rustix::process::getpid()).unwrap());
    }

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        assert_eq!(process_flags(b"17 (a) S 1 (b)) R 1 2 3 4 5 64 7 8\n"), Some(64));
        assert_eq!(process_flags(b"17"), None);
    }
}

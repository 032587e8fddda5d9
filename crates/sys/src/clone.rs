//! `clone3`: a child with a memory of its own, and what only such a child may do.
//!
//! Owns the call and the [`Alone`] token. The child is a copy of one thread: whatever lock another thread held
//! stays locked in it for ever, so it must not allocate, lock, panic or return (architecture, decision 1).

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

use crate::Errno;
use crate::namespace::Kinds;
use crate::raw::outcome;
use crate::signal::Blocked;

pub use crate::raw::exit;

/// `struct clone_args` up to its third version, linux/sched.h (5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_CLEAR_SIGHAND` (5.5); the libc crate has it in an int, where it does not fit.
const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP` (5.7).
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_PIDFD` (5.2).
const PIDFD: u64 = 0x1000;

/// Proof that this is the only thread of a fresh copy of a process, whose memory and descriptors nobody
/// shares. Only [`child`] makes one.
#[derive(Debug)]
pub struct Alone(PhantomData<*const ()>);

/// Clones a child with new namespaces, born in the cgroup v2 directory `cgroup` if one is given, and runs
/// `run` in it with all signals blocked and all handlers cleared. Gives the pid and the pidfd; the exit signal
/// is `SIGCHLD`.
///
/// `run` must not allocate, lock or panic, and should end with `execve` or [`exit`]; a child that returns from
/// it exits with status 134.
///
/// # Errors
/// As clone(2). With `cgroup`: `EOPNOTSUPP` when its domain is invalid or threaded, `EBUSY` when it has
/// controllers for its children, `ENOENT` or `ENODEV` when it was removed. `ENOMEM` also when the pid namespace to be born
/// in has lost its init.
pub fn child(
    new: Kinds,
    cgroup: Option<BorrowedFd<'_>>,
    run: impl FnOnce(Alone),
) -> Result<(Pid, OwnedFd), Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: PIDFD | CLEAR_SIGHAND | u64::from(new.bits()),
        pidfd: std::ptr::from_mut(&mut pidfd).expose_provenance() as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        ..CloneArgs::default()
    };
    if let Some(directory) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
    }
    // The mask is inherited: no signal reaches the child before it has put its own house in order.
    let blocked = Blocked::all()?;
    // SAFETY: `args` is the whole structure and outlives the call. Without CLONE_VM and CLONE_FILES the child
    // has copies of memory and descriptors, so nothing it does is seen here; it never returns from `run`.
    let returned = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if returned == 0 {
        // Whether it returns or unwinds, the child never goes on with the parent's code.
        let _end = Exit;
        #[cfg(feature = "guard-allocator")]
        crate::guard::arm();
        run(Alone(PhantomData));
    }
    drop(blocked);
    let pid = i32::try_from(outcome(returned)?).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    // SAFETY: the call succeeded, so the kernel has opened this descriptor for us and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((pid, pidfd))
}

struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        exit(134);
    }
}

impl Alone {
    /// Really closes every descriptor from 3 up that is not in `keep`.
    ///
    /// # Errors
    /// `ENOSYS` before 5.9, or whatever a seccomp filter answers; `E2BIG` to keep more than 320.
    pub fn close_all_but<'a>(&self, keep: impl Iterator<Item = BorrowedFd<'a>>) -> Result<(), Errno> {
        let mut numbers = [0; 320];
        let mut count = 0;
        for fd in keep {
            *numbers.get_mut(count).ok_or(Errno::TOOBIG)? = fd.as_raw_fd();
            count += 1;
        }
        let numbers = &mut numbers[..count];
        numbers.sort_unstable();
        let mut next: RawFd = 3;
        for &mut kept in numbers {
            if kept > next {
                close_range(next, kept - 1)?;
            }
            next = next.max(kept + 1);
        }
        close_range(next, RawFd::MAX)
    }

    /// Makes `fd` the descriptor `number`, without close-on-exec.
    ///
    /// # Errors
    /// As dup(2).
    pub fn duplicate_to(&self, fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
        if fd.as_raw_fd() == number {
            return rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
        }
        // SAFETY: this process is alone, and whoever owned `number` in the parent owns it there, not here.
        let returned = unsafe { libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), number, 0) };
        outcome(returned).map(drop)
    }

    /// `execve`. Returns only when it failed.
    #[must_use]
    pub fn execute(&self, path: &CStr, arguments: &Arguments<'_>) -> Errno {
        let (args, env) = (arguments.args.as_ptr(), arguments.env.as_ptr());
        // SAFETY: both arrays end with a null pointer and point to strings that `Arguments` borrows.
        let returned = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args, env) };
        outcome(returned).err().unwrap_or(Errno::IO)
    }
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: only `Alone` comes here; descriptors of the parent are copies, and their owners in this copied
    // memory never run again.
    let returned = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    outcome(returned).map(drop)
}

/// The pointer arrays of `execve`, made before the clone.
#[derive(Debug)]
pub struct Arguments<'a> {
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    strings: PhantomData<&'a CStr>,
}

impl<'a> Arguments<'a> {
    /// Of these strings.
    #[must_use]
    pub fn new(args: &'a [CString], env: &'a [CString]) -> Self {
        Self { args: pointers(args), env: pointers(env), strings: PhantomData }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::pidfd::{Exit, reap};

    #[test]
    fn a_child_runs_and_its_status_comes_back_through_the_pidfd() {
        let (_, pidfd) = child(Kinds::empty(), None, |_| exit(7)).unwrap();
        assert_eq!(reap(&pidfd).unwrap(), Exit::Status(7));
    }

    #[test]
    fn a_child_closes_everything_but_what_it_keeps() {
        let kept = std::fs::File::open("/dev/null").unwrap();
        let lost = std::fs::File::open("/dev/null").unwrap();
        let (kept_fd, lost_fd) = (kept.as_raw_fd(), lost.as_raw_fd());
        let (_, pidfd) = child(Kinds::empty(), None, |alone| {
            let closed = alone.close_all_but([kept.as_fd()].into_iter()).is_ok();
            let open = |fd| {
                // SAFETY: fcntl(F_GETFD) only looks whether the number is open.
                let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
                flags >= 0
            };
            exit(u8::from(!(closed && open(kept_fd) && !open(lost_fd))))
        })
        .unwrap();
        assert_eq!(reap(&pidfd).unwrap(), Exit::Status(0));
    }
}

//! What surrounds a process: directory, session, limits, names, interfaces.
//!
//! For the cloned child: nothing allocates.

use std::ffi::{CStr, c_short};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::Rlimit;

use crate::Errno;
use crate::raw::{outcome, outcome_of_int};

pub use rustix::process::{Resource, chdir, chroot, fchdir, setsid};
pub use rustix::system::{setdomainname, sethostname};

/// Sets the mask of new files.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// Sets a limit of the calling process; `u64::MAX` is unlimited.
///
/// # Errors
/// `EPERM` when the hard limit rises without `CAP_SYS_RESOURCE`, `EINVAL` when soft is above hard.
pub fn set_limit(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = |value| (value != u64::MAX).then_some(value);
    rustix::process::setrlimit(resource, Rlimit { current: limit(soft), maximum: limit(hard) })
}

/// `getcwd` into `buffer`. A directory outside the root of the process reads `(unreachable)/…`, which libc
/// hides as ENOENT (getcwd(3)).
///
/// # Errors
/// `ENOENT` when it was removed, `ERANGE` when the buffer is too small.
pub fn working_directory(buffer: &mut [u8]) -> Result<&CStr, Errno> {
    // SAFETY: the kernel writes at most the given length into the buffer, which outlives the call.
    let returned = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    outcome(returned)?;
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::RANGE)
}

/// Sets the loopback interface of the thread's network namespace up; the kernel gives it its addresses.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn raise_loopback() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let up = c_short::try_from(libc::IFF_UP).unwrap_or_default();
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: up } };
    let request = std::ptr::from_ref(&request);
    let socket = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which outlives the call.
    outcome_of_int(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, request) }).map(drop)
}

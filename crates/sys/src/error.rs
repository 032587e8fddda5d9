//! One error story for system calls: the call as a person would say it, and the errno.
//!
//! Functions of this crate that the cloned child may use return a bare [`Errno`] and never allocate. The
//! parent names the call with [`Call::call`], once, where the arguments are known.

use std::ffi::CStr;
use std::fmt;

pub use rustix::io::Errno;

/// A failed system call: `mount proc on /proc: EPERM (Operation not permitted)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    call: String,
    errno: Errno,
}

/// What the fallible functions of the parent side return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `call` names the call and its object in lower case, such as `mount proc on /proc`.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno }
    }

    /// The errno, for decisions. Nothing may decide by the text.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The call and its object, without the errno.
    #[must_use]
    pub fn failed_call(&self) -> &str {
        &self.call
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, Named(self.errno))
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::new(Self::from(error.errno).kind(), error)
    }
}

/// Gives a result without context the name of the call that failed.
pub trait Call<T> {
    /// Names the call; the closure runs only when it failed.
    ///
    /// # Errors
    /// The same failure, now with its call.
    fn call<S: Into<String>>(self, name: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Call<T> for std::result::Result<T, Errno> {
    fn call<S: Into<String>>(self, name: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| Error::new(name(), errno))
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call<S: Into<String>>(self, name: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| {
            // Only errors that std makes up itself have no errno; EIO keeps them visible.
            Error::new(name(), error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        })
    }
}

/// Prints an errno as `EPERM (Operation not permitted)`.
#[derive(Debug, Clone, Copy)]
pub struct Named(pub Errno);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.raw_os_error();
        let text = text(number);
        match name(self.0) {
            Some(name) => write!(f, "{name} ({text})"),
            None => write!(f, "errno {number} ({text})"),
        }
    }
}

fn text(number: i32) -> String {
    // SAFETY: strerror returns a pointer to a string that is valid until the next strerror call of this
    // thread; it is copied before that.
    let text = unsafe { libc::strerror(number) };
    // SAFETY: glibc never returns null from strerror, and the string ends with a NUL.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

macro_rules! names {
    ($($rustix:ident $name:literal),* $(,)?) => {
        /// The C name of an errno, such as `EPERM`, when it is one of those that Linux calls give.
        #[must_use]
        pub fn name(errno: Errno) -> Option<&'static str> {
            match errno { $(Errno::$rustix => Some($name),)* _ => None }
        }
    };
}

names! {
    PERM "EPERM", NOENT "ENOENT", SRCH "ESRCH", INTR "EINTR", IO "EIO", NXIO "ENXIO", TOOBIG "E2BIG",
    NOEXEC "ENOEXEC", BADF "EBADF", CHILD "ECHILD", AGAIN "EAGAIN", NOMEM "ENOMEM", ACCESS "EACCES",
    FAULT "EFAULT", NOTBLK "ENOTBLK", BUSY "EBUSY", EXIST "EEXIST", XDEV "EXDEV", NODEV "ENODEV",
    NOTDIR "ENOTDIR", ISDIR "EISDIR", INVAL "EINVAL", NFILE "ENFILE", MFILE "EMFILE", NOTTY "ENOTTY",
    TXTBSY "ETXTBSY", FBIG "EFBIG", NOSPC "ENOSPC", SPIPE "ESPIPE", ROFS "EROFS", MLINK "EMLINK",
    PIPE "EPIPE", DOM "EDOM", RANGE "ERANGE", DEADLK "EDEADLK", NAMETOOLONG "ENAMETOOLONG",
    NOLCK "ENOLCK", NOSYS "ENOSYS", NOTEMPTY "ENOTEMPTY", LOOP "ELOOP", NODATA "ENODATA", TIME "ETIME",
    PROTO "EPROTO", OVERFLOW "EOVERFLOW", BADFD "EBADFD", LIBBAD "ELIBBAD", USERS "EUSERS",
    NOTSOCK "ENOTSOCK", DESTADDRREQ "EDESTADDRREQ", MSGSIZE "EMSGSIZE", PROTOTYPE "EPROTOTYPE",
    OPNOTSUPP "EOPNOTSUPP", AFNOSUPPORT "EAFNOSUPPORT", ADDRINUSE "EADDRINUSE",
    ADDRNOTAVAIL "EADDRNOTAVAIL", NETDOWN "ENETDOWN", NETUNREACH "ENETUNREACH", CONNABORTED "ECONNABORTED",
    CONNRESET "ECONNRESET", NOBUFS "ENOBUFS", ISCONN "EISCONN", NOTCONN "ENOTCONN", TIMEDOUT "ETIMEDOUT",
    CONNREFUSED "ECONNREFUSED", HOSTUNREACH "EHOSTUNREACH", ALREADY "EALREADY", INPROGRESS "EINPROGRESS",
    STALE "ESTALE", UCLEAN "EUCLEAN", DQUOT "EDQUOT", CANCELED "ECANCELED", NOKEY "ENOKEY",
    KEYREJECTED "EKEYREJECTED", OWNERDEAD "EOWNERDEAD", ILSEQ "EILSEQ", REMOTE "EREMOTE",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_the_call_that_failed() {
        let failed: std::result::Result<(), Errno> = Err(Errno::PERM);
        let error = failed.call(|| "mount proc on /proc").unwrap_err();
        assert_eq!(error.to_string(), "mount proc on /proc: EPERM (Operation not permitted)");
    }
}

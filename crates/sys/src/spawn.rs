//! Starting a process that outlives its starter and shares nothing with it but one listening socket.
//!
//! And where its program comes from: a read-only view of our own executable, so that nobody who gets hold of
//! `/proc/<pid>/exe` can write to the file that runs as root on the next start (CVE-2019-5736).

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::clone::{self, Alone, Arguments};
use crate::namespace::Kinds;
use crate::{Call, Errno, Error, Result, mount, pidfd, signal};

/// Where [`Detached`] leaves the listening socket.
pub const LISTENER: RawFd = 3;
/// Numbers from here on are out of the way of those the child sets up.
const OUT_OF_THE_WAY: RawFd = 10;

/// A process to start: in a session of its own, in `/`, its streams on `/dev/null`.
#[derive(Debug)]
pub struct Detached<'a> {
    /// The program, open in any way, also `O_PATH`.
    pub program: BorrowedFd<'a>,
    /// Argument 0 and following.
    pub args: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Becomes descriptor [`LISTENER`].
    pub listener: BorrowedFd<'a>,
}

/// Our own executable on a mount of its own that is read-only and reachable from nowhere
/// (`open_tree(OPEN_TREE_CLONE)`, `mount_setattr`; Linux 5.12).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn sealed_self() -> Result<OwnedFd> {
    let view = mount::clone_path(c"/proc/self/exe", false).call(|| "open_tree /proc/self/exe")?;
    mount::set_attributes(&view, mount::attribute::RDONLY, 0, false)
        .call(|| "mount_setattr /proc/self/exe, read-only")?;
    Ok(view)
}

/// Our own executable as it is.
///
/// # Errors
/// The failed `open`.
pub fn plain_self() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(c"/proc/self/exe", flags, Mode::empty()).call(|| "open /proc/self/exe")
}

impl Detached<'_> {
    /// Starts it and returns when its program runs.
    ///
    /// # Errors
    /// The call that failed on the way; no process is left then.
    pub fn spawn(&self) -> Result<Pid> {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .call(|| "open /dev/null")?;
        let (report, from_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).call(|| "pipe")?;
        let child = Child {
            null: out_of_the_way(null.as_fd())?,
            listener: out_of_the_way(self.listener)?,
            program: out_of_the_way(self.program)?,
            report: out_of_the_way(from_child.as_fd())?,
        };
        let path = c_string(format!("/proc/self/fd/{}", child.program.as_raw_fd()).into_bytes())?;
        let args = self.c_args()?;
        let env = self.c_env()?;
        let arguments = Arguments::new(&args, &env);

        let started = clone::child(Kinds::empty(), None, |alone| {
            let (step, errno) = child.run(&alone, &path, &arguments);
            let bytes =
                [step as u8, errno.raw_os_error().to_ne_bytes()[0], errno.raw_os_error().to_ne_bytes()[1]];
            // The parent sees an end without a report then, which is a failure all the same.
            let _ = rustix::io::write(&child.report, &bytes);
            clone::exit(127)
        });
        let (pid, pidfd) = started.call(|| "clone3")?;
        drop((child, from_child));
        match read_report(&report) {
            None => Ok(pid),
            Some((step, errno)) => {
                pidfd::reap(&pidfd).call(|| "waitid")?;
                Err(Error::new(step.name(), errno))
            }
        }
    }

    fn c_args(&self) -> Result<Vec<CString>> {
        self.args.iter().map(|arg| c_string(arg.as_bytes().to_vec())).collect()
    }

    fn c_env(&self) -> Result<Vec<CString>> {
        let join = |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        self.env.iter().map(|pair| c_string(join(pair))).collect()
    }
}

/// What the child fails in.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Step {
    Signals,
    Session,
    Directory,
    Descriptors,
    Execute,
}

impl Step {
    const ALL: [Self; 5] = [Self::Signals, Self::Session, Self::Directory, Self::Descriptors, Self::Execute];

    fn name(self) -> &'static str {
        match self {
            Self::Signals => "reset signals of the serving process",
            Self::Session => "setsid of the serving process",
            Self::Directory => "chdir / of the serving process",
            Self::Descriptors => "dup descriptors of the serving process",
            Self::Execute => "execve the serving process",
        }
    }
}

/// Descriptors of the child, all out of the way of 0 to [`LISTENER`].
struct Child {
    null: OwnedFd,
    listener: OwnedFd,
    program: OwnedFd,
    report: OwnedFd,
}

impl Child {
    /// Returns only when it failed. Does not allocate.
    fn run(&self, alone: &Alone, path: &std::ffi::CStr, arguments: &Arguments<'_>) -> (Step, Errno) {
        match self.prepare(alone) {
            Ok(()) => (Step::Execute, alone.execute(path, arguments)),
            Err(failed) => failed,
        }
    }

    fn prepare(&self, alone: &Alone) -> std::result::Result<(), (Step, Errno)> {
        let descriptors = |errno| (Step::Descriptors, errno);
        signal::reset().map_err(|errno| (Step::Signals, errno))?;
        rustix::process::setsid().map_err(|errno| (Step::Session, errno))?;
        rustix::process::chdir(c"/").map_err(|errno| (Step::Directory, errno))?;
        // Whoever started us may have left descriptors open without CLOEXEC; a shim would keep them for days.
        alone
            .close_all_but(
                [&self.null, &self.listener, &self.program, &self.report].into_iter().map(AsFd::as_fd),
            )
            .map_err(descriptors)?;
        for stream in 0..LISTENER {
            alone.duplicate_to(self.null.as_fd(), stream).map_err(descriptors)?;
        }
        alone.duplicate_to(self.listener.as_fd(), LISTENER).map_err(descriptors)
    }
}

fn out_of_the_way(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, OUT_OF_THE_WAY).call(|| "fcntl F_DUPFD_CLOEXEC")
}

/// `None` when the pipe closed without a report, which is what a successful `execve` does to it.
fn read_report(report: &OwnedFd) -> Option<(Step, Errno)> {
    let mut bytes = [0; 3];
    loop {
        match rustix::io::read(report, &mut bytes) {
            Ok(0) => return None,
            Ok(_) => {
                let [step, low, high] = bytes;
                let step = Step::ALL.get(usize::from(step)).copied().unwrap_or(Step::Execute);
                return Some((step, Errno::from_raw_os_error(i32::from(u16::from_ne_bytes([low, high])))));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Some((Step::Execute, errno)),
        }
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new("execve: an argument has a NUL", Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn listener() -> (tempfile::TempDir, UnixListener, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, listener, path)
    }

    fn open(path: &str) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn the_process_has_a_session_of_its_own_null_streams_and_the_socket_and_nothing_else() {
        let (dir, listener, _) = listener();
        let out = dir.path().join("out");
        // Not marked to be closed on exec, as a careless starter leaves it.
        let leak = open("/dev/zero");
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        // Written beside and renamed, so that the file appears whole.
        let script = format!(
            "exec > {0}.new; ls -l /proc/$$/fd; cut -d' ' -f6 /proc/$$/stat; echo $$ $WORD $0 $(pwd -P); mv {0}.new {0}",
            out.display()
        );
        let shell = open("/bin/sh");
        let args = ["sh", "-c", &script, "name"].map(OsString::from);
        let env =
            [("WORD", "word"), ("PATH", "/usr/bin:/bin")].map(|(name, value)| (name.into(), value.into()));
        let spawned =
            Detached { program: shell.as_fd(), args: &args, env: &env, listener: listener.as_fd() }.spawn();
        let pid = spawned.unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();

        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(text.matches("/dev/null").count(), 2, "{text}");
        assert!(text.contains("3 -> socket:") && !text.contains("/dev/zero"), "{text}");
        let mut last = text.lines().rev();
        assert_eq!(last.next().unwrap(), format!("{pid} word name /"));
        assert_eq!(last.next().unwrap(), pid.to_string(), "the session is not its own");
        drop(leak);
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_told_and_leaves_no_process() {
        let (_dir, listener, path) = listener();
        let text = open("/etc/passwd");
        let started =
            Detached { program: text.as_fd(), args: &[], env: &[], listener: listener.as_fd() }.spawn();
        assert_eq!(
            started.unwrap_err().to_string(),
            "execve the serving process: EACCES (Permission denied)"
        );
        drop(listener);
        assert!(UnixStream::connect(&path).is_err(), "somebody still has the socket");
    }

    #[test]
    fn the_sealed_view_of_ourselves_is_the_same_file_and_cannot_be_written() {
        let sealed = sealed_self().unwrap();
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        // Not by opening it for writing: that fails while any program runs from the file, sealed or not.
        let permissions = std::fs::metadata(&path).unwrap().permissions();
        let error = std::fs::set_permissions(&path, permissions).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let mut magic = [0; 4];
        std::fs::File::open(&path).unwrap().read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"\x7fELF");
    }
}

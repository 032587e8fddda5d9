//! A pod's network namespace, pinned to a path so that it outlives whoever made it.
//!
//! Everything that works *in* a namespace runs on a thread of its own that ends there: a thread of a test harness,
//! an async runtime or a command line that is left in the wrong namespace harms everything after it. Only to open
//! a socket there the caller's thread goes itself, and comes back.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use dunnage_sys::Call;
use dunnage_sys::netns::{self, NetnsId};

use crate::name::check_file_name;
use crate::{Error, Result};

/// An open network namespace. Closing it does not remove the pin.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    path: PathBuf,
}

impl Netns {
    /// Where the namespaces of pods that nobody else made are pinned.
    pub const DIR: &str = "/run/dunnage/netns";

    /// Makes a new network namespace pinned at `dir/name`; `dir` is made when it is missing.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EPERM` without privilege. Nothing is left behind.
    pub fn create(dir: &Path, name: &str) -> Result<Self> {
        check_file_name("network namespace name", name, 128)?;
        std::fs::create_dir_all(dir).call(|| format!("create directory {}", dir.display()))?;
        let path = dir.join(name);
        on_own_thread(|| {
            netns::unshare()?;
            netns::pin(&path)
        })??;
        Self::open(&path).inspect_err(|_| drop(netns::unpin(&path)))
    }

    /// Opens the network namespace at `path` and verifies that it is one.
    ///
    /// # Errors
    /// `ENOENT`, or [`Error::NotNetns`] for any other kind of file: a pin that was unmounted is a plain file.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = OwnedFd::from(File::open(path).call(|| format!("open {}", path.display()))?);
        let id = netns::identify(&fd)?.ok_or_else(|| Error::NotNetns(path.to_owned()))?;
        Ok(Self { fd, id, path: path.to_owned() })
    }

    /// Removes the pin at `path`; one that is gone already is a success. The namespace itself, and every link
    /// in it, goes when its last process and descriptor go, in the background of the kernel.
    ///
    /// # Errors
    /// `umount2` or `unlink` failed.
    pub fn remove(path: &Path) -> Result<()> {
        Ok(netns::unpin(path)?)
    }

    /// Runs `work` on a thread inside this namespace. Sockets opened there stay bound to the namespace and can
    /// be used from anywhere; `/proc/sys/net` is this namespace's.
    ///
    /// # Errors
    /// The thread could not be started or could not enter the namespace.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_own_thread(|| {
            netns::enter(&self.fd)?;
            Ok(work())
        })?
    }

    /// Opens something that stays bound to this namespace wherever it is used, a socket: on the calling thread, which
    /// goes there and home. A thread of its own would cost two changes of the processor, which take milliseconds
    /// on a busy machine.
    ///
    /// The kernel refuses the way back only where it refused the way there. Should it ever happen, the process
    /// aborts: a thread that stays in another namespace would harm everything that runs on it afterwards.
    ///
    /// # Errors
    /// The thread could not enter the namespace.
    pub(crate) fn visit<T>(&self, home: &Home, open: impl FnOnce() -> T) -> Result<T> {
        netns::enter(&self.fd)?;
        let _way_back = WayBack(home);
        Ok(open())
    }

    /// Whether it is the network namespace of the calling thread.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn is_own(&self) -> Result<bool> {
        Ok(netns::identify(netns::own()?)? == Some(self.id))
    }

    /// Which namespace it is.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The network namespace that the work of a host is done in.
#[derive(Debug)]
pub(crate) struct Home {
    fd: OwnedFd,
    id: NetnsId,
}

impl Home {
    pub(crate) fn of_this_thread() -> Result<Self> {
        let fd = netns::own()?;
        let path = || PathBuf::from("/proc/thread-self/ns/net");
        let id = netns::identify(&fd)?.ok_or_else(|| Error::NotNetns(path()))?;
        Ok(Self { fd, id })
    }

    pub(crate) fn id(&self) -> NetnsId {
        self.id
    }
}

/// Leads the calling thread back home, also when what it did elsewhere panics.
struct WayBack<'a>(&'a Home);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if netns::enter(&self.0.fd).is_err() {
            std::process::abort();
        }
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work);
        let thread = spawned.call(|| "start a thread for a network namespace")?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

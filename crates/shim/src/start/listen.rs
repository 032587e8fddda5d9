//! Taking the socket of a group, or finding that a serving process has it.
//!
//! Several `start`s of one pod run at once. All of it happens under a lock on the directory, for microseconds:
//! otherwise one `start` takes the socket that another has just made, and not yet listens on, for a dead one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use dunnage_sys::flock::Flock;
use dunnage_sys::{Call, Result, socket};

use crate::address::Address;

/// Who serves a group.
#[derive(Debug)]
pub(crate) enum Listening {
    /// Nobody did; this socket is for whoever will.
    New(Socket),
    /// A process that is there already.
    Existing,
}

/// A listening socket whose file goes with it unless it is [kept](Socket::keep).
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    address: Address,
    keep: bool,
}

impl Socket {
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Somebody serves it from now on.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.keep {
            // There is nobody to tell; a file that stays is found dead and replaced by the next start.
            let _ = fs::remove_file(self.address.path());
        }
    }
}

/// Listens on the address of a group unless somebody does.
pub(crate) fn listen(address: &Address) -> Result<Listening> {
    let directory = address.directory();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .call(|| format!("mkdir {}", directory.display()))?;
    let _lock = lock(address)?;
    let path = address.path();
    let bind = || UnixListener::bind(path);
    let bound = match bind() {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if socket::is_alive(path)? {
                return Ok(Listening::Existing);
            }
            fs::remove_file(path).call(|| format!("unlink dead socket {}", path.display()))?;
            bind()
        }
        bound => bound,
    };
    let listener = bound.call(|| format!("bind {}", path.display()))?;
    let socket = Socket { listener, address: address.clone(), keep: false };
    fs::set_permissions(path, Permissions::from_mode(0o600)).call(|| format!("chmod {}", path.display()))?;
    Ok(Listening::New(socket))
}

/// Removes the socket of a group if nobody serves it any more. So a process that has closed its own removes that,
/// but not the one of a successor.
pub(crate) fn remove_dead(address: &Address) -> Result<()> {
    if !address.path().exists() {
        return Ok(());
    }
    let _lock = lock(address)?;
    if socket::is_alive(address.path())? {
        return Ok(());
    }
    match fs::remove_file(address.path()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.call(|| format!("unlink dead socket {}", address.path().display())),
    }
}

fn lock(address: &Address) -> Result<Flock<File>> {
    let directory = address.directory();
    Flock::exclusive(File::open(directory).call(|| format!("open {}", directory.display()))?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn address() -> (tempfile::TempDir, Address) {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("made/s");
        let address = Address::parse(&format!("unix://{}", path.display())).unwrap();
        (directory, address)
    }

    fn new(address: &Address) -> Socket {
        match listen(address).unwrap() {
            Listening::New(socket) => socket,
            Listening::Existing => panic!("somebody listens"),
        }
    }

    #[test]
    fn the_first_listens_and_the_second_finds_it() {
        let (_directory, address) = address();
        let first = new(&address);
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(address.directory()), mode(address.path())), (0o700, 0o600));
        assert!(matches!(listen(&address).unwrap(), Listening::Existing));
        drop(first);
        assert!(!address.path().exists(), "a socket nobody serves stayed");
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let (_directory, address) = address();
        new(&address).keep();
        assert!(address.path().exists());
        let second = new(&address);
        assert!(matches!(listen(&address).unwrap(), Listening::Existing));
        drop(second);
    }

    #[test]
    fn of_many_at_once_one_listens() {
        let (_directory, address) = address();
        new(&address).keep();
        let barrier = std::sync::Barrier::new(8);
        let sockets: Vec<Listening> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                listen(&address).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(sockets.iter().filter(|socket| matches!(socket, Listening::New(_))).count(), 1);
    }

    #[test]
    fn only_a_socket_nobody_serves_is_removed() {
        let (_directory, address) = address();
        let socket = new(&address);
        remove_dead(&address).unwrap();
        assert!(address.path().exists());
        socket.keep();
        let successor = new(&address);
        remove_dead(&address).unwrap();
        assert!(address.path().exists(), "the socket of a successor is gone");
        successor.keep();
        remove_dead(&address).unwrap();
        assert!(!address.path().exists());
        remove_dead(&address).unwrap();
    }
}

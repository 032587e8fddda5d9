//! Network namespaces of a test: the host's, a pod's, and one outside that knows no way to pods; and who reaches whom.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use rustix::net::{self, sockopt};

/// Much longer than a packet takes, so that a busy machine does not fail a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The host's address on the link to outside, and who is there.
pub(crate) const UPLINK: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(crate) const UPLINK6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
pub(crate) const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Place(File);

impl Place {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(File::open(path).with_context(|| format!("open {}", path.display()))?))
    }

    /// That of the calling thread.
    pub(crate) fn host() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Makes one behind the link `uplink` of the calling thread's.
    pub(crate) fn outside() -> Result<Self> {
        for arguments in [
            "netns add outside",
            "link add uplink type veth peer name eth0 netns outside",
            "addr add 192.0.2.1/24 dev uplink",
            "-6 addr add 2001:db8:1::1/64 dev uplink nodad",
            "link set uplink up",
            "-n outside addr add 192.0.2.2/24 dev eth0",
            "-n outside -6 addr add 2001:db8:1::2/64 dev eth0 nodad",
            "-n outside link set eth0 up",
            // The end that came up first drops packets until the kernel has noticed its carrier, which asking does.
            "link show uplink",
        ] {
            run("ip", arguments)?;
        }
        Self::open(Path::new("/run/netns/outside"))
    }

    /// Does something there, on a thread that ends with it. Sockets stay where they were opened.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        thread::scope(|scope| scope.spawn(there).join())
            .unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
    }
}

/// As whom a client is seen that connects to `at`, which must end at port `listen` of the other place.
pub(crate) fn connects(from: &Place, to: &Place, listen: u16, at: (IpAddr, u16)) -> io::Result<IpAddr> {
    let any: IpAddr =
        if at.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let listener = to.run(|| TcpListener::bind((any, listen)))?;
    let client = from.run(|| TcpStream::connect_timeout(&SocketAddr::from(at), PATIENCE))?;
    let seen = accept(&listener);
    drop(client);
    seen
}

/// As [`connects`], over SCTP and IPv4.
pub(crate) fn connects_by_sctp(
    from: &Place,
    to: &Place,
    listen: u16,
    at: (IpAddr, u16),
) -> io::Result<IpAddr> {
    let listener = to.run(|| {
        let socket = sctp()?;
        net::bind(&socket, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen)))?;
        net::listen(&socket, 1)?;
        Ok(TcpListener::from(socket))
    })?;
    let client = from.run(|| {
        let socket = sctp()?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        net::connect(&socket, &SocketAddr::from(at))?;
        Ok(socket)
    })?;
    let seen = accept(&listener);
    drop(client);
    seen
}

/// Whether the kernel has sockets of SCTP: a module that some are built without.
pub(crate) fn has_sctp() -> bool {
    sctp().is_ok()
}

/// One connection behaves as one of TCP does.
fn sctp() -> io::Result<OwnedFd> {
    let opened = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, Some(net::ipproto::SCTP));
    Ok(opened?)
}

/// Who connects next.
fn accept(listener: &TcpListener) -> io::Result<IpAddr> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    loop {
        match listener.accept() {
            // The client's last word can still be on its way.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            accepted => return accepted.map(|(_, seen)| seen.ip()),
        }
    }
}

/// Runs a program of the machine in the calling thread's namespaces.
pub(crate) fn run(program: &str, arguments: &str) -> Result<String> {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments}: {stderr}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

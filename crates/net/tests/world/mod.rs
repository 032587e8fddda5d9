//! A host, pods and an outside to test with, each a network namespace that the test makes: the network of the
//! machine is never touched.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use dunnage_net::{Attachment, HostPort, Netns, NetworkConfig, Owner, PodNetwork, Ranges, Result};
use dunnage_sys::netns;

/// Much longer than anything takes, so that a busy machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A host with its own network namespace, that of the thread.
#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
}

/// Runs a test as if on a freshly booted host.
pub fn on_fresh_host(test: impl FnOnce(&World) + Send) {
    let dir = tempfile::Builder::new().prefix("dunnage-net-test-").tempdir_in("/run").expect("needs root");
    let world = World { dir };
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            netns::unshare().expect("needs root");
            ip("link set lo up");
            test(&world);
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    pub fn config(&self) -> NetworkConfig {
        config(self.dir.path().join("ipam"))
    }

    pub fn network(&self) -> PodNetwork {
        PodNetwork::open(self.config()).unwrap()
    }

    pub fn netns(&self, name: &str) -> TestNetns {
        TestNetns(Netns::create(&self.dir.path().join("netns"), name).unwrap())
    }

    pub fn pod(&self, network: &mut PodNetwork, name: &str) -> Pod {
        self.pod_with_ports(network, name, &[]).unwrap()
    }

    pub fn pod_with_ports(&self, network: &mut PodNetwork, name: &str, ports: &[HostPort]) -> Result<Pod> {
        let netns = self.netns(name);
        let owner = owner(name);
        let attachment = network.attach(&owner, &netns.0, ports)?;
        Ok(Pod { netns, owner, attachment })
    }

    /// A network namespace behind an uplink of the host, which knows no way to the pods.
    pub fn outside(&self) -> TestNetns {
        let outside = self.netns("outside");
        ip(&format!("link add uplink type veth peer name eth0 netns {}", outside.0.path().display()));
        ip(&format!("addr add {UPLINK}/24 dev uplink"));
        ip("-6 addr add 2001:db8:1::1/64 dev uplink nodad");
        ip("link set uplink up");
        outside
            .0
            .run(|| {
                ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
                ip("-6 addr add 2001:db8:1::2/64 dev eth0 nodad");
                ip("link set eth0 up");
            })
            .unwrap();
        // The end that came up first drops packets until the kernel has noticed its carrier, which asking does.
        ip("link show uplink");
        outside
    }

    pub fn state_dir(&self) -> PathBuf {
        self.config().state_dir
    }

    /// Everything that attaching a pod could leave on the host.
    pub fn census(&self) -> Census {
        let files = std::fs::read_dir(self.state_dir()).map(|dir| {
            dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        });
        let sysctl = |key| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap();
        Census {
            links: ip("-o link").lines().map(without_state).collect(),
            addresses: ip("-o addr"),
            // The kernel notices in its own time that a bridge with a port has carrier.
            routes: (ip("route") + &ip("-6 route")).replace(" linkdown", ""),
            nft: nft("-j list ruleset"),
            files: files.unwrap_or_default(),
            forward: (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")),
        }
    }
}

/// Flags and states of a link depend on its other end.
fn without_state(line: &str) -> String {
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[derive(Debug, PartialEq, Eq)]
pub struct Census {
    pub links: BTreeSet<String>,
    pub addresses: String,
    pub routes: String,
    pub nft: String,
    pub files: BTreeSet<String>,
    pub forward: (String, String),
}

/// A network namespace whose pin goes with it.
#[derive(Debug)]
pub struct TestNetns(pub Netns);

impl Drop for TestNetns {
    fn drop(&mut self) {
        Netns::remove(self.0.path()).unwrap();
    }
}

#[derive(Debug)]
pub struct Pod {
    pub netns: TestNetns,
    pub owner: Owner,
    pub attachment: Attachment,
}

impl Pod {
    pub fn ip(&self) -> IpAddr {
        self.attachment.ip()
    }

    pub fn gateway(&self) -> IpAddr {
        self.attachment.addresses[0].gateway
    }
}

/// The network of all tests.
pub fn config(state_dir: PathBuf) -> NetworkConfig {
    NetworkConfig { state_dir, ranges: subnet("10.88.0.0/16"), ..NetworkConfig::local() }
}

pub fn subnet(text: &str) -> Ranges {
    Ranges::of(text.parse().unwrap(), None)
}

pub fn owner(name: &str) -> Owner {
    Owner::new(name, "eth0".parse().unwrap()).unwrap()
}

/// Whether a TCP connection from one namespace reaches a listener in another, and as whom.
pub fn seen_as(from: &Netns, to: &Netns, listen: SocketAddr, connect: SocketAddr) -> std::io::Result<IpAddr> {
    let listener = to.run(|| TcpListener::bind(listen)).unwrap()?;
    let timeout = PATIENCE;
    let client = from.run(|| TcpStream::connect_timeout(&connect, timeout)).unwrap()?;
    let (_server, peer) = listener.accept()?;
    drop(client);
    Ok(peer.ip())
}

/// The namespace of the calling thread, as the host of a world.
pub fn here(world: &World) -> TestNetns {
    let path = world.dir.path().join("here");
    netns::pin(&path).unwrap();
    TestNetns(Netns::open(&path).unwrap())
}

pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn nft(arguments: &str) -> String {
    run("nft", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

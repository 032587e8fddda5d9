//! A host, pods and an outside, each a network namespace that the test makes, and the plugin run there as a
//! runtime runs it: the program, its environment, its stdin.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dunnage_net::Netns;
use dunnage_sys::netns;
use serde_json::{Value, json};

/// Much longer than anything takes, so that a busy machine does not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const PLUGIN: &str = env!("CARGO_BIN_EXE_dunnage-cni");
/// Where Debian keeps the reference plugins (package containernetworking-plugins).
pub const REFERENCE_DIR: &str = "/usr/lib/cni";

pub const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A host with its own network namespace, that of the thread.
#[derive(Debug)]
pub struct World {
    dir: tempfile::TempDir,
}

/// What a plugin has answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub success: bool,
    /// Null when nothing was printed.
    pub json: Value,
    pub stderr: String,
}

impl Answer {
    /// The result of a success.
    pub fn ok(self) -> Value {
        assert!(self.success, "{} {}", self.json, self.stderr);
        self.json
    }

    /// Code, message and details of an error.
    pub fn error(self) -> (u64, String, String) {
        assert!(!self.success, "{}", self.json);
        let text = |key: &str| self.json[key].as_str().unwrap_or_default().to_owned();
        (self.json["code"].as_u64().unwrap(), text("msg"), text("details"))
    }
}

/// Runs a test as if on a freshly booted host.
pub fn on_fresh_host(test: impl FnOnce(&World) + Send) {
    let dir = tempfile::Builder::new().prefix("dunnage-cni-test-").tempdir_in("/run").expect("needs root");
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
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn pod(&self, name: &str) -> Pod {
        Pod { netns: Netns::create(&self.path("netns"), name).unwrap(), id: name.to_owned() }
    }

    /// The namespace of the calling thread.
    pub fn host(&self) -> Netns {
        let path = self.path("host");
        if !path.exists() {
            netns::pin(&path).unwrap();
        }
        Netns::open(&path).unwrap()
    }

    /// As people have it for the reference plugins, with the type changed.
    pub fn config(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "dunnage-cni",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "stateDir": self.path("state"),
            "ipam": {
                "type": "host-local",
                "dataDir": self.path("host-local"),
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        })
    }

    /// As [`Self::config`], with other values for some keys.
    pub fn config_with(&self, changes: &Value) -> Value {
        merged(self.config(), changes)
    }

    pub fn run(&self, command: &str, pod: &Pod, config: &Value) -> Answer {
        self.run_program(Path::new(PLUGIN), command, &pod.variables(), config)
    }

    pub fn add(&self, pod: &Pod, config: &Value) -> Value {
        self.run("ADD", pod, config).ok()
    }

    /// `None` on a machine whose kernel is without VLANs on bridges, which the refusal has to say.
    pub fn add_to_vlan(&self, pod: &Pod, config: &Value) -> Option<Value> {
        let answer = self.run("ADD", pod, config);
        if answer.success {
            return Some(answer.ok());
        }
        let (_, msg, details) = answer.error();
        assert!((msg + &details).contains("BRIDGE_VLAN_FILTERING"));
        None
    }

    pub fn del(&self, pod: &Pod, config: &Value) {
        let answer = self.run("DEL", pod, config);
        assert!(answer.success && answer.json.is_null(), "{answer:?}");
    }

    /// GC, STATUS and VERSION know no container.
    pub fn run_alone(&self, command: &str, config: &Value) -> Answer {
        self.run_program(Path::new(PLUGIN), command, &[], config)
    }

    pub fn run_program(
        &self,
        program: &Path,
        command: &str,
        variables: &[(String, String)],
        config: &Value,
    ) -> Answer {
        self.run_command(Command::new(program), command, variables, &config.to_string())
    }

    pub fn run_command(
        &self,
        mut program: Command,
        command: &str,
        variables: &[(String, String)],
        stdin: &str,
    ) -> Answer {
        program
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", REFERENCE_DIR)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        // One that has failed before it read anything has closed it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let json =
            if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).expect(&text) };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Answer { success: output.status.success(), json, stderr }
    }

    /// A network namespace behind an uplink of the host, which knows no way to the pods.
    pub fn outside(&self) -> Pod {
        let outside = self.pod("outside");
        ip(&format!("link add uplink type veth peer name eth0 netns {}", outside.netns.path().display()));
        ip(&format!("addr add {UPLINK}/24 dev uplink"));
        ip("-6 addr add 2001:db8:1::1/64 dev uplink nodad");
        ip("link set uplink up");
        outside.run(|| {
            ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
            ip("-6 addr add 2001:db8:1::2/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        // The end that came up first drops packets until the kernel has noticed its carrier, which asking does.
        ip("link show uplink");
        // Its IPv6 address counts once a work queue of the kernel has looked at it, probed or not.
        eventually(|| ip("-6 route show table local").contains("2001:db8:1::1 "));
        outside
    }

    /// Everything that pods could leave on the host, with the network made and without pods.
    pub fn census(&self) -> Census {
        let files = std::fs::read_dir(self.path("state")).map(|dir| {
            dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        });
        Census {
            links: ip("-o link")
                .lines()
                .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
                .collect(),
            // The kernel notices in its own time that a bridge with a port has carrier.
            routes: (ip("route") + &ip("-6 route")).replace(" linkdown", ""),
            nft: nft("list ruleset"),
            files: files.unwrap_or_default(),
        }
    }

    /// The kernel removes links of a namespace that went in the background.
    pub fn wait_for_links_to_go(&self, prefix: &str) {
        eventually(|| !ip("-o link").contains(&format!(": {prefix}")));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let host = self.path("host");
        if host.exists() {
            Netns::remove(&host).unwrap();
        }
    }
}

/// Waits until something is so.
pub fn eventually(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "it never became so: {}", ip("-o link"));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Census {
    pub links: BTreeSet<String>,
    pub routes: String,
    pub nft: String,
    pub files: BTreeSet<String>,
}

/// A network namespace that goes with it.
#[derive(Debug)]
pub struct Pod {
    pub netns: Netns,
    pub id: String,
}

impl Pod {
    pub fn variables(&self) -> Vec<(String, String)> {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.id);
        let path = self.netns.path().to_str().unwrap();
        [
            ("CNI_CONTAINERID", self.id.as_str()),
            ("CNI_NETNS", path),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &args),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        Netns::remove(self.netns.path()).unwrap();
    }
}

/// Objects are merged key by key, and everything else is replaced; null removes.
pub fn merged(mut base: Value, changes: &Value) -> Value {
    for (key, change) in changes.as_object().unwrap() {
        if change.is_null() {
            base.as_object_mut().unwrap().remove(key);
        } else if change.is_object() && base[key].is_object() {
            base[key] = merged(base[key].take(), change);
        } else {
            base[key] = change.clone();
        }
    }
    base
}

/// The n-th address that a result tells.
pub fn address(result: &Value, number: usize) -> IpAddr {
    let text = result["ips"][number]["address"].as_str().unwrap_or_else(|| panic!("{result}"));
    text.split('/').next().unwrap().parse().unwrap()
}

/// Whether a TCP connection from one namespace reaches a listener in another, and as whom.
pub fn seen_as(from: &Netns, to: &Netns, port: u16, connect: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if connect.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
    let listener = to.run(|| TcpListener::bind((any, port))).unwrap()?;
    let client = from.run(|| TcpStream::connect_timeout(&connect, PATIENCE)).unwrap()?;
    let (_server, peer) = listener.accept()?;
    drop(client);
    Ok(peer.ip())
}

/// As whom a UDP packet from one namespace comes to a socket in another, if it does. It is waited for with patience
/// where it is expected. A way back is not needed.
pub fn heard_as(
    from: &Netns,
    to: &Netns,
    port: u16,
    send: SocketAddr,
    expected: Option<IpAddr>,
) -> Option<IpAddr> {
    const A_WHILE: Duration = Duration::from_millis(300);
    let any: IpAddr = if send.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
    let receiver = to.run(|| UdpSocket::bind((any, port))).unwrap().unwrap();
    receiver.set_read_timeout(Some(expected.map_or(A_WHILE, |_| PATIENCE))).unwrap();
    let sender = from.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    // The kernel may refuse at once.
    sender.send_to(b"x", send).ok()?;
    receiver.recv_from(&mut [0; 1]).ok().map(|(_, peer)| peer.ip())
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

//! The pod network as users get it: containerd's CRI with `dunnage-cni` as its only plugin, and with a list of the
//! reference plugins in which the types were changed. The shim has no part in it, so all of it runs on the
//! reference shim as well.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::census::Census;
use dunnage_e2e::containerd::{Containerd, Network};
use dunnage_e2e::cri::{self, Cri, Pod, api};
use dunnage_e2e::line::Line;
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::wait;
use dunnage_e2e::world::World;
use serde_json::{Value, json};

use crate::place::{
    OUTSIDE, OUTSIDE6, PATIENCE, Place, UPLINK, UPLINK6, connects, connects_by_sctp, has_sctp, run,
};
use crate::rig::forgive_reference_its_sockets;

mod vlan;

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A node whose pods are on our plugin's network, with an uplink to somebody who knows no way to pods.
struct Node {
    before: Census,
    host: Place,
    outside: Place,
    cri: Cri,
    containerd: Containerd,
    world: World,
}

impl Node {
    /// The network itself is made by the first pod and stays, as the bridge of the reference plugin does.
    async fn new(plugins: &Value) -> Result<Self> {
        let world = World::enter()?;
        let outside = Place::outside()?;
        let programs = world.dir().join("plugins");
        fs::create_dir(&programs)?;
        let plugin = dunnage_e2e::programs::built("dunnage-cni")?;
        // containerd has the plugin `loopback` run for every pod; a link of that name is one.
        for name in ["dunnage-cni", "loopback"] {
            symlink(&plugin, programs.join(name))?;
        }
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins});
        let containerd = Containerd::start_on(&world, &Network { list, plugins: programs }, "").await?;
        let cri = containerd.cri().await?;
        let first = cri.run_pod(cri::pod(&world, "first")).await.with_context(|| containerd.last_words())?;
        cri.remove_pod(&first).await?;
        // Its interface goes in the background, and would be missed if it were counted.
        let has_settled = || {
            let links = run("ip", "-o link").ok()?;
            let gone = !links.contains(": dnp") && world.processes_named("dunnage-cni").is_empty();
            gone.then_some(())
        };
        wait::until("the end of the first pod", has_settled).await?;
        let before = Census::take(&world)?;
        let node = Self { before, host: Place::host()?, outside, cri, containerd, world };
        Ok(node)
    }

    /// Writes the list anew, in place, as containerd notices it.
    fn configure(&self, version: &str, plugins: &Value) -> Result<()> {
        let list = json!({"cniVersion": version, "name": "pods", "plugins": plugins});
        Ok(fs::write(self.containerd.root().join("cni/10-e2e.conflist"), list.to_string())?)
    }

    async fn pod(&self, name: &str, change: impl FnOnce(&mut api::PodSandboxConfig)) -> Result<Pod> {
        let mut config = cri::pod(&self.world, name);
        change(&mut config);
        self.cri.run_pod(config).await.with_context(|| self.containerd.last_words())
    }

    async fn plain(&self, name: &str) -> Result<Pod> {
        self.pod(name, |_| {}).await
    }

    /// The addresses that the runtime reports for a pod.
    async fn addresses(&self, pod: &Pod) -> Result<Vec<IpAddr>> {
        let network = self.cri.pod(pod).await?.network.context("no pod network")?;
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        std::iter::once(network.ip).chain(more).map(|ip| ip.parse().with_context(|| ip.clone())).collect()
    }

    async fn place(&self, pod: &Pod) -> Result<Place> {
        let info = self.cri.pod_info(pod).await?;
        let pid = info["pid"].as_i64().with_context(|| format!("no pid in {info}"))?;
        Place::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    async fn require_nothing_left(&self) -> Result<()> {
        let same = self.before.require_same(&self.world).await;
        same.with_context(|| self.containerd.last_words())
    }
}

/// Dual stack, host ports and masquerade by one entry.
fn alone() -> Value {
    json!([{
        "type": "dunnage-cni",
        "ipMasq": true,
        "capabilities": {"portMappings": true, "bandwidth": true, "dns": true},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }])
}

/// What containerd's own script installs, with `firewall` and `bandwidth`, after each `type` was changed.
fn renamed(mode: &str) -> Value {
    json!([
        {
            "type": "dunnage-cni",
            "mode": mode,
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "promiscMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "dunnage-cni", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "dunnage-cni", "capabilities": {"bandwidth": true}},
        {"type": "dunnage-cni", "backend": "iptables"},
    ])
}

fn port(protocol: api::Protocol, host: i32, container: i32, host_ip: &str) -> api::PortMapping {
    let mut port = api::PortMapping { container_port: container, host_port: host, ..Default::default() };
    port.set_protocol(protocol);
    port.host_ip = host_ip.to_owned();
    port
}

fn web(host: i32) -> api::PortMapping {
    port(api::Protocol::Tcp, host, 80, "")
}

#[tokio::test]
async fn pods_have_the_addresses_that_are_reported_and_reach_each_other_the_host_and_outside() -> Result<()> {
    let node = Node::new(&alone()).await?;
    let (a, b) = (node.plain("a").await?, node.plain("b").await?);
    let (to_a, to_b) = (node.addresses(&a).await?, node.addresses(&b).await?);
    ensure!(to_a.len() == 2 && to_a[0].is_ipv4() && to_a[1].is_ipv6(), "{to_a:?}");
    let server = node.cri.run_container(&a, cri::container("server", &["probe", "serve", "80"])).await?;
    let client = node.cri.run_container(&b, cri::container("client", &["sleep", "1000"])).await?;
    let serves = || cri::log(&node.world, "server").ok().filter(|lines| !lines.is_empty());
    wait::until("a server in the pod", serves).await?;
    let at = format!("{}:80", to_a[0]);
    ensure!(node.cri.exec_ok(&client, &["probe", "connect", &at]).await? == "a\n", "pod to pod");
    let shown = node.cri.show(&server).await?;
    ensure!(shown["interfaces"] == json!(["eth0", "lo"]), "{}", shown["interfaces"]);
    let resolv = node.cri.exec_ok(&client, &["cat", "/etc/resolv.conf"]).await?;
    ensure!(resolv == "nameserver 10.166.0.1\n", "{resolv}");

    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    for family in 0..2 {
        let (to_a, to_b) = (to_a[family], to_b[family]);
        let (outside, uplink) = if family == 0 { (OUTSIDE, UPLINK) } else { (OUTSIDE6, UPLINK6) };
        ensure!(connects(&in_b, &in_a, 81, (to_a, 81))? == to_b, "pod to pod");
        connects(&node.host, &in_a, 81, (to_a, 81)).context("host to pod")?;
        let seen = connects(&in_a, &node.outside, 81, (outside, 81)).context("pod to outside")?;
        ensure!(seen == uplink, "masqueraded as {seen}");
    }
    drop((in_a, in_b));
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

/// As whom a pod's server sees a client that sends to a UDP port of the host, which must have the answer, too.
fn asks(from: &Place, to: &Place, listen: u16, at: (IpAddr, u16)) -> Result<IpAddr> {
    let bind = |port| move || UdpSocket::bind(("0.0.0.0", port));
    let (server, client) = (to.run(bind(listen))?, from.run(bind(0))?);
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    client.send_to(b"question", at)?;
    let mut buffer = [0; 16];
    let (_, seen) = server.recv_from(&mut buffer).context("the question")?;
    server.send_to(b"answer", seen)?;
    let (_, answered) = client.recv_from(&mut buffer).context("the answer")?;
    ensure!(answered == at.into(), "{answered} has answered");
    Ok(seen.ip())
}

#[tokio::test]
async fn host_ports_lead_to_their_pods_from_outside_and_from_localhost() -> Result<()> {
    let node = Node::new(&alone()).await?;
    let a = node.pod("a", |config| {
        config.port_mappings = vec![
            web(8080),
            port(api::Protocol::Udp, 5353, 53, ""),
            port(api::Protocol::Sctp, 3868, 3868, ""),
        ];
    });
    let b = node.pod("b", |config| {
        config.port_mappings = vec![web(8081), port(api::Protocol::Tcp, 8443, 80, "192.0.2.1")];
    });
    let (a, b) = (a.await?, b.await?);
    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    for (pod, number) in [(&in_a, 8080), (&in_b, 8081), (&in_b, 8443)] {
        let seen = connects(&node.outside, pod, 80, (UPLINK, number))?;
        ensure!(seen == OUTSIDE, "the source is kept, not {seen}");
    }
    for (pod, number) in [(&in_a, 8080), (&in_b, 8081)] {
        connects(&node.host, pod, 80, (LOCALHOST, number)).context("by localhost")?;
        connects(&in_a, pod, 80, (UPLINK, number)).context("from a pod, be it the same")?;
        connects(&node.outside, pod, 80, (UPLINK6, number)).context("by IPv6")?;
    }
    let elsewhere = connects(&node.host, &in_b, 80, (LOCALHOST, 8443));
    ensure!(
        elsewhere.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused),
        "one address only"
    );
    let ports = run("nft", "-n list map inet dunnage hp4")?;
    ensure!(ports.contains("132 . 3868 : 10.88."), "SCTP: {ports}");
    ensure!(asks(&node.outside, &in_a, 53, (UPLINK, 5353))? == OUTSIDE, "UDP, with the source kept");
    asks(&node.host, &in_a, 53, (LOCALHOST, 5353)).context("UDP by localhost")?;

    let taken = node.pod("c", |config| config.port_mappings = vec![web(9000), web(8080)]).await;
    let error = format!("{:#}", taken.err().context("two pods have one port")?);
    ensure!(error.contains("host port 8080/tcp is taken by the pod with address 10.88."), "{error}");
    drop(in_a);
    node.cri.remove_pod(&a).await?;
    let closed = connects(&node.outside, &in_b, 80, (UPLINK, 8080));
    ensure!(closed.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused), "still open");
    let again = node.pod("c", |config| config.port_mappings = vec![web(9000), web(8080)]).await?;
    connects(&node.outside, &node.place(&again).await?, 80, (UPLINK, 8080)).context("the next pod's")?;
    drop(in_b);
    for pod in [b, again] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_host_port_of_sctp_leads_to_its_pod() -> Result<()> {
    if !has_sctp() {
        println!("not on this machine: its kernel is without sockets of SCTP");
        return Ok(());
    }
    let node = Node::new(&alone()).await?;
    let listens = |config: &mut api::PodSandboxConfig| {
        config.port_mappings = vec![port(api::Protocol::Sctp, 3868, 3869, "")];
    };
    let pod = node.pod("a", listens).await?;
    let seen = connects_by_sctp(&node.outside, &node.place(&pod).await?, 3869, (UPLINK, 3868))?;
    ensure!(seen == OUTSIDE, "the source is kept, not {seen}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

async fn works_when_types_are_changed(mode: &str) -> Result<()> {
    let node = Node::new(&renamed(mode)).await?;
    if asks_for_status(&node).await? {
        // Of every entry of the list, be it one that only adds to pods.
        node.configure("1.1.0", &renamed(mode))?;
        wait::until_ok("a network that is ready", || node.cri.ready()).await?;
    }
    let limit = [("kubernetes.io/ingress-bandwidth".to_owned(), "8M".to_owned())];
    let a = node.pod("a", |config| {
        config.port_mappings = vec![web(8080)];
        config.annotations.extend(limit);
    });
    let (a, b) = (a.await?, node.plain("b").await?);
    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    let to = node.addresses(&a).await?;
    ensure!(to.len() == 1 && to[0].is_ipv4(), "{to:?}");
    connects(&in_b, &in_a, 80, (to[0], 80)).context("pod to pod")?;
    ensure!(connects(&in_b, &node.outside, 80, (OUTSIDE, 80))? == UPLINK, "masqueraded");
    ensure!(connects(&node.outside, &in_a, 80, (UPLINK, 8080))? == OUTSIDE, "host port");
    let links = run("ip", "-o link")?;
    ensure!(links.contains("tbf"), "bandwidth is limited: {links}");
    ensure!(links.contains(": cni0:") == (mode == "bridged"), "{links}");
    drop((in_a, in_b));
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_list_of_the_reference_plugins_works_when_its_types_are_changed() -> Result<()> {
    works_when_types_are_changed("routed").await
}

#[tokio::test]
async fn the_same_list_can_keep_its_bridge() -> Result<()> {
    works_when_types_are_changed("bridged").await
}

#[tokio::test]
async fn a_pod_on_the_network_of_the_host_has_none_of_its_own() -> Result<()> {
    let node = Node::new(&alone()).await?;
    let on_host = node.pod("h", |config| {
        // The kubelet gives such a pod no name: it has that of the host.
        config.hostname.clear();
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        let options = context.and_then(|context| context.namespace_options.as_mut());
        options.expect("pod() fills them").set_network(api::NamespaceMode::Node);
    });
    let pod = on_host.await?;
    let address = node.cri.pod(&pod).await?.network.unwrap_or_default().ip;
    ensure!(address.is_empty(), "{address}");
    let mut container = cri::container("c", &["sleep", "1000"]);
    let options = cri::security(&mut container).namespace_options.get_or_insert_default();
    options.set_network(api::NamespaceMode::Node);
    let id = node.cri.run_container(&pod, container).await?;
    let shown = node.cri.show(&id).await?;
    ensure!(shown["interfaces"].as_array().is_some_and(|all| all.contains(&json!("uplink"))), "{shown}");
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_restart_of_containerd_changes_nothing_on_the_network() -> Result<()> {
    let mut node = Node::new(&alone()).await?;
    let a = node.pod("a", |config| config.port_mappings = vec![web(8080)]).await?;
    let (before, in_a) = (node.addresses(&a).await?, node.place(&a).await?);
    node.containerd.restart().await?;
    wait::until_ok("CRI", || node.cri.ready()).await?;
    ensure!(node.addresses(&a).await? == before);
    connects(&node.outside, &in_a, 80, (UPLINK, 8080)).context("host port of a pod of before")?;
    let b = node.plain("b").await?;
    let in_b = node.place(&b).await?;
    connects(&in_b, &in_a, 80, (before[0], 80)).context("new pod to old pod")?;
    ensure!(node.addresses(&b).await? != before, "its address again");
    drop((in_a, in_b));
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn pods_of_ipv6_alone_have_one_address_and_reach_each_other_and_outside() -> Result<()> {
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "fd00:88::/64"}]], "routes": [{"dst": "::/0"}]});
    let capabilities = json!({"portMappings": true});
    let entry = json!({"type": "dunnage-cni", "ipMasq": true, "capabilities": capabilities, "ipam": ipam});
    let node = Node::new(&json!([entry])).await?;
    let a = node.pod("a", |config| config.port_mappings = vec![web(8080)]).await?;
    let b = node.plain("b").await?;
    let to = node.addresses(&a).await?;
    ensure!(to.len() == 1 && to[0].is_ipv6(), "{to:?}");
    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    connects(&in_b, &in_a, 80, (to[0], 80)).context("pod to pod")?;
    ensure!(connects(&in_b, &node.outside, 80, (OUTSIDE6, 80))? == UPLINK6, "masqueraded");
    ensure!(connects(&node.outside, &in_a, 80, (UPLINK6, 8080))? == OUTSIDE6, "host port");
    drop((in_a, in_b));
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn the_network_of_a_pod_outlives_its_shim() -> Result<()> {
    let node = Node::new(&alone()).await?;
    let a = node.pod("a", |config| config.port_mappings = vec![web(8080)]).await?;
    let (to, in_a) = (node.addresses(&a).await?, node.place(&a).await?);
    for shim in node.world.shims(&Runtime::under_test().shim()?) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    }
    let is_noticed = || async {
        let state = node.cri.pod(&a).await?.state();
        ensure!(state == api::PodSandboxState::SandboxNotready, "{state:?}");
        Ok(())
    };
    wait::until_ok("a pod that is not ready", is_noticed).await?;
    let pins = fs::read_dir("/run/netns")?.flatten().filter(|pin| pin.file_name() != "outside").count();
    ensure!(pins == 1, "{pins} pins");
    ensure!(connects(&node.outside, &in_a, 80, (UPLINK, 8080))? == OUTSIDE, "its host port is open");
    // Nobody else gets the address while the kubelet has not taken the pod away.
    let b = node.plain("b").await?;
    ensure!(node.addresses(&b).await? != to);
    drop(in_a);
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    forgive_reference_its_sockets()?;
    node.require_nothing_left().await
}

/// Where the users of a pod with users of its own begin on the host.
const FIRST_USER: u32 = 200_000;

/// As the kubelet asks for it with `hostUsers: false`, for the pod and for each of its containers.
fn with_users_of_its_own(options: Option<&mut api::NamespaceOption>) {
    let all = vec![api::IdMapping { host_id: FIRST_USER, container_id: 0, length: 65_536 }];
    let users = api::UserNamespace { mode: api::NamespaceMode::Pod.into(), uids: all.clone(), gids: all };
    options.expect("pod() and container() fill them").userns_options = Some(users);
}

/// Whether this containerd can map the ids of images: it says so of its snapshotter when the kernel can.
async fn maps_ids(node: &Node) -> Result<bool> {
    let plugins =
        node.containerd.ctr().run(["plugins", "list", "--detailed", "id==overlayfs"]).await?.ok()?;
    Ok(plugins.contains("remap-ids"))
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_is_on_the_network_like_every_other() -> Result<()> {
    if !Line::under_test()?.is_since(2, 0) {
        println!("not on this machine: its containerd has no user namespaces with the runc of its time");
        return Ok(());
    }
    let node = Node::new(&alone()).await?;
    if !maps_ids(&node).await? {
        println!("not on this machine: its kernel is without idmapped mounts under overlayfs");
        return Ok(());
    }
    // The shim under test has none yet, whichever it is: this is about the plugin.
    let reference = node.cri.clone().under(Runtime::Runc.handler());
    let mut config = cri::pod(&node.world, "mapped");
    config.port_mappings = vec![port(api::Protocol::Tcp, 8080, 81, "")];
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    with_users_of_its_own(context.and_then(|context| context.namespace_options.as_mut()));
    let mapped = reference.run_pod(config).await.with_context(|| node.containerd.last_words())?;
    let mut server = cri::container("server", &["probe", "serve", "80"]);
    with_users_of_its_own(cri::security(&mut server).namespace_options.as_mut());
    let server = reference.run_container(&mapped, server).await;
    let server = server.with_context(|| node.containerd.last_words())?;
    let other = node.plain("other").await?;
    let client = node.cri.run_container(&other, cri::container("client", &["sleep", "1000"])).await?;

    let pid = reference.pid(&server).await?.to_string();
    let users = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    ensure!(users.split_whitespace().eq(["0", &FIRST_USER.to_string(), "65536"]), "{users}");
    // Only whom the namespace of the network belongs to may do this.
    run("nsenter", &format!("--target {pid} --user --net ip link set eth0 txqueuelen 77"))?;

    let (to_mapped, to_other) = (node.addresses(&mapped).await?, node.addresses(&other).await?);
    ensure!(to_mapped.len() == 2 && to_mapped[0].is_ipv4() && to_mapped[1].is_ipv6(), "{to_mapped:?}");
    let serves = || cri::log(&node.world, "server").ok().filter(|lines| !lines.is_empty());
    wait::until("a server in the pod", serves).await?;
    let at = format!("{}:80", to_mapped[0]);
    ensure!(node.cri.exec_ok(&client, &["probe", "connect", &at]).await? == "mapped\n", "to the pod");
    for (cri, from, to) in [(&reference, &server, to_other[0]), (&node.cri, &client, to_mapped[0])] {
        let answered = cri.exec_ok(from, &["ping", "-c", "1", "-W", "10", &to.to_string()]).await?;
        ensure!(answered.contains("1 packets received"), "{answered}");
    }
    let (in_mapped, in_other) = (node.place(&mapped).await?, node.place(&other).await?);
    for family in 0..2 {
        let (to_mapped, to_other) = (to_mapped[family], to_other[family]);
        let (outside, uplink) = if family == 0 { (OUTSIDE, UPLINK) } else { (OUTSIDE6, UPLINK6) };
        ensure!(connects(&in_other, &in_mapped, 81, (to_mapped, 81))? == to_other, "from a pod");
        ensure!(connects(&in_mapped, &in_other, 81, (to_other, 81))? == to_mapped, "to a pod");
        connects(&node.host, &in_mapped, 81, (to_mapped, 81)).context("from the host")?;
        ensure!(connects(&in_mapped, &node.outside, 81, (outside, 81))? == uplink, "to outside");
        ensure!(connects(&node.outside, &in_mapped, 81, (uplink, 8080))? == outside, "by the host port");
    }
    connects(&node.host, &in_mapped, 81, (LOCALHOST, 8080)).context("by localhost")?;
    drop((in_mapped, in_other));
    for pod in [mapped, other] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

/// In the plugin's place: holds a verb back, as long as the file says so, before or behind the plugin itself.
fn hold(node: &Node, verb: &str, before: bool) -> Result<()> {
    let plugin = dunnage_e2e::programs::built("dunnage-cni")?.display().to_string();
    let wait = "touch /run/held; while [ -e /run/hold ]; do sleep 0.02; done; exit 1";
    let held = if before { wait.to_owned() } else { format!("{plugin} >/run/told; {wait}") };
    let script = format!(
        "#!/bin/sh\nif [ $CNI_COMMAND = {verb} ] && [ -e /run/hold ]; then {held}; fi\nexec {plugin}\n"
    );
    let path = node.world.dir().join("plugins/dunnage-cni");
    fs::remove_file(&path)?;
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(fs::write("/run/hold", "")?)
}

/// As an administrator, or a runtime that knows GC, takes back what belongs to no pod.
fn collect() -> Result<()> {
    let mut config = alone()[0].clone();
    config["cniVersion"] = "1.1.0".into();
    config["name"] = "pods".into();
    config["cni.dev/valid-attachments"] = json!([]);
    plugin("GC", &config)
}

/// Runs the plugin without a container.
fn plugin(verb: &str, config: &Value) -> Result<()> {
    let mut command = Command::new(dunnage_e2e::programs::built("dunnage-cni")?);
    command.env("CNI_COMMAND", verb).env("CNI_PATH", "/opt/cni/bin");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

async fn killed_while_a_pod_is_attached(before: bool) -> Result<()> {
    let mut node = Node::new(&alone()).await?;
    hold(&node, "ADD", before)?;
    let (cri, mut config) = (node.cri.clone(), cri::pod(&node.world, "p"));
    config.port_mappings = vec![web(8080)];
    let attached = config.clone();
    let running = tokio::spawn(async move { cri.run_pod(attached).await });
    wait::until("the plugin", || Path::new("/run/held").exists().then_some(())).await?;
    node.containerd.kill().await?;
    ensure!(running.await?.is_err(), "the pod runs");
    for file in ["/run/hold", "/run/held", "/run/told"] {
        _ = fs::remove_file(file);
    }
    node.containerd.launch().await?;
    wait::until_ok("CRI", || node.cri.ready()).await?;
    // The kubelet removes what the runtime still knows, and runs the pod again.
    let request = api::ListPodSandboxRequest::default();
    for known in node.cri.runtime().list_pod_sandbox(request).await?.into_inner().items {
        node.cri.remove_pod(&Pod { id: known.id, config: config.clone() }).await?;
    }
    // A containerd that had not written the pod down yet keeps its namespace for ever. That one is not ours.
    for entry in fs::read_dir("/run/netns")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("cni-") {
            run("umount", &entry.path().to_string_lossy())?;
            fs::remove_file(entry.path())?;
        }
    }
    collect()?;
    node.require_nothing_left().await.context("after the clean-up")?;
    if let Some(metadata) = &mut config.metadata {
        metadata.attempt = 1;
    }
    let again = node.cri.run_pod(config).await?;
    connects(&node.outside, &node.place(&again).await?, 80, (UPLINK, 8080)).context("host port")?;
    node.cri.remove_pod(&again).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_containerd_killed_before_a_pod_was_attached_leaves_nothing() -> Result<()> {
    killed_while_a_pod_is_attached(true).await
}

#[tokio::test]
async fn a_containerd_killed_before_it_heard_of_an_address_leaves_what_gc_takes_back() -> Result<()> {
    killed_while_a_pod_is_attached(false).await
}

async fn killed_while_a_pod_is_detached(before: bool) -> Result<()> {
    let mut node = Node::new(&alone()).await?;
    let pod = node.pod("p", |config| config.port_mappings = vec![web(8080)]).await?;
    hold(&node, "DEL", before)?;
    let (cri, stopped) = (node.cri.clone(), pod.clone());
    let stopping = tokio::spawn(async move { cri.stop_pod(&stopped).await });
    wait::until("the plugin", || Path::new("/run/held").exists().then_some(())).await?;
    node.containerd.kill().await?;
    ensure!(stopping.await?.is_err(), "the pod is stopped");
    for file in ["/run/hold", "/run/held", "/run/told"] {
        _ = fs::remove_file(file);
    }
    node.containerd.launch().await?;
    wait::until_ok("CRI", || node.cri.ready()).await?;
    // The kubelet stops it again.
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_containerd_killed_before_a_pod_was_detached_detaches_it_when_it_is_asked_again() -> Result<()> {
    killed_while_a_pod_is_detached(true).await
}

#[tokio::test]
async fn a_containerd_killed_before_it_heard_of_a_detached_pod_may_ask_again() -> Result<()> {
    killed_while_a_pod_is_detached(false).await
}

#[tokio::test]
async fn status_is_answered_while_a_pod_is_attached_and_says_when_none_can_be() -> Result<()> {
    let node = Node::new(&alone()).await?;
    let mut config = alone()[0].clone();
    config["cniVersion"] = "1.1.0".into();
    config["name"] = "pods".into();
    hold(&node, "ADD", true)?;
    let (cri, pod) = (node.cri.clone(), cri::pod(&node.world, "p"));
    let running = tokio::spawn(async move { cri.run_pod(pod).await });
    wait::until("the plugin", || Path::new("/run/held").exists().then_some(())).await?;
    plugin("STATUS", &config)?;
    fs::remove_file("/run/hold")?;
    fs::remove_file("/run/held")?;
    ensure!(running.await?.is_err(), "the plugin has failed");

    let table = "/run/dunnage/ipam/cni-pods.tab";
    let sound = fs::read(table)?;
    fs::write(table, "garbage")?;
    let error = plugin("STATUS", &config).err().context("it is fine with garbage")?;
    ensure!(format!("{error}").contains("is not a lease table"), "{error}");
    if asks_for_status(&node).await? {
        node.configure("1.1.0", &alone())?;
        let not_ready = || async {
            let error = node.cri.ready().await.err().context("it is ready")?;
            ensure!(format!("{error:#}").contains("pods cannot be attached"), "{error:#}");
            Ok(())
        };
        wait::until_ok("a network that is not ready", not_ready).await?;
    }
    fs::write(table, sound)?;
    plugin("STATUS", &config)?;
    wait::until_ok("CRI", || node.cri.ready()).await?;
    node.require_nothing_left().await
}

/// Whether this containerd runs STATUS: from version 2 on.
async fn asks_for_status(node: &Node) -> Result<bool> {
    let text = node.containerd.ctr().run(["version"]).await?.ok()?;
    let version = text.lines().rev().find_map(|line| line.trim().strip_prefix("Version:"));
    let major = version.and_then(|version| version.trim().trim_start_matches('v').split('.').next());
    Ok(major.and_then(|major| major.parse::<u32>().ok()).with_context(|| text.clone())? >= 2)
}

//! Whatever step of attaching fails, and whenever the process dies, nothing stays behind.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use dunnage_net::{
    Bridging, HostPort, Kind, LeaseState, LeaseStore, Mode, Netns, NetworkConfig, PodNetwork, Protocol,
};
use world::{TestNetns, World, ip, nft, on_fresh_host, owner, subnet};

const HTTP: HostPort =
    HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };

/// Everything that a network with a bridge can have made besides.
fn on_a_bridge(config: NetworkConfig) -> NetworkConfig {
    let bridging = Bridging { checks_sources: true, isolated: true, ..Bridging::default() };
    NetworkConfig { mode: Mode::Bridged, bridging, ..config }
}

/// Attaches to a spoilt host or pod.
fn fails_and_leaves_nothing(ports: &[HostPort], spoil: impl Fn(&TestNetns) + Send + Sync, expect: &str) {
    fails_by_its_configuration(std::convert::identity, ports, spoil, expect);
}

/// First with no other pod there, then with one, and compares. The others come by what is fine.
fn fails_by_its_configuration(
    mistake: fn(NetworkConfig) -> NetworkConfig,
    ports: &[HostPort],
    spoil: impl Fn(&TestNetns) + Send + Sync,
    expect: &str,
) {
    for (others, change) in [
        (0, std::convert::identity as fn(_) -> _),
        (1, std::convert::identity),
        (0, on_a_bridge),
        (1, on_a_bridge),
    ] {
        on_fresh_host(|world| {
            let config = change(world.config());
            let mut network = PodNetwork::open(config.clone()).unwrap();
            let others: Vec<_> = (0..others).map(|i| world.pod(&mut network, &format!("other{i}"))).collect();
            let mut network = PodNetwork::open(mistake(config)).unwrap();
            let netns = world.netns("pod");
            spoil(&netns);
            let before = (world.census(), inside(&netns), network.leases().unwrap());
            let error = network.attach(&owner("pod"), &netns.0, ports).unwrap_err();
            assert!(error.to_string().contains(expect), "{error} does not say {expect:?}");
            assert_eq!((world.census(), inside(&netns), network.leases().unwrap()), before, "{error}");
            drop(others);
        });
    }
}

fn inside(netns: &TestNetns) -> (String, String) {
    // Link-local addresses come by themselves, in their own time.
    let addresses =
        || ip("-o addr").lines().filter(|line| !line.contains("fe80:")).collect::<Vec<_>>().join("\n");
    netns.0.run(|| (addresses(), ip("route"))).unwrap()
}

#[test]
fn a_link_in_the_pod_with_the_wanted_name() {
    let spoil =
        |netns: &TestNetns| netns.0.run(|| drop(ip("link add eth0 type veth peer name left"))).unwrap();
    fails_and_leaves_nothing(&[], spoil, "create veth pair dnp0a5800");
}

#[test]
fn a_route_that_is_listed_twice() {
    let twice = |config: NetworkConfig| {
        let routes = [config.routes.clone(), config.routes].concat();
        NetworkConfig { routes, ..config }
    };
    // `up` of loopback is undone by nobody: a namespace without it is of no use.
    let spoil = |netns: &TestNetns| netns.0.run(|| drop(ip("link set lo up"))).unwrap();
    fails_by_its_configuration(twice, &[], spoil, "add default route via 10.88.0.1: EEXIST");
}

#[test]
fn a_host_port_that_is_asked_for_twice() {
    fails_and_leaves_nothing(&[HTTP, HTTP], |_| {}, "host port \"8080/tcp\": is asked for twice");
}

#[test]
fn a_host_port_on_an_ipv6_address_of_a_pod_without() {
    let port = HostPort { host_ip: Some("2001:db8::1".parse().unwrap()), ..HTTP };
    fails_and_leaves_nothing(&[port], |_| {}, "the pod has none");
}

#[test]
fn a_link_with_the_name_of_the_bridge_that_is_none() {
    on_fresh_host(|world| {
        ip("link add dunnage0 type veth peer name left");
        let before = world.census();
        let netns = world.netns("pod");
        let config = NetworkConfig { mode: Mode::Bridged, ..world.config() };
        let error = PodNetwork::open(config).unwrap().attach(&owner("pod"), &netns.0, &[]).unwrap_err();
        assert_eq!(error.to_string(), "link dunnage0 exists and is not a bridge");
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(without_state_dir(world), without_state_dir_of(before));
    });
}

#[test]
fn a_table_of_the_same_name_that_is_somebody_elses() {
    on_fresh_host(|world| {
        nft("add table inet dunnage");
        let before = nft("-j list ruleset");
        let netns = world.netns("pod");
        let error = world.network().attach(&owner("pod"), &netns.0, &[]).unwrap_err();
        assert!(error.to_string().starts_with("nftables table inet dunnage exists and"), "{error}");
        assert_eq!(nft("-j list ruleset"), before);
    });
}

fn without_state_dir(world: &World) -> world::Census {
    without_state_dir_of(world.census())
}

fn without_state_dir_of(census: world::Census) -> world::Census {
    world::Census { files: Default::default(), ..census }
}

#[test]
fn a_host_port_of_another_pod() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let first = world.pod_with_ports(&mut network, "first", &[HTTP]).unwrap();
        let before = (world.census(), network.leases().unwrap());
        let other = HostPort { host_port: 8081, ..HTTP };
        let netns = world.netns("second");
        let error = network.attach(&owner("second"), &netns.0, &[other, HTTP]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("host port 8080/tcp is taken by the pod with address {}", first.ip())
        );
        assert_eq!(error.kind(), Kind::Unavailable);
        assert_eq!((world.census(), network.leases().unwrap()), before);
        network.detach(&first.owner).unwrap();
        network.attach(&owner("second"), &netns.0, &[other, HTTP]).unwrap();
    });
}

#[test]
fn a_reservation_that_a_crash_left_is_taken_over_by_its_owner() {
    on_fresh_host(|world| {
        let netns = world.netns("pod");
        let config = world.config();
        let store = LeaseStore::new(&config.state_dir, &config.name, config.ranges.clone()).unwrap();
        let left = store.lock().unwrap().reserve(&owner("pod"), netns.0.id()).unwrap();
        assert_eq!(left.state, LeaseState::Reserved);
        ip("link add dnp0a580002 type veth peer name left");
        let mut network = world.network();
        network.attach(&owner("pod"), &netns.0, &[]).unwrap();
        let leases = network.leases().unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0].state, LeaseState::Active);
        assert!(!ip("-o link").contains("left"));
    });
}

#[test]
fn another_subnet_is_taken_beside_the_one_that_pods_are_in_and_alone_once_they_are_gone() {
    on_fresh_host(|world| {
        let before = without_state_dir(world);
        let bridged = NetworkConfig { mode: Mode::Bridged, ..world.config() };
        let mut network = PodNetwork::open(bridged.clone()).unwrap();
        let pod = world.pod(&mut network, "a");
        let config = NetworkConfig { ranges: subnet("10.90.0.0/24"), ..bridged };
        let mut other = PodNetwork::open(config).unwrap();
        let netns = world.netns("b");
        assert_eq!(
            other.attach(&owner("b"), &netns.0, &[]).unwrap().addresses[0].net.to_string(),
            "10.90.0.2/24"
        );
        let bridge = ip("-o addr show dunnage0");
        assert!(bridge.contains("10.90.0.1/24") && bridge.contains("10.88.0.1/16"), "{bridge}");
        other.detach(&owner("b")).unwrap();
        // Whoever has the new configuration can detach what was attached with the old one.
        assert!(other.detach(&pod.owner).unwrap());
        assert!(other.remove_if_unused().unwrap());
        other.attach(&owner("b"), &netns.0, &[]).unwrap();
        let bridge = ip("-o addr show dunnage0");
        assert!(bridge.contains("10.90.0.1/24") && !bridge.contains("10.88.0.1"), "{bridge}");
        assert!(!nft("list set inet dunnage pods4").contains("10.88"));
        other.detach(&owner("b")).unwrap();
        assert!(network.remove_if_unused().unwrap(), "and the other way round");
        drop((pod, netns));
        wait_for_pairs_to_go();
        assert_eq!(without_state_dir(world), before);
    });
}

const STATE_DIR: &str = "DUNNAGE_TEST_STATE_DIR";
const POD_NETNS: &str = "DUNNAGE_TEST_POD_NETNS";
const BRIDGED: &str = "DUNNAGE_TEST_BRIDGED";

/// Not a test: the process that [`a_process_killed_at_any_moment_leaves_nothing_that_is_not_swept`] kills.
#[test]
#[ignore = "run by another test"]
fn child_attaches_and_detaches() {
    let Some(state_dir) = std::env::var_os(STATE_DIR).map(PathBuf::from) else { return };
    let netns = Netns::open(&PathBuf::from(std::env::var_os(POD_NETNS).unwrap())).unwrap();
    let config = world::config(state_dir);
    let bridged = std::env::var_os(BRIDGED).is_some();
    let mut network = PodNetwork::open(if bridged { on_a_bridge(config) } else { config }).unwrap();
    network.attach(&owner("pod"), &netns, &[HTTP]).unwrap();
    network.detach(&owner("pod")).unwrap();
    network.remove_if_unused().unwrap();
}

#[test]
fn a_process_killed_at_any_moment_leaves_nothing_that_is_not_swept() {
    what_a_killed_process_leaves_is_swept(false);
}

#[test]
fn a_process_killed_at_any_moment_leaves_nothing_on_a_bridge_that_is_not_swept() {
    what_a_killed_process_leaves_is_swept(true);
}

fn what_a_killed_process_leaves_is_swept(bridged: bool) {
    on_fresh_host(|world| {
        let config = if bridged { on_a_bridge(world.config()) } else { world.config() };
        let before = without_state_dir(world);
        let mut killed = 0;
        for round in 0..60u64 {
            let netns = world.netns("pod");
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_attaches_and_detaches", "--ignored"])
                .env(STATE_DIR, world.state_dir())
                .env(POD_NETNS, netns.0.path())
                .envs(bridged.then_some((BRIDGED, "1")))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(1000 + 150 * round));
            child.kill().unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            // The pod's namespace goes with its pod, and takes the link that a killed detach left detached.
            drop(netns);
            let mut network = PodNetwork::open(config.clone()).unwrap();
            let alive = network.leases().unwrap().iter().any(|lease| lease.state == LeaseState::Active);
            if alive {
                network.detach(&owner("pod")).unwrap();
            }
            assert!(network.remove_if_unused().unwrap());
            wait_for_pairs_to_go();
            // What was killed while it made the host's side, before a lease: the next pod completes and removes it.
            let next = world.pod(&mut network, "next");
            network.detach(&next.owner).unwrap();
            assert!(network.remove_if_unused().unwrap());
            drop(next);
            wait_for_pairs_to_go();
            assert_eq!(without_state_dir(world), before, "round {round}");
        }
        assert!(killed > 0, "no process was killed in time");
    });
}

fn wait_for_pairs_to_go() {
    let started = std::time::Instant::now();
    while ip("-o link").contains(": dnp") {
        assert!(started.elapsed() < world::PATIENCE, "{}", ip("-o link"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Packets: they cross where they should, as whom they should, and nowhere else.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Instant;

use dunnage_net::Netns;
use serde_json::{Value, json};
use world::{
    OUTSIDE, PATIENCE, Pod, UPLINK, World, address, heard_as, ip, merged, nft, on_fresh_host, seen_as,
};

const OUTSIDE6: &str = "2001:db8:1::2";
const UPLINK6: &str = "2001:db8:1::1";

fn dual_stack(mode: &str) -> Value {
    json!({"mode": mode, "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})
}

fn web(host_port: u16) -> Value {
    json!({"runtimeConfig": {"portMappings": [{"HostPort": host_port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]}})
}

/// As whom `from` is seen when it connects to `at`, which has to end at `to`.
fn seen(from: &Netns, to: &Netns, at: IpAddr, port: u16, listen: u16) -> IpAddr {
    let seen = seen_as(from, to, listen, SocketAddr::new(at, port));
    seen.unwrap_or_else(|error| panic!("{} to {at}: {error}", from.path().display()))
}

fn everything_reaches_everything(world: &World, mode: &str) {
    let outside = world.outside();
    let config = world.config_with(&dual_stack(mode));
    let (server, client) = (world.pod("server"), world.pod("client"));
    let served = world.add(&server, &merged(config.clone(), &web(8080)));
    let asked = world.add(&client, &config);
    let host = world.host();
    let (s4, s6, c4, c6) = (address(&served, 0), address(&served, 1), address(&asked, 0), address(&asked, 1));
    let gateway: IpAddr = "10.88.0.1".parse().unwrap();
    let (out4, out6): (IpAddr, IpAddr) = (OUTSIDE.into(), OUTSIDE6.parse().unwrap());
    let (up4, up6): (IpAddr, IpAddr) = (UPLINK.into(), UPLINK6.parse().unwrap());
    let (s, c, o) = (&server.netns, &client.netns, &outside.netns);

    assert_eq!(seen(c, s, s4, 80, 80), c4, "pod to pod");
    assert_eq!(seen(c, s, s6, 80, 80), c6, "pod to pod, IPv6");
    assert_eq!(seen(&host, s, s4, 80, 80), gateway, "host to pod");
    assert_eq!(seen(c, o, out4, 80, 80), up4, "pod to outside, masqueraded");
    assert_eq!(seen(c, o, out6, 80, 80), up6, "pod to outside, masqueraded, IPv6");
    assert_eq!(seen(o, s, up4, 8080, 80), out4, "host port, with the source kept");
    assert_eq!(seen(o, s, up6, 8080, 80), out6, "host port, IPv6");
    assert_eq!(seen(&host, s, Ipv4Addr::LOCALHOST.into(), 8080, 80), gateway, "host port by localhost");
    assert_eq!(seen(&host, s, up4, 8080, 80), up4, "host port by the host's own address");
    assert_eq!(seen(c, s, up4, 8080, 80), gateway, "host port from a pod");
    assert_eq!(seen(s, s, up4, 8080, 80), gateway, "host port from the pod itself");
    assert!(seen_as(s, s, 81, (Ipv4Addr::LOCALHOST, 81).into()).is_ok(), "loopback is up");
    world.del(&server, &config);
    let refused = seen_as(o, c, 80, (UPLINK, 8080).into()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the host port is closed");
}

#[test]
fn routed_pods_reach_each_other_the_host_and_outside_in_both_families() {
    on_fresh_host(|world| everything_reaches_everything(world, "routed"));
}

#[test]
fn bridged_pods_reach_each_other_the_host_and_outside_in_both_families() {
    on_fresh_host(|world| everything_reaches_everything(world, "bridged"));
}

fn ipv6_alone(subnet: &str) -> Value {
    json!({"ipam": {"ranges": [[{"subnet": subnet}]], "routes": [{"dst": "::/0"}]}})
}

fn ipv6_alone_reaches_everything(world: &World, mode: &str) {
    let outside = world.outside();
    let config = world.config_with(&merged(ipv6_alone("fd00:88::/64"), &json!({"mode": mode})));
    let (server, client) = (world.pod("server"), world.pod("client"));
    let served = world.add(&server, &merged(config.clone(), &web(8080)));
    let asked = world.add(&client, &config);
    let prefix = if mode == "routed" { 128 } else { 64 };
    let index = served["interfaces"].as_array().unwrap().len() - 1;
    let ips =
        json!([{"address": format!("fd00:88::2/{prefix}"), "gateway": "fd00:88::1", "interface": index}]);
    assert_eq!(served["ips"], ips);
    assert_eq!(served["routes"], json!([{"dst": "::/0"}]));
    let host = world.host();
    let (to, from) = (address(&served, 0), address(&asked, 0));
    let (gateway, out, up): (IpAddr, IpAddr, IpAddr) =
        ("fd00:88::1".parse().unwrap(), OUTSIDE6.parse().unwrap(), UPLINK6.parse().unwrap());
    let (s, c, o) = (&server.netns, &client.netns, &outside.netns);
    assert_eq!(seen(c, s, to, 80, 80), from, "pod to pod");
    assert_eq!(seen(&host, s, to, 80, 80), gateway, "host to pod");
    assert_eq!(seen(c, o, out, 80, 80), up, "pod to outside, masqueraded");
    assert_eq!(seen(o, s, up, 8080, 80), out, "host port");
    assert_eq!(seen(c, s, up, 8080, 80), gateway, "host port from a pod");
    assert!(!server.run(|| ip("-4 addr show eth0")).contains("inet "), "no IPv4");
    assert!(!ip("-4 addr").contains(" 0."), "what stands for IPv4 addresses is on no link");
    assert!(!ip("-4 route").contains("dnp") && !nft("list ruleset").contains(" 0."), "and in no rule");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(forward.trim(), "0", "IPv4 is not forwarded for it");
    let ports = json!({"runtimeConfig": {"portMappings": [{"hostPort": 81, "containerPort": 80, "hostIP": "192.0.2.1"}]}});
    let (code, msg, _) = world.run("ADD", &world.pod("v4"), &merged(config.clone(), &ports)).error();
    assert_eq!(
        (code, msg.as_str()),
        (7, "host port \"81/tcp\": is on an IPv4 address, and the pod has none")
    );
    let asks = merged(config.clone(), &json!({"runtimeConfig": {"ips": ["10.88.0.9"]}}));
    let (_, msg, _) = world.run("ADD", &world.pod("v4"), &asks).error();
    assert!(msg.contains("cannot be given, because the network has no IPv4 range"), "{msg}");
    let checked = world.run("CHECK", &client, &merged(config.clone(), &json!({"prevResult": asked})));
    assert!(checked.success, "{checked:?}");
    world.del(&server, &config);
    let refused = seen_as(o, c, 80, SocketAddr::new(up, 8080)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the host port is closed");
    let gc = merged(config, &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    let answer = world.run_alone("GC", &gc);
    assert!(
        answer.success && answer.stderr.contains("took back address fd00:88::3 of eth0 of client"),
        "{answer:?}"
    );
}

#[test]
fn routed_pods_can_have_ipv6_alone() {
    on_fresh_host(|world| ipv6_alone_reaches_everything(world, "routed"));
}

#[test]
fn bridged_pods_can_have_ipv6_alone() {
    on_fresh_host(|world| ipv6_alone_reaches_everything(world, "bridged"));
}

#[test]
fn networks_of_ipv6_alone_live_beside_each_other_and_beside_others() {
    on_fresh_host(|world| {
        let with =
            |name: &str, subnet: &str| world.config_with(&merged(ipv6_alone(subnet), &json!({"name": name})));
        let configs = [
            with("one", "fd00:1::/64"),
            with("two", "fd00:2::/64"),
            world.config_with(&json!({"name": "four"})),
        ];
        let pods: Vec<Pod> = (0..3).map(|number| world.pod(&format!("pod{number}"))).collect();
        let told: Vec<IpAddr> =
            pods.iter().zip(&configs).map(|(pod, config)| address(&world.add(pod, config), 0)).collect();
        assert_eq!(ip("-o link").matches(": dnp").count(), 3, "each has a link of its own");
        assert_eq!(seen(&pods[0].netns, &pods[1].netns, told[1], 80, 80), told[0]);
        // One goes over to both families while its pod runs.
        let both = merged(
            configs[0].clone(),
            &json!({"ipam": {"ranges": [[{"subnet": "10.91.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}}),
        );
        let next = world.pod("next");
        let result = world.add(&next, &both);
        assert_eq!(address(&result, 0).to_string(), "10.91.0.2");
        let at = address(&result, 1);
        assert_ne!(at, told[0]);
        assert_eq!(seen(&pods[0].netns, &next.netns, at, 80, 80), told[0]);
        for (pod, config) in pods.iter().zip(&configs) {
            world.del(pod, config);
        }
        world.del(&next, &both);
    });
}

#[test]
fn addresses_of_both_families_can_be_used_at_once() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config_with(&dual_stack("routed")));
        let shown = pod.run(|| ip("-6 addr show eth0"));
        let global = shown.lines().find(|line| line.contains("scope global")).unwrap();
        assert!(global.contains("fd00:88::2/128") && !global.contains("tentative"), "{shown}");
        let to = address(&result, 1);
        // While duplicates are looked for, binding to it fails.
        pod.run(|| UdpSocket::bind((to, 9))).unwrap();
    });
}

#[test]
fn packets_are_counted_where_they_pass() {
    on_fresh_host(|world| {
        let (a, b) = (world.pod("a"), world.pod("b"));
        let config = world.config();
        world.add(&a, &config);
        let to = address(&world.add(&b, &config), 0);
        nft("add table ip count");
        for command in [
            "add chain ip count forward { type filter hook forward priority 0 ; }",
            "add rule ip count forward ip saddr 10.88.0.2 ip daddr 10.88.0.3 counter",
        ] {
            assert!(Command::new("nft").arg(command).status().unwrap().success());
        }
        let receiver = b.run(|| UdpSocket::bind((to, 9)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = a.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        for _ in 0..10 {
            sender.send_to(b"x", (to, 9)).unwrap();
            receiver.recv(&mut [0; 1]).unwrap();
        }
        // Routed: even between two pods of one host each packet passes the forward hook.
        let counted = nft("list chain ip count forward");
        assert!(counted.contains("packets 10 "), "{counted}");
    });
}

#[test]
fn isolated_ports_of_a_bridge_do_not_reach_each_other() {
    on_fresh_host(|world| {
        let config = world.config_with(&json!({"portIsolation": true, "hairpinMode": false}));
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.add(&a, &config);
        let result = world.add(&b, &config);
        assert_eq!(result["interfaces"][0]["name"], "cni0", "it is a matter of bridges");
        let link = ip("-d link show dnp0a580003");
        assert!(link.contains("isolated on") && link.contains("hairpin off"), "{link}");
        let to = address(&result, 0);
        let host = world.host();
        assert!(seen_as(&host, &b.netns, 80, (to, 80).into()).is_ok(), "the host reaches it");
        let sender = a.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        let receiver = b.run(|| UdpSocket::bind((to, 9)).unwrap());
        // Nobody answers for the address, so that sending fails or the packet waits for ever.
        let _ = sender.send_to(b"x", (to, 9));
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        assert!(receiver.recv(&mut [0; 1]).is_err());
        assert!(pod_knows_nobody(&a));
    });
}

fn pod_knows_nobody(pod: &Pod) -> bool {
    !pod.run(|| ip("neigh show 10.88.0.3")).contains("lladdr")
}

#[test]
fn a_bridge_has_the_mtu_the_stable_address_and_the_options_it_is_asked_for() {
    on_fresh_host(|world| {
        let options = json!({"mode": "bridged", "mtu": 1400, "promiscMode": true});
        let pods: Vec<Pod> = (0..3).map(|number| world.pod(&format!("pod{number}"))).collect();
        let mac = || ip("link show cni0").split("link/ether ").nth(1).unwrap()[..17].to_owned();
        let mut macs = Vec::new();
        for pod in &pods {
            world.add(pod, &world.config_with(&options));
            macs.push(mac());
            assert!(pod.run(|| ip("link show eth0")).contains("mtu 1400"));
        }
        for pod in &pods {
            world.del(pod, &world.config_with(&options));
            macs.push(mac());
        }
        macs.dedup();
        assert_eq!(macs, ["d6:d0:0a:58:00:01"]);
        let bridge = ip("link show cni0");
        assert!(bridge.contains("PROMISC") && bridge.contains("mtu 1400"), "{bridge}");
    });
}

/// What the port of the pod is in, or nothing when it was refused by the name of what the kernel lacks.
fn vlans_of(world: &World, pod: &Pod, config: &Value) -> Option<(Value, String)> {
    let before = world.census();
    let answer = world.run("ADD", pod, config);
    if answer.success {
        let port = answer.json["interfaces"][1]["name"].as_str().unwrap();
        let vlans = world::run("bridge", &format!("vlan show dev {port}"));
        return Some((answer.json, vlans));
    }
    let (code, msg, _) = answer.error();
    assert!(code == 100 && msg.contains("BRIDGE_VLAN_FILTERING"), "{msg}");
    let mut after = world.census();
    after.files.clear();
    assert_eq!(after, before);
    None
}

#[test]
fn a_vlan_is_made_or_refused_by_the_name_of_what_the_kernel_lacks() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let config = world.config_with(&json!({"vlan": 7}));
        let Some((result, vlans)) = vlans_of(world, &pod, &config) else { return };
        assert!(vlans.contains("7 PVID Egress Untagged") && vlans.contains("1 Egress Untagged"), "{vlans}");
        assert!(ip("addr show cni0.7").contains("10.88.0.1/16"));
        assert!(seen_as(&world.host(), &pod.netns, 80, (address(&result, 0), 80).into()).is_ok());
        let other = world.pod("other");
        let config = merged(config, &json!({"preserveDefaultVlan": false}));
        let (_, vlans) = vlans_of(world, &other, &config).unwrap();
        assert!(vlans.contains("7 PVID Egress Untagged") && !vlans.contains("1 Egress Untagged"), "{vlans}");
    });
}

#[test]
fn a_trunk_is_made_or_refused_by_the_name_of_what_the_kernel_lacks() {
    on_fresh_host(|world| {
        let config = json!({"name": "net", "type": "dunnage-cni", "cniVersion": "1.0.0", "bridge": "cni0",
            "stateDir": world.path("state"), "vlanTrunk": [{"id": 7}, {"minID": 20, "maxID": 22}]});
        let pod = world.pod("pod");
        let Some((result, vlans)) = vlans_of(world, &pod, &config) else { return };
        assert!(vlans.contains("1 PVID Egress Untagged"), "{vlans}");
        let numbers = |vlans: &str| -> Vec<u16> {
            vlans.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        assert_eq!(numbers(&vlans), [1, 7, 20, 21, 22]);
        let check = merged(config.clone(), &json!({"prevResult": result}));
        assert!(world.run("CHECK", &pod, &check).success);
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        world::run("bridge", &format!("vlan del vid 21 dev {port}"));
        let (code, _, details) = world.run("CHECK", &pod, &check).error();
        assert_eq!((code, details), (103, format!("link {port} is not in VLAN 21")));
        let other = world.pod("other");
        let config = merged(config, &json!({"preserveDefaultVlan": false, "vlan": 9}));
        let (_, vlans) = vlans_of(world, &other, &config).unwrap();
        assert_eq!(numbers(&vlans), [7, 9, 20, 21, 22]);
        assert!(vlans.contains("9 PVID Egress Untagged"), "{vlans}");
    });
}

#[test]
fn host_ports_of_all_protocols_lead_to_the_pod_and_not_to_two() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let ports = json!({"runtimeConfig": {"portMappings": [
            {"HostPort": 5353, "ContainerPort": 53, "Protocol": "udp", "HostIP": ""},
            {"HostPort": 5353, "ContainerPort": 53, "Protocol": "tcp", "HostIP": ""},
            {"HostPort": 5353, "ContainerPort": 53, "Protocol": "sctp", "HostIP": ""},
            {"HostPort": 80, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "192.0.2.1"}]}});
        let pod = world.pod("pod");
        let to = address(&world.add(&pod, &world.config_with(&ports)), 0);
        let server = pod.run(|| UdpSocket::bind((to, 53)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = outside.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        client.send_to(b"question", (UPLINK, 5353)).unwrap();
        let mut buffer = [0; 16];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), IpAddr::from(OUTSIDE));
        assert_eq!(seen(&outside.netns, &pod.netns, UPLINK.into(), 5353, 53), IpAddr::from(OUTSIDE));
        assert_eq!(seen(&outside.netns, &pod.netns, UPLINK.into(), 80, 80), IpAddr::from(OUTSIDE));
        assert!(nft("-n list map inet dunnage hp4").contains("132 . 5353 : 10.88.0.2 . 53"), "sctp");
        let other = world.pod("other");
        let (code, msg, _) = world.run("ADD", &other, &world.config_with(&ports)).error();
        assert_eq!(
            (code, msg.as_str()),
            (102, "host port 5353/udp is taken by the pod with address 10.88.0.2")
        );
        assert!(!other.run(|| ip("-o link")).contains("eth0"));
    });
}

#[test]
fn host_ports_of_pods_that_run_come_back_with_the_next_pod_after_a_flush() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let (first, second) = (world.pod("first"), world.pod("second"));
        world.add(&first, &world.config_with(&web(8080)));
        nft("flush ruleset");
        let (code, ..) = world.run("ADD", &second, &world.config_with(&web(8080))).error();
        assert_eq!(code, 102, "the port is the first pod's, flushed or not");
        world.add(&second, &world.config());
        assert_eq!(seen(&outside.netns, &first.netns, UPLINK.into(), 8080, 80), IpAddr::from(OUTSIDE));
    });
}

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));

/// Port 8080 of the host, of both protocols.
fn open_8080(keys: &Value) -> Value {
    let port =
        |protocol: &str| json!({"HostPort": 8080, "ContainerPort": 80, "Protocol": protocol, "HostIP": ""});
    merged(json!({"runtimeConfig": {"portMappings": [port("tcp"), port("udp")]}}), keys)
}

/// What a pod is asked for that the table says besides its ports.
fn in_sets_of_their_own() -> usize {
    let sets = ["hpmasq4", "hpmasq6", "hpkeep4", "hpkeep6"];
    sets.iter()
        .map(|set| nft(&format!("list set inet dunnage {set}")))
        .filter(|set| set.contains("elements"))
        .count()
}

fn with_masq_all_pods_see_the_host(world: &World, mode: &str) {
    let outside = world.outside();
    let config = world.config_with(&dual_stack(mode));
    let (server, client) = (world.pod("server"), world.pod("client"));
    let all = merged(config.clone(), &open_8080(&json!({"masqAll": true})));
    let served = world.add(&server, &all);
    let other = merged(config.clone(), &web(8081));
    let from = address(&world.add(&client, &other), 0);
    let gateway6: IpAddr = "fd00:88::1".parse().unwrap();
    let (up4, up6): (IpAddr, IpAddr) = (UPLINK.into(), UPLINK6.parse().unwrap());
    let (s, c, o, host) = (&server.netns, &client.netns, &outside.netns, world.host());
    assert_eq!(seen(o, s, up4, 8080, 80), GATEWAY, "from outside");
    assert_eq!(seen(o, s, up6, 8080, 80), gateway6, "from outside, IPv6");
    assert_eq!(seen(&host, s, Ipv4Addr::LOCALHOST.into(), 8080, 80), GATEWAY, "from localhost");
    assert_eq!(seen(&host, s, up4, 8080, 80), GATEWAY, "from the host's own address");
    assert_eq!(seen(c, s, up4, 8080, 80), GATEWAY, "from a pod");
    assert_eq!(seen(s, s, up4, 8080, 80), GATEWAY, "from the pod itself");
    assert_eq!(seen(c, s, address(&served, 0), 80, 80), from, "who comes by no host port is seen as itself");
    assert_eq!(seen(o, c, up4, 8081, 80), IpAddr::from(OUTSIDE), "and so is who asks another pod");
    assert_eq!(in_sets_of_their_own(), 2);
    nft("flush ruleset");
    world.add(&world.pod("next"), &config);
    assert_eq!(seen(o, s, up4, 8080, 80), GATEWAY, "after a flush and the next pod");
    let check = merged(all.clone(), &json!({"prevResult": served}));
    assert!(world.run("CHECK", &server, &check).success);
    nft("flush set inet dunnage hpmasq4");
    let (code, _, details) = world.run("CHECK", &server, &check).error();
    assert_eq!((code, details.as_str()), (103, "10.88.0.2 is not in nftables set hpmasq4"));
    world.del(&server, &all);
    assert_eq!(in_sets_of_their_own(), 0);
    // The same address, for a pod that does not ask for it.
    let same = json!({"runtimeConfig": {"ips": ["10.88.0.2"]}});
    let heir = world.pod("heir");
    world.add(&heir, &merged(merged(config, &open_8080(&json!({}))), &same));
    assert_eq!(seen(o, &heir.netns, up4, 8080, 80), IpAddr::from(OUTSIDE));
}

#[test]
fn routed_pods_see_the_host_by_host_ports_with_masq_all() {
    on_fresh_host(|world| with_masq_all_pods_see_the_host(world, "routed"));
}

#[test]
fn bridged_pods_see_the_host_by_host_ports_with_masq_all() {
    on_fresh_host(|world| with_masq_all_pods_see_the_host(world, "bridged"));
}

fn without_snat_pods_see_everybody(world: &World, mode: &str) {
    let outside = world.outside();
    // masqAll counts only with snat.
    let keys = json!({"snat": false, "masqAll": true});
    let config = world.config_with(&dual_stack(mode));
    let (server, client) = (world.pod("server"), world.pod("client"));
    world.add(&server, &merged(config.clone(), &open_8080(&keys)));
    let asked = world.add(&client, &config);
    let (c4, c6) = (address(&asked, 0), address(&asked, 1));
    let (s, c, o, host) = (&server.netns, &client.netns, &outside.netns, world.host());
    let up4 = (UPLINK, 8080).into();
    let up6 = SocketAddr::new(UPLINK6.parse().unwrap(), 8080);
    let heard = |from: &Netns, at: SocketAddr, expected: Option<IpAddr>, who: &str| {
        assert_eq!(heard_as(from, s, 80, at, expected), expected, "{who}");
    };
    heard(o, up4, Some(OUTSIDE.into()), "from outside");
    heard(c, up4, Some(c4), "from a pod");
    heard(c, up6, Some(c6), "from a pod, IPv6");
    heard(s, up4, None, "from the pod itself, which takes nothing from its own address");
    heard(&host, (Ipv4Addr::LOCALHOST, 8080).into(), None, "from localhost");
    heard(&host, up4, Some(UPLINK.into()), "from the host's own address");
    if mode == "routed" {
        assert_eq!(
            seen(c, s, UPLINK.into(), 8080, 80),
            c4,
            "answers of routed pods pass the host, so they find back"
        );
        let localnet = std::fs::read_to_string("/proc/sys/net/ipv4/conf/dnp0a580002/route_localnet").unwrap();
        assert_eq!(localnet.trim(), "0");
    }
    assert_eq!(in_sets_of_their_own(), 2);
    // Whose pod is gone without a DEL is no longer in a set, either.
    drop(server);
    world.wait_for_links_to_go("dnp0a580002");
    // Nor is an address that nobody has, whoever put it there.
    nft("add element inet dunnage hpmasq4 { 10.88.7.7 }");
    let gc = merged(config, &json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    assert!(world.run_alone("GC", &gc).success);
    assert_eq!(in_sets_of_their_own(), 0);
}

#[test]
fn routed_pods_see_everybody_by_host_ports_without_snat() {
    on_fresh_host(|world| without_snat_pods_see_everybody(world, "routed"));
}

#[test]
fn bridged_pods_see_everybody_by_host_ports_without_snat() {
    on_fresh_host(|world| without_snat_pods_see_everybody(world, "bridged"));
}

#[test]
fn a_pod_whose_namespace_belongs_to_another_user_namespace_is_attached() {
    on_fresh_host(|world| {
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has answered, so it is where it belongs.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"x").unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        let netns = Netns::open(path.as_ref()).unwrap();
        let variables: Vec<(String, String)> =
            [("CNI_CONTAINERID", "pod"), ("CNI_NETNS", &path), ("CNI_IFNAME", "eth0")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec();
        let config = world.config_with(&merged(
            dual_stack("routed"),
            &json!({"sysctl": {"net.ipv4.ping_group_range": "0 1"}}),
        ));
        let result = world.run_program(world::PLUGIN.as_ref(), "ADD", &variables, &config).ok();
        for number in 0..2 {
            let to = address(&result, number);
            assert!(seen_as(&world.host(), &netns, 80, (to, 80).into()).is_ok(), "{to}");
        }
        assert!(world.run_program(world::PLUGIN.as_ref(), "DEL", &variables, &config).success);
        drop((stdin, netns));
        child.wait().unwrap();
    });
}

/// Bytes that are received in the time it takes to send them all.
fn rate(from: &Netns, to: &Netns, at: IpAddr, bytes: usize) -> f64 {
    let listener = to.run(|| TcpListener::bind((at, 7)).unwrap()).unwrap();
    let mut client = from.run(|| TcpStream::connect((at, 7)).unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || client.write_all(&vec![0; bytes]).unwrap());
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), bytes);
    });
    bytes as f64 / started.elapsed().as_secs_f64()
}

#[test]
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn bandwidth_is_limited_both_ways_and_the_absurd_burst_of_containerd_is_not_taken() {
    on_fresh_host(|world| {
        // 2 MB/s towards the pod, 1 MB/s from it.
        let limits = json!({"runtimeConfig": {"bandwidth": {"IngressRate": 16_000_000, "IngressBurst": 4_294_967_295u64,
            "EgressRate": 8_000_000, "EgressBurst": 4_294_967_295u64}}});
        let (slow, fast) = (world.pod("slow"), world.pod("fast"));
        let to_slow = address(&world.add(&slow, &world.config_with(&limits)), 0);
        let to_fast = address(&world.add(&fast, &world.config()), 0);
        // A limit is one from above, so a busy machine can only be slower; the bucket's content comes on top.
        assert!(rate(&fast.netns, &slow.netns, to_slow, 1_000_000) < 2.4e6);
        assert!(rate(&slow.netns, &fast.netns, to_fast, 600_000) < 1.4e6);
        assert!(ip("-d link show dnp0a580002").contains("tbf"));
        let (code, msg, _) =
            world.run("ADD", &world.pod("none"), &world.config_with(&json!({"ingressRate": 3}))).error();
        assert_eq!((code, msg.as_str()), (7, "ingressRate is below a byte a second"));
    });
}

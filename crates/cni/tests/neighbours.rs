//! Beside others who have rules in the same kernel: kube-proxy in both its ways, Docker, firewalld, the reference
//! plugin `firewall`. Their rules are made with the tools that they use, and as they make them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dunnage_net::Netns;
use serde_json::{Value, json};
use world::{
    OUTSIDE, Pod, REFERENCE_DIR, UPLINK, World, address, ip, merged, nft, on_fresh_host, run, seen_as,
};

/// Of a service, which no link has.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));

fn iptables(rules: &str) {
    for rule in rules.lines().map(str::trim).filter(|rule| !rule.is_empty()) {
        run("iptables-nft", rule);
    }
}

fn load(ruleset: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{ruleset}");
}

/// As whom `from` is seen when it connects to `at`, which has to end at port `listen` of `to`.
fn seen(from: &Netns, to: &Netns, at: (IpAddr, u16), listen: u16) -> IpAddr {
    let seen = seen_as(from, to, listen, at.into());
    seen.unwrap_or_else(|error| panic!("{} to {at:?}: {error}", from.path().display()))
}

fn web(config: &Value, host_port: u16) -> Value {
    let ports = json!([{"HostPort": host_port, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    merged(config.clone(), &json!({"runtimeConfig": {"portMappings": ports}}))
}

/// A service on 10.96.0.10:80 and node port 30080 with one pod, which has host port 80 besides.
fn services_and_host_ports_do_not_disturb_each_other(world: &World, mode: &str, proxy: impl Fn()) {
    let outside = world.outside();
    ip("route add default via 192.0.2.2");
    let config = world.config_with(&json!({"mode": mode}));
    let (server, client) = (world.pod("server"), world.pod("client"));
    assert_eq!(address(&world.add(&server, &web(&config, 80)), 0).to_string(), "10.88.0.2");
    let from = address(&world.add(&client, &config), 0);
    proxy();
    let (s, c, o, h) = (&server.netns, &client.netns, &outside.netns, world.host());
    assert_eq!(seen(c, s, (VIP, 80), 80), from, "a service: the pod sees who asks");
    assert_eq!(seen(s, s, (VIP, 80), 80), GATEWAY, "a pod by its own service");
    assert_eq!(seen(&h, s, (VIP, 80), 80), GATEWAY, "the host by the service");
    assert_eq!(seen(o, s, (UPLINK.into(), 30080), 80), GATEWAY, "node port");
    assert_eq!(seen(o, s, (UPLINK.into(), 80), 80), IpAddr::from(OUTSIDE), "host port, with the source kept");
    assert_eq!(seen(c, s, (UPLINK.into(), 80), 80), GATEWAY, "host port from a pod");
    assert_eq!(seen(s, s, (UPLINK.into(), 80), 80), GATEWAY, "host port from the pod itself");
    assert_eq!(seen(&h, s, (Ipv4Addr::LOCALHOST.into(), 80), 80), GATEWAY, "host port by localhost");
    assert_eq!(seen(c, o, (OUTSIDE.into(), 80), 80), IpAddr::from(UPLINK), "outside, masqueraded");
}

const ASIDE: &str = "not on this machine: without br_netfilter pods on a bridge have no services";

/// Whether frames inside a bridge pass the rules for IP. Otherwise a pod's answer to its neighbour does not pass the
/// host, which would have to say that it is the service's.
fn bridges_pass_rules() -> bool {
    Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

/// What kube-proxy makes in its iptables mode, of one service.
fn kube_proxy_by_iptables() {
    iptables(
        "-t nat -N KUBE-SERVICES
        -t nat -N KUBE-NODEPORTS
        -t nat -N KUBE-POSTROUTING
        -t nat -N KUBE-MARK-MASQ
        -t nat -N KUBE-SVC-A
        -t nat -N KUBE-SEP-A
        -t nat -N KUBE-EXT-A
        -t nat -I PREROUTING -j KUBE-SERVICES
        -t nat -I OUTPUT -j KUBE-SERVICES
        -t nat -I POSTROUTING -j KUBE-POSTROUTING
        -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
        -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
        -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully
        -t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-A
        -t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
        -t nat -A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT-A
        -t nat -A KUBE-EXT-A -j KUBE-MARK-MASQ
        -t nat -A KUBE-EXT-A -j KUBE-SVC-A
        -t nat -A KUBE-SVC-A ! -s 10.88.0.0/16 -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-MARK-MASQ
        -t nat -A KUBE-SVC-A -j KUBE-SEP-A
        -t nat -A KUBE-SEP-A -s 10.88.0.2/32 -j KUBE-MARK-MASQ
        -t nat -A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.88.0.2:80
        -N KUBE-FORWARD
        -I FORWARD -j KUBE-FORWARD
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
        -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
}

/// What kube-proxy makes in its nftables mode, of one service.
fn kube_proxy_by_nftables() {
    load(
        "table ip kube-proxy {
            map service-ips {
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = { 10.96.0.10 . tcp . 80 : goto service-A }
            }
            map service-nodeports {
                type inet_proto . inet_service : verdict
                elements = { tcp . 30080 : goto external-A }
            }
            chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
            chain nat-output { type nat hook output priority -100; jump services; }
            chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
            chain services {
                ip daddr . meta l4proto . th dport vmap @service-ips
                fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
            }
            chain mark-for-masquerade { mark set mark or 0x4000; }
            chain masquerading {
                mark and 0x4000 == 0 return
                mark set mark xor 0x4000
                masquerade fully-random
            }
            chain external-A { jump mark-for-masquerade; goto service-A; }
            chain service-A {
                ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.88.0.0/16 jump mark-for-masquerade
                goto endpoint-A
            }
            chain endpoint-A {
                ip saddr 10.88.0.2 jump mark-for-masquerade
                meta l4proto tcp dnat to 10.88.0.2:80
            }
        }",
    );
}

#[test]
fn routed_pods_live_with_kube_proxy_by_iptables() {
    on_fresh_host(|world| {
        services_and_host_ports_do_not_disturb_each_other(world, "routed", kube_proxy_by_iptables);
    });
}

#[test]
fn bridged_pods_live_with_kube_proxy_by_iptables() {
    if !bridges_pass_rules() {
        println!("{ASIDE}");
        return;
    }
    on_fresh_host(|world| {
        services_and_host_ports_do_not_disturb_each_other(world, "bridged", kube_proxy_by_iptables);
    });
}

#[test]
fn routed_pods_live_with_kube_proxy_by_nftables() {
    on_fresh_host(|world| {
        services_and_host_ports_do_not_disturb_each_other(world, "routed", kube_proxy_by_nftables);
    });
}

#[test]
fn bridged_pods_live_with_kube_proxy_by_nftables() {
    if !bridges_pass_rules() {
        println!("{ASIDE}");
        return;
    }
    on_fresh_host(|world| {
        services_and_host_ports_do_not_disturb_each_other(world, "bridged", kube_proxy_by_nftables);
    });
}

/// A pod with host port 8080, an outside, and what the first ADD has said.
fn behind_a_firewall(world: &World, firewall: impl Fn()) -> (Pod, Pod, String) {
    let outside = world.outside();
    firewall();
    let pod = world.pod("pod");
    let answer = world.run("ADD", &pod, &web(&world.config(), 8080));
    assert!(answer.success, "{answer:?}");
    (outside, pod, answer.stderr)
}

fn passes(outside: &Pod, pod: &Pod) {
    assert_eq!(seen(&pod.netns, &outside.netns, (OUTSIDE.into(), 80), 80), IpAddr::from(UPLINK));
    assert_eq!(seen(&outside.netns, &pod.netns, (UPLINK.into(), 8080), 80), IpAddr::from(OUTSIDE));
}

/// Docker 28 without containers.
fn docker() {
    iptables(
        "-N DOCKER-USER
        -N DOCKER-FORWARD
        -A FORWARD -j DOCKER-USER
        -A FORWARD -j DOCKER-FORWARD
        -P FORWARD DROP
        -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        -A DOCKER-FORWARD -i docker0 -j ACCEPT
        -t nat -N DOCKER
        -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
        -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    );
}

#[test]
fn docker_s_forward_chain_is_named_and_two_rules_let_pods_pass() {
    on_fresh_host(|world| {
        let (outside, pod, said) = behind_a_firewall(world, docker);
        assert!(said.contains("nftables chain ip filter FORWARD drops"), "{said}");
        iptables("-I DOCKER-USER -i dnp+ -j ACCEPT\n-I DOCKER-USER -o dnp+ -j ACCEPT");
        passes(&outside, &pod);
        assert!(run("iptables-nft", "-S DOCKER-USER").contains("dnp+"), "iptables can still read its table");
    });
}

#[test]
fn with_its_own_entry_in_the_place_of_firewall_pods_pass_docker_s_forward_chain() {
    on_fresh_host(|world| {
        let (outside, pod, _) = behind_a_firewall(world, docker);
        let told = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.2/16"}]});
        let entry = json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni",
            "stateDir": world.path("state"), "prevResult": told});
        world.add(&pod, &entry);
        passes(&outside, &pod);
        let rules = run("iptables-nft", "-S FORWARD");
        assert!(rules.find("-i dnp+").unwrap() < rules.find("-j DOCKER-USER").unwrap(), "{rules}");
        world.del(&pod, &entry);
        assert!(!run("iptables-nft", "-S FORWARD").contains("dunnage"));
    });
}

#[test]
fn firewalld_is_named_and_a_trusted_source_lets_pods_pass() {
    on_fresh_host(|world| {
        let firewalld = || {
            load(
                "table inet firewalld {
                    chain filter_FORWARD {
                        type filter hook forward priority filter + 10; policy accept;
                        ct state { established, related } accept
                        ct status dnat accept
                        iifname lo accept
                        ct state invalid drop
                        jump filter_FORWARD_ZONES
                        reject with icmpx admin-prohibited
                    }
                    chain filter_FORWARD_ZONES {}
                }",
            );
        };
        let (outside, pod, said) = behind_a_firewall(world, firewalld);
        assert!(said.contains("nftables chain inet firewalld filter_FORWARD drops"), "{said}");
        // Of `firewall-cmd --zone=trusted --add-source=10.88.0.0/16`.
        nft("add rule inet firewalld filter_FORWARD_ZONES ip saddr 10.88.0.0/16 accept");
        passes(&outside, &pod);
    });
}

#[test]
fn the_reference_s_firewall_plugin_opens_dockers_chain_behind_this_one() {
    on_fresh_host(|world| {
        let plugin = Path::new(REFERENCE_DIR).join("firewall");
        assert!(plugin.exists(), "{} is missing: install containernetworking-plugins", plugin.display());
        let outside = world.outside();
        docker();
        let pod = world.pod("pod");
        let result = world.add(&pod, &web(&world.config(), 8080));
        let firewall = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": "iptables", "prevResult": result});
        let told = world.run_program(&plugin, "ADD", &pod.variables(), &firewall).ok();
        assert_eq!(told["ips"], result["ips"]);
        assert_eq!(seen(&pod.netns, &outside.netns, (OUTSIDE.into(), 80), 80), IpAddr::from(UPLINK));
        let from_outside = || TcpStream::connect_timeout(&(UPLINK, 8080).into(), Duration::from_millis(300));
        let dropped = outside.run(from_outside).unwrap_err();
        assert_eq!(dropped.kind(), std::io::ErrorKind::TimedOut, "it lets nobody in who was not asked");
        assert!(world.run_program(&plugin, "DEL", &pod.variables(), &firewall).success);
        world.del(&pod, &world.config());
    });
}

#[test]
fn a_table_of_an_older_version_is_replaced_and_host_ports_stay() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let (first, second) = (world.pod("first"), world.pod("second"));
        world.add(&first, &web(&world.config(), 8080));
        let now = nft("list table inet dunnage");
        nft("delete table inet dunnage");
        load(
            "table inet dunnage { comment \"dunnage pod networks, layout 2\"; set pods4 { type ipv4_addr; flags interval; }; }",
        );
        world.add(&second, &world.config());
        assert_eq!(nft("list table inet dunnage"), now);
        // One that has all that a pod's own elements need, but is of another number.
        let third = world.pod("third");
        let (before, rest) = now.split_once("\tset layout6 {").unwrap();
        let older = before.replace("layout 6", "layout 5") + rest.split_once("\t}\n").unwrap().1;
        nft("delete table inet dunnage");
        load(&older);
        world.add(&third, &world.config());
        assert_eq!(nft("list table inet dunnage"), now);
        assert_eq!(seen(&outside.netns, &first.netns, (UPLINK.into(), 8080), 80), IpAddr::from(OUTSIDE));
        assert!(ip("-o link").contains("dnp"));
    });
}

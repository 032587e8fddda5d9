//! CHECK: what was tampered with is told, and a pod that nobody touched passes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use serde_json::{Value, json};
use world::{Pod, World, ip, merged, nft, on_fresh_host};

fn check(world: &World, pod: &Pod, config: &Value, result: &Value) -> world::Answer {
    world.run("CHECK", pod, &merged(config.clone(), &json!({"prevResult": result})))
}

/// Runs a command inside the pod or on the host, with what the pod was given in place of words in capitals.
fn tamper_with(pod: &Pod, result: &Value, inside: bool, command: &str) {
    let interfaces = result["interfaces"].as_array().unwrap();
    let [.., host_end, pod_end] = &interfaces[..] else { panic!("{result}") };
    let address = world::address(result, 0).to_string();
    let command = command
        .replace("HOST", host_end["name"].as_str().unwrap())
        .replace("MAC", pod_end["mac"].as_str().unwrap())
        .replace("ADDRESS", &address);
    let (program, arguments) = command.split_once(' ').unwrap();
    if inside {
        pod.run(|| world::run(program, arguments));
    } else {
        world::run(program, arguments);
    }
}

#[test]
fn check_notices_what_was_tampered_with() {
    on_fresh_host(|world| {
        let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        for mode in ["routed", "bridged"] {
            let config = world.config_with(&json!({"mode": mode, "mtu": 1400, "runtimeConfig": ports,
                "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
                         "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}));
            let mut tampering: Vec<(&str, bool, &str)> = vec![
                ("ip link set eth0 down", true, "interface eth0 of the pod is down"),
                ("ip addr flush dev eth0 scope global", true, "is gone from eth0 of the pod"),
                ("ip route del default", true, "route to 0.0.0.0/0 is gone from the pod"),
                ("ip link set eth0 mtu 1300", true, "interface eth0 of the pod has another MTU"),
                ("ip link set eth0 address 02:00:00:00:00:09", true, "has another link-layer address"),
                ("ip link set lo down", true, "loopback is down in the pod"),
                ("ip link del HOST", false, "of the host is gone"),
                ("nft flush map inet dunnage hp4", false, "host port 8080/tcp does not lead to the pod"),
                ("nft delete table inet dunnage", false, "nftables table inet dunnage is gone"),
                ("sysctl -qw net.ipv4.ip_forward=0", false, "/proc/sys/net/ipv4/ip_forward is 0"),
                ("sysctl -qw net.ipv6.conf.all.forwarding=0", false, "ipv6/conf/all/forwarding is 0"),
            ];
            tampering.extend(match mode {
                "routed" => vec![
                    (
                        "sysctl -qw net.ipv4.conf.HOST.route_localnet=0",
                        false,
                        "host ports on 127.0.0.1 lead nowhere: /proc/sys/net/ipv4/conf/dnp",
                    ),
                    ("ip route flush dev HOST", false, "the host's route to 10.88.0."),
                    ("ip addr del 10.88.0.1/32 dev lo", false, "the pod's gateway, is gone from lo"),
                    (
                        "ip route del unreachable 10.88.0.0/16",
                        false,
                        "unreachable route to 10.88.0.0/16 is gone",
                    ),
                    (
                        "ip -6 route del unreachable fd00:88::/64 metric 4294967295",
                        false,
                        "route to fd00:88::/64 is gone",
                    ),
                    ("ip neigh del ADDRESS dev HOST", false, "the host's permanent neighbour 10.88.0."),
                    (
                        "ip neigh replace ADDRESS lladdr 02:00:00:00:00:09 dev HOST nud permanent",
                        false,
                        "neighbour 10.88.0.",
                    ),
                    (
                        "ip neigh replace ADDRESS lladdr MAC dev HOST nud reachable",
                        false,
                        "neighbour 10.88.0.",
                    ),
                    (
                        "ip -6 neigh flush dev HOST nud permanent",
                        false,
                        "the host's permanent neighbour fd00:88::",
                    ),
                    (
                        "ip neigh del 10.88.0.1 dev eth0",
                        true,
                        "the pod's permanent neighbour 10.88.0.1 with de:d0:0a:58:",
                    ),
                    (
                        "ip -6 neigh del fd00:88::1 dev eth0",
                        true,
                        "the pod's permanent neighbour fd00:88::1 with",
                    ),
                ],
                _ => vec![
                    ("ip link set HOST nomaster", false, "is not a port of bridge cni0"),
                    ("ip link set cni0 down", false, "bridge cni0 is down"),
                    ("ip addr del 10.88.0.1/16 dev cni0", false, "the pod's gateway, is gone from cni0"),
                    // Last, because nobody puts it back.
                    (
                        "sysctl -qw net.ipv4.conf.cni0.route_localnet=0",
                        false,
                        "host ports on 127.0.0.1 lead nowhere: /proc/sys/net/ipv4/conf/cni0/route_localnet is 0",
                    ),
                ],
            });
            for (number, (tamper, inside, says)) in tampering.into_iter().enumerate() {
                let pod = world.pod(&format!("{mode}{number}"));
                let result = world.add(&pod, &config);
                assert!(check(world, &pod, &config, &result).ok().is_null(), "{mode}");
                tamper_with(&pod, &result, inside, tamper);
                let (code, _, details) = check(world, &pod, &config, &result).error();
                assert!(code == 103 && details.contains(says), "{mode}, {tamper}: {details}");
                world.del(&pod, &config);
            }
            nft("flush ruleset");
        }
    });
}

#[test]
fn check_notices_limits_isolation_and_rules_that_were_taken_away() {
    on_fresh_host(|world| {
        let rate = 8_000_000;
        let config = world.config_with(&json!({"portIsolation": true,
            "ingressRate": rate, "ingressBurst": rate, "egressRate": rate, "egressBurst": rate}));
        let pod = world.pod("pod");
        let result = world.add(&pod, &config);
        let differs = || check(world, &pod, &config, &result).error().2;
        assert!(check(world, &pod, &config, &result).ok().is_null());
        world::run("tc", "qdisc change dev dnp0a580002 root tbf rate 9mbit burst 64kb latency 25ms");
        assert_eq!(differs(), "link dnp0a580002 of the host limits bandwidth to another rate");
        world::run("tc", "qdisc del dev dnp0a580002 root");
        assert_eq!(differs(), "link dnp0a580002 of the host does not limit bandwidth");
        pod.run(|| world::run("tc", "qdisc del dev eth0 root"));
        assert!(differs().contains("interface eth0 of the pod does not limit bandwidth"));
        ip("link set dnp0a580002 type bridge_slave isolated off");
        assert!(differs().contains("link dnp0a580002 is not isolated from other ports"));
        nft("flush chain inet dunnage from_pod");
        assert!(differs().contains("nftables table inet dunnage has lost rules"));
        nft("delete table inet dunnage");
        let next = world.pod("next");
        let result = world.add(&next, &config);
        assert!(check(world, &next, &config, &result).ok().is_null());
    });
}

#[test]
fn check_compares_with_what_was_told() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let (code, msg, _) = world.run("CHECK", &pod, &world.config()).error();
        assert_eq!((code, msg.as_str()), (7, "prevResult is missing"));
        let mut other = result.clone();
        other["ips"][0]["address"] = "10.88.0.99/32".into();
        let (code, _, details) = check(world, &pod, &world.config(), &other).error();
        assert_eq!((code, details.as_str()), (103, "prevResult does not have address 10.88.0.2/32 on eth0"));
        let old = world.config_with(&json!({"cniVersion": "0.3.1"}));
        assert_eq!(check(world, &pod, &old, &result).error().0, 1);
        // Plugins behind this one add what they like.
        let mut more = result;
        more["interfaces"].as_array_mut().unwrap().push(json!({"name": "ifb0"}));
        more["ips"].as_array_mut().unwrap().push(json!({"address": "192.0.2.7/24"}));
        check(world, &pod, &world.config(), &more).ok();
    });
}

#[test]
fn check_notices_what_a_port_of_a_bridge_has_lost() {
    on_fresh_host(|world| {
        for (keys, tamper, says) in [
            (
                json!({"hairpinMode": true}),
                "ip link set HOST type bridge_slave hairpin off",
                "link HOST does not let frames leave by the port they came from (hairpin)",
            ),
            (
                json!({"promiscMode": true}),
                "ip link set cni0 promisc off",
                "bridge cni0 does not receive every frame",
            ),
            (
                json!({"macspoofchk": true}),
                "bridge fdb del MAC dev HOST master",
                "bridge cni0 does not keep MAC behind HOST",
            ),
            (
                json!({"macspoofchk": true}),
                "bridge fdb replace MAC dev HOST master static",
                "bridge cni0 does not keep MAC behind HOST",
            ),
            (
                json!({"macspoofchk": true}),
                "ip link set HOST type bridge_slave learning on",
                "bridge cni0 learns what is behind HOST",
            ),
        ] {
            let pod = world.pod("pod");
            let config = merged(world.config_with(&json!({"mode": "bridged"})), &keys);
            let result = world.add(&pod, &config);
            assert!(check(world, &pod, &config, &result).ok().is_null(), "{keys}");
            tamper_with(&pod, &result, false, tamper);
            let (host_end, mac) = (&result["interfaces"][1]["name"], &result["interfaces"][2]["mac"]);
            let says = says.replace("HOST", host_end.as_str().unwrap()).replace("MAC", mac.as_str().unwrap());
            let (code, _, details) = check(world, &pod, &config, &result).error();
            assert_eq!((code, details), (103, says), "{tamper}");
            world.del(&pod, &config);
        }
    });
}

#[test]
fn an_address_is_behind_its_port_in_every_vlan_of_the_pod() {
    on_fresh_host(|world| {
        let config = world.config_with(&json!({"macspoofchk": true, "vlan": 7, "vlanTrunk": [{"id": 9}]}));
        let pod = world.pod("pod");
        let Some(result) = world.add_to_vlan(&pod, &config) else { return };
        assert!(check(world, &pod, &config, &result).ok().is_null());
        tamper_with(&pod, &result, false, "bridge fdb del MAC dev HOST vlan 9 master");
        let (code, _, details) = check(world, &pod, &config, &result).error();
        let says = "bridge cni0 does not keep da:d0:0a:58:00:02 behind dnp0a580002 in VLAN 9";
        assert_eq!((code, details.as_str()), (103, says));
    });
}

#[test]
fn check_behind_another_entry_compares_what_that_one_added() {
    on_fresh_host(|world| {
        let rate = 8_000_000;
        let behind = |keys: &Value, result: &Value| {
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni",
                "stateDir": world.path("state"), "prevResult": result});
            merged(config, keys)
        };
        let limits = json!({"ingressRate": rate, "egressRate": rate});
        let options = json!({"promisc": true, "allmulti": true, "txQLen": 77, "mtu": 1400});
        for (keys, inside, tamper, says) in [
            (&limits, false, "tc qdisc del dev HOST root", "link HOST of the host does not limit bandwidth"),
            (
                &limits,
                true,
                "tc qdisc change dev eth0 root tbf rate 9mbit burst 64kb latency 25ms",
                "interface eth0 of the pod limits bandwidth to another rate",
            ),
            (
                &limits,
                true,
                "tc qdisc del dev eth0 root",
                "interface eth0 of the pod does not limit bandwidth",
            ),
            (
                &options,
                true,
                "ip link set eth0 promisc off",
                "interface eth0 of the pod does not receive every frame",
            ),
            (
                &options,
                true,
                "ip link set eth0 allmulticast off",
                "interface eth0 of the pod does not receive every multicast frame",
            ),
            (
                &options,
                true,
                "ip link set eth0 txqueuelen 78",
                "interface eth0 of the pod has another length of its queue",
            ),
            (&options, true, "ip link set eth0 mtu 1300", "interface eth0 of the pod has another MTU"),
            (&options, false, "ip link set HOST mtu 1300", "link HOST of the host has another MTU"),
            (&options, true, "ip link set eth0 name eth1", "interface eth0 is gone from the pod"),
            (
                &options,
                false,
                "ip link del HOST",
                "link HOST of the host is gone; interface eth0 is gone from the pod",
            ),
        ] {
            let pod = world.pod("pod");
            let result = world.add(&pod, &world.config());
            let config = behind(keys, &result);
            world.add(&pod, &config);
            for config in [&config, &merged(world.config(), &json!({"prevResult": result}))] {
                assert!(world.run("CHECK", &pod, config).ok().is_null(), "{keys}");
            }
            if tamper.contains("name") {
                pod.run(|| ip("link set eth0 down"));
            }
            tamper_with(&pod, &result, inside, tamper);
            let says = says.replace("HOST", result["interfaces"][0]["name"].as_str().unwrap());
            let (code, _, details) = world.run("CHECK", &pod, &config).error();
            assert_eq!((code, details), (103, says), "{tamper}");
            world.del(&pod, &world.config());
        }
    });
}

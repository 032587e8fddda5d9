//! Beside the reference plugins (package containernetworking-plugins): the same list of plugins gives the same
//! results, and theirs work before and behind this one.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use dunnage_net::Netns;
use serde_json::{Value, json};
use world::{OUTSIDE, Pod, REFERENCE_DIR, UPLINK, World, heard_as, ip, merged, nft, on_fresh_host, seen_as};

fn reference(name: &str) -> PathBuf {
    let path = Path::new(REFERENCE_DIR).join(name);
    assert!(path.exists(), "{} is missing: install containernetworking-plugins", path.display());
    path
}

/// The configuration as it is for the reference plugin: this one's own keys are unknown there, and harmless.
fn run_reference(world: &World, name: &str, verb: &str, pod: &Pod, config: &Value) -> world::Answer {
    let config = merged(config.clone(), &json!({"type": name}));
    world.run_program(&reference(name), verb, &pod.variables(), &config)
}

/// What differs by design: names of host ends and link-layer addresses, and what a version of the reference
/// plugins tells beyond others.
fn without_names(mut result: Value, pod: &Pod) -> Value {
    let path = pod.netns.path().to_str().unwrap();
    for interface in result["interfaces"].as_array_mut().unwrap() {
        assert!(interface["name"].as_str().is_some_and(|name| !name.is_empty()));
        if interface["sandbox"].as_str().is_none_or(str::is_empty) && interface["name"] != "cni0" {
            interface["name"] = "host end".into();
        }
        if interface["sandbox"] == path {
            interface["sandbox"] = "pod".into();
        }
        for key in ["mac", "mtu"] {
            interface.as_object_mut().unwrap().remove(key);
        }
    }
    result
}

#[test]
fn the_same_configuration_gives_the_same_result() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        for changes in [
            json!({}),
            json!({"isDefaultGateway": true, "ipam": {"routes": [{"dst": "198.51.100.0/24", "gw": "10.88.0.9"}]}}),
            json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}),
            json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/16", "rangeStart": "10.88.3.7", "rangeEnd": "10.88.3.9", "gateway": "10.88.0.7"}]]}}),
            json!({"dns": {"nameservers": ["192.0.2.53"]}}),
            json!({"ipam": {"ranges": [[{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}], [{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}),
            json!({"ipam": {"ranges": [[{"subnet": "fd00:1::/64"}], [{"subnet": "fd00:2::/64"}]], "routes": [{"dst": "::/0"}]}}),
            // With gateways it refuses a second one of IPv4.
            json!({"isGateway": false, "ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}],
                [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.10"}]], "routes": null}}),
            json!({"macspoofchk": true, "enabledad": true}),
            json!({"ipam": null, "macspoofchk": true}),
        ] {
            let told: Vec<Value> = [true, false]
                .into_iter()
                .map(|ours| {
                    let mut told = Value::Null;
                    on_fresh_host(|world| {
                        let pod = world.pod("pod");
                        let config = merged(
                            world.config_with(&changes),
                            &json!({"cniVersion": version, "mode": "bridged", "ipMasq": false}),
                        );
                        let answer = if ours {
                            world.run("ADD", &pod, &config)
                        } else {
                            run_reference(world, "bridge", "ADD", &pod, &config)
                        };
                        told = without_names(answer.ok(), &pod);
                        told["routes inside"] = pod
                            .run(|| ip("route show default").replace(" proto static onlink", ""))
                            .trim()
                            .into();
                        let inside = pod.run(|| ip("-o addr show eth0 scope global"));
                        let inside: Vec<&str> =
                            inside.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
                        told["addresses inside"] = inside.into();
                    });
                    told
                })
                .collect();
            assert_eq!(told[0], told[1], "{version} {changes}");
        }
    }
}

/// Addresses with gateways, of pods one after the other; the second goes before the last comes.
fn given_in_turn(changes: &Value, ours: bool) -> Vec<Value> {
    let mut given = Vec::new();
    on_fresh_host(|world| {
        let config = merged(world.config_with(changes), &json!({"mode": "bridged", "ipMasq": false}));
        let run = |verb: &str, pod: &Pod| {
            if ours {
                world.run(verb, pod, &config)
            } else {
                world.run_program(&reference("host-local"), verb, &pod.variables(), &config)
            }
        };
        let pods: Vec<Pod> = (0..6).map(|number| world.pod(&format!("pod{number}"))).collect();
        for (number, pod) in pods.iter().enumerate() {
            let ips = run("ADD", pod).ok()["ips"].take();
            let ips = ips.as_array().unwrap().iter();
            given.push(ips.map(|ip| json!([ip["address"], ip["gateway"]])).collect());
            if number == 4 {
                assert!(run("DEL", &pods[1]).success);
            }
        }
    });
    given
}

#[test]
fn pods_get_the_addresses_that_host_local_gives_them() {
    for changes in [
        json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}}),
        json!({"ipam": {"ranges": [[{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}]]}}),
        json!({"ipam": {"ranges": [
            [{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.3"}, {"subnet": "10.3.0.0/24", "gateway": "10.3.0.3"}],
            [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.100"}],
            [{"subnet": "fd00:2::/126"}, {"subnet": "fd00:3::/64", "rangeStart": "fd00:3::ff"}]]}}),
        json!({"ipam": {"ranges": [
            [{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.20"}], [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.21"}],
            [{"subnet": "fd00::/64", "rangeEnd": "fd00::7"}, {"subnet": "fd00::/64", "rangeStart": "fd00::9"}]]}}),
        json!({"ipam": {"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7",
                "ranges": [[{"subnet": "fd00:1::/64"}], [{"subnet": "10.1.0.0/24"}]]},
            "runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]}}),
    ] {
        assert_eq!(given_in_turn(&changes, true), given_in_turn(&changes, false), "{changes}");
    }
}

#[test]
fn portmap_and_tuning_of_the_reference_work_behind_this_one() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let chained = json!({"cniVersion": "1.0.0", "name": "net", "prevResult": result});
        let tuning = merged(chained.clone(), &json!({"sysctl": {"net.core.somaxconn": "500"}}));
        let result = run_reference(world, "tuning", "ADD", &pod, &tuning).ok();
        let portmap = merged(
            chained,
            &json!({"prevResult": result, "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
        );
        let result = run_reference(world, "portmap", "ADD", &pod, &portmap).ok();
        assert!(seen_as(&outside.netns, &pod.netns, 80, (UPLINK, 8080).into()).is_ok());
        let checked = world.run("CHECK", &pod, &world.config_with(&json!({"prevResult": result})));
        assert!(checked.success, "{checked:?}");
        assert!(run_reference(world, "portmap", "DEL", &pod, &portmap).success);
        world.del(&pod, &world.config());
    });
}

/// As whom a pod sees who comes by its host port: from outside, from a neighbour, from itself, from the host by
/// localhost and by its own address.
fn seen_by_host_port(
    world: &World,
    portmap: &Path,
    keys: &Value,
    expected: &[Option<IpAddr>; 5],
) -> Vec<Option<IpAddr>> {
    let outside = world.outside();
    let (pod, neighbour) = (world.pod("pod"), world.pod("neighbour"));
    let config = world.config_with(&json!({"mode": "bridged"}));
    world.add(&neighbour, &config);
    let behind = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "prevResult": world.add(&pod, &config),
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]}});
    let mut behind = merged(behind, keys);
    if portmap == Path::new(world::PLUGIN) {
        behind = merged(behind, &json!({"type": "dunnage-cni", "stateDir": world.path("state")}));
    }
    world.run_program(portmap, "ADD", &pod.variables(), &behind).ok();
    let host = world.host();
    let ways = [
        (&outside.netns, UPLINK),
        (&neighbour.netns, UPLINK),
        (&pod.netns, UPLINK),
        (&host, Ipv4Addr::LOCALHOST),
        (&host, UPLINK),
    ];
    let hear = |((from, at), expected): ((&Netns, Ipv4Addr), &_)| {
        heard_as(from, &pod.netns, 80, (at, 8080).into(), *expected)
    };
    let told = ways.into_iter().zip(expected).map(hear).collect();
    assert!(world.run_program(portmap, "DEL", &pod.variables(), &behind).success);
    told
}

#[test]
fn the_keys_of_portmap_behind_another_plugin_do_what_they_do_in_the_reference() {
    let neighbour: IpAddr = Ipv4Addr::new(10, 88, 0, 2).into();
    let gateway: IpAddr = Ipv4Addr::new(10, 88, 0, 1).into();
    let (outside, host): (IpAddr, IpAddr) = (OUTSIDE.into(), UPLINK.into());
    let as_usual = [Some(outside), Some(gateway), Some(gateway), Some(gateway), Some(host)];
    let as_they_are = [Some(outside), Some(neighbour), None, None, Some(host)];
    for (keys, expected) in
        [(json!({}), as_usual), (json!({"snat": true}), as_usual), (json!({"snat": false}), as_they_are)]
    {
        for portmap in [reference("portmap"), world::PLUGIN.into()] {
            on_fresh_host(|world| {
                let seen = seen_by_host_port(world, &portmap, &keys, &expected);
                assert_eq!(seen, expected, "{} {keys}", portmap.display());
            });
        }
    }
    // The version of the reference that Debian 12 has does not know this one yet.
    on_fresh_host(|world| {
        let everybody = [Some(gateway); 5];
        let seen = seen_by_host_port(world, world::PLUGIN.as_ref(), &json!({"masqAll": true}), &everybody);
        assert_eq!(seen, everybody);
    });
}

#[test]
fn a_host_goes_over_from_the_reference_with_pods_that_run() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let (old, new, next) = (world.pod("old"), world.pod("new"), world.pod("next"));
        let config = world.config_with(&json!({"mode": "bridged"}));
        let told =
            run_reference(world, "bridge", "ADD", &old, &merged(config.clone(), &json!({"ipMasq": false})))
                .ok();
        // From here on the configuration has the other type.
        let result = world.add(&new, &config);
        assert_ne!(world::address(&result, 0), world::address(&told, 0), "the running pod keeps its address");
        let (to_old, to_new) = (world::address(&told, 0), world::address(&result, 0));
        assert!(
            seen_as(&new.netns, &old.netns, 80, (to_old, 80).into()).is_ok(),
            "both are on the same bridge"
        );
        assert!(seen_as(&old.netns, &new.netns, 80, (to_new, 80).into()).is_ok());
        assert!(seen_as(&new.netns, &outside.netns, 80, (OUTSIDE, 80).into()).is_ok());
        // A flow that a host port of the old plugin has sent to the old pod, whoever keeps it alive.
        nft("add table ip old");
        for command in [
            "add chain ip old in { type nat hook prerouting priority -101 ; }",
            &format!("add rule ip old in udp dport 5353 dnat to {to_old}"),
        ] {
            assert!(Command::new("nft").arg(command).status().unwrap().success());
        }
        let client = outside.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        client.send_to(b"question", (UPLINK, 5353)).unwrap();
        let flows = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        let of_old = format!("src={to_old} dst={OUTSIDE}");
        world::eventually(|| flows().contains(&of_old));
        world.del(&old, &config);
        assert!(!flows().contains(&of_old), "{}", flows());
        assert!(!old.run(|| ip("-o link")).contains("eth0"));
        let asked = merged(config, &json!({"runtimeConfig": {"ips": [to_old]}}));
        assert_eq!(world::address(&world.add(&next, &asked), 0), to_old, "and gives it back");
    });
}

//! Beside the reference plugins (package containernetworking-plugins): the same list of plugins gives the same
//! results, and theirs work before and behind this one.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use world::{OUTSIDE, Pod, REFERENCE_DIR, UPLINK, World, ip, merged, nft, on_fresh_host, seen_as};

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
                    });
                    told
                })
                .collect();
            assert_eq!(told[0], told[1], "{version} {changes}");
        }
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

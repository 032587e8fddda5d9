//! What somebody took from what all pods of a network share is put back: for the next one, or by STATUS.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use serde_json::{Value, json};
use world::{Pod, World, address, ip, merged, nft, on_fresh_host, seen_as};

fn check(world: &World, pod: &Pod, config: &Value, result: &Value) -> world::Answer {
    world.run("CHECK", pod, &merged(config.clone(), &json!({"prevResult": result})))
}

fn dual_stack(world: &World, keys: &Value) -> Value {
    let ipam = json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}});
    merged(world.config_with(&ipam), keys)
}

#[test]
fn addresses_of_the_bridge_come_back_with_the_next_pod() {
    on_fresh_host(|world| {
        let config = dual_stack(world, &json!({"mode": "bridged"}));
        let pod = world.pod("pod");
        let result = world.add(&pod, &config);
        for (number, (tamper, says)) in [
            ("addr del 10.88.0.1/16 dev cni0", "address 10.88.0.1, the pod's gateway, is gone from cni0"),
            ("addr del fd00:88::1/64 dev cni0", "address fd00:88::1, the pod's gateway, is gone from cni0"),
            (
                "-6 addr flush dev cni0 scope link",
                "cni0 has no link-local address, without which the host finds no IPv6 neighbour",
            ),
            (
                "addr flush dev cni0",
                "address 10.88.0.1, the pod's gateway, is gone from cni0; \
                 address fd00:88::1, the pod's gateway, is gone from cni0; \
                 cni0 has no link-local address, without which the host finds no IPv6 neighbour",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(check(world, &pod, &config, &result).ok().is_null(), "before {tamper}");
            ip(tamper);
            let (code, _, details) = check(world, &pod, &config, &result).error();
            assert_eq!((code, details.as_str()), (103, says), "{tamper}");
            let next = world.pod(&format!("next{number}"));
            world.add(&next, &config);
            assert!(check(world, &pod, &config, &result).ok().is_null(), "after {tamper}");
            for family in [0, 1] {
                let to = (address(&result, family), 80).into();
                seen_as(&world.host(), &pod.netns, 80, to)
                    .unwrap_or_else(|error| panic!("{tamper}: {error}"));
            }
        }
    });
}

#[test]
fn the_host_s_link_into_a_vlan_comes_back_with_the_next_pod() {
    on_fresh_host(|world| {
        let config = dual_stack(world, &json!({"vlan": 7}));
        let pod = world.pod("pod");
        let answer = world.run("ADD", &pod, &config);
        if !answer.success {
            // The kernel of the machine may be without.
            assert!(answer.error().1.contains("BRIDGE_VLAN_FILTERING"));
            return;
        }
        let result = answer.ok();
        for (number, tamper) in
            ["addr flush dev cni0.7", "link set cni0.7 down", "link del cni0.7"].into_iter().enumerate()
        {
            assert!(check(world, &pod, &config, &result).ok().is_null(), "before {tamper}");
            ip(tamper);
            world.add(&world.pod(&format!("next{number}")), &config);
            assert!(check(world, &pod, &config, &result).ok().is_null(), "after {tamper}");
            let seen = seen_as(&world.host(), &pod.netns, 80, (address(&result, 0), 80).into());
            assert!(seen.is_ok(), "{tamper}: {seen:?}");
        }
    });
}

/// Two networks, one of which has a pod with a host port: the network, the pod, what it was told.
fn two_networks(world: &World) -> [(Value, Pod, Value); 2] {
    let port = json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
    let config = merged(dual_stack(world, &port), &json!({"cniVersion": "1.1.0"}));
    let mut other = world.config_with(&json!({"ipam": {"ranges": [[{"subnet": "10.90.0.0/16"}]]}}));
    other["name"] = "other".into();
    [(config, "one"), (merged(other, &json!({"cniVersion": "1.1.0"})), "two")].map(|(config, name)| {
        let pod = world.pod(name);
        let result = world.add(&pod, &config);
        (config, pod, result)
    })
}

const LOST: &str = "nftables table inet dunnage has lost rules, which STATUS makes again, or the next ADD once it is deleted";
const CHAINS: [&str; 6] = ["hp", "from_pod", "prerouting", "output", "postrouting", "guard"];

#[test]
fn rules_come_back_with_status_and_nobody_loses_an_element() {
    on_fresh_host(|world| {
        let [(config, pod, result), (other, ..)] = two_networks(world);
        let before = nft("list ruleset");
        for chain in CHAINS {
            assert!(check(world, &pod, &config, &result).ok().is_null(), "before {chain}");
            nft(&format!("flush chain inet dunnage {chain}"));
            let (code, _, details) = check(world, &pod, &config, &result).error();
            assert_eq!((code, details.as_str()), (103, LOST), "{chain}");
            assert!(world.run_alone("STATUS", &other).ok().is_null());
            assert_eq!(nft("list ruleset"), before, "{chain}");
        }
        nft("flush table inet dunnage");
        assert!(world.run_alone("STATUS", &other).ok().is_null());
        assert_eq!(nft("list ruleset"), before);
        nft("add rule inet dunnage postrouting ip daddr 192.0.2.77 accept");
        let more = nft("list ruleset");
        assert!(world.run_alone("STATUS", &config).ok().is_null());
        assert_eq!(nft("list ruleset"), more, "a rule that somebody added is no difference");
    });
}

#[test]
fn chains_and_sets_come_back_as_rules_do() {
    on_fresh_host(|world| {
        let [(config, pod, result), (other, ..)] = two_networks(world);
        let sorted = || {
            let mut lines: Vec<String> = nft("list ruleset").lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let before = sorted();
        nft("flush table inet dunnage");
        for chain in CHAINS {
            nft(&format!("delete chain inet dunnage {chain}"));
        }
        nft("delete set inet dunnage hpkeep4");
        assert!(world.run_alone("STATUS", &other).ok().is_null());
        assert_eq!(sorted(), before);
        assert!(check(world, &pod, &config, &result).ok().is_null());
    });
}

#[test]
fn a_table_without_rules_that_is_deleted_is_made_anew_for_the_next_pod() {
    on_fresh_host(|world| {
        let [(config, pod, result), _] = two_networks(world);
        nft("flush table inet dunnage");
        nft("delete table inet dunnage");
        world.add(&world.pod("next"), &merged(config.clone(), &json!({"runtimeConfig": null})));
        assert!(check(world, &pod, &config, &result).ok().is_null());
    });
}

#[test]
fn the_rule_about_frames_comes_back_with_the_next_pod_or_status() {
    on_fresh_host(|world| {
        let config =
            world.config_with(&json!({"cniVersion": "1.1.0", "mode": "bridged", "macspoofchk": true}));
        let mut other = merged(config.clone(), &json!({"ipam": null, "isGateway": null, "ipMasq": null}));
        other["name"] = "other".into();
        let pod = world.pod("pod");
        let result = world.add(&pod, &config);
        world.add(&world.pod("other"), &other);
        let before = nft("list table bridge dunnage");
        for tamper in ["flush chain bridge dunnage prerouting", "flush table bridge dunnage"] {
            assert!(check(world, &pod, &config, &result).ok().is_null(), "before {tamper}");
            nft(tamper);
            let (code, _, details) = check(world, &pod, &config, &result).error();
            let says = "nobody checks whether frames of the pod have its link-layer address";
            assert_eq!((code, details.as_str()), (103, says), "{tamper}");
            let next = world.pod("next");
            world.add(&next, &config);
            assert!(check(world, &pod, &config, &result).ok().is_null(), "after {tamper}");
            world.del(&next, &config);
            assert_eq!(nft("list table bridge dunnage"), before);
            nft(tamper);
            assert!(world.run_alone("STATUS", &config).ok().is_null());
            assert_eq!(nft("list table bridge dunnage"), before);
        }
    });
}

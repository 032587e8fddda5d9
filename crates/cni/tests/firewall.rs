//! In the place of the reference plugin `firewall`: pods pass a chain `FORWARD` of iptables that drops.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use world::{
    Answer, OUTSIDE, Pod, UPLINK, World, address, eventually, heard_as, ip, merged, nft, on_fresh_host, run,
    seen_as,
};

const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));
const UPLINK6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));

fn drop_what_is_forwarded() {
    for program in ["iptables-nft", "ip6tables-nft"] {
        run(program, "-P FORWARD DROP");
    }
}

fn forward() -> String {
    run("iptables-nft", "-S FORWARD") + &run("ip6tables-nft", "-S FORWARD")
}

/// Of both families, with host port 8080.
fn config(world: &World, mode: &str) -> Value {
    let ports = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    world.config_with(&json!({
        "mode": mode,
        "ipam": {
            "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
        "runtimeConfig": {"portMappings": ports},
    }))
}

fn without_ports(config: &Value) -> Value {
    merged(config.clone(), &json!({"runtimeConfig": null}))
}

/// The entry with its type changed.
fn firewall(world: &World, result: &Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state"),
           "backend": "iptables", "prevResult": result})
}

/// ADD of both entries.
fn add(world: &World, pod: &Pod, config: &Value) -> Value {
    let result = world.add(pod, config);
    let told = world.add(pod, &firewall(world, &result));
    assert_eq!(told["ips"], result["ips"]);
    result
}

/// DEL of both, in the order of a runtime.
fn del(world: &World, pod: &Pod, config: &Value, result: &Value) {
    world.del(pod, &firewall(world, result));
    world.del(pod, config);
}

fn reaches_outside(pod: &Pod, outside: &Pod) {
    let seen = |at: IpAddr| seen_as(&pod.netns, &outside.netns, 80, (at, 80).into()).unwrap();
    assert_eq!(seen(OUTSIDE.into()), IpAddr::from(UPLINK));
    assert_eq!(seen(OUTSIDE6), UPLINK6);
}

/// A packet that is no answer and came by no host port.
fn is_dropped(outside: &Pod, pod: &Pod, at: IpAddr) {
    assert_eq!(heard_as(&outside.netns, &pod.netns, 90, (at, 90).into(), None), None);
}

fn pods_pass_a_chain_that_drops(mode: &'static str) {
    on_fresh_host(|world| {
        let outside = world.outside();
        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8:1::2");
        drop_what_is_forwarded();
        let before = forward();
        let config = config(world, mode);
        let pod = world.pod("pod");
        let result = world.add(&pod, &config);
        assert_eq!(forward(), before, "a list without the entry leaves the chain alone");
        is_dropped(&pod, &outside, OUTSIDE.into());
        world.add(&pod, &firewall(world, &result));

        reaches_outside(&pod, &outside);
        let from_outside = |at: IpAddr| seen_as(&outside.netns, &pod.netns, 80, (at, 8080).into()).unwrap();
        assert_eq!(from_outside(UPLINK.into()), IpAddr::from(OUTSIDE));
        assert_eq!(from_outside(UPLINK6), OUTSIDE6);
        outside.run(|| {
            ip("route add 10.88.0.0/16 via 192.0.2.1");
            ip("-6 route add fd00:88::/64 via 2001:db8:1::1");
        });
        for number in 0..2 {
            is_dropped(&outside, &pod, address(&result, number));
        }

        let rules = forward();
        let second = world.pod("second");
        let of_second = add(world, &second, &without_ports(&config));
        assert_eq!(forward(), rules, "nothing grows with pods");
        reaches_outside(&second, &outside);
        del(world, &pod, &config, &result);
        assert_eq!(forward(), rules, "a pod is left");
        reaches_outside(&second, &outside);
        del(world, &second, &without_ports(&config), &of_second);
        assert_eq!(forward(), before);
    });
}

#[test]
fn routed_pods_pass_a_chain_that_drops() {
    pods_pass_a_chain_that_drops("routed");
}

#[test]
fn bridged_pods_pass_a_chain_that_drops() {
    pods_pass_a_chain_that_drops("bridged");
}

#[test]
fn pods_of_a_vlan_pass_by_the_host_s_link_into_it() {
    on_fresh_host(|world| {
        let outside = world.outside();
        run("iptables-nft", "-P FORWARD DROP");
        let config = world.config_with(&json!({"vlan": 7}));
        let pod = world.pod("pod");
        let Some(result) = world.add_to_vlan(&pod, &config) else { return };
        world.add(&pod, &firewall(world, &result));
        assert!(forward().contains("-s 10.88.0.0/16 -i cni0.7 "), "{}", forward());
        assert_eq!(
            seen_as(&pod.netns, &outside.netns, 80, (OUTSIDE, 80).into()).unwrap(),
            IpAddr::from(UPLINK)
        );
    });
}

#[test]
fn the_rules_are_ones_that_iptables_reads_saves_and_restores() {
    on_fresh_host(|world| {
        drop_what_is_forwarded();
        let pod = world.pod("pod");
        let config = config(world, "routed");
        let result = add(world, &pod, &config);
        let rules = run("iptables-nft", "-S FORWARD");
        let expected = "-P FORWARD DROP
-A FORWARD -s 10.88.0.0/16 -i dnp+ -m comment --comment \"dunnage cni-net: from 10.88.0.0/16 by dnp+\" -j ACCEPT
-A FORWARD -d 10.88.0.0/16 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"dunnage cni-net: answers to 10.88.0.0/16\" -j ACCEPT
-A FORWARD -d 10.88.0.0/16 -m mark --mark 0x2000/0x2000 -m comment --comment \"dunnage cni-net: host ports of 10.88.0.0/16\" -j ACCEPT
";
        assert_eq!(rules, expected);
        let listed = nft("list chain ip6 filter FORWARD");
        assert!(listed.contains("iifname \"dnp*\" ip6 saddr fd00:88::/64 counter"), "{listed}");
        for tool in ["iptables-nft", "ip6tables-nft"] {
            let script = format!("{tool}-save | {tool}-restore");
            assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        }
        assert_eq!(run("iptables-nft", "-S FORWARD"), rules);
        let second = world.pod("second");
        let of_second = add(world, &second, &without_ports(&config));
        assert_eq!(run("iptables-nft", "-S FORWARD"), rules, "known by what iptables made of them");
        // iptables can delete what it did not make.
        run("iptables-nft", "-D FORWARD 1");
        assert!(!run("iptables-nft", "-S FORWARD").contains("-i dnp+"));
        del(world, &pod, &config, &result);
        del(world, &second, &without_ports(&config), &of_second);
        assert_eq!(forward(), "-P FORWARD DROP\n-P FORWARD DROP\n");
    });
}

#[test]
fn what_was_flushed_is_told_by_check_and_put_back_by_the_next_add() {
    on_fresh_host(|world| {
        let outside = world.outside();
        ip("-6 route add default via 2001:db8:1::2");
        drop_what_is_forwarded();
        let pod = world.pod("pod");
        let config = config(world, "routed");
        let result = add(world, &pod, &config);
        let check = |config: &Value| world.run("CHECK", &pod, config);
        let entry = firewall(world, &result);
        check(&entry).ok();
        let rules = forward();
        run("iptables-nft", "-D FORWARD 2");
        let (code, _, details) = check(&entry).error();
        assert_eq!(code, 103);
        assert_eq!(
            details,
            "nftables chain ip filter FORWARD has lost the rule \"dunnage cni-net: answers to 10.88.0.0/16\""
        );
        check(&merged(config.clone(), &json!({"prevResult": result}))).ok();
        run("iptables-nft", "-F FORWARD");
        run("ip6tables-nft", "-F FORWARD");
        assert_eq!(check(&entry).error().2.matches("has lost the rule").count(), 6);
        let second = world.pod("second");
        add(world, &second, &without_ports(&config));
        assert_eq!(forward(), rules);
        check(&entry).ok();
        reaches_outside(&pod, &outside);
    });
}

#[test]
fn one_entry_is_enough_when_it_says_so() {
    on_fresh_host(|world| {
        let outside = world.outside();
        ip("-6 route add default via 2001:db8:1::2");
        drop_what_is_forwarded();
        let before = forward();
        let config = merged(config(world, "routed"), &json!({"forwardAllow": true}));
        let pod = world.pod("pod");
        let answer = world.run("ADD", &pod, &config);
        assert!(answer.success && !answer.stderr.contains("FORWARD drops"), "{answer:?}");
        reaches_outside(&pod, &outside);
        let checked = merged(config.clone(), &json!({"prevResult": answer.json}));
        world.run("CHECK", &pod, &checked).ok();
        run("iptables-nft", "-F FORWARD");
        assert!(world.run("CHECK", &pod, &checked).error().2.contains("has lost the rule"));
        world.del(&pod, &config);
        assert_eq!(forward(), before);
    });
}

#[test]
fn entries_in_the_place_of_other_plugins_leave_the_chain_alone() {
    on_fresh_host(|world| {
        drop_what_is_forwarded();
        let before = forward();
        let pod = world.pod("pod");
        let config = without_ports(&config(world, "routed"));
        let result = world.add(&pod, &config);
        let bare = merged(firewall(world, &result), &json!({"backend": null}));
        for keys in [
            json!({"capabilities": {"portMappings": true}, "backend": "iptables"}),
            json!({"snat": true}),
            json!({"capabilities": {"bandwidth": true}}),
            json!({"ingressRate": 8_000_000}),
            json!({"sysctl": {"net.core.somaxconn": "500"}}),
            json!({"forwardAllow": false}),
        ] {
            world.add(&pod, &merged(bare.clone(), &keys));
            assert_eq!(forward(), before, "{keys}");
        }
        world.add(&pod, &bare);
        assert_ne!(forward(), before);
    });
}

#[test]
fn gc_takes_rules_away_that_no_pod_is_left_for() {
    on_fresh_host(|world| {
        drop_what_is_forwarded();
        let before = forward();
        let config = config(world, "routed");
        let pod = world.pod("pod");
        add(world, &pod, &config);
        let gc = |valid: &Value| {
            let changes = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid});
            assert!(world.run_alone("GC", &merged(config.clone(), &changes)).success);
        };
        gc(&json!([{"containerID": "pod", "ifname": "eth0"}]));
        assert_ne!(forward(), before);
        gc(&json!([]));
        assert_eq!(forward(), before);
    });
}

#[test]
fn rules_of_one_network_stay_when_another_goes() {
    on_fresh_host(|world| {
        drop_what_is_forwarded();
        let before = forward();
        let config = config(world, "routed");
        let other = without_ports(&world.config_with(&json!({
            "name": "net2", "forwardAllow": true, "ipam": {"ranges": [[{"subnet": "10.89.0.0/16"}]]}})));
        let (pod, second) = (world.pod("pod"), world.pod("second"));
        let result = add(world, &pod, &config);
        let rules = forward();
        world.add(&second, &other);
        assert!(forward().contains("dunnage cni-net2: from 10.89.0.0/16"), "{}", forward());
        world.del(&second, &other);
        assert_eq!(forward(), rules);
        del(world, &pod, &config, &result);
        assert_eq!(forward(), before);
    });
}

#[test]
fn where_iptables_has_no_chain_none_is_made() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let config = config(world, "routed");
        let result = add(world, &pod, &config);
        assert!(!nft("list ruleset").contains("FORWARD"));
        world.run("CHECK", &pod, &firewall(world, &result)).ok();
        del(world, &pod, &config, &result);
        // A chain of the name that nothing comes by is not iptables'.
        nft("add table ip filter");
        nft("add chain ip filter FORWARD");
        add(world, &pod, &config);
        assert!(!nft("list table ip filter").contains("dunnage"));
    });
}

#[test]
fn what_firewall_has_and_this_plugin_has_not_is_refused_by_name() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        for (keys, says) in [
            (json!({"backend": "firewalld"}), "backend with value \"firewalld\" is not supported"),
            (
                json!({"ingressPolicy": "same-bridge"}),
                "ingressPolicy with value \"same-bridge\" is not supported",
            ),
            (
                json!({"iptablesAdminChainName": "MINE"}),
                "iptablesAdminChainName with value \"MINE\" is not supported",
            ),
        ] {
            let answer: Answer = world.run("ADD", &pod, &merged(firewall(world, &result), &keys));
            let (code, msg, _) = answer.error();
            assert_eq!((code, msg.as_str()), (2, says));
        }
    });
}

#[test]
fn when_no_rule_can_be_put_in_the_pod_is_not_attached() {
    on_fresh_host(|world| {
        // A table with an owner is changed by nobody else, and goes with it.
        let mut owner =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let table = "add table ip filter { flags owner; }
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }\n";
        owner.stdin.as_mut().unwrap().write_all(table.as_bytes()).unwrap();
        eventually(|| nft("list ruleset").contains("chain FORWARD"));
        let pod = world.pod("pod");
        let config = merged(config(world, "routed"), &json!({"forwardAllow": true}));
        let (code, msg, _) = world.run("ADD", &pod, &config).error();
        assert_eq!(code, 100);
        assert!(msg.starts_with("insert a rule into nftables chain ip filter FORWARD: "), "{msg}");
        assert!(!pod.run(|| ip("-o link")).contains("eth0") && !ip("-o link").contains("dnp"));
        assert!(!nft("list ruleset").contains(": from"));
        drop(owner.stdin.take());
        owner.wait().unwrap();
        world.add(&pod, &config);
    });
}

#[test]
fn the_old_iptables_is_named() {
    on_fresh_host(|world| {
        let old = Command::new("iptables-legacy").args(["-P", "FORWARD", "DROP"]).output();
        if !old.is_ok_and(|output| output.status.success()) {
            println!("not on this machine: its kernel is without the old iptables");
            return;
        }
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let answer = world.run("ADD", &pod, &firewall(world, &result));
        assert!(answer.success, "{answer:?}");
        assert!(answer.stderr.contains("the old iptables (xtables) has a table filter"), "{answer:?}");
    });
}

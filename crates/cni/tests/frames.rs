//! `macspoofchk`: what a pod on a bridge sends has its own link-layer address as source, or is dropped.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use world::{Pod, World, address, ip, merged, nft, on_fresh_host, seen_as};

const SPOOFED: &str = "02:00:00:00:00:66";

fn checked(world: &World) -> Value {
    world.config_with(&json!({"cniVersion": "1.1.0", "mode": "bridged", "macspoofchk": true}))
}

fn pretend(pod: &Pod, mac: &str) {
    pod.run(|| ip(&format!("link set eth0 address {mac}")));
}

/// Whether a pod reaches somebody who listens, or nobody hears of it.
fn reaches(pod: &Pod, at: &Pod, to: Ipv4Addr) -> bool {
    let _listener = at.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).unwrap();
    // What is to be heard of is waited for, what is not for a little.
    match pod.run(|| TcpStream::connect_timeout(&(to, 80).into(), Duration::from_secs(3))) {
        Ok(_) => true,
        Err(error) => {
            let unheard = [ErrorKind::TimedOut, ErrorKind::HostUnreachable];
            assert!(unheard.contains(&error.kind()), "{error}");
            false
        }
    }
}

fn ipv4(result: &Value) -> Ipv4Addr {
    address(result, 0).to_string().parse().unwrap()
}

fn table() -> String {
    nft("list table bridge dunnage")
}

#[test]
fn the_table_reads_as_it_is_documented() {
    on_fresh_host(|world| {
        world.add(&world.pod("a"), &checked(world));
        let documented = "table bridge dunnage {
	comment \"dunnage frame checks, layout 1\"
	set networks {
		type ifname
		elements = { \"cni-net\" }
	}

	set checked {
		type ifname
		elements = { \"dnp0a580002\" }
	}

	set own {
		type ifname . ether_addr
		elements = { \"dnp0a580002\" . da:d0:0a:58:00:02 }
	}

	chain prerouting {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @checked iifname . ether saddr != @own drop
	}
}
";
        assert_eq!(table(), documented);
    });
}

#[test]
fn frames_with_another_source_are_dropped_and_honest_ones_pass() {
    on_fresh_host(|world| {
        let (free, held, peer) = (world.pod("free"), world.pod("held"), world.pod("peer"));
        let unchecked = merged(checked(world), &json!({"macspoofchk": false}));
        let to_peer = ipv4(&world.add(&peer, &unchecked));
        world.add(&free, &unchecked);
        let own = world.add(&held, &checked(world))["interfaces"][2]["mac"].clone();
        assert!(reaches(&held, &peer, to_peer), "an honest one");
        for pod in [&free, &held] {
            pretend(pod, SPOOFED);
        }
        assert!(reaches(&free, &peer, to_peer), "nobody checks it");
        pretend(&free, "02:00:00:00:00:67");
        assert!(!reaches(&held, &peer, to_peer), "a dishonest one");
        assert!(
            !ip("neigh").contains(SPOOFED) && !peer.run(|| ip("neigh")).contains(&format!("{SPOOFED} REACH"))
        );
        pretend(&held, own.as_str().unwrap());
        assert!(seen_as(&held.netns, &peer.netns, 81, (to_peer, 81).into()).is_ok(), "an honest one again");
    });
}

/// Sends a frame that no bridge forwards, as 802.1X does.
fn send_unforwarded(pod: &Pod, to: &str) {
    pod.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.send_to(b"x", (to, 9)).unwrap();
    });
}

#[test]
fn a_bridge_learns_nothing_from_a_pod_and_nobody_takes_its_address_over() {
    on_fresh_host(|world| {
        let (free, held) = (world.pod("free"), world.pod("held"));
        let unchecked = merged(checked(world), &json!({"macspoofchk": false}));
        world.add(&free, &unchecked);
        world.add(&held, &checked(world));
        let learnt = || world::run("bridge", "fdb show br cni0");
        for (pod, mac) in [(&held, SPOOFED), (&free, "02:00:00:00:00:67")] {
            pretend(pod, mac);
            // Those of LLDP pass no hook.
            for (to, kind) in [("10.88.0.99", "03"), ("10.88.0.100", "0e")] {
                pod.run(|| {
                    ip(&format!("neigh add {to} lladdr 01:80:c2:00:00:{kind} dev eth0 nud permanent"))
                });
                send_unforwarded(pod, to);
            }
        }
        world::eventually(|| learnt().contains("02:00:00:00:00:67"));
        assert!(!learnt().contains(SPOOFED), "{}", learnt());
        let own = "da:d0:0a:58:00:03";
        let place = || learnt().lines().find(|line| line.starts_with(own)).unwrap().to_owned();
        assert!(place().contains("dnp0a580003") && place().contains("static"), "{}", place());
        for mac in [own, "02:00:00:00:00:68"] {
            pretend(&free, mac);
            send_unforwarded(&free, "10.88.0.99");
        }
        world::eventually(|| learnt().contains("02:00:00:00:00:68"));
        assert!(place().contains("dnp0a580003"), "{}", place());
    });
}

#[test]
fn a_pod_may_have_the_address_that_was_asked_for_and_none_of_ip() {
    on_fresh_host(|world| {
        let (a, b) = (world.pod("a"), world.pod("b"));
        let config = merged(checked(world), &json!({"ipam": null}));
        world.add(&a, &merged(config.clone(), &json!({"runtimeConfig": {"mac": "02:11:22:33:44:55"}})));
        world.add(&b, &config);
        a.run(|| ip("addr add 192.0.2.1/24 dev eth0"));
        b.run(|| ip("addr add 192.0.2.2/24 dev eth0"));
        assert!(reaches(&a, &b, Ipv4Addr::new(192, 0, 2, 2)));
        assert!(table().contains("\"dnp00000001\" . 02:11:22:33:44:55"), "{}", table());
        assert!(!nft("list tables").contains("inet"), "{}", nft("list tables"));
    });
}

#[test]
fn what_was_made_for_a_pod_goes_with_it_and_for_a_network_with_its_last_one() {
    on_fresh_host(|world| {
        let config = checked(world);
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.add(&a, &config);
        let before = table();
        world.add(&b, &config);
        assert!(table().contains("dnp0a580003"));
        // Whatever the configuration says by now.
        world.del(&b, &merged(config.clone(), &json!({"macspoofchk": null, "ipam": {"type": "dhcp"}})));
        assert_eq!(table(), before);
        world.del(&a, &config);
        assert!(!table().contains("dnp"), "{}", table());
        world.del(&a, &config);
        // Nobody is left of the network whose ranges change, so all of it begins anew.
        let other =
            merged(config, &json!({"macspoofchk": null, "ipam": {"ranges": [[{"subnet": "10.90.0.0/24"}]]}}));
        world.add(&world.pod("c"), &other);
        assert!(!nft("list tables").contains("bridge"), "{}", nft("list tables"));
    });
}

#[test]
fn a_failed_add_leaves_no_check() {
    on_fresh_host(|world| {
        let config = checked(world);
        world.add(&world.pod("first"), &config);
        let before = table();
        let pod = world.pod("pod");
        pod.run(|| ip("link add eth0 type veth peer name other"));
        assert_eq!(world.run("ADD", &pod, &config).error().0, 101);
        assert_eq!(table(), before);
    });
}

#[test]
fn routed_pods_cannot_deceive_anybody_so_there_is_nothing_to_check() {
    on_fresh_host(|world| {
        let (pod, peer) = (world.pod("pod"), world.pod("peer"));
        let config = world.config_with(&json!({"macspoofchk": true}));
        let (result, to_peer) = (world.add(&pod, &config), ipv4(&world.add(&peer, &config)));
        assert_eq!(result["ips"][0]["address"], "10.88.0.2/32");
        assert!(!nft("list tables").contains("bridge"));
        pretend(&pod, SPOOFED);
        assert!(!reaches(&pod, &peer, to_peer), "what is sent to it has the address that it was given");
        assert!(!ip("neigh").contains(SPOOFED), "{}", ip("neigh"));
    });
}

fn check(world: &World, pod: &Pod, config: &Value, result: &Value) -> world::Answer {
    world.run("CHECK", pod, &merged(config.clone(), &json!({"prevResult": result})))
}

#[test]
fn check_notices_that_nobody_checks_and_status_or_the_next_pod_begins_again() {
    on_fresh_host(|world| {
        let config = checked(world);
        let (a, b) = (world.pod("a"), world.pod("b"));
        let result = world.add(&a, &config);
        // Attached without, and so left alone.
        world.add(&world.pod("free"), &merged(config.clone(), &json!({"macspoofchk": false})));
        assert!(check(world, &a, &config, &result).ok().is_null());
        let before = nft("list ruleset");
        for tamper in ["flush set bridge dunnage checked", "flush set bridge dunnage own", "flush ruleset"] {
            nft(tamper);
            let (code, _, details) = check(world, &a, &config, &result).error();
            assert!(code == 103 && details.contains("nobody checks whether frames"), "{tamper}: {details}");
        }
        assert!(world.run_alone("STATUS", &config).ok().is_null());
        assert_eq!(nft("list ruleset"), before);
        nft("delete table bridge dunnage");
        world.add(&b, &config);
        assert!(check(world, &a, &config, &result).ok().is_null());
        world.del(&b, &config);
        assert_eq!(nft("list ruleset"), before);
    });
}

#[test]
fn each_network_restores_its_own_pods() {
    on_fresh_host(|world| {
        let named = |name: &str| {
            let mut config = checked(world);
            config["name"] = name.into();
            merged(config, &json!({"ipam": null}))
        };
        let (one, other) = (named("one"), named("other"));
        world.add(&world.pod("a"), &one);
        world.add(&world.pod("b"), &other);
        let before = table();
        nft("flush ruleset");
        for config in [&one, &other] {
            assert!(world.run_alone("STATUS", config).ok().is_null());
        }
        assert_eq!(table(), before);
    });
}

#[test]
fn gc_forgets_ports_of_pods_that_are_gone_and_leaves_those_of_others() {
    on_fresh_host(|world| {
        let config = checked(world);
        let kept = world.pod("kept");
        world.add(&kept, &config);
        let mut other = merged(config.clone(), &json!({"ipam": null}));
        other["name"] = "other".into();
        world.add(&world.pod("of-another-network"), &other);
        let before = table();
        let gone = world.pod("gone");
        world.add(&gone, &config);
        // Of an attachment that even the lease table has forgotten.
        nft("add element bridge dunnage checked { dnp0a5800ff }");
        nft("add element bridge dunnage own { dnp0a5800ff . 02:00:00:00:00:01 }");
        let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
        assert!(
            world
                .run_alone("GC", &merged(config, &json!({"cni.dev/valid-attachments": valid})))
                .ok()
                .is_null()
        );
        assert_eq!(table(), before);
    });
}

#[test]
fn a_table_of_the_same_name_that_is_somebody_else_s_is_left_alone() {
    on_fresh_host(|world| {
        nft("add table bridge dunnage");
        let pod = world.pod("pod");
        let (code, msg, _) = world.run("ADD", &pod, &checked(world)).error();
        assert_eq!((code, msg.starts_with("nftables table bridge dunnage exists and")), (7, true), "{msg}");
        assert_eq!(nft("list ruleset"), "table bridge dunnage {\n}\n");
        assert!(!ip("-o link").contains("dnp"));
    });
}

#[test]
fn pods_that_came_at_once_come_back_after_a_flush_together() {
    on_fresh_host(|world| {
        let config = checked(world);
        let pods: Vec<Pod> = (0..40).map(|number| world.pod(&format!("pod{number}"))).collect();
        let host = world.host();
        std::thread::scope(|scope| {
            for pod in &pods {
                let (host, config) = (&host, &config);
                scope.spawn(move || host.run(|| drop(world.add(pod, config))).unwrap());
            }
        });
        let before = table();
        assert_eq!(before.matches("da:d0:").count(), 40);
        nft("flush ruleset");
        assert!(world.run_alone("STATUS", &config).ok().is_null());
        assert_eq!(table(), before);
    });
}

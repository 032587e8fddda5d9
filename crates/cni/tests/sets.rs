//! Pods with an address of each set of ranges, several of one family: which they get, what reaches them, and what is
//! given back.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::{Value, json};
use world::{OUTSIDE, PATIENCE, Pod, UPLINK, World, address, ip, merged, nft, on_fresh_host, seen_as};

const OUTSIDE6: &str = "2001:db8:1::2";
const UPLINK6: &str = "2001:db8:1::1";

/// Two of each family, mixed, one of them of several ranges and one a part of its subnet.
fn sets() -> Value {
    json!([
        [{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}],
        [{"subnet": "10.1.0.0/24"}],
        [{"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.100", "gateway": "10.2.0.254"}],
        [{"subnet": "fd00:3::/64"}],
    ])
}

fn with(world: &World, ranges: &Value) -> Value {
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    world.config_with(&json!({"cniVersion": "1.1.0", "ipam": {"ranges": ranges, "routes": routes}}))
}

fn asking(config: &Value, ips: &[&str]) -> Value {
    merged(config.clone(), &json!({"runtimeConfig": {"ips": ips}}))
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    (0..ips.len()).map(|number| address(result, number).to_string()).collect()
}

fn address_of(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// As whom a packet of a pod comes that is sent from one of its addresses.
fn seen_from(pod: &Pod, source: IpAddr, to: &Pod, at: IpAddr) -> IpAddr {
    let receiver = to.run(|| UdpSocket::bind((at, 9)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = pod.run(|| UdpSocket::bind((source, 0)).unwrap());
    sender.send_to(b"x", (at, 9)).unwrap();
    receiver.recv_from(&mut [0; 1]).unwrap().1.ip()
}

fn every_address_is_reached(world: &World, mode: &str) {
    let outside = world.outside();
    let config = merged(with(world, &sets()), &json!({"mode": mode}));
    let ports = json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
    let (server, client) = (world.pod("server"), world.pod("client"));
    let (other, prefixes) = (world.pod("other"), if mode == "routed" { (32, 128) } else { (24, 64) });
    world.add(&other, &config);
    let before = world.census();
    let served = world.add(&server, &merged(config.clone(), &ports));
    let asked = world.add(&client, &config);
    let index = served["interfaces"].as_array().unwrap().len() - 1;
    let told = [
        ("fd00:1::3", prefixes.1, "fd00:1::1"),
        ("10.1.0.3", prefixes.0, "10.1.0.1"),
        ("10.2.0.101", prefixes.0, "10.2.0.254"),
        ("fd00:3::3", prefixes.1, "fd00:3::1"),
    ]
    .map(|(address, prefix, gateway)| {
        json!({"address": format!("{address}/{prefix}"), "gateway": gateway, "interface": index})
    });
    assert_eq!(served["ips"], json!(told), "one of each set, in their order");
    let host = world.host();
    for number in 0..4 {
        let (to, from) = (address(&served, number), address(&asked, number));
        for (place, what) in [(&client.netns, "pod to pod"), (&host, "host to pod")] {
            let seen = seen_as(place, &server.netns, 80, (to, 80).into());
            assert!(seen.is_ok(), "{what}: {to}: {seen:?}");
        }
        assert_eq!(seen_from(&client, from, &server, to), from, "pod to pod, with its source");
        let (out, up): (IpAddr, IpAddr) = if to.is_ipv4() {
            (OUTSIDE.into(), UPLINK.into())
        } else {
            (OUTSIDE6.parse().unwrap(), UPLINK6.parse().unwrap())
        };
        assert_eq!(seen_from(&client, from, &outside, out), up, "pod to outside, masqueraded");
        let through = seen_as(&outside.netns, &server.netns, 80, SocketAddr::new(up, 8080));
        assert_eq!(through.unwrap(), out, "host port");
    }
    let ports_of = |map: &str| nft(&format!("-n list map inet dunnage {map}"));
    assert!(ports_of("hp4").contains("10.1.0.3 . 80") && ports_of("hp6").contains("fd00:1::3 . 80"));
    for (set, nets) in [("4", ["10.1.0.0/24", "10.2.0.0/24"]), ("6", ["fd00:1::/64", "fd00:3::/64"])] {
        for kind in ["pods", "masq"] {
            let shown = nft(&format!("list set inet dunnage {kind}{set}"));
            assert!(nets.iter().all(|net| shown.contains(net)), "{shown}");
        }
    }
    let gateways = ip(if mode == "routed" { "addr show lo" } else { "addr show cni0" });
    for gateway in ["10.1.0.1", "10.2.0.254", "fd00:1::1", "fd00:3::1"] {
        assert!(gateways.contains(&format!(" {gateway}/")), "{gateway}: {gateways}");
    }
    let check = || {
        world.run("CHECK", &server, &merged(merged(config.clone(), &ports), &json!({"prevResult": served})))
    };
    assert!(check().success, "{:?}", check());
    server.run(|| ip(&format!("addr del 10.2.0.101/{} dev eth0", prefixes.0)));
    let (code, _, details) = check().error();
    assert!(code == 103 && details.contains("address 10.2.0.101/"), "{details}");
    world.del(&server, &config);
    world.del(&client, &config);
    world::eventually(|| world.census() == before);
}

#[test]
fn routed_pods_are_reached_by_every_address() {
    on_fresh_host(|world| every_address_is_reached(world, "routed"));
}

#[test]
fn bridged_pods_are_reached_by_every_address() {
    on_fresh_host(|world| every_address_is_reached(world, "bridged"));
}

fn ipv6_alone_of_several_ranges(world: &World, mode: &str) {
    let ranges =
        json!([[{"subnet": "fd00:1::/126"}, {"subnet": "fd00:2::/125"}], [{"subnet": "fd00:3::/64"}]]);
    let config = merged(with(world, &ranges), &json!({"mode": mode}));
    let pods: Vec<Pod> = (0..9).map(|number| world.pod(&format!("pod{number}"))).collect();
    let told: Vec<Value> = pods[..8].iter().map(|pod| world.add(pod, &config)).collect();
    let given: Vec<String> = told.iter().map(|result| address(result, 0).to_string()).collect();
    assert_eq!(
        given,
        [
            "fd00:1::2",
            "fd00:1::3",
            "fd00:2::2",
            "fd00:2::3",
            "fd00:2::4",
            "fd00:2::5",
            "fd00:2::6",
            "fd00:2::7"
        ]
    );
    let macs: BTreeSet<String> = told
        .iter()
        .map(|result| result["interfaces"].as_array().unwrap().last().unwrap()["mac"].to_string())
        .collect();
    assert_eq!(macs.len(), 8, "the same ends of two ranges are not the same link-layer address");
    for number in 0..2 {
        let to = address(&told[0], number);
        assert!(seen_as(&pods[2].netns, &pods[0].netns, 80, (to, 80).into()).is_ok(), "{to}");
    }
    let (code, msg, _) = world.run("ADD", &pods[8], &config).error();
    assert_eq!(
        (code, msg.as_str()),
        (11, "no free address in fd00:1::/126, fd00:2::/125: 8 of 8 are leased")
    );
    assert!(!ip("-4 addr").contains(" 0."), "what stands for IPv4 addresses is on no link");
    world.del(&pods[1], &config);
    assert_eq!(addresses(&world.add(&pods[8], &config))[0], "fd00:1::3");
}

#[test]
fn routed_pods_can_have_ipv6_alone_of_several_ranges() {
    on_fresh_host(|world| ipv6_alone_of_several_ranges(world, "routed"));
}

#[test]
fn bridged_pods_can_have_ipv6_alone_of_several_ranges() {
    on_fresh_host(|world| ipv6_alone_of_several_ranges(world, "bridged"));
}

#[test]
fn an_address_of_each_set_can_be_asked_for() {
    on_fresh_host(|world| {
        let config = with(world, &sets());
        let [a, b, c] = ["a", "b", "c"].map(|name| world.pod(name));
        let given = addresses(&world.add(&a, &asking(&config, &["10.2.0.177", "fd00:2::77", "fd00:3::7"])));
        assert_eq!(given, ["fd00:2::77", "10.1.0.2", "10.2.0.177", "fd00:3::7"]);
        for (ips, code, says) in [
            (&["10.2.0.177"][..], 102, "address 10.2.0.177 is in use"),
            (&["10.1.0.9", "fd00:2::77"], 102, "address fd00:2::77 is in use"),
            (&["fd00:1::9", "fd00:2::9"], 7, "is a second one of its set of ranges"),
            (&["10.2.0.99"], 7, "is not one that the network's ranges give to pods"),
            (&["10.2.0.254"], 7, "is not one that the network's ranges give to pods"),
        ] {
            let (found, msg, _) = world.run("ADD", &b, &asking(&config, ips)).error();
            assert!(found == code && msg.contains(says), "{ips:?}: {msg}");
        }
        let args = merged(config.clone(), &json!({"args": {"cni": {"ips": ["fd00:3::8"]}}}));
        assert_eq!(addresses(&world.add(&b, &args))[3], "fd00:3::8");
        world.del(&a, &config);
        assert_eq!(addresses(&world.add(&c, &asking(&config, &["10.2.0.177"])))[2], "10.2.0.177");
    });
}

#[test]
fn a_set_that_is_exhausted_is_named_and_leaves_nothing() {
    on_fresh_host(|world| {
        let ranges =
            json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}, {"subnet": "10.3.0.0/30"}]]);
        let config = with(world, &ranges);
        let pods: Vec<Pod> = (0..3).map(|number| world.pod(&format!("pod{number}"))).collect();
        assert_eq!(addresses(&world.add(&pods[0], &config)), ["10.1.0.2", "10.2.0.2"]);
        assert_eq!(addresses(&world.add(&pods[1], &config)), ["10.1.0.3", "10.3.0.2"]);
        let before = world.census();
        let (code, msg, _) = world.run("ADD", &pods[2], &config).error();
        assert_eq!(
            (code, msg.as_str()),
            (11, "no free address in 10.2.0.0/30, 10.3.0.0/30: 2 of 2 are leased")
        );
        assert_eq!(world.census(), before);
        // Nobody says that the first is gone, but its namespace is.
        let mut pods = pods;
        drop(pods.remove(0));
        world.wait_for_links_to_go("dnp0a010002");
        assert_eq!(addresses(&world.add(&pods[1], &config))[1], "10.2.0.2");
    });
}

#[test]
fn sets_come_and_go_while_pods_have_addresses_of_them() {
    on_fresh_host(|world| {
        let (a, b) = (json!([{"subnet": "10.1.0.0/24"}]), json!([{"subnet": "10.2.0.0/24"}]));
        let v6 = json!([{"subnet": "fd00:1::/64"}]);
        let configs = [json!([a]), json!([a, b]), json!([b, v6, a]), json!([v6]), json!([b])]
            .map(|sets| with(world, &sets));
        let pods: Vec<Pod> = (0..5).map(|number| world.pod(&format!("pod{number}"))).collect();
        let told: Vec<Vec<String>> =
            pods.iter().zip(&configs).map(|(pod, config)| addresses(&world.add(pod, config))).collect();
        let all: Vec<&String> = told.iter().flatten().collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 8, "{told:?}");
        for (pod, addresses) in pods.iter().zip(&told) {
            for at in addresses {
                let at = address_of(at);
                assert!(seen_as(&world.host(), &pod.netns, 80, (at, 80).into()).is_ok(), "{at} of {told:?}");
            }
        }
        // A configuration that cannot be used any more gives everything back all the same.
        let broken = merged(configs[0].clone(), &json!({"ipam": {"ranges": "none"}}));
        for (number, pod) in pods.iter().enumerate() {
            world.del(pod, if number % 2 == 0 { &broken } else { &configs[0] });
        }
        let asked = asking(&configs[1], &["10.1.0.2", "10.2.0.2"]);
        assert_eq!(addresses(&world.add(&pods[0], &asked)), ["10.1.0.2", "10.2.0.2"]);
    });
}

#[test]
fn ranges_of_the_runtime_are_one_more_address_for_one_pod() {
    on_fresh_host(|world| {
        let config = with(world, &json!([[{"subnet": "10.1.0.0/24"}]]));
        let (plain, more) = (world.pod("plain"), world.pod("more"));
        let dynamic = json!([[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]);
        let dynamic = json!({"runtimeConfig": {"ipRanges": dynamic}});
        assert_eq!(addresses(&world.add(&plain, &config)), ["10.1.0.2"]);
        let given = addresses(&world.add(&more, &merged(config.clone(), &dynamic)));
        assert_eq!((given[0].as_str(), given.len()), ("10.7.0.2", 3));
        assert!(given[1].starts_with("fd00:7::") && given[2].starts_with("10.1.0."), "{given:?}");
        assert_ne!(given[2], "10.1.0.2");
        for at in &given {
            let at = address_of(at);
            assert!(seen_as(&world.host(), &more.netns, 80, (at, 80).into()).is_ok(), "{at}");
        }
        assert!(seen_as(&plain.netns, &more.netns, 80, (address_of(&given[0]), 80).into()).is_ok());
        world.del(&more, &config);
        world.del(&plain, &config);
    });
}

#[test]
fn all_leases_of_a_pod_of_host_local_are_taken_over_and_go_with_it() {
    on_fresh_host(|world| {
        let files = world.path("host-local").join("net");
        std::fs::create_dir_all(&files).unwrap();
        let taken = ["fd00:2::3", "10.1.0.2", "10.2.0.100", "fd00:3::2"];
        for name in taken {
            std::fs::write(files.join(name), "old\r\neth0").unwrap();
        }
        std::fs::write(files.join("10.2.0.101"), "somebody\r\neth0").unwrap();
        let config = with(world, &sets());
        let [old, new, next] = ["old", "new", "next"].map(|name| world.pod(name));
        assert_eq!(
            addresses(&world.add(&new, &config)),
            ["fd00:1::3", "10.1.0.3", "10.2.0.102", "fd00:3::3"]
        );
        for name in taken {
            let (code, _, _) = world.run("ADD", &next, &asking(&config, &[name])).error();
            assert_eq!(code, 102, "{name}");
        }
        assert_eq!(world.run("ADD", &old, &config).error().0, 101);
        world.del(&old, &config);
        let left: Vec<String> = std::fs::read_dir(&files)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, ["10.2.0.101"]);
        assert_eq!(addresses(&world.add(&next, &asking(&config, &taken))), taken);
        // One that has nothing but a further address.
        world.del(&world.pod("somebody"), &config);
        assert!(!files.join("10.2.0.101").exists());
    });
}

#[test]
fn gc_takes_back_every_address_of_a_pod_that_is_gone() {
    on_fresh_host(|world| {
        let config = with(world, &sets());
        let [kept, gone, next] = ["kept", "gone", "next"].map(|name| world.pod(name));
        world.add(&kept, &config);
        let given = addresses(&world.add(&gone, &config));
        let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
        let gc = merged(config.clone(), &json!({"cni.dev/valid-attachments": valid}));
        let answer = world.run_alone("GC", &gc);
        assert!(answer.success, "{answer:?}");
        for address in ["10.1.0.3", "10.2.0.101", "fd00:1::3", "fd00:3::3"] {
            assert!(
                answer.stderr.contains(&format!("took back address {address} of eth0 of gone")),
                "{answer:?}"
            );
        }
        assert_eq!(answer.stderr.lines().count(), 4, "nothing of the other: {}", answer.stderr);
        let ips: Vec<&str> = given.iter().map(String::as_str).collect();
        assert_eq!(addresses(&world.add(&next, &asking(&config, &ips))), given);
        assert_eq!(world.run_alone("GC", &gc).stderr.lines().count(), 4);
    });
}

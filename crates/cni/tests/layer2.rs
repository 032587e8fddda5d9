//! Networks without addresses: a pod gets an interface on a bridge, and what it says there is its own affair.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use serde_json::{Value, json};
use world::{Pod, World, address, ip, merged, nft, on_fresh_host, seen_as};

/// As people have it for `bridge`.
fn config(world: &World) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "dunnage-cni", "bridge": "cni0", "ipam": {},
        "stateDir": world.path("state")})
}

fn config_with(world: &World, changes: &Value) -> Value {
    merged(config(world), changes)
}

fn mac(result: &Value) -> &str {
    result["interfaces"][2]["mac"].as_str().unwrap()
}

fn give_address(pod: &Pod, address: &str) {
    pod.run(|| ip(&format!("addr add {address} dev eth0")));
}

#[test]
fn pods_get_interfaces_on_one_bridge_and_reach_each_other_by_addresses_of_their_own() {
    on_fresh_host(|world| {
        let before = world.census();
        let config = config(world);
        let (a, b) = (world.pod("a"), world.pod("b"));
        let (to_a, to_b) = (world.add(&a, &config), world.add(&b, &config));
        let interfaces = json!([
            {"name": "cni0"},
            {"name": "dnp00000002", "mac": "de:d0:00:00:00:02"},
            {"name": "eth0", "mac": mac(&to_b), "sandbox": b.netns.path()},
        ]);
        assert_eq!(to_b, json!({"cniVersion": "1.1.0", "interfaces": interfaces, "dns": {}}));
        assert!(b.run(|| ip("link show eth0")).contains(mac(&to_b)));
        assert_ne!(mac(&to_a), mac(&to_b));
        for pod in [&a, &b] {
            assert_eq!(pod.run(|| ip("-4 addr show eth0") + &ip("route")), "", "nothing but the interface");
            assert!(pod.run(|| ip("link show lo")).contains(",UP"));
        }
        assert_eq!((nft("list ruleset"), ip("-4 addr show cni0")), (String::new(), String::new()));
        give_address(&a, "192.0.2.1/24");
        give_address(&b, "192.0.2.2/24");
        let seen = seen_as(&a.netns, &b.netns, 80, ([192, 0, 2, 2], 80).into()).unwrap();
        assert_eq!(seen.to_string(), "192.0.2.1");
        let check = |pod: &Pod, result: &Value| {
            world.run("CHECK", pod, &merged(config.clone(), &json!({"prevResult": result})))
        };
        assert!(check(&a, &to_a).ok().is_null(), "addresses that others added are no difference");
        ip("link set dnp00000001 nomaster");
        let (code, _, details) = check(&a, &to_a).error();
        assert_eq!((code, details.as_str()), (103, "link dnp00000001 is not a port of bridge cni0"));
        for pod in [&a, &b] {
            world.del(pod, &config);
            world.del(pod, &config);
        }
        world.wait_for_links_to_go("dnp");
        ip("link del cni0");
        let mut after = world.census();
        after.files.clear();
        assert_eq!(after, before);
    });
}

#[test]
fn a_bridge_without_addresses_has_an_own_address_and_believes_no_router() {
    on_fresh_host(|world| {
        world.add(&world.pod("a"), &config_with(world, &json!({"mtu": 1400, "isDefaultGateway": true})));
        let bridge = ip("addr show cni0");
        assert!(bridge.contains("mtu 1400") && bridge.contains("link/ether d6:d0:"), "{bridge}");
        assert!(!bridge.contains("inet"), "{bridge}");
        let switch = |key: &str| std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap();
        assert_eq!(switch("ipv6/conf/cni0/accept_ra"), "0\n");
        assert_eq!(switch("ipv4/ip_forward"), "0\n");
    });
}

#[test]
fn somebody_else_s_bridge_stays_as_it_is() {
    on_fresh_host(|world| {
        ip("link add cni0 address 02:00:00:00:00:07 type bridge");
        ip("addr add 192.0.2.9/24 dev cni0");
        ip("link set cni0 up");
        let told = || {
            let kept = ["accept_ra", "addr_gen_mode", "accept_dad"];
            let switch =
                |key| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/cni0/{key}")).unwrap();
            (kept.map(switch), ip("-4 addr show cni0 scope global"))
        };
        let (switches, addresses) = told();
        let pod = world.pod("a");
        world.add(&pod, &config(world));
        give_address(&pod, "192.0.2.1/24");
        assert!(seen_as(&pod.netns, &world.host(), 80, ([192, 0, 2, 9], 80).into()).is_ok());
        assert_eq!(told().0, switches);
        assert!(addresses.contains("192.0.2.9/24") && told().1.contains("192.0.2.9/24"));
        world.del(&pod, &config(world));
        assert!(ip("link show cni0").contains("02:00:00:00:00:07"));
    });
}

#[test]
fn an_interface_can_be_left_down_and_then_has_no_address() {
    on_fresh_host(|world| {
        let config =
            config_with(world, &json!({"disableContainerInterface": true, "ipam": null, "promisc": true}));
        let pod = world.pod("a");
        let result = world.add(&pod, &config);
        let link = pod.run(|| ip("link show eth0"));
        assert!(link.contains("state DOWN") && !link.contains(",UP") && link.contains("PROMISC"), "{link}");
        let told = merged(config.clone(), &json!({"prevResult": result}));
        assert!(world.run("CHECK", &pod, &told).ok().is_null());
        give_address(&pod, "192.0.2.1/24");
        pod.run(|| ip("link set eth0 up"));
        assert!(world.run("CHECK", &pod, &told).ok().is_null(), "whoever wants it up may bring it up");
        world.del(&pod, &config);
        let with_addresses = world.config_with(&json!({"disableContainerInterface": true}));
        let (code, msg, _) = world.run("ADD", &world.pod("b"), &with_addresses).error();
        assert_eq!((code, msg.as_str()), (7, "disableContainerInterface and ipam exclude each other"));
    });
}

#[test]
fn what_needs_an_address_is_refused_by_name() {
    on_fresh_host(|world| {
        let pod = world.pod("a");
        let port = json!([{"hostPort": 80, "containerPort": 80}]);
        for (changes, says) in [
            (json!({"mode": "routed"}), "mode \"routed\" needs ipam"),
            (json!({"ipam": null, "bridge": null}), "ipam is missing"),
            (json!({"ipam": {"subnet": "10.1.0.0/16"}}), "ipam.type \"\" is not supported"),
            (
                json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/16"}]]}}),
                "runtimeConfig.ipRanges needs ipam",
            ),
            (
                json!({"runtimeConfig": {"ips": ["10.1.0.7"]}}),
                "address \"10.1.0.7\": cannot be given, because the network has no IPv4 range",
            ),
            (
                json!({"runtimeConfig": {"portMappings": port}}),
                "host port \"80/tcp\": leads to a pod without an address",
            ),
        ] {
            let (code, msg, _) = world.run("ADD", &pod, &config_with(world, &changes)).error();
            assert_eq!((code, msg.as_str()), (7, says), "{changes}");
            assert!(!ip("-o link").contains("cni0"), "{changes}");
        }
    });
}

#[test]
fn behind_another_plugin_keys_of_a_bridge_make_an_interface_and_others_add_to_it() {
    on_fresh_host(|world| {
        let pod = world.pod("a");
        let before = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}], "ips": [{"address": "192.0.2.7/24"}]});
        let config = config_with(world, &json!({"ipam": null, "prevResult": before}));
        let result = world.add(&pod, &config);
        assert_eq!(
            (result["interfaces"].as_array().unwrap().len(), address(&result, 0).to_string()),
            (4, "192.0.2.7".into())
        );
        assert_eq!(result["interfaces"][3]["name"], "eth0");
        let (code, msg, _) = world.run("ADD", &pod, &config).error();
        assert_eq!((code, msg.as_str()), (101, "eth0 of a is attached already"));
        let tuning = config_with(
            world,
            &json!({"ipam": null, "bridge": null, "prevResult": result, "mtu": 1400, "allmulti": true}),
        );
        assert_eq!(world.run("ADD", &pod, &tuning).ok(), result);
        let link = pod.run(|| ip("link show eth0"));
        assert!(link.contains("mtu 1400") && link.contains("ALLMULTI"), "{link}");
        assert!(world.run("CHECK", &pod, &tuning).success);
        world.del(&pod, &tuning);
        world.del(&pod, &config);
        world.wait_for_links_to_go("dnp");
    });
}

#[test]
fn gc_and_the_end_of_a_namespace_give_places_back() {
    on_fresh_host(|world| {
        let config = config(world);
        let (kept, gone) = (world.pod("kept"), world.pod("gone"));
        world.add(&kept, &config);
        let before = world.census();
        world.add(&gone, &config);
        assert!(world.run_alone("STATUS", &config).ok().is_null());
        let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
        let gc = merged(config.clone(), &json!({"cni.dev/valid-attachments": valid}));
        let answer = world.run_alone("GC", &gc);
        assert!(
            answer.success && answer.stderr.contains("took back interface of eth0 of gone"),
            "{answer:?}"
        );
        drop(gone);
        world.wait_for_links_to_go("dnp00000002");
        assert_eq!(world.census(), before);
        // One that nobody has deleted.
        world.add(&world.pod("dead"), &config);
        let again = world.pod("dead");
        world.wait_for_links_to_go("dnp00000003");
        world.add(&again, &config);
    });
}

#[test]
fn networks_without_addresses_share_a_bridge_with_each_other_and_with_one_that_has_some() {
    on_fresh_host(|world| {
        let with = world.config_with(&json!({"mode": "bridged"}));
        let (one, other) = (config(world), config_with(world, &json!({"name": "other"})));
        let (a, b, c) = (world.pod("a"), world.pod("b"), world.pod("c"));
        let result = world.add(&a, &merged(with.clone(), &json!({"name": "with"})));
        world.add(&b, &one);
        world.add(&c, &other);
        give_address(&b, "10.88.200.1/16");
        give_address(&c, "10.88.200.2/16");
        let to_a = address(&result, 0);
        for pod in [&b, &c] {
            assert!(seen_as(&pod.netns, &a.netns, 80, (to_a, 80).into()).is_ok());
        }
        assert!(seen_as(&b.netns, &c.netns, 80, ([10, 88, 200, 2], 80).into()).is_ok());
        world.del(&b, &one);
        world.del(&c, &other);
        assert!(ip("link show cni0").contains("cni0"), "the bridge is the other's, too");
        world.del(&a, &merged(with, &json!({"name": "with"})));
    });
}

//! Addresses: many at once, all of them, those of another plugin, and ranges that change under running pods.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use world::{Pod, World, address, ip, merged, on_fresh_host, seen_as};

fn ranges(ranges: &Value) -> Value {
    json!({"ipam": {"ranges": ranges}})
}

#[test]
fn sixty_four_pods_at_once_get_sixty_four_working_addresses() {
    on_fresh_host(|world| {
        let pods: Vec<Pod> = (0..64).map(|number| world.pod(&format!("pod{number}"))).collect();
        let host = world.host();
        let config = world.config();
        let addresses: Vec<IpAddr> = std::thread::scope(|scope| {
            let add = |pod| host.run(|| address(&world.add(pod, &config), 0)).unwrap();
            let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 64);
        for ((from, to), at) in pods.iter().zip(&pods[1..]).zip(&addresses[1..]) {
            assert!(seen_as(&from.netns, &to.netns, 80, (*at, 80).into()).is_ok());
        }
        std::thread::scope(|scope| {
            for pod in &pods {
                let (host, config) = (&host, &config);
                scope.spawn(move || host.run(|| world.del(pod, config)).unwrap());
            }
        });
        world.wait_for_links_to_go("dnp");
    });
}

#[test]
fn all_addresses_of_all_ranges_are_given_and_then_it_says_so() {
    on_fresh_host(|world| {
        let config = world.config_with(&ranges(&json!([
            [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12"}, {"subnet": "10.2.0.0/30"}],
            [{"subnet": "fd00::/64", "rangeStart": "fd00::100"}],
        ])));
        let config = merged(config, &json!({"ipam": {"exclude": ["10.1.0.11/32"]}}));
        let pods: Vec<Pod> = (0..4).map(|number| world.pod(&format!("pod{number}"))).collect();
        let given: Vec<Value> = pods[..3].iter().map(|pod| world.add(pod, &config)["ips"].clone()).collect();
        let told: Vec<String> = given
            .iter()
            .map(|ips| format!("{} {} {}", ips[0]["address"], ips[0]["gateway"], ips[1]["address"]))
            .collect();
        assert_eq!(
            told,
            [
                r#""10.1.0.10/32" "10.1.0.1" "fd00::10a/128""#,
                r#""10.1.0.12/32" "10.1.0.1" "fd00::10c/128""#,
                r#""10.2.0.2/32" "10.2.0.1" "fd00::202/128""#,
            ]
        );
        let (code, msg, details) = world.run("ADD", &pods[3], &config).error();
        assert_eq!(
            (code, msg.as_str()),
            (11, "no free address in 10.1.0.0/24, 10.2.0.0/30: 3 of 3 are leased")
        );
        assert!(details.contains("GC"), "{details}");
        world.del(&pods[1], &config);
        assert_eq!(address(&world.add(&pods[3], &config), 0).to_string(), "10.1.0.12");
    });
}

#[test]
fn the_last_address_of_a_slash_16_is_given_like_the_first() {
    on_fresh_host(|world| {
        let dir = world.path("host-local").join("net");
        std::fs::create_dir_all(&dir).unwrap();
        let net = u32::from(Ipv4Addr::new(10, 88, 0, 0));
        for number in 2..65_534 {
            let address = Ipv4Addr::from(net + number);
            std::fs::write(dir.join(address.to_string()), format!("other{number}\r\neth0")).unwrap();
        }
        let (last, late) = (world.pod("last"), world.pod("late"));
        assert_eq!(address(&world.add(&last, &world.config()), 0).to_string(), "10.88.255.254");
        let (code, msg, _) = world.run("ADD", &late, &world.config()).error();
        assert_eq!((code, msg.as_str()), (11, "no free address in 10.88.0.0/16: 65533 of 65533 are leased"));
        world.del(&last, &world.config());
        assert_eq!(address(&world.add(&late, &world.config()), 0).to_string(), "10.88.255.254");
    });
}

#[test]
fn both_addresses_can_be_asked_for_even_when_they_do_not_go_together() {
    on_fresh_host(|world| {
        let config =
            world.config_with(&ranges(&json!([[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00::/64"}]])));
        let asked = |ips: Value| merged(config.clone(), &json!({"runtimeConfig": {"ips": ips}}));
        let (a, b, c, d) = (world.pod("a"), world.pod("b"), world.pod("c"), world.pod("d"));
        let result = world.add(&a, &asked(json!(["10.88.0.9", "fd00::5"])));
        assert_eq!(
            (address(&result, 0).to_string(), address(&result, 1).to_string()),
            ("10.88.0.9".into(), "fd00::5".into())
        );
        let (code, msg, _) = world.run("ADD", &b, &asked(json!(["fd00::5"]))).error();
        assert_eq!((code, msg.as_str()), (102, "address 10.88.0.5 is in use"), "its place is kept");
        let result = world.add(&b, &asked(json!(["fd00::7"])));
        assert_eq!(address(&result, 0).to_string(), "10.88.0.7", "the one that goes with it");
        let (code, msg, _) = world.run("ADD", &c, &asked(json!(["10.88.0.11", "10.88.0.12"]))).error();
        assert_eq!((code, msg.contains("is a second one of its set of ranges")), (7, true), "{msg}");
        world.del(&a, &config);
        let result = world.add(&d, &asked(json!(["10.88.0.5"])));
        assert_eq!(address(&result, 1).to_string(), "fd00::5", "free with its pod");
    });
}

#[test]
fn ranges_can_change_while_pods_have_addresses_of_the_old_ones() {
    on_fresh_host(|world| {
        let (old, new) = (world.pod("old"), world.pod("new"));
        let before = world.config_with(&ranges(&json!([[{"subnet": "10.88.0.0/24"}]])));
        let after =
            world.config_with(&ranges(&json!([[{"subnet": "10.99.0.0/24"}, {"subnet": "10.88.0.0/16"}]])));
        let to_old = address(&world.add(&old, &before), 0);
        let to_new = address(&world.add(&new, &after), 0);
        assert_ne!(to_old, to_new);
        assert!(seen_as(&old.netns, &new.netns, 80, (to_new, 80).into()).is_ok());
        assert!(seen_as(&new.netns, &old.netns, 80, (to_old, 80).into()).is_ok());
        world.del(&old, &after);
        world.del(&new, &after);
    });
}

#[test]
fn live_pods_of_host_local_keep_their_addresses_and_their_files_go_with_them() {
    on_fresh_host(|world| {
        let (old, new) = (world.pod("old"), world.pod("new"));
        let dir = world.path("host-local").join("net");
        std::fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("10.88.0.2", "old\r\neth0");
        write("fd00::5", "old\r\neth0");
        write("10.88.0.3", "somebody\r\neth0");
        write("last_reserved_ip.0", "10.88.0.3");
        // What the other plugin has made, seen from inside.
        old.run(|| ip("link add eth0 type veth peer name other"));
        let config =
            world.config_with(&ranges(&json!([[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00::/64"}]])));
        let ips: Vec<String> = (0..3)
            .map(|number| world.pod(&format!("pod{number}")))
            .map(|pod| address(&world.add(&pod, &config), 0).to_string())
            .collect();
        assert_eq!(
            ips,
            ["10.88.0.4", "10.88.0.6", "10.88.0.7"],
            "10.88.0.5 goes with the IPv6 address of another"
        );
        assert_eq!(world.run("ADD", &old, &config).error().0, 101);
        world.del(&old, &config);
        assert!(!old.run(|| ip("-o link")).contains("eth0"));
        assert!(
            !dir.join("10.88.0.2").exists()
                && !dir.join("fd00::5").exists()
                && dir.join("10.88.0.3").exists()
        );
        let asked = merged(config, &json!({"runtimeConfig": {"ips": ["10.88.0.2"]}}));
        assert_eq!(address(&world.add(&new, &asked), 0).to_string(), "10.88.0.2");
    });
}

#[test]
fn a_pod_of_host_local_goes_with_its_file_when_a_list_has_more_entries() {
    on_fresh_host(|world| {
        let files = world.path("host-local").join("net");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("10.88.0.7"), "old\r\neth0").unwrap();
        world.add(&world.pod("new"), &world.config());
        let old = world.pod("old");
        // In reverse, as a runtime does it.
        world.del(&old, &json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state"),
            "capabilities": {"portMappings": true}}));
        assert!(files.join("10.88.0.7").exists());
        world.del(&old, &world.config());
        assert!(!files.join("10.88.0.7").exists());
    });
}

#[test]
fn ipv6_alone_is_given_to_the_last_address_and_taken_over_from_host_local() {
    on_fresh_host(|world| {
        let files = world.path("host-local").join("net");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("fd00:88::3"), "old\r\neth0").unwrap();
        let config =
            world.config_with(&json!({"ipam": {"ranges": [[{"subnet": "fd00:88::/125"}]], "routes": null}}));
        let pods: Vec<Pod> = (0..6).map(|number| world.pod(&format!("pod{number}"))).collect();
        let given: Vec<String> =
            pods[..5].iter().map(|pod| address(&world.add(pod, &config), 0).to_string()).collect();
        assert_eq!(given, ["fd00:88::4", "fd00:88::5", "fd00:88::6", "fd00:88::7", "fd00:88::2"]);
        let (code, msg, _) = world.run("ADD", &pods[5], &config).error();
        assert_eq!((code, msg.as_str()), (11, "no free address in fd00:88::/125: 6 of 6 are leased"));
        let old = world.pod("old");
        world.del(&old, &config);
        assert!(!files.join("fd00:88::3").exists());
        assert_eq!(address(&world.add(&pods[5], &config), 0).to_string(), "fd00:88::3");
    });
}

#[test]
fn a_pod_of_host_local_can_be_deleted_before_any_other_is_added() {
    on_fresh_host(|world| {
        let old = world.pod("old");
        let dir = world.path("host-local").join("net");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("10.88.0.2"), "old\r\neth0").unwrap();
        world.del(&old, &world.config());
        assert!(!dir.join("10.88.0.2").exists());
    });
}

#[test]
fn overlapping_networks_of_one_host_are_refused() {
    on_fresh_host(|world: &World| {
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.add(&a, &world.config());
        let before = world.census();
        let other = world
            .config_with(&json!({"name": "other", "ipam": {"ranges": [[{"subnet": "10.88.128.0/17"}]]}}));
        let (code, msg, _) = world.run("ADD", &b, &other).error();
        assert_eq!((code, msg.contains("overlaps that of another pod network")), (7, true), "{msg}");
        assert_eq!(world.census(), before);
    });
}

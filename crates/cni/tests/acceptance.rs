//! What people have in their configurations and runtimes, as they would notice it: several networks on one host and in
//! one pod, long names, odd values.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::net::IpAddr;

use serde_json::{Value, json};
use world::{Pod, World, address, eventually, ip, merged, nft, on_fresh_host, seen_as};

fn check(world: &World, pod: &Pod, config: &Value, result: &Value, ifname: &str) {
    let config = merged(config.clone(), &json!({"prevResult": result}));
    with_ifname(world, "CHECK", pod, &config, ifname).ok();
}

fn with_ifname(world: &World, verb: &str, pod: &Pod, config: &Value, ifname: &str) -> world::Answer {
    with_variable(world, verb, pod, config, "CNI_IFNAME", ifname)
}

fn with_variable(
    world: &World,
    verb: &str,
    pod: &Pod,
    config: &Value,
    key: &str,
    value: &str,
) -> world::Answer {
    let mut variables = pod.variables();
    variables.retain(|(name, _)| name != key);
    variables.push((key.to_owned(), value.to_owned()));
    world.run_program(world::PLUGIN.as_ref(), verb, &variables, config)
}

#[test]
fn a_subnet_in_which_another_network_has_pods_is_refused_and_they_live() {
    for mode in ["routed", "bridged"] {
        on_fresh_host(|world| {
            let config = world.config_with(&json!({"mode": mode}));
            let named = |name| merged(config.clone(), &json!({"name": name}));
            let (old, new) = (world.pod("old"), world.pod("new"));
            let result = world.add(&old, &named("one"));
            let before = world.census();
            let (code, msg, _) = world.run("ADD", &new, &named("other")).error();
            assert!(
                code == 7 && msg.contains("10.88.0.0/16") && msg.contains("cni-one"),
                "{mode}: {code} {msg}"
            );
            assert_eq!(world.census(), before, "{mode}");
            check(world, &old, &named("one"), &result, "eth0");
            // A network that has pods elsewhere cannot come there either.
            let elsewhere = merged(
                named("other"),
                &json!({"ipam": {"ranges": [[{"subnet": "10.99.0.0/16"}]]}, "bridge": "cni1"}),
            );
            world.add(&new, &elsewhere);
            let before = world.census();
            let late = world.pod("late");
            let grown = merged(
                elsewhere.clone(),
                &json!({"ipam": {"ranges": [[{"subnet": "10.99.0.0/16"}, {"subnet": "10.88.0.0/16"}]]}}),
            );
            assert_eq!(world.run("ADD", &late, &grown).error().0, 7);
            assert_eq!(world.census(), before, "{mode}");
            world.del(&new, &elsewhere);
            // Once it has none, the subnet can go over to a network of another name.
            world.del(&old, &named("one"));
            let result = world.add(&new, &named("other"));
            assert!(nft("list set inet dunnage masq4").contains("10.88.0.0/16"));
            check(world, &new, &named("other"), &result, "eth0");
        });
    }
}

#[test]
fn a_network_that_leaves_a_subnet_takes_nothing_from_the_one_that_is_there_now() {
    on_fresh_host(|world| {
        let named = |name, subnet: &str| {
            world.config_with(&json!({"name": name, "ipam": {"ranges": [[{"subnet": subnet}]]}}))
        };
        let (first, second, third) = (world.pod("first"), world.pod("second"), world.pod("third"));
        world.add(&first, &named("old", "10.88.0.0/16"));
        world.del(&first, &named("old", "10.88.0.0/16"));
        let result = world.add(&second, &named("new", "10.88.0.0/16"));
        world.add(&third, &named("old", "10.99.0.0/16"));
        check(world, &second, &named("new", "10.88.0.0/16"), &result, "eth0");
        assert!(nft("list set inet dunnage masq4").contains("10.88.0.0/16"));
    });
}

#[test]
fn a_pod_can_be_on_two_networks_that_both_have_a_default_route() {
    for mode in ["routed", "bridged"] {
        on_fresh_host(|world| {
            let keys = |name, bridge, v4, v6| {
                world.config_with(&json!({"name": name, "mode": mode, "bridge": bridge,
                    "ipam": {"ranges": [[{"subnet": v4}], [{"subnet": v6}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}))
            };
            let one = keys("one", "cni0", "10.88.0.0/16", "fd00:88::/64");
            let two = keys("two", "cni1", "10.99.0.0/16", "fd00:99::/64");
            let (pod, near, far) = (world.pod("pod"), world.pod("near"), world.pod("far"));
            let on_one = with_ifname(world, "ADD", &pod, &one, "eth0").ok();
            let on_two = with_ifname(world, "ADD", &pod, &two, "eth1").ok();
            check(world, &pod, &one, &on_one, "eth0");
            check(world, &pod, &two, &on_two, "eth1");
            for (config, neighbour, ours) in [(&one, &near, &on_one), (&two, &far, &on_two)] {
                let theirs = world.add(neighbour, config);
                for number in 0..2 {
                    let to: IpAddr = address(ours, number);
                    assert!(
                        seen_as(&neighbour.netns, &pod.netns, 80, (to, 80).into()).is_ok(),
                        "{mode}: to {to}"
                    );
                    let to: IpAddr = address(&theirs, number);
                    assert!(
                        seen_as(&pod.netns, &neighbour.netns, 80, (to, 80).into()).is_ok(),
                        "{mode}: to {to}"
                    );
                }
            }
            // One goes, and the other is as it was.
            assert!(with_ifname(world, "DEL", &pod, &two, "eth1").success);
            eventually(|| !pod.run(|| ip("-o link")).contains("eth1"));
            check(world, &pod, &one, &on_one, "eth0");
        });
    }
}

#[test]
fn a_route_to_the_pods_own_subnet_can_be_listed() {
    for mode in ["routed", "bridged"] {
        on_fresh_host(|world| {
            let config =
                world.config_with(&json!({"mode": mode, "ipam": {"routes": [{"dst": "10.88.0.0/16"}]}}));
            let (one, two) = (world.pod("one"), world.pod("two"));
            world.add(&one, &config);
            let result = world.add(&two, &config);
            check(world, &two, &config, &result, "eth0");
            assert_eq!(result["routes"][0]["dst"], "10.88.0.0/16");
            assert!(seen_as(&one.netns, &two.netns, 80, (address(&result, 0), 80).into()).is_ok(), "{mode}");
        });
    }
}

#[test]
fn a_route_that_is_listed_twice_is_told_as_what_it_is() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let routes = json!({"ipam": {"routes": [{"dst": "192.0.2.0/24"}, {"dst": "192.0.2.0/24"}]}});
        let (code, msg, details) = world.run("ADD", &pod, &world.config_with(&routes)).error();
        assert!(msg.contains("192.0.2.0/24") && msg.contains("EEXIST"), "{msg}");
        assert_eq!((code, details.as_str()), (100, ""));
    });
}

#[test]
fn an_mtu_too_small_for_ipv6_is_fine_without_ipv6() {
    for mode in ["routed", "bridged"] {
        on_fresh_host(|world| {
            let config = world.config_with(&json!({"mode": mode, "mtu": 1000}));
            let (one, two) = (world.pod("one"), world.pod("two"));
            world.add(&one, &config);
            let result = world.add(&two, &config);
            assert!(two.run(|| ip("link show eth0")).contains("mtu 1000"), "{mode}");
            check(world, &two, &config, &result, "eth0");
            assert!(seen_as(&one.netns, &two.netns, 80, (address(&result, 0), 80).into()).is_ok(), "{mode}");
        });
    }
}

#[test]
fn a_pod_with_the_longest_names_that_there_are_is_attached() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let args =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", "n".repeat(63), "p".repeat(253));
        with_variable(world, "ADD", &pod, &world.config(), "CNI_ARGS", &args).ok();
        assert!(ip("link show dnp0a580002").contains(&format!("alias {}/ppp", "n".repeat(63))));
    });
}

#[test]
fn container_ids_of_any_length_are_told_apart() {
    on_fresh_host(|world| {
        let config = world.config_with(&json!({"cniVersion": "1.1.0"}));
        // As nerdctl has them: the namespace, which may have 76 letters, and the container.
        let id = |end: char| format!("{}-{}{end}", "n".repeat(76), "f".repeat(63));
        let run = |verb, pod: &Pod, config: &Value, id: &str| {
            with_variable(world, verb, pod, config, "CNI_CONTAINERID", id)
        };
        let (one, two) = (world.pod("one"), world.pod("two"));
        let results = [run("ADD", &one, &config, &id('1')).ok(), run("ADD", &two, &config, &id('2')).ok()];
        assert_ne!(address(&results[0], 0), address(&results[1], 0));
        assert_eq!(run("ADD", &one, &config, &id('1')).error().0, 101);
        let checked = merged(config.clone(), &json!({"prevResult": results[1]}));
        run("CHECK", &two, &checked, &id('2')).ok();
        // GC knows it by its long name as well.
        let gc = merged(
            config.clone(),
            &json!({"cni.dev/valid-attachments": [{"containerID": id('2'), "ifname": "eth0"}]}),
        );
        world.run_alone("GC", &gc).ok();
        assert!(!ip("route").contains(&format!("{} dev", address(&results[0], 0))));
        run("CHECK", &two, &checked, &id('2')).ok();
        run("DEL", &two, &config, &id('2')).ok();
        assert!(!ip("route").contains(&format!("{} dev", address(&results[1], 0))));
    });
}

#[test]
fn host_ports_behind_the_first_entry_of_a_list_change_nothing_of_the_network() {
    for masquerades in [true, false] {
        on_fresh_host(|world| {
            let pod = world.pod("pod");
            let result = world.add(&pod, &world.config_with(&json!({"ipMasq": masquerades})));
            let sets = || ["pods4", "masq4"].map(|set| nft(&format!("list set inet dunnage {set}")));
            let before = sets();
            assert_eq!(before[1].contains("10.88.0.0/16"), masquerades);
            let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni",
                "stateDir": world.path("state"), "prevResult": result,
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}});
            world.run("ADD", &pod, &portmap).ok();
            assert!(nft("list map inet dunnage hp4").contains("10.88.0.2 . 80"));
            assert_eq!(sets(), before);
        });
    }
}

#[test]
fn a_switch_that_is_asked_for_counts_more_than_what_pods_get() {
    for mode in ["routed", "bridged"] {
        on_fresh_host(|world| {
            let pod = world.pod("pod");
            let key = "net.ipv4.conf.IFNAME.accept_redirects";
            world.add(&pod, &world.config_with(&json!({"mode": mode, "sysctl": {key: "1"}})));
            let read = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/accept_redirects");
            assert_eq!(pod.netns.run(read).unwrap().unwrap().trim(), "1", "{mode}");
        });
    }
}

#[test]
fn status_says_that_the_bridge_is_something_else() {
    on_fresh_host(|world| {
        let config = world.config_with(&json!({"cniVersion": "1.1.0", "mode": "bridged"}));
        world.run_alone("STATUS", &config).ok();
        ip("link add cni0 type veth peer name other");
        let (code, _, details) = world.run_alone("STATUS", &config).error();
        assert_eq!((code, details.as_str()), (50, "link cni0 exists and is not a bridge"));
        ip("link del cni0");
        world.add(&world.pod("pod"), &config);
        world.run_alone("STATUS", &config).ok();
    });
}

#[test]
fn a_pod_that_nobody_hears_of_is_not_attached() {
    on_fresh_host(|world| {
        let (first, pod) = (world.pod("first"), world.pod("pod"));
        world.add(&first, &world.config());
        let before = world.census();
        let mut deaf = std::process::Command::new("sh");
        deaf.args(["-c", "exec \"$0\" >/dev/full", world::PLUGIN]);
        let answer = world.run_command(deaf, "ADD", &pod.variables(), &world.config().to_string());
        assert!(!answer.success);
        assert_eq!(world.census(), before);
        assert!(!pod.run(|| ip("-o link")).contains("eth0"));
    });
}

#[test]
fn gc_knows_a_list_that_is_null_from_one_that_is_missing() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let config = world.config_with(&json!({"cniVersion": "1.1.0"}));
        world.add(&pod, &config);
        assert_eq!(world.run_alone("GC", &config).error().0, 7);
        assert!(ip("route").contains("10.88.0.2 dev"));
        let mut nothing = config;
        nothing["cni.dev/valid-attachments"] = Value::Null;
        let answer = world.run_alone("GC", &nothing);
        assert!(answer.success, "{answer:?}");
        assert!(!ip("route").contains("10.88.0.2 dev"));
    });
}

#[test]
fn pods_of_host_local_with_long_ids_keep_their_addresses() {
    on_fresh_host(|world| {
        let dir = world.path("host-local").join("net");
        std::fs::create_dir_all(&dir).unwrap();
        let id = format!("{}-{}", "n".repeat(20), "f".repeat(64));
        std::fs::write(dir.join("10.88.0.2"), format!("{id}\r\neth0")).unwrap();
        let pod = world.pod("pod");
        assert_eq!(address(&world.add(&pod, &world.config()), 0).to_string(), "10.88.0.3");
        let old = world.pod("old");
        assert!(with_variable(world, "DEL", &old, &world.config(), "CNI_CONTAINERID", &id).success);
        assert!(!dir.join("10.88.0.2").exists());
    });
}

#[test]
fn what_is_no_network_namespace_of_a_pod_is_told_as_such() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let host = world.host();
        for path in ["/proc/self/ns/mnt", host.path().to_str().unwrap()] {
            let answer = with_variable(world, "ADD", &pod, &world.config(), "CNI_NETNS", path);
            assert_eq!(answer.error().0, 8, "{path}");
            assert!(with_variable(world, "DEL", &pod, &world.config(), "CNI_NETNS", path).success, "{path}");
        }
    });
}

#[test]
fn keys_that_are_not_known_are_named_wherever_they_are() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        for (changes, says) in [
            (json!({"ipam": {"pool": 1}}), "unknown key ipam.pool with value 1"),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/16", "vlan": 1}]]}}),
                "unknown key ipam.ranges[0][0].vlan with value 1",
            ),
            (
                json!({"ipam": {"routes": [{"dst": "0.0.0.0/0", "via": "x"}]}}),
                "unknown key ipam.routes[0].via with value \"x\"",
            ),
            (json!({"dns": {"servers": []}}), "unknown key dns.servers with value []"),
            (json!({"runtimeConfig": {"qos": 1}}), "unknown key runtimeConfig.qos with value 1"),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 2, "name": "x"}]}}),
                "unknown key runtimeConfig.portMappings[0].name with value \"x\"",
            ),
            (
                json!({"runtimeConfig": {"bandwidth": {"ingressRate": 8000, "unshapedSubnets": ["10.0.0.0/8"]}}}),
                "unknown key runtimeConfig.bandwidth.unshapedSubnets with value [\"10.0.0.0/8\"]",
            ),
            (
                json!({"runtimeConfig": {"dns": {"nameservers": ["192.0.2.1"]}}}),
                "unknown key runtimeConfig.dns.nameservers with value [\"192.0.2.1\"]",
            ),
        ] {
            let (code, msg, _) = world.run("ADD", &pod, &world.config_with(&changes)).error();
            assert_eq!((code, msg.as_str()), (2, says));
        }
    });
}

#[test]
fn values_are_read_as_other_programs_write_them() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let file = world.path("resolv.conf");
        std::fs::write(&file, "nameserver fe80::1%eth0\nnameserver 192.0.2.53\n").unwrap();
        let config = world.config_with(&json!({"ipam": {"resolvConf": file}, "runtimeConfig": {
            "mac": "02-11-22-33-44-55",
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "hostIP": "::ffff:192.0.2.1"}]}}));
        let result = world.add(&pod, &config);
        assert_eq!(result["dns"]["nameservers"], json!(["fe80::1%eth0", "192.0.2.53"]));
        assert_eq!(result["interfaces"][1]["mac"], "02:11:22:33:44:55");
        assert!(nft("list map inet dunnage hpip4").contains("192.0.2.1 . tcp . 8080 : 10.88.0.2 . 80"));
        world.del(&pod, &config);
        let other = merged(config, &json!({"runtimeConfig": {"mac": "0211.2233.4456"}}));
        assert_eq!(world.add(&pod, &other)["interfaces"][1]["mac"], "02:11:22:33:44:56");
    });
}

/// What is written, however it is laid out; some versions of `nft` have names for priorities.
fn words(ruleset: &str) -> Vec<&str> {
    let number = |word| match word {
        "dstnat" => "-100",
        "srcnat" => "100",
        "raw" => "-300",
        word => word,
    };
    ruleset
        .split(|char: char| char.is_whitespace() || char == ';')
        .filter(|word| !word.is_empty())
        .map(number)
        .collect()
}

/// Sets and maps that nothing is in are left out in the document.
fn without_empty_ones(table: &str) -> String {
    let mut kept = String::new();
    for part in table.split_inclusive("\n\t}\n") {
        let is_empty = part.contains("\n\t\ttype ") && !part.contains("hook") && !part.contains("elements");
        let head =
            part.split_once("\tset ").or_else(|| part.split_once("\tmap ")).map_or("", |(head, _)| head);
        kept += if is_empty { head } else { part };
    }
    kept
}

#[test]
fn the_table_reads_as_it_is_documented() {
    on_fresh_host(|world| {
        let document = include_str!("../../../docs/networking.md");
        let (_, rest) = document.split_once("```\ntable inet dunnage {").unwrap();
        let (documented, _) = rest.split_once("```").unwrap();
        let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]});
        world.add(&world.pod("pod"), &world.config_with(&json!({"runtimeConfig": ports})));
        let table = nft("list table inet dunnage");
        let documented = format!("table inet dunnage {{{documented}");
        assert_eq!(words(&without_empty_ones(&table)), words(&documented), "{table}");
    });
}

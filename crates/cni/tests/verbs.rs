//! The verbs of the specification, each with the program itself: what it prints, how it ends, what it changes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::process::Command;

use serde_json::{Value, json};
use world::{PLUGIN, Pod, World, address, ip, merged, nft, on_fresh_host};

#[test]
fn version_is_answered_whatever_is_on_stdin() {
    on_fresh_host(|world| {
        let answer = world.run_command(Command::new(PLUGIN), "VERSION", &[], "no JSON at all");
        let versions = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(answer.ok(), json!({"cniVersion": "1.1.0", "supportedVersions": versions}));
    });
}

#[test]
fn without_a_command_it_says_what_it_is_and_succeeds() {
    on_fresh_host(|world| {
        let answer = world.run_command(Command::new(PLUGIN), "", &[], "");
        assert!(answer.success && answer.json.is_null());
        assert!(answer.stderr.contains("a CNI plugin"), "{}", answer.stderr);
    });
}

#[test]
fn a_result_has_the_shape_of_its_version() {
    on_fresh_host(|world| {
        for (number, version) in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].into_iter().enumerate() {
            let pod = world.pod(&format!("pod{number}"));
            let config = world.config_with(&json!({"cniVersion": version, "mode": "bridged", "mtu": 1400}));
            let last = 2 + number;
            let result = world.add(&pod, &config);
            let (hex, path) = (format!("0a58000{last}"), pod.netns.path().to_str().unwrap());
            let mut ips =
                json!({"address": format!("10.88.0.{last}/16"), "gateway": "10.88.0.1", "interface": 2});
            if version < "1.0.0" {
                ips["version"] = "4".into();
            }
            let mut interfaces = json!([
                {"name": "cni0"},
                {"name": format!("dnp{hex}"), "mac": format!("de:d0:0a:58:00:0{last}")},
                {"name": "eth0", "mac": format!("da:d0:0a:58:00:0{last}"), "sandbox": path},
            ]);
            if version == "1.1.0" {
                interfaces.as_array_mut().unwrap().iter_mut().for_each(|link| link["mtu"] = 1400.into());
            }
            let expected = json!({"cniVersion": version, "interfaces": interfaces, "ips": [ips],
                "routes": [{"dst": "0.0.0.0/0"}], "dns": {}});
            assert_eq!(result, expected, "{version}");
        }
    });
}

#[test]
fn a_routed_pod_has_its_address_alone_and_no_bridge() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        assert_eq!(
            result["ips"],
            json!([{"address": "10.88.0.2/32", "gateway": "10.88.0.1", "interface": 1}])
        );
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 2);
        assert!(!ip("-o link").contains("cni0"));
        let link = pod.run(|| ip("-o addr show eth0"));
        assert!(link.contains("10.88.0.2/32"), "{link}");
        assert!(ip("link show dnp0a580002").contains("alias default/pod"));
        assert!(pod.run(|| ip("link show lo")).contains(",UP"));
    });
}

#[test]
fn errors_are_told_with_code_message_and_details_and_leave_nothing() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let before = world.census();
        for (changes, code, says) in [
            (json!({"cniVersion": "2.0.0"}), 1, "cniVersion \"2.0.0\" is not supported"),
            (json!({"cniVersion": null}), 1, "cniVersion \"0.1.0\" is not supported"),
            (json!({"isGatway": true}), 2, "unknown key isGatway with value true"),
            (json!({"masqAll": "yes"}), 6, "masqAll is not true or false"),
            (json!({"conditionsV4": ["-i"]}), 2, "conditionsV4 with value [\"-i\"] is not supported"),
            (
                json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}),
                2,
                "externalSetMarkChain with value \"KUBE-MARK-MASQ\" is not supported",
            ),
            (
                json!({"ingressPolicy": "same-bridge"}),
                2,
                "ingressPolicy with value \"same-bridge\" is not supported",
            ),
            (json!({"vlanTrunk": [{"id": 4095}]}), 7, "vlanTrunk[0].id 4095 is not between 1 and 4094"),
            (
                json!({"vlan": 3, "vlanTrunk": [{"id": 3}]}),
                7,
                "VLAN \"3\": cannot be in the trunk and without a tag",
            ),
            (json!({"mode": "routed", "vlanTrunk": [{"id": 3}]}), 7, "vlanTrunk needs mode \"bridged\""),
            (json!({"mtu": "big"}), 6, "mtu is not a number in range"),
            (json!({"mtu": 20}), 7, "mtu \"20\": is out of range"),
            (json!({"name": null}), 7, "name is missing"),
            (json!({"name": "../etc"}), 7, "name cannot be used"),
            (json!({"ipam": null, "bridge": null, "isGateway": null, "ipMasq": null}), 7, "ipam is missing"),
            (json!({"ipam": {"type": "dhcp"}}), 7, "ipam.type \"dhcp\" is not supported"),
            (json!({"mode": "vxlan"}), 7, "mode \"vxlan\" is unknown"),
            (json!({"mode": "routed", "vlan": 7}), 7, "vlan needs mode \"bridged\""),
            (
                json!({"bridge": "a name too long for it"}),
                7,
                "bridge \"a name too long for it\" cannot be used",
            ),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}, {"subnet": "10.88.7.0/24"}]]}}),
                7,
                "range \"10.88.7.1 to 10.88.7.255\": overlaps another range of the network",
            ),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/31"}]]}}),
                7,
                "subnet \"10.88.0.0/31\": is not between /8 and /30",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "2001:db8::1"}]}}),
                7,
                "host port \"80/tcp\": is on an IPv6 address, and the pod has none",
            ),
            (
                json!({"runtimeConfig": {"ips": ["10.88.0.1"]}}),
                7,
                "address \"10.88.0.1\": is not one that the network's ranges give to pods",
            ),
            (
                json!({"runtimeConfig": {"ips": ["192.0.2.9"]}}),
                7,
                "address \"192.0.2.9\": is not one that the network's ranges give to pods",
            ),
            (
                json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
                7,
                "runtimeConfig.mac \"01:00:5e:00:00:01\" cannot be used",
            ),
            (
                json!({"sysctl": {"kernel.hostname": "x"}}),
                7,
                "sysctl.kernel.hostname is not a switch of a network namespace",
            ),
            (
                json!({"dns": {"nameservers": ["example.org"]}}),
                7,
                "dns: \"example.org\" is not the address of a name server",
            ),
        ] {
            let answer = world.run("ADD", &pod, &world.config_with(&changes));
            assert_eq!(answer.json["cniVersion"].as_str().unwrap().len(), 5);
            let (found, msg, _) = answer.error();
            assert_eq!((found, msg.as_str()), (code, says), "{changes}");
        }
        let mut after = world.census();
        after.files.retain(|file| file != "cni-net.tab");
        assert_eq!(after, before);
    });
}

#[test]
fn a_broken_environment_or_stdin_is_told() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let config = world.config();
        let with = |key: &str, value: &str| {
            let mut variables = pod.variables();
            variables.retain(|(name, _)| name != key);
            variables.push((key.to_owned(), value.to_owned()));
            world.run_command(Command::new(PLUGIN), "ADD", &variables, &config.to_string()).error()
        };
        assert_eq!(
            with("CNI_IFNAME", ""),
            (4, "required environment variables are missing".into(), "CNI_IFNAME".into())
        );
        assert_eq!(with("CNI_CONTAINERID", "a/b").0, 4);
        assert_eq!(with("CNI_NETNS", "/run/no-such-namespace").0, 8);
        assert_eq!(with("CNI_NETNS", "/etc/hostname").0, 8);
        let host = world.host();
        let (code, msg, _) = with("CNI_NETNS", host.path().to_str().unwrap());
        assert_eq!((code, msg.contains("is that of the host")), (8, true), "{msg}");
        let answer = world.run_command(Command::new(PLUGIN), "ADD", &pod.variables(), "{\"cniVersion\": ");
        assert_eq!(answer.error().0, 6);
        let answer = world.run_command(Command::new(PLUGIN), "ADD", &pod.variables(), "[]");
        assert_eq!(answer.error().0, 6);
        let answer = world.run_command(Command::new(PLUGIN), "FROB", &pod.variables(), "{}");
        assert_eq!(answer.error().1, "CNI_COMMAND \"FROB\" is not a command");
    });
}

#[test]
fn a_second_add_is_refused_and_the_first_one_lives() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let (code, msg, _) = world.run("ADD", &pod, &world.config()).error();
        assert_eq!((code, msg.as_str()), (101, "eth0 of pod is attached already, with address 10.88.0.2"));
        check(world, &pod, &world.config(), &result).ok();
    });
}

#[test]
fn an_interface_name_that_is_in_use_is_told_and_left_alone() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        pod.run(|| ip("link add eth0 type veth peer name other"));
        let (code, msg, details) = world.run("ADD", &pod, &world.config()).error();
        assert_eq!(
            (code, details.as_str()),
            (101, "is an interface of that name in the pod already?"),
            "{msg}"
        );
        assert!(pod.run(|| ip("-o link")).contains("eth0"));
        assert!(!ip("-o link").contains("dnp"));
    });
}

#[test]
fn a_bridge_name_that_is_something_else_is_told() {
    on_fresh_host(|world| {
        ip("link add cni0 type veth peer name other");
        let pod = world.pod("pod");
        let (code, msg, _) = world.run("ADD", &pod, &world.config_with(&json!({"mode": "bridged"}))).error();
        assert_eq!((code, msg.as_str()), (7, "link cni0 exists and is not a bridge"));
    });
}

#[test]
fn a_subnet_that_another_link_has_is_refused() {
    on_fresh_host(|world| {
        ip("link add lan type veth peer name other");
        ip("addr add 10.88.3.1/24 dev lan");
        ip("link set lan up");
        let pod = world.pod("pod");
        let (code, msg, _) = world.run("ADD", &pod, &world.config()).error();
        let says = "route to 10.88.3.0/24 exists and leads to lan, so the subnet cannot be that of pods";
        assert_eq!((code, msg.as_str()), (7, says));
    });
}

#[test]
fn del_succeeds_whatever_is_gone() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        world.del(&pod, &world.config());
        world.add(&pod, &world.config());
        world.del(&pod, &world.config());
        world.del(&pod, &world.config());
        // Without a namespace, with a dead one, with one that is something else.
        for path in ["", "/run/no-such-namespace", "/etc/hostname"] {
            world.add(&pod, &world.config());
            let mut variables = pod.variables();
            variables.retain(|(name, _)| name != "CNI_NETNS");
            variables.push(("CNI_NETNS".to_owned(), path.to_owned()));
            let answer = world.run_program(PLUGIN.as_ref(), "DEL", &variables, &world.config());
            assert!(answer.success, "{path}: {answer:?}");
            assert!(
                world.run("ADD", &pod, &world.config()).success,
                "the address and the name are free again"
            );
            world.del(&pod, &world.config());
        }
        // With a configuration that could not be added with any more.
        world.add(&pod, &world.config());
        world.del(&pod, &world.config_with(&json!({"unknown": 1, "ipam": {"type": "dhcp"}, "mtu": "x"})));
        assert!(world.run("ADD", &pod, &world.config()).success);
        world.del(&pod, &world.config_with(&json!({"ipam": null})));
        nft("flush ruleset");
        world.del(&pod, &world.config());
    });
}

#[test]
fn an_interface_is_off_the_network_at_once_and_gone_soon() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        world.add(&pod, &world.config());
        assert!(ip("route").contains("10.88.0.2 dev dnp0a580002"));
        world.del(&pod, &world.config());
        assert!(!ip("route").contains("10.88.0.2 dev"), "at once");
        // The namespace stays: nobody but the plugin removes the interface.
        world.wait_for_links_to_go("dnp");
        assert!(!pod.run(|| ip("-o link")).contains("eth0"));
    });
}

fn check(world: &World, pod: &Pod, config: &Value, result: &Value) -> world::Answer {
    world.run("CHECK", pod, &merged(config.clone(), &json!({"prevResult": result})))
}

#[test]
fn gc_takes_back_leases_links_and_ports_of_attachments_that_are_gone() {
    on_fresh_host(|world| {
        let port = |number: u16| json!({"runtimeConfig": {"portMappings": [{"hostPort": number, "containerPort": 80}]}});
        let config = world.config_with(&json!({"cniVersion": "1.1.0"}));
        let (kept, gone, dead) = (world.pod("kept"), world.pod("gone"), world.pod("dead"));
        let result = world.add(&kept, &merged(config.clone(), &port(8080)));
        let before = world.census();
        world.add(&gone, &merged(config.clone(), &port(8081)));
        world.add(&dead, &merged(config.clone(), &port(8082)));
        drop(dead);
        // Of an attachment that even the lease table has forgotten.
        ip("link add dnp0a5800ff type veth peer name stray");
        nft("add element inet dunnage hp4 { tcp . 9999 : 10.88.0.200 . 80 }");
        let (code, msg, _) = world.run_alone("GC", &config).error();
        assert_eq!((code, msg.as_str()), (7, "cni.dev/valid-attachments is missing"));
        let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
        let gc = merged(config.clone(), &json!({"cni.dev/valid-attachments": valid}));
        assert!(world.run_alone("GC", &gc).ok().is_null());
        world.wait_for_links_to_go("dnp0a580003");
        world.wait_for_links_to_go("dnp0a580004");
        assert_eq!(world.census(), before);
        check(world, &kept, &merged(config.clone(), &port(8080)), &result).ok();
        world.add(&gone, &merged(config, &port(8081)));
        let old = merged(gc, &json!({"cniVersion": "1.0.0"}));
        assert_eq!(world.run_alone("GC", &old).error().0, 1, "1.0.0 does not have it");
    });
}

#[test]
fn status_is_answered_without_a_lock_and_repairs_a_flushed_firewall() {
    on_fresh_host(|world| {
        let config = world.config_with(&json!({"cniVersion": "1.1.0"}));
        assert!(world.run_alone("STATUS", &config).ok().is_null(), "before the first pod");
        let pod = world.pod("pod");
        let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]});
        world.add(&pod, &merged(config.clone(), &json!({"runtimeConfig": ports})));
        let before = nft("list ruleset");
        nft("flush ruleset");
        {
            let dir = std::fs::File::open(world.path("state")).unwrap();
            let _lock = dunnage_sys::flock::Flock::exclusive(dir).unwrap();
            assert!(world.run_alone("STATUS", &config).ok().is_null(), "while somebody attaches a pod");
        }
        assert!(world.run_alone("STATUS", &config).ok().is_null());
        assert_eq!(nft("list ruleset"), before, "with the pod's host port");
        std::fs::write(world.path("state").join("cni-net.tab"), "garbage").unwrap();
        let (code, _, details) = world.run_alone("STATUS", &config).error();
        assert!(code == 50 && details.contains("is not a lease table"), "{details}");
        let broken = merged(config, &json!({"ipam": {"type": "dhcp"}}));
        assert_eq!(world.run_alone("STATUS", &broken).error().0, 7);
    });
}

#[test]
fn it_adds_to_what_the_plugins_before_have_told() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let before = json!({"cniVersion": "1.0.0",
            "interfaces": [{"name": "net1", "sandbox": pod.netns.path()}],
            "ips": [{"address": "192.0.2.7/24", "interface": 0}],
            "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
            "dns": {"nameservers": ["192.0.2.53"]}, "somebody": "else's"});
        let result = world.add(&pod, &world.config_with(&json!({"prevResult": before})));
        assert_eq!(result["interfaces"][0], before["interfaces"][0]);
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!((&result["ips"][0], result["ips"][1]["interface"].as_u64()), (&before["ips"][0], Some(2)));
        assert_eq!(result["routes"].as_array().unwrap().len(), 2);
        assert_eq!((&result["dns"], &result["somebody"]), (&before["dns"], &before["somebody"]));
        check(world, &pod, &world.config(), &result).ok();
    });
}

#[test]
fn a_list_with_portmap_works_when_both_types_are_changed() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state"),
            "capabilities": {"portMappings": true}, "snat": true, "prevResult": result,
            "runtimeConfig": {"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"}]}});
        assert_eq!(world.run("ADD", &pod, &portmap).ok(), result, "what was told is passed on");
        assert!(nft("list map inet dunnage hp4").contains("10.88.0.2 . 80"));
        assert!(world.run("CHECK", &pod, &portmap).success);
        nft("flush map inet dunnage hp4");
        assert_eq!(world.run("CHECK", &pod, &portmap).error().0, 103);
        // In reverse, as a runtime does it.
        world.del(&pod, &portmap);
        world.del(&pod, &world.config());
        let other = world.pod("other");
        let (code, msg, _) = world.run("ADD", &other, &portmap).error();
        assert_eq!((code, msg.as_str()), (7, "only pods of this plugin can be given more"));
    });
}

#[test]
fn bandwidth_and_tuning_work_behind_it_when_their_types_are_changed() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let result = world.add(&pod, &world.config());
        let behind = json!({"cniVersion": "1.0.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state"),
            "prevResult": result});
        let bandwidth = merged(
            behind.clone(),
            &json!({"capabilities": {"bandwidth": true}, "runtimeConfig":
            {"bandwidth": {"IngressRate": 8_000_000, "IngressBurst": 4_294_967_295u64, "EgressRate": 0, "EgressBurst": 0}}}),
        );
        let tuning = merged(
            behind.clone(),
            &json!({"promisc": true, "allmulti": true, "txQLen": 77, "mtu": 1400,
            "sysctl": {"net.core.somaxconn": "500"}}),
        );
        for more in [&bandwidth, &tuning] {
            assert_eq!(world.run("ADD", &pod, more).ok(), result);
        }
        assert!(ip("link show dnp0a580002").contains("tbf"));
        let link = pod.run(|| ip("-d link show eth0"));
        for says in ["PROMISC", "ALLMULTI", "qlen 77", "mtu 1400"] {
            assert!(link.contains(says), "{says}: {link}");
        }
        assert!(ip("link show dnp0a580002").contains("mtu 1400"), "both ends");
        assert_eq!(
            pod.run(|| std::fs::read_to_string("/proc/sys/net/core/somaxconn")).unwrap().trim(),
            "500"
        );
        let mac = merged(behind, &json!({"mac": "02:00:00:00:00:01"}));
        assert_eq!(world.run("ADD", &pod, &mac).error().0, 7);
        // In one entry they do the same.
        let other = world.pod("other");
        world.add(&other, &world.config_with(&json!({"promisc": true, "txQLen": 78})));
        let link = other.run(|| ip("-d link show eth0"));
        assert!(link.contains("PROMISC") && link.contains("qlen 78"), "{link}");
    });
}

#[test]
fn status_is_asked_of_every_entry_of_a_list() {
    on_fresh_host(|world| {
        let entry = |keys: &Value| {
            let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state")});
            world.run_alone("STATUS", &merged(config, keys))
        };
        for behind in [
            json!({"capabilities": {"portMappings": true}, "snat": true}),
            json!({"backend": "iptables"}),
            json!({"capabilities": {"bandwidth": true}}),
        ] {
            assert!(entry(&behind).ok().is_null(), "{behind}");
        }
        assert_eq!(
            entry(&json!({"bridge": "cni0", "mode": "routed"})).error().1,
            "mode \"routed\" needs ipam"
        );
    });
}

#[test]
fn as_loopback_it_brings_loopback_up() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
        let mut variables = pod.variables();
        variables
            .iter_mut()
            .filter(|(key, _)| key == "CNI_IFNAME")
            .for_each(|(_, value)| *value = "lo".to_owned());
        let result = world.run_program(PLUGIN.as_ref(), "ADD", &variables, &config).ok();
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_eq!(result["ips"][0], json!({"version": "4", "address": "127.0.0.1/8", "interface": 0}));
        assert!(pod.run(|| ip("link show lo")).contains(",UP"));
        assert!(world.run_program(PLUGIN.as_ref(), "DEL", &variables, &config).success);
    });
}

#[test]
fn dns_is_told_and_that_of_the_runtime_counts_most() {
    on_fresh_host(|world| {
        let file = world.path("resolv.conf");
        std::fs::write(
            &file,
            "# comment\nnameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:5\n",
        )
        .unwrap();
        let ipam = json!({"ipam": {"resolvConf": file}});
        let told = |name: &str, changes: &Value| {
            let pod = world.pod(name);
            world.add(&pod, &merged(world.config_with(&ipam), changes))["dns"].clone()
        };
        let of_file = json!({"nameservers": ["192.0.2.53"], "search": ["a.example", "b.example"], "options": ["ndots:5"]});
        assert_eq!(told("a", &json!({})), of_file);
        let of_config = json!({"nameservers": ["192.0.2.54"], "domain": "example"});
        assert_eq!(told("b", &json!({"dns": of_config})), of_config);
        let runtime =
            json!({"runtimeConfig": {"dns": {"Servers": ["192.0.2.55"], "Searches": ["s"], "Options": []}}});
        assert_eq!(
            told("c", &merged(json!({"dns": of_config}), &runtime)),
            json!({"nameservers": ["192.0.2.55"], "search": ["s"]})
        );
    });
}

#[test]
fn a_pod_gets_the_link_layer_address_the_switches_and_the_address_it_asks_for() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let asked = json!({"runtimeConfig": {"mac": "02:11:22:33:44:55", "ips": ["10.88.7.7/16"]},
            "sysctl": {"net.core.somaxconn": "77"}});
        let result = world.add(&pod, &world.config_with(&asked));
        assert_eq!(address(&result, 0).to_string(), "10.88.7.7");
        assert!(pod.run(|| ip("link show eth0")).contains("02:11:22:33:44:55"));
        let switch = pod.run(|| std::fs::read_to_string("/proc/sys/net/core/somaxconn")).unwrap();
        assert_eq!(switch.trim(), "77");
        check(world, &pod, &world.config_with(&asked), &result).ok();
        let other = world.pod("other");
        let (code, msg, _) = world.run("ADD", &other, &world.config_with(&asked)).error();
        assert_eq!((code, msg.as_str()), (102, "address 10.88.7.7 is in use"));
    });
}

#[test]
fn a_forward_chain_that_drops_is_told_once() {
    on_fresh_host(|world| {
        nft("add table ip filter");
        run_nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        let (first, second) = (world.pod("first"), world.pod("second"));
        let answer = world.run("ADD", &first, &world.config());
        assert!(
            answer.success && answer.stderr.contains("nftables chain ip filter FORWARD drops"),
            "{}",
            answer.stderr
        );
        assert_eq!(world.run("ADD", &second, &world.config()).stderr, "");
    });
}

fn run_nft(command: &str) {
    assert!(Command::new("nft").arg(command).status().unwrap().success());
}

#[test]
fn pods_are_masqueraded_as_long_as_the_configuration_says_so() {
    on_fresh_host(|world| {
        let [with, without] =
            [true, false].map(|masquerades| world.config_with(&json!({"ipMasq": masquerades})));
        let [one, two, three] = ["one", "two", "three"].map(|name| world.pod(name));
        let masqueraded = || nft("list set inet dunnage masq4").contains("10.88.0.0/16");
        world.add(&one, &with);
        assert!(masqueraded());
        world.add(&two, &without);
        assert!(!masqueraded());
        assert!(nft("list set inet dunnage pods4").contains("10.88.0.0/16"));
        world.add(&three, &with);
        assert!(masqueraded());
    });
}

#[test]
fn a_network_that_was_routed_has_its_bridge_guarded_once_it_is_bridged() {
    on_fresh_host(|world| {
        let [routed, bridged] = ["routed", "bridged"].map(|mode| world.config_with(&json!({"mode": mode})));
        let [one, two] = ["one", "two"].map(|name| world.pod(name));
        world.add(&one, &routed);
        assert!(!nft("list set inet dunnage bridges").contains("cni0"));
        world.add(&two, &bridged);
        assert!(nft("list set inet dunnage bridges").contains("cni0"));
    });
}

//! `enabledad`: a pod on a bridge asks whether somebody else has its IPv6 address, and does not get one that is used.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use world::{Pod, World, address, ip, merged, on_fresh_host, seen_as};

fn detecting(world: &World, mode: &str) -> Value {
    world.config_with(&json!({"cniVersion": "1.1.0", "mode": mode, "enabledad": true, "macspoofchk": true,
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}))
}

fn told_of(pod: &Pod, address: &str) -> String {
    let all = pod.run(|| ip("-o -6 addr show eth0"));
    all.lines().find(|line| line.contains(address)).unwrap_or_else(|| panic!("{all}")).to_owned()
}

#[test]
fn an_address_that_nobody_has_can_be_used_when_the_pod_is_attached() {
    on_fresh_host(|world| {
        let config = detecting(world, "bridged");
        let (a, b) = (world.pod("a"), world.pod("b"));
        let to_a = address(&world.add(&a, &config), 1);
        assert!(!told_of(&a, "fd00:88::2").contains("tentative"), "{}", told_of(&a, "fd00:88::2"));
        assert!(!told_of(&a, "fd00:88::2").contains("nodad"), "{}", told_of(&a, "fd00:88::2"));
        let switch =
            |key: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/eth0/{key}")).unwrap();
        assert_eq!(a.run(|| switch("accept_dad") + &switch("accept_ra")), "1\n0\n");
        world.add(&b, &config);
        assert!(seen_as(&b.netns, &a.netns, 80, (to_a, 80).into()).is_ok());
        assert!(
            seen_as(
                &a.netns,
                &world.host(),
                80,
                ("fd00:88::1".parse::<std::net::Ipv6Addr>().unwrap(), 80).into()
            )
            .is_ok()
        );
    });
}

#[test]
fn an_address_that_somebody_has_is_told_and_nothing_is_left() {
    on_fresh_host(|world| {
        let config = detecting(world, "bridged");
        let (old, pod) = (world.pod("old"), world.pod("pod"));
        world.add(&old, &merged(config.clone(), &json!({"enabledad": false})));
        old.run(|| ip("-6 addr add fd00:88::3/64 dev eth0 nodad"));
        let before = world.census();
        let (code, msg, _) = world.run("ADD", &pod, &config).error();
        assert_eq!((code, msg.as_str()), (102, "address fd00:88::3 is in use"));
        assert_eq!(world.census(), before);
        assert!(!pod.run(|| ip("-o link")).contains("eth0"));
        let result = world.add(&pod, &config);
        assert_eq!(address(&result, 1).to_string(), "fd00:88::4", "the next one is free");
    });
}

#[test]
fn the_first_pod_of_a_network_that_is_a_duplicate_takes_the_network_with_it() {
    on_fresh_host(|world| {
        // A neighbour that is there before the network.
        ip("link add cni0 address 02:00:00:00:00:07 type bridge");
        ip("link set cni0 addrgenmode none up");
        let stranger = world.pod("stranger");
        ip(&format!(
            "link add s master cni0 type veth peer name eth0 netns {}",
            stranger.netns.path().display()
        ));
        ip("link set s addrgenmode none up");
        stranger.run(|| {
            ip("-6 addr add fd00:88::2/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        let before = world.census();
        let config = merged(detecting(world, "bridged"), &json!({"isGateway": false}));
        let (code, msg, _) = world.run("ADD", &world.pod("pod"), &config).error();
        assert_eq!((code, msg.as_str()), (102, "address fd00:88::2 is in use"));
        assert_eq!(world.census(), before);
    });
}

#[test]
fn other_pods_do_not_wait_for_one_that_asks_and_routed_ones_have_nobody_to_ask() {
    on_fresh_host(|world| {
        let config = detecting(world, "bridged");
        let host = world.host();
        let (slow, quick) = (world.pod("slow"), world.pod("quick"));
        world.add(&world.pod("first"), &config);
        let mut routed = merged(
            detecting(world, "routed"),
            &json!({"ipam": {"ranges": [[{"subnet": "10.89.0.0/16"}], [{"subnet": "fd00:89::/64"}]]}}),
        );
        routed["name"] = "routed".into();
        std::thread::scope(|scope| {
            // Five times, a second each.
            let slowly =
                merged(config.clone(), &json!({"sysctl": {"net.ipv6.conf.IFNAME.dad_transmits": "5"}}));
            let asking = scope.spawn({
                let (host, slow) = (&host, &slow);
                move || host.run(|| drop(world.add(slow, &slowly))).unwrap()
            });
            world::eventually(|| slow.run(|| ip("-o link")).contains("eth0"));
            world.add(&quick, &routed);
            assert!(!asking.is_finished() && told_of(&slow, "fd00:88::3").contains("tentative"));
            asking.join().unwrap();
        });
        assert!(told_of(&quick, "fd00:89::2/128").contains("nodad"), "{}", told_of(&quick, "fd00:89::2"));
        let started = Instant::now();
        while told_of(&slow, "fe80").contains("tentative") {
            assert!(started.elapsed() < world::PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

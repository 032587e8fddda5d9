//! Pods on a network, for real: packets cross, and nothing stays behind.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use dunnage_net::{Error, Kind, LeaseState, Mode, Netns, NetworkConfig, PodNetwork, PodRequest, Ranges};
use world::{OUTSIDE, UPLINK, World, here, ip, nft, on_fresh_host, owner, seen_as, subnet};

const PORT: u16 = 7000;

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn pods_reach_everything(world: &World, mode: Mode) {
    let before = world.census();
    let mut network = PodNetwork::open(NetworkConfig { mode, ..world.config() }).unwrap();
    let outside = world.outside();
    let (a, b) = (world.pod(&mut network, "a"), world.pod(&mut network, "b"));
    let (host, gateway) = (here(world), a.gateway());
    let seen =
        |from: &Netns, to: &Netns, at: IpAddr| seen_as(from, to, any(PORT), (at, PORT).into()).unwrap();

    assert_eq!(seen(&a.netns.0, &b.netns.0, b.ip()), a.ip(), "pod to pod");
    assert_eq!(seen(&b.netns.0, &a.netns.0, a.ip()), b.ip(), "and back");
    assert_eq!(seen(&a.netns.0, &host.0, gateway), a.ip(), "pod to gateway");
    assert_eq!(seen(&host.0, &a.netns.0, a.ip()), gateway, "host to pod");
    assert_eq!(
        seen(&a.netns.0, &outside.0, OUTSIDE.into()),
        IpAddr::from(UPLINK),
        "pod to outside, masqueraded"
    );
    assert_eq!(
        seen(&a.netns.0, &a.netns.0, Ipv4Addr::LOCALHOST.into()),
        Ipv4Addr::LOCALHOST,
        "loopback is up"
    );

    for pod in [&a, &b] {
        assert!(network.detach(&pod.owner).unwrap());
        assert!(!network.detach(&pod.owner).unwrap(), "detaching twice is fine");
    }
    assert!(network.remove_if_unused().unwrap());
    drop((a, b, outside));
    wait_for_links_to_go(&["dnp", "uplink"]);
    assert_eq!(world.census(), before);
}

/// The kernel removes links of a namespace that went in the background.
fn wait_for_links_to_go(prefixes: &[&str]) {
    let started = std::time::Instant::now();
    while ip("-o link")
        .lines()
        .any(|line| prefixes.iter().any(|prefix| line.contains(&format!(": {prefix}"))))
    {
        assert!(started.elapsed() < world::PATIENCE, "links are still there: {}", ip("-o link"));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn routed_pods_reach_each_other_the_host_and_outside_and_leave_nothing() {
    on_fresh_host(|world| pods_reach_everything(world, Mode::Routed));
}

#[test]
fn bridged_pods_reach_each_other_the_host_and_outside_and_leave_nothing() {
    on_fresh_host(|world| pods_reach_everything(world, Mode::Bridged));
}

/// Two addresses of each family, of which the pod that comes first in the list has the ones that end with 2.
fn pods_are_reached_by_every_address(world: &World, mode: Mode) {
    let before = world.census();
    let nets = ["10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/120"].map(|net| net.parse().unwrap());
    let config = NetworkConfig { mode, ranges: Ranges::each(nets), ..world.config() };
    let mut network = PodNetwork::open(config).unwrap();
    let (a, b) = (world.pod(&mut network, "a"), world.pod(&mut network, "b"));
    let of = |pod: &world::Pod| -> Vec<IpAddr> {
        pod.attachment.addresses.iter().map(|address| address.net.addr()).collect()
    };
    assert_eq!(
        of(&a).iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.2", "fd00:1::2", "10.2.0.2", "fd00:2::2"]
    );
    for (from, to) in of(&b).into_iter().zip(of(&a)) {
        let receiver = a.netns.0.run(|| UdpSocket::bind((to, 9)).unwrap()).unwrap();
        receiver.set_read_timeout(Some(world::PATIENCE)).unwrap();
        let sender = b.netns.0.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        sender.send_to(b"x", (to, 9)).unwrap();
        assert_eq!(receiver.recv_from(&mut [0; 1]).unwrap().1.ip(), from, "{mode:?}");
    }
    assert_eq!(network.attachment(&a.owner).unwrap().as_ref(), Some(&a.attachment));
    assert!(network.differences(&a.owner, &a.netns.0, &PodRequest::default()).unwrap().is_empty());
    assert_eq!(network.leases().unwrap().len(), 6, "the first of IPv6 goes along with that of IPv4");
    for pod in [&a, &b] {
        assert!(network.detach(&pod.owner).unwrap());
    }
    assert!(network.remove_if_unused().unwrap());
    drop((a, b));
    wait_for_links_to_go(&["dnp"]);
    assert_eq!(world.census(), before);
}

#[test]
fn pods_with_several_addresses_of_a_family_are_reached_by_each_and_leave_nothing() {
    for mode in [Mode::Routed, Mode::Bridged] {
        on_fresh_host(|world| pods_are_reached_by_every_address(world, mode));
    }
}

#[test]
fn an_attachment_says_what_the_kernel_has() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let pod = world.pod(&mut network, "a");
        let got = &pod.attachment;
        assert_eq!(got.addresses[0].net.to_string(), "10.88.0.2/32");
        assert_eq!((got.host_ifname.as_str(), got.bridge.as_str()), ("dnp0a580002", "dunnage0"));
        let host = ip(&format!("-d link show {}", got.host_ifname));
        for word in ["addrgenmode none", "state UP", &got.host_mac.to_string()] {
            assert!(host.contains(word), "{word} in {host}");
        }
        let inside = pod.netns.0.run(|| (ip("-d addr show eth0"), ip("route"))).unwrap();
        // Of the state the kernel tells in its own time, of the carrier at once.
        for word in ["inet 10.88.0.2/32", ",UP,LOWER_UP>", "mtu 1500", &got.mac.to_string()] {
            assert!(inside.0.contains(word), "{word} in {}", inside.0);
        }
        assert!(!inside.0.contains("inet6"), "no IPv6 unless it is wanted: {}", inside.0);
        assert_eq!(inside.1.trim(), "default via 10.88.0.1 dev eth0 proto static onlink");
        assert_eq!(
            ip("route get 10.88.0.2").split(" uid").next(),
            Some("10.88.0.2 dev dnp0a580002 src 10.88.0.1")
        );
        assert_eq!(network.attachment(&pod.owner).unwrap().as_ref(), Some(got));
        let leases = network.leases().unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0].state, LeaseState::Active);
        assert_eq!(leases[0].holder, Some((pod.owner.clone(), pod.netns.0.id())));
    });
}

#[test]
fn a_second_attachment_of_the_same_owner_is_refused_and_the_first_one_lives() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let (a, b) = (world.pod(&mut network, "a"), world.pod(&mut network, "b"));
        let before = world.census();
        let error = network.attach(&a.owner, &a.netns.0, &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(error.to_string(), "eth0 of a is attached already, with address 10.88.0.2");
        assert_eq!(world.census(), before);
        assert_eq!(seen_as(&b.netns.0, &a.netns.0, any(PORT), (a.ip(), PORT).into()).unwrap(), b.ip());
    });
}

#[test]
fn a_network_in_use_is_not_removed() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let pod = world.pod(&mut network, "a");
        let before = world.census();
        assert!(!network.remove_if_unused().unwrap());
        assert_eq!(world.census(), before);
        network.detach(&pod.owner).unwrap();
        assert!(network.remove_if_unused().unwrap());
        assert!(!world.state_dir().exists(), "nor is its directory left");
        assert!(network.remove_if_unused().unwrap(), "removing twice is fine");
    });
}

#[test]
fn a_network_that_some_remove_while_others_come_is_always_there_for_them() {
    on_fresh_host(|world| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let netns = world.netns(&format!("pod{thread}"));
                    let owner = owner(&format!("pod{thread}"));
                    for _ in 0..12 {
                        let mut network = world.network();
                        network.attach(&owner, &netns.0, &[]).unwrap();
                        assert!(network.attachment(&owner).unwrap().is_some());
                        assert!(network.detach(&owner).unwrap());
                        network.remove_if_unused().unwrap();
                    }
                });
            }
        });
        assert!(world.network().remove_if_unused().unwrap());
        assert!(!world.state_dir().exists());
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    on_fresh_host(|world| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut network = world.network();
        let pod = world.pod(&mut network, "a");
        network.detach(&pod.owner).unwrap();
        assert!(network.remove_if_unused().unwrap());
        assert_eq!(world.census().forward.0, "1\n");
    });
}

#[test]
fn two_networks_share_the_table_and_the_last_one_switches_forwarding_back() {
    on_fresh_host(|world| {
        let before = world.census();
        let mut first = world.network();
        let mut second = PodNetwork::open(NetworkConfig {
            name: "second".parse().unwrap(),
            bridge: "dunnage1".parse().unwrap(),
            ranges: subnet("10.89.0.0/24"),
            ..world.config()
        })
        .unwrap();
        let a = world.pod(&mut first, "a");
        let b = world.pod(&mut second, "b");
        first.detach(&a.owner).unwrap();
        assert!(first.remove_if_unused().unwrap());
        let table = nft("list table inet dunnage");
        assert!(table.contains("10.89.0.0/24") && !table.contains("10.88.0.0/16"), "{table}");
        assert_eq!(world.census().forward.0, "1\n");
        second.detach(&b.owner).unwrap();
        assert!(second.remove_if_unused().unwrap());
        drop((a, b));
        wait_for_links_to_go(&["dnp"]);
        assert_eq!(world.census(), before);
    });
}

#[test]
fn an_address_can_be_used_again_while_the_namespace_of_its_last_pod_lives() {
    on_fresh_host(|world| {
        let config = NetworkConfig { ranges: subnet("10.88.0.0/29"), ..world.config() };
        let mut network = PodNetwork::open(config).unwrap();
        let pods: Vec<_> = (0..5).map(|i| world.pod(&mut network, &format!("pod{i}"))).collect();
        let full = world.netns("full");
        let error = network.attach(&owner("full"), &full.0, &[]).unwrap_err();
        assert!(matches!(error, Error::Exhausted { used: 5, total: 5, .. }), "{error}");
        assert_eq!(error.to_string(), "no free address in 10.88.0.0/29: 5 of 5 are leased");
        network.detach(&pods[3].owner).unwrap();
        let next = world.pod(&mut network, "next");
        assert_eq!(next.ip(), pods[3].ip());
        assert_eq!(
            seen_as(&pods[0].netns.0, &next.netns.0, any(PORT), (next.ip(), PORT).into()).unwrap(),
            pods[0].ip()
        );
    });
}

#[test]
fn addresses_of_pods_whose_namespace_is_gone_are_swept_when_they_are_needed() {
    on_fresh_host(|world| {
        let config = NetworkConfig { ranges: subnet("10.88.0.0/29"), ..world.config() };
        let mut network = PodNetwork::open(config).unwrap();
        let mut pods: Vec<_> = (0..5).map(|i| world.pod(&mut network, &format!("pod{i}"))).collect();
        let dead = pods.remove(2);
        let address = dead.ip();
        drop(dead);
        wait_for_links_to_go(&["dnp0a580004"]);
        assert_eq!(world.pod(&mut network, "next").ip(), address);
        assert!(network.sweep().unwrap().is_empty(), "nobody else is dead");
    });
}

#[test]
fn the_network_namespace_of_the_host_is_no_pod() {
    on_fresh_host(|world| {
        let before = world.census();
        let error = world.network().attach(&owner("host"), &here(world).0, &[]).unwrap_err();
        assert!(error.to_string().ends_with("is that of the host"), "{error}");
        assert_eq!(world.census(), before);
    });
}

#[test]
fn sixty_four_pods_at_once_get_sixty_four_working_attachments() {
    on_fresh_host(|world| {
        let before = world.census();
        let host = here(world);
        let pods: Vec<_> = std::thread::scope(|scope| {
            let attach = |i| host.0.run(move || world.pod(&mut world.network(), &format!("pod{i}"))).unwrap();
            let threads: Vec<_> = (0..64).map(|i| scope.spawn(move || attach(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: BTreeSet<IpAddr> = pods.iter().map(world::Pod::ip).collect();
        assert_eq!(addresses.len(), 64);
        for (from, to) in pods.iter().zip(pods.iter().skip(1)) {
            assert_eq!(
                seen_as(&from.netns.0, &to.netns.0, any(PORT), (to.ip(), PORT).into()).unwrap(),
                from.ip()
            );
        }
        std::thread::scope(|scope| {
            let detach =
                |pod: &world::Pod| host.0.run(|| world.network().detach(&pod.owner).unwrap()).unwrap();
            for pod in &pods {
                scope.spawn(move || assert!(detach(pod)));
            }
        });
        assert!(world.network().remove_if_unused().unwrap());
        drop(pods);
        wait_for_links_to_go(&["dnp"]);
        assert_eq!(world.census(), before);
    });
}

#[test]
fn the_first_packet_each_way_is_not_lost() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let first = world.pod(&mut network, "first");
        let host = UdpSocket::bind((first.gateway(), 9)).unwrap();
        host.set_read_timeout(Some(world::PATIENCE)).unwrap();
        for number in 0..50 {
            let pod = world.pod(&mut network, &format!("pod{number}"));
            let inside = pod.netns.0.run(|| UdpSocket::bind((pod.ip(), 9))).unwrap().unwrap();
            inside.set_read_timeout(Some(world::PATIENCE)).unwrap();
            let mut buffer = [0; 8];
            host.send_to(b"to", (pod.ip(), 9)).unwrap();
            assert_eq!(inside.recv(&mut buffer).unwrap(), 2, "to pod {number}");
            inside.send_to(b"from", (first.gateway(), 9)).unwrap();
            assert_eq!(host.recv(&mut buffer).unwrap(), 4, "from pod {number}");
            network.detach(&pod.owner).unwrap();
        }
    });
}

#[test]
fn an_address_that_nobody_has_is_unreachable_at_once() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let pod = world.pod(&mut network, "a");
        let nobody = SocketAddr::from((Ipv4Addr::new(10, 88, 0, 77), PORT));
        let refused = pod.netns.0.run(|| TcpStream::connect_timeout(&nobody, world::PATIENCE)).unwrap();
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::HostUnreachable);
    });
}

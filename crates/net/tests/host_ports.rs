//! Host ports and the nftables table, with packets and with the `nft` program as the second opinion.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use dunnage_net::{HostPort, Mode, Netns, NetworkConfig, PodNetwork, Protocol, Ranges};
use serde_json::Value;
use world::{OUTSIDE, PATIENCE, UPLINK, World, here, nft, on_fresh_host, seen_as};

const HTTP: HostPort =
    HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
const UPLINK6: &str = "2001:db8:1::1";
const OUTSIDE6: &str = "2001:db8:1::2";

fn dual_stack(world: &World) -> NetworkConfig {
    NetworkConfig {
        ranges: Ranges::of("10.88.0.0/16".parse().unwrap(), Some("fd00:88::/64".parse().unwrap())),
        ..world.config()
    }
}

fn any4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn any6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

#[test]
fn a_host_port_leads_to_the_pod_from_everywhere() {
    for mode in [Mode::Routed, Mode::Bridged] {
        on_fresh_host(|world| {
            let outside = world.outside();
            let mut network = PodNetwork::open(NetworkConfig { mode, ..world.config() }).unwrap();
            let server = world.pod_with_ports(&mut network, "server", &[HTTP]).unwrap();
            let client = world.pod(&mut network, "client");
            let host = here(world);
            let gateway = server.gateway();
            let seen = |from: &Netns, at: IpAddr| {
                let seen = seen_as(from, &server.netns.0, any4(80), (at, 8080).into());
                seen.unwrap_or_else(|e| panic!("{mode:?}: {} to {at}: {e}", from.path().display()))
            };
            assert_eq!(
                seen(&outside.0, UPLINK.into()),
                IpAddr::from(OUTSIDE),
                "the source of a stranger is kept"
            );
            assert_eq!(seen(&host.0, Ipv4Addr::LOCALHOST.into()), gateway, "localhost");
            assert_eq!(seen(&host.0, UPLINK.into()), IpAddr::from(UPLINK), "the host by its own address");
            assert_eq!(seen(&client.netns.0, UPLINK.into()), gateway, "another pod, by the uplink");
            assert_eq!(seen(&client.netns.0, server.gateway()), gateway, "another pod, by the gateway");
            assert_eq!(seen(&server.netns.0, UPLINK.into()), gateway, "the pod itself");

            network.detach(&server.owner).unwrap();
            let again = world.pod(&mut network, "again");
            let refused = seen_as(&outside.0, &again.netns.0, any4(80), (UPLINK, 8080).into());
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        });
    }
}

#[test]
fn a_host_port_on_one_address_does_not_answer_on_another() {
    on_fresh_host(|world| {
        let outside = world.outside();
        world::ip("addr add 192.0.2.9/24 dev uplink");
        let mut network = world.network();
        let narrow = HostPort { host_ip: Some(Ipv4Addr::new(192, 0, 2, 9).into()), ..HTTP };
        let wide = HostPort { host_port: 8080, container_port: 81, ..HTTP };
        let first = world.pod_with_ports(&mut network, "first", &[narrow]).unwrap();
        let reach = |port, at: Ipv4Addr| seen_as(&outside.0, &first.netns.0, any4(port), (at, 8080).into());
        assert_eq!(reach(80, Ipv4Addr::new(192, 0, 2, 9)).unwrap(), IpAddr::from(OUTSIDE));
        assert_eq!(reach(80, UPLINK).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        // Kubernetes wants one port on two addresses to be no conflict; the narrower one wins.
        let second = world.pod_with_ports(&mut network, "second", &[wide]).unwrap();
        let to_second = seen_as(&outside.0, &second.netns.0, any4(81), (UPLINK, 8080).into());
        assert_eq!(to_second.unwrap(), IpAddr::from(OUTSIDE));
        assert_eq!(reach(80, Ipv4Addr::new(192, 0, 2, 9)).unwrap(), IpAddr::from(OUTSIDE));
    });
}

#[test]
fn udp_passes_a_host_port_and_comes_back() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let mut network = world.network();
        let dns = HostPort { host_ip: None, host_port: 5353, container_port: 53, protocol: Protocol::Udp };
        let pod = world.pod_with_ports(&mut network, "dns", &[dns]).unwrap();
        let server = pod.netns.0.run(|| UdpSocket::bind(any4(53)).unwrap()).unwrap();
        let client = outside.0.run(|| UdpSocket::bind(any4(0)).unwrap()).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.send_to(b"question", (UPLINK, 5353)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"question"[..], IpAddr::from(OUTSIDE)));
        server.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"answer"[..], (UPLINK, 5353).into()));
    });
}

#[test]
fn a_udp_client_that_never_stops_reaches_the_pod_that_has_the_port_now() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let mut network = world.network();
        let dns = HostPort { host_ip: None, host_port: 5353, container_port: 53, protocol: Protocol::Udp };
        // Conntrack works as soon as there is a network, and remembers that nobody had the port.
        let _other = world.pod(&mut network, "other");
        let client = outside.0.run(|| UdpSocket::bind(any4(0)).unwrap()).unwrap();
        client.send_to(b"early", (UPLINK, 5353)).unwrap();
        for name in ["first", "second"] {
            let pod = world.pod_with_ports(&mut network, name, &[dns]).unwrap();
            let server = pod.netns.0.run(|| UdpSocket::bind(any4(53)).unwrap()).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(name.as_bytes(), (UPLINK, 5353)).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (name.as_bytes(), IpAddr::from(OUTSIDE)));
            network.detach(&pod.owner).unwrap();
        }
    });
}

#[test]
fn dual_stack_pods_reach_each_other_and_outside_and_have_host_ports() {
    for mode in [Mode::Routed, Mode::Bridged] {
        on_fresh_host(|world| {
            let before = world.census();
            let outside = world.outside();
            let mut network = PodNetwork::open(NetworkConfig { mode, ..dual_stack(world) }).unwrap();
            let server = world.pod_with_ports(&mut network, "server", &[HTTP]).unwrap();
            let client = world.pod(&mut network, "client");
            let ip = |pod: &world::Pod| pod.attachment.first(false).unwrap().net.addr();
            assert_eq!(ip(&server).to_string(), "fd00:88::2");
            let seen = |from: &Netns, at: IpAddr, port| {
                let seen = seen_as(from, &server.netns.0, any6(80), (at, port).into());
                seen.unwrap_or_else(|e| panic!("{mode:?}: {} to {at}: {e}", from.path().display()))
            };
            let uplink: IpAddr = UPLINK6.parse().unwrap();
            assert_eq!(seen(&client.netns.0, ip(&server), 80), ip(&client), "pod to pod");
            assert_eq!(seen(&outside.0, uplink, 8080), OUTSIDE6.parse::<IpAddr>().unwrap(), "host port");
            assert_eq!(
                seen(&client.netns.0, uplink, 8080).to_string(),
                "fd00:88::1",
                "host port, from a pod"
            );
            let out = seen_as(
                &client.netns.0,
                &outside.0,
                any6(80),
                (OUTSIDE6.parse::<IpAddr>().unwrap(), 80).into(),
            );
            assert_eq!(out.unwrap(), uplink, "pod to outside, masqueraded");
            let v4 = seen_as(&outside.0, &server.netns.0, any4(80), (UPLINK, 8080).into());
            assert_eq!(v4.unwrap(), IpAddr::from(OUTSIDE), "IPv4 as well");
            for pod in [&server, &client] {
                network.detach(&pod.owner).unwrap();
            }
            assert!(network.remove_if_unused().unwrap());
            assert_eq!(world.census().nft, before.nft);
            assert_eq!(world.census().forward, before.forward);
        });
    }
}

#[test]
fn a_pod_cannot_reach_loopback_services_of_the_host() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let pod = world.pod(&mut network, "evil");
        let host = here(world);
        let victim = host.0.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 9000)).unwrap()).unwrap();
        let shown = host.0.run(|| UdpSocket::bind((pod.gateway(), 9000)).unwrap()).unwrap();
        pod.netns
            .0
            .run(|| {
                std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
                world::ip("addr del 127.0.0.1/8 dev lo");
                world::ip("route add 127.0.0.0/8 via 10.88.0.1 dev eth0 onlink");
                let socket = UdpSocket::bind((pod.ip(), 0)).unwrap();
                socket.send_to(b"attack", (Ipv4Addr::LOCALHOST, 9000)).unwrap();
                socket.send_to(b"allowed", (pod.gateway(), 9000)).unwrap();
            })
            .unwrap();
        // They go the same way in order, so when the second is here the first is not coming any more.
        shown.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(shown.recv(&mut buffer).unwrap(), b"allowed".len());
        victim.set_nonblocking(true).unwrap();
        assert_eq!(victim.recv(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let table = nft("list chain inet dunnage from_pod");
        assert!(table.contains("drop"), "{table}");
    });
}

#[test]
fn a_pod_cannot_make_itself_the_router_of_the_host() {
    for mode in [Mode::Routed, Mode::Bridged] {
        on_fresh_host(|world| {
            let mut network = PodNetwork::open(NetworkConfig { mode, ..world.config() }).unwrap();
            let pod = world.pod(&mut network, "evil");
            let host = here(world);
            let gateway = pod.gateway();
            let shown = host.0.run(|| UdpSocket::bind((gateway, 9000)).unwrap()).unwrap();
            pod.netns
                .0
                .run(|| {
                    std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
                    world::ip("addr add fe80::bad/64 dev eth0 nodad");
                    advertise_a_router();
                    let socket = UdpSocket::bind((pod.ip(), 0)).unwrap();
                    socket.send_to(b"allowed", (gateway, 9000)).unwrap();
                })
                .unwrap();
            // They go the same way in order, so when the second is here the first was looked at.
            shown.set_read_timeout(Some(PATIENCE)).unwrap();
            shown.recv(&mut [0; 16]).unwrap();
            let routes = world::ip("-6 route show");
            assert!(!routes.contains("fe80::bad") && !routes.contains("2001:db8:bad:"), "{mode:?}: {routes}");
            let addresses = world::ip("-6 address show");
            assert!(!addresses.contains("2001:db8:bad:"), "{mode:?}: {addresses}");
        });
    }
}

/// To all nodes on eth0: a default route through the sender, and a prefix to make addresses of (RFC 4861, 4.2 and
/// 4.6.2).
fn advertise_a_router() {
    use rustix::net::{AddressFamily, SocketType, ipproto, sendto, socket, sockopt};
    let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
    sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0]);
    message.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    let link = world::ip("-o link show eth0").split(':').next().unwrap().parse().unwrap();
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, link);
    sendto(&socket, &message, rustix::net::SendFlags::empty(), &everybody).unwrap();
}

#[test]
fn the_nft_program_reads_the_table_as_it_was_meant() {
    on_fresh_host(|world| {
        let mut network = PodNetwork::open(dual_stack(world)).unwrap();
        let narrow =
            HostPort { host_ip: Some(Ipv4Addr::new(192, 0, 2, 9).into()), protocol: Protocol::Udp, ..HTTP };
        let pod = world.pod_with_ports(&mut network, "server", &[HTTP, narrow]).unwrap();
        let text = nft("-n list table inet dunnage");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for line in [
            "comment \"dunnage pod networks, layout 6\"",
            "set layout6 {",
            "elements = { 10.88.0.0/16 }",
            "elements = { fd00:88::/64 }",
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "elements = { 6 . 8080 : 10.88.0.2 . 80 }",
            "elements = { 6 . 8080 : fd00:88::2 . 80 }",
            "elements = { 192.0.2.9 . 17 . 8080 : 10.88.0.2 . 80 }",
            "type nat hook prerouting priority -100; policy accept;",
            "type nat hook output priority -100; policy accept;",
            "type nat hook postrouting priority 100; policy accept;",
            "type filter hook prerouting priority -300; policy accept;",
            "fib daddr type 2 goto hp",
            "meta nfproto 2 meta mark set meta mark | 0x00002000 dnat ip to meta l4proto . th dport map @hp4",
            "meta nfproto 2 meta mark set meta mark | 0x00002000 dnat ip to ip daddr . meta l4proto . th dport map @hpip4",
            "meta nfproto 10 meta mark set meta mark | 0x00002000 dnat ip6 to ip6 daddr . meta l4proto . th dport map @hpip6",
            "meta mark & 0x00002000 != 0x00000000 ip daddr @hpmasq4 masquerade",
            "meta mark & 0x00002000 != 0x00000000 ip6 saddr @pods6 ip6 daddr @pods6 ip6 daddr != @hpkeep6 masquerade",
            "ip saddr @masq4 ip daddr != @pods4 ip daddr != 224.0.0.0/4 masquerade",
            "iifname @bridges goto from_pod",
            "iifname \"dnp*\" goto from_pod",
            "ip daddr 127.0.0.0/8 drop",
            "icmp type 5 drop",
            "icmpv6 type 134 drop",
            "icmpv6 type 137 drop",
        ] {
            assert!(lines.contains(&line), "{line:?} is not in\n{text}");
        }
        let json: Value = serde_json::from_str(&nft("-j list table inet dunnage")).unwrap();
        let count =
            |kind: &str| json["nftables"].as_array().unwrap().iter().filter(|o| !o[kind].is_null()).count();
        assert_eq!((count("set"), count("map"), count("chain"), count("rule")), (10, 4, 6, 19));

        network.detach(&pod.owner).unwrap();
        let left = nft("-j list table inet dunnage");
        assert!(!left.contains("8080"), "{left}");
    });
}

#[test]
fn a_table_that_somebody_flushed_comes_back_with_the_next_pod() {
    on_fresh_host(|world| {
        let outside = world.outside();
        let mut network = world.network();
        let pod = world.pod(&mut network, "a");
        nft("flush ruleset");
        world.pod(&mut network, "b");
        let seen = seen_as(&pod.netns.0, &outside.0, any4(7000), (OUTSIDE, 7000).into());
        assert_eq!(seen.unwrap(), IpAddr::from(UPLINK));
    });
}

//! What keeps the price of a pod from growing with the number of pods, and what must be so all the same.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use dunnage_net::{HostPort, Protocol};
use world::{ip, on_fresh_host};

fn switch(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned()
}

#[test]
fn switches_of_links_are_set_without_a_path_to_them() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        let open = world.pod_with_ports(&mut network, "open", &[port]).unwrap();
        let closed = world.pod(&mut network, "closed");
        let localnet =
            |pod: &world::Pod| switch(&format!("ipv4/conf/{}/route_localnet", pod.attachment.host_ifname));
        assert_eq!((localnet(&open).as_str(), localnet(&closed).as_str()), ("1", "0"));
        open.netns
            .0
            .run(|| {
                assert_eq!(switch("ipv4/conf/eth0/accept_redirects"), "0");
                assert_eq!(ip("-6 addr show eth0"), "", "nothing of IPv6 in a network without");
            })
            .unwrap();
    });
}

#[test]
fn the_gateway_is_an_address_of_the_host_once() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let _pods = ["a", "b", "c"].map(|name| world.pod(&mut network, name));
        let addresses = ip("-o -4 addr");
        assert_eq!(addresses.matches("10.88.0.1").count(), 1, "{addresses}");
        assert!(ip("route get 10.88.0.3").contains("src 10.88.0.1"));
    });
}

#[test]
fn attaching_leaves_the_thread_where_it_was() {
    on_fresh_host(|world| {
        let mut network = world.network();
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let _pod = world.pod(&mut network, "a");
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), here);
    });
}

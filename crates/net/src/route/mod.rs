//! The few verbs of route netlink that a pod network needs.
//!
//! Messages are built with the types of `netlink-packet-route`. Answers are read by attribute here, because a
//! new kernel's link has attributes that a strict parser refuses.

mod conf;
mod ip;
mod link;
mod list;
mod neighbour;
mod qdisc;
mod veth;
mod vlan;

use dunnage_sys::Errno;
use dunnage_sys::netlink::Subsystem;
use ipnet::IpNet;
use netlink_packet_core::Emitable;

use crate::Result;
use crate::channel::{Channel, Request};

pub use link::LinkOptions;
pub(crate) use link::{Bridge, Link};
pub(crate) use list::{Listed, Probe};
pub(crate) use neighbour::{Neighbour, Place};
pub use qdisc::Shape;
pub use veth::PodAddress;
pub(crate) use veth::{HostEnd, Pair, PodEnd, Veth, Way, link_local};

/// Loopback is the first link of every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;

/// A route netlink socket, bound to the network namespace it was opened in.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    channel: Channel,
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { channel: Channel::open(Subsystem::Route)? })
    }

    /// Takes back what [`conf::close_net`] did for a net; again is fine.
    pub(crate) fn open_net(&mut self, net: IpNet) -> Result<()> {
        self.send(ip::unreachable(RTM_DELROUTE, 0, net).unless(Errno::SRCH))
    }

    /// Takes every address of the host in a net from loopback, where gateways are that have no link of their own.
    pub(crate) fn disown_addresses(&mut self, net: IpNet) -> Result<()> {
        for address in self.listed(LOOPBACK)?.addresses {
            if net.contains(&address) && address.prefix_len() == address.max_prefix_len() {
                self.send(ip::delete_address(LOOPBACK, "lo", address).unless(Errno::ADDRNOTAVAIL))?;
            }
        }
        Ok(())
    }

    fn send(&mut self, request: Request) -> Result<()> {
        Ok(self.channel.exchange(&[request], |_| {})?)
    }
}

fn request(kind: u16, flags: u16, message: &impl Emitable, what: String) -> Request {
    // `emit` leaves padding alone; zeroes keep strict kernels content.
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut body);
    Request::new(kind, flags, body, what)
}

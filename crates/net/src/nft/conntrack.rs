//! Flows that conntrack remembers and that must not outlive a change of host ports.
//!
//! Where a flow goes is decided by its first packet. A UDP client that goes on sending from one port keeps the
//! decision alive: it would never reach a pod that came later, and go on sending to one that is gone.

use std::fmt;
use std::net::IpAddr;

use dunnage_sys::Errno;

use super::element::MESSAGE_HEADER;
use super::{Attributes, NLA_F_NESTED, NftSocket};
use crate::channel::{NLM_F_DUMP, Request, attributes};
use crate::error::or_absent;
use crate::{Error, Result};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;

/// Parts of a tuple, and of these.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV6_SOURCE: u16 = 3;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;

const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Which flows.
#[derive(Debug, Clone, Copy)]
enum Flows {
    /// Those that were redirected to a pod.
    Pod(IpAddr),
    /// Those to a port, whatever the address.
    Port { ipv4: bool, protocol: u8, port: u16 },
}

impl NftSocket {
    /// Forgets the flows that were redirected to a pod.
    pub(crate) fn forget_flows_to(&mut self, pod: IpAddr) -> Result<()> {
        self.forget(Flows::Pod(pod))
    }

    /// Forgets the flows to a port, whatever the address.
    pub(super) fn forget_flows_to_port(&mut self, ipv4: bool, protocol: u8, port: u16) -> Result<()> {
        self.forget(Flows::Port { ipv4, protocol, port })
    }

    fn forget(&mut self, flows: Flows) -> Result<()> {
        match self.delete_matching(flows) {
            // Before 6.9 a deletion takes no filter, and half a flow is no flow to it.
            Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                self.delete_each(flows)
            }
            done => done,
        }
    }

    fn delete_matching(&mut self, flows: Flows) -> Result<()> {
        self.delete(flows, &flows.filter())
    }

    fn delete_each(&mut self, flows: Flows) -> Result<()> {
        self.listed(flows)?.iter().try_for_each(|flow| self.delete(flows, flow))
    }

    /// What names each of the flows.
    fn listed(&mut self, flows: Flows) -> Result<Vec<Attributes>> {
        let mut found = Vec::new();
        let body = flows.body(&flows.filter());
        let list = Request::new(GET, NLM_F_DUMP, body, format!("list flows to {flows}"));
        self.channel.exchange(&[list], |reply| {
            let flow = reply.get(MESSAGE_HEADER..).unwrap_or_default();
            // Before 5.8 a list has no filter either.
            if flows.include(flow) {
                found.push(name(flow));
            }
        })?;
        Ok(found)
    }

    fn delete(&mut self, flows: Flows, attributes: &Attributes) -> Result<()> {
        let body = flows.body(attributes);
        let request = Request::new(DELETE, 0, body, format!("forget flows to {flows}"));
        or_absent(self.channel.exchange(&[request], |_| {}).map_err(Error::from))?;
        Ok(())
    }
}

impl Flows {
    fn is_ipv4(self) -> bool {
        match self {
            Self::Pod(pod) => pod.is_ipv4(),
            Self::Port { ipv4, .. } => ipv4,
        }
    }

    /// As the kernel wants to be asked for them.
    fn filter(self) -> Attributes {
        match self {
            // Answers come from the pod.
            Self::Pod(pod) => {
                let (kind, address) = source(pod);
                let answers = Attributes::new().nest(TUPLE_IP, &Attributes::new().bytes(kind, &address));
                let filter = Attributes::new().bytes(FILTER_REPLY_FLAGS, &BY_SOURCE.to_ne_bytes());
                Attributes::new().nest(TUPLE_REPLY, &answers).nest(FILTER, &filter)
            }
            Self::Port { protocol, port, .. } => {
                let flow = Attributes::new()
                    .bytes(PROTOCOL_NUMBER, &[protocol])
                    .bytes(DESTINATION_PORT, &port.to_be_bytes());
                let flow = Attributes::new().nest(TUPLE_PROTOCOL, &flow);
                let flags = BY_PROTOCOL | BY_DESTINATION_PORT;
                let filter = Attributes::new().bytes(FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
                Attributes::new().nest(TUPLE_ORIG, &flow).nest(FILTER, &filter)
            }
        }
    }

    fn include(self, flow: &[u8]) -> bool {
        match self {
            Self::Pod(pod) => {
                let (kind, address) = source(pod);
                part(flow, &[TUPLE_REPLY, TUPLE_IP, kind]) == Some(&address)
            }
            Self::Port { protocol, port, .. } => {
                let part = |kind| part(flow, &[TUPLE_ORIG, TUPLE_PROTOCOL, kind]);
                part(PROTOCOL_NUMBER) == Some(&[protocol])
                    && part(DESTINATION_PORT) == Some(&port.to_be_bytes())
            }
        }
    }

    fn body(self, attributes: &Attributes) -> Vec<u8> {
        let mut body = vec![if self.is_ipv4() { AF_INET } else { AF_INET6 }, 0, 0, 0];
        body.extend(&attributes.0);
        body
    }
}

impl fmt::Display for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "{pod}"),
            Self::Port { port, .. } => write!(f, "port {port}"),
        }
    }
}

fn source(pod: IpAddr) -> (u16, Vec<u8>) {
    match pod {
        IpAddr::V4(address) => (IPV4_SOURCE, address.octets().to_vec()),
        IpAddr::V6(address) => (IPV6_SOURCE, address.octets().to_vec()),
    }
}

/// What tells a listed flow from all others: its first packet, its zone, and its number, so that another one that has
/// come in its place stays.
fn name(flow: &[u8]) -> Attributes {
    let parts = attributes(flow).filter(|(kind, _)| matches!(*kind, TUPLE_ORIG | ID | ZONE));
    parts.fold(Attributes::new(), |all, (kind, value)| {
        let kind = if kind == TUPLE_ORIG { kind | NLA_F_NESTED } else { kind };
        all.bytes(kind, value)
    })
}

/// A value in nested attributes.
fn part<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| {
        attributes(bytes).find(|(found, _)| found == kind).map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use dunnage_sys::netns;

    use super::*;
    use crate::nft::Elements;
    use crate::route::RouteSocket;

    const UDP: u8 = 17;

    /// A namespace with flows to these ports of loopback, which are listed in it.
    fn with_flows(ports: [u16; 2]) -> NftSocket {
        netns::unshare().unwrap();
        let lo = "lo".parse().unwrap();
        let mut route = RouteSocket::open().unwrap();
        let link = route.link(&lo).unwrap().unwrap();
        route.bring_up(&link, &[]).unwrap();
        let mut nft = NftSocket::open().unwrap();
        // Nobody tracks flows in a namespace without a rule that asks for it.
        nft.ensure(&Elements::default()).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for port in ports {
            let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            client.send_to(b"flow", (Ipv4Addr::LOCALHOST, port)).unwrap();
            server.recv_from(&mut [0; 4]).unwrap();
        }
        nft
    }

    fn to(port: u16) -> Flows {
        Flows::Port { ipv4: true, protocol: UDP, port }
    }

    fn count(nft: &mut NftSocket, flows: Flows) -> usize {
        nft.listed(flows).unwrap().len()
    }

    #[test]
    fn flows_to_a_port_go_one_by_one_where_the_kernel_takes_no_filter_and_others_stay() {
        let mut nft = with_flows([5001, 5002]);
        assert_eq!([count(&mut nft, to(5001)), count(&mut nft, to(5002))], [1, 1]);
        nft.delete_each(to(5001)).unwrap();
        assert_eq!([count(&mut nft, to(5001)), count(&mut nft, to(5002))], [0, 1]);
        nft.delete_each(to(5001)).unwrap();
    }

    #[test]
    fn flows_that_a_pod_answers_go_one_by_one_where_the_kernel_takes_no_filter() {
        let mut nft = with_flows([5001, 5002]);
        let (pod, other) =
            (Flows::Pod(Ipv4Addr::LOCALHOST.into()), Flows::Pod(Ipv4Addr::new(127, 0, 0, 9).into()));
        assert_eq!([count(&mut nft, pod), count(&mut nft, other)], [2, 0]);
        nft.delete_each(other).unwrap();
        assert_eq!(count(&mut nft, pod), 2);
        nft.delete_each(pod).unwrap();
        assert_eq!(count(&mut nft, pod), 0);
    }

    #[test]
    fn flows_to_a_port_are_forgotten_in_whatever_way_this_kernel_has() {
        let mut nft = with_flows([5001, 5002]);
        nft.forget_flows_to_port(true, UDP, 5001).unwrap();
        assert_eq!([count(&mut nft, to(5001)), count(&mut nft, to(5002))], [0, 1]);
    }
}

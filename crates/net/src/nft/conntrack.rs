//! Flows that conntrack remembers and that must not outlive a change of host ports.
//!
//! Where a flow goes is decided by its first packet. A UDP client that goes on sending from one port keeps the
//! decision alive: it would never reach a pod that came later, and go on sending to one that is gone.

use std::net::IpAddr;

use super::{Attributes, NftSocket};
use crate::channel::Request;
use crate::error::or_absent;
use crate::{Error, Result};

const DELETE: u16 = 1 << 8 | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;

const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl NftSocket {
    /// Forgets the flows that were redirected to a pod.
    pub(crate) fn forget_flows_to(&mut self, pod: IpAddr) -> Result<()> {
        let (family, kind, address) = match pod {
            IpAddr::V4(address) => (AF_INET, 1, address.octets().to_vec()),
            IpAddr::V6(address) => (AF_INET6, 3, address.octets().to_vec()),
        };
        // Answers come from the pod.
        let answers = Attributes::new().nest(1, &Attributes::new().bytes(kind, &address));
        let filter = Attributes::new().bytes(FILTER_REPLY_FLAGS, &BY_SOURCE.to_ne_bytes());
        let wanted = Attributes::new().nest(TUPLE_REPLY, &answers).nest(FILTER, &filter);
        self.forget(family, &wanted, &pod.to_string())
    }

    /// Forgets the flows to a port, whatever the address.
    pub(super) fn forget_flows_to_port(&mut self, ipv4: bool, protocol: u8, port: u16) -> Result<()> {
        let family = if ipv4 { AF_INET } else { AF_INET6 };
        let flow = Attributes::new().bytes(1, &[protocol]).bytes(3, &port.to_be_bytes());
        let flow = Attributes::new().nest(2, &flow);
        let flags = BY_PROTOCOL | BY_DESTINATION_PORT;
        let filter = Attributes::new().bytes(FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
        let wanted = Attributes::new().nest(TUPLE_ORIG, &flow).nest(FILTER, &filter);
        self.forget(family, &wanted, &format!("port {port}"))
    }

    fn forget(&mut self, family: u8, attributes: &Attributes, what: &str) -> Result<()> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(&attributes.0);
        let what = format!("forget flows to {what}");
        let request = Request { kind: DELETE, flags: 0, body, ack: true, what };
        or_absent(self.channel.exchange(&[request], |_| {}).map_err(Error::from))?;
        Ok(())
    }
}

//! VLANs of a bridge: which ones its ports are in, and the host's own link into one.

use std::ops::RangeInclusive;

use dunnage_sys::Errno;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
};

use super::link::LINK_HEADER;
use super::{Link, RTM_GETLINK, RTM_NEWLINK, RouteSocket, request};
use crate::channel::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, attributes};
use crate::{Bridging, IfName, Mac, Result};

const RTM_SETLINK: u16 = 19;
const RTM_DELLINK: u16 = 17;
const IFLA_AF_SPEC: u16 = 26;
/// `IFLA_BRIDGE_VLAN_INFO`.
const VLAN_INFO: u16 = 2;

impl RouteSocket {
    /// Lets a bridge keep VLANs apart.
    pub(crate) fn filter_vlans(&mut self, bridge: &IfName) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(bridge.to_string()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)])),
            ]),
        ];
        let set = request(RTM_NEWLINK, 0, &message, format!("switch on VLAN filtering of bridge {bridge}"));
        Ok(self.channel.exchange(&[set], |_| {})?)
    }

    /// Puts a port into the VLANs of its network, in one datagram.
    pub(crate) fn join_vlans(&mut self, port: u32, name: &IfName, bridging: &Bridging) -> Result<()> {
        Ok(self.channel.exchange(&port_vlans(port, name, bridging), |_| {})?)
    }

    /// The VLANs that a port is in.
    pub(crate) fn vlans(&mut self, port: u32) -> Result<Vec<u16>> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
        // The kernel tells of one port only when it tells of all.
        let dump = request(RTM_GETLINK, NLM_F_DUMP, &message, "list ports of bridges".to_owned());
        let mut found = Vec::new();
        self.channel.exchange(&[dump], |reply| {
            let index = reply.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
            if index == Some(port) {
                found.extend(joined(reply));
            }
        })?;
        Ok(found)
    }

    /// Makes the host's link into a VLAN of the bridge.
    pub(crate) fn create_vlan_link(
        &mut self,
        name: &IfName,
        bridge: &Link,
        vlan: u16,
        mac: Mac,
    ) -> Result<()> {
        let what = format!("put bridge {} into VLAN {vlan}", bridge.name);
        // What is said about a bridge without this flag is about it as a port of another bridge.
        let entries =
            vec![AfSpecBridge::Flags(BridgeFlag::LowerDev), info(BridgeVlanInfoFlags::empty(), vlan)];
        let own = vlan_request(RTM_SETLINK, bridge.index, entries, what);
        self.channel.exchange(&[own], |_| {})?;
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Link(bridge.index),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(vlan)])),
            ]),
        ];
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let create = request(RTM_NEWLINK, flags, &message, format!("create VLAN link {name}"));
        Ok(self.channel.exchange(&[create], |_| {})?)
    }
}

/// The VLANs in what the kernel tells of a port.
fn joined(reply: &[u8]) -> Vec<u16> {
    let specs = attributes(reply.get(LINK_HEADER..).unwrap_or_default());
    let specs = specs.filter(|(kind, _)| *kind == IFLA_AF_SPEC);
    let entries = specs.flat_map(|(_, spec)| attributes(spec)).filter(|(kind, _)| *kind == VLAN_INFO);
    // struct bridge_vlan_info: flags, then the VLAN.
    entries.filter_map(|(_, entry)| Some(u16::from_ne_bytes(entry.get(2..4)?.try_into().ok()?))).collect()
}

fn port_vlans(port: u32, name: &IfName, bridging: &Bridging) -> Vec<Request> {
    let mut batch = Vec::new();
    if !bridging.default_vlan {
        // Which one it is in is the bridge's affair. Kernels take it for done when it is in none.
        let what = format!("take {name} out of the default VLAN");
        batch.push(vlan_request(RTM_DELLINK, port, intervals(&[1..=4094]), what).unless(Errno::NOENT));
    }
    if !bridging.trunk.is_empty() {
        let what = format!("put {name} into VLANs {}", said(&bridging.trunk));
        batch.push(vlan_request(RTM_SETLINK, port, intervals(&bridging.trunk), what));
    }
    if let Some(vlan) = bridging.vlan {
        let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        let what = format!("put {name} into VLAN {vlan}");
        batch.push(vlan_request(RTM_SETLINK, port, vec![info(flags, vlan)], what));
    }
    batch
}

/// A first and a last entry for each interval, as the kernel wants it, and one for a single VLAN.
fn intervals(ranges: &[RangeInclusive<u16>]) -> Vec<AfSpecBridge> {
    let entries = |range: &RangeInclusive<u16>| {
        if range.start() == range.end() {
            return vec![info(BridgeVlanInfoFlags::empty(), *range.start())];
        }
        let first = info(BridgeVlanInfoFlags::RangeBegin, *range.start());
        vec![first, info(BridgeVlanInfoFlags::RangeEnd, *range.end())]
    };
    ranges.iter().flat_map(entries).collect()
}

fn said(ranges: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn info(flags: BridgeVlanInfoFlags, vid: u16) -> AfSpecBridge {
    AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid })
}

fn vlan_request(verb: u16, index: u32, entries: Vec<AfSpecBridge>, what: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecBridge(entries)];
    request(verb, 0, &message, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verbs and entries of the messages for port 9, the entries as flags and VLAN.
    fn sent(bridging: &Bridging) -> Vec<(u16, Vec<[u16; 2]>)> {
        const HEADER: [u8; 16] = [7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let half = |bytes: &[u8], at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let batch = port_vlans(9, &"dnp0a580002".parse().unwrap(), bridging);
        batch
            .iter()
            .map(|request| {
                let (header, nested) = request.body.split_at(16);
                assert_eq!(header, HEADER, "struct ifinfomsg of AF_BRIDGE");
                // IFLA_AF_SPEC, be it marked as nested or not.
                assert_eq!((usize::from(half(nested, 0)), half(nested, 2) & 0x3fff), (nested.len(), 26));
                let entries = nested[4..].chunks(8).map(|entry| {
                    assert_eq!((half(entry, 0), half(entry, 2)), (8, 2), "IFLA_BRIDGE_VLAN_INFO");
                    [half(entry, 4), half(entry, 6)]
                });
                (request.kind, entries.collect())
            })
            .collect()
    }

    #[test]
    fn vlans_are_read_from_what_the_kernel_tells_of_a_port() {
        let mut reply = vec![0; 16];
        // IFLA_MTU; then IFLA_AF_SPEC, nested: flags of the bridge, VLANs 1 and 7.
        reply.extend([8, 0, 4, 0, 220, 5, 0, 0]);
        reply.extend([
            28, 0, 26, 0x80, 8, 0, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 6, 0, 1, 0, 8, 0, 2, 0, 0, 0, 7, 0,
        ]);
        assert_eq!(joined(&reply), [1, 7]);
        assert_eq!(joined(&reply[..10]), [0; 0]);
    }

    #[test]
    fn a_port_joins_its_vlans_in_messages_as_the_kernel_reads_them() {
        const DELETE: u16 = 17;
        const SET: u16 = 19;
        // PVID and untagged; first and last of an interval.
        const OWN: u16 = 0b110;
        const FIRST: u16 = 0b1000;
        const LAST: u16 = 0b1_0000;
        let access = Bridging { vlan: Some(7), ..Bridging::default() };
        assert_eq!(sent(&access), [(SET, vec![[OWN, 7]])]);
        let trunk = Bridging { trunk: vec![101..=101, 200..=299], ..Bridging::default() };
        assert_eq!(sent(&trunk), [(SET, vec![[0, 101], [FIRST, 200], [LAST, 299]])]);
        let both = Bridging { vlan: Some(100), default_vlan: false, ..trunk };
        assert_eq!(
            sent(&both),
            [
                (DELETE, vec![[FIRST, 1], [LAST, 4094]]),
                (SET, vec![[0, 101], [FIRST, 200], [LAST, 299]]),
                (SET, vec![[OWN, 100]]),
            ]
        );
        let names: Vec<String> =
            port_vlans(9, &"p".parse().unwrap(), &both).into_iter().map(|request| request.what).collect();
        assert_eq!(
            names,
            ["take p out of the default VLAN", "put p into VLANs 101, 200-299", "put p into VLAN 100"]
        );
    }
}

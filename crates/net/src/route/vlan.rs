//! VLANs of a bridge: which one its ports are in, and the host's own link into one.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkInfo, LinkMessage,
};

use super::{Link, RTM_NEWLINK, RouteSocket, request};
use crate::channel::{NLM_F_CREATE, NLM_F_EXCL, Request};
use crate::error::or_absent;
use crate::{IfName, Mac, Result};

const RTM_SETLINK: u16 = 19;
const RTM_DELLINK: u16 = 17;
/// Every new port is in this VLAN until it is taken out.
const DEFAULT_VLAN: u16 = 1;

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

    /// Puts a port into one VLAN, untagged on its side, and out of the default one.
    pub(crate) fn join_vlan(&mut self, port: u32, name: &IfName, vlan: u16) -> Result<()> {
        let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        let join =
            vlan_request(RTM_SETLINK, port, vlan, flags, false, format!("put {name} into VLAN {vlan}"));
        self.channel.exchange(&[join], |_| {})?;
        if vlan == DEFAULT_VLAN {
            return Ok(());
        }
        let what = format!("take {name} out of VLAN {DEFAULT_VLAN}");
        let flags = BridgeVlanInfoFlags::empty();
        let leave = vlan_request(RTM_DELLINK, port, DEFAULT_VLAN, flags, false, what);
        // A bridge without a default VLAN has not put it in.
        or_absent(self.channel.exchange(&[leave], |_| {}).map_err(crate::Error::from))?;
        Ok(())
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
        let own = vlan_request(RTM_SETLINK, bridge.index, vlan, BridgeVlanInfoFlags::empty(), true, what);
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

fn vlan_request(
    verb: u16,
    index: u32,
    vlan: u16,
    flags: BridgeVlanInfoFlags,
    of_bridge: bool,
    what: String,
) -> Request {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    let info = AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan });
    // What is said about a bridge without this flag is about it as a port of another bridge.
    let side = of_bridge.then_some(AfSpecBridge::Flags(BridgeFlag::LowerDev));
    message.attributes = vec![LinkAttribute::AfSpecBridge(side.into_iter().chain([info]).collect())];
    request(verb, 0, &message, what)
}

//! The keys of the reference plugin `bridge` that are about the bridge, its ports and what passes them.

use dunnage_net::{Bridging, Mode};

use crate::error::{Error, Result};
use crate::fields::Fields;

/// Keys that only whoever makes an interface has: with one of them an entry of a list adds to nobody else's.
const MAKERS_KEYS: &[&str] = &[
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mode",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "portIsolation",
    "disableContainerInterface",
];

/// Whether nothing in a configuration is about the interface itself.
pub(crate) fn only_adds(fields: &Fields<'_>) -> bool {
    fields.get("ipam").is_none() && !MAKERS_KEYS.iter().any(|key| fields.get(key).is_some())
}

/// What is asked of the bridge and its ports. Without addresses the host is no gateway.
pub(crate) fn bridging(fields: &Fields<'_>, has_addresses: bool) -> Result<Bridging> {
    let on = |key: &str| Ok::<bool, Error>(fields.flag(key)?.unwrap_or(false));
    if on("hairpinMode")? && on("promiscMode")? {
        return Err(Error::config("hairpinMode and promiscMode exclude each other"));
    }
    let leaves_down = on("disableContainerInterface")?;
    if leaves_down && has_addresses {
        return Err(Error::config("disableContainerInterface and ipam exclude each other")
            .because("an interface that is left down has no use of addresses"));
    }
    let gateway = on("isDefaultGateway")? || on("isGateway")?;
    Ok(Bridging {
        gateway: gateway && has_addresses,
        hairpin: fields.flag("hairpinMode")?,
        promiscuous: on("promiscMode")?,
        isolated: on("portIsolation")?,
        vlan: fields.number("vlan")?.filter(|vlan| *vlan > 0),
        leaves_down,
    })
}

/// Routed, unless what is asked for is a matter of bridges.
pub(crate) fn mode(fields: &Fields<'_>, bridging: &Bridging, has_addresses: bool) -> Result<Mode> {
    let reasons = [("vlan", bridging.vlan.is_some()), ("portIsolation", bridging.isolated)];
    let reason = reasons.into_iter().find(|(_, asked)| *asked).map(|(key, _)| key);
    match fields.text("mode")? {
        Some("bridged" | "bridge") => Ok(Mode::Bridged),
        None if reason.is_some() || !has_addresses => Ok(Mode::Bridged),
        None => Ok(Mode::Routed),
        Some("routed") => match reason {
            Some(key) => Err(Error::config(format!("{key} needs mode \"bridged\""))),
            None if !has_addresses => Err(Error::config("mode \"routed\" needs ipam")
                .because("nothing is routed to a pod without an address")),
            None => Ok(Mode::Routed),
        },
        Some(other) => Err(Error::config(format!("mode {other:?} is unknown"))
            .because("there are \"routed\" and \"bridged\"")),
    }
}

//! The keys of the reference plugin `bridge` that are about the bridge, its ports and what passes them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use dunnage_net::{Bridging, Mode};

use crate::error::{Error, Result};
use crate::fields::Fields;

/// Keys that only whoever makes an interface has: with one of them an entry of a list adds to nobody else's.
pub(crate) const KEYS: &[&str] = &[
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
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "portIsolation",
    "disableContainerInterface",
];

/// Whether nothing in a configuration is about the interface itself.
pub(crate) fn only_adds(fields: &Fields<'_>) -> bool {
    fields.get("ipam").is_none() && !KEYS.iter().any(|key| fields.get(key).is_some())
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
        trunk: trunk(fields)?,
        default_vlan: fields.flag("preserveDefaultVlan")?.unwrap_or(true),
        detects_duplicates: on("enabledad")?,
        checks_sources: on("macspoofchk")?,
        leaves_down,
    })
}

/// The VLANs of `vlanTrunk`, as few intervals as there can be.
fn trunk(fields: &Fields<'_>) -> Result<Vec<RangeInclusive<u16>>> {
    let mut all = BTreeSet::new();
    for entry in fields.objects("vlanTrunk")? {
        entry.refuse_others(&["id", "minID", "maxID"])?;
        let (id, min, max) = (vlan(&entry, "id")?, vlan(&entry, "minID")?, vlan(&entry, "maxID")?);
        all.extend(id);
        match (min, max) {
            (Some(min), Some(max)) if min > max => {
                return Err(Error::config(format!("{} {min} is above maxID {max}", entry.at("minID"))));
            }
            (Some(min), Some(max)) => all.extend(min..=max),
            (None, None) if id.is_some() => {}
            (None, None) => return Err(Error::config(format!("{} is missing", entry.at("id")))),
            (Some(_), None) => return Err(Error::config(format!("{} is missing", entry.at("maxID")))),
            (None, Some(_)) => return Err(Error::config(format!("{} is missing", entry.at("minID")))),
        }
    }
    let mut intervals: Vec<RangeInclusive<u16>> = Vec::new();
    for id in all {
        match intervals.last_mut() {
            Some(last) if *last.end() + 1 == id => *last = *last.start()..=id,
            _ => intervals.push(id..=id),
        }
    }
    Ok(intervals)
}

fn vlan(entry: &Fields<'_>, key: &str) -> Result<Option<u16>> {
    match entry.number(key)? {
        Some(id) if !(1..=4094).contains(&id) => {
            Err(Error::config(format!("{} {id} is not between 1 and 4094", entry.at(key))))
        }
        id => Ok(id),
    }
}

/// Routed, unless what is asked for is a matter of bridges.
pub(crate) fn mode(fields: &Fields<'_>, bridging: &Bridging, has_addresses: bool) -> Result<Mode> {
    let reasons = [
        ("vlan", bridging.vlan.is_some()),
        ("vlanTrunk", !bridging.trunk.is_empty()),
        ("portIsolation", bridging.isolated),
    ];
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value) -> Result<Bridging> {
        bridging(&Fields::of("", config)?, true)
    }

    #[test]
    fn a_trunk_is_as_few_intervals_as_there_can_be() {
        let trunk = json!([{"id": 101}, {"minID": 200, "maxID": 299}, {"id": 300, "minID": 250, "maxID": 260},
            {"ID": 1}, {"minid": 4094, "maxid": 4094}]);
        let trunk = read(&json!({"vlanTrunk": trunk})).unwrap().trunk;
        assert_eq!(trunk, [1..=1, 101..=101, 200..=300, 4094..=4094]);
        assert!(read(&json!({"vlanTrunk": []})).unwrap().trunk.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_trunk_is_told_by_its_place() {
        for (entry, says) in [
            (json!({"id": 0}), "vlanTrunk[0].id 0 is not between 1 and 4094"),
            (json!({"minID": 1, "maxID": 4095}), "vlanTrunk[0].maxID 4095 is not between 1 and 4094"),
            (json!({"id": 70_000}), "vlanTrunk[0].id is not a number in range"),
            (json!({"minID": 9, "maxID": 8}), "vlanTrunk[0].minID 9 is above maxID 8"),
            (json!({"minID": 9}), "vlanTrunk[0].maxID is missing"),
            (json!({"maxID": 9}), "vlanTrunk[0].minID is missing"),
            (json!({}), "vlanTrunk[0].id is missing"),
            (json!({"vid": 9}), "unknown key vlanTrunk[0].vid with value 9"),
            (json!(9), "vlanTrunk[0] is not an object"),
        ] {
            assert_eq!(read(&json!({"vlanTrunk": [entry]})).unwrap_err().msg, says, "{entry}");
        }
    }

    #[test]
    fn pods_stay_in_the_default_vlan_unless_it_is_said_otherwise() {
        assert!(read(&json!({"vlan": 7})).unwrap().default_vlan);
        assert!(!read(&json!({"vlan": 7, "preserveDefaultVlan": false})).unwrap().default_vlan);
    }
}

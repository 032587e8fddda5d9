//! GC: takes back what belongs to no attachment that is valid.

use std::collections::HashSet;
use std::net::IpAddr;

use dunnage_net::{Lease, Owner, PodNetwork};

use crate::conf::{self, unconfigured};
use crate::env::Environment;
use crate::error::{Error, KERNEL, Result};
use crate::fields::Fields;
use crate::output;
use crate::version::Version;

/// The key of the specification, and the one that runtimes used before.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

pub(crate) fn run(_environment: &Environment, fields: &Fields<'_>, _version: Version) -> Result<()> {
    if fields.text("type")? == Some("loopback") {
        return Ok(());
    }
    let keep = valid(fields)?;
    let config = match conf::network(fields) {
        Ok((config, _)) => config,
        Err(_) => unconfigured(fields)?,
    };
    let collected = PodNetwork::open(config)?.collect(&keep)?;
    for lease in &collected.leases {
        let holder =
            lease.holder.as_ref().map_or_else(|| "nobody".to_owned(), |(owner, _)| owner.to_string());
        output::note(&format!("took back {} of {holder}", what(lease)));
    }
    if collected.left.is_empty() {
        return Ok(());
    }
    Err(Error::new(KERNEL, "not everything could be taken back").because(collected.left.join("; ")))
}

fn what(lease: &Lease) -> String {
    match lease.ip() {
        // Nobody's: it stands for the place of a pod without an address.
        IpAddr::V4(ip) if ip.octets()[0] == 0 => "interface".to_owned(),
        ip => format!("address {ip}"),
    }
}

/// A list that is missing is not an empty one: nothing is taken from anybody by mistake. One that is null is: so a
/// runtime in Go says that nothing is valid, as CRI-O does of a node that has no pod yet.
fn valid(fields: &Fields<'_>) -> Result<HashSet<Owner>> {
    let filled = KEYS.into_iter().find(|key| fields.get(key).is_some());
    let key = filled.or_else(|| KEYS.into_iter().find(|key| fields.has(key)));
    let key = key.ok_or_else(|| Error::config(format!("{} is missing", KEYS[0])))?;
    let mut keep = HashSet::new();
    for attachment in fields.objects(key)? {
        let text = |key| {
            let missing = || Error::config(format!("{} is missing", attachment.at(key)));
            attachment.text(key)?.ok_or_else(missing)
        };
        keep.insert(Owner::new(text("containerID")?, text("ifname")?.parse()?)?);
    }
    Ok(keep)
}

//! DEL: takes a container's interface off the network at once, and removes it in the background.
//!
//! It succeeds when there is nothing to take back, and needs no more of a configuration than the network's name:
//! whatever else is wrong with it, pods that are there can be deleted.

use std::time::Duration;

use dunnage_net::{Detached, LeaseKind, Netns, PodNetwork};
use dunnage_sys::background::{self, Side};

use crate::bridge;
use crate::conf::{self, unconfigured};
use crate::env::Environment;
use crate::error::Result;
use crate::fields::Fields;
use crate::forward;
use crate::version::Version;

/// How long the background waits before it removes an interface. A runtime that removes the network namespace in
/// the meantime has it removed together with all others that went, where removing it alone would stop everybody
/// else who changes links for 20 ms.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn run(environment: &Environment, fields: &Fields<'_>, _version: Version) -> Result<()> {
    if fields.text("type")? == Some("loopback") {
        return Ok(());
    }
    let owner = environment.owner()?;
    let config = match conf::network(fields) {
        Ok((config, _)) => config,
        Err(_) => unconfigured(fields)?,
    };
    let mut network = PodNetwork::open(config)?;
    // The files of `host-local` are known to the entry that has `ipam`, whose turn is later.
    if bridge::only_adds(fields) && network.lease_kind(owner)? == Some(LeaseKind::Imported) {
        return Ok(());
    }
    // Only for what another plugin has made; a namespace that is gone has nothing of it.
    let netns = environment.netns().ok().filter(|netns: &Netns| netns.is_own().is_ok_and(|own| !own));
    let detached = network.release(owner, netns.as_ref())?;
    if forward::asks(fields, bridge::only_adds(fields)).unwrap_or(false) {
        network.stop_passing_if_unused()?;
    }
    match detached {
        Some(detached) => {
            go_on_in_the_background(network, detached);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The nftables socket is closed in the background as well, and late: as long as the kernel has not yet freed what was
/// deleted (some 13 ms), a close waits for that, and all who change nftables wait for the close.
fn go_on_in_the_background(network: PodNetwork, detached: Detached) {
    // Without a background the interface goes with its namespace, or the next ADD or GC removes it.
    let Ok(Side::Background) = background::fork() else { return };
    std::thread::sleep(PATIENCE);
    drop(network);
    let _ = detached.destroy();
}

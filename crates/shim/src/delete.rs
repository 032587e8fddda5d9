//! `delete`: what is left of a container, taken down by a process of its own.
//!
//! containerd calls it after every ordinary removal too, so most of the time there is nothing to do.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use dunnage_api::task::DeleteResponse;
use dunnage_task::leftover;
use dunnage_task::record::Store;
use prost::Message;

use crate::RUN_DIRECTORY;
use crate::address::Address;
use crate::args::Args;
use crate::start::listen;

/// Takes the container down and writes containerd's `DeleteResponse` to `out`, and nothing else.
pub(crate) fn delete(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let store = Store::new(Path::new(RUN_DIRECTORY), &args.namespace);
    let (pid, status, at) = match leftover::take_down(&store, &args.id)? {
        Some(left) => (left.pid, left.exit.status, left.exit.at),
        // What containerd's own shim answers for a container that nobody knows any more.
        None => (0, 137, SystemTime::now()),
    };
    // The bundle may be half removed, or gone.
    if !is_served(args.bundle.as_deref().unwrap_or(Path::new(".")))? {
        for id in leftover::routed_to(&store, &args.id)? {
            leftover::take_down(&store, &id)?;
        }
    }
    let response = DeleteResponse { pid, exit_status: status, exited_at: Some(at.into()) };
    Ok(out.write_all(&response.encode_to_vec())?)
}

/// Whether the process of the group lives. If not, its socket is removed; while it is served it stays: other
/// containers of the pod are behind it.
fn is_served(bundle: &Path) -> anyhow::Result<bool> {
    let Ok(text) = std::fs::read_to_string(bundle.join("address")) else { return Ok(false) };
    let address = Address::parse(&text).context("file address")?;
    listen::remove_dead(&address)?;
    Ok(address.path().exists())
}

//! The serving process: this program again, in a session of its own, with the socket as its only descriptor.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use dunnage_sys::spawn::{Detached, plain_self, sealed_self};

use super::input::Input;
use crate::address::Address;
use crate::args::Args;

/// Set for the serving process when it runs from the file itself and not from a read-only view of it.
pub(crate) const UNSEALED: &str = "DUNNAGE_UNSEALED";
/// Where containerd takes events.
pub(crate) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Returns when the program of the serving process runs.
pub(crate) fn serving_process(
    args: &Args,
    input: &Input,
    bundle: &Path,
    address: &Address,
    listener: &UnixListener,
) -> dunnage_sys::Result<()> {
    let (program, unsealed) = program()?;
    let process = Detached {
        program: program.as_fd(),
        args: &arguments(args, input, bundle, address),
        env: &environment(input, unsealed),
        listener: listener.as_fd(),
    };
    process.spawn().map(drop)
}

/// Ourselves, sealed where that is allowed; else the reason why not.
fn program() -> dunnage_sys::Result<(OwnedFd, Option<dunnage_sys::Error>)> {
    match sealed_self() {
        Ok(program) => Ok((program, None)),
        Err(reason) => Ok((plain_self()?, Some(reason))),
    }
}

fn arguments(args: &Args, input: &Input, bundle: &Path, address: &Address) -> Vec<OsString> {
    let own_name = std::env::args_os().next().unwrap_or_else(|| "containerd-shim-dunnage-v1".into());
    let socket = address.to_string();
    let mut words: Vec<OsString> = vec![own_name];
    for (flag, value) in [
        ("-namespace", args.namespace.as_str().as_ref()),
        ("-id", args.id.as_str().as_ref()),
        ("-address", args.address.as_ref()),
        ("-bundle", bundle.as_os_str()),
        ("-socket", socket.as_ref()),
    ] {
        words.extend([flag.into(), value.to_owned()]);
    }
    if args.debug || input.wants_debug() {
        words.push("-debug".into());
    }
    words
}

fn environment(input: &Input, unsealed: Option<dunnage_sys::Error>) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| name != UNSEALED).collect();
    if let Some(address) = input.ttrpc_address() {
        environment.retain(|(name, _)| name != TTRPC_ADDRESS);
        environment.push((TTRPC_ADDRESS.into(), address.into()));
    }
    if let Some(reason) = unsealed {
        environment.push((UNSEALED.into(), reason.to_string().into()));
    }
    environment
}

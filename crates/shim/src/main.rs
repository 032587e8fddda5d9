//! The containerd shim: start, delete, info and the serving process.
//!
//! The border between containerd and what dunnage does: command line, standard streams, sockets, wire types.
//! No system call of its own and no decision about containers.
#![forbid(unsafe_code)]

mod address;
mod args;
mod delete;
mod event;
mod info;
mod log;
mod metrics;
mod options;
mod pod;
mod publish;
mod serve;
mod service;
mod start;
mod status;
mod stop;
mod version;

use std::io::Write;
use std::process::ExitCode;

use crate::args::{HELP, Invocation};

/// Where the records of containers are, one directory for each containerd namespace.
const RUN_DIRECTORY: &str = "/run/dunnage";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows it as the reason of the failure. If nobody can read it there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "containerd-shim-dunnage-v1: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let out = &mut std::io::stdout();
    match Invocation::parse(std::env::args_os().skip(1))? {
        Invocation::Start(args) => start::start(&args, out),
        Invocation::Delete(args) => delete::delete(&args, out),
        // First of all, while descriptor 3 still is what `start` left there.
        Invocation::Serve(args) => {
            serve::serve(dunnage_sys::socket::inherited_listener(dunnage_sys::spawn::LISTENER)?, &args)
        }
        Invocation::Info => info::info(out),
        Invocation::Version => Ok(out.write_all(version::text().as_bytes())?),
        Invocation::Help => Ok(out.write_all(HELP.as_bytes())?),
    }
}

//! `dunnage`: one command line for people.
//!
//! Owns argument parsing and the border between manifests, images and the shim. Leaves containers to the shim,
//! the network to `dunnage-net`, the kernel to `dunnage-sys`.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod exit;
mod image;
mod kubelet;
mod manifest;
mod output;
mod pause;
mod plan;
mod quantity;
mod run;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command, Place, PodCommand};

fn main() -> ExitCode {
    // Before anything else: inside the sandbox there is no file, no terminal and no memory to waste.
    if std::env::args_os().nth(1).is_some_and(|word| word == pause::WORD) {
        return pause::hold();
    }
    match carry_out(Args::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::fail(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Plan { bundle, id } => {
            output::data(plan::text(&bundle, &id)?.trim_end());
            Ok(0)
        }
        Command::Pod(PodCommand::Run { manifest, place: Place { root }, shim, cgroup_root, debug }) => {
            let root = std::path::absolute(root)?;
            run::run(&run::Options { manifest, root, shim, cgroup_root, debug })
        }
        Command::Pod(PodCommand::Clean { place: Place { root } }) => {
            for pod in run::clean(&std::path::absolute(root)?)? {
                output::data(format_args!("removed what pod {pod} had left"));
            }
            Ok(0)
        }
    }
}

//! `dunnage-cni`: one CNI plugin for what takes `bridge`, `host-local`, `portmap`, `loopback`, `firewall`,
//! `bandwidth` and `tuning` of the reference plugins, on top of `dunnage-net`.
//!
//! ```text
//! environment ─▶ Environment ┐
//! stdin ─▶ Fields ─▶ Conf ───┴─▶ add, del, check, gc, status ─▶ dunnage-net ─▶ result or error on stdout
//! ```
//!
//! Owns the words of the CNI specification (0.3.1 to 1.1.0): what a configuration may say, what a result looks
//! like in each version, error codes. Leaves what happens in the kernel to `dunnage-net`.
#![forbid(unsafe_code)]

mod add;
mod bridge;
mod capability;
mod check;
mod conf;
mod del;
mod env;
mod error;
mod fields;
mod forward;
mod gc;
mod ipam;
mod loopback;
mod output;
mod result;
mod routes;
mod status;
mod version;

use std::io::Read;
use std::process::ExitCode;

use serde_json::Value;

use crate::conf::Conf;
use crate::env::{Command, Environment};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::version::Version;

fn main() -> ExitCode {
    let Some(command) = std::env::var("CNI_COMMAND").ok().filter(|command| !command.is_empty()) else {
        output::about();
        return ExitCode::SUCCESS;
    };
    let mut version = Version::NEWEST;
    match run(&command, &mut version) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error, version);
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked; `version` is what an error is to be told in.
fn run(command: &str, version: &mut Version) -> Result<()> {
    let command = Command::named(command)?;
    if command == Command::Version {
        return output::json(&version::supported());
    }
    let environment = Environment::read(command)?;
    let stdin = read_stdin()?;
    let fields = Fields::of("", &stdin)?;
    *version = Version::of(&fields)?;
    command.check_version(*version)?;
    match command {
        Command::Add => add::run(&environment, &Conf::parse(&fields, *version, &environment)?),
        Command::Check => check::run(&environment, &Conf::parse(&fields, *version, &environment)?),
        Command::Status => status::run(Conf::parse(&fields, *version, &environment)?),
        Command::Del => del::run(&environment, &fields, *version),
        Command::Gc => gc::run(&environment, &fields, *version),
        Command::Version => Ok(()),
    }
}

fn read_stdin() -> Result<Value> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|error| Error::io("read stdin", &error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(error::DECODE, "the configuration on stdin is not JSON").because(error))
}

//! `start`: make the serving process of a container's group, or find it, and say where it listens.
//!
//! Runs once for every pod and is waited for, so it opens, binds, clones and prints: no runtime, no threads, no
//! log. Whatever it prints besides the reply would be read as part of it, because containerd reads both output
//! streams as one.
//!
//! ```text
//! stdin ─▶ input ─▶ group ─▶ address ─▶ listen ─┬─ new ──────▶ cgroup, oom, spawn ─┬─▶ `address` ─▶ reply
//!                                               └─ existing ─▶ what does it serve ─┘
//! ```

mod cgroup;
mod daemon;
mod group;
mod input;
pub(crate) mod listen;
mod oom;
mod reply;
mod server;
mod spawn;

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;

use self::input::Input;
use self::listen::Listening;
use self::reply::{Containerd, Serves};
pub(crate) use self::spawn::{TTRPC_ADDRESS, UNSEALED};
use crate::address::{Address, DEFAULT_DIRECTORY};
use crate::args::Args;
use crate::options::Options;

/// Most bytes of standard input, as Go's shim has it.
const INPUT_LIMIT: u64 = 10 << 20;

/// The whole of `start`; the reply goes to `out`.
pub(crate) fn start(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let input = read_input(args)?;
    let bundle = std::env::current_dir().context("current directory")?;
    let group = group::of(&bundle, &args.id)?;
    let directory = Path::new(input.socket_dir().unwrap_or(DEFAULT_DIRECTORY));
    let address = Address::of_group(directory, &args.address, &args.namespace, &group)?;
    let containerd = containerd(&input);

    let serves = match listen::listen(&address)? {
        Listening::New(socket) => {
            prepare(&input)?;
            // Before the process: nothing that comes after it may fail.
            write_address(&bundle, &address)?;
            spawn::serving_process(args, &input, &bundle, &address, socket.listener())?;
            socket.keep();
            Serves::V3
        }
        Listening::Existing => {
            write_address(&bundle, &address)?;
            existing_serves(containerd, &address, args)?
        }
    };
    out.write_all(&reply::reply(containerd, serves, &address)).context("write the reply")
}

fn existing_serves(containerd: Containerd, address: &Address, args: &Args) -> anyhow::Result<Serves> {
    if !reply::depends_on_server(containerd) {
        // The plain address says version 2, which every shim serves.
        return Ok(Serves::V2);
    }
    server::serves(address, &args.id).with_context(|| format!("ask the shim at {address}"))
}

fn read_input(args: &Args) -> anyhow::Result<Input> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(INPUT_LIMIT).read_to_end(&mut bytes).context("read standard input")?;
    Input::parse(&bytes, args).context("standard input")
}

fn containerd(input: &Input) -> Containerd {
    match input {
        Input::Bootstrap(_) => Containerd::Bootstrap,
        Input::Options(_) if std::env::var_os("MAX_SHIM_VERSION").is_none() => Containerd::BeforeVersions,
        Input::Options(_) => Containerd::Major(daemon::parents_major_version()),
    }
}

/// What the serving process inherits from us: its cgroup, its core scheduling cookie and its score.
fn prepare(input: &Input) -> anyhow::Result<()> {
    let options = Options::load(input.options())?;
    if !options.asked.shim_cgroup.is_empty() {
        cgroup::join(&options.asked.shim_cgroup)?;
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        dunnage_sys::process::make_core_scheduling_cookie()?;
    }
    oom::follow_parent()?;
    Ok(())
}

/// containerd 1.6 and 1.7 find the shim by this file after a restart, and 2.x after an upgrade from them.
fn write_address(bundle: &Path, address: &Address) -> anyhow::Result<()> {
    let beside = bundle.join(format!(".address.{}", std::process::id()));
    std::fs::write(&beside, address.to_string())
        .and_then(|()| std::fs::rename(&beside, bundle.join("address")))
        .context("write file address")
}

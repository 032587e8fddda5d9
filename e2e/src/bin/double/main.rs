//! A shim's double: stands between containerd and the shim under test, passes everything on, and besides does what
//! the world's script says: kills somebody at a chosen moment, leaks, lies. The rig's checks must notice.
//!
//! `start` starts the real shim with the double's own events endpoint and answers with the double's own address;
//! `delete` is the real shim's. So a world with doubles differs from one without by nothing but the script.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a shim answers on its standard output")]

mod deed;
mod events;
mod serve;

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use dunnage_e2e::fault::{self, PLACE, Script};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", id, events] => serve::run(id, events),
        [deed::NEGLECT] => deed::neglect(),
        [.., "start"] => start(&args),
        // Whatever else a shim is asked for, it is asked without a task.
        _ => Err(Command::new(Script::read()?.shim).args(&args).exec()).context("run the shim"),
    }
}

/// Starts the double first: the shim must find its events endpoint.
fn start(args: &[String]) -> Result<()> {
    let script = Script::read()?;
    let id = args.iter().skip_while(|arg| *arg != "-id").nth(1).context("start without -id")?;
    let (events, parameters) = events(id)?;
    let log = File::options().create(true).append(true).open(format!("{PLACE}/log")).context("open a log")?;
    let mut double = Command::new(env::current_exe().context("find the own program")?)
        .args(["serve", id, &events])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start the double")?;
    let mut to = double.stdin.take().context("no way to the double")?;
    let mut from = BufReader::new(double.stdout.take().context("no way from the double")?);
    answer(&mut from, "listens")?;

    let mut shim = Command::new(&script.shim)
        .args(args)
        .env("TTRPC_ADDRESS", serve::events_socket(id))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the shim")?;
    // A shim may not read its input.
    _ = shim.stdin.take().context("no way to the shim")?.write_all(&parameters);
    let shim = shim.wait_with_output().context("hear the shim")?;
    let said = [shim.stdout, shim.stderr].concat();
    ensure!(shim.status.success(), "{}", String::from_utf8_lossy(&said));
    let (address, reply) = redirect(&said, &format!("unix://{}", serve::task_socket(id)))?;
    // For a test that speaks to the shim behind the double's back.
    fs::write(fault::shim_address_file(id), &address).context("note the shim's address")?;
    writeln!(to, "{address}").context("tell the double")?;
    answer(&mut from, "serves")?;
    std::io::stdout().write_all(&reply).context("answer")
}

/// Where events are to go, and the parameters with which they go to the double instead: since containerd 2.3 they
/// come on the standard input, and say what the environment says.
fn events(id: &str) -> Result<(String, Vec<u8>)> {
    let mut parameters = Vec::new();
    std::io::stdin().read_to_end(&mut parameters).context("read the parameters")?;
    let mut params = BootstrapParams::parse_from_bytes(&parameters).unwrap_or_default();
    if params.containerd_ttrpc_address.is_empty() {
        return Ok((env::var("TTRPC_ADDRESS").context("start without TTRPC_ADDRESS")?, parameters));
    }
    let events = std::mem::replace(&mut params.containerd_ttrpc_address, serve::events_socket(id));
    Ok((events, params.write_to_bytes()?))
}

fn answer(from: &mut impl BufRead, expected: &str) -> Result<()> {
    let mut line = String::new();
    from.read_line(&mut line).context("hear the double")?;
    ensure!(line.trim() == expected, "the double says {line:?}: see {PLACE}/log");
    Ok(())
}

/// The address in a shim's answer and the same answer with another: plain, JSON, or protobuf since containerd 2.3.
fn redirect(said: &[u8], to: &str) -> Result<(String, Vec<u8>)> {
    let text = String::from_utf8_lossy(said).trim().to_owned();
    if text.starts_with("unix://") {
        return Ok((text, to.into()));
    }
    if let Ok(mut json) = serde_json::from_str::<serde_json::Value>(&text) {
        let address = json["address"].as_str().context("an answer without address")?.to_owned();
        json["address"] = to.into();
        return Ok((address, json.to_string().into_bytes()));
    }
    let mut result = BootstrapResult::parse_from_bytes(said).context("an answer in no known form")?;
    let address = std::mem::replace(&mut result.address, to.to_owned());
    Ok((address, result.write_to_bytes()?))
}

/// One line from whoever started this process.
fn hear() -> Result<String> {
    let mut line = String::new();
    let mut input = std::io::stdin();
    // By byte: nothing after the line may be taken, and nothing comes.
    let mut byte = [0];
    while input.read(&mut byte).context("hear the address")? == 1 && byte != *b"\n" {
        line.push(char::from(byte[0]));
    }
    ensure!(!line.is_empty(), "the shim was not started");
    Ok(line)
}

fn say(word: &str) -> Result<()> {
    println!("{word}");
    std::io::stdout().flush().context("speak")
}

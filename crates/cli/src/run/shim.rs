//! Starting the shim and asking it to clean up, as containerd does: by executing it.
//!
//! Speaks the contract of containerd 2.3 (`core/runtime/v2/binary.go`): flags, environment, working directory,
//! `BootstrapParams` on standard input. Reads all three forms of the answer.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dunnage_api::bootstrap::{BootstrapParams, BootstrapResult, LogLevel};
use prost::Message;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::folder::Folder;

/// containerd's label for whose containers these are.
pub(super) const NAMESPACE: &str = "dunnage";
const PROGRAM: &str = "containerd-shim-dunnage-v1";
/// The release whose side of the protocol is spoken here.
const CONTAINERD_VERSION: &str = "2.3.0";
const START_LIMIT: Duration = Duration::from_secs(20);

/// What `start` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) version: i32,
    /// Path of its socket.
    pub(crate) socket: PathBuf,
}

/// Finds the shim: where the caller says, beside this program, or in `PATH`.
///
/// # Errors
/// Says where it was looked for.
pub(crate) fn find(chosen: Option<&Path>) -> anyhow::Result<PathBuf> {
    let found = |path: PathBuf| path.canonicalize().ok().filter(|path| path.is_file());
    if let Some(chosen) = chosen {
        return found(chosen.to_owned()).with_context(|| format!("{}: no such file", chosen.display()));
    }
    let beside = std::env::current_exe().ok().and_then(|own| found(own.with_file_name(PROGRAM)));
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find_map(|dir| found(dir.join(PROGRAM)))
    };
    beside
        .or_else(in_path)
        .with_context(|| format!("{PROGRAM} is neither beside this program nor in PATH; name it with --shim"))
}

/// Executes `start` for a container whose bundle is written, and reads where the shim serves. A shim of the time
/// before `BootstrapParams` takes them for options of a type it does not know; it is asked again without any.
///
/// # Errors
/// The shim could not be executed, failed, or gave no answer that can be used; its own words are in the text.
pub(crate) async fn start(shim: &Path, folder: &Folder, id: &str, debug: bool) -> anyhow::Result<Answer> {
    let parameters = parameters(folder, id, debug);
    let output = match start_with(&parameters, shim, folder, id, debug).await {
        Ok(output) => output,
        Err(error) => start_with(&[], shim, folder, id, debug).await.map_err(|_| error)?,
    };
    answer(&output).with_context(|| format!("execute {} start", shim.display()))
}

async fn start_with(
    input: &[u8],
    shim: &Path,
    folder: &Folder,
    id: &str,
    debug: bool,
) -> anyhow::Result<Vec<u8>> {
    let mut command = tokio::process::Command::from(command(shim, folder, id));
    if debug {
        command.arg("-debug");
    }
    command
        .arg("start")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let name = || format!("execute {} start", shim.display());
    let mut child = command.spawn().with_context(name)?;
    let mut pipe = child.stdin.take().context("no pipe to the shim")?;
    let run = async {
        // A shim that does not read its input closes it, which is its own affair.
        let _ = pipe.write_all(input).await;
        drop(pipe);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(START_LIMIT, run).await;
    let output = output.with_context(|| format!("{}: no answer within 20 s", name()))?.with_context(name)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}: {}", name(), output.status, said.trim());
    Ok(output.stdout)
}

/// Executes `delete`, which ends and removes whatever the container has left, and must be told twice without
/// harm.
///
/// # Errors
/// The shim failed or took too long.
pub(super) fn delete(shim: &Path, folder: &Folder, id: &str, limit: Duration) -> anyhow::Result<()> {
    let mut command = command(shim, folder, id);
    command.arg("-bundle").arg(folder.bundle(id)).arg("delete");
    let output = run_within(&mut command, limit)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} delete {id}: {}: {}", shim.display(), output.status, said.trim());
    Ok(())
}

fn command(shim: &Path, folder: &Folder, id: &str) -> Command {
    let bundle = folder.bundle(id);
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("dunnage"));
    let mut command = Command::new(shim);
    command
        .arg("-namespace")
        .arg(NAMESPACE)
        .arg("-address")
        .arg(folder.daemon_socket())
        .arg("-publish-binary")
        .arg(own)
        .arg("-id")
        .arg(id)
        .env("TTRPC_ADDRESS", folder.event_socket())
        .env("GRPC_ADDRESS", folder.daemon_socket())
        .env("NAMESPACE", NAMESPACE)
        .env("MAX_SHIM_VERSION", "2")
        .env("GOMAXPROCS", "2");
    // A group of its own: Ctrl-C is for us to answer.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if bundle.is_dir() {
        command.current_dir(bundle);
    }
    command
}

fn parameters(folder: &Folder, id: &str, debug: bool) -> Vec<u8> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let level = if debug { LogLevel::Debug } else { LogLevel::Info };
    BootstrapParams {
        instance_id: id.to_owned(),
        namespace: NAMESPACE.to_owned(),
        log_level: level.into(),
        containerd_version: CONTAINERD_VERSION.to_owned(),
        containerd_ttrpc_address: text(folder.event_socket()),
        containerd_grpc_address: text(folder.daemon_socket()),
        containerd_binary: String::new(),
        extensions: Vec::new(),
        socket_dir: Some(text(folder.shim_sockets())),
    }
    .encode_to_vec()
}

/// The answer as JSON.
#[derive(Deserialize)]
struct Json {
    version: i32,
    address: String,
    protocol: String,
}

/// Protobuf since containerd 2.3, JSON since 1.7, a plain address before; containerd tries them in this order.
fn answer(output: &[u8]) -> anyhow::Result<Answer> {
    let decoded = BootstrapResult::decode(output).ok().filter(|result| !result.address.is_empty());
    let (version, address, protocol) = match decoded {
        Some(result) => (result.version, result.address, result.protocol),
        None => text_answer(String::from_utf8_lossy(output).trim())?,
    };
    ensure!(protocol == "ttrpc", "the shim speaks `{protocol}`, not ttrpc");
    ensure!((2..=3).contains(&version), "the shim speaks version {version} of the protocol, not 2 or 3");
    let Some(path) = address.strip_prefix("unix://") else { bail!("`{address}` is no unix:// address") };
    Ok(Answer { version, socket: PathBuf::from(OsStr::new(path)) })
}

fn text_answer(text: &str) -> anyhow::Result<(i32, String, String)> {
    if text.starts_with('{') {
        let json: Json = serde_json::from_str(text).with_context(|| format!("read the answer {text}"))?;
        return Ok((json.version, json.address, json.protocol));
    }
    ensure!(!text.is_empty(), "the shim answered nothing");
    Ok((2, text.to_owned(), "ttrpc".to_owned()))
}

/// Runs a command to its end within `limit`, and kills it then.
fn run_within(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().with_context(|| format!("execute {name}"))?;
    let deadline = Instant::now() + limit;
    // What it prints fits its pipes: a message of three numbers, or a line of text.
    while child.try_wait().with_context(|| format!("wait for {name}"))?.is_none() {
        if Instant::now() > deadline {
            child.kill().with_context(|| format!("kill {name}"))?;
            child.wait().with_context(|| format!("wait for {name}"))?;
            bail!("{name}: not finished within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().with_context(|| format!("read what {name} printed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_an_answer_are_read() {
        let want = |version| Answer { version, socket: PathBuf::from("/run/s/x") };
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s/x".to_owned(),
            protocol: "ttrpc".to_owned(),
            ..BootstrapResult::default()
        };
        assert_eq!(answer(&result.encode_to_vec()).unwrap(), want(3));
        let json = br#"{"version":3,"address":"unix:///run/s/x","protocol":"ttrpc"}"#;
        assert_eq!(answer(json).unwrap(), want(3));
        assert_eq!(answer(b"unix:///run/s/x\n").unwrap(), want(2));
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_refused() {
        for (output, reason) in [
            (&b""[..], "answered nothing"),
            (b"tcp://1", "no unix:// address"),
            (br#"{"version":4,"address":"unix:///x","protocol":"ttrpc"}"#, "version 4"),
            (br#"{"version":3,"address":"unix:///x","protocol":"grpc"}"#, "speaks `grpc`"),
            (br#"{"address":"unix:///x"}"#, "read the answer"),
        ] {
            let error = format!("{:#}", answer(output).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let error = run_within(Command::new("sleep").arg("100"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("not finished"), "{error}");
        let output = run_within(Command::new("echo").arg("x"), Duration::from_secs(60)).unwrap();
        assert_eq!(output.stdout, b"x\n");
    }
}

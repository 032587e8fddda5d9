//! Any containerd shim program, driven without containerd: `start`, `delete` and the address it serves at.
//!
//! Each [`Daemon`] plays one generation of containerd: what it gives `start` and what it makes of the reply.

use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::task::{TaskClient, Version};
use crate::wait::{self, limit};

/// The containerd that the test plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// 1.6: no version in the environment, a plain address back.
    V1_6,
    /// 1.7: `MAX_SHIM_VERSION=2`; understands at most version 2.
    V1_7,
    /// 2.0 to 2.2: the same to the shim, but understands version 3.
    V2_0,
    /// 2.3: parameters and reply are protobuf.
    V2_3,
}

/// How and where a shim is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The shim's program.
    pub program: PathBuf,
    /// containerd's socket as the shim is told it; nobody needs to listen there.
    pub address: PathBuf,
    /// Where events go.
    pub events: PathBuf,
    /// The containerd namespace.
    pub namespace: String,
    /// Who starts it.
    pub daemon: Daemon,
    /// Further environment, such as a `PATH` that leads to another runtime.
    pub env: Vec<(String, String)>,
}

/// A serving shim.
#[derive(Clone, Debug)]
pub struct Shim {
    /// What `start` printed, as an address to dial.
    pub address: String,
    /// The version of the task service it announced.
    pub version: Version,
}

impl Launch {
    /// Runs `start` for the task `id` in its bundle.
    ///
    /// # Errors
    /// When it fails, hangs or prints what this daemon does not understand.
    pub async fn start(&self, id: &str, bundle: &Path) -> Result<Shim> {
        let mut command = self.command(id, bundle);
        let mut child = command.arg("start").stdin(Stdio::piped()).spawn().context("run the shim's start")?;
        let mut stdin = child.stdin.take().context("start has no input")?;
        // A shim may not read its input: then the pipe is closed, which is its right.
        _ = stdin.write_all(&self.parameters(id)?).await;
        drop(stdin);
        let output = timeout(limit(), child.wait_with_output()).await.context("start hangs")??;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        ensure!(output.status.success(), "start: {}: {}", output.status, String::from_utf8_lossy(&said));
        self.reply(&said)
    }

    /// Runs `delete` for the task `id`, as containerd does after the task or its shim is gone.
    ///
    /// # Errors
    /// When it fails, hangs or does not answer with a `DeleteResponse`.
    pub async fn delete(&self, id: &str, bundle: &Path) -> Result<DeleteResponse> {
        let mut command = self.command(id, bundle);
        command.arg("-bundle").arg(bundle).arg("delete").stdin(Stdio::null());
        let output =
            timeout(limit(), command.output()).await.context("delete hangs")?.context("run delete")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "delete: {}: {stderr}", output.status);
        DeleteResponse::parse_from_bytes(&output.stdout).with_context(|| format!("delete's answer: {stderr}"))
    }

    /// Starts a shim and connects to it.
    ///
    /// # Errors
    /// As [`Self::start`] and [`TaskClient::connect`].
    pub async fn connect(&self, id: &str, bundle: &Path) -> Result<TaskClient> {
        let shim = self.start(id, bundle).await?;
        TaskClient::connect(&shim.address, shim.version).await
    }

    fn command(&self, id: &str, bundle: &Path) -> Command {
        // tokio has no process groups before a child is made from a std command.
        let mut command = StdCommand::new(&self.program);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.args(["-namespace", &self.namespace, "-id", id, "-publish-binary", "/usr/bin/containerd"]);
        command.arg("-address").arg(&self.address);
        command.current_dir(bundle).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("TTRPC_ADDRESS", &self.events).env("GOMAXPROCS", "2");
        if self.daemon != Daemon::V1_6 {
            command
                .env("MAX_SHIM_VERSION", "2")
                .env("GRPC_ADDRESS", &self.address)
                .env("NAMESPACE", &self.namespace);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        command
    }

    fn parameters(&self, id: &str) -> Result<Vec<u8>> {
        if self.daemon != Daemon::V2_3 {
            return Ok(Vec::new());
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: self.namespace.clone(),
            containerd_version: "2.3.4".to_owned(),
            containerd_ttrpc_address: text(&self.events),
            containerd_grpc_address: text(&self.address),
            containerd_binary: "/usr/bin/containerd".to_owned(),
            ..Default::default()
        };
        Ok(params.write_to_bytes()?)
    }

    fn reply(&self, said: &[u8]) -> Result<Shim> {
        let text = String::from_utf8_lossy(said).trim().to_owned();
        let shim = match self.daemon {
            Daemon::V2_3 => match BootstrapResult::parse_from_bytes(said) {
                Ok(result) => shim(result.version.into(), &result.address, &result.protocol)?,
                Err(_) => text_reply(&text)?,
            },
            _ if text.starts_with('{') => text_reply(&text)?,
            _ => Shim { address: text.clone(), version: Version::V2 },
        };
        let newest = match self.daemon {
            Daemon::V1_6 | Daemon::V1_7 => Version::V2,
            Daemon::V2_0 | Daemon::V2_3 => Version::V3,
        };
        ensure!(
            newest == Version::V3 || shim.version == newest,
            "{:?} does not understand {text}",
            self.daemon
        );
        ensure!(shim.address.starts_with("unix://"), "not an address: {text:?}");
        Ok(shim)
    }
}

fn text_reply(text: &str) -> Result<Shim> {
    let Ok(json) = serde_json::from_str::<Value>(text) else {
        return Ok(Shim { address: text.to_owned(), version: Version::V2 });
    };
    let word = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    shim(json["version"].as_i64().unwrap_or_default(), &word("address"), &word("protocol"))
}

fn shim(version: i64, address: &str, protocol: &str) -> Result<Shim> {
    ensure!(protocol == "ttrpc", "protocol {protocol}");
    let version = match version {
        2 => Version::V2,
        3 => Version::V3,
        other => bail!("version {other}"),
    };
    Ok(Shim { address: address.to_owned(), version })
}

/// Waits until nothing answers at a shim's address any more.
///
/// # Errors
/// When it goes on serving.
pub async fn gone(shim: &Shim) -> Result<()> {
    let path = shim.address.trim_start_matches("unix://").to_owned();
    wait::until("the shim's end", || std::os::unix::net::UnixStream::connect(&path).is_err().then_some(()))
        .await
}

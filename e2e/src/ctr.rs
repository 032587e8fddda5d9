//! `ctr`, containerd's own command line client, as a person uses it.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::command::{self, Output};
use crate::image::PROBE;
use crate::programs::Runtime;

/// The client, bound to a daemon and a containerd namespace.
#[derive(Clone, Debug)]
pub struct Ctr {
    address: String,
    namespace: String,
}

impl Ctr {
    /// A client of the daemon at the socket `address`.
    pub fn new(address: &str, namespace: &str) -> Self {
        Self { address: address.to_owned(), namespace: namespace.to_owned() }
    }

    /// The bare command, for a test that wants to feed or watch it itself.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.address, "--namespace", &self.namespace]);
        command
    }

    /// Runs `ctr` with these words.
    ///
    /// # Errors
    /// When it cannot be started or hangs; a non-zero exit is in the output.
    pub async fn run<I>(&self, words: I) -> Result<Output>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        command::output(self.command().args(words)).await
    }

    /// `ctr run` of the probe image with the runtime under test: `flags` before the image, `program` after the
    /// container's id.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_probe(&self, flags: &[&str], id: &str, program: &[&str]) -> Result<Output> {
        let runtime = ["run", "--runtime", Runtime::under_test().type_name()];
        self.run(runtime.iter().chain(flags).chain(&[PROBE, id]).chain(program)).await
    }

    /// `ctr task exec` in a running container.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn exec(&self, id: &str, exec_id: &str, program: &[&str]) -> Result<Output> {
        let words = ["task", "exec", "--exec-id", exec_id, id];
        self.run(words.iter().chain(program)).await
    }

    /// State and pid of a task as `ctr task ls` lists them.
    ///
    /// # Errors
    /// When the list cannot be read; an unknown task is `None`.
    pub async fn task(&self, id: &str) -> Result<Option<(i32, String)>> {
        let list = self.run(["task", "ls"]).await?.ok()?;
        let Some(line) = list.lines().find(|line| line.split_whitespace().next() == Some(id)) else {
            return Ok(None);
        };
        let mut words = line.split_whitespace().skip(1);
        let pid =
            words.next().and_then(|word| word.parse().ok()).with_context(|| format!("no pid: {line}"))?;
        let state = words.next().with_context(|| format!("no state: {line}"))?;
        Ok(Some((pid, state.to_owned())))
    }

    /// The metrics of a task as JSON.
    ///
    /// # Errors
    /// When the task has none.
    pub async fn metrics(&self, id: &str) -> Result<serde_json::Value> {
        let text = self.run(["task", "metrics", "--format", "json", id]).await?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("metrics are not JSON: {text}"))
    }
}

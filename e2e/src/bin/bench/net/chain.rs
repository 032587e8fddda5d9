//! Plugins, run as a runtime runs them: programs, environment, stdin.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::host::ip;

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
pub(super) const STATE_DIR: &str = "/run/bench-ipam";
/// As our plugin calls the network "bench" by itself.
pub(super) const OUR_NETWORK: &str = "cni-bench";
pub(super) const SUBNET: &str = "10.88.0.0/16";
pub(super) const GATEWAY: &str = "10.88.0.1";
/// After so long a plugin hangs. It may wait for its turn among 16 of a reference chain.
const LIMIT: Duration = Duration::from_secs(60);

/// One plugin after the other, as a list of plugins has them.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    plugins: Vec<(PathBuf, Value)>,
    /// What ADD gave for each pod. A runtime keeps it and gives it to DEL.
    results: Mutex<HashMap<String, Value>>,
}

/// A pod's network namespace, which goes with this.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) port: usize,
}

impl Pod {
    pub(super) fn make(chain: &str, number: usize, port: usize) -> Result<Self> {
        let id = format!("{chain}-{number}");
        ip(&["netns", "add", &id])?;
        Ok(Self { id, port })
    }

    pub(super) fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.id)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // What is left goes with the world.
        _ = ip(&["netns", "del", &self.id]);
    }
}

impl Chain {
    pub(super) fn ours() -> Result<Self> {
        let program = programs::built("dunnage-cni")?;
        let mut config = network("1.1.0");
        config["type"] = json!("dunnage-cni");
        config["stateDir"] = json!(STATE_DIR);
        Ok(Self { name: "dunnage", plugins: vec![(program, config)], results: Mutex::default() })
    }

    /// `bridge` with `host-local`, and `portmap`, whose work is that of our plugin; leases in `leases`. Not `firewall`,
    /// whose place ours takes only where it is asked to.
    pub(super) fn reference(leases: &Path) -> Result<Self> {
        let mut config = network("1.0.0");
        config["type"] = json!("bridge");
        config["bridge"] = json!("cni0");
        config["isGateway"] = json!(true);
        config["ipam"]["dataDir"] = json!(leases);
        let behind = json!({"cniVersion": "1.0.0", "name": "bench", "type": "portmap"});
        let plugins = [("bridge", config), ("portmap", behind)];
        let plugins = plugins.map(|(name, config)| (Path::new(REFERENCE).join(name), config));
        for (program, _) in &plugins {
            ensure!(
                program.is_file(),
                "{} is missing: install containernetworking-plugins",
                program.display()
            );
        }
        Ok(Self { name: "reference", plugins: plugins.into(), results: Mutex::default() })
    }

    /// The address that the pod got.
    pub(super) fn add(&self, pod: &Pod) -> Result<String> {
        let mut result = Value::Null;
        for (program, config) in &self.plugins {
            result = call(program, "ADD", config, Some(pod), result)?;
        }
        let address = address(&result);
        self.results().insert(pod.id.clone(), result);
        address
    }

    /// The pod's link and lease, without rules of a firewall.
    pub(super) fn add_without_rules(&self, pod: &Pod) -> Result<String> {
        let (program, config) = self.plugins.first().context("a chain without plugins")?;
        let mut config = config.clone();
        config["ipMasq"] = json!(false);
        address(&call(program, "ADD", &config, Some(pod), Value::Null)?)
    }

    pub(super) fn del(&self, pod: &Pod) -> Result<()> {
        let result = self.results().remove(&pod.id).context("a DEL without an ADD")?;
        for (program, config) in self.plugins.iter().rev() {
            call(program, "DEL", config, Some(pod), result.clone())?;
        }
        Ok(())
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long STATUS takes.
    pub(super) fn status(&self) -> Result<Duration> {
        let started = Instant::now();
        for (program, config) in &self.plugins {
            call(program, "STATUS", config, None, Value::Null)?;
        }
        Ok(started.elapsed())
    }
}

fn network(version: &str) -> Value {
    json!({"cniVersion": version, "name": "bench", "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]}})
}

fn address(result: &Value) -> Result<String> {
    let with_prefix = result["ips"][0]["address"].as_str().context("a result without an address")?;
    Ok(with_prefix.split('/').next().unwrap_or_default().to_owned())
}

fn call(program: &Path, verb: &str, config: &Value, pod: Option<&Pod>, before: Value) -> Result<Value> {
    let mut config = config.clone();
    if !before.is_null() {
        config["prevResult"] = before;
    }
    let mut command = Command::new(program);
    command.env("CNI_COMMAND", verb).env("CNI_PATH", REFERENCE);
    if let Some(pod) = pod {
        config["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": pod.port, "containerPort": 80, "protocol": "tcp"}]});
        command.env("CNI_CONTAINERID", &pod.id).env("CNI_NETNS", pod.netns()).env("CNI_IFNAME", "eth0");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a plugin")?;
    let watched = Watched::over(&child)?;
    child.stdin.take().context("stdin")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output().context("wait for a plugin")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!watched.hung(), "{verb} by {}: no answer within {LIMIT:?}", program.display());
    ensure!(output.status.success(), "{verb} by {}: {} {text}", program.display(), output.status);
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
}

/// Plugins that run, and since when.
static RUNNING: Mutex<Vec<(Pid, Instant)>> = Mutex::new(Vec::new());

/// A plugin that is killed when it hangs. One thread watches all: one for each would be measured with it.
struct Watched {
    pid: Pid,
    since: Instant,
}

impl Watched {
    fn over(child: &Child) -> Result<Self> {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| drop(thread::spawn(watch)));
        let watched = Self { pid: Pid::from_raw(i32::try_from(child.id())?), since: Instant::now() };
        running().push((watched.pid, watched.since));
        Ok(watched)
    }

    fn hung(&self) -> bool {
        self.since.elapsed() > LIMIT
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        running().retain(|(pid, _)| *pid != self.pid);
    }
}

fn running() -> MutexGuard<'static, Vec<(Pid, Instant)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        for (pid, _) in running().iter().filter(|(_, since)| since.elapsed() > LIMIT) {
            // It may have ended just now.
            _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

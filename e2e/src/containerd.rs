//! A private containerd in a world: start, stop and restart, its images and its pod network.
//!
//! The daemon is that of the line under test; everything it keeps lies in the world. It finds the shim under test because the
//! folder of built programs comes first in its `PATH`, as on a node where dunnage was installed.

use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::cri::Cri;
use crate::ctr::Ctr;
use crate::image;
use crate::line::Line;
use crate::programs;
use crate::wait;
use crate::world::World;

/// Where the daemon listens; `/run` is the world's own.
pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where the daemon takes events from shims.
pub const TTRPC_SOCKET: &str = "/run/containerd/containerd.sock.ttrpc";

/// The pod network of the rig.
pub const POD_SUBNET: &str = "10.166.0.0/16";

/// A pod network of CRI: its list of plugins and the folder with their programs.
#[derive(Clone, Debug)]
pub struct Network {
    /// The list, as it lies in the folder of configurations.
    pub list: serde_json::Value,
    /// Where the plugins' programs are.
    pub plugins: PathBuf,
}

/// A running daemon. Dropping it stops it.
#[derive(Debug)]
pub struct Containerd {
    root: PathBuf,
    log: PathBuf,
    config: PathBuf,
    child: Option<Child>,
    namespace: String,
}

impl Containerd {
    /// Writes a configuration and starts the daemon, ready for [`Ctr`].
    ///
    /// # Errors
    /// When containerd is not installed or does not become ready.
    pub async fn start(world: &World) -> Result<Self> {
        Self::start_with(world, "").await
    }

    /// As [`Self::start`], with `extra` TOML appended to the configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(world: &World, extra: &str) -> Result<Self> {
        let list = pod_network(&world.dir().join("containerd"));
        Self::start_on(world, &Network { list, plugins: cni_plugins() }, extra).await
    }

    /// As [`Self::start_with`], with another pod network than the rig's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(world: &World, network: &Network, extra: &str) -> Result<Self> {
        let root = world.dir().join("containerd");
        fs::create_dir_all(root.join("cni")).context("make containerd's folders")?;
        let config = world.logs().join("config.toml");
        let configuration = Line::under_test()?.configuration(&root, &network.plugins, SOCKET);
        fs::write(&config, configuration + extra).context("write containerd's configuration")?;
        fs::write(root.join("cni/10-e2e.conflist"), network.list.to_string())
            .context("write the pod network")?;
        let log = world.logs().join("containerd.log");
        let mut containerd = Self { root, log, config, child: None, namespace: world.id().to_owned() };
        containerd.launch().await?;
        Ok(containerd)
    }

    /// Ends the daemon as a service manager does and starts it again over the same state.
    ///
    /// # Errors
    /// When it does not end or does not become ready again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.launch().await
    }

    /// Ends the daemon; shims and containers live on.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM).await
    }

    /// Ends the daemon without letting it finish anything.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL).await
    }

    /// Starts the daemon after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "containerd runs already");
        let log =
            File::options().create(true).append(true).open(&self.log).context("open containerd's log")?;
        // If the test is killed, the daemon must not stay behind: the kernel ends it with its parent.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "containerd", "--config"])
            .arg(&self.config)
            .env("PATH", daemon_path()?)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share containerd's log")?)
            .stderr(log)
            .spawn()
            .context("start containerd: is it installed?")?;
        self.child = Some(child);
        self.ready().await
    }

    /// Waits until the daemon listens: then all its plugins are loaded.
    async fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while UnixStream::connect(SOCKET).is_err() {
            let ended =
                self.child.as_mut().map(Child::try_wait).transpose().context("look after containerd")?;
            if let Some(Some(status)) = ended {
                self.child = None;
                bail!("containerd ended with {status}\n{}", self.last_words());
            }
            ensure!(start.elapsed() < wait::limit(), "containerd does not listen\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill_process(Pid::from_child(&child), signal).context("signal containerd")?;
        wait::until("containerd's end", || child.try_wait().ok().flatten()).await?;
        Ok(())
    }

    /// containerd's command line client, in the world's containerd namespace.
    pub fn ctr(&self) -> Ctr {
        Ctr::new(SOCKET, &self.namespace)
    }

    /// The same in the namespace of Kubernetes.
    pub fn ctr_k8s(&self) -> Ctr {
        Ctr::new(SOCKET, "k8s.io")
    }

    /// Puts the images where `ctr run` finds them.
    ///
    /// # Errors
    /// When they cannot be built or imported.
    pub async fn import_probe(&self) -> Result<()> {
        import(&self.ctr()).await
    }

    /// Puts pause and probe image where CRI finds them, and gives the client once the daemon knows them.
    ///
    /// # Errors
    /// When an image cannot be built or imported or the CRI plugin does not become ready.
    pub async fn cri(&self) -> Result<Cri> {
        import(&self.ctr_k8s()).await?;
        let cri = self.cri_client()?;
        for name in [image::PAUSE, image::PROBE] {
            wait::until_ok(name, || cri.image(name)).await?;
        }
        wait::until_ok("CRI", || cri.ready()).await?;
        Ok(cri)
    }

    /// A client of the daemon's CRI service, without images.
    ///
    /// # Errors
    /// When the address is refused.
    pub fn cri_client(&self) -> Result<Cri> {
        Cri::connect(SOCKET)
    }

    /// The daemon's pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where containerd keeps what outlives a reboot.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All that the daemon and the shims have logged so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).context("read containerd's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last warnings and errors of the daemon and the shims, for a failing test's report.
    pub fn last_words(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !is_routine(line)).collect();
        format!("containerd's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

async fn import(ctr: &Ctr) -> Result<()> {
    ctr.run(["images", "import", &image::archive()?.to_string_lossy()]).await?.ok()?;
    Ok(())
}

fn is_routine(line: &str) -> bool {
    line.contains("level=info") || line.contains("level=debug")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its shims are ended with the world.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// The `PATH` of the daemon: built programs first, then the machine's.
fn daemon_path() -> Result<std::ffi::OsString> {
    let built = programs::build_dir()?;
    Ok(env::join_paths(std::iter::once(built).chain(programs::search_path()))?)
}

/// Where distributions put the reference plugins.
fn cni_plugins() -> PathBuf {
    let places = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].map(PathBuf::from);
    places
        .into_iter()
        .find(|dir| dir.join("bridge").is_file())
        .unwrap_or_else(|| PathBuf::from("/opt/cni/bin"))
}

/// A bridge with leases from a file; masquerade would need kernel modules that not every machine has.
fn pod_network(root: &Path) -> serde_json::Value {
    let leases = root.join("leases");
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "e2e",
        "plugins": [{
            "type": "bridge",
            "bridge": "e2e0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": leases,
                "ranges": [[{ "subnet": POD_SUBNET }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

//! The line of containerd under test, such as 1.7: which it is and what its configuration looks like.
//!
//! A line is a folder of programs at the front of `PATH`: containerd, its `ctr`, its reference shim and the runc of
//! its time (`e2e/lines`). Without one it is the machine's own. Nothing says which line it is: the daemon is asked.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fault;
use crate::image;
use crate::programs::{Runtime, installed};
use crate::shim::Daemon;
use crate::world::has_systemd_driver;

/// A release of containerd by its first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    major: u32,
    minor: u32,
}

impl Line {
    /// The line of the containerd that is found first.
    ///
    /// # Errors
    /// When containerd is not installed or says nothing that is a version.
    pub fn under_test() -> Result<Self> {
        let output =
            Command::new(installed("containerd")?).arg("--version").output().context("ask containerd")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "containerd --version: {}", output.status);
        Self::parse(&said).with_context(|| format!("no version in {said:?}"))
    }

    /// From `containerd REPOSITORY VERSION REVISION`, where the version may begin with a `v`.
    fn parse(said: &str) -> Option<Self> {
        let mut numbers = said.split_whitespace().nth(2)?.trim_start_matches('v').split(['.', '-', '~', '+']);
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }

    /// Whether this is release `major.minor` or a later one.
    pub fn is_since(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }

    /// How this containerd starts a shim.
    pub fn daemon(self) -> Daemon {
        match (self.major, self.minor) {
            (0 | 1, 0..=6) => Daemon::V1_6,
            (0 | 1, _) => Daemon::V1_7,
            (2, 0..=2) => Daemon::V2_0,
            _ => Daemon::V2_3,
        }
    }

    /// The daemon's configuration, with everything it keeps below `root` or `/run`; it listens at `socket`.
    pub(crate) fn configuration(self, root: &Path, plugins: &Path, socket: &str) -> String {
        let common = format!(
            r#"root = "{root}/root"
state = "/run/containerd"
disabled_plugins = [{unused}]

[grpc]
  address = "{socket}"

[debug]
  level = "debug"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"#,
            root = root.display(),
            unused = UNUSED.map(|plugin| format!("\"io.containerd.{plugin}\"")).join(", "),
        );
        if self.major < 2 {
            self.version_2(&common, root, plugins)
        } else {
            self.version_3(&common, root, plugins)
        }
    }

    /// Of containerd 1.x: CRI is one plugin.
    fn version_2(self, common: &str, root: &Path, plugins: &Path) -> String {
        const CRI: &str = "io.containerd.grpc.v1.cri";
        format!(
            r#"version = 2
{common}
[plugins."{CRI}"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
{STREAMS}
[plugins."{CRI}".cni]
  bin_dir = "{plugins}"
  conf_dir = "{root}/cni"
{runtimes}"#,
            pause = image::PAUSE,
            plugins = plugins.display(),
            root = root.display(),
            runtimes = runtimes(CRI),
        )
    }

    /// Of containerd 2.x: CRI is three plugins, for images, for containers and for the service itself.
    fn version_3(self, common: &str, root: &Path, plugins: &Path) -> String {
        const CRI: &str = "io.containerd.cri.v1.runtime";
        // A folder became a list of folders.
        let folder = if self.is_since(2, 1) {
            format!("bin_dirs = [\"{}\"]", plugins.display())
        } else {
            format!("bin_dir = \"{}\"", plugins.display())
        };
        format!(
            r#"version = 3
{common}
[plugins."io.containerd.grpc.v1.cri"]
{STREAMS}
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."{CRI}"]
  restrict_oom_score_adj = true

[plugins."{CRI}".cni]
  {folder}
  conf_dir = "{root}/cni"
{runtimes}"#,
            pause = image::PAUSE,
            root = root.display(),
            runtimes = runtimes(CRI),
        )
    }
}

/// Plugins that need what the machine may not have, and log so.
const UNUSED: [&str; 6] = [
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.devmapper",
    "snapshotter.v1.zfs",
    "internal.v1.tracing",
    "tracing.processor.v1.otlp",
];

/// Where CRI serves exec and attach streams: at a port that every world has for itself.
const STREAMS: &str = r#"  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
"#;

/// The handlers of both runtimes and of the double, below the plugin `cri`.
fn runtimes(cri: &str) -> String {
    let handler = |(name, program): (&str, &str)| {
        format!("\n[plugins.\"{cri}\".containerd.runtimes.{name}]\n  runtime_type = \"{program}\"\n")
    };
    let default = Runtime::under_test().handler();
    let both = [Runtime::Dunnage, Runtime::Runc].map(|runtime| (runtime.handler(), runtime.type_name()));
    let handlers: String =
        both.into_iter().chain([(fault::DOUBLE_HANDLER, fault::DOUBLE)]).map(handler).collect();
    // dunnage sees by the path whether systemd is meant; the reference has to be told.
    let runc = Runtime::Runc.handler();
    let options =
        format!("\n[plugins.\"{cri}\".containerd.runtimes.{runc}.options]\n  SystemdCgroup = true\n");
    let options = if has_systemd_driver() { options } else { String::new() };
    format!("\n[plugins.\"{cri}\".containerd]\n  default_runtime_name = \"{default}\"\n{handlers}{options}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_every_distributor_writes_it() {
        let line = |said| Line::parse(said).map(|line| (line.major, line.minor));
        assert_eq!(
            line("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"),
            Some((1, 6))
        );
        assert_eq!(line("containerd github.com/containerd/containerd/v2 v2.3.4 dac4ea43f"), Some((2, 3)));
        assert_eq!(line("containerd github.com/containerd/containerd/v2 2.1.9+unknown "), Some((2, 1)));
        assert_eq!(line("containerd"), None);
    }

    #[test]
    fn a_later_line_is_since_an_earlier_one() {
        let line = Line { major: 2, minor: 1 };
        assert!(line.is_since(1, 7) && line.is_since(2, 1) && !line.is_since(2, 2));
        assert_eq!(line.daemon(), Daemon::V2_0);
    }
}

//! The sandbox: a process of our own that holds the pod's namespaces and, when it is PID 1 of all, reaps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::document::{self, OCI_VERSION, PodFrame};
use super::seccomp;
use crate::kubelet::{self, SANDBOX_OOM_SCORE_ADJ};

/// Where the holder stands in its otherwise empty root.
const PAUSE: &str = "/pause";
/// Nobody in particular, as in the pause image.
const PAUSE_ID: u32 = 65535;

/// What the sandbox's bundle is made of.
#[derive(Debug)]
pub(crate) struct SandboxBundle<'a> {
    pub(crate) frame: &'a PodFrame<'a>,
    /// This program, which is also the holder.
    pub(crate) program: &'a Path,
    pub(crate) resolv_conf: &'a Path,
    pub(crate) shm: &'a Path,
}

impl SandboxBundle<'_> {
    /// Writes `config.json` and the root into `bundle`, which exists and is empty.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn write(&self, bundle: &Path) -> anyhow::Result<()> {
        let root = bundle.join("rootfs");
        let write = |path: PathBuf, content: &str| {
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))
        };
        for dir in ["", "dev", "etc", "proc", "sys"] {
            let dir = root.join(dir);
            std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        // Places for the bind mounts: the root is read-only by then.
        write(root.join("pause"), "")?;
        write(root.join("etc/resolv.conf"), "")?;
        write(bundle.join("config.json"), &self.spec().to_string())
    }

    fn spec(&self) -> Value {
        let frame = self.frame;
        let limits = kubelet::pod_limits(frame.pod);
        let mut annotations = frame.annotations("sandbox");
        annotations.insert("io.kubernetes.cri.sandbox-cpu-period", kubelet::CPU_PERIOD_US.to_string());
        annotations
            .insert("io.kubernetes.cri.sandbox-cpu-quota", limits.cpu_quota_us.unwrap_or(0).to_string());
        annotations.insert("io.kubernetes.cri.sandbox-cpu-shares", limits.cpu_shares.to_string());
        annotations.insert("io.kubernetes.cri.sandbox-memory", limits.memory.unwrap_or(0).to_string());
        let mut mounts = document::kernel_mounts();
        mounts.push(document::bind(PAUSE, self.program, &["bind", "rprivate", "ro", "nosuid", "nodev"]));
        mounts.push(document::bind("/dev/shm", self.shm, &["rbind", "rprivate", "rw"]));
        mounts.push(document::bind("/etc/resolv.conf", self.resolv_conf, &["bind", "rprivate", "ro"]));
        let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "ipc"}), json!({"type": "mount"})];
        if let Some(netns) = frame.netns {
            namespaces.push(json!({"type": "network", "path": netns}));
            namespaces.push(json!({"type": "uts"}));
        }
        let mut spec = json!({
            "ociVersion": OCI_VERSION,
            "process": {
                "terminal": false,
                "user": {"uid": PAUSE_ID, "gid": PAUSE_ID},
                "args": [PAUSE, crate::pause::WORD],
                "env": ["PATH=/"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": document::capabilities(&BTreeSet::new()),
                "oomScoreAdj": frame.machine.oom_score_adj(SANDBOX_OOM_SCORE_ADJ),
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": mounts,
            "annotations": annotations,
            "linux": {
                "cgroupsPath": frame.cgroups_path(frame.sandbox_id),
                "namespaces": namespaces,
                "resources": {"cpu": {"shares": 2}, "devices": document::device_rules()},
                "maskedPaths": document::MASKED_PATHS,
                "readonlyPaths": document::READ_ONLY_PATHS,
                "seccomp": seccomp::default_profile(&BTreeSet::new()),
            },
        });
        if frame.netns.is_some() {
            spec["hostname"] = frame.hostname.into();
            // Ports and pings of its own network are no privilege inside it: containerd 2's defaults.
            spec["linux"]["sysctl"] = json!({
                "net.ipv4.ip_unprivileged_port_start": "0",
                "net.ipv4.ping_group_range": "0 2147483647",
            });
        }
        spec
    }
}

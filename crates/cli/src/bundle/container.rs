//! A container of the pod: the spec that joins the sandbox and adds what the manifest and the image say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::document::{self, OCI_VERSION, PodFrame};
use super::files::PodFiles;
use super::volumes::Prepared;
use super::{capabilities, seccomp};
use crate::image::{Identity, Image, Users};
use crate::kubelet;
use crate::manifest::{Container, Seccomp, VolumeMount};

/// What programs find when neither image nor manifest say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's bundle is made of.
#[derive(Debug)]
pub(crate) struct ContainerBundle<'a> {
    pub(crate) frame: &'a PodFrame<'a>,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) users: &'a Users,
    pub(crate) files: &'a PodFiles,
    /// Host paths of the volumes by name.
    pub(crate) volumes: &'a BTreeMap<String, Prepared>,
    /// Host process that holds the shared namespaces.
    pub(crate) sandbox_pid: u32,
    /// Where `localhostProfile` paths start.
    pub(crate) folder: &'a Path,
}

impl ContainerBundle<'_> {
    /// Writes `config.json` and an empty `rootfs` into `bundle`, which exists and is empty.
    ///
    /// # Errors
    /// The image has no such user, or nothing to run; or a file cannot be written.
    pub(crate) fn write(&self, bundle: &Path, id: &str) -> anyhow::Result<()> {
        let root = bundle.join("rootfs");
        std::fs::create_dir(&root).with_context(|| format!("create {}", root.display()))?;
        let config = bundle.join("config.json");
        let spec = self.spec(id)?.to_string();
        std::fs::write(&config, spec).with_context(|| format!("write {}", config.display()))
    }

    fn spec(&self, id: &str) -> anyhow::Result<Value> {
        let (frame, container) = (self.frame, self.container);
        let limits = kubelet::container_limits(&container.resources);
        let capabilities = capabilities::of(&container.security, frame.machine.bounding);
        let mut annotations = frame.annotations("container");
        annotations.insert(dunnage_spec::annotation::CONTAINER_NAME, container.name.clone());
        annotations.insert("io.kubernetes.cri.image-name", container.image.clone());
        let mut linux = json!({
            "cgroupsPath": frame.cgroups_path(id),
            "namespaces": self.namespaces(),
            "resources": document::resources(&limits, frame.machine),
            "maskedPaths": document::MASKED_PATHS,
            "readonlyPaths": document::READ_ONLY_PATHS,
        });
        match &container.security.seccomp {
            Seccomp::RuntimeDefault => linux["seccomp"] = seccomp::default_profile(&capabilities),
            Seccomp::Unconfined => {}
            Seccomp::Localhost(path) => linux["seccomp"] = self.profile(path)?,
        }
        Ok(json!({
            "ociVersion": OCI_VERSION,
            "process": self.process(&capabilities)?,
            "root": {"path": "rootfs", "readonly": container.security.read_only_root},
            "mounts": self.mounts()?,
            "annotations": annotations,
            "linux": linux,
        }))
    }

    fn process(&self, capabilities: &BTreeSet<String>) -> anyhow::Result<Value> {
        let (container, config) = (self.container, &self.image.config);
        let args = config.command_line(&container.command, &container.args);
        ensure!(!args.is_empty(), "nothing to run: the manifest has no command, the image no entry point");
        let identity = self.identity()?;
        let cwd = container.working_dir.as_ref().or(config.working_dir.as_ref()).map_or("/", String::as_str);
        let score = kubelet::oom_score_adj(self.frame.class, &container.resources, self.frame.machine.memory);
        Ok(json!({
            "terminal": false,
            "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
            "args": args,
            "env": self.env(&identity),
            "cwd": cwd,
            "noNewPrivileges": container.security.no_new_privileges,
            "capabilities": document::capabilities(capabilities),
            "oomScoreAdj": self.frame.machine.oom_score_adj(score),
        }))
    }

    /// The manifest's user before the image's; its groups, the pod's and the volumes' together.
    fn identity(&self) -> anyhow::Result<Identity> {
        let security = &self.container.security;
        let mut identity = match security.user {
            Some(uid) => self.users.identity(&uid.to_string())?,
            None => self.users.identity(self.image.config.user.as_deref().unwrap_or(""))?,
        };
        if let Some(gid) = security.group {
            identity.gid = gid;
        }
        ensure!(
            !security.non_root || identity.uid != 0,
            "runAsNonRoot: the container would run as root; give it a runAsUser"
        );
        let pod = self.frame.pod;
        // The primary group too: a process that drops it must not gain what "others" may (CVE-2022-2995).
        let own = identity.gid;
        identity.groups.extend(pod.supplemental_groups.iter().chain(&pod.fs_group).chain([&own]));
        Ok(identity)
    }

    /// Later values win and keep the place of the first.
    fn env(&self, identity: &Identity) -> Vec<String> {
        let home = format!("HOME={}", identity.home.as_deref().unwrap_or("/"));
        let hostname = format!("HOSTNAME={}", self.frame.hostname);
        let manifest = self.container.env.iter().map(|(name, value)| format!("{name}={value}"));
        let all = [DEFAULT_PATH.to_owned(), hostname, home].into_iter();
        let mut env: Vec<String> = Vec::new();
        for entry in all.chain(self.image.config.env.iter().cloned()).chain(manifest) {
            let name = entry.split('=').next().unwrap_or_default();
            let same = |other: &&mut String| other.split('=').next() == Some(name);
            match env.iter_mut().find(same) {
                Some(other) => *other = entry,
                None => env.push(entry),
            }
        }
        env
    }

    fn namespaces(&self) -> Vec<Value> {
        let of_sandbox = |file: &str| format!("/proc/{}/ns/{file}", self.sandbox_pid);
        let mut list = vec![json!({"type": "ipc", "path": of_sandbox("ipc")}), json!({"type": "mount"})];
        if let Some(netns) = self.frame.netns {
            list.push(json!({"type": "network", "path": netns}));
            list.push(json!({"type": "uts", "path": of_sandbox("uts")}));
        }
        list.push(if self.frame.pod.share_process_namespace {
            json!({"type": "pid", "path": of_sandbox("pid")})
        } else {
            json!({"type": "pid"})
        });
        if self.frame.machine.unified {
            list.push(json!({"type": "cgroup"}));
        }
        list
    }

    /// The defaults, less those whose place the manifest takes, then the volumes, outer ones first.
    fn mounts(&self) -> anyhow::Result<Vec<Value>> {
        let own: Vec<PathBuf> = self.container.mounts.iter().map(|mount| clean(&mount.path)).collect();
        let mut mounts = document::kernel_mounts();
        mounts.push(document::cgroup_mount());
        mounts.push(document::bind("/dev/shm", &self.files.shm, &["rbind", "rprivate", "rw"]));
        let ro_root = self.container.security.read_only_root;
        for (destination, source) in self.files.mounts() {
            let access = if ro_root { "ro" } else { "rw" };
            mounts.push(document::bind(destination, source, &["rbind", "rprivate", access]));
        }
        mounts.retain(|mount| {
            let destination = mount["destination"].as_str().unwrap_or_default();
            !own.iter().any(|path| path == Path::new(destination))
        });
        let mut volumes: Vec<&VolumeMount> = self.container.mounts.iter().collect();
        volumes.sort_by_key(|mount| clean(&mount.path).components().count());
        for mount in volumes {
            let volume = self.volumes.get(&mount.volume).context("the volume was not prepared")?;
            let propagation = if mount.from_host { "rslave" } else { "rprivate" };
            let access = if mount.read_only { "ro" } else { "rw" };
            mounts.push(document::bind(&mount.path, &volume.path, &["rbind", propagation, access]));
        }
        Ok(mounts)
    }

    fn profile(&self, path: &str) -> anyhow::Result<Value> {
        let path = self.folder.join(path);
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
    }
}

/// `/a//b/` and `/a/b` are one place.
fn clean(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

#[cfg(test)]
mod tests;

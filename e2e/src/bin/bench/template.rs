//! The specifications that containerd's CRI plugin writes for a default pod, taken from a real one and made to
//! stand on their own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dunnage_e2e::containerd::Containerd;
use dunnage_e2e::cri::{self, Pod, api};
use dunnage_e2e::image;
use dunnage_e2e::programs::Runtime;
use dunnage_e2e::world::World;
use serde_json::{Value, json};

/// Sandbox and container as CRI writes them, and the files both run from.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    sandbox: Value,
    container: Value,
    /// The root file system of containers.
    pub(crate) probe: PathBuf,
    /// The root file system of sandboxes.
    pub(crate) pause: PathBuf,
}

impl Template {
    /// Runs a pod through CRI and keeps its specifications.
    pub(crate) async fn take(world: &World) -> Result<Self> {
        let mut containerd = Containerd::start(world).await?;
        let cri = containerd.cri().await?;
        let config = cri::pod(world, "template");
        let handler = Runtime::Runc.handler().to_owned();
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler };
        let id = cri.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let pod = Pod { id, config };
        let mut asked = cri::container("template", &["sleep", "1000"]);
        let resources = cri::resources(&mut asked);
        (resources.cpu_shares, resources.cpu_quota, resources.cpu_period) = (512, 50_000, 100_000);
        resources.memory_limit_in_bytes = 128 << 20;
        let id = cri.run_container(&pod, asked).await?;
        let bundles = Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let read = |id: &str| -> Result<Value> {
            Ok(serde_json::from_str(&fs::read_to_string(bundles.join(id).join("config.json"))?)?)
        };
        let (mut sandbox, mut container) = (read(&pod.id)?, read(&id)?);
        let kept = world.dir().join("pod-files");
        for spec in [&mut sandbox, &mut container] {
            keep_files(spec, &kept)?;
        }
        cri.remove_pod(&pod).await?;
        containerd.stop().await?;

        let (probe, pause) = (world.dir().join("probe-root"), world.dir().join("pause-root"));
        for dir in [&probe, &pause] {
            fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        image::unpack_probe(&probe)?;
        image::unpack_pause(&pause)?;
        Ok(Self { sandbox, container, probe, pause })
    }

    /// A container of its own, in fresh namespaces, that runs `args`.
    pub(crate) fn task(&self, cgroup: &str, args: &[&str]) -> Value {
        let mut spec = self.container.clone();
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        spec["annotations"] = json!({});
        for namespace in namespaces(&mut spec) {
            *namespace = json!({ "type": namespace["type"] });
        }
        spec
    }

    /// The sandbox of a pod.
    pub(crate) fn sandbox(&self, cgroup: &str, pod: &str) -> Value {
        let mut spec = self.sandbox.clone();
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(pod);
        for namespace in namespaces(&mut spec) {
            *namespace = json!({ "type": namespace["type"] });
        }
        spec
    }

    /// A container of that pod, whose sandbox has the process `sandbox`.
    pub(crate) fn member(&self, cgroup: &str, pod: &str, sandbox: u32, args: &[&str]) -> Value {
        let mut spec = self.container.clone();
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(cgroup);
        spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!(pod);
        for namespace in namespaces(&mut spec) {
            let name = match namespace["type"].as_str() {
                Some("network") => "net",
                Some("ipc") => "ipc",
                Some("uts") => "uts",
                _ => continue,
            };
            namespace["path"] = json!(format!("/proc/{sandbox}/ns/{name}"));
        }
        spec
    }
}

fn namespaces(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec["linux"]["namespaces"].as_array_mut().into_iter().flatten()
}

/// Copies what is bound from the pod's own folder, which goes with the pod.
fn keep_files(spec: &mut Value, kept: &Path) -> Result<()> {
    fs::create_dir_all(kept)?;
    for mount in spec["mounts"].as_array_mut().into_iter().flatten().filter(|mount| mount["type"] == "bind") {
        let source = PathBuf::from(mount["source"].as_str().context("a bind mount without source")?);
        let copy = kept.join(source.file_name().context("a bind mount of /")?);
        if source.is_dir() {
            fs::create_dir_all(&copy)?;
        } else {
            fs::copy(&source, &copy).with_context(|| format!("copy {}", source.display()))?;
        }
        mount["source"] = json!(copy);
    }
    Ok(())
}

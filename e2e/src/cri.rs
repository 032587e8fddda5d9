//! A client of the Kubernetes container runtime interface: what the kubelet would call, with its defaults.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tonic::transport::{Channel, Endpoint};

use crate::image::PROBE;
use crate::programs::Runtime;
use crate::wait;
use crate::world::World;

use api::image_service_client::ImageServiceClient;
use api::runtime_service_client::RuntimeServiceClient;

/// The messages, generated from our subset of `runtime.v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    reason = "generated; documented in the proto file"
)]
pub mod api {
    tonic::include_proto!("runtime.v1");
}

/// A connection to the runtime's services.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    handler: &'static str,
}

/// A pod that runs, with the configuration that every further call repeats.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The sandbox's id.
    pub id: String,
    /// What it was made from.
    pub config: api::PodSandboxConfig,
}

impl Cri {
    /// Connects, when first used, to the daemon's socket.
    ///
    /// # Errors
    /// When the path is no address.
    pub fn connect(socket: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("unix://{socket}"))?.connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
            handler: Runtime::under_test().handler(),
        })
    }

    /// The same connection, whose pods run under another of the daemon's handlers.
    #[must_use]
    pub fn under(self, handler: &'static str) -> Self {
        Self { handler, ..self }
    }

    /// The generated client, for calls that need no convenience.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// Whether runtime and network are ready.
    ///
    /// # Errors
    /// The condition that is not met, by name.
    pub async fn ready(&self) -> Result<()> {
        let status = self.runtime().status(api::StatusRequest::default()).await?.into_inner();
        let conditions = status.status.context("no status")?.conditions;
        ensure!(!conditions.is_empty(), "no conditions");
        match conditions.iter().find(|condition| !condition.status) {
            Some(condition) => bail!("{} is false: {}", condition.r#type, condition.message),
            None => Ok(()),
        }
    }

    /// Whether the runtime has an image of this name.
    ///
    /// # Errors
    /// When it has not.
    pub async fn image(&self, name: &str) -> Result<()> {
        let image = api::ImageSpec { image: name.to_owned(), ..Default::default() };
        let request = api::ImageStatusRequest { image: Some(image), verbose: false };
        let status = self.images.clone().image_status(request).await?.into_inner();
        status.image.map(drop).with_context(|| format!("{name} is unknown"))
    }

    /// Runs a pod under the runtime under test, unless another handler was chosen.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn run_pod(&self, config: api::PodSandboxConfig) -> Result<Pod> {
        let runtime_handler = self.handler.to_owned();
        let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
        let id = self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// The runtime's, from either call.
    pub async fn run_container(&self, pod: &Pod, config: api::ContainerConfig) -> Result<String> {
        let id = self.create_container(pod, config).await?;
        self.start_container(&id).await?;
        Ok(id)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn create_container(&self, pod: &Pod, config: api::ContainerConfig) -> Result<String> {
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.runtime().start_container(api::StartContainerRequest { container_id: id.to_owned() }).await?;
        Ok(())
    }

    /// Stops a container: its stop signal, `grace` seconds, SIGKILL.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = api::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        self.runtime().stop_container(request).await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        self.runtime().remove_container(api::RemoveContainerRequest { container_id: id.to_owned() }).await?;
        Ok(())
    }

    /// A container's state.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn container(&self, id: &str) -> Result<api::ContainerStatus> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status = self.runtime().container_status(request).await?.into_inner();
        status.status.context("no container status")
    }

    /// What the runtime tells a debugger about a container: pid, runtime spec and so on.
    ///
    /// # Errors
    /// The runtime's, or when it is not JSON.
    pub async fn container_info(&self, id: &str) -> Result<serde_json::Value> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let info = self.runtime().container_status(request).await?.into_inner().info;
        parse_info(&info)
    }

    /// The same about a pod's sandbox.
    ///
    /// # Errors
    /// The runtime's, or when it is not JSON.
    pub async fn pod_info(&self, pod: &Pod) -> Result<serde_json::Value> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
        parse_info(&self.runtime().pod_sandbox_status(request).await?.into_inner().info)
    }

    /// The host's pid of a container's first process.
    ///
    /// # Errors
    /// When the container does not run.
    pub async fn pid(&self, id: &str) -> Result<i32> {
        let info = self.container_info(id).await?;
        let pid = info["pid"].as_i64().with_context(|| format!("no pid in {info}"))?;
        Ok(i32::try_from(pid)?)
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&self, id: &str) -> Result<api::ContainerStatus> {
        wait::until_ok("a container's end", || async {
            let status = self.container(id).await?;
            ensure!(status.state() == api::ContainerState::ContainerExited, "{status:?}");
            Ok(status)
        })
        .await
    }

    /// A pod's state.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn pod(&self, pod: &Pod) -> Result<api::PodSandboxStatus> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        let status = self.runtime().pod_sandbox_status(request).await?.into_inner();
        status.status.context("no pod status")
    }

    /// The pod's address.
    ///
    /// # Errors
    /// When it has none.
    pub async fn address(&self, pod: &Pod) -> Result<String> {
        let network = self.pod(pod).await?.network.context("no pod network")?;
        ensure!(!network.ip.is_empty(), "the pod has no address");
        Ok(network.ip)
    }

    /// Runs a command in a container; `timeout` in seconds, 0 for none.
    ///
    /// # Errors
    /// The runtime's: also when the time is over.
    pub async fn exec(&self, id: &str, command: &[&str], timeout: i64) -> Result<api::ExecSyncResponse> {
        let request = api::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout,
        };
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    /// The output of a command that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub async fn exec_ok(&self, id: &str, command: &[&str]) -> Result<String> {
        let response = self.exec(id, command, 0).await?;
        let stdout = String::from_utf8_lossy(&response.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&response.stderr);
        ensure!(response.exit_code == 0, "{command:?} ended with {}: {stdout}{stderr}", response.exit_code);
        Ok(stdout)
    }

    /// What `probe show` says inside a container.
    ///
    /// # Errors
    /// When it cannot be run there.
    pub async fn show(&self, id: &str) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.exec_ok(id, &["probe", "show"]).await?)?)
    }

    /// Stops and removes a pod with all in it.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.stop_pod(pod).await?;
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.runtime().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// Stops a pod.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn stop_pod(&self, pod: &Pod) -> Result<()> {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.runtime().stop_pod_sandbox(request).await?;
        Ok(())
    }
}

fn parse_info(info: &HashMap<String, String>) -> Result<serde_json::Value> {
    let text = info.get("info").context("no info")?;
    serde_json::from_str(text).with_context(|| format!("info is not JSON: {text}"))
}

/// A pod as the kubelet asks for it: own pid namespace per container, default seccomp profile, logs in the
/// world's folder.
pub fn pod(world: &World, name: &str) -> api::PodSandboxConfig {
    let namespace_options =
        api::NamespaceOption { pid: api::NamespaceMode::Container.into(), ..Default::default() };
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{}-{name}", world.id()),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: log_dir(world).to_string_lossy().into_owned(),
        dns_config: Some(api::DnsConfig { servers: vec!["10.166.0.1".to_owned()], ..Default::default() }),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: world.pod_parent(),
            security_context: Some(api::LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options),
                seccomp: Some(api::SecurityProfile::default()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container of the probe image as the kubelet asks for it.
pub fn container(name: &str, command: &[&str]) -> api::ContainerConfig {
    let namespace_options =
        api::NamespaceOption { pid: api::NamespaceMode::Container.into(), ..Default::default() };
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(api::ImageSpec { image: PROBE.to_owned(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(api::LinuxContainerConfig {
            resources: Some(api::LinuxContainerResources::default()),
            security_context: Some(api::LinuxContainerSecurityContext {
                namespace_options: Some(namespace_options),
                seccomp: Some(api::SecurityProfile::default()),
                masked_paths: MASKED.map(str::to_owned).into(),
                readonly_paths: READ_ONLY.map(str::to_owned).into(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The container's resources, to be set before it is created.
///
/// # Panics
/// When the configuration was not made by [`container`].
pub fn resources(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerResources {
    let linux = config.linux.as_mut().expect("container() fills linux");
    linux.resources.as_mut().expect("container() fills resources")
}

/// The container's security context, to be set before it is created.
///
/// # Panics
/// When the configuration was not made by [`container`].
pub fn security(config: &mut api::ContainerConfig) -> &mut api::LinuxContainerSecurityContext {
    let linux = config.linux.as_mut().expect("container() fills linux");
    linux.security_context.as_mut().expect("container() fills security_context")
}

/// Where the containers of a world log.
pub fn log_dir(world: &World) -> PathBuf {
    world.logs().join("pods")
}

/// The lines a container logged, without time and tags.
///
/// # Errors
/// When there is no such log.
pub fn log(world: &World, name: &str) -> Result<Vec<LogLine>> {
    let path = log_dir(world).join(format!("{name}.log"));
    parse_log(&path)
}

/// A line of a CRI log: `TIME STREAM TAG TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `F` for a full line, `P` for a part of one.
    pub tag: String,
    /// What the container wrote.
    pub text: String,
}

/// The lines of a log by its path.
///
/// # Errors
/// When there is no such log.
pub fn parse_log(path: &Path) -> Result<Vec<LogLine>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .map(|line| {
            let mut words = line.splitn(4, ' ').skip(1).map(str::to_owned);
            let mut next = || words.next().with_context(|| format!("not a log line: {line}"));
            Ok(LogLine { stream: next()?, tag: next()?, text: next()? })
        })
        .collect()
}

/// What the kubelet masks by default.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// What the kubelet makes read-only by default.
const READ_ONLY: [&str; 6] =
    ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

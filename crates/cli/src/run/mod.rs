//! `dunnage pod run`: a Pod manifest run on this machine without containerd, by playing containerd to the shim.
//!
//! ```text
//! manifest ─▶ images ─▶ cgroup, network, files, volumes ─▶ sandbox ─▶ init containers ─▶ containers ─▶ undo
//!            unpacked                                     the shim       one by one       together
//! ```
//!
//! Owns the order, the run's directory and that nothing outlives the run: everything that is made lies in one
//! directory or is named in its record before it is made, and one function takes it back ([`teardown`]). That
//! function runs after success and failure, from the panic hook, and at the next run for one that was killed.
//! Whoever kills this program with SIGKILL leaves the pod running until then; `dunnage pod clean` ends it.

mod cgroup;
mod container;
mod events;
mod folder;
mod id;
mod images;
mod logs;
mod network;
mod order;
mod pod;
mod quota;
mod sandbox;
mod shim;
mod stop;
mod teardown;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use dunnage_cgroup::Layout;

use self::events::Events;
use self::folder::{Record, Runs};
use self::images::Images;
use self::network::Place;
use self::pod::Pod;
use self::sandbox::Sandbox;
use self::stop::{Listener, Stop};
use self::teardown::Guard;
use crate::bundle::{self, Machine, PodFiles, PodFrame, SandboxBundle};
use crate::image::Reference;
use crate::output::{self, Console};
use crate::{kubelet, manifest};

/// What the caller chose.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) manifest: PathBuf,
    /// Where runs have their directories.
    pub(crate) root: PathBuf,
    pub(crate) shim: Option<PathBuf>,
    /// Cgroup under which those of pods are made.
    pub(crate) cgroup_root: String,
    /// Show what the shim logs.
    pub(crate) debug: bool,
}

/// Runs a pod to its end; gives the code to exit with.
///
/// # Errors
/// The manifest, an image, this machine or the shim does not allow it. Nothing is left behind.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(&options.manifest)
        .with_context(|| format!("read {}", options.manifest.display()))?;
    let pod = manifest::Pod::parse(&options.manifest, &text)?;
    ensure!(
        dunnage_sys::process::effective_ids().0 == 0,
        "pod run needs root: it makes namespaces, cgroups, mounts and devices"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, checked(options, pod));
    // A stream that nobody reads may hold a thread that writes to it.
    runtime.shutdown_background();
    code
}

/// Takes back what runs have left whose process is gone.
///
/// # Errors
/// Something could not be taken back.
pub(crate) fn clean(root: &Path) -> anyhow::Result<Vec<String>> {
    teardown::sweep(&Runs::lock(root)?)
}

async fn checked(options: &Options, spec: manifest::Pod) -> anyhow::Result<u8> {
    let references = images::resolve(&spec, &options.manifest)?;
    let shim = shim::find(options.shim.as_deref())?;
    let names = spec.init_containers.iter().chain(&spec.containers).map(|container| container.name.clone());
    let console = Rc::new(Console::new(names.collect()));
    let signal = Rc::new(Cell::new(None));
    let halt = Rc::new(Listener::install(Rc::clone(&signal))?);
    let guard = set_up(options, &spec, &shim)?;
    let ended = Run { options, guard: &guard, console: &console, halt: &halt }.run(spec, references).await;
    let undone = tokio::task::spawn_blocking(move || guard.undo()).await.context("undo the run")?;
    let stopped = signal.get().and_then(|number: i32| u8::try_from(128 + number).ok());
    // What a signal cut short has failed because of it.
    let code = match stopped {
        Some(code) => code,
        None => ended?,
    };
    undone.map(|()| code)
}

/// Takes back what dead runs have left, then makes the directory of this one.
fn set_up(options: &Options, spec: &manifest::Pod, shim: &Path) -> anyhow::Result<Guard> {
    let uid = id::uid()?;
    let parent = kubelet::cgroup_parent(&options.cgroup_root, spec.qos_class(), &uid);
    let runs = Runs::lock(&options.root)?;
    match teardown::sweep(&runs) {
        Ok(pods) => pods.iter().for_each(|pod| output::note(format_args!("removed what pod {pod} had left"))),
        Err(error) => output::warn(format_args!("{error:#}")),
    }
    let record = Record::new(&spec.name, &uid, (&options.cgroup_root, &parent), !spec.host_network, shim);
    let folder = runs.create(&record)?;
    let guard = Guard::new(&options.root, folder, record);
    guard.undo_on_panic();
    Ok(guard)
}

/// One run on its way.
#[derive(Clone, Copy)]
struct Run<'a> {
    options: &'a Options,
    guard: &'a Guard,
    console: &'a Rc<Console>,
    halt: &'a Rc<Listener>,
}

impl Run<'_> {
    async fn run(self, spec: manifest::Pod, references: BTreeMap<String, Reference>) -> anyhow::Result<u8> {
        let class = spec.qos_class();
        let count = spec.containers.len();
        let plural = if count == 1 { "" } else { "s" };
        self.console.say(format_args!("pod {}: {}, {count} container{plural}", spec.name, class.as_str()));
        let images = self.unpack(references).await?;
        let pod = self.make(spec, images).await?;
        let code = order::run(&pod).await;
        let ended = pod.sandbox.end().await;
        let code = code?;
        // What is in the way of an orderly end is dealt with by force; that it was needed is worth a word.
        if let Err(error) = ended {
            output::warn(format_args!("{error:#}"));
        }
        let verdict = if code == 0 { "succeeded" } else { "failed" };
        self.console.say(format_args!("pod {}: {verdict}", pod.spec.name));
        Ok(code)
    }

    /// Unpacking ends early when the run is to stop.
    async fn unpack(self, references: BTreeMap<String, Reference>) -> anyhow::Result<Images> {
        let folder = &self.guard.folder;
        let names: Vec<String> = references.keys().cloned().collect();
        let cancelled = Arc::new(AtomicBool::new(false));
        let (layers, look, flag) = (folder.join("layers"), folder.join("look"), Arc::clone(&cancelled));
        let mut work = tokio::task::spawn_blocking(move || images::unpack(references, layers, &look, flag));
        let stopping = self.halt.stopping();
        let images = tokio::select! {
            done = &mut work => done,
            () = stopping.reached(Stop::Graceful) => {
                cancelled.store(true, Ordering::Relaxed);
                work.await
            }
        };
        let images = images.context("unpack images")??;
        for name in names {
            let layers = images.get(&name).map_or(0, |ready| ready.image.layers.len());
            let plural = if layers == 1 { "" } else { "s" };
            self.console.tell("image", format_args!("{name}, {layers} layer{plural}"));
        }
        Ok(images)
    }

    /// Makes all that a pod has before its first container.
    async fn make(self, spec: manifest::Pod, images: Images) -> anyhow::Result<Rc<Pod>> {
        let record = &self.guard.record;
        let folder = &self.guard.folder;
        let class = spec.qos_class();
        let layout = Layout::detect()?;
        let machine = Machine::look(layout.is_unified())?;
        self.make_cgroup(&layout, &spec)?;
        let place = self.make_network(&spec).await?;
        let hostname = if place.is_some() { spec.hostname.clone() } else { own_hostname()? };
        let address = place.as_ref().map(|place| place.address);
        let files = PodFiles::write(&folder.join("files"), &hostname, address)?;
        let volumes = bundle::prepare(&spec, &folder.join("volumes"))?;
        let quota = quota::watch(&spec, &volumes, self.halt);
        let events = Rc::new(Events::default());
        let endpoint = events.serve(&folder.event_socket())?;
        let sandbox_id = id::fresh()?;
        let netns = place.map(|place| place.netns);
        let frame = PodFrame {
            pod: &spec,
            uid: &record.uid,
            sandbox_id: &sandbox_id,
            class,
            cgroup_parent: &record.cgroup_parent,
            netns: netns.as_deref(),
            hostname: &hostname,
            machine,
        };
        let sandbox = self.start_sandbox(&frame, &files).await?;
        Ok(Rc::new(Pod {
            uid: record.uid.clone(),
            class,
            cgroup_parent: record.cgroup_parent.clone(),
            netns,
            hostname,
            machine,
            files,
            volumes,
            images,
            folder: folder.clone(),
            manifest_folder: images::folder_of(&self.options.manifest),
            shim: record.shim.clone(),
            debug: self.options.debug,
            sandbox,
            events,
            _endpoint: endpoint,
            _quota: quota,
            console: Rc::clone(self.console),
            stopping: self.halt.stopping(),
            halt: Rc::clone(self.halt),
            spec,
        }))
    }

    async fn start_sandbox(self, frame: &PodFrame<'_>, files: &PodFiles) -> anyhow::Result<Sandbox> {
        let program = std::env::current_exe().context("find this program")?;
        let (resolv_conf, shm) = (&files.resolv_conf, &files.shm);
        let start = sandbox::Start {
            bundle: SandboxBundle { frame, program: &program, resolv_conf, shm },
            folder: &self.guard.folder,
            shim: &self.guard.record.shim,
            debug: self.options.debug,
        };
        let sandbox = start.run(frame.sandbox_id, self.halt).await?;
        self.console.tell("sandbox", sandbox.describe());
        Ok(sandbox)
    }

    /// Under the lock of all runs: another one that ends removes the levels above when they are empty.
    fn make_cgroup(self, layout: &Layout, spec: &manifest::Pod) -> anyhow::Result<()> {
        let _locked = Runs::lock(&self.options.root)?;
        let limits = kubelet::pod_limits(spec);
        let parent = &self.guard.record.cgroup_parent;
        for refused in cgroup::create(layout, parent, spec.qos_class(), &limits)? {
            output::warn(refused);
        }
        Ok(())
    }

    async fn make_network(self, spec: &manifest::Pod) -> anyhow::Result<Option<Place>> {
        if spec.host_network {
            self.console.tell("network", "the host's");
            return Ok(None);
        }
        if self.halt.stopping().now() != Stop::No {
            bail!("interrupted");
        }
        let (spec, folder) = (spec.clone(), self.guard.folder.clone());
        let uid = self.guard.record.uid.clone();
        let work = tokio::task::spawn_blocking(move || network::attach(&spec, &uid, &folder));
        let place = work.await.context("make the network")??;
        self.console.tell("network", format_args!("{} on {}", place.address, place.bridge));
        Ok(Some(place))
    }
}

fn own_hostname() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    Ok(name.trim().to_owned())
}

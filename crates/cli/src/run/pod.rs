//! The pod while it runs: everything its containers are made with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use dunnage_spec::QosClass;

use super::events::{Endpoint, Events};
use super::folder::Folder;
use super::images::{Images, Ready};
use super::quota;
use super::sandbox::Sandbox;
use super::stop::{Listener, Stop, Stopping};
use crate::bundle::{Machine, PodFiles, PodFrame, Prepared};
use crate::manifest::{self, Container, RestartPolicy};
use crate::output::Console;

/// Everything a container of the pod is made with.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) spec: manifest::Pod,
    pub(super) uid: String,
    pub(super) class: QosClass,
    pub(super) cgroup_parent: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) hostname: String,
    pub(super) machine: Machine,
    pub(super) files: PodFiles,
    pub(super) volumes: BTreeMap<String, Prepared>,
    pub(super) images: Images,
    pub(super) folder: Folder,
    pub(super) manifest_folder: PathBuf,
    pub(super) shim: PathBuf,
    pub(super) debug: bool,
    pub(super) sandbox: Sandbox,
    pub(super) events: Rc<Events>,
    pub(super) _endpoint: Endpoint,
    pub(super) _quota: quota::Watch,
    pub(super) console: Rc<Console>,
    pub(super) stopping: Stopping,
    pub(super) halt: Rc<Listener>,
}

impl Pod {
    pub(super) fn frame(&self) -> PodFrame<'_> {
        PodFrame {
            pod: &self.spec,
            uid: &self.uid,
            sandbox_id: &self.sandbox.id,
            class: self.class,
            cgroup_parent: &self.cgroup_parent,
            netns: self.netns.as_deref(),
            hostname: &self.hostname,
            machine: self.machine,
        }
    }

    /// The container's image.
    ///
    /// # Errors
    /// None: every image was prepared before the first container.
    pub(super) fn ready(&self, container: &Container) -> anyhow::Result<&Ready> {
        self.images
            .get(&container.image)
            .with_context(|| format!("image {} was not prepared", container.image))
    }

    /// Whether a container that ended like this is run again.
    pub(super) fn runs_again(&self, code: u8) -> bool {
        code != 0 && self.spec.restart == RestartPolicy::OnFailure && self.stopping.now() == Stop::No
    }
}

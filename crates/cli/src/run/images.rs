//! The images of a pod, resolved and unpacked before anything runs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;

use crate::image::{Image, Reference, Store, Users};
use crate::manifest::{Container, ManifestError, Pod, Problem};

/// An image with what it knows of users.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) image: Image,
    pub(crate) users: Users,
}

/// Images by the name in the manifest.
pub(crate) type Images = HashMap<String, Ready>;

/// Finds the source of every image; relative ones start at the manifest's folder.
///
/// # Errors
/// All that name no source on this machine, at their places in the manifest.
pub(crate) fn resolve(pod: &Pod, file: &Path) -> Result<BTreeMap<String, Reference>, ManifestError> {
    let folder = folder_of(file);
    let mut references = BTreeMap::new();
    let mut problems = Vec::new();
    let lists: [(&str, &[Container]); 2] =
        [("initContainers", &pod.init_containers), ("containers", &pod.containers)];
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            match Reference::resolve(&container.image, &folder) {
                Ok(reference) => {
                    references.insert(container.image.clone(), reference);
                }
                Err(error) => problems.push(Problem {
                    at: container.image_at,
                    path: format!("spec.{list}[{index}].image"),
                    text: error.to_string(),
                }),
            }
        }
    }
    if problems.is_empty() { Ok(references) } else { Err(ManifestError::new(file, problems)) }
}

/// Where relative paths of a manifest start.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// Unpacks into `layers`; `look` is an empty directory for a look at each image. Takes as long as the disk
/// takes; `cancelled` ends it.
///
/// # Errors
/// Names the image, and in it the layer and the entry.
pub(crate) fn unpack(
    references: BTreeMap<String, Reference>,
    layers: PathBuf,
    look: &Path,
    cancelled: Arc<AtomicBool>,
) -> anyhow::Result<Images> {
    let mut store = Store::new(layers, cancelled);
    let mut images = Images::new();
    for (name, reference) in references {
        let image = store.load(&name, &reference).with_context(|| format!("image {name}"))?;
        let users = Users::read(&image.layers, look).with_context(|| format!("image {name}"))?;
        images.insert(name, Ready { image, users });
    }
    Ok(images)
}

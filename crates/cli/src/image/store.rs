//! The layers of one run, each unpacked once and shared by every container that has it.

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};

use super::blobs::{self, Blobs};
use super::config::Config;
use super::layer::{self, Limits};
use super::layout;
use super::overlay::is_plain;
use super::reference::Reference;

/// An image ready to be stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Directories, lowest first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) config: Config,
}

/// Unpacked layers in a directory of the run.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Layers by the digests of themselves and of all below them: what a layer's missing directories look
    /// like depends on those.
    unpacked: HashMap<Vec<String>, PathBuf>,
    images: HashMap<String, Image>,
    count: usize,
    cancelled: Arc<AtomicBool>,
}

impl Store {
    /// `folder` exists and is empty. Setting `cancelled` ends an unpacking with an error.
    pub(crate) fn new(folder: PathBuf, cancelled: Arc<AtomicBool>) -> Self {
        Self { folder, unpacked: HashMap::new(), images: HashMap::new(), count: 0, cancelled }
    }

    /// Makes the image called `name` ready.
    ///
    /// # Errors
    /// Says which blob or entry is wrong; what was unpacked of it stays in the folder, which goes with the run.
    pub(crate) fn load(&mut self, name: &str, reference: &Reference) -> anyhow::Result<Image> {
        if let Some(image) = self.images.get(name) {
            return Ok(image.clone());
        }
        let image = match reference {
            Reference::Rootfs { path } => {
                let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
                Image { layers: vec![self.plain(path)?], config: Config::default() }
            }
            Reference::Layout { path, tag } => self.unpack(&Blobs::directory(path)?, tag.as_deref())?,
            Reference::Archive { path, tag } => {
                let blobs = Blobs::archive(path).with_context(|| path.display().to_string())?;
                self.unpack(&blobs, tag.as_deref())?
            }
        };
        self.images.insert(name.to_owned(), image.clone());
        Ok(image)
    }

    fn unpack(&mut self, blobs: &Blobs, tag: Option<&str>) -> anyhow::Result<Image> {
        let manifest = layout::find(blobs, tag)?;
        let mut chain = Vec::new();
        let mut layers: Vec<PathBuf> = Vec::new();
        for (descriptor, diff) in &manifest.layers {
            chain.push(diff.clone());
            let path = match self.unpacked.get(&chain) {
                Some(path) => path.clone(),
                None => {
                    let path = self.fresh()?;
                    std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
                    let lowers: Vec<PathBuf> = layers.iter().rev().cloned().collect();
                    let blob = blobs.open(descriptor)?;
                    let found = layer::unpack(blob, &path, &lowers, Limits::default(), &self.cancelled)
                        .with_context(|| format!("layer {}", descriptor.digest()))?;
                    let blob = blobs::sha256(descriptor)?;
                    ensure!(
                        found.blob == blob,
                        "layer sha256:{blob}: its content has the digest sha256:{}",
                        found.blob
                    );
                    ensure!(
                        found.diff == *diff,
                        "layer sha256:{blob}: unpacked it has the digest sha256:{}, not sha256:{diff}",
                        found.diff
                    );
                    self.unpacked.insert(chain.clone(), path.clone());
                    path
                }
            };
            layers.push(path);
        }
        if layers.is_empty() {
            let path = self.fresh()?;
            std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            layers.push(path);
        }
        Ok(Image { layers, config: Config::of(&manifest.config) })
    }

    /// A path that overlayfs options can hold: the directory itself, or a link to it.
    fn plain(&mut self, path: PathBuf) -> anyhow::Result<PathBuf> {
        if is_plain(&path) {
            return Ok(path);
        }
        let link = self.fresh()?;
        symlink(&path, &link).with_context(|| format!("link {} to {}", link.display(), path.display()))?;
        Ok(link)
    }

    /// Short names: the options of a mount are limited to a page.
    fn fresh(&mut self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(self.count.to_string());
        ensure!(is_plain(&path), "{}: a path with `,`, `:` or `\\` cannot hold layers", path.display());
        self.count += 1;
        Ok(path)
    }
}

#[cfg(test)]
mod tests;

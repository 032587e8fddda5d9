//! The files of an OCI image layout, in a directory or in a tar file, read where they lie.
//!
//! Everything read from here is checked against the digest that named it, by the caller's choice of
//! [`Blobs::json`] (small, read whole) or [`Blobs::open`] (layers, hashed while they are unpacked).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use dunnage_sys::tree::Tree;
use oci_spec::image::{Descriptor, DigestAlgorithm};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// An index, manifest or configuration larger than this is none (containerd's limit is 8 MiB).
const MAX_JSON: u64 = 8 << 20;
/// Files of an archive; an image has a few dozen.
const MAX_FILES: usize = 100_000;

/// Where the files are.
#[derive(Debug)]
pub(super) enum Blobs {
    Directory(Tree),
    Archive { file: File, places: HashMap<String, Place> },
}

/// A stretch of an archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    offset: u64,
    size: u64,
}

/// A reader of a stretch of a file that leaves the position of the file alone.
#[derive(Debug)]
pub(super) struct Section {
    file: File,
    offset: u64,
    end: u64,
}

impl Blobs {
    pub(super) fn directory(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::Directory(Tree::open(path)?))
    }

    /// Notes where each file of the archive lies. Nothing is unpacked.
    pub(super) fn archive(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut places = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        let entries = archive.entries_with_seek().context("read the archive")?;
        for entry in entries.take(MAX_FILES) {
            let entry = entry.context("read the archive; is it an uncompressed tar file?")?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let place = Place { offset: entry.raw_file_position(), size: entry.size() };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            places.insert(name.trim_start_matches("./").to_owned(), place);
        }
        if !places.contains_key("index.json") && places.contains_key("manifest.json") {
            bail!(
                "is a docker-archive; `skopeo copy docker-archive:{0} oci-archive:…` makes an oci-archive",
                path.display()
            );
        }
        ensure!(places.contains_key("index.json"), "has no index.json, so it is no OCI image layout");
        Ok(Self::Archive { file, places })
    }

    /// A file of the layout by its name, unverified.
    fn file(&self, name: &str) -> anyhow::Result<Section> {
        match self {
            Self::Directory(tree) => {
                let file = tree.file_in_root(Path::new(name)).with_context(|| format!("open {name}"))?;
                let end = file.metadata().with_context(|| format!("stat {name}"))?.len();
                Ok(Section { file, offset: 0, end })
            }
            Self::Archive { file, places } => {
                let place = places.get(name).with_context(|| format!("the archive has no {name}"))?;
                let file = file.try_clone().context("duplicate the archive's descriptor")?;
                Ok(Section { file, offset: place.offset, end: place.offset + place.size })
            }
        }
    }

    /// The entry point, the only file no digest names.
    pub(super) fn index(&self) -> anyhow::Result<oci_spec::image::ImageIndex> {
        let section = self.file("index.json")?;
        serde_json::from_slice(&section.small()?).context("read index.json")
    }

    /// A document, verified.
    pub(super) fn json<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> anyhow::Result<T> {
        let bytes = self.open(descriptor)?.small()?;
        let actual = hex::encode(Sha256::digest(&bytes));
        ensure!(
            actual == sha256(descriptor)?,
            "{}: its content has the digest sha256:{actual}",
            descriptor.digest()
        );
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", descriptor.digest()))
    }

    /// A blob of the right size; its digest is the reader's to check.
    pub(super) fn open(&self, descriptor: &Descriptor) -> anyhow::Result<Section> {
        let section = self.file(&format!("blobs/sha256/{}", sha256(descriptor)?))?;
        let size = section.end - section.offset;
        ensure!(
            size == descriptor.size(),
            "{}: has {size} bytes, not {}",
            descriptor.digest(),
            descriptor.size()
        );
        Ok(section)
    }
}

impl Section {
    fn small(mut self) -> anyhow::Result<Vec<u8>> {
        let size = self.end - self.offset;
        ensure!(size <= MAX_JSON, "a document of {size} bytes; at most {MAX_JSON} are read");
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The hexadecimal digits; other algorithms are not verified and so not read.
pub(super) fn sha256(descriptor: &Descriptor) -> anyhow::Result<&str> {
    let digest = descriptor.digest();
    ensure!(*digest.algorithm() == DigestAlgorithm::Sha256, "{digest}: only sha256 digests are verified");
    Ok(digest.digest())
}

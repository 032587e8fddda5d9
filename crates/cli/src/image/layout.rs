//! The way from the index of an OCI image layout to one image: its configuration and its layers.

use anyhow::{Context, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

use super::blobs::{self, Blobs};

/// The annotation that names an image in an index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd writes the name when the other holds only the tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Indexes inside indexes; more is a loop or a joke.
const MAX_DEPTH: usize = 4;

/// One image as its blobs describe it.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) config: ImageConfiguration,
    /// Lowest first, each with the digest of its tar stream.
    pub(super) layers: Vec<(Descriptor, String)>,
}

/// Finds the image called `tag`, or the only one, for this machine.
pub(super) fn find(blobs: &Blobs, tag: Option<&str>) -> anyhow::Result<Manifest> {
    let index = blobs.index()?;
    let named = named(&index, tag)?;
    let descriptor = for_this_machine(blobs, &named, 0)?;
    let manifest: ImageManifest = blobs.json(&descriptor)?;
    let config: ImageConfiguration = blobs.json(manifest.config()).context("the image configuration")?;
    let diffs = config.rootfs().diff_ids();
    let layers = manifest.layers();
    ensure!(
        diffs.len() == layers.len(),
        "the manifest has {} layers and the configuration {}",
        layers.len(),
        diffs.len()
    );
    let pairs = layers.iter().zip(diffs).map(|(layer, diff)| Ok((layer.clone(), diff_digest(diff)?)));
    let layers = pairs.collect::<anyhow::Result<Vec<_>>>()?;
    for (layer, _) in &layers {
        check_media_type(layer)?;
        blobs::sha256(layer)?;
    }
    Ok(Manifest { config, layers })
}

fn named<'a>(index: &'a ImageIndex, tag: Option<&str>) -> anyhow::Result<Vec<&'a Descriptor>> {
    let names = |descriptor: &'a Descriptor| {
        let annotations = descriptor.annotations().as_ref();
        let get = move |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        [get(REF_NAME), get(CONTAINERD_NAME)].into_iter().flatten()
    };
    let all = index.manifests();
    let Some(tag) = tag else { return Ok(all.iter().collect()) };
    let found: Vec<_> = all.iter().filter(|descriptor| names(descriptor).any(|name| name == tag)).collect();
    if found.is_empty() {
        let known: Vec<&str> = all.iter().flat_map(names).collect();
        bail!(
            "there is no image `{tag}`; it has: {}",
            if known.is_empty() { "no names".into() } else { known.join(", ") }
        );
    }
    Ok(found)
}

/// Of images for several machines, the one for this; of several images, none.
fn for_this_machine(blobs: &Blobs, list: &[&Descriptor], depth: usize) -> anyhow::Result<Descriptor> {
    ensure!(depth <= MAX_DEPTH, "indexes are nested more than {MAX_DEPTH} deep");
    let fitting: Vec<&Descriptor> = list.iter().copied().filter(|descriptor| fits(descriptor)).collect();
    let descriptor = match fitting[..] {
        [one] => one,
        [] => bail!("there is no image for linux/{}", architecture()),
        _ => bail!("there are {} images; choose one by its tag, as in oci:DIRECTORY:TAG", fitting.len()),
    };
    if is_index(descriptor.media_type()) {
        let inner: ImageIndex = blobs.json(descriptor)?;
        let list: Vec<&Descriptor> = inner.manifests().iter().collect();
        return for_this_machine(blobs, &list, depth + 1);
    }
    Ok(descriptor.clone())
}

fn fits(descriptor: &Descriptor) -> bool {
    let image = is_index(descriptor.media_type()) || is_manifest(descriptor.media_type());
    // An image that does not say is for any machine; attestations say `unknown`.
    let platform = descriptor.platform().as_ref();
    let here = |os: &str, machine: &str| os == "linux" && machine == architecture();
    image && platform.is_none_or(|p| here(&p.os().to_string(), &p.architecture().to_string()))
}

/// This machine in the words of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn is_index(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageIndex => true,
        MediaType::Other(other) => other == "application/vnd.docker.distribution.manifest.list.v2+json",
        _ => false,
    }
}

fn is_manifest(media_type: &MediaType) -> bool {
    match media_type {
        MediaType::ImageManifest => true,
        MediaType::Other(other) => other == "application/vnd.docker.distribution.manifest.v2+json",
        _ => false,
    }
}

/// A layer must be a tar stream, compressed or not; encrypted ones and other artifacts are none.
fn check_media_type(layer: &Descriptor) -> anyhow::Result<()> {
    let name = layer.media_type().to_string();
    let known = ["tar", "tar+gzip", "tar+zstd", "tar.gzip", "tar.zstd"];
    ensure!(
        known.iter().any(|end| name.ends_with(&format!(".{end}"))),
        "{}: a layer of type {name}",
        layer.digest()
    );
    Ok(())
}

fn diff_digest(text: &str) -> anyhow::Result<String> {
    let digits =
        text.strip_prefix("sha256:").with_context(|| format!("{text}: only sha256 digests are verified"))?;
    Ok(digits.to_owned())
}

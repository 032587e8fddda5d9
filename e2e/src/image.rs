//! Container images, built here as an OCI archive: no registry is needed.
//!
//! Owns what is in the test images: a static busybox with its applets and our probe program, and a pause image
//! with one static program. Layout and media types follow the OCI image specification 1.0. They are made once for
//! each build of these programs and kept beside them: every test needs them, and no test changes them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use crate::programs;

/// Name of the image with busybox and probe. `.test` never resolves (RFC 2606), so nothing tries to pull it.
pub const PROBE: &str = "dunnage.test/probe:1";

/// Name of the image of the sandbox's process.
pub const PAUSE: &str = "dunnage.test/pause:1";

/// Applets that get a name in `/bin`.
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "date", "df", "dmesg", "echo", "env", "false", "find", "grep", "head",
    "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mount", "mv", "nc", "ping", "ps", "pwd",
    "readlink", "rm", "sh", "sleep", "stat", "stty", "su", "tail", "test", "touch", "true", "tty", "umount",
    "uname", "wc", "which", "whoami", "yes",
];

/// The folder of images that were made, below that of the programs in them.
const CACHE: &str = "e2e-images";

/// Images of older builds are of no use after this; until then a test may still read them.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What stands in a layer at a path without leading slash.
enum Entry {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(&'static str),
}

/// An OCI archive with the [`PROBE`] and the [`PAUSE`] image.
///
/// # Errors
/// When busybox-static is not installed or a program is not built.
pub fn archive() -> Result<PathBuf> {
    Ok(made()?.join("images.tar"))
}

/// Writes the probe image's files into `dir`: a root file system without an image store.
///
/// # Errors
/// As [`archive`], or when a file cannot be written.
pub fn unpack_probe(dir: &Path) -> Result<()> {
    unpack(dir, "probe")
}

/// The same for the pause image.
///
/// # Errors
/// As [`unpack_probe`].
pub fn unpack_pause(dir: &Path) -> Result<()> {
    unpack(dir, "pause")
}

fn unpack(dir: &Path, name: &str) -> Result<()> {
    let path = made()?.join(layer_file(name));
    let layer = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    tar::Archive::new(layer).unpack(dir).with_context(|| format!("unpack into {}", dir.display()))
}

fn layer_file(name: &str) -> String {
    format!("{name}.layer.tar")
}

/// The folder of the images of these programs, made if need be.
fn made() -> Result<PathBuf> {
    let programs = [programs::installed("busybox")?, programs::built("probe")?, programs::built("pause")?];
    let cache = programs::build_dir()?.join(CACHE);
    let dir = cache.join(key(&programs)?);
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    forget_old(&cache);
    let making = TempDir::with_prefix_in("making-", &cache).context("make a folder for images")?;
    make(making.path(), &programs)?;
    let renamed = fs::rename(making.keep(), &dir);
    // Another test may have been faster; its images are the same.
    ensure!(dir.is_dir(), "keep images as {}: {renamed:?}", dir.display());
    Ok(dir)
}

/// Changes when one of the programs, or what this file makes of them, does.
fn key(programs: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(include_str!("image.rs"));
    for path in programs {
        let file = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        hash.update(format!("{} {} {}.{}\n", path.display(), file.len(), file.mtime(), file.mtime_nsec()));
    }
    Ok(hex::encode(&hash.finalize()[..8]))
}

fn forget_old(cache: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let age = entry
            .metadata()
            .and_then(|file| file.modified())
            .map(|made| SystemTime::now().duration_since(made));
        age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT))
    };
    for entry in fs::read_dir(cache).into_iter().flatten().flatten().filter(is_old) {
        // Another test may be faster.
        _ = fs::remove_dir_all(entry.path());
    }
}

fn make(dir: &Path, [busybox, probe, pause]: &[PathBuf; 3]) -> Result<()> {
    let mut builder = builder(&dir.join("images.tar"))?;
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let shell = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "WorkingDir": "/" });
    let pause_config = json!({ "Entrypoint": ["/pause"], "User": "65535:65535" });
    let pause_layer = vec![("pause".to_owned(), Entry::File(0o755, stripped(pause, dir)?))];
    let images = [
        (
            "probe",
            PROBE,
            probe_layer(fs::read(busybox).context("read busybox")?, stripped(probe, dir)?),
            shell,
        ),
        ("pause", PAUSE, pause_layer, pause_config),
    ];
    let mut manifests = Vec::new();
    for (file, name, entries, config) in images {
        let layer = layer(entries)?;
        fs::write(dir.join(layer_file(file)), &layer)
            .with_context(|| format!("write the layer of {name}"))?;
        manifests.push(append_image(&mut builder, name, &layer, &config)?);
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    append(&mut builder, "index.json", index.as_bytes())?;
    builder.finish().context("write the images")
}

fn builder(path: &Path) -> Result<Builder<File>> {
    Ok(Builder::new(File::create(path).with_context(|| format!("make {}", path.display()))?))
}

/// A program without symbols: containerd copies it twice for every test, and they are most of it.
fn stripped(program: &Path, dir: &Path) -> Result<Vec<u8>> {
    let small = dir.join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&small).arg(program).status();
    // Machines that have no binutils get the whole.
    let path = if strip.is_ok_and(|status| status.success()) { &small } else { program };
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    _ = fs::remove_file(small);
    Ok(bytes)
}

fn probe_layer(busybox: Vec<u8>, probe: Vec<u8>) -> Vec<(String, Entry)> {
    let text = |text: &str| Entry::File(0o644, text.as_bytes().to_vec());
    let mut entries: Vec<(String, Entry)> = ["bin", "etc", "dev", "proc", "sys", "run", "var", "home"]
        .map(|name| (name.to_owned(), Entry::Dir(0o755)))
        .into();
    entries.extend([
        ("tmp".to_owned(), Entry::Dir(0o1777)),
        ("root".to_owned(), Entry::Dir(0o700)),
        (
            "etc/passwd".to_owned(),
            text("root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n"),
        ),
        ("etc/group".to_owned(), text("root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n")),
        ("etc/layer".to_owned(), text("lower\n")),
        ("etc/plain.txt".to_owned(), text("not a program\n")),
        ("bin/no-interpreter".to_owned(), Entry::File(0o755, b"#!/no/such/interpreter\n".to_vec())),
        ("bin/busybox".to_owned(), Entry::File(0o755, busybox)),
        // Set user id: what no-new-privileges must make harmless.
        ("bin/id-as-root".to_owned(), Entry::File(0o4755, probe.clone())),
        ("bin/probe".to_owned(), Entry::File(0o755, probe)),
    ]);
    entries.extend(APPLETS.iter().map(|name| (format!("bin/{name}"), Entry::Link("busybox"))));
    entries
}

fn layer(entries: Vec<(String, Entry)>) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        // The same files give the same layer, so that an import finds it known.
        header.set_mtime(0);
        match entry {
            Entry::Dir(mode) => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(mode);
                header.set_size(0);
                builder.append_data(&mut header, path + "/", std::io::empty())?;
            }
            Entry::File(mode, content) => {
                header.set_mode(mode);
                header.set_size(u64::try_from(content.len())?);
                builder.append_data(&mut header, path, content.as_slice())?;
            }
            Entry::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    builder.into_inner().context("write a layer")
}

/// Appends an image of one layer; gives its entry in the index.
fn append_image(builder: &mut Builder<File>, name: &str, layer: &[u8], config: &Value) -> Result<Value> {
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
    .to_string();
    let mut described = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    described["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(':').next(),
    });
    for content in [manifest.as_bytes(), config.as_bytes(), layer] {
        append(builder, &format!("blobs/{}", digest(content).replace(':', "/")), content)?;
    }
    Ok(described)
}

fn append(builder: &mut Builder<File>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(u64::try_from(content.len())?);
    builder.append_data(&mut header, path, content).with_context(|| format!("append {path}"))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

//! Container images, built here as OCI archives: no registry is needed.
//!
//! Owns what is in the test images: a static busybox with its applets and our [`probe`], and a
//! pause image with one static program. Layout and media types follow the OCI image specification 1.0.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

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

/// What stands in a layer at a path without leading slash.
enum Entry {
    Dir(u32),
    File(u32, Vec<u8>),
    Link(&'static str),
}

/// Builds the probe image's archive in `dir`, once.
///
/// # Errors
/// When busybox-static is not installed or probe is not built.
pub fn probe(dir: &Path) -> Result<PathBuf> {
    let config = json!({
        "Cmd": ["/bin/sh"],
        "Env": ["PATH=/bin"],
        "WorkingDir": "/",
    });
    archive(dir, "probe", PROBE, probe_layer()?, &config)
}

/// Builds the pause image's archive in `dir`, once.
///
/// # Errors
/// When pause is not built.
pub fn pause(dir: &Path) -> Result<PathBuf> {
    let program = fs::read(programs::built("pause")?).context("read pause")?;
    let layer = vec![("pause".to_owned(), Entry::File(0o755, program))];
    archive(dir, "pause", PAUSE, layer, &json!({ "Entrypoint": ["/pause"], "User": "65535:65535" }))
}

/// Writes the probe image's files into `dir`: a root file system without an image store.
///
/// # Errors
/// As [`probe`], or when a file cannot be written.
pub fn unpack_probe(dir: &Path) -> Result<()> {
    unpack(dir, probe_layer()?)
}

/// The same for the pause image.
///
/// # Errors
/// As [`pause`], or when a file cannot be written.
pub fn unpack_pause(dir: &Path) -> Result<()> {
    let program = fs::read(programs::built("pause")?).context("read pause")?;
    unpack(dir, vec![("pause".to_owned(), Entry::File(0o755, program))])
}

fn unpack(dir: &Path, entries: Vec<(String, Entry)>) -> Result<()> {
    let layer = layer(entries)?;
    tar::Archive::new(layer.as_slice()).unpack(dir).with_context(|| format!("unpack into {}", dir.display()))
}

fn probe_layer() -> Result<Vec<(String, Entry)>> {
    let mut busybox = Vec::new();
    let path = programs::installed("busybox")?;
    File::open(&path)?.read_to_end(&mut busybox).context("read busybox")?;
    let probe = fs::read(programs::built("probe")?).context("read probe")?;
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
    Ok(entries)
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

/// Writes `DIR/FILE.tar` as an OCI image layout with one image of one layer.
fn archive(
    dir: &Path,
    file: &str,
    name: &str,
    entries: Vec<(String, Entry)>,
    config: &Value,
) -> Result<PathBuf> {
    let path = dir.join(format!("{file}.tar"));
    if path.exists() {
        return Ok(path);
    }
    let layer = layer(entries)?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut described = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    described["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(':').next(),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [described] }).to_string();

    let blob = |content: &[u8]| digest(content).replace(':', "/");
    let mut builder = Builder::new(File::create(&path).with_context(|| format!("make {}", path.display()))?);
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut builder, "index.json", index.as_bytes())?;
    for content in [manifest.as_bytes(), config.as_bytes(), &layer] {
        append(&mut builder, &format!("blobs/{}", blob(content)), content)?;
    }
    builder.finish().context("write an image")?;
    Ok(path)
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

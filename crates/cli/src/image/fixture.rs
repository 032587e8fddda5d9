//! Images made by tests: an OCI layout in a directory, and the same as an archive.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A layout being filled.
pub(crate) struct Layout {
    pub(crate) dir: tempfile::TempDir,
    manifests: Vec<Value>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar stream of these files.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, manifests: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        std::fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len()})
    }

    /// Adds an image; each layer is its blob and its tar stream.
    pub(crate) fn image(&mut self, config: &Value, layers: &[(Vec<u8>, Vec<u8>)], annotate: &Value) -> Value {
        let diffs: Vec<String> = layers.iter().map(|(_, tar)| digest(tar)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        let layers: Vec<Value> =
            layers.iter().map(|(blob, _)| self.blob("layer.v1.tar+gzip", blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob("config.v1+json", config.to_string().as_bytes()), "layers": layers,
        });
        let mut descriptor = self.blob("manifest.v1+json", manifest.to_string().as_bytes());
        for (key, value) in annotate.as_object().unwrap() {
            descriptor[key] = value.clone();
        }
        self.add(descriptor.clone());
        descriptor
    }

    pub(crate) fn add(&mut self, descriptor: Value) {
        self.manifests.push(descriptor);
        self.write();
    }

    pub(crate) fn replace(&mut self, manifests: Vec<Value>) {
        self.manifests = manifests;
        self.write();
    }

    fn write(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    /// The layout as an archive, written beside it.
    pub(crate) fn archive(&self) -> PathBuf {
        let path = self.path().join("archive.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for name in ["oci-layout", "index.json"] {
            builder.append_path_with_name(self.path().join(name), name).unwrap();
        }
        builder.append_dir_all("blobs", self.path().join("blobs")).unwrap();
        builder.finish().unwrap();
        path
    }
}

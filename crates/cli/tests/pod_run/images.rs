//! Images from archives and directories, stacked by overlay.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::world::World;

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer with these directories, files and links.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    fn link(mut self, name: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Writes an OCI layout with one image to `path`.
fn layout(path: &Path, config: &Value, layers: &[(Vec<u8>, &str, Vec<u8>)]) {
    std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(path.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len()})
    };
    let diffs: Vec<String> = layers.iter().map(|(tar, _, _)| digest(tar)).collect();
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({"architecture": machine, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diffs}});
    let blobs: Vec<Value> =
        layers.iter().map(|(_, kind, packed)| blob(&format!("layer.v1.tar+{kind}"), packed)).collect();
    let manifest = json!({"schemaVersion": 2, "config": blob("config.v1+json", config.to_string().as_bytes()),
        "layers": blobs});
    let index =
        json!({"schemaVersion": 2, "manifests": [blob("manifest.v1+json", manifest.to_string().as_bytes())]});
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
}

/// A base with a shell, and a layer above that changes and hides.
fn image(world: &World) -> std::path::PathBuf {
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    let base = Layer::new()
        .file("bin/busybox", 0o755, &busybox)
        .link("bin/sh", "busybox")
        .link("bin/cat", "busybox")
        .link("bin/ls", "busybox")
        .link("bin/id", "busybox")
        .link("bin/sleep", "busybox")
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:77:app\n")
        .file("data/hidden", 0o644, b"")
        .file("data/kept", 0o644, b"lower")
        .tar();
    let above = Layer::new()
        .file("data/.wh.hidden", 0o644, b"")
        .file("data/kept", 0o644, b"upper")
        .file("srv/where", 0o644, b"here")
        .tar();
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id; echo $GREETING; cat where; ls /data; cat /data/kept"],
        "Env": ["PATH=/bin", "GREETING=image"], "User": "app", "WorkingDir": "/srv",
    });
    let (packed_base, packed_above) = (gzip(&base), zstd(&above));
    let path = world.path("image");
    layout(&path, &config, &[(base, "gzip", packed_base), (above, "zstd", packed_above)]);
    path
}

fn archive(world: &World, layout: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(world.path("image.tar")).unwrap());
    builder.append_dir_all(".", layout).unwrap();
    builder.finish().unwrap();
}

#[test]
fn an_image_says_what_runs_unless_the_manifest_does() {
    let world = World::new();
    let path = image(&world);
    archive(&world, &path);
    for source in ["oci:image", "oci-archive:image.tar", "image.tar", "./image"] {
        let spec = format!("  restartPolicy: Never\n  containers: [{{name: c, image: '{source}'}}]\n");
        let run = world.run(&spec).ended_with(0).says(", 2 layers");
        assert_eq!(
            run.stdout,
            "c | uid=1000(app) gid=1000(app) groups=77(extra),1000(app)\nc | image\nc | here\nc | kept\nc | upper\n"
                .replace("here\nc | kept", "herekept"),
            "{source}"
        );
    }
    let spec = "  restartPolicy: Never\n  containers: [{name: c, image: 'oci:image', args: ['echo $GREETING $HOME'], \
                env: [{name: GREETING, value: manifest}]}]\n";
    world.run(spec).ended_with(0).prints("c | manifest /home/app\n");
}

#[test]
fn layers_are_shared_and_writes_stay_in_the_container() {
    let world = World::new();
    image(&world);
    let container = |name: &str, line: &str| {
        format!("{{name: {name}, image: 'oci:image', securityContext: {{runAsUser: 0}}, args: [{line:?}]}}")
    };
    let one = container("one", "echo mine > /data/kept; echo x > /new; sleep 1; cat /data/kept");
    let two = container("two", "sleep 0.5; cat /data/kept; ls /new 2>&1; echo");
    let spec = format!("  restartPolicy: Never\n  containers: [{one}, {two}]\n");
    let run = world.start(&spec, "two | upper");
    // One copy of the two layers, and one directory of its own for each container.
    let runs: Vec<_> = std::fs::read_dir(world.root().join("pods"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(std::fs::read_dir(runs[0].join("layers")).unwrap().count(), 2);
    run.end().ended_with(0).prints("one | mine").prints("No such file");
    world.census();
}

#[test]
fn a_plain_root_is_not_changed_by_what_runs_in_it() {
    let world = World::new();
    let spec = "  restartPolicy: Never\n  containers: [{name: c, image: 'rootfs:root', command: [/bin/sh, -c, \
                \"echo x > /made; rm /bin/ls; test -e /bin/ls || echo no more ls\"]}]\n";
    world.run(spec).ended_with(0).prints("no more ls");
    assert!(world.path("root/bin/ls").exists());
    let names: Vec<_> =
        std::fs::read_dir(world.path("root")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["bin"]);
}

#[test]
fn an_image_that_was_tampered_with_is_refused_and_nothing_of_it_stays() {
    let world = World::new();
    let path = image(&world);
    let largest = std::fs::read_dir(path.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&largest, bytes).unwrap();
    let spec = "  restartPolicy: Never\n  containers: [{name: c, image: 'oci:image'}]\n";
    world.run(spec).ended_with(1).says("image oci:image: layer sha256:");
}

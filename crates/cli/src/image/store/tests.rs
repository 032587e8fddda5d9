use super::*;
use crate::image::fixture::{Layout, digest, gzip, tar};
use serde_json::json;

fn named(tag: &str) -> serde_json::Value {
    json!({"annotations": {"org.opencontainers.image.ref.name": tag}})
}

fn layer(files: &[(&str, &str)]) -> (Vec<u8>, Vec<u8>) {
    let tar = tar(files);
    (gzip(&tar), tar)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().to_owned(), Arc::new(AtomicBool::new(false)));
    (dir, store)
}

fn from_layout(layout: &Layout, tag: Option<&str>) -> Reference {
    Reference::Layout { path: layout.path().to_owned(), tag: tag.map(str::to_owned) }
}

fn error(layout: &Layout, tag: Option<&str>) -> String {
    let (_dir, mut store) = store();
    format!("{:#}", store.load("x", &from_layout(layout, tag)).unwrap_err())
}

#[test]
fn images_share_the_layers_they_have_in_common() {
    let mut layout = Layout::new();
    let base = layer(&[("etc/os", "base")]);
    let config = json!({
        "Entrypoint": ["/bin/a"], "Cmd": ["x"], "Env": ["PATH=/bin"], "User": "app:staff",
        "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
    });
    layout.image(&config, &[base.clone(), layer(&[("a", "1")])], &named("one"));
    layout.image(&json!({}), &[base, layer(&[("b", "2")])], &named("two"));
    let (dir, mut store) = store();
    let one = store.load("one", &from_layout(&layout, Some("one"))).unwrap();
    let archive = Reference::Archive { path: layout.archive(), tag: Some("two".to_owned()) };
    let two = store.load("two", &archive).unwrap();
    assert_eq!(one.layers[0], two.layers[0]);
    assert_eq!(std::fs::read_to_string(one.layers[0].join("etc/os")).unwrap(), "base");
    assert_eq!(std::fs::read_to_string(two.layers[1].join("b")).unwrap(), "2");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    assert_eq!(one.config.entrypoint, ["/bin/a"]);
    assert_eq!(
        (one.config.user.as_deref(), one.config.stop_signal.as_deref()),
        (Some("app:staff"), Some("SIGQUIT"))
    );
    assert_eq!(two.config, Config::default());
}

#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    let mut layout = Layout::new();
    let (blob, stream) = layer(&[("f", "good")]);
    let descriptor = layout.image(&json!({}), &[(blob.clone(), stream)], &json!({}));
    // Of the same size, so that only the digest can tell.
    let mut other = blob.clone();
    let last = other.len() - 12;
    other[last] ^= 1;
    std::fs::write(layout.blob_path(&digest(&blob)), &other).unwrap();
    assert!(error(&layout, None).contains(&format!("layer {}", digest(&blob))));
    std::fs::write(layout.blob_path(&digest(&blob)), &blob[..20]).unwrap();
    assert!(error(&layout, None).contains("has 20 bytes, not"));
    let manifest = layout.blob_path(descriptor["digest"].as_str().unwrap());
    let text = std::fs::read_to_string(&manifest).unwrap().replace("schemaVersion\":2", "schemaVersion\":3");
    std::fs::write(&manifest, text).unwrap();
    assert!(error(&layout, None).contains("its content has the digest"));
}

#[test]
fn a_stream_that_is_not_the_one_of_the_configuration_is_refused() {
    let mut layout = Layout::new();
    let (blob, _) = layer(&[("f", "one")]);
    layout.image(&json!({}), &[(blob, tar(&[("f", "two")]))], &json!({}));
    assert!(error(&layout, None).contains("unpacked it has the digest"));
}

#[test]
fn of_several_images_one_must_be_named() {
    let mut layout = Layout::new();
    layout.image(&json!({}), &[layer(&[("a", "")])], &named("one"));
    layout.image(&json!({}), &[layer(&[("b", "")])], &named("two"));
    assert!(error(&layout, None).contains("there are 2 images; choose one by its tag"));
    assert!(error(&layout, Some("three")).contains("there is no image `three`; it has: one, two"));
}

#[test]
fn the_image_for_this_machine_is_chosen_through_nested_indexes() {
    let mut layout = Layout::new();
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let platform = |machine: &str| json!({"platform": {"os": "linux", "architecture": machine}});
    let ours = layout.image(&json!({}), &[layer(&[("ours", "")])], &platform(here));
    let other = layout.image(&json!({}), &[layer(&[("other", "")])], &platform("s390x"));
    let attestation =
        layout.image(&json!({}), &[], &json!({"platform": {"os": "unknown", "architecture": "unknown"}}));
    let inner = json!({"schemaVersion": 2, "manifests": [other, ours, attestation]}).to_string();
    let index = layout.blob("index.v1+json", inner.as_bytes());
    layout.replace(vec![index]);
    let (_dir, mut store) = store();
    let image = store.load("x", &from_layout(&layout, None)).unwrap();
    assert!(image.layers[0].join("ours").exists());
    layout.replace(vec![other]);
    assert!(error(&layout, None).contains("there is no image for linux/"));
}

#[test]
fn layers_of_an_unknown_kind_are_refused_before_anything_is_unpacked() {
    let mut layout = Layout::new();
    let stream = tar(&[("f", "x")]);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(&stream)]}});
    let manifest = json!({
        "schemaVersion": 2, "config": layout.blob("config.v1+json", config.to_string().as_bytes()),
        "layers": [layout.blob("layer.v1.tar+gzip+encrypted", &stream)],
    });
    let descriptor = layout.blob("manifest.v1+json", manifest.to_string().as_bytes());
    layout.add(descriptor);
    assert!(error(&layout, None).contains("a layer of type"));
}

#[test]
fn other_archives_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.tar");
    let message = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        let (_dir, mut store) = store();
        format!("{:#}", store.load("x", &Reference::Archive { path: path.clone(), tag: None }).unwrap_err())
    };
    assert!(message(tar(&[("manifest.json", "[]")])).contains("is a docker-archive; `skopeo copy"));
    assert!(message(tar(&[("f", "")])).contains("has no index.json"));
    assert!(message(gzip(&tar(&[("index.json", "{}")]))).contains("uncompressed tar"));
}

#[test]
fn a_plain_directory_is_its_own_layer_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a,b:c");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("f"), "x").unwrap();
    let (_store_dir, mut store) = store();
    let plain = Reference::Rootfs { path: dir.path().to_owned() };
    assert_eq!(store.load("plain", &plain).unwrap().layers, [dir.path().canonicalize().unwrap()]);
    let image = store.load("odd", &Reference::Rootfs { path: odd }).unwrap();
    assert!(is_plain(&image.layers[0]) && image.layers[0].join("f").exists());
}

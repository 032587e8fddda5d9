//! `dunnage plan` prints what would happen and changes nothing.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::process::{Command, Output};

fn plan(config: &str) -> Output {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
    std::fs::write(bundle.path().join("config.json"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunnage"));
    command.args(["plan", "--id", "shown"]).arg(bundle.path()).output().unwrap()
}

#[test]
fn every_step_is_printed_with_its_reason() {
    let output = plan(
        r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"args": ["/bin/app"], "cwd": "/srv", "user": {"uid": 7, "gid": 8}},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "cgroupsPath": "/a/b"}}"#,
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let steps = ["_ses.shown", "pivot to the root", "set uid 7 gid 8", "execute /bin/app"];
    let places: Vec<Option<usize>> = steps.iter().map(|step| text.find(step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
    assert!(text.contains("every container has it"), "{text}");
}

#[test]
fn a_bundle_that_cannot_be_run_says_what_is_wrong() {
    let output = plan(
        r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"args": [], "cwd": "/"}, "linux": {"namespaces": [{"type": "mount"}]}}"#,
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("dunnage: ") && said.contains("process."), "{said}");
}

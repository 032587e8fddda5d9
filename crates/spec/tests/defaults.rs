//! What absent, zero and special values become, and what is ignored with a word about it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use dunnage_spec::process::{Capabilities, User};
use dunnage_spec::resources::{CgroupPath, Limit, Memory};
use dunnage_spec::{DeviceKind, MountSource, Process, QosEvidence, Resources, Spec};
use proptest::prelude::*;
use serde_json::{Value, json};

fn spec(members: &Value) -> Spec {
    let mut config = json!({
        "ociVersion": "1.0.2-dev",
        "root": { "path": "./rootfs" },
        "linux": { "namespaces": [{ "type": "mount" }] },
    });
    for (name, value) in members.as_object().unwrap() {
        match (name.as_str(), value) {
            ("linux", Value::Object(linux)) => {
                for (name, value) in linux {
                    config["linux"][name] = value.clone();
                }
            }
            _ => config[name] = value.clone(),
        }
    }
    Spec::from_json(config.to_string().as_bytes(), Path::new("/b/./x"), &"c1".parse().unwrap()).unwrap()
}

fn resources(text: &Value) -> Resources {
    Resources::from_json(text.to_string().as_bytes()).unwrap()
}

fn process(text: &Value) -> Process {
    Process::from_json(text.to_string().as_bytes()).unwrap()
}

#[test]
fn a_spec_without_a_process_is_legal() {
    let spec = spec(&json!({}));
    assert_eq!(spec.process, None);
    assert_eq!(spec.root.path, Path::new("/b/x/rootfs"));
    assert_eq!(spec.cgroup, CgroupPath::Cgroupfs("/dunnage/c1".into()));
}

#[test]
fn a_process_has_no_rights_that_were_not_given() {
    let process = process(&json!({ "args": ["sh"], "cwd": "/a/../b/" }));
    assert_eq!(process.capabilities, Capabilities::default());
    assert_eq!(process.user, User { uid: 0, gid: 0, additional_gids: vec![], umask: 0o022 });
    assert_eq!((process.cwd.to_str(), process.terminal, process.oom_score_adj), (Some("/b"), None, None));
}

#[test]
fn of_duplicate_variables_the_last_stays_at_its_place() {
    let env = json!(["A=1", "B=1", "A=2", "C=", "B=2=3"]);
    assert_eq!(process(&json!({ "args": ["sh"], "cwd": "/", "env": env })).env, ["A=2", "C=", "B=2=3"]);
}

#[test]
fn an_unknown_capability_is_ignored_and_told() {
    let capabilities = json!({ "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_FUTURE"] });
    let spec = spec(&json!({ "process": { "args": ["sh"], "cwd": "/", "capabilities": capabilities } }));
    assert_eq!(spec.process.unwrap().capabilities.bounding, 1 | 1 << 40);
    assert_eq!(spec.warnings, ["process.capabilities.bounding: \"CAP_FUTURE\" is unknown and was ignored"]);
}

#[test]
fn capability_names_are_in_the_order_of_their_numbers() {
    for (number, name) in
        [(0, "CAP_CHOWN"), (21, "CAP_SYS_ADMIN"), (37, "CAP_AUDIT_READ"), (40, "CAP_CHECKPOINT_RESTORE")]
    {
        assert_eq!(Capabilities::NAMES[number], name);
    }
}

#[test]
fn architectures_of_other_machines_are_ignored_and_told() {
    let seccomp =
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"], "flags": [] });
    let spec = spec(&json!({ "linux": { "seccomp": seccomp } }));
    assert_eq!(spec.seccomp.unwrap().architectures, []);
    assert_eq!(spec.warnings, ["linux.seccomp.architectures: SCMP_ARCH_S390X is ignored"]);
}

#[test]
fn zero_and_minus_one_mean_absent_and_unlimited() {
    assert_eq!(resources(&json!({})), Resources::default());
    let zeros = json!({ "memory": { "limit": 0, "swap": 0, "reservation": 0 },
                        "cpu": { "shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "" } });
    assert_eq!(resources(&zeros), Resources::default());

    let unlimited =
        resources(&json!({ "memory": { "limit": -1 }, "cpu": { "quota": -1 }, "pids": { "limit": -1 } }));
    let memory = Memory { limit: Some(Limit::Unlimited), swap: Some(Limit::Unlimited), ..Memory::default() };
    assert_eq!(unlimited.memory, memory);
    assert_eq!((unlimited.cpu.quota_us, unlimited.pids), (Some(Limit::Unlimited), Some(Limit::Unlimited)));
}

#[test]
fn numbers_are_brought_into_the_range_of_the_kernel() {
    assert_eq!(resources(&json!({ "pids": { "limit": 0 } })).pids, Some(Limit::To(1)));
    assert_eq!(resources(&json!({ "cpu": { "shares": 1 } })).cpu.shares, Some(2));
    assert_eq!(resources(&json!({ "cpu": { "shares": u64::MAX } })).cpu.shares, Some(262_144));
    let most = resources(&json!({ "memory": { "limit": i64::MAX } })).memory.limit;
    assert_eq!(most, Some(Limit::To(i64::MAX as u64)));
}

#[test]
fn of_two_limits_for_one_page_size_the_last_counts() {
    let limits = json!([{ "pageSize": "2MB", "limit": 1 }, { "pageSize": "1GB", "limit": 2 }, { "pageSize": "2MB", "limit": 3 }]);
    let expected = [("1GB".to_owned(), 2), ("2MB".to_owned(), 3)];
    assert_eq!(resources(&json!({ "hugepageLimits": limits })).hugepages, expected);
}

#[test]
fn device_nodes_get_their_usual_mode_and_ptmx_is_left_to_the_runtime() {
    let devices = json!([
        { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 },
        { "path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2 },
        { "path": "/dev/../dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 0o60660, "uid": 1, "gid": 6 },
    ]);
    let devices = spec(&json!({ "linux": { "devices": devices } })).devices;
    assert_eq!(devices.len(), 2);
    assert_eq!((devices[0].mode, devices[0].kind), (0o666, DeviceKind::Char { major: 10, minor: 229 }));
    assert_eq!((devices[1].path.to_str(), devices[1].mode, devices[1].gid), (Some("/dev/sda"), 0o660, 6));
}

#[test]
fn a_relative_bind_source_is_taken_from_the_bundle() {
    let spec = spec(
        &json!({ "mounts": [{ "destination": "a/../b", "type": "none", "source": "../v", "options": ["rbind"] }] }),
    );
    assert_eq!(spec.mounts[0].destination, Path::new("/b"));
    assert_eq!(spec.mounts[0].source, MountSource::Bind { path: "/b/v".into(), recursive: true });
}

#[test]
fn file_system_flags_on_a_bind_are_ignored_and_told() {
    let spec =
        spec(&json!({ "mounts": [{ "destination": "/a", "source": "/b", "options": ["bind", "sync"] }] }));
    assert_eq!(spec.warnings, ["bind on /a: options of the file system are ignored"]);
}

#[test]
fn the_class_is_taken_from_the_best_evidence_there_is() {
    let cri = json!({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s" });
    let mut spec = spec(&json!({
        "process": { "args": ["sh"], "cwd": "/", "oomScoreAdj": 1000 },
        "annotations": cri,
        "linux": { "cgroupsPath": "/kubepods/pod1/c1", "resources": { "cpu": { "shares": 100 } } },
    }));
    let evidence = |spec: &Spec| dunnage_spec::Qos::of(spec).map(|qos| (qos.class.as_str(), qos.evidence));
    let path = QosEvidence::CgroupPath("/kubepods/pod1/c1".into());
    assert_eq!(evidence(&spec), Some(("Guaranteed", path)));
    // A kubelet with --cgroups-per-qos=false.
    spec.cgroup = CgroupPath::Cgroupfs("/pods/c1".into());
    assert_eq!(evidence(&spec), Some(("BestEffort", QosEvidence::OomScoreAdj(1000))));
    spec.annotations.clear();
    assert_eq!(evidence(&spec), Some(("Burstable", QosEvidence::Resources)));
    spec.annotations.insert("io.dunnage.qos-class".into(), "guaranteed".into());
    assert_eq!(evidence(&spec), Some(("Guaranteed", QosEvidence::Annotation)));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Spec::from_json(&text, Path::new("/b"), &"c1".parse().unwrap());
    }

    #[test]
    fn no_destination_leads_out_of_the_root(destination in "[a-c./]{1,16}") {
        let mounts = json!([{ "destination": destination, "type": "tmpfs" }]);
        let config = json!({ "ociVersion": "1.0.0", "root": { "path": "r" }, "mounts": mounts,
                             "linux": { "namespaces": [{ "type": "mount" }] } });
        if let Ok(spec) = Spec::from_json(config.to_string().as_bytes(), Path::new("/b"), &"c1".parse().unwrap()) {
            let destination = spec.mounts[0].destination.to_str().unwrap();
            prop_assert!(destination.len() > 1 && destination.starts_with('/'));
            prop_assert!(destination.split('/').all(|part| part != ".."));
        }
    }
}

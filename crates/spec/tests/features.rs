//! The features document against what reading a spec accepts: it may promise neither more nor less.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use dunnage_spec::{MountSource, Spec, features};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": { "args": ["sh"], "cwd": "/" },
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "pid" }] },
    })
}

fn load(config: &Value) -> Result<Spec, dunnage_spec::Error> {
    Spec::from_json(config.to_string().as_bytes(), Path::new("/bundle"), &"c1".parse().unwrap())
}

fn list(pointer: &str) -> Vec<String> {
    let list = features::document().pointer(pointer).unwrap_or(&Value::Null).clone();
    serde_json::from_value(list).unwrap()
}

fn enabled(feature: &str) -> bool {
    features::document().pointer(&format!("/linux/{feature}/enabled")).unwrap().as_bool().unwrap()
}

/// What the document lists of `candidates` is exactly what a spec may have.
fn assert_listed(pointer: &str, candidates: &[&str], config_with: impl Fn(&str) -> Value) {
    let listed = list(pointer);
    for name in &listed {
        assert!(candidates.contains(&name.as_str()), "{pointer}: {name} is not of the specification");
    }
    for name in candidates {
        let loaded = load(&config_with(name));
        assert_eq!(
            listed.iter().any(|listed| listed == name),
            loaded.is_ok(),
            "{pointer}: {name}: {loaded:?}"
        );
    }
}

#[test]
fn hooks() {
    let names = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_listed("/hooks", &names, |name| {
        let mut config = config();
        config["hooks"] = json!({ name: [{ "path": "/bin/true" }] });
        config
    });
}

#[test]
fn namespaces() {
    let kinds = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
    assert_listed("/linux/namespaces", &kinds, |kind| {
        let mut config = config();
        let mut kinds = vec![json!({ "type": kind })];
        if kind != "mount" {
            kinds.push(json!({ "type": "mount" }));
        }
        if kind == "user" {
            let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
        }
        config["linux"]["namespaces"] = kinds.into();
        config
    });
}

#[test]
fn mount_options_are_words_with_a_meaning_and_not_passed_on() {
    for option in list("/mountOptions") {
        let mut config = config();
        config["mounts"] =
            json!([{ "destination": "/m", "type": "tmpfs", "source": "/source", "options": [option] }]);
        let mounts = load(&config).unwrap_or_else(|error| panic!("{option}: {error}")).mounts;
        if let MountSource::FileSystem { options, .. } = &mounts[0].source {
            assert_eq!(options, &[], "{option}");
        }
    }
}

#[test]
fn seccomp() {
    let profile = |profile: Value| {
        let mut config = config();
        config["linux"]["seccomp"] = profile;
        config
    };
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ];
    assert_listed("/linux/seccomp/actions", &actions, |action| profile(json!({ "defaultAction": action })));

    let operators = [
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ];
    assert_listed("/linux/seccomp/operators", &operators, |operator| {
        let argument = json!({ "index": 0, "value": 1, "valueTwo": 1, "op": operator });
        let rule = json!({ "names": ["read"], "action": "SCMP_ACT_LOG", "args": [argument] });
        profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] }))
    });

    let flags = [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    assert_listed("/linux/seccomp/supportedFlags", &flags, |flag| {
        profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag] }))
    });

    for arch in list("/linux/seccomp/archs") {
        let config = profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch] }));
        assert_eq!(load(&config).unwrap().warnings, Vec::<String>::new(), "{arch}");
    }
}

#[test]
fn switches() {
    let with = |pointer: &str, value: Value| {
        let mut config = config();
        config["linux"][pointer] = value;
        load(&config).is_ok()
    };
    assert_eq!(enabled("intelRdt"), with("intelRdt", json!({ "closID": "x" })));
    assert_eq!(enabled("netDevices"), with("netDevices", json!({ "eth1": {} })));
    let mut config = config();
    let mapping = json!([{ "containerID": 0, "hostID": 1, "size": 1 }]);
    config["mounts"] = json!([{
        "destination": "/m", "source": "/m", "options": ["bind"], "uidMappings": mapping, "gidMappings": mapping,
    }]);
    assert_eq!(enabled("mountExtensions/idmap"), load(&config).is_ok());
}

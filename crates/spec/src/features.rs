//! The OCI features document: what dunnage does, for those who ask before they write a `config.json`
//! (runtime-spec, `features.md`). CRI decides by it whether a pod may have recursively read-only mounts and user
//! namespaces.
//!
//! One table for each list. `tests/features.rs` holds every table against what reading a spec accepts and
//! refuses, so neither can change alone.

use serde_json::{Value, json};

use crate::NamespaceKind;
use crate::process::Capabilities;

/// Words for the mount itself. Each with an `r` in front is for everything below as well.
const MOUNT_ATTRIBUTES: [&str; 18] = [
    "atime",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "symfollow",
];

/// Words for the propagation of a mount; each also with an `r` in front.
const PROPAGATIONS: [&str; 4] = ["private", "shared", "slave", "unbindable"];

/// Words for the file system, and for what is mounted.
const OTHER_MOUNT_OPTIONS: [&str; 14] = [
    "async",
    "bind",
    "defaults",
    "dirsync",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noiversion",
    "nolazytime",
    "nomand",
    "rbind",
    "silent",
    "sync",
];

const SECCOMP_ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const SECCOMP_OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

const SECCOMP_ARCHES: [&str; 5] =
    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];

const SECCOMP_FLAGS: [&str; 3] =
    ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"];

/// The document, ready to be printed.
#[must_use]
pub fn document() -> Value {
    let namespaces: Vec<&str> = NamespaceKind::ALL.iter().map(|kind| kind.as_str()).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": [],
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": sorted(namespaces),
            "capabilities": Capabilities::NAMES,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": SECCOMP_ARCHES,
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
            "netDevices": { "enabled": false },
        },
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

fn mount_options() -> Vec<String> {
    let twice = MOUNT_ATTRIBUTES.iter().chain(&PROPAGATIONS);
    let options = twice.flat_map(|word| [(*word).to_owned(), format!("r{word}")]);
    sorted(options.chain(OTHER_MOUNT_OPTIONS.map(str::to_owned)))
}

fn sorted<T: Ord>(list: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = list.into_iter().collect();
    list.sort_unstable();
    list
}

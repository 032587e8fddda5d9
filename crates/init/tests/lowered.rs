//! The two ends fit: a spec lowered by `dunnage-plan` is born as it says, and so is an exec into it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod container;

use std::fs;
use std::os::fd::OwnedFd;

use container::*;
use dunnage_plan::{CgroupMount, FilterCache, HostFacts, Plan, RootfsFacts, lower, lower_exec};
use dunnage_spec::{ContainerId, Process, Spec};
use dunnage_sys::pidfd::{self, Exit};
use serde_json::{Value, json};

fn host() -> HostFacts {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    HostFacts {
        last_capability: last.trim().parse().unwrap(),
        unified_cgroup: true,
        apparmor: false,
        selinux: false,
        kcore: fs::exists("/proc/kcore").unwrap(),
    }
}

fn has_v1() -> bool {
    fs::exists("/sys/fs/cgroup/pids").unwrap()
}

fn own() -> RootfsFacts {
    let pids = CgroupMount {
        name: "pids".to_owned(),
        v1_options: Some("pids".to_owned()),
        symlinks: vec!["alias".to_owned()],
        host_path: "/sys/fs/cgroup/pids".into(),
    };
    let unified = CgroupMount {
        name: String::new(),
        v1_options: None,
        symlinks: Vec::new(),
        host_path: "/sys/fs/cgroup".into(),
    };
    let cgroups = vec![if has_v1() { pids } else { unified }];
    RootfsFacts { home: None, cgroups, keyring: Some("_ses.lowered".to_owned()) }
}

/// What containerd writes, with a volume, a profile and everything in its usual place.
fn config(rootfs: &Rootfs, args: &[&str]) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": rootfs.path(), "readonly": true },
        "hostname": "lowered",
        "process": process(args, &capabilities),
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            { "destination": "/run", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/data/volume", "type": "bind", "source": "/etc/passwd",
              "options": ["rbind", "rprivate", "ro"] }
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }
            ],
            "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [
                    { "names": ["mkdir", "mkdirat", "close_range"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }
                ]
            }
        }
    })
}

fn process(args: &[&str], capabilities: &Value) -> Value {
    json!({
        "args": args,
        "env": ["PATH=/usr/bin:/bin", "GREETING=hello"],
        "cwd": "/srv/app",
        "user": { "uid": 1000, "gid": 1000, "additionalGids": [2000] },
        "noNewPrivileges": true,
        "oomScoreAdj": 500,
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }],
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities
        }
    })
}

fn spec(config: &Value) -> Spec {
    let id: ContainerId = "lowered".parse().unwrap();
    Spec::from_json(config.to_string().as_bytes(), std::path::Path::new("/"), &id).unwrap()
}

fn lowered(config: &Value) -> Plan {
    lower(&spec(config), &host(), &own(), &mut FilterCache::default()).unwrap()
}

const LOOK: &str = "hostname; id -u; id -G; pwd; cat /proc/self/oom_score_adj; ulimit -n; \
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /data/volume | grep -c ^root; \
    ls /sys/fs/cgroup | grep -xE 'alias|pids|cgroup.procs'; (echo > /x) 2>/dev/null || echo read-only; \
    /bin/busybox mkdir /run/x 2>/dev/null || echo filtered; \
    grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status";

fn seen() -> String {
    let cgroups = if has_v1() { "alias\npids" } else { "cgroup.procs" };
    format!(
        "lowered\n1000\n1000 2000\n/srv/app\n500\n512\n0\n1\n{cgroups}\nread-only\nfiltered\n\
         CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    )
}

#[test]
fn a_container_is_born_as_its_spec_says() {
    let rootfs = Rootfs::new();
    assert_eq!(output(&lowered(&config(&rootfs, &["sh", "-c", LOOK]))), seen());
}

#[test]
fn a_filter_without_no_new_privileges_is_loaded_before_the_rights_are_gone() {
    let rootfs = Rootfs::new();
    let mut config = config(&rootfs, &["sh", "-c", LOOK]);
    config["process"]["noNewPrivileges"] = false.into();
    assert_eq!(output(&lowered(&config)), seen().replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"));
}

#[test]
fn an_exec_is_born_beside_the_init() {
    let rootfs = Rootfs::new();
    let config = config(&rootfs, &["sleep", "1000"]);
    let mut newborn = spawn_plain(&lowered(&config)).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let init: OwnedFd = newborn.pidfd().try_clone_to_owned().unwrap();
    let exec = process(&["sh", "-c", LOOK], &json!(["CAP_CHOWN"]));
    let exec = Process::from_json(exec.to_string().as_bytes()).unwrap();
    let plan = lower_exec(&exec, &spec(&config), &host(), &own(), &mut FilterCache::default()).unwrap();
    let outcome = run_in(&plan, Some(&init)).unwrap();
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Status(0), ""));
    assert_eq!(outcome.stdout, seen());
    drop(newborn);
    assert_eq!(pidfd::reap(&init).unwrap_err(), dunnage_sys::Errno::CHILD);
}

#[test]
fn a_container_can_have_a_terminal_in_a_read_only_root() {
    let rootfs = Rootfs::new();
    let mut config = config(&rootfs, &["sh", "-c", "tty; echo > /dev/console"]);
    config["process"]["terminal"] = true.into();
    let mut newborn = spawn_plain(&lowered(&config)).unwrap();
    let terminal = newborn.wait_created(PATIENCE).unwrap().terminal.unwrap();
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let mut text = Vec::new();
    // EIO once the other end is closed.
    let _ = std::io::Read::read_to_end(&mut fs::File::from(terminal), &mut text);
    assert_eq!(String::from_utf8(text).unwrap(), "/dev/pts/0\r\n\r\n");
    let (_, pidfd) = newborn.release();
    assert_eq!(pidfd::reap(&pidfd).unwrap(), Exit::Status(0));
}

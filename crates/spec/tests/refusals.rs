//! One row for each thing that is refused, with the text its user reads, and for each value that looks like
//! one of those and asks for nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use dunnage_spec::{ErrorKind, Process, Resources, Spec};
use serde_json::{Value, json};

/// A small config that is good, to be spoiled one field at a time.
fn config() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs" },
        "process": { "args": ["sh"], "cwd": "/" },
        "linux": { "namespaces": [
            { "type": "mount" }, { "type": "pid" }, { "type": "uts" }, { "type": "ipc" }, { "type": "network" },
        ] },
    })
}

/// Sets `value` at a path such as `linux.namespaces.0.path`, making objects on the way.
fn set(config: &mut Value, path: &str, value: Value) {
    let target = path.split('.').fold(config, |parent, name| match name.parse::<usize>() {
        Ok(index) => &mut parent[index],
        Err(_) => &mut parent[name],
    });
    *target = value;
}

fn load(config: &Value) -> Result<Spec, (ErrorKind, String)> {
    Spec::from_json(config.to_string().as_bytes(), Path::new("/bundle"), &"c1".parse().unwrap())
        .map_err(|error| (error.kind(), error.to_string()))
}

fn with(path: &str, value: Value) -> Result<Spec, (ErrorKind, String)> {
    let mut config = config();
    set(&mut config, path, value);
    load(&config)
}

fn assert_refused(kind: ErrorKind, rows: Vec<(&str, Value, &str)>) {
    for (path, value, text) in rows {
        let (refused_kind, refused) = with(path, value).expect_err(path);
        assert_eq!((refused_kind, refused), (kind, format!("config.json: {text}")), "{path}");
    }
}

#[test]
fn the_small_config_is_good() {
    assert_eq!(load(&config()).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn features_dunnage_does_not_have_are_refused_by_name() {
    assert_refused(
        ErrorKind::Unimplemented,
        vec![
            (
                "linux.namespaces.1.type",
                json!("user"),
                "linux.namespaces[1].type: user namespaces are not supported yet",
            ),
            (
                "linux.namespaces.1.type",
                json!("time"),
                "linux.namespaces[1].type: time namespaces are not supported yet",
            ),
            (
                "linux.namespaces",
                json!([{ "type": "pid" }]),
                "linux.namespaces: containers in the host's mount namespace are not supported yet",
            ),
            (
                "linux.uidMappings",
                json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]),
                "linux.uidMappings: user namespaces are not supported yet",
            ),
            (
                "linux.gidMappings",
                json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]),
                "linux.gidMappings: user namespaces are not supported yet",
            ),
            (
                "linux.timeOffsets",
                json!({ "monotonic": { "secs": 1 } }),
                "linux.timeOffsets: time namespaces are not supported yet",
            ),
            (
                "linux.netDevices",
                json!({ "eth1": {} }),
                "linux.netDevices: network devices moved into the container are not supported yet",
            ),
            (
                "linux.intelRdt",
                json!({ "closID": "a" }),
                "linux.intelRdt: cache and memory bandwidth allocation is not supported yet",
            ),
            (
                "linux.memoryPolicy",
                json!({ "mode": "MPOL_BIND", "nodes": "0" }),
                "linux.memoryPolicy: NUMA memory policies are not supported yet",
            ),
            (
                "linux.personality",
                json!({ "domain": "LINUX32" }),
                "linux.personality: execution domains are not supported yet",
            ),
            (
                "linux.resources",
                json!({ "rdma": { "mlx5_1": {} } }),
                "linux.resources.rdma: RDMA limits are not supported yet",
            ),
            (
                "linux.resources",
                json!({ "network": { "classID": 1 } }),
                "linux.resources.network.classID: network classes are not supported yet",
            ),
            (
                "linux.resources",
                json!({ "network": { "priorities": [{ "name": "eth0", "priority": 1 }] } }),
                "linux.resources.network.priorities: network priorities are not supported yet",
            ),
            (
                "linux.resources",
                json!({ "blockIO": { "leafWeight": 10 } }),
                "linux.resources.blockIO.leafWeight: leaf weights (gone from the kernel since 5.0) are not \
                 supported yet",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_NOTIFY" }),
                "linux.seccomp.defaultAction: user-space notification is not supported yet",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s" }),
                "linux.seccomp.listenerPath: user-space notification is not supported yet",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [{ "names": ["mount"], "action": "SCMP_ACT_NOTIFY" }] }),
                "linux.seccomp.syscalls[0].action: user-space notification is not supported yet",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] }),
                "linux.seccomp.flags[0]: user-space notification is not supported yet",
            ),
            (
                "process.scheduler",
                json!({ "policy": "SCHED_FIFO" }),
                "process.scheduler: scheduling policies are not supported yet",
            ),
            (
                "process.ioPriority",
                json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }),
                "process.ioPriority: I/O priorities are not supported yet",
            ),
            (
                "process.execCPUAffinity",
                json!({ "initial": "0" }),
                "process.execCPUAffinity: CPU affinities are not supported yet",
            ),
            (
                "mounts",
                json!([{ "destination": "/a", "source": "/b", "options": ["bind", "ridmap"] }]),
                "mounts[0].options: \"ridmap\": id-mapped mounts are not supported yet",
            ),
            (
                "mounts",
                json!([{ "destination": "/a", "source": "/b", "options": ["bind"],
                         "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }] }]),
                "mounts[0].uidMappings: id-mapped mounts are not supported yet",
            ),
            (
                "mounts",
                json!([{ "destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"] }]),
                "mounts[0].options: \"tmpcopyup\": a tmpfs filled from the directory it covers is not supported yet",
            ),
            ("vm", json!({ "kernel": { "path": "/k" } }), "vm: virtual machines are not supported yet"),
        ],
    );
}

#[test]
fn hooks_of_every_kind_are_refused_by_name() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        let mut hooks = json!({});
        hooks[kind] = json!([{ "path": "/bin/true" }]);
        let text = format!("config.json: hooks.{kind}: hooks are not supported yet");
        assert_eq!(with("hooks", hooks).unwrap_err(), (ErrorKind::Unimplemented, text));
    }
}

#[test]
fn values_of_such_fields_that_ask_for_nothing_pass() {
    for (path, value) in [
        ("hooks", json!({ "prestart": [], "poststop": null })),
        ("hooks", json!(null)),
        ("vm", json!(null)),
        ("linux.uidMappings", json!([])),
        ("linux.timeOffsets", json!({ "monotonic": { "secs": 0, "nanosecs": 0 } })),
        ("linux.netDevices", json!({})),
        ("linux.intelRdt", json!({})),
        ("linux.memoryPolicy", json!({ "mode": "MPOL_DEFAULT", "nodes": "" })),
        ("linux.personality", json!({ "domain": "LINUX", "flags": [] })),
        ("linux.seccomp", json!(null)),
        ("linux.resources", json!({ "rdma": {}, "network": { "classID": 0, "priorities": null } })),
        ("linux.resources", json!({ "blockIO": { "weight": 0, "leafWeight": 0, "weightDevice": null } })),
        ("process.scheduler", json!(null)),
        ("process.execCPUAffinity", json!({ "initial": "", "final": "" })),
        ("process.env", json!(null)),
        ("process.capabilities", json!(null)),
        ("annotations", json!(null)),
        ("mounts", json!(null)),
        ("mounts", json!([{ "destination": "/a", "type": "tmpfs", "options": null, "uidMappings": [] }])),
        ("windows", json!({ "layerFolders": ["a"] })),
        ("someFutureField", json!({ "a": [1] })),
        ("linux.someFutureField", json!(true)),
    ] {
        let outcome = with(path, value);
        assert!(outcome.is_ok(), "{path}: {outcome:?}");
    }
}

#[test]
fn top_level_values_that_cannot_work_are_refused() {
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            ("ociVersion", json!(null), "ociVersion: is missing"),
            ("ociVersion", json!("2.0.0"), "ociVersion: \"2.0.0\" is not a version 1"),
            ("ociVersion", json!("1.0"), "ociVersion: \"1.0\" is no semantic version"),
            ("root", json!(null), "root: is missing"),
            ("root", json!({}), "root.path: is missing"),
            ("root.path", json!("/"), "root.path: is the root file system of the host"),
        ],
    );
}

#[test]
fn a_host_or_domain_name_needs_a_uts_namespace() {
    for field in ["hostname", "domainname"] {
        let mut config = config();
        set(&mut config, field, json!("a"));
        assert!(load(&config).is_ok());
        set(&mut config, "linux.namespaces", json!([{ "type": "mount" }]));
        let text = format!("config.json: {field}: needs a UTS namespace in linux.namespaces");
        assert_eq!(load(&config).unwrap_err(), (ErrorKind::InvalidArgument, text));
    }
    let long = "a".repeat(65);
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![("hostname", json!(long), &format!("hostname: \"{long}\" is longer than 64 bytes"))],
    );
}

#[test]
fn namespaces_that_cannot_work_are_refused() {
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            ("linux.namespaces.1", json!({}), "linux.namespaces[1].type: is missing"),
            (
                "linux.namespaces.1.type",
                json!("net"),
                "linux.namespaces[1].type: \"net\" is no kind of namespace",
            ),
            ("linux.namespaces.1.type", json!("mount"), "linux.namespaces[1].type: mount is listed twice"),
            (
                "linux.namespaces.1.path",
                json!("proc/1/ns/pid"),
                "linux.namespaces[1].path: \"proc/1/ns/pid\" is not absolute",
            ),
        ],
    );
}

#[test]
fn process_values_that_cannot_work_are_refused() {
    let limits = |a: Value, b: Value| json!([a, b]);
    let nofile = || json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 });
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            ("process.args", json!([]), "process.args: is empty"),
            ("process.args", json!(null), "process.args: is empty"),
            ("process.args", json!(["a\0b"]), "process.args[0]: has a null byte"),
            ("process.cwd", json!(null), "process.cwd: is missing"),
            ("process.cwd", json!("tmp"), "process.cwd: \"tmp\" is not absolute"),
            ("process.env", json!(["A=1", "B"]), "process.env[1]: \"B\" has no ="),
            ("process.env", json!(["=1"]), "process.env[0]: \"=1\" has no name"),
            ("process.user", json!({ "uid": u32::MAX }), "process.user.uid: 4294967295 is not an id"),
            ("process.user", json!({ "gid": u32::MAX }), "process.user.gid: 4294967295 is not an id"),
            (
                "process.user",
                json!({ "additionalGids": [0, u32::MAX] }),
                "process.user.additionalGids[1]: 4294967295 is not an id",
            ),
            (
                "process.user",
                json!({ "umask": 4096 }),
                "process.user.umask: 0o10000 has more than permission bits",
            ),
            ("process.oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
            (
                "process.rlimits",
                limits(nofile(), nofile()),
                "process.rlimits[1].type: RLIMIT_NOFILE is listed twice",
            ),
            (
                "process.rlimits",
                json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]),
                "process.rlimits[0].soft: 2 is above the hard limit 1",
            ),
            (
                "process.rlimits",
                json!([{ "type": "NOFILE", "soft": 1, "hard": 1 }]),
                "process.rlimits[0].type: \"NOFILE\" is no resource limit",
            ),
        ],
    );
}

#[test]
fn an_id_that_does_not_fit_is_refused_with_its_field() {
    let (kind, text) = with("process.user", json!({ "uid": 4_294_967_296_u64 })).unwrap_err();
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(
        text.starts_with("config.json: process.user.uid: invalid value: integer `4294967296`, expected u32"),
        "{text}"
    );
    let (_, text) = with("process.user", json!({ "uid": -1 })).unwrap_err();
    assert!(
        text.starts_with("config.json: process.user.uid: invalid value: integer `-1`, expected u32"),
        "{text}"
    );
}

#[test]
fn mounts_that_cannot_work_are_refused() {
    let mount = |mount: Value| json!([mount]);
    let proc = |path: &str| {
        (
            json!([{ "destination": path, "type": "tmpfs" }]),
            format!("mounts[0].destination: {path:?} is inside /proc, where only procfs may be mounted"),
        )
    };
    let (over_proc, over_proc_text) = proc("/proc");
    let (in_proc, in_proc_text) = proc("/proc/self/attr");
    let (odd_path, _) = proc("/a/../proc//sys");
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            ("mounts", mount(json!({ "type": "tmpfs" })), "mounts[0].destination: is missing"),
            (
                "mounts",
                mount(json!({ "destination": "/a/..", "type": "tmpfs" })),
                "mounts[0].destination: \"/a/..\" is the root file system itself",
            ),
            (
                "mounts",
                mount(json!({ "destination": "/a" })),
                "mounts[0].type: is missing, and the options ask for no bind",
            ),
            ("mounts", mount(json!({ "destination": "/a", "type": "bind" })), "mounts[0].source: is missing"),
            (
                "mounts",
                mount(json!({ "destination": "/a", "source": "/b", "options": ["rbind", "size=1"] })),
                "mounts[0].options: \"size\" has no meaning for a bind mount",
            ),
            (
                "mounts",
                mount(json!({ "destination": "/a", "type": "tmpfs", "options": ["=1"] })),
                "mounts[0].options: \"=1\" has no name",
            ),
            ("mounts", over_proc, &over_proc_text),
            ("mounts", in_proc, &in_proc_text),
            (
                "mounts",
                odd_path,
                "mounts[0].destination: \"/proc/sys\" is inside /proc, where only procfs may be mounted",
            ),
        ],
    );
}

#[test]
fn mounts_that_images_depend_on_pass() {
    for mount in [
        json!({ "destination": "data", "type": "tmpfs" }),
        json!({ "destination": "/proc", "type": "proc" }),
        json!({ "destination": "/proc", "source": "/proc", "options": ["rbind"] }),
        json!({ "destination": "/proc/cpuinfo", "source": "/var/lib/lxcfs/proc/cpuinfo", "options": ["bind"] }),
        json!({ "destination": "/processes", "type": "tmpfs" }),
    ] {
        assert!(with("mounts", json!([mount])).is_ok(), "{mount}");
    }
}

#[test]
fn sysctls_that_would_change_the_host_are_refused() {
    let one = |key: &str| {
        let mut sysctl = json!({});
        sysctl[key] = json!("1");
        with("linux.sysctl", sysctl)
    };
    for key in ["net.core.somaxconn", "kernel.shmmax", "kernel/sem", "fs.mqueue.msg_max", "kernel.domainname"]
    {
        assert!(one(key).is_ok(), "{key}");
    }
    for (key, reason) in [
        ("kernel.hostname", "is set by the field hostname"),
        ("kernel.core_pattern", "belongs to no namespace: it would change the host"),
        ("net", "belongs to no namespace: it would change the host"),
        ("vm.swappiness", "belongs to no namespace: it would change the host"),
        ("net/../kernel/core_pattern", "is no name of a kernel parameter"),
        ("net..core", "is no name of a kernel parameter"),
        ("", "is no name of a kernel parameter"),
    ] {
        let (kind, text) = one(key).unwrap_err();
        let field = if key.is_empty() { "linux.sysctl".to_owned() } else { format!("linux.sysctl.{key}") };
        assert_eq!((kind, text), (ErrorKind::InvalidArgument, format!("config.json: {field}: {reason}")));
    }
    assert_eq!(one("user.max_user_namespaces").unwrap_err().0, ErrorKind::Unimplemented);
    let twice = json!({ "net.core.somaxconn": "1", "net/core/somaxconn": "2" });
    assert!(with("linux.sysctl", twice).unwrap_err().1.ends_with("is listed twice, in two ways of writing"));
}

#[test]
fn sysctls_need_the_namespace_they_belong_to() {
    for (key, kind) in
        [("net.core.somaxconn", "network"), ("kernel.sem", "ipc"), ("kernel.domainname", "uts")]
    {
        let mut config = config();
        set(&mut config, "linux", json!({ "namespaces": [{ "type": "mount" }], "sysctl": { key: "1" } }));
        let text = format!("config.json: linux.sysctl.{key}: needs a {kind} namespace in linux.namespaces");
        assert_eq!(load(&config).unwrap_err(), (ErrorKind::InvalidArgument, text));
    }
}

#[test]
fn other_linux_values_that_cannot_work_are_refused() {
    let device =
        |kind: &str, major: i64| json!([{ "path": "/dev/a", "type": kind, "major": major, "minor": 0 }]);
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            (
                "linux.rootfsPropagation",
                json!("rlsave"),
                "linux.rootfsPropagation: \"rlsave\" is no propagation",
            ),
            ("linux.maskedPaths", json!(["/a", "b"]), "linux.maskedPaths[1]: \"b\" is not absolute"),
            (
                "linux.readonlyPaths",
                json!(["/."]),
                "linux.readonlyPaths[0]: \"/.\" is the root file system itself",
            ),
            ("linux.cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath: \"/a/../../b\" has a .."),
            ("linux.devices", device("x", 1), "linux.devices[0].type: \"x\" is none of c, u, b and p"),
            ("linux.devices", device("c", -1), "linux.devices[0].major: -1 is not between 0 and 4095"),
            ("linux.devices", device("b", 4096), "linux.devices[0].major: 4096 is not between 0 and 4095"),
            (
                "linux.devices",
                json!([{ "path": "dev/a", "type": "p" }]),
                "linux.devices[0].path: \"dev/a\" is not absolute",
            ),
        ],
    );
}

#[test]
fn seccomp_values_that_cannot_work_are_refused() {
    let rule = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let condition = |condition: Value| {
        rule(json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [condition] }))
    };
    assert_refused(
        ErrorKind::InvalidArgument,
        vec![
            ("linux.seccomp", json!({}), "linux.seccomp.defaultAction: is missing"),
            (
                "linux.seccomp",
                json!({ "defaultAction": "ALLOW" }),
                "linux.seccomp.defaultAction: \"ALLOW\" is no action",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }),
                "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }),
                "linux.seccomp.defaultErrnoRet: 4096 is above 4095",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X86"] }),
                "linux.seccomp.architectures[0]: \"X86\" is no architecture",
            ),
            (
                "linux.seccomp",
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["LOG"] }),
                "linux.seccomp.flags[0]: \"LOG\" is no flag",
            ),
            (
                "linux.seccomp",
                rule(json!({ "names": [], "action": "SCMP_ACT_ERRNO" })),
                "linux.seccomp.syscalls[0].names: is empty",
            ),
            (
                "linux.seccomp",
                rule(json!({ "names": ["read"] })),
                "linux.seccomp.syscalls[0].action: is missing",
            ),
            (
                "linux.seccomp",
                condition(json!({ "index": 6, "op": "SCMP_CMP_EQ" })),
                "linux.seccomp.syscalls[0].args[0].index: 6 is not between 0 and 5",
            ),
            (
                "linux.seccomp",
                condition(json!({ "index": 0, "op": "EQ" })),
                "linux.seccomp.syscalls[0].args[0].op: \"EQ\" is no comparison",
            ),
        ],
    );
}

#[test]
fn resources_that_cannot_work_are_refused() {
    let rule = |rule: Value| json!({ "devices": [rule] });
    for (resources, text) in [
        (json!({ "cpu": { "quota": 999 } }), "cpu.quota: 999 is below 1000 microseconds"),
        (json!({ "cpu": { "period": 999 } }), "cpu.period: 999 is not between 1000 and 1000000 microseconds"),
        (json!({ "cpu": { "idle": 2 } }), "cpu.idle: 2 is neither 0 nor 1"),
        (json!({ "cpu": { "cpus": "0-a" } }), "cpu.cpus: \"0-a\" is no list such as 0-3,7"),
        (json!({ "memory": { "limit": -2 } }), "memory.limit: -2 is neither a size nor -1"),
        (json!({ "memory": { "swap": 1 } }), "memory.swap: has no meaning without a memory limit"),
        (
            json!({ "memory": { "limit": 2, "swap": 1 } }),
            "memory.swap: 1 is below the memory limit 2, which it includes",
        ),
        (
            json!({ "memory": { "limit": -1, "swap": 1 } }),
            "memory.swap: 1 is below the memory limit, which it includes and which is none",
        ),
        (json!({ "memory": { "swappiness": 101 } }), "memory.swappiness: 101 is not between 0 and 100"),
        (json!({ "blockIO": { "weight": 9 } }), "blockIO.weight: 9 is not between 10 and 1000"),
        (
            json!({ "blockIO": { "weightDevice": [{ "major": 8, "minor": 0, "weight": 1001 }] } }),
            "blockIO.weightDevice[0].weight: 1001 is not between 10 and 1000",
        ),
        (
            json!({ "blockIO": { "throttleReadIOPSDevice": [{ "major": 8, "minor": -1, "rate": 1 }] } }),
            "blockIO.throttleReadIOPSDevice[0].minor: -1 is not between 0 and 1048575",
        ),
        (
            json!({ "hugepageLimits": [{ "pageSize": "2M", "limit": 1 }] }),
            "hugepageLimits[0].pageSize: \"2M\" is no size such as 2MB",
        ),
        (json!({ "unified": { "../a": "1" } }), "unified: \"../a\" is no file name"),
        (rule(json!({ "type": "p" })), "devices[0].type: \"p\" is none of a, c, u and b"),
        (
            rule(json!({ "type": "a", "major": 1 })),
            "devices[0].type: a rule for all kinds of devices cannot have numbers",
        ),
        (rule(json!({ "access": "rx" })), "devices[0].access: 'x' is none of r, w and m"),
    ] {
        let error = Resources::from_json(resources.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("resources: {text}"));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn an_exec_is_checked_like_the_first_process() {
    let error = Process::from_json(br#"{"args":["sh"],"cwd":"x"}"#).unwrap_err();
    assert_eq!(error.to_string(), "process: cwd: \"x\" is not absolute");
    let error = Process::from_json(br#"{"args":"sh"}"#).unwrap_err();
    let text = "process: args: invalid type: string \"sh\", expected a sequence at line 1 column 12";
    assert_eq!(error.to_string(), text);
}

//! Bundles in, printed plans out. `INSTA_UPDATE=always cargo nextest run -p dunnage-plan` writes them anew;
//! then read the difference.

mod fixture;

use dunnage_plan::Plan;
use fixture::{CRI_APP, CRI_PAUSE, CTR_RUN, MINIMAL, edited, lower, lower_exec, parsed, v1, v2};

/// The length of a filter is the compiler's business and not part of the order.
fn printed(plan: &Plan) -> String {
    let without_length = |line: &str| match line.split_once("seccomp filter of ") {
        Some((before, after)) => {
            let (_, why) = after.split_once("  ").unwrap_or_default();
            format!("{before}seccomp filter of N instructions  {}\n", why.trim_start())
        }
        None => format!("{line}\n"),
    };
    plan.to_string().lines().map(without_length).collect()
}

macro_rules! golden {
    ($name:ident, $plan:expr) => {
        #[test]
        fn $name() {
            let mut settings = insta::Settings::clone_current();
            settings.set_snapshot_path("golden");
            settings.set_prepend_module_to_snapshot(false);
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(stringify!($name), printed(&$plan)));
        }
    };
}

golden!(minimal_on_v1, lower(&parsed(MINIMAL), &v1()));
golden!(cri_pause_on_v1, lower(&parsed(CRI_PAUSE), &v1()));
golden!(cri_app_on_v1, lower(&parsed(CRI_APP), &v1()));
golden!(
    cri_app_on_v2,
    lower(
        &edited(
            CRI_APP,
            &[
                ("/linux/namespaces/-", r#"{"type": "cgroup"}"#),
                ("/process/apparmorProfile", r#""cri-containerd.apparmor.d""#),
            ]
        ),
        &v2()
    )
);
golden!(ctr_run_on_v1, lower(&parsed(CTR_RUN), &v1()));
golden!(ctr_run_with_a_terminal, {
    let size = ("/process/consoleSize", r#"{"height": 24, "width": 80}"#);
    lower(&edited(CTR_RUN, &[("/process/terminal", "true"), size]), &v2())
});
golden!(own_cgroup_namespace_on_v1, {
    lower(&edited(CRI_APP, &[("/linux/namespaces/-", r#"{"type": "cgroup"}"#)]), &v1())
});
golden!(no_cgroup_namespace_on_v2, lower(&parsed(CRI_APP), &v2()));
golden!(readonly_root_and_tmpfs, {
    let tmpfs = r#"{"destination": "/tmp", "type": "tmpfs", "options": ["ro", "nodev"]}"#;
    lower(&edited(CTR_RUN, &[("/root/readonly", "true"), ("/mounts/-", tmpfs)]), &v2())
});
golden!(joined_namespaces, {
    let namespaces = r#"[
        {"type": "mount"},
        {"type": "pid", "path": "/proc/7/ns/pid"},
        {"type": "network", "path": "/proc/7/ns/net"},
        {"type": "ipc", "path": "/proc/7/ns/ipc"},
        {"type": "uts", "path": "/proc/7/ns/uts"},
        {"type": "cgroup", "path": "/proc/7/ns/cgroup"}
    ]"#;
    lower(&edited(MINIMAL, &[("/linux/namespaces", namespaces)]), &v1())
});
golden!(joined_mount_namespace, {
    let namespaces = r#"[{"type": "pid"}, {"type": "mount", "path": "/proc/7/ns/mnt"}]"#;
    lower(&edited(MINIMAL, &[("/linux/namespaces", namespaces)]), &v2())
});
golden!(host_network, {
    let namespaces = r#"[{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}]"#;
    let sys = r#"{"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "rro"]}"#;
    lower(&edited(CTR_RUN, &[("/linux/namespaces", namespaces), ("/mounts/5", sys)]), &v2())
});
golden!(volumes_in_both_directions, {
    let volume = r#"{"destination": "/data", "type": "bind", "source": "/srv/data",
        "options": ["rbind", "rshared", "noexec", "dev", "relatime"]}"#;
    lower(
        &edited(
            MINIMAL,
            &[("/mounts", &format!("[{volume}]")), ("/linux/rootfsPropagation", r#""rshared""#)],
        ),
        &v2(),
    )
});
golden!(devices_and_labels, {
    let devices = r#"[
        {"type": "c", "path": "/dev/null", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0},
        {"type": "b", "path": "/dev/disk/data", "major": 8, "minor": 16, "fileMode": 384, "uid": 0, "gid": 6},
        {"type": "p", "path": "/dev/news", "fileMode": 384, "uid": 1, "gid": 1},
        {"type": "c", "path": "/dev/ptmx", "major": 5, "minor": 2}
    ]"#;
    let host = dunnage_plan::HostFacts { selinux: true, ..v2() };
    let label = |pointer| (pointer, r#""system_u:object_r:container_file_t:s0:c1,c2""#);
    let edits = [("/linux/devices", devices), label("/linux/mountLabel"), label("/process/selinuxLabel")];
    lower(&edited(CTR_RUN, &edits), &host)
});
golden!(no_process, lower(&edited(CTR_RUN, &[("/process", "null")]), &v1()));

const EXEC: &str = r#"{"args": ["/bin/sh", "-c", "exit 3"], "cwd": "/tmp", "noNewPrivileges": true,
    "user": {"uid": 1000, "gid": 1000}, "env": ["HOME="], "oomScoreAdj": 985}"#;

golden!(exec_on_v1, lower_exec(EXEC, &parsed(CRI_APP), &v1()));
golden!(exec_with_a_terminal_on_v2, {
    let process = r#"{"args": ["sh"], "cwd": "/", "terminal": true, "apparmorProfile": "tight"}"#;
    let spec = edited(CRI_APP, &[("/linux/namespaces/-", r#"{"type": "cgroup"}"#)]);
    lower_exec(process, &spec, &v2())
});
golden!(exec_in_a_joined_mount_namespace, {
    let namespaces = r#"[{"type": "mount", "path": "/proc/7/ns/mnt"}]"#;
    lower_exec(EXEC, &edited(MINIMAL, &[("/linux/namespaces", namespaces)]), &v2())
});

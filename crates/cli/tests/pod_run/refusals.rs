//! Runs that cannot be: each says why, and leaves nothing, however far it had got.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::world::World;

const POD: &str =
    "  restartPolicy: Never\n  containers: [{name: c, image: 'rootfs:root', command: [/bin/true]}]\n";

#[test]
fn faults_of_the_manifest_come_with_line_column_and_path() {
    let world = World::new();
    let spec =
        "  containers:\n    - name: c\n      image: nginx:1.27\n      resources: {limits: {cpu: lots}}\n";
    let file = world.path("pod.yaml").display().to_string();
    world
        .run(spec)
        .ended_with(1)
        .says(&format!("{file}:8:33: spec.containers[0].resources.limits.cpu: `lots` is no quantity"))
        .says("spec.restartPolicy: must be stated");
    let spec = "  restartPolicy: Never\n  containers:\n    - name: c\n      image: nginx:1.27\n";
    world
        .run(spec)
        .ended_with(1)
        .says(&format!("{file}:8:14: spec.containers[0].image: `nginx:1.27` names an image in a registry"));
}

#[test]
fn what_the_machine_does_not_have_is_named() {
    let world = World::new();
    let volume = |source: &str| {
        POD.replace("  containers", &format!("  volumes: [{{name: v, {source}}}]\n  containers"))
    };
    world
        .run(&volume("hostPath: {path: /etc/passwd, type: Directory}"))
        .ended_with(1)
        .says("volume v: hostPath /etc/passwd: is not a directory");
    world.run_with(POD, Path::new("/none")).ended_with(1).says("/none: no such file");
    let user = POD.replace("command:", "securityContext: {runAsNonRoot: true}, command:");
    world.run(&user).ended_with(125).says("runAsNonRoot: the container would run as root");
}

#[test]
fn a_shim_that_fails_is_quoted() {
    let world = World::new();
    let shim = world.path("shim");
    let write = |script: &str| {
        std::fs::write(&shim, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let run = |script: &str| {
        write(script);
        world.run_with(POD, &shim)
    };
    let only_start = "case \"$*\" in *delete) exit 0;; esac\n";
    run(&format!("{only_start}echo out of luck >&2; exit 3")).ended_with(1).says("out of luck");
    run(&format!("{only_start}echo nonsense")).ended_with(1).says("is no unix:// address");
    run(&format!("{only_start}echo unix:///none")).ended_with(1).says("connect to the shim at /none");
}

#[test]
fn mounts_that_cannot_be_are_refused_by_name() {
    let world = World::new();
    let spec = POD
        .replace("  containers", "  volumes: [{name: v}]\n  containers")
        .replace("command:", "volumeMounts: [{name: v, mountPath: /bin/busybox}], command:");
    world.run(&spec).ended_with(125).says("could not be started (125)");
}

#[test]
fn a_host_port_that_is_taken_is_refused() {
    let world = World::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let with_port = |name: &str, line: &str| {
        format!(
            "  restartPolicy: Never\n  containers: [{{name: {name}, image: 'rootfs:root', ports: [{{containerPort: \
             7000, hostPort: {port}}}], command: [/bin/sh, -c, {line:?}]}}]\n"
        )
    };
    let first = world
        .start(&with_port("a", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"), "a | ready");
    let other = World::new();
    other.run(&with_port("b", "true")).ended_with(1).says("attach the pod to the local network");
    first.signal("TERM");
    first.end().ended_with(143);
    world.census();
}

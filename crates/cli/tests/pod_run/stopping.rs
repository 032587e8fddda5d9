//! Signals to the run, and runs that were killed.

use crate::world::{World, processes_with, until};

/// A container that says when it is ready and what it was told.
fn polite(grace: u32) -> String {
    let line = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    format!(
        "  restartPolicy: OnFailure\n  terminationGracePeriodSeconds: {grace}\n  containers: [{{name: c, image: \
         'rootfs:root', command: [/bin/sh, -c, {line:?}]}}]\n"
    )
}

/// One that does not listen.
fn deaf(grace: u32) -> String {
    let line = "trap 'echo told' TERM; echo ready; while :; do sleep 0.05; done";
    format!(
        "  restartPolicy: Never\n  terminationGracePeriodSeconds: {grace}\n  containers: [{{name: c, image: \
         'rootfs:root', command: [/bin/sh, -c, {line:?}]}}]\n"
    )
}

#[test]
fn the_first_signal_asks_and_the_run_has_its_code() {
    let world = World::new();
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let run = world.start(&polite(60), "c | ready");
        run.signal(signal);
        // Asked, ended, and not run again.
        let run = run.end().ended_with(code).prints("c | told").says("ended with 5");
        assert!(!run.stderr.contains("runs again"));
        world.census();
    }
}

#[test]
fn whoever_does_not_listen_is_killed_after_the_grace_period() {
    let world = World::new();
    let run = world.start(&deaf(1), "c | ready");
    run.signal("TERM");
    run.end().ended_with(143).prints("c | told").says("ended with 137: killed by SIGKILL");
    world.census();
}

#[test]
fn the_second_signal_kills_at_once() {
    let world = World::new();
    let run = world.start(&deaf(3600), "c | ready");
    run.signal("INT");
    until("the container to be asked", || run.printed().contains("c | told"));
    run.signal("INT");
    run.end().ended_with(130).says("killed by SIGKILL");
    world.census();
}

#[test]
fn the_signal_of_the_image_is_not_needed_for_containers_that_share_processes() {
    let world = World::new();
    let spec = polite(60).replace("  restartPolicy", "  shareProcessNamespace: true\n  restartPolicy");
    let run = world.start(&spec, "c | ready");
    run.signal("TERM");
    run.end().ended_with(143).prints("c | told");
    world.census();
}

#[test]
fn a_run_that_was_killed_is_removed_by_clean_and_by_the_next_run() {
    let world = World::new();
    for clean in [true, false] {
        let mut run = world.start(&deaf(60), "c | ready");
        run.child.kill().unwrap();
        run.child.wait().unwrap();
        let root = world.root().display().to_string();
        assert!(!world.cgroups().is_empty() && !processes_with(&root).is_empty(), "the pod should run on");
        if clean {
            let output = world.dunnage(&["pod", "clean", "--root"]).arg(world.root()).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "removed what pod test had left\n");
            world.census();
        } else {
            let spec = "  restartPolicy: Never\n  containers: [{name: c, image: 'rootfs:root', command: [/bin/true]}]\n";
            world.run(spec).ended_with(0).says("removed what pod test had left");
        }
    }
}

#[test]
fn a_living_run_is_left_alone_by_clean() {
    let world = World::new();
    let run = world.start(&polite(60), "c | ready");
    let output = world.dunnage(&["pod", "clean", "--root"]).arg(world.root()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    run.signal("TERM");
    run.end().ended_with(143).prints("c | told");
    world.census();
}

#[test]
fn a_shim_that_is_killed_ends_the_run_and_leaves_nothing() {
    let world = World::new();
    let run = world.start(&deaf(60), "c | ready");
    let said = run.said();
    let pid = said.split("shim pid ").nth(1).unwrap().split(',').next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
    run.end().ended_with(1).says("connection closed");
    world.census();
}

#[test]
fn a_pod_without_its_sandbox_ends() {
    let world = World::new();
    let run = world.start(&deaf(60), "c | ready");
    let said = run.said();
    let pid = said.split("sandbox  pid ").nth(1).unwrap().split(',').next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
    run.end().ended_with(137).says("the sandbox has ended");
    world.census();
}

#[test]
fn a_run_whose_output_nobody_reads_goes_on_to_its_end() {
    use std::io::Read;
    let world = World::new();
    let marker = world.path("marker");
    let pod = format!("  volumes: [{{name: h, hostPath: {{path: {}}}}}]\n", marker.display());
    let line = "for i in 1 2 3 4 5; do echo $i; echo $i >&2; sleep 0.1; done; touch /v/done";
    let spec = format!(
        "  restartPolicy: Never\n{pod}  containers: [{{name: c, image: 'rootfs:root', volumeMounts: [{{name: h, \
         mountPath: /v}}], command: [/bin/sh, -c, {line:?}]}}]\n"
    );
    let mut child = world.piped(&spec);
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert!(marker.join("done").exists());
    world.census();
}

//! From start to end: order, output, codes, retries.

use crate::world::World;

/// One container that runs a shell line. `$$` is a `$` to Kubernetes.
fn shell(name: &str, line: &str) -> String {
    format!("{{name: {name}, image: 'rootfs:root', command: [/bin/sh, -c, {line:?}]}}")
}

#[test]
fn containers_of_a_pod_find_each_other_on_localhost_and_share_a_host_name() {
    let world = World::new();
    let server = shell("server", "hostname; nc -l -p 7000 < /etc/hostname; echo served");
    let client = shell("client", "hostname; until nc 127.0.0.1 7000 2>/dev/null; do sleep 0.05; done");
    let spec = format!("  restartPolicy: Never\n  hostname: shared\n  containers: [{server}, {client}]\n");
    let run =
        world.run(&spec).ended_with(0).says("pod test: BestEffort, 2 containers").says("pod test: succeeded");
    let mut lines: Vec<&str> = run.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["client | shared", "client | shared", "server | served", "server | shared"]);
}

#[test]
fn the_code_is_that_of_the_container_that_failed_first_in_time() {
    let world = World::new();
    let late = shell("late", "sleep 1; exit 7");
    let early = shell("early", "exit 3");
    let spec = format!("  restartPolicy: Never\n  containers: [{late}, {early}]\n");
    world
        .run(&spec)
        .ended_with(3)
        .says("early    ended with 3: the program's own code")
        .says("late     ended with 7")
        .says("pod test: failed");
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_be_run_is_126() {
    let world = World::new();
    std::fs::write(world.path("root/plain"), "no program").unwrap();
    for (program, code) in [("/none", 127), ("no-such-program", 127), ("/plain", 126)] {
        let spec = format!(
            "  restartPolicy: Never\n  containers: [{{name: c, image: 'rootfs:root', command: [{program}]}}]\n"
        );
        world.run(&spec).ended_with(code).says(&format!("could not be started ({code})"));
    }
}

#[test]
fn a_kill_for_memory_is_told_from_any_other_kill() {
    let world = World::new();
    let hog = "{name: hog, image: 'rootfs:root', command: [/bin/sh, -c, \"tail /dev/zero\"], \
               resources: {limits: {memory: 8Mi}}}";
    let spec = |container: &str| format!("  restartPolicy: Never\n  containers: [{container}]\n");
    // PID 1 cannot kill itself, so its child does, and the shell hands the code on.
    world.run(&spec(hog)).ended_with(137).says("OOMKilled");
    let killed = world
        .run(&spec(&shell("c", "sh -c 'kill -9 $$$$'; exit $?")))
        .ended_with(137)
        .says("killed by SIGKILL");
    assert!(!killed.stderr.contains("OOMKilled"));
    world.run(&spec(&shell("c", "sh -c 'kill -15 $$$$'; exit $?"))).ended_with(143).says("killed by SIGTERM");
}

#[test]
fn init_containers_run_one_by_one_before_the_others() {
    let world = World::new();
    let with_volume =
        |container: &str| container.replace("command:", "volumeMounts: [{name: v, mountPath: /v}], command:");
    let first = with_volume(&shell("first", "sleep 0.3; echo first >> /v/log"));
    let second = with_volume(&shell("second", "echo second >> /v/log"));
    let main = with_volume(&shell("main", "cat /v/log"));
    let spec = format!(
        "  restartPolicy: Never\n  volumes: [{{name: v, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}]\n  \
         initContainers: [{first}, {second}]\n  containers: [{main}]\n"
    );
    let run = world.run(&spec).ended_with(0);
    assert_eq!(run.stdout, "main   | first\nmain   | second\n");
    let failing = spec.replace("echo second >> /v/log", "exit 4");
    let failed = world.run(&failing).ended_with(4).says("the pod's containers are not started");
    assert_eq!(failed.stdout, "");
}

#[test]
fn a_container_that_fails_runs_again_until_it_succeeds() {
    let world = World::new();
    let line = "echo try; echo x >> /v/tries; test $(wc -l < /v/tries) = 3";
    let container =
        shell("c", line).replace("command:", "volumeMounts: [{name: v, mountPath: /v}], command:");
    let spec = format!(
        "  restartPolicy: OnFailure\n  volumes: [{{name: v, emptyDir: {{}}}}]\n  containers: [{container}]\n"
    );
    let run = world.run(&spec).ended_with(0).says("runs again in 1.0 s").says("runs again in 2.0 s");
    assert_eq!(run.stdout, "c | try\n".repeat(3));
}

#[test]
fn output_goes_to_the_stream_it_came_from_by_lines() {
    let world = World::new();
    let line = "printf 'one\\ntwo'; echo err >&2; head -c 100000 /dev/zero | tr '\\0' x; echo; echo last";
    let run = world
        .run(&format!("  restartPolicy: Never\n  containers: [{}]\n", shell("c", line)))
        .ended_with(0)
        .says("\nc | err\n");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!((lines[0], *lines.last().unwrap()), ("c | one", "c | last"));
    let long: usize = run.stdout.matches('x').count();
    assert_eq!(long, 100_000);
}

#[test]
fn what_is_printed_about_a_container_is_true() {
    let world = World::new();
    let line = "cat /proc/self/cgroup; cat /proc/self/oom_score_adj; sleep 0.2";
    let container = shell("c", line).replace(
        "command:",
        "resources: {requests: {memory: 64Mi}, limits: {cpu: 250m, memory: 64Mi}}, command:",
    );
    let other = shell("other", "true");
    let spec = format!("  restartPolicy: Never\n  containers: [{container}, {other}]\n");
    let run = world
        .run(&spec)
        .ended_with(0)
        .says("pod test: Burstable")
        .says("cpu 256 shares, at most 250m; memory at most 64Mi");
    let cgroup = run.stderr.lines().find_map(|line| line.trim().strip_prefix("cgroup ")).unwrap();
    assert!(cgroup.starts_with(&format!("{}/kubepods/burstable/pod", world.cgroup_root())), "{cgroup}");
    assert!(run.stdout.contains(cgroup), "{cgroup} is not in {}", run.stdout);
    let score =
        run.stdout.lines().filter_map(|line| line.strip_prefix("c     | ")?.parse::<i32>().ok()).next();
    assert!(run.stderr.contains(&format!("oom_score_adj {}", score.unwrap())), "{score:?} {}", run.stderr);
}

#[test]
fn two_pods_run_side_by_side() {
    let (one, two) = (World::new(), World::new());
    let spec = |name: &str| {
        let line = format!("nc -l -p 7000 & echo {name}; sleep 1");
        format!("  restartPolicy: Never\n  containers: [{}]\n", shell(name, &line))
    };
    let first = one.start(&spec("one"), "one | one");
    two.run(&spec("two")).ended_with(0).prints("two | two");
    first.end().ended_with(0);
    one.census();
}

#[test]
fn containerds_own_shim_runs_the_same_pod() {
    // Another implementation of the protocol, of the time before BootstrapParams, and of the bundles: runc.
    let world = World::new();
    let line = "id -u; cat /proc/self/oom_score_adj; grep -c Seccomp:.2 /proc/self/status; exit 3";
    let container = shell("c", line).replace("command:", "securityContext: {runAsUser: 1000}, command:");
    let spec = format!("  restartPolicy: Never\n  containers: [{container}]\n");
    let reference = world.run_with(&spec, "/usr/bin/containerd-shim-runc-v2".as_ref()).ended_with(3);
    let ours = world.run(&spec).ended_with(3);
    assert_eq!(reference.stdout, ours.stdout);
    assert!(ours.stdout.starts_with("c | 1000\n"), "{}", ours.stdout);
    // The reference shim keeps a directory for each namespace.
    for left in ["/run/containerd/runc/dunnage", "/run/containerd/runc"] {
        let _ = std::fs::remove_dir(left);
    }
}

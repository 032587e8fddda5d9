//! What the manifest says about rights, namespaces, limits and volumes, seen from inside.

use crate::world::World;

/// Runs one line in one container with these fields; gives what it printed, without the prefix.
fn inside(world: &World, pod: &str, fields: &str, line: &str) -> String {
    let spec = format!(
        "  restartPolicy: Never\n{pod}  containers: [{{name: c, image: 'rootfs:root', {fields} command: [/bin/sh, -c, \
         {line:?}]}}]\n"
    );
    let run = world.run(&spec).ended_with(0);
    run.stdout.lines().map(|line| line.strip_prefix("c | ").unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_container_has_the_default_rights_and_no_more() {
    let world = World::new();
    let status = "grep -E 'CapEff|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status; mount -t tmpfs x /mnt 2>&1; \
                  unshare -U true 2>&1; ls /proc/kcore -l | cut -c1-10; echo x > /proc/sys/kernel/hostname; true";
    std::fs::create_dir(world.path("root/mnt")).unwrap();
    let seen = inside(&world, "", "", status);
    assert!(seen.contains("CapEff:\t00000000a80425fb"), "{seen}");
    assert!(seen.contains("CapAmb:\t0000000000000000") && seen.contains("Seccomp:\t2"), "{seen}");
    assert!(seen.contains("NoNewPrivs:\t0"), "{seen}");
    assert!(seen.contains("mount: permission denied") && seen.contains("unshare: "), "{seen}");
}

#[test]
fn rights_are_dropped_and_added_as_asked() {
    let world = World::new();
    let fields = "securityContext: {runAsUser: 1000, runAsGroup: 1001, allowPrivilegeEscalation: false, \
                  readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}},";
    let line = "id -u; id -g; id -G; grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /x 2>&1; true";
    let seen =
        inside(&world, "  securityContext: {fsGroup: 2000, supplementalGroups: [3000]}\n", fields, line);
    assert!(seen.starts_with("1000\n1001\n1001 2000 3000\n"), "{seen}");
    assert!(seen.contains("CapBnd:\t0000000000000000") && seen.contains("NoNewPrivs:\t1"), "{seen}");
    assert!(seen.contains("Read-only file system"), "{seen}");
    let one = "securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}},";
    assert!(inside(&world, "", one, "grep CapEff /proc/self/status").contains("0000000000000400"));
}

#[test]
fn without_a_profile_nothing_is_filtered() {
    let world = World::new();
    let fields = "securityContext: {seccompProfile: {type: Unconfined}},";
    assert!(inside(&world, "", fields, "grep Seccomp: /proc/self/status").contains("Seccomp:\t0"));
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
    std::fs::write(world.path("no-mkdir.json"), profile).unwrap();
    let fields = "securityContext: {seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}},";
    assert!(inside(&world, "", fields, "mkdir /x 2>&1; true").contains("Function not implemented"));
}

#[test]
fn processes_are_private_unless_the_pod_shares_them() {
    let world = World::new();
    let line = "echo pid $$$$; ls /proc | grep -c '^[0-9]'";
    assert!(inside(&world, "", "", line).starts_with("pid 1\n"));
    // The holder of the namespaces is PID 1 then, and buries orphans.
    let line = "cat /proc/1/comm; (sleep 0.1 & ) ; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status; true";
    let shared = inside(&world, "  shareProcessNamespace: true\n", "", line);
    assert_eq!(shared, "pause");
}

#[test]
fn limits_hold_inside_and_are_written_where_the_kubelet_writes_them() {
    let world = World::new();
    let fields = "resources: {limits: {cpu: 500m, memory: 32Mi}},";
    // The container's own cgroup is what /sys/fs/cgroup shows; the pod's is above it and not seen.
    let line = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us \
                /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max 2>/dev/null; true";
    let seen = inside(&world, "", fields, line);
    assert!(seen == "33554432\n50000\n512" || seen == "33554432\n50000 100000", "{seen}");
}

#[test]
fn volumes_are_shared_between_containers_and_with_the_host() {
    let world = World::new();
    std::fs::create_dir(world.path("data")).unwrap();
    std::fs::write(world.path("data/in"), "from the host").unwrap();
    let pod = format!("  volumes: [{{name: h, hostPath: {{path: {}}}}}]\n", world.path("data").display());
    let fields = "volumeMounts: [{name: h, mountPath: /rw}, {name: h, mountPath: /deep/ro, readOnly: true}],";
    let line = "cat /rw/in; echo; echo back > /rw/out; (echo x > /deep/ro/x) 2>&1; cat /deep/ro/out";
    let seen = inside(&world, &pod, fields, line);
    assert!(seen.starts_with("from the host\n") && seen.ends_with("\nback"), "{seen}");
    assert!(seen.contains("Read-only file system"), "{seen}");
    assert_eq!(std::fs::read_to_string(world.path("data/out")).unwrap(), "back\n");
}

#[test]
fn a_tmpfs_volume_has_the_size_it_was_given() {
    let world = World::new();
    let pod = "  volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]\n";
    let fields = "volumeMounts: [{name: m, mountPath: /m}],";
    let line = "df -k /m | awk 'END{print $2}'; dd if=/dev/zero of=/m/x bs=64k count=32 2>&1 | grep -o 'No space.*'; true";
    assert_eq!(inside(&world, pod, fields, line), "1024\nNo space left on device");
}

#[test]
fn a_pod_has_an_address_of_its_own_or_the_hosts_network() {
    let world = World::new();
    let own = inside(
        &world,
        "  hostname: here\n",
        "",
        "ip -o -4 addr show eth0 | awk '{print $4}'; grep here /etc/hosts",
    );
    let mut lines = own.lines();
    let address = lines.next().unwrap().split('/').next().unwrap();
    assert_eq!(lines.next().unwrap(), format!("{address}\there"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let net = std::fs::read_link("/proc/self/ns/net").unwrap();
    let seen = inside(&world, "  hostNetwork: true\n", "", "hostname; readlink /proc/self/ns/net");
    assert_eq!(seen, format!("{}\n{}", host.trim(), net.display()));
}

#[test]
fn a_volume_that_outgrows_its_limit_ends_the_pod() {
    let world = World::new();
    let line = "dd if=/dev/zero of=/v/x bs=1M count=2 2>/dev/null; while :; do sleep 1; done";
    let spec = format!(
        "  restartPolicy: Never\n  volumes: [{{name: v, emptyDir: {{sizeLimit: 1Mi}}}}]\n  containers: [{{name: c, \
         image: 'rootfs:root', volumeMounts: [{{name: v, mountPath: /v}}], command: [/bin/sh, -c, {line:?}]}}]\n"
    );
    world.run(&spec).ended_with(137).says("more than its sizeLimit of 1048576, so the pod ends");
}

#[test]
fn low_ports_and_pings_are_no_privilege_in_a_network_of_ones_own() {
    let world = World::new();
    let fields = "securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}},";
    let line = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range; \
                timeout 1 nc -l -p 80; echo $?";
    assert_eq!(inside(&world, "", fields, line), "0\n0\t2147483647\n143");
}

#[test]
fn a_host_port_leads_to_the_container() {
    use std::io::Read;
    let world = World::new();
    // A port that nobody has right now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = format!(
        "  restartPolicy: Never\n  containers: [{{name: c, image: 'rootfs:root', ports: [{{containerPort: 7000, \
         hostPort: {port}}}], command: [/bin/sh, -c, \"echo ready; echo hello from inside | nc -l -p 7000\"]}}]\n"
    );
    let run = world.start(&spec, "c | ready");
    let mut answer = String::new();
    crate::world::until("an answer", || {
        answer.clear();
        let connected = std::net::TcpStream::connect(("127.0.0.1", port));
        connected.is_ok_and(|mut stream| stream.read_to_string(&mut answer).is_ok_and(|_| !answer.is_empty()))
    });
    assert_eq!(answer, "hello from inside\n");
    run.end().ended_with(0);
    world.census();
}

//! Killed before any of its system calls, the plugin leaves nothing that GC, or the next ADD, does not take back.
//!
//! `strace` delivers SIGKILL on entering the n-th call of a name, for every name that changes something and every
//! n there is, so that each moment between two changes is met once.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::process::Command;

use serde_json::{Value, json};
use world::{PLUGIN, Pod, World, ip, merged, on_fresh_host};

/// Calls by which the plugin changes anything, and those that only its threads in a pod's namespace (`setns`,
/// `exit`) and its background (`setsid`, `clock_nanosleep`) make: calls are counted for each thread.
const CALLS: [&str; 16] = [
    "sendto",
    "pwrite64",
    "write",
    "openat",
    "unlink",
    "rename",
    "flock",
    "recvfrom",
    "socket",
    "clone",
    "clone3",
    "setns",
    "exit",
    "exit_group",
    "setsid",
    "clock_nanosleep",
];

/// Of a network that a test is about.
type Config = fn(&World) -> Value;

fn config(world: &World) -> Value {
    world.config_with(&json!({"cniVersion": "1.1.0",
        "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]]},
        "runtimeConfig": {"portMappings": [
            {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"},
            {"HostPort": 5353, "ContainerPort": 53, "Protocol": "udp"}]}}))
}

/// More host ports than a lease's record has room for.
fn with_many_ports(world: &World) -> Value {
    let port = |port: u16| json!({"HostPort": port, "ContainerPort": port, "Protocol": "tcp"});
    let ports: Vec<Value> = (8000..8012).map(port).collect();
    merged(config(world), &json!({"runtimeConfig": {"portMappings": ports}}))
}

/// Two more addresses for every pod.
fn of_several_sets(world: &World) -> Value {
    let ranges = json!([[{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}], [{"subnet": "10.88.0.0/16"}],
        [{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00:88::/64"}]]);
    merged(config(world), &json!({"ipam": {"ranges": ranges}}))
}

/// With all that is made for a pod on a bridge besides, and without addresses.
fn on_a_bridge(world: &World) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "dunnage-cni", "stateDir": world.path("state"),
        "bridge": "cni0", "ipam": {}, "macspoofchk": true, "portIsolation": true, "promisc": true})
}

/// Runs a verb that is killed before its n-th call of a name. Whether it came that far.
fn killed(world: &World, verb: &str, pod: &Pod, config: &Value, call: &str, number: usize) -> bool {
    let mut strace = Command::new("strace");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    // Killing is told by the exit: strace dies of what its child died of.
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, PLUGIN]);
    !world.run_command(strace, verb, &pod.variables(), &config.to_string()).success
}

/// Every moment of a verb: `prepare` makes what it is run on, `verify` sees what it has left.
fn at_every_moment(
    world: &World,
    config: &Value,
    verb: &str,
    prepare: impl Fn(&Pod),
    verify: impl Fn(&Pod, &str),
) {
    let mut moments = 0;
    for call in CALLS {
        for number in 1.. {
            let pod = world.pod("pod");
            prepare(&pod);
            let came_so_far = killed(world, verb, &pod, config, call, number);
            verify(&pod, &format!("{verb} killed before {call} number {number}"));
            if !came_so_far {
                break;
            }
            moments += 1;
        }
    }
    assert!(moments > 20, "only {moments} moments were met");
}

fn collect(world: &World, config: Config) {
    let gc = merged(
        config(world),
        &json!({"cni.dev/valid-attachments": [{"containerID": "other", "ifname": "eth0"}]}),
    );
    let answer = world.run_alone("GC", &gc);
    assert!(answer.success, "{answer:?}");
}

/// The host with one pod that nothing happens to.
fn with_another_pod(config: Config, test: impl FnOnce(&World) + Send) {
    on_fresh_host(|world| {
        let other = world.pod("other");
        world.add(&other, &merged(config(world), &json!({"runtimeConfig": null})));
        test(world);
        world.del(&other, &config(world));
    });
}

#[test]
fn an_add_killed_at_any_moment_is_taken_back_by_gc() {
    an_add_that_is_killed_is_taken_back_by_gc(config);
}

#[test]
fn an_add_to_a_bridge_killed_at_any_moment_is_taken_back_by_gc() {
    an_add_that_is_killed_is_taken_back_by_gc(on_a_bridge);
}

fn an_add_that_is_killed_is_taken_back_by_gc(config: Config) {
    with_another_pod(config, |world| {
        let before = world.census();
        at_every_moment(
            world,
            &config(world),
            "ADD",
            |_| {},
            |_, moment| {
                collect(world, config);
                assert_eq!(world.census(), before, "{moment}");
            },
        );
    });
}

#[test]
fn an_add_killed_at_any_moment_is_taken_back_by_the_runtime_and_the_pod_can_be_added() {
    with_another_pod(config, |world| {
        at_every_moment(
            world,
            &config(world),
            "ADD",
            |_| {},
            |pod, moment| {
                // A runtime has to DEL after an ADD that failed.
                world.del(pod, &config(world));
                let answer = world.run("ADD", pod, &config(world));
                assert!(answer.success, "{moment}: {answer:?}");
                world.del(pod, &config(world));
            },
        );
    });
}

#[test]
fn an_add_killed_at_any_moment_is_cleaned_up_by_the_next_add_of_another_pod() {
    the_next_add_cleans_up(config, 0);
}

#[test]
fn an_add_with_many_ports_killed_at_any_moment_is_cleaned_up_by_the_next_add_of_another_pod() {
    the_next_add_cleans_up(with_many_ports, 1);
}

/// `files` of a pod are kept beside the lease table.
fn the_next_add_cleans_up(config: Config, files: usize) {
    with_another_pod(config, |world| {
        at_every_moment(
            world,
            &config(world),
            "ADD",
            |_| {},
            |pod, moment| {
                if !is_active(world, pod) {
                    let next = world.pod("next");
                    // With the same host ports, so that none may be left.
                    world.add(&next, &config(world));
                    let links = ip("-o link");
                    assert_eq!(links.matches(": dnp").count(), 2, "{moment}: {links}");
                    let kept = world.census().files;
                    assert_eq!(
                        kept.iter().filter(|file| file.ends_with(".ports")).count(),
                        files,
                        "{moment}: {kept:?}"
                    );
                    world.del(&next, &config(world));
                }
                world.del(pod, &config(world));
                world.wait_for_links_to_go("dnp0a58000[3-9]");
                collect(world, config);
            },
        );
    });
}

/// Whether CHECK finds the pod attached: it was killed when everything was done.
fn is_active(world: &World, pod: &Pod) -> bool {
    let told = json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []}});
    let (_, _, details) = world.run("CHECK", pod, &merged(config(world), &told)).error();
    !details.contains("has no address lease")
}

#[test]
fn a_del_killed_at_any_moment_can_be_repeated_or_is_finished_by_gc() {
    a_del_that_is_killed_is_finished(config);
}

#[test]
fn a_del_from_a_bridge_killed_at_any_moment_can_be_repeated_or_is_finished_by_gc() {
    a_del_that_is_killed_is_finished(on_a_bridge);
}

fn a_del_that_is_killed_is_finished(config: Config) {
    with_another_pod(config, |world| {
        let before = world.census();
        at_every_moment(
            world,
            &config(world),
            "DEL",
            |pod| drop(world.add(pod, &config(world))),
            |_, moment| {
                collect(world, config);
                assert_eq!(world.census(), before, "{moment}");
            },
        );
        at_every_moment(
            world,
            &config(world),
            "DEL",
            |pod| drop(world.add(pod, &config(world))),
            |pod, moment| {
                world.del(pod, &config(world));
                let answer = world.run("ADD", pod, &config(world));
                assert!(answer.success, "{moment}: {answer:?}");
                world.del(pod, &config(world));
            },
        );
    });
}

#[test]
fn no_moment_of_a_pod_with_several_addresses_of_a_family_leaves_one_of_them_leased() {
    with_another_pod(config, |world| {
        let config = of_several_sets(world);
        let add = |pod: &Pod| world.add(pod, &config);
        let ips =
            json!({"runtimeConfig": {"ips": ["10.88.0.200", "10.2.0.200", "fd00:2::200", "fd00:88::200"]}});
        let asking = merged(config.clone(), &ips);
        // The network has grown by then, and the host has all its gateways.
        let [one, two] = ["one", "two"].map(|name| world.pod(name));
        add(&one);
        world.del(&one, &config);
        world.add(&two, &asking);
        world.del(&two, &config);
        world.wait_for_links_to_go("dnp0a580003");
        collect(world, of_several_sets);
        let before = world.census();
        let took_back = |moment: &str| {
            let valid = json!([{"containerID": "other", "ifname": "eth0"}]);
            let gc = merged(config.clone(), &json!({"cni.dev/valid-attachments": valid}));
            let took = world.run_alone("GC", &gc);
            assert!(took.success, "{moment}: {took:?}");
            assert_eq!(world.census(), before, "{moment}");
            assert_eq!(world.run_alone("GC", &gc).stderr, "", "{moment}");
        };
        at_every_moment(world, &config, "ADD", |_| {}, |_, moment| took_back(moment));
        at_every_moment(world, &config, "DEL", |pod| drop(add(pod)), |_, moment| took_back(moment));
        at_every_moment(
            world,
            &config,
            "DEL",
            |pod| drop(add(pod)),
            |pod, moment| {
                world.del(pod, &config);
                took_back(moment);
                let answer = world.run("ADD", pod, &asking);
                assert!(answer.success, "{moment}: {answer:?}");
                world.del(pod, &config);
            },
        );
    });
}

#[test]
fn a_kernel_without_nftables_is_told_and_nothing_is_left() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let before = world.census();
        // The second socket is the one to nftables.
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "inject=socket:error=EPROTONOSUPPORT:when=2", PLUGIN]);
        let (code, msg, details) =
            world.run_command(strace, "ADD", &pod.variables(), &config(world).to_string()).error();
        assert_eq!((code, msg.contains("Netfilter")), (100, true), "{msg}");
        assert!(details.contains("nf_tables"), "{details}");
        assert_eq!(world.census(), before);
    });
}

#[test]
fn whatever_the_kernel_refuses_is_undone() {
    what_the_kernel_refuses_is_undone(config);
}

#[test]
fn whatever_the_kernel_refuses_on_a_bridge_is_undone() {
    what_the_kernel_refuses_is_undone(on_a_bridge);
}

#[test]
fn whatever_the_kernel_refuses_to_the_first_pod_on_a_bridge_is_undone() {
    on_fresh_host(|world| {
        let before = world.census();
        refuse_each(world, on_a_bridge, || {
            let mut after = world.census();
            after.files.retain(|file| file != "cni-net.tab");
            assert_eq!(after, before);
        });
    });
}

fn what_the_kernel_refuses_is_undone(config: Config) {
    on_fresh_host(|world| {
        let other = world.pod("other");
        world.add(&other, &merged(config(world), &json!({"runtimeConfig": null})));
        let before = world.census();
        refuse_each(world, config, || assert_eq!(world.census(), before));
    });
}

/// Has the kernel refuse each request of an ADD, one after the other, until none is left.
fn refuse_each(world: &World, config: Config, verify: impl Fn()) {
    for number in 1.. {
        let pod = world.pod("pod");
        let mut strace = Command::new("strace");
        let inject = format!("inject=sendto:error=ENOBUFS:when={number}");
        strace.args(["-f", "-o", "/dev/null", "-e", "trace=sendto", "-e", &inject, PLUGIN]);
        let answer = world.run_command(strace, "ADD", &pod.variables(), &config(world).to_string());
        if answer.success {
            assert!(number > 6, "{number}");
            break;
        }
        assert!(answer.json["msg"].as_str().unwrap().contains("ENOBUFS"), "{answer:?}");
        verify();
    }
}

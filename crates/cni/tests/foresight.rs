//! What ADD would fail with: STATUS says it before, and whoever tries all the same is told and leaves nothing.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod world;

use std::process::Command;

use serde_json::{Value, json};
use world::{PLUGIN, World, address, ip, merged, nft, on_fresh_host};

fn status(world: &World) -> (u64, String) {
    let (code, _, details) = world.run_alone("STATUS", &config(world)).error();
    (code, details)
}

fn config(world: &World) -> Value {
    world.config_with(&json!({"cniVersion": "1.1.0"}))
}

/// The plugin with a file system of its own for the leases, which `options` say.
fn with_leases_on(world: &World, options: &str) -> Command {
    std::fs::create_dir_all(world.path("state")).unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs -o {options} leases \"$1\" && exec \"$0\"");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, PLUGIN])
        .arg(world.path("state"));
    command
}

#[test]
fn leases_that_cannot_be_written_are_told_before_the_first_pod() {
    on_fresh_host(|world| {
        let ask = |options: &str| {
            world.run_command(with_leases_on(world, options), "STATUS", &[], &config(world).to_string())
        };
        assert!(ask("size=1m").ok().is_null());
        for (options, errno) in [("ro", "EROFS"), ("nr_inodes=1", "ENOSPC")] {
            let (code, _, details) = ask(options).error();
            assert!(
                code == 50 && details.contains("state") && details.contains(errno),
                "{options}: {details}"
            );
        }
    });
}

#[test]
fn a_subnet_that_is_somebody_elses_is_told_before_the_first_pod() {
    on_fresh_host(|world| {
        ip("link add other type veth peer name end");
        ip("link set end up");
        ip("addr add 10.88.7.1/24 dev other");
        ip("link set other up");
        let (code, details) = status(world);
        assert!(code == 50 && details.contains("10.88.7.0/24") && details.contains("other"), "{details}");
        ip("link del other");
        world.run_alone("STATUS", &config(world)).ok();

        let pod = world.pod("pod");
        let one = merged(config(world), &json!({"name": "one"}));
        world.add(&pod, &one);
        let (code, details) = status(world);
        assert!(code == 50 && details.contains("one has pods there"), "{details}");
        world.run_alone("STATUS", &one).ok();
    });
}

#[test]
fn without_a_capability_nothing_is_begun() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        let before = world.census();
        for capability in ["net_admin", "sys_admin"] {
            let without = || {
                let mut command = Command::new("setpriv");
                let drop = format!("-{capability}");
                command.args(["--bounding-set", &drop, "--inh-caps", &drop, PLUGIN]);
                command
            };
            let text = config(world).to_string();
            let (code, msg, _) = world.run_command(without(), "ADD", &pod.variables(), &text).error();
            assert!(code == 100 && msg.contains("EPERM") && msg.contains("CAP_NET_ADMIN"), "{msg}");
            assert!(!msg.contains("undone"), "{msg}");
            assert_eq!(world.census(), before, "{capability}");
            let (code, _, details) = world.run_command(without(), "STATUS", &[], &text).error();
            assert!(code == 50 && details.contains("CAP_SYS_ADMIN"), "{details}");
        }
    });
}

#[test]
fn a_host_that_cannot_be_made_to_forward_is_told_and_nothing_is_left() {
    on_fresh_host(|world| {
        let pod = world.pod("pod");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let before = world.census();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-P", "/proc/sys/net/ipv4/ip_forward"]);
        strace.args(["-e", "inject=openat:error=EROFS", PLUGIN]);
        let text = config(world).to_string();
        let (code, msg, _) = world.run_command(strace, "ADD", &pod.variables(), &text).error();
        assert!(code == 100 && msg.contains("ip_forward") && msg.contains("EROFS"), "{msg}");
        assert!(!msg.contains("undone"), "{msg}");
        assert_eq!(world.census(), before);
    });
}

#[test]
fn a_pod_whose_lease_was_lost_keeps_its_interface() {
    on_fresh_host(|world| {
        let (old, new) = (world.pod("old"), world.pod("new"));
        let had = address(&world.add(&old, &config(world)), 0);
        std::fs::remove_dir_all(world.path("state")).unwrap();
        let links = ip("-o link");
        let (code, msg, _) = world.run("ADD", &new, &config(world)).error();
        assert!(code == 7 && msg.contains("dnp0a580002") && msg.contains("no lease"), "{msg}");
        assert_eq!(ip("-o link"), links);
        assert!(nft("list set inet dunnage masq4").contains("10.88.0.0/16"), "it still reaches outside");
        // Who asks again, as runtimes do, gets the next address.
        let later = world.add(&new, &config(world));
        assert_ne!(address(&later, 0), had);
        assert!(ip("-o link").contains("dnp0a580002"));
    });
}

//! A create that fails at any step leaves the machine as it was: mounts, cgroups, namespaces, processes,
//! descriptors and files are counted before and after.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod world;

use dunnage_init::fault::{Fault, inject};
use dunnage_task::{Command, Target};

use world::{Census, World, run};

#[test]
fn whichever_step_of_a_create_fails_nothing_is_left() {
    every_step(Fault::Fail, "EIO");
}

#[test]
fn at_whichever_step_the_child_dies_nothing_is_left() {
    every_step(Fault::Die, "");
}

fn every_step(fault: fn(u16) -> Fault, expected: &str) {
    run(async {
        let world = World::new();
        let id = world.container_like_a_pods("faults", &["/bin/true"]);
        // What a sandbox makes once for its life (its event loop's descriptors) is there before the counting.
        world.create(&id).await.unwrap();
        let init = Target { id: id.clone(), exec: None };
        world.ask(|reply| Command::Delete(init.clone(), reply)).await.unwrap();
        let before = Census::take(&world);

        let steps = world.steps(&id);
        assert!(steps > 25, "a plan like a pod's has {steps} steps only");
        let mut failed = 0;
        for step in 0..steps {
            inject(Some(fault(step)));
            let created = world.create(&id).await;
            inject(None);
            match created {
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().contains(expected), "step {step}: {error}");
                }
                // Behind the gate: the create is done, the start would fail.
                Ok(_) => {
                    world.ask(|reply| Command::Delete(init.clone(), reply)).await.unwrap();
                }
            }
            Census::take(&world).require_equal(&before, &format!("after a failure at step {step}"));
        }
        assert!(failed > 20, "only {failed} of {steps} steps failed the create");
        world.nothing_is_left();
    });
}

#[test]
fn a_start_that_fails_behind_the_gate_says_why_and_the_container_can_be_deleted() {
    run(async {
        let world = World::new();
        let id = world.container_like_a_pods("behind", &["/bin/true"]);
        let init = Target { id: id.clone(), exec: None };
        let last = world.steps(&id) - 1;
        inject(Some(Fault::Fail(last)));
        world.create(&id).await.unwrap();
        inject(None);
        let error = world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap_err();
        assert!(error.to_string().contains("EIO"), "{error}");
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn a_limit_the_kernel_refuses_leaves_nothing() {
    run(async {
        let world = World::new();
        let id = world.container_with("limit", &["/bin/true"], |config| {
            config["linux"]["resources"]["cpu"] = serde_json::json!({ "cpus": "4000-5000" });
        });
        let before = Census::take(&world);
        let error = world.create(&id).await.unwrap_err();
        assert!(error.to_string().contains("cpuset.cpus"), "{error}");
        Census::take(&world).require_equal(&before, "after the refusal");
        world.nothing_is_left();
    });
}

#[test]
fn a_root_file_system_that_cannot_be_mounted_leaves_nothing() {
    run(async {
        let world = World::new();
        let id = world.container("rootfs", &["/bin/true"]);
        let before = Census::take(&world);
        let overlay = dunnage_task::rootfs::RootfsMount {
            fs_type: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["lowerdir=/no/such/layer:/none".into()],
        };
        let error = world.create_on(&id, vec![overlay]).await.unwrap_err();
        assert!(error.to_string().contains("mount overlay"), "{error}");
        Census::take(&world).require_equal(&before, "after the failed mount");
        world.nothing_is_left();
    });
}

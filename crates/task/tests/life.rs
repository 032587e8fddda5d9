//! Whole lives of containers on this machine's kernel: real namespaces, cgroups and processes, driven through
//! the mailbox as the shim drives it. Needs root.

mod world;

use std::fs;
use std::pin::pin;
use std::time::Duration;

use dunnage_sys::pidfd::Signal;
use dunnage_sys::stream;
use dunnage_task::command::{Exec, Kill};
use dunnage_task::{Command, ErrorKind, Event, State, Target};

use world::{World, exec_process, run};

#[test]
fn a_container_runs_and_its_exit_code_comes_back_once() {
    run(async {
        let mut world = World::new();
        let id = world.container("exits", &["/bin/sh", "-c", "echo from inside; exit 7"]);
        let init = Target { id: id.clone(), exec: None };
        let pid = world.create(&id).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap(), pid);
        let exit = world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap();
        assert_eq!(exit.status, 7);
        assert_eq!(world.stdout(&id), "from inside\n");
        let deleted = world.ask(|reply| Command::Delete(init.clone(), reply)).await.unwrap();
        assert_eq!((deleted.pid, deleted.exit.status), (pid, 7));

        let events = world.events();
        let names: Vec<_> = events.iter().map(world::name).collect();
        assert_eq!(names, ["created", "started", "exited", "deleted"]);
        world.nothing_is_left();
    });
}

#[test]
fn two_hundred_instant_exits_are_each_told_once_and_after_their_start() {
    run(async {
        let mut world = World::new();
        for round in 0..200 {
            let id = world.container(&format!("instant-{round}"), &["/bin/true"]);
            let init = Target { id: id.clone(), exec: None };
            world.create(&id).await.unwrap();
            world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
            assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 0);
            world.ask(|reply| Command::Delete(init.clone(), reply)).await.unwrap();
            let names: Vec<_> = world.events().iter().map(world::name).collect();
            assert_eq!(names, ["created", "started", "exited", "deleted"], "round {round}");
        }
        world.nothing_is_left();
    });
}

#[test]
fn a_missing_program_fails_the_create_with_its_name_and_leaves_nothing() {
    run(async {
        let mut world = World::new();
        let id = world.container("missing", &["no-such-program"]);
        let error = world.create(&id).await.unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
        assert!(error.to_string().contains("executable file not found in $PATH"), "{error}");
        assert!(world.events().is_empty(), "no event of a container that never was");
        world.nothing_is_left();
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_first_container_goes_on() {
    run(async {
        let world = World::new();
        let id = world.container("twice", &["/bin/sleep", "1000"]);
        world.create(&id).await.unwrap();
        assert_eq!(world.create(&id).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let init = Target { id: id.clone(), exec: None };
        let status = world.ask(|reply| Command::Status(init.clone(), reply)).await.unwrap();
        assert_eq!(status.state, State::Created);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn an_exec_runs_beside_the_init_and_its_end_is_told_before_the_inits() {
    run(async {
        let mut world = World::new();
        let id = world.container("exec", &["/bin/sleep", "1000"]);
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();

        let quick = Target { id: id.clone(), exec: Some("quick".parse().unwrap()) };
        world.exec(&quick, &["/bin/sh", "-c", "test $$ -ne 1; test -e /proc/1/comm; exit 3"]).await;
        assert_eq!(world.ask(|reply| Command::Wait(quick.clone(), reply)).await.unwrap().status, 3);
        world.ask(|reply| Command::Delete(quick, reply)).await.unwrap();

        let long = Target { id: id.clone(), exec: Some("long".parse().unwrap()) };
        world.exec(&long, &["/bin/sleep", "1000"]).await;
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: false };
        world.ask(|reply| Command::Kill(kill, reply)).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 137);
        assert_eq!(world.ask(|reply| Command::Wait(long.clone(), reply)).await.unwrap().status, 137);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();

        let exits: Vec<_> = world
            .events()
            .iter()
            .filter_map(|event| match event {
                Event::Exited { exec, exit, .. } => Some((exec.clone().map(|e| e.to_string()), exit.status)),
                _ => None,
            })
            .collect();
        let expected = [(Some("quick".to_owned()), 3), (Some("long".to_owned()), 137), (None, 137)];
        assert_eq!(exits, expected);
        world.nothing_is_left();
    });
}

#[test]
fn an_exec_of_a_missing_program_fails_at_its_start_and_can_be_deleted() {
    run(async {
        let world = World::new();
        let id = world.container("exec-missing", &["/bin/sleep", "1000"]);
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        let target = Target { id: id.clone(), exec: Some("ghost".parse().unwrap()) };
        let exec = Exec {
            id: id.clone(),
            exec: "ghost".parse().unwrap(),
            process: exec_process(&["/no/such/program"]),
            stdio: Default::default(),
        };
        world.ask(|reply| Command::Exec(Box::new(exec), reply)).await.unwrap();
        let error = world.ask(|reply| Command::Start(target.clone(), reply)).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        world.ask(|reply| Command::Delete(target, reply)).await.unwrap();
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: true };
        world.ask(|reply| Command::Kill(kill, reply)).await.unwrap();
        world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap();
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn a_paused_container_keeps_its_memory_and_can_be_killed() {
    run(async {
        let world = World::new();
        let id = world.container("paused", &["/bin/sleep", "1000"]);
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        world.ask(|reply| Command::Pause(id.clone(), reply)).await.unwrap();
        let status = world.ask(|reply| Command::Status(init.clone(), reply)).await.unwrap();
        assert_eq!(status.state, State::Paused);
        let again = world.ask(|reply| Command::Pause(id.clone(), reply)).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::FailedPrecondition);
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: false };
        world.ask(|reply| Command::Kill(kill, reply)).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 137);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn a_container_killed_before_its_start_stops_and_cannot_be_started() {
    run(async {
        let world = World::new();
        let id = world.container("never", &["/bin/true"]);
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: false };
        world.ask(|reply| Command::Kill(kill.clone(), reply)).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 137);
        assert_eq!(
            world.ask(|reply| Command::Kill(kill, reply)).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let start = world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap_err();
        assert_eq!(start.kind(), ErrorKind::FailedPrecondition);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn a_memory_limit_kills_inside_and_is_told_before_the_exit() {
    run(async {
        let mut world = World::new();
        // Doubles a string in the shell until the kernel has had enough.
        let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
        let id = world.container_with("hog", &["/bin/sh", "-c", hog], |config| {
            config["linux"]["resources"]["memory"] = serde_json::json!({ "limit": 16 << 20 });
        });
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 137);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        let names: Vec<_> = world.events().iter().map(world::name).collect();
        assert_eq!(names, ["created", "started", "oom", "exited", "deleted"]);
        world.nothing_is_left();
    });
}

#[test]
fn what_a_vanished_shim_leaves_is_taken_down_by_its_record() {
    run(async {
        let world = World::new();
        let id = world.container("orphan", &["/bin/sleep", "1000"]);
        let init = Target { id: id.clone(), exec: None };
        let pid = world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init, reply)).await.unwrap();
        // Nobody deletes it: as if the shim had been killed.
        let left = world.take_down_leftover(&id).unwrap().expect("there is a record");
        assert_eq!((left.pid, left.exit.status), (pid, 137));
        assert_eq!(world.take_down_leftover(&id).unwrap(), None, "a second delete finds nothing");
        world.nothing_is_left();
    });
}

#[test]
fn orphans_of_a_container_in_the_hosts_pid_namespace_are_buried() {
    run(async {
        let world = World::new();
        let id = world.container_with(
            "orphans",
            &["/bin/sh", "-c", "(sleep 0.2 & sleep 0.1 &); sleep 1000; true"],
            |config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != "pid");
                // A procfs of the host's namespace cannot be mounted anew without owning it.
                config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
            },
        );
        dunnage_sys::process::become_subreaper().unwrap();
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        // The orphans end after 0.1 and 0.2 s; then only the shell and its sleep are in the cgroup.
        let two = async {
            loop {
                let members = world.ask(|reply| Command::Pids(id.clone(), reply)).await.unwrap();
                let zombies = dunnage_sys::process::any_zombie().unwrap();
                if members.len() == 2 && zombies.is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::time::timeout(Duration::from_secs(30), two).await.expect("the orphans are buried");
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: false };
        world.ask(|reply| Command::Kill(kill, reply)).await.unwrap();
        assert_eq!(world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap().status, 137);
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        // The sleep that the shell left was killed with its cgroup and came to us.
        let none = async {
            while dunnage_sys::process::any_zombie().is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), none).await.expect("the last orphan is buried");
        world.nothing_is_left();
    });
}

#[test]
fn a_container_that_is_deleted_while_it_is_made_is_gone_and_both_are_answered() {
    run(async {
        let world = World::new();
        let id = world.container_like_a_pods("hasty", &["/bin/sleep", "1000"]);
        let init = Target { id: id.clone(), exec: None };
        let create = world.create(&id);
        let delete = async {
            // Behind the create in the mailbox, before its child can have reached the gate.
            tokio::task::yield_now().await;
            world.ask(|reply| Command::Delete(init, reply)).await
        };
        let (_, deleted) = tokio::join!(create, delete);
        assert_eq!(deleted.unwrap().exit.status, 137);
        world.nothing_is_left();
    });
}

#[test]
fn an_exit_is_told_when_the_last_output_was_read() {
    run(async {
        let world = World::new();
        let id = world.container("said", &["/bin/echo", "last words"]);
        let fifo = world.fifo(&id);
        // Opened before, as containerd's clients do; a fifo's reader that does not wait needs no writer.
        let reader = stream::open_reader(&fifo).unwrap();
        let init = Target { id: id.clone(), exec: None };
        world.create_with_stdout(&id, fifo.to_str().unwrap()).await.unwrap();
        let mut told = pin!(world.ask(|reply| Command::Wait(init.clone(), reply)));
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        let ended = async {
            while world
                .ask(|reply| Command::Status(init.clone(), reply))
                .await
                .unwrap()
                .state
                .exit()
                .is_none()
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            told = &mut told => panic!("told before anybody read: {told:?}"),
            () = ended => {}
        }
        let mut read = [0; 64];
        let count = stream::read(&reader, &mut read).unwrap();
        assert_eq!(&read[..count], b"last words\n");
        told.await.unwrap();
        world.ask(|reply| Command::Delete(init.clone(), reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn output_waits_for_a_reader_that_comes_after_the_end() {
    run(async {
        let world = World::new();
        let id = world.container("late", &["/bin/echo", "last words"]);
        let fifo = world.fifo(&id);
        let init = Target { id: id.clone(), exec: None };
        world.create_with_stdout(&id, fifo.to_str().unwrap()).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        // Told after a while although nobody reads, and kept all the same.
        world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap();
        let read = tokio::task::spawn_blocking(move || fs::read_to_string(fifo).unwrap());
        assert_eq!(read.await.unwrap(), "last words\n");
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

#[test]
fn an_exec_whose_output_nobody_reads_can_be_removed_and_its_end_is_told() {
    run(async {
        let mut world = World::new();
        let id = world.container("mute", &["/bin/sleep", "99"]);
        let init = Target { id: id.clone(), exec: None };
        world.create(&id).await.unwrap();
        world.ask(|reply| Command::Start(init.clone(), reply)).await.unwrap();
        let exec = Target { id: id.clone(), exec: Some("e".parse().unwrap()) };
        let fifo = world.fifo(&id);
        world.exec_with_stdout(&exec, &["/bin/echo", "unheard"], fifo.to_str().unwrap()).await;
        while world.ask(|reply| Command::Status(exec.clone(), reply)).await.unwrap().state.exit().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.ask(|reply| Command::Delete(exec.clone(), reply)).await.unwrap();
        let told = world.events();
        assert!(told.iter().any(|event| matches!(event, Event::Exited { exec: Some(_), .. })), "{told:?}");
        let kill = Kill { target: init.clone(), signal: Signal::KILL.as_raw(), all: false };
        world.ask(|reply| Command::Kill(kill, reply)).await.unwrap();
        world.ask(|reply| Command::Wait(init.clone(), reply)).await.unwrap();
        world.ask(|reply| Command::Delete(init, reply)).await.unwrap();
        world.nothing_is_left();
    });
}

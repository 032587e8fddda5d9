//! The sandbox's events as containerd's messages, each under its topic.

use std::time::SystemTime;

use dunnage_api::any::{self, Any};
use dunnage_api::events::{
    Event as Topic, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIo, TaskOom,
    TaskPaused, TaskResumed, TaskStart,
};
use dunnage_api::types::Mount;
use dunnage_task::rootfs::RootfsMount;
use dunnage_task::stdio::StdioPaths;
use dunnage_task::{Event, Exit};
use prost::Name;
use prost_types::Timestamp;

/// Topic and packed message of an event.
pub(crate) fn wire(event: Event) -> (&'static str, Any) {
    match event {
        Event::Created { id, bundle, rootfs, stdio, pid } => pack(&TaskCreate {
            container_id: id.to_string(),
            bundle: bundle.display().to_string(),
            rootfs: rootfs.into_iter().map(mount).collect(),
            io: Some(io(stdio)),
            checkpoint: String::new(),
            pid,
        }),
        Event::Started { id, pid } => pack(&TaskStart { container_id: id.to_string(), pid }),
        Event::ExecAdded { id, exec } => {
            pack(&TaskExecAdded { container_id: id.to_string(), exec_id: exec.to_string() })
        }
        Event::ExecStarted { id, exec, pid } => {
            pack(&TaskExecStarted { container_id: id.to_string(), exec_id: exec.to_string(), pid })
        }
        Event::Oom { id } => pack(&TaskOom { container_id: id.to_string() }),
        Event::Exited { id, exec, pid, exit } => pack(&TaskExit {
            container_id: id.to_string(),
            id: exec.map_or_else(|| id.to_string(), |exec| exec.to_string()),
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
        }),
        Event::Paused { id } => pack(&TaskPaused { container_id: id.to_string() }),
        Event::Resumed { id } => pack(&TaskResumed { container_id: id.to_string() }),
        Event::Deleted { id, pid, exit } => pack(&TaskDelete {
            container_id: id.to_string(),
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
            id: String::new(),
        }),
    }
}

fn pack<M: Topic + Name>(message: &M) -> (&'static str, Any) {
    (M::TOPIC, any::pack(message))
}

/// A time on the wire.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}

/// No exit yet: the zero time that containerd's own shims send.
pub(crate) fn exited_at(exit: Option<Exit>) -> Option<Timestamp> {
    exit.map(|exit| timestamp(exit.at))
}

fn mount(mount: RootfsMount) -> Mount {
    Mount { r#type: mount.fs_type, source: mount.source, target: mount.target, options: mount.options }
}

fn io(stdio: StdioPaths) -> TaskIo {
    TaskIo { stdin: stdio.stdin, stdout: stdio.stdout, stderr: stdio.stderr, terminal: stdio.terminal }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_end_of_an_init_carries_the_container_id_twice_and_that_of_an_exec_its_own() {
        let exit = Exit { status: 137, at: UNIX_EPOCH + Duration::new(7, 9) };
        let id: dunnage_spec::ContainerId = "web".parse().unwrap();
        for (exec, expected) in [(None, "web"), (Some("probe".parse().unwrap()), "probe")] {
            let (topic, any) = wire(Event::Exited { id: id.clone(), exec, pid: 4, exit });
            assert_eq!(topic, "/tasks/exit");
            let message: TaskExit = any::unpack(&any).unwrap().unwrap();
            assert_eq!((message.id.as_str(), message.exit_status), (expected, 137));
            assert_eq!(message.exited_at, Some(Timestamp { seconds: 7, nanos: 9 }));
        }
    }
}

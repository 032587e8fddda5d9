//! What containerd expects of a task's events, as one check: the suite's tests, the load and the tests of the
//! checks themselves all ask here.
//!
//! Pure: it looks at events in the order they came and says in words what is wrong with them.

use std::collections::BTreeMap;

use crate::events::Event;

/// What is wrong with the events of one task that was deleted. Nothing, when all is as containerd expects:
/// created, started, its further processes, ended once, deleted last, with one pid and one status throughout.
pub fn wrongs(id: &str, events: &[Event]) -> Vec<String> {
    let mut told = Told::default();
    for event in events.iter().filter(|event| event.id() == id) {
        told.hear(event);
    }
    told.finish();
    told.wrongs.into_iter().map(|wrong| format!("{id}: {wrong}")).collect()
}

/// What a task's events have told so far.
#[derive(Debug, Default)]
struct Told {
    created: Option<u32>,
    started: bool,
    ended: Option<u32>,
    deleted: bool,
    execs: BTreeMap<String, Exec>,
    wrongs: Vec<String>,
}

/// How far a further process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exec {
    Added,
    Started(u32),
    Ended,
}

impl Told {
    fn hear(&mut self, event: &Event) {
        self.require(!self.deleted, || format!("{event:?} after TaskDelete"));
        match event {
            Event::Create { pid, .. } => {
                self.require(self.created.is_none(), || "TaskCreate twice".to_owned());
                self.created = Some(*pid);
            }
            Event::Start { pid, .. } => self.start(*pid),
            Event::Exit { pid, status, .. } if event.is_init_exit() => self.end(*pid, *status),
            Event::Exit { exec_id, pid, .. } => self.end_exec(exec_id, *pid),
            Event::ExecAdded { exec_id, .. } => {
                let known = self.execs.insert(exec_id.clone(), Exec::Added);
                // An id may be taken again once its process is deleted, which no event tells.
                let is_free = matches!(known, None | Some(Exec::Added | Exec::Ended));
                self.require(is_free, || format!("TaskExecAdded of {exec_id} while it runs"));
            }
            Event::ExecStarted { exec_id, pid, .. } => {
                let known = self.execs.insert(exec_id.clone(), Exec::Started(*pid));
                let is_added = known == Some(Exec::Added);
                self.require(is_added, || format!("TaskExecStarted of {exec_id} after {known:?}"));
            }
            Event::Oom { .. } => self.require(self.ended.is_none(), || "TaskOOM after TaskExit".to_owned()),
            Event::Delete { pid, status, .. } => self.delete(*pid, *status),
            Event::Paused { .. } | Event::Resumed { .. } | Event::Other { .. } => {}
        }
    }

    fn start(&mut self, pid: u32) {
        self.require(!self.started, || "TaskStart twice".to_owned());
        self.require(self.ended.is_none(), || "TaskExit before TaskStart".to_owned());
        self.require_pid("TaskStart", pid);
        self.started = true;
    }

    fn end(&mut self, pid: u32, status: u32) {
        self.require(self.ended.is_none(), || "TaskExit twice".to_owned());
        self.require_pid("TaskExit", pid);
        let open: Vec<String> = self
            .execs
            .iter()
            .filter(|(_, exec)| matches!(exec, Exec::Started(_)))
            .map(|(id, _)| id.clone())
            .collect();
        self.require(open.is_empty(), || format!("TaskExit before those of {}", open.join(", ")));
        self.ended = Some(status);
    }

    fn end_exec(&mut self, exec_id: &str, pid: u32) {
        let known = self.execs.insert(exec_id.to_owned(), Exec::Ended);
        self.require(known == Some(Exec::Started(pid)), || {
            format!("TaskExit of {exec_id} with pid {pid} after {known:?}")
        });
    }

    fn delete(&mut self, pid: u32, status: u32) {
        self.require_pid("TaskDelete", pid);
        if let Some(ended) = self.ended {
            self.require(ended == status, || format!("TaskExit says {ended} and TaskDelete {status}"));
        }
        self.deleted = true;
    }

    fn finish(&mut self) {
        self.require(self.created.is_some(), || "no TaskCreate".to_owned());
        self.require(self.ended.is_some() || !self.started, || "no TaskExit".to_owned());
        self.require(self.deleted, || "no TaskDelete".to_owned());
        let open = self.execs.iter().filter(|(_, exec)| matches!(exec, Exec::Started(_)));
        let open: Vec<String> = open.map(|(id, _)| format!("no TaskExit of {id}")).collect();
        self.wrongs.extend(open);
    }

    fn require_pid(&mut self, event: &str, pid: u32) {
        let Some(created) = self.created else {
            self.wrongs.push(format!("{event} before TaskCreate"));
            return;
        };
        self.require(created == pid, || format!("TaskCreate says pid {created} and {event} {pid}"));
    }

    fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrongs.push(otherwise());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Event {
        Event::Create { id: "c".to_owned(), pid: 7 }
    }

    fn start() -> Event {
        Event::Start { id: "c".to_owned(), pid: 7 }
    }

    fn exit(of: &str, pid: u32) -> Event {
        Event::Exit { id: "c".to_owned(), exec_id: of.to_owned(), pid, status: 3 }
    }

    fn delete(status: u32) -> Event {
        Event::Delete { id: "c".to_owned(), pid: 7, status }
    }

    fn added() -> Event {
        Event::ExecAdded { id: "c".to_owned(), exec_id: "e".to_owned() }
    }

    fn exec_started() -> Event {
        Event::ExecStarted { id: "c".to_owned(), exec_id: "e".to_owned(), pid: 9 }
    }

    #[test]
    fn a_whole_life_in_order_has_nothing_wrong() {
        let life = [create(), start(), added(), exec_started(), exit("e", 9), exit("c", 7), delete(3)];
        assert_eq!(wrongs("c", &life), Vec::<String>::new());
    }

    #[test]
    fn a_task_that_was_never_started_has_no_exit_to_tell() {
        assert_eq!(wrongs("c", &[create(), delete(0)]), Vec::<String>::new());
    }

    #[test]
    fn each_disorder_is_named() {
        let cases = [
            (vec![create(), exit("c", 7), start(), delete(3)], "c: TaskExit before TaskStart"),
            (vec![create(), start(), exit("c", 7), exit("c", 7), delete(3)], "c: TaskExit twice"),
            (vec![create(), start(), delete(3)], "c: no TaskExit"),
            (vec![create(), start(), exit("c", 7)], "c: no TaskDelete"),
            (vec![create(), start(), exit("c", 8), delete(3)], "c: TaskCreate says pid 7 and TaskExit 8"),
            (vec![create(), start(), exit("c", 7), delete(4)], "c: TaskExit says 3 and TaskDelete 4"),
            (
                vec![create(), start(), added(), exec_started(), exit("c", 7), exit("e", 9), delete(3)],
                "c: TaskExit before those of e",
            ),
        ];
        for (events, wrong) in cases {
            assert_eq!(wrongs("c", &events), [wrong]);
        }
    }

    #[test]
    fn an_end_of_an_exec_that_never_began_is_named() {
        let life = [create(), start(), exit("e", 9), exit("c", 7), delete(3)];
        assert_eq!(wrongs("c", &life), ["c: TaskExit of e with pid 9 after None"]);
    }
}

//! What a living process holds: descriptors by kind, private memory, threads. Taken at two quiet moments, the second
//! must not be more; so a shim that leaks into itself is found while it lives, which no census can.

use std::collections::BTreeMap;
use std::fs;

use crate::process;

/// What a process holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// How many descriptors of each kind it has open.
    pub descriptors: BTreeMap<String, usize>,
    /// Memory that it has written to and shares with nobody, in KiB.
    pub private_kib: u64,
    /// Its threads.
    pub threads: usize,
    /// Its children that have ended and wait to be noticed.
    pub zombies: usize,
}

impl Footprint {
    /// What `pid` holds now; `None` when it is gone.
    pub fn of(pid: i32) -> Option<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        // Not the clean pages: they are the program's, and private only while nobody else runs it.
        let private = rollup.lines().filter(|line| line.starts_with("Private_Dirty:"));
        let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        let children = process::Process::all().into_iter().filter(|process| process.parent == pid);
        Some(Self {
            descriptors: process::descriptor_kinds(pid),
            private_kib: private.filter_map(kib).sum(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).ok()?.count(),
            zombies: children.filter(process::Process::is_zombie).count(),
        })
    }

    /// What there is more of later, one line each; memory may grow by `slack_kib`.
    pub fn growth(&self, later: &Self, slack_kib: u64) -> Vec<String> {
        let mut grown = Vec::new();
        for (kind, after) in &later.descriptors {
            let before = self.descriptors.get(kind).copied().unwrap_or(0);
            if *after > before {
                grown.push(format!("+ descriptor: {kind}, {before} times and then {after}"));
            }
        }
        if later.private_kib > self.private_kib + slack_kib {
            grown.push(format!("+ memory: {} KiB and then {}", self.private_kib, later.private_kib));
        }
        if later.threads > self.threads {
            grown.push(format!("+ threads: {} and then {}", self.threads, later.threads));
        }
        if later.zombies > self.zombies {
            grown.push(format!("+ zombies: {} and then {}", self.zombies, later.zombies));
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(sockets: usize, private_kib: u64) -> Footprint {
        let descriptors = BTreeMap::from([("socket".to_owned(), sockets)]);
        Footprint { descriptors, private_kib, threads: 1, zombies: 0 }
    }

    #[test]
    fn less_and_a_little_more_memory_is_no_growth() {
        assert_eq!(footprint(3, 400).growth(&footprint(2, 464), 64), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_grew_is_named() {
        let mut later = footprint(4, 465);
        (later.threads, later.zombies) = (2, 1);
        let grown = [
            "+ descriptor: socket, 3 times and then 4",
            "+ memory: 400 KiB and then 465",
            "+ threads: 1 and then 2",
            "+ zombies: 0 and then 1",
        ];
        assert_eq!(footprint(3, 400).growth(&later, 64), grown);
    }

    #[test]
    fn a_running_process_has_a_footprint_and_one_that_is_gone_has_none() {
        let own = i32::try_from(std::process::id()).expect("pids are small");
        let held = Footprint::of(own).expect("it runs");
        assert!(held.private_kib > 0 && held.threads > 0 && !held.descriptors.is_empty(), "{held:?}");
        assert_eq!(Footprint::of(i32::MAX), None);
    }
}

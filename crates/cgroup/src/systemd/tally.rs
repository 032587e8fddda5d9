//! Out-of-memory kills in a scope that was gone before its own counter could be read.
//!
//! systemd removes a scope's directory as soon as its last process has ended, sometimes sooner than anybody else
//! gets to run; but the kernel has counted each kill at the slice above, too. In a pod's slice there are only
//! containers of one shim, so what the slice has counted and no container of this process accounts for
//! happened in the one that is gone. Nothing is concluded about a slice in which others are.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dunnage_sys::kernfs::Dir;

use crate::stats;

/// One scope among those of its slice.
#[derive(Debug)]
pub(crate) struct Tally {
    slice: PathBuf,
    parent: Dir,
    /// What the slice had counted and nobody accounted for when this scope began.
    before: u64,
    member: Arc<Member>,
}

#[derive(Debug)]
struct Member {
    directory: String,
    kills: Arc<AtomicU64>,
}

/// Slices with scopes of this process.
static SLICES: Mutex<Vec<Slice>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Slice {
    path: PathBuf,
    members: Vec<Arc<Member>>,
    /// Kills in scopes that were members.
    gone: u64,
}

impl Slice {
    /// Kills in known scopes, as far as they can be read, and those of earlier ones.
    fn accounted(&self, parent: &Dir) -> u64 {
        let read = |member: &Arc<Member>| {
            let now = kills(parent, &format!("{}/memory.events", member.directory)).unwrap_or(0);
            member.kills.fetch_max(now, Ordering::Relaxed).max(now)
        };
        self.gone + self.members.iter().map(read).sum::<u64>()
    }

    fn has(&self, directory: &str) -> bool {
        self.members.iter().any(|member| member.directory == directory)
    }
}

impl Tally {
    /// Begins to count for a scope whose directory is in `parent`, which is the slice's.
    pub(crate) fn new(slice: &Path, parent: Dir, directory: &str, kills_here: Arc<AtomicU64>) -> Self {
        let member = Arc::new(Member { directory: directory.to_owned(), kills: kills_here });
        let mut slices = SLICES.lock().unwrap_or_else(PoisonError::into_inner);
        let index = slices.iter().position(|known| known.path == slice).unwrap_or_else(|| {
            slices.push(Slice { path: slice.to_owned(), members: Vec::new(), gone: 0 });
            slices.len() - 1
        });
        slices[index].members.push(Arc::clone(&member));
        let before = kills(&parent, "memory.events").unwrap_or(0);
        let before = before.saturating_sub(slices[index].accounted(&parent));
        Self { slice: slice.to_owned(), parent, before, member }
    }

    /// Adds what the slice says to the count of a scope that is gone. Can be called again.
    pub(crate) fn recover(&self) {
        let slices = SLICES.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slice) = slices.iter().find(|known| known.path == self.slice) else { return };
        let Some(counted) = kills(&self.parent, "memory.events") else { return };
        let alone = self.parent.subdirs().is_ok_and(|directories| {
            directories.iter().all(|directory| directory.to_str().is_some_and(|name| slice.has(name)))
        });
        if alone {
            let lost = counted.saturating_sub(self.before).saturating_sub(slice.accounted(&self.parent));
            self.member.kills.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let mut slices = SLICES.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = slices.iter().position(|known| known.path == self.slice) else { return };
        let slice = &mut slices[index];
        slice.members.retain(|member| !Arc::ptr_eq(member, &self.member));
        slice.gone += self.member.kills.load(Ordering::Relaxed);
        if slice.members.is_empty() {
            slices.swap_remove(index);
        }
    }
}

fn kills(dir: &Dir, file: &str) -> Option<u64> {
    let mut text = Vec::new();
    dir.read(file, &mut text).ok()?;
    stats::kills(&text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A slice of plain files.
    struct Pod(tempfile::TempDir);

    impl Pod {
        fn new(kills: u64) -> Self {
            let pod = Self(tempfile::tempdir().unwrap());
            pod.counts(".", kills);
            pod
        }

        fn counts(&self, directory: &str, kills: u64) {
            let directory = self.0.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        }

        fn scope(&self, directory: &str) -> (Tally, Arc<AtomicU64>) {
            self.counts(directory, 0);
            let count = Arc::new(AtomicU64::new(0));
            let parent = Dir::open(self.0.path()).unwrap();
            (Tally::new(self.0.path(), parent, directory, Arc::clone(&count)), count)
        }

        fn ends(&self, directory: &str) {
            fs::remove_dir_all(self.0.path().join(directory)).unwrap();
        }
    }

    fn recovered(scope: &(Tally, Arc<AtomicU64>)) -> u64 {
        scope.0.recover();
        scope.0.recover();
        scope.1.load(Ordering::Relaxed)
    }

    #[test]
    fn a_kill_that_only_the_slice_remembers_was_in_the_scope_that_is_gone() {
        let pod = Pod::new(7);
        let (a, b) = (pod.scope("a.scope"), pod.scope("b.scope"));
        pod.counts(".", 8);
        pod.ends("a.scope");
        assert_eq!((recovered(&a), recovered(&b)), (1, 0));
    }

    #[test]
    fn kills_in_other_containers_are_not_taken_for_ones_own() {
        let pod = Pod::new(0);
        let (a, b, c) = (pod.scope("a.scope"), pod.scope("b.scope"), pod.scope("c.scope"));
        // In b, which nobody has read yet, and in c, which is gone but was read.
        pod.counts(".", 3);
        pod.counts("b.scope", 2);
        c.1.store(1, Ordering::Relaxed);
        pod.ends("c.scope");
        drop(c);
        pod.ends("a.scope");
        assert_eq!(recovered(&a), 0);
        assert_eq!(b.1.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn nothing_is_concluded_where_others_are() {
        let pod = Pod::new(0);
        pod.counts("foreign.service", 0);
        let a = pod.scope("a.scope");
        pod.counts(".", 1);
        pod.ends("a.scope");
        assert_eq!(recovered(&a), 0);
    }

    #[test]
    fn a_slice_is_forgotten_with_its_last_scope() {
        let pod = Pod::new(0);
        drop((pod.scope("a.scope"), pod.scope("b.scope")));
        assert!(SLICES.lock().unwrap().iter().all(|slice| slice.path != pod.0.path()));
    }
}

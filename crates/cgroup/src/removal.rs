//! Taking a container's directories away.

use dunnage_sys::Errno;

use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::systemd::Scope;
use crate::tree;

/// How far removing got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Every directory is gone.
    Gone,
    /// A process that has not quite ended is still in one: try again in some milliseconds.
    Busy,
}

impl Cgroup {
    /// Removes the container's directories in all hierarchies and all below them; one that is a unit is systemd's to
    /// remove. Waits at most for systemd's answer; can be called again.
    ///
    /// # Errors
    /// A directory could not be removed for another reason than a process in it. The others are gone then.
    pub fn remove(&self) -> Result<Removal> {
        if let Some(scope) = self.scope().filter(|scope| scope.is_told())
            && self.is_left_to(scope)?
        {
            return Ok(Removal::Busy);
        }
        let mut removal = Removal::Gone;
        let mut failed = None;
        for hierarchy in self.layout().hierarchies() {
            match tree::remove(hierarchy.root(), self.path()) {
                Ok(()) => {}
                Err(Errno::BUSY) => removal = Removal::Busy,
                Err(errno) => {
                    let place = hierarchy.mount_point().join(self.path());
                    failed = Some(dunnage_sys::Error::new(format!("rmdir {}", place.display()), errno));
                }
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(removal),
        }
    }

    /// Whether systemd still has to see to the directory of its unit, which it removes when the last process has
    /// ended. Removed under its hands it may not notice the end and keep the unit for ever.
    fn is_left_to(&self, scope: &Scope) -> Result<bool> {
        /// Looks before systemd is asked to stop a unit in which nobody is, and before the directory is removed
        /// in spite of it. Callers pause between looks, the longer the more there were.
        const STOP: u32 = 10;
        const ENOUGH: u32 = 40;
        let there = self.unified().is_some_and(|dir| dir.read("cgroup.events", &mut Vec::new()).is_ok());
        if !there {
            return Ok(false);
        }
        if self.populated() {
            return Ok(true);
        }
        match scope.look() {
            STOP => scope.stop(),
            looks => Ok(looks < ENOUGH),
        }
    }
}

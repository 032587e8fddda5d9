//! Taking a container's directories away.

use dunnage_sys::Errno;

use crate::cgroup::Cgroup;
use crate::error::Result;
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
    /// Removes the container's directories in all hierarchies and all below them. Never waits; can be called again.
    ///
    /// # Errors
    /// A directory could not be removed for another reason than a process in it. The others are gone then.
    pub fn remove(&self) -> Result<Removal> {
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
}

//! One entry of `mounts` and its place in the list, which errors name.

use dunnage_spec::mount::Mount;

use crate::error::Error;
use crate::step::{Missing, Target};
use crate::text;

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) index: usize,
    pub(crate) mount: &'a Mount,
}

impl Entry<'_> {
    pub(crate) fn field(&self, name: &str) -> String {
        format!("mounts[{}].{name}", self.index)
    }

    pub(crate) fn target(&self, missing: Missing) -> Result<Target, Error> {
        Ok(Target { path: text::relative(self.field("destination"), &self.mount.destination)?, missing })
    }
}

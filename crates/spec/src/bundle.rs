//! Reads a bundle directory: `config.json`, parsed and checked into a [`Spec`].
//!
//! Owns the file; the meaning of the parts lives in the sibling modules.

use std::path::{Path, PathBuf};

use dunnage_sys::error::Call as _;

use crate::{ContainerId, Error, Spec};

/// A bundle directory and the checked spec in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// Absolute path of the directory.
    pub directory: PathBuf,
    /// What its `config.json` says.
    pub spec: Spec,
}

impl Bundle {
    /// Reads and checks `directory/config.json`. `id` names the cgroup when the spec gives no path.
    ///
    /// # Errors
    /// `Io` when the file cannot be read, `InvalidArgument` when it can never work, `Unimplemented` when it
    /// asks for what dunnage does not do.
    pub fn load(directory: &Path, id: &ContainerId) -> Result<Self, Error> {
        let directory =
            std::path::absolute(directory).call(|| format!("find directory {}", directory.display()))?;
        let file = directory.join("config.json");
        let text = std::fs::read(&file).call(|| format!("read {}", file.display()))?;
        let spec = Spec::from_json(&text, &directory, id)?;
        Ok(Self { directory, spec })
    }
}

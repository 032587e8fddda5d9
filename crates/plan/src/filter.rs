//! System call filters, compiled once for all containers that share a profile.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use dunnage_spec::seccomp::Profile;

use crate::error::Error;
use crate::step::Filter;

/// The filter compiled last. One is enough: a shim serves one pod, whose containers mostly share a profile.
///
/// Remembers a keyed hash of the profile and not the profile, which is a hundred times as large.
#[derive(Debug, Default)]
pub struct FilterCache {
    key: RandomState,
    last: Option<(u64, Arc<dunnage_seccomp::Program>)>,
}

impl FilterCache {
    pub(crate) fn compile(&mut self, profile: &Profile) -> Result<Filter, Error> {
        let hash = self.key.hash_one(profile);
        if let Some((of, program)) = &self.last
            && *of == hash
        {
            return Ok(Filter { program: Arc::clone(program) });
        }
        let program = Arc::new(dunnage_seccomp::compile(profile).map_err(Error::Seccomp)?);
        self.last = Some((hash, Arc::clone(&program)));
        Ok(Filter { program })
    }
}

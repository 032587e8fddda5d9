//! Layers stacked by overlayfs: the mount that containerd's overlayfs snapshotter would hand to a shim.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One container's root: shared layers below, a layer of its own above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// Lowest first.
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
}

impl Overlay {
    /// The options of the mount, topmost layer first as overlayfs reads them.
    pub(crate) fn options(&self) -> Vec<String> {
        vec![
            "index=off".to_owned(),
            format!("workdir={}", self.work.display()),
            format!("upperdir={}", self.upper.display()),
            format!("lowerdir={}", lowerdir(&self.lowers)),
        ]
    }
}

/// The value of `lowerdir=`.
pub(super) fn lowerdir(lowers: &[PathBuf]) -> String {
    let paths: Vec<String> = lowers.iter().rev().map(|path| path.display().to_string()).collect();
    paths.join(":")
}

/// Whether a path can stand in an option string as it is. Commas and colons separate there, and backslashes
/// escape them differently in mount(2), fsconfig(2) and the shims between.
pub(super) fn is_plain(path: &Path) -> bool {
    path.to_str().is_some() && !path.as_os_str().as_bytes().iter().any(|b| b",:\\\"".contains(b))
}

//! Which shim is under test and where the built programs are.
//!
//! `RUNTIME=runc` selects the reference shim of the installed containerd, anything else dunnage. Programs are
//! taken from `DUNNAGE_BIN_DIR`, else from the build folder the running program itself came from.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The shim that a test drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Our shim.
    Dunnage,
    /// containerd's own `containerd-shim-runc-v2`.
    Runc,
}

impl Runtime {
    /// The runtime the environment asks for.
    pub fn under_test() -> Self {
        match env::var("RUNTIME").as_deref() {
            Ok("runc") => Self::Runc,
            _ => Self::Dunnage,
        }
    }

    /// The name containerd resolves to a program.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Dunnage => "io.containerd.dunnage.v1",
            Self::Runc => "io.containerd.runc.v2",
        }
    }

    /// The CRI handler that the rig's containerd configures for it.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Dunnage => "dunnage",
            Self::Runc => "runc",
        }
    }

    /// The shim's program.
    ///
    /// # Errors
    /// When it is not built or not installed.
    pub fn shim(self) -> Result<PathBuf> {
        match self {
            Self::Dunnage => built("containerd-shim-dunnage-v1"),
            Self::Runc => installed("containerd-shim-runc-v2"),
        }
    }

    /// Whether this is dunnage; for tests of what only dunnage has.
    pub fn is_dunnage(self) -> bool {
        self == Self::Dunnage
    }
}

/// The folder of built programs.
///
/// # Errors
/// When the running program does not lie in a cargo build folder and `DUNNAGE_BIN_DIR` is not set.
pub fn build_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("DUNNAGE_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let own = env::current_exe().context("find the running program")?;
    own.ancestors()
        .skip(1)
        .find(|dir| dir.join("probe").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("no built programs above {}: set DUNNAGE_BIN_DIR", own.display()))
}

/// A program of this workspace.
///
/// # Errors
/// When it is not built.
pub fn built(name: &str) -> Result<PathBuf> {
    let path = build_dir()?.join(name);
    if !path.is_file() {
        bail!("{} is not built: use `make e2e`", path.display());
    }
    Ok(path)
}

/// A program of the machine, by `PATH` and the folders of system programs.
///
/// # Errors
/// When it is nowhere.
pub fn installed(name: &str) -> Result<PathBuf> {
    search_path()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// Folders in which programs of the machine are looked for.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = env::split_paths(&path).collect();
    own.into_iter().chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
}

//! The root file system that containerd describes with `Create`: mounted on the bundle's `rootfs` before the
//! container is made, unmounted when it is deleted.
//!
//! Owns the meaning of containerd's mount entries (fstab-like type, source, options), which every snapshotter
//! makes a little differently. It stays visible on the host, where containerd, its tools and users look for
//! it. Mounts inside the container belong to the plan.

use std::path::{Path, PathBuf};

use dunnage_sys::Call;
use dunnage_sys::classic_mount::{self, Flags};

/// One entry of `CreateTaskRequest.rootfs`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsMount {
    /// `overlay`, `bind`, `ext4`, …
    pub fs_type: String,
    /// Path, device, or a word.
    pub source: String,
    /// Path below the root file system, usually empty.
    pub target: String,
    /// As in fstab.
    pub options: Vec<String>,
}

/// Why it could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call failed.
    #[error("rootfs: {0}")]
    System(#[from] dunnage_sys::Error),
    /// An option that would change what is seen and is not there yet.
    #[error("rootfs: mount option {0:?} is not supported yet")]
    Option(String),
    /// A target that leaves the root file system.
    #[error("rootfs: mount target {0:?} leads out of the root file system")]
    Target(String),
}

/// A mounted root file system; [`MountedRootfs::unmount`] takes it down, dropping it does so silently.
#[derive(Debug)]
pub struct MountedRootfs {
    path: PathBuf,
    mounted: bool,
}

/// Mounts the entries in order on `path` (made when missing). An empty list mounts nothing: the spec's
/// `root.path` is ready then.
///
/// # Errors
/// [`Error`], after what was mounted before has been taken down.
pub fn mount(entries: &[RootfsMount], path: &Path) -> Result<Option<MountedRootfs>, Error> {
    if entries.is_empty() {
        return Ok(None);
    }
    std::fs::create_dir_all(path).call(|| format!("mkdir {}", path.display()))?;
    let mut rootfs = MountedRootfs { path: path.to_owned(), mounted: false };
    for entry in entries {
        mount_entry(entry, &target(path, &entry.target)?)?;
        rootfs.mounted = true;
    }
    Ok(Some(rootfs))
}

impl MountedRootfs {
    /// Takes over what an earlier process mounted at `path`.
    #[must_use]
    pub fn adopt(path: &Path) -> Self {
        Self { path: path.to_owned(), mounted: true }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches it with everything mounted on it.
    ///
    /// # Errors
    /// The failed call.
    pub fn unmount(mut self) -> Result<(), Error> {
        Ok(self.detach()?)
    }

    // Entries may be stacked on one path: detach until nothing is mounted there any more.
    fn detach(&mut self) -> Result<(), dunnage_sys::Error> {
        while self.mounted {
            self.mounted = classic_mount::unmount(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for MountedRootfs {
    fn drop(&mut self) {
        // Only on the way out of a failed create, which reports its own error.
        let _ = self.detach();
    }
}

fn target(rootfs: &Path, below: &str) -> Result<PathBuf, Error> {
    let below = Path::new(below.trim_start_matches('/'));
    if below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::Target(below.display().to_string()));
    }
    // join("") would add a trailing slash, which mount(2) takes but /proc/mounts does not show.
    Ok(if below.as_os_str().is_empty() { rootfs.to_owned() } else { rootfs.join(below) })
}

fn mount_entry(entry: &RootfsMount, target: &Path) -> Result<(), Error> {
    let options = Options::parse(&entry.options)?;
    if options.bind {
        classic_mount::bind(Path::new(&entry.source), target, options.recursive)?;
        // A bind takes its flags only from a second call.
        if !options.flags.is_empty()
            && let Err(error) = classic_mount::remount(target, options.flags)
        {
            classic_mount::unmount(target)?;
            return Err(error.into());
        }
        return Ok(());
    }
    classic_mount::mount(&entry.source, target, &entry.fs_type, options.flags, &options.data)?;
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    bind: bool,
    recursive: bool,
    flags: Flags,
    data: String,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self, Error> {
        let mut parsed = Self { bind: false, recursive: false, flags: Flags::empty(), data: String::new() };
        for option in options {
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                "loop" => return Err(Error::Option(option.clone())),
                other if other.starts_with("X-containerd.") || other.starts_with("uidmap=") => {
                    return Err(Error::Option(option.clone()));
                }
                other if other.starts_with("gidmap=") => return Err(Error::Option(option.clone())),
                other => parsed.add(other),
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) {
        match flag(option) {
            Some((flag, true)) => self.flags |= flag,
            Some((flag, false)) => self.flags -= flag,
            None => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                self.data.push_str(option);
            }
        }
    }
}

// The flags of mount(8) that containerd's snapshotters use; what is not here is the file system's own.
fn flag(option: &str) -> Option<(Flags, bool)> {
    Some(match option {
        "defaults" => (Flags::empty(), true),
        "ro" => (Flags::RDONLY, true),
        "rw" => (Flags::RDONLY, false),
        "nosuid" => (Flags::NOSUID, true),
        "suid" => (Flags::NOSUID, false),
        "nodev" => (Flags::NODEV, true),
        "dev" => (Flags::NODEV, false),
        "noexec" => (Flags::NOEXEC, true),
        "exec" => (Flags::NOEXEC, false),
        "sync" => (Flags::SYNCHRONOUS, true),
        "async" => (Flags::SYNCHRONOUS, false),
        "dirsync" => (Flags::DIRSYNC, true),
        "noatime" => (Flags::NOATIME, true),
        "atime" => (Flags::NOATIME, false),
        "nodiratime" => (Flags::NODIRATIME, true),
        "diratime" => (Flags::NODIRATIME, false),
        "relatime" => (Flags::RELATIME, true),
        "norelatime" => (Flags::RELATIME, false),
        "strictatime" => (Flags::STRICTATIME, true),
        "nostrictatime" => (Flags::STRICTATIME, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Options {
        Options::parse(&list.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn an_overlay_entry_splits_into_flags_and_data() {
        let parsed = options(&["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b", "ro"]);
        assert_eq!(parsed.data, "index=off,workdir=/w,upperdir=/u,lowerdir=/a:/b");
        assert_eq!(parsed.flags, Flags::RDONLY);
    }

    #[test]
    fn a_read_only_snapshot_is_a_recursive_bind_with_a_flag() {
        let parsed = options(&["rbind", "ro"]);
        assert_eq!((parsed.bind, parsed.recursive, parsed.flags), (true, true, Flags::RDONLY));
    }

    #[test]
    fn options_for_the_mount_service_are_refused_by_name() {
        let error = Options::parse(&["X-containerd.mkfs.fs=ext4".into()]).unwrap_err();
        assert!(error.to_string().contains("X-containerd.mkfs.fs=ext4"));
    }

    #[test]
    fn a_target_cannot_leave_the_root() {
        assert!(matches!(target(Path::new("/r"), "../etc"), Err(Error::Target(_))));
        assert_eq!(target(Path::new("/r"), "/var/lib").unwrap(), Path::new("/r/var/lib"));
    }
}

//! Volumes on the host side: made, or checked, before a container mounts them.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dunnage_sys::classic_mount::{self, Flags};

use crate::manifest::{HostPathKind, Pod, Source, Volume};

/// A volume ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
}

/// Prepares every volume of the pod; those it makes are in `folder`, which exists.
///
/// # Errors
/// A host path is not what the manifest says, or something cannot be made.
pub(crate) fn prepare(pod: &Pod, folder: &Path) -> anyhow::Result<BTreeMap<String, Prepared>> {
    let one = |volume: &Volume| {
        let path = match &volume.source {
            Source::EmptyDir { memory, size_limit } => {
                empty_dir(&folder.join(&volume.name), *memory, *size_limit, pod.fs_group)
            }
            Source::HostPath { path, kind } => host_path(Path::new(path), *kind),
        };
        let path = path.with_context(|| format!("volume {}", volume.name))?;
        Ok((volume.name.clone(), Prepared { path }))
    };
    pod.volumes.iter().map(one).collect()
}

/// A directory everyone may use, or only the group when the pod has one for its volumes (the kubelet's rule).
fn empty_dir(
    path: &Path,
    memory: bool,
    size_limit: Option<u64>,
    group: Option<u32>,
) -> anyhow::Result<PathBuf> {
    std::fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
    if memory {
        let size = size_limit.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        let options = format!("mode=0777{size}");
        classic_mount::mount("tmpfs", path, "tmpfs", Flags::NOSUID | Flags::NODEV, &options)?;
    }
    if let Some(group) = group {
        chown(path, None, Some(group)).with_context(|| format!("chown {}", path.display()))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))?;
    Ok(path.to_owned())
}

fn host_path(path: &Path, kind: HostPathKind) -> anyhow::Result<PathBuf> {
    let missing = !path.exists();
    match kind {
        // Nothing is checked, and containerd makes a directory of what is missing.
        HostPathKind::Unchecked | HostPathKind::DirectoryOrCreate if missing => {
            std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        HostPathKind::FileOrCreate if missing => {
            std::fs::write(path, "").with_context(|| format!("create {}", path.display()))?;
        }
        _ => {}
    }
    let found = std::fs::metadata(path).with_context(|| format!("hostPath {}", path.display()))?.file_type();
    let (fits, wanted) = match kind {
        HostPathKind::Unchecked => (true, ""),
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => (found.is_dir(), "a directory"),
        HostPathKind::FileOrCreate | HostPathKind::File => (found.is_file(), "a file"),
        HostPathKind::Socket => (found.is_socket(), "a socket"),
        HostPathKind::CharDevice => (found.is_char_device(), "a character device"),
        HostPathKind::BlockDevice => (found.is_block_device(), "a block device"),
    };
    if !fits {
        bail!("hostPath {}: is not {wanted}, which its type asks for", path.display());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn pod(volumes: &str, spec: &str) -> Pod {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: Never\n{spec}  volumes: \
             [{volumes}]\n  containers: [{{name: c, image: x}}]\n"
        );
        Pod::parse(Path::new("p"), &text).unwrap()
    }

    #[test]
    fn an_empty_directory_is_open_to_all_and_has_the_group_of_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod("{name: a, emptyDir: {}}", "  securityContext: {fsGroup: 4242}\n");
        let prepared = prepare(&pod, dir.path()).unwrap();
        let found = std::fs::metadata(&prepared["a"].path).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (4242, 0o2777));
    }

    #[test]
    fn memory_is_a_tmpfs_of_the_size_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let prepared =
            prepare(&pod("{name: m, emptyDir: {medium: Memory, sizeLimit: 64Ki}}", ""), dir.path()).unwrap();
        let path = &prepared["m"].path;
        let fits = std::fs::write(path.join("small"), vec![0; 32 << 10]);
        let full = std::fs::write(path.join("large"), vec![0; 128 << 10]);
        let mode = std::fs::metadata(path).unwrap().mode();
        assert!(classic_mount::unmount(path).unwrap());
        fits.unwrap();
        assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(mode & 0o7777, 0o777);
    }

    #[test]
    fn host_paths_must_be_what_their_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let try_one = |path: &str, kind: &str| {
            let volume = format!("{{name: h, hostPath: {{path: {path}, type: {kind}}}}}");
            prepare(&pod(&volume, ""), dir.path()).map_err(|error| format!("{error:#}"))
        };
        for (path, kind) in [
            (at("file"), "File"),
            (at("file"), "FileOrCreate"),
            (at("made"), "FileOrCreate"),
            (at("new/dir"), "DirectoryOrCreate"),
            (at("new"), "Directory"),
            (at("socket"), "Socket"),
            ("/dev/null".to_owned(), "CharDevice"),
            (at("file"), "\"\""),
            (at("created"), "\"\""),
        ] {
            try_one(&path, kind).unwrap_or_else(|error| panic!("{path} {kind}: {error}"));
        }
        assert!(dir.path().join("made").is_file() && dir.path().join("created").is_dir());
        for (path, kind) in [
            (at("file"), "Directory"),
            (at("new"), "File"),
            (at("none"), "Directory"),
            (at("none"), "File"),
            (at("file"), "Socket"),
            (at("file"), "CharDevice"),
            ("/dev/null".to_owned(), "BlockDevice"),
        ] {
            let error = try_one(&path, kind).unwrap_err();
            assert!(error.contains("volume h: hostPath"), "{path} {kind}: {error}");
        }
    }
}

//! From a [`CgroupPath`] to one directory name that is the same in every hierarchy.
//!
//! The form of the path chooses the driver. The systemd form without systemd becomes the directories that
//! systemd would have made, so that an image or virtual machine without it runs the same pods.

use std::path::{Component, Path, PathBuf};

use dunnage_spec::resources::CgroupPath;

use crate::error::{Error, Result};

/// sd_booted(3): this directory exists exactly when systemd is the service manager.
const SYSTEMD: &str = "/run/systemd/system";

/// The directory relative to the root of every hierarchy, without a leading `/`.
pub(crate) fn resolve(path: &CgroupPath) -> Result<PathBuf> {
    match path {
        CgroupPath::Cgroupfs(path) => relative(path),
        CgroupPath::Systemd { .. } if Path::new(SYSTEMD).is_dir() => {
            Err(Error::Unimplemented("systemd cgroup driver"))
        }
        CgroupPath::Systemd { slice, prefix, name } => expand(slice, prefix, name),
    }
}

fn relative(path: &Path) -> Result<PathBuf> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => relative.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Invalid(format!("cgroup path {} leaves its hierarchy", path.display())));
            }
        }
    }
    if relative.as_os_str().is_empty() {
        return Err(Error::Invalid("a container cannot have the root cgroup".to_owned()));
    }
    Ok(relative)
}

/// `a-b.slice`, `prefix`, `name` → `a.slice/a-b.slice/prefix-name.scope` (systemd.slice(5)).
fn expand(slice: &str, prefix: &str, name: &str) -> Result<PathBuf> {
    let mut path = expand_slice(if slice.is_empty() { "system.slice" } else { slice })?;
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    if name.is_empty() || unit.contains('/') {
        return Err(Error::Invalid(format!("{unit:?} is not the name of a unit")));
    }
    path.push(unit);
    Ok(path)
}

fn expand_slice(slice: &str) -> Result<PathBuf> {
    let wrong = || Error::Invalid(format!("{slice:?} is not the name of a slice"));
    let stem = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    let mut path = PathBuf::new();
    // `-.slice` is the root of all slices.
    if stem == "-" {
        return Ok(path);
    }
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(wrong());
    }
    let dashes = stem.match_indices('-').map(|(index, _)| index);
    for end in dashes.chain([stem.len()]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_expanded_through_its_parents() {
        let path = expand("kubepods-burstable-pod12_3.slice", "cri-containerd", "abc").unwrap();
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_3.slice/\
                        cri-containerd-abc.scope";
        assert_eq!(path, Path::new(expected));
    }

    #[test]
    fn an_empty_slice_is_the_system_slice_and_a_dash_is_the_root() {
        assert_eq!(expand("", "docker", "x").unwrap(), Path::new("system.slice/docker-x.scope"));
        assert_eq!(expand("-.slice", "", "x").unwrap(), Path::new("x.scope"));
    }

    #[test]
    fn names_that_no_systemd_would_take_are_refused() {
        for slice in ["a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", ".slice"] {
            assert!(expand(slice, "p", "n").is_err(), "{slice}");
        }
        assert!(expand("a.slice", "p", "n/../../m").is_err());
        assert!(expand("a.slice", "p", "").is_err());
    }

    #[test]
    fn a_directory_path_loses_its_root_and_may_not_climb() {
        assert_eq!(relative(Path::new("/kubepods/pod1/id")).unwrap(), Path::new("kubepods/pod1/id"));
        assert!(relative(Path::new("/a/../b")).is_err());
        assert!(relative(Path::new("/")).is_err());
    }
}

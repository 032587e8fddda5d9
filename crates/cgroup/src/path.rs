//! From a [`CgroupPath`] to one directory name that is the same in every hierarchy.
//!
//! The form of the path chooses the driver. The systemd form without systemd becomes the directories that
//! systemd would have made, so that an image or virtual machine without it runs the same pods.

use std::path::{Component, Path, PathBuf};

use dunnage_spec::resources::CgroupPath;

use crate::error::{Error, Result};
use crate::systemd;

/// Where a container's cgroup is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The directory relative to the root of every hierarchy, without a leading `/`.
    pub(crate) path: PathBuf,
    /// Slice and name of the unit, when systemd has to know of it.
    pub(crate) unit: Option<(String, String)>,
}

pub(crate) fn resolve(path: &CgroupPath) -> Result<Place> {
    match path {
        CgroupPath::Cgroupfs(path) => Ok(Place { path: relative(path)?, unit: None }),
        CgroupPath::Systemd { slice, prefix, name } => {
            let slice = if slice.is_empty() { "system.slice" } else { slice };
            let unit = unit(prefix, name)?;
            let path = expand(slice, &unit)?;
            if !systemd::is_booted() {
                return Ok(Place { path, unit: None });
            }
            if unit.ends_with(".slice") {
                return Err(Error::Invalid(format!(
                    "a container cannot be {unit:?}: a slice has no processes"
                )));
            }
            Ok(Place { path, unit: Some((slice.to_owned(), unit)) })
        }
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

/// systemd.unit(5): what a unit's name may consist of, and its length.
fn unit(prefix: &str, name: &str) -> Result<String> {
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\".contains(&byte);
    if name.is_empty() || unit.len() > 255 || !unit.bytes().all(allowed) {
        return Err(Error::Invalid(format!("{unit:?} is not the name of a unit")));
    }
    Ok(unit)
}

/// `a-b.slice`, `prefix-name.scope` → `a.slice/a-b.slice/prefix-name.scope` (systemd.slice(5)).
fn expand(slice: &str, unit: &str) -> Result<PathBuf> {
    let mut path = expand_slice(slice)?;
    path.push(directory(unit));
    Ok(path)
}

/// systemd's name for a unit's directory: names that could be the kernel's files get an underscore
/// (systemd.git, `cg_escape`).
fn directory(unit: &str) -> String {
    const FILES: [&str; 3] = ["notify_on_release", "release_agent", "tasks"];
    const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids"];
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let escaped = unit.starts_with(['_', '.'])
        || unit.starts_with("cgroup.")
        || FILES.contains(&unit)
        || CONTROLLERS.contains(&stem);
    if escaped { format!("_{unit}") } else { unit.to_owned() }
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
        path.push(directory(&format!("{}.slice", &stem[..end])));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_expanded_through_its_parents() {
        let path =
            expand("kubepods-burstable-pod12_3.slice", &unit("cri-containerd", "abc").unwrap()).unwrap();
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_3.slice/\
                        cri-containerd-abc.scope";
        assert_eq!(path, Path::new(expected));
    }

    #[test]
    fn a_dash_is_the_root_of_all_slices() {
        assert_eq!(expand("-.slice", &unit("", "x").unwrap()).unwrap(), Path::new("x.scope"));
        assert_eq!(
            expand("a.slice", &unit("docker", "x").unwrap()).unwrap(),
            Path::new("a.slice/docker-x.scope")
        );
    }

    #[test]
    fn names_that_no_systemd_would_take_are_refused() {
        for slice in ["a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", ".slice"] {
            assert!(expand(slice, "p-n.scope").is_err(), "{slice}");
        }
        for name in ["n/../../m", "", "a b", "a@b", "ä", &"x".repeat(250)] {
            assert!(unit("p", name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_unit_named_like_a_file_of_the_kernel_has_another_directory() {
        for (unit, name) in [
            ("memory.slice", "_memory.slice"),
            ("cpu-x.scope", "cpu-x.scope"),
            ("_x.scope", "__x.scope"),
            ("cgroup.x.scope", "_cgroup.x.scope"),
            ("pids.x.scope", "pids.x.scope"),
        ] {
            assert_eq!(directory(unit), name);
        }
    }

    #[test]
    fn a_directory_path_loses_its_root_and_may_not_climb() {
        assert_eq!(relative(Path::new("/kubepods/pod1/id")).unwrap(), Path::new("kubepods/pod1/id"));
        assert!(relative(Path::new("/a/../b")).is_err());
        assert!(relative(Path::new("/")).is_err());
    }
}

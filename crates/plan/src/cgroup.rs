//! A `cgroup` mount: the container's own directories, however this host lays out its hierarchies.
//!
//! With a cgroup namespace of its own the container mounts the file system itself and sees its directory as
//! the root. Without one it gets a bind of its directory: mounting `cgroup2` in the host's cgroup namespace
//! would not only show the whole tree but also reset options of the host's superblock (`nsdelegate`), because
//! there is only one.

use std::ffi::CString;

use dunnage_spec::mount::Superblock;
use dunnage_spec::namespace::Namespace;

use crate::attributes::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::error::Error;
use crate::facts::{CgroupMount, RootfsFacts};
use crate::step::{FileSystem, Missing, MountAttributes, Step, Target};
use crate::text;

/// Lowers one `cgroup` mount; gives its target when it has to become read-only later.
pub(crate) fn mount(
    draft: &mut Draft,
    entry: &Entry<'_>,
    namespace: &Namespace,
    own: &RootfsFacts,
) -> Result<Option<Target>, Error> {
    let target = entry.target(Missing::Directory)?;
    match own.cgroups.as_slice() {
        [] => Err(Error::host(entry.field("type"), "this host mounts no cgroup hierarchy")),
        [unified] if unified.name.is_empty() => {
            let attributes = attributes::fresh(&entry.mount.attributes, &entry.mount.recursive);
            hierarchy(draft, entry, namespace, unified, attributes, target)?;
            Ok(None)
        }
        several => by_hierarchy(draft, entry, namespace, several, target),
    }
}

/// cgroup v1 and hybrid: a tmpfs with one mount point for each hierarchy.
fn by_hierarchy(
    draft: &mut Draft,
    entry: &Entry<'_>,
    namespace: &Namespace,
    hierarchies: &[CgroupMount],
    target: Target,
) -> Result<Option<Target>, Error> {
    let attributes =
        attributes::fresh(&entry.mount.attributes, &entry.mount.recursive) | NOSUID | NODEV | NOEXEC;
    let tmpfs = FileSystem {
        fs_type: c"tmpfs".to_owned(),
        source: c"tmpfs".to_owned(),
        options: vec![(c"mode".to_owned(), Some(c"755".to_owned()))],
        superblock: Superblock::default(),
        attributes: attributes & !RDONLY,
        keep_mode: false,
    };
    let step = Step::MountFileSystem {
        file_system: tmpfs,
        target: target.clone(),
        propagation: entry.mount.propagation.clone(),
        no_symlink: false,
    };
    draft.step(step, "mount points for the hierarchies of cgroup v1");
    for one in hierarchies {
        hierarchy(draft, entry, namespace, one, attributes, below(entry, &target, &one.name)?)?;
    }
    for one in hierarchies {
        links(draft, entry, one, &target)?;
    }
    Ok((attributes & RDONLY != 0).then_some(target))
}

fn hierarchy(
    draft: &mut Draft,
    entry: &Entry<'_>,
    namespace: &Namespace,
    one: &CgroupMount,
    attributes: u64,
    target: Target,
) -> Result<(), Error> {
    let propagation = entry.mount.propagation.clone();
    if namespace.is_own() {
        let file_system = file_system(entry, one, attributes)?;
        let step = Step::MountFileSystem { file_system, target, propagation, no_symlink: false };
        draft.step(step, "seen from the cgroup namespace, the container's cgroup is the root");
    } else {
        let step = Step::BindMount {
            source: text::path("cgroup directory", &one.host_path)?,
            recursive: false,
            attributes: as_change(attributes),
            recursive_attributes: MountAttributes::default(),
            target,
            propagation,
        };
        draft.step(step, "without a cgroup namespace only a bind hides the rest of the tree");
    }
    Ok(())
}

fn as_change(attributes: u64) -> MountAttributes {
    let has_atime = attributes & attributes::ATIME != 0;
    MountAttributes { set: attributes, clear: if has_atime { attributes::ATIME } else { 0 } }
}

fn file_system(entry: &Entry<'_>, one: &CgroupMount, attributes: u64) -> Result<FileSystem, Error> {
    let (fs_type, options) = match &one.v1_options {
        None => (c"cgroup2", Vec::new()),
        Some(options) => (c"cgroup", v1_options(entry, options)?),
    };
    Ok(FileSystem {
        fs_type: fs_type.to_owned(),
        source: c"cgroup".to_owned(),
        options,
        superblock: Superblock::default(),
        attributes,
        keep_mode: false,
    })
}

/// `cpu,cpuacct` are two flags, `name=systemd` is a value.
fn v1_options(entry: &Entry<'_>, options: &str) -> Result<Vec<(CString, Option<CString>)>, Error> {
    let c_string = |text: &str| text::c_string(entry.field("options"), text);
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|option| match option.split_once('=') {
            Some((name, value)) => Ok((c_string(name)?, Some(c_string(value)?))),
            None => Ok((c_string(option)?, None)),
        })
        .collect()
}

fn links(draft: &mut Draft, entry: &Entry<'_>, one: &CgroupMount, target: &Target) -> Result<(), Error> {
    for link in one.symlinks.iter().filter(|link| **link != one.name) {
        let step = Step::MakeSymlink {
            target: text::c_string(entry.field("destination"), &one.name)?,
            path: below(entry, target, link)?.path,
            replace: false,
        };
        draft.step(step, "controllers that are mounted together are also found alone");
    }
    Ok(())
}

fn below(entry: &Entry<'_>, target: &Target, name: &str) -> Result<Target, Error> {
    let path = [target.path.as_bytes(), name.as_bytes()].join(&b'/');
    Ok(Target { path: text::c_string(entry.field("destination"), path)?, missing: Missing::Directory })
}

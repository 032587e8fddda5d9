//! The mounts of the spec, in its order.

use std::ffi::CString;
use std::path::Path;

use dunnage_spec::Spec;
use dunnage_spec::mount::{MountSource, Superblock};
use dunnage_spec::namespace::{Namespace, Namespaces};

use crate::attributes::{self, RDONLY};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::error::Error;
use crate::facts::{HostFacts, RootfsFacts};
use crate::step::{FileSystem, Missing, Phase, Step, Target};
use crate::{cgroup, text};

/// All of them. Gives those that must become read-only later ([`crate::rootfs::seal`]): a mount point or a
/// node cannot be made below a read-only mount.
pub(crate) fn all(
    draft: &mut Draft,
    spec: &Spec,
    host: &HostFacts,
    own: &RootfsFacts,
) -> Result<Vec<Target>, Error> {
    draft.enter(Phase::Mounts);
    let label = label(spec, host)?;
    let mut late = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        let entry = Entry { index, mount };
        match &mount.source {
            MountSource::Bind { path, recursive } => bind(draft, &entry, path, *recursive)?,
            MountSource::Cgroup => late.extend(cgroup::mount(draft, &entry, &spec.namespaces.cgroup, own)?),
            MountSource::FileSystem { .. } => {
                late.extend(file_system(draft, &entry, &spec.namespaces, label.as_ref())?);
            }
        }
    }
    Ok(late)
}

fn label(spec: &Spec, host: &HostFacts) -> Result<Option<CString>, Error> {
    let Some(label) = &spec.mount_label else { return Ok(None) };
    if !host.selinux {
        return Err(Error::host("linux.mountLabel", "SELinux is not enabled on this host"));
    }
    text::c_string("linux.mountLabel", label).map(Some)
}

fn bind(draft: &mut Draft, entry: &Entry<'_>, path: &Path, recursive: bool) -> Result<(), Error> {
    let mount = entry.mount;
    let step = Step::BindMount {
        source: text::path(entry.field("source"), path)?,
        recursive,
        attributes: attributes::change(&mount.attributes),
        recursive_attributes: attributes::change(&mount.recursive),
        target: entry.target(Missing::LikeSource)?,
        propagation: mount.propagation.clone(),
    };
    draft.step(step, "the spec shows this part of the host");
    Ok(())
}

/// Mounts a new file system; gives its target when it has to become read-only later.
fn file_system(
    draft: &mut Draft,
    entry: &Entry<'_>,
    namespaces: &Namespaces,
    label: Option<&CString>,
) -> Result<Option<Target>, Error> {
    let MountSource::FileSystem { fs_type, source, options, superblock } = &entry.mount.source else {
        return Ok(None);
    };
    let target = entry.target(Missing::Directory)?;
    let mut file_system = FileSystem {
        fs_type: text::c_string(entry.field("type"), fs_type)?,
        source: text::c_string(entry.field("source"), source)?,
        options: lower_options(entry, options)?,
        superblock: superblock_of(fs_type, *superblock),
        attributes: attributes::fresh(&entry.mount.attributes, &entry.mount.recursive),
        keep_mode: fs_type == "tmpfs" && options.iter().all(|(name, _)| name != "mode"),
    };
    // These three take their label from the policy and refuse `context=`.
    if !matches!(fs_type.as_str(), "proc" | "sysfs" | "mqueue") {
        file_system.options.extend(label.map(|label| (c"context".to_owned(), Some(label.clone()))));
    }
    let late = (fs_type == "tmpfs" || target.path.as_c_str() == c"dev") && make_writable(&mut file_system);
    let step = Step::MountFileSystem {
        file_system,
        target: target.clone(),
        propagation: entry.mount.propagation.clone(),
        no_symlink: matches!(fs_type.as_str(), "proc" | "sysfs"),
    };
    draft.step(step, reason(fs_type, &entry.mount.destination, namespaces));
    Ok(late.then_some(target))
}

/// The superblock of these belongs to a namespace and not to the mount, and a pod's containers share it: a
/// read-only one, made for the first container, would be read-only for a privileged second one as well. That
/// the mount is read-only says all there is to say.
fn superblock_of(fs_type: &str, wanted: Superblock) -> Superblock {
    let is_shared = matches!(fs_type, "proc" | "sysfs" | "mqueue");
    Superblock { read_only: wanted.read_only && !is_shared, ..wanted }
}

fn make_writable(file_system: &mut FileSystem) -> bool {
    let was_readonly = file_system.superblock.read_only || file_system.attributes & RDONLY != 0;
    file_system.superblock = Superblock { read_only: false, ..file_system.superblock };
    file_system.attributes &= !RDONLY;
    was_readonly
}

fn lower_options(
    entry: &Entry<'_>,
    options: &[(String, Option<String>)],
) -> Result<Vec<(CString, Option<CString>)>, Error> {
    let c_string = |text: &String| text::c_string(entry.field("options"), text);
    options
        .iter()
        .map(|(name, value)| Ok((c_string(name)?, value.as_ref().map(c_string).transpose()?)))
        .collect()
}

fn reason(fs_type: &str, destination: &Path, namespaces: &Namespaces) -> &'static str {
    match (fs_type, destination.to_str()) {
        ("proc", _) => match namespaces.pid {
            Namespace::New => "the program must see its own processes only",
            Namespace::Join(_) => "the program must see the processes of the joined pid namespace only",
            Namespace::Host => "the spec shares the host's processes",
        },
        ("sysfs", _) if namespaces.network.is_own() => "it shows the devices of its own network namespace",
        ("mqueue", _) if namespaces.ipc.is_own() => "it shows the queues of its own ipc namespace",
        ("devpts", _) => "terminals of its own",
        ("tmpfs", Some("/dev")) => "only the nodes that are made below",
        ("tmpfs", Some("/dev/shm")) => "POSIX shared memory of its own",
        _ => "mounts of the spec, in its order",
    }
}

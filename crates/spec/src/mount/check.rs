//! Checks one entry of `mounts`: where it goes, what it shows, and what its options mean for that.

use std::path::{Path, PathBuf};

use crate::error::{Checked, invalid, unsupported};
use crate::json;
use crate::mount::options::Options;
use crate::mount::{Mount, MountSource, Superblock};
use crate::path::{clean, clean_from};

impl Mount {
    /// `bundle` is what relative bind sources are taken from. What is ignored goes to `warnings`.
    pub(crate) fn check(mount: json::Mount, bundle: &Path, warnings: &mut Vec<String>) -> Checked<Self> {
        refuse_id_mappings(&mount)?;
        let options = Options::parse(&mount.options.unwrap_or_default())?;
        let destination = destination(mount.destination)?;
        let (attributes, recursive) = (options.attributes, options.recursive);
        let propagation = options.propagation.clone();
        let kind = mount.kind.unwrap_or_default();
        let source = source(kind, mount.source.unwrap_or_default(), options, bundle, &destination, warnings)?;
        refuse_inside_proc(&destination, &source)?;
        Ok(Self { destination, source, attributes, recursive, propagation })
    }
}

fn refuse_id_mappings(mount: &json::Mount) -> Checked<()> {
    for (field, mappings) in [("uidMappings", &mount.uid_mappings), ("gidMappings", &mount.gid_mappings)] {
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_empty()) {
            return unsupported(field, "id-mapped mounts are");
        }
    }
    Ok(())
}

// A relative destination is deprecated but still in use; runc takes it from the root.
fn destination(destination: Option<String>) -> Checked<PathBuf> {
    let destination = destination.unwrap_or_default();
    if destination.is_empty() {
        return invalid("destination", "is missing");
    }
    let cleaned = clean(Path::new(&destination));
    if cleaned == Path::new("/") {
        return invalid("destination", format!("{destination:?} is the root file system itself"));
    }
    Ok(cleaned)
}

// For a bind the type means nothing: the options decide, or the type `bind` when they say nothing.
fn source(
    kind: String,
    source: String,
    options: Options,
    bundle: &Path,
    destination: &Path,
    warnings: &mut Vec<String>,
) -> Checked<MountSource> {
    match (options.bind, kind.as_str()) {
        (Some(recursive), _) => bind(&source, recursive, &options, bundle, destination, warnings),
        (None, "bind") => bind(&source, false, &options, bundle, destination, warnings),
        (None, "" | "none") => invalid("type", "is missing, and the options ask for no bind"),
        (None, "cgroup" | "cgroup2") => {
            // From another than the first cgroup namespace the kernel ignores them.
            for (name, _) in &options.parameters {
                warnings.push(format!("mount on {}: option {name:?} is ignored", destination.display()));
            }
            Ok(MountSource::Cgroup)
        }
        (None, _) => {
            let superblock = Superblock { read_only: options.attributes.set.readonly, ..options.superblock };
            let source = if source.is_empty() { "none".to_owned() } else { source };
            Ok(MountSource::FileSystem { fs_type: kind, source, options: options.parameters, superblock })
        }
    }
}

fn bind(
    source: &str,
    recursive: bool,
    options: &Options,
    bundle: &Path,
    destination: &Path,
    warnings: &mut Vec<String>,
) -> Checked<MountSource> {
    if source.is_empty() {
        return invalid("source", "is missing");
    }
    // The kernel would ignore it, or change the superblock of the host.
    if let Some((name, _)) = options.parameters.first() {
        return invalid("options", format!("{name:?} has no meaning for a bind mount"));
    }
    if options.superblock != Superblock::default() {
        let destination = destination.display();
        warnings.push(format!("bind on {destination}: options of the file system are ignored"));
    }
    let source = Path::new(source);
    // An absolute source stays as it is: `..` behind a symlink of the host is the kernel's to resolve.
    let path = if source.is_absolute() { source.to_owned() } else { clean_from(bundle, source) };
    Ok(MountSource::Bind { path, recursive })
}

/// What lxcfs and CRIU put over single files of procfs.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

// A file of the container's choice in the place of a procfs file could receive what the runtime writes there:
// labels, sysctls (CVE-2019-16884, CVE-2025-52881). That a bind over /proc shows a procfs is for the child to
// check, by descriptor.
fn refuse_inside_proc(destination: &Path, source: &MountSource) -> Checked<()> {
    let allowed = match destination.strip_prefix("/proc") {
        Err(_) => true,
        Ok(below) if below.as_os_str().is_empty() => match source {
            MountSource::FileSystem { fs_type, .. } => fs_type == "proc",
            MountSource::Bind { .. } => true,
            MountSource::Cgroup => false,
        },
        Ok(_) => PROC_FILES.iter().any(|file| destination == Path::new(file)),
    };
    if allowed {
        return Ok(());
    }
    invalid("destination", format!("{:?} is inside /proc, where only procfs may be mounted", destination))
}

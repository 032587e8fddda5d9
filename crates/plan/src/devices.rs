//! Nodes and links in the container's `/dev`.

use std::path::Path;

use dunnage_spec::mount::MountSource;
use dunnage_spec::{Device, DeviceKind, Spec};

use crate::draft::Draft;
use crate::error::Error;
use crate::facts::HostFacts;
use crate::step::{Phase, Step};
use crate::text;

const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Nodes that every container has (runtime-spec, "Default Devices"): name, major and minor number.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that every container has ("Default Filesystems" and what libc and shells open).
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Lowers `linux.devices` and the defaults; nothing when `/dev` is a part of the host, where every node would
/// stay behind.
pub(crate) fn all(draft: &mut Draft, spec: &Spec, host: &HostFacts) -> Result<(), Error> {
    draft.enter(Phase::Devices);
    if is_of_the_host(spec) {
        return Ok(());
    }
    default_nodes(draft, spec)?;
    for (index, device) in spec.devices.iter().enumerate() {
        node(draft, index, device)?;
    }
    links(draft, host)
}

fn is_of_the_host(spec: &Spec) -> bool {
    let is_dev = |path: &Path| path.components().eq(Path::new("/dev").components());
    let mut mounts = spec.mounts.iter();
    mounts.any(|mount| matches!(mount.source, MountSource::Bind { .. }) && is_dev(&mount.destination))
}

fn default_nodes(draft: &mut Draft, spec: &Spec) -> Result<(), Error> {
    for (name, major, minor) in DEFAULT {
        let is_same = |device: &Device| device.path == Path::new("/dev").join(name);
        if spec.devices.iter().any(is_same) {
            continue;
        }
        let path = text::c_string("linux.devices", format!("dev/{name}"))?;
        let step = Step::MakeNode { path, mode: S_IFCHR | 0o666, major, minor, uid: 0, gid: 0 };
        draft.step(step, "every container has it");
    }
    Ok(())
}

fn node(draft: &mut Draft, index: usize, device: &Device) -> Result<(), Error> {
    // The container's own ptmx leads to its devpts; the host's node would open terminals of the host.
    if device.path == Path::new("/dev/ptmx") {
        return Ok(());
    }
    let (kind, major, minor) = match device.kind {
        DeviceKind::Char { major, minor } => (S_IFCHR, major, minor),
        DeviceKind::Block { major, minor } => (S_IFBLK, major, minor),
        DeviceKind::Fifo => (S_IFIFO, 0, 0),
    };
    let step = Step::MakeNode {
        path: text::relative(format!("linux.devices[{index}].path"), &device.path)?,
        mode: kind | device.mode,
        major,
        minor,
        uid: device.uid,
        gid: device.gid,
    };
    draft.step(step, "device of the spec");
    Ok(())
}

fn links(draft: &mut Draft, host: &HostFacts) -> Result<(), Error> {
    let core = host.kcore.then_some(("core", "/proc/kcore"));
    for (name, target) in LINKS.into_iter().chain(core) {
        link(draft, name, target, false, "programs look for it here")?;
    }
    link(draft, "ptmx", "pts/ptmx", true, "new terminals come from the container's devpts, never the host's")
}

fn link(draft: &mut Draft, name: &str, target: &str, replace: bool, why: &'static str) -> Result<(), Error> {
    let path = text::c_string("linux.devices", format!("dev/{name}"))?;
    let target = text::c_string("linux.devices", target)?;
    draft.step(Step::MakeSymlink { target, path, replace }, why);
    Ok(())
}

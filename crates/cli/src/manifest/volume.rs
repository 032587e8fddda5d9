//! `volumes` of a pod and `volumeMounts` of a container.

use super::field::Field;
use super::name;

/// A volume by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Made for the run and gone with it.
    EmptyDir {
        /// tmpfs instead of the disk.
        memory: bool,
        /// Bytes.
        size_limit: Option<u64>,
    },
    /// A path of this machine.
    HostPath { path: String, kind: HostPathKind },
}

/// What a host path must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostPathKind {
    Unchecked,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A volume at a place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    pub(crate) volume: String,
    /// Absolute path in the container.
    pub(crate) path: String,
    pub(crate) read_only: bool,
    /// Mounts made on the host later appear in the container.
    pub(crate) from_host: bool,
}

pub(super) fn decode(field: &Field<'_>) -> Option<Volume> {
    let mut fields = field.fields();
    let name = fields.need("name").and_then(|f| name::label(&f));
    let empty = fields.take("emptyDir").and_then(|f| empty_dir(&f));
    let host = fields.take("hostPath").and_then(|f| host_path(&f));
    let sources = [empty, host];
    let count = sources.iter().flatten().count();
    let others = fields.take_all();
    for (_, other) in &others {
        other.refuse("is not supported: volumes are emptyDir and hostPath here");
    }
    if count > 1 {
        field.fault("has more than one source");
    } else if count == 0 && others.is_empty() && name.is_some() {
        // Nothing but a name: the API server makes it an emptyDir.
        return Some(Volume { name: name?, source: Source::EmptyDir { memory: false, size_limit: None } });
    }
    Some(Volume { name: name?, source: sources.into_iter().flatten().next()? })
}

fn empty_dir(field: &Field<'_>) -> Option<Source> {
    let mut fields = field.fields();
    let medium = fields.take("medium");
    let limit = fields.take("sizeLimit");
    fields.finish();
    let memory = match medium {
        Some(medium) => medium.word(&[("", false), ("Memory", true)])?,
        None => false,
    };
    let size_limit = match limit {
        Some(limit) => Some(u64::try_from(limit.quantity()?.whole()).ok()?),
        None => None,
    };
    Some(Source::EmptyDir { memory, size_limit })
}

fn host_path(field: &Field<'_>) -> Option<Source> {
    let mut fields = field.fields();
    let path = fields.need("path");
    let kind = fields.take("type");
    fields.finish();
    let path = path?;
    let text = path.name()?;
    if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
        path.fault("must be an absolute path without `..`");
        return None;
    }
    let kind = match kind {
        Some(kind) => kind.word(&[
            ("", HostPathKind::Unchecked),
            ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
            ("Directory", HostPathKind::Directory),
            ("FileOrCreate", HostPathKind::FileOrCreate),
            ("File", HostPathKind::File),
            ("Socket", HostPathKind::Socket),
            ("CharDevice", HostPathKind::CharDevice),
            ("BlockDevice", HostPathKind::BlockDevice),
        ])?,
        None => HostPathKind::Unchecked,
    };
    Some(Source::HostPath { path: text.to_owned(), kind })
}

/// `volumes` are those of the pod; a mount of another name is a fault.
pub(super) fn decode_mount(field: &Field<'_>, volumes: &[Volume]) -> Option<VolumeMount> {
    let mut fields = field.fields();
    let name = fields.need("name");
    let path = fields.need("mountPath");
    let read_only = fields.take("readOnly").and_then(|f| f.boolean()).unwrap_or(false);
    let from_host = fields
        .take("mountPropagation")
        .and_then(|f| f.word(&[("None", false), ("HostToContainer", true)]))
        .unwrap_or(false);
    if let Some(recursive) = fields.take("recursiveReadOnly") {
        recursive.word(&[("Disabled", ()), ("IfPossible", ())]);
    }
    fields.refuse(&[
        ("subPath", "mount the whole volume, or use a volume of its own"),
        ("subPathExpr", "mount the whole volume, or use a volume of its own"),
    ]);
    fields.finish();
    let (name, path) = (name?, path?);
    let volume = name.name()?;
    if !volumes.iter().any(|known| known.name == volume) {
        name.fault(format!("the pod has no volume `{volume}`"));
        return None;
    }
    let target = path.name()?;
    if !target.starts_with('/') || target.split('/').any(|part| part == "..") {
        path.fault("must be an absolute path without `..`");
        return None;
    }
    Some(VolumeMount { volume: volume.to_owned(), path: target.to_owned(), read_only, from_host })
}

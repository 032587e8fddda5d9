//! A plan as text: what `dunnage plan` prints, and how one step reads as the object of an error.
//!
//! Strings of the spec are printed with their control characters escaped: a bundle must not write to the
//! terminal of whoever looks at it. The values of the environment are not printed at all: they hold secrets.

use std::ffi::CStr;
use std::fmt::{self, Display, Formatter, Write};
use std::path::Path;

use dunnage_spec::mount::{Propagation, PropagationKind, Superblock};
use dunnage_spec::namespace::NamespaceKind;
use dunnage_spec::process::{Capabilities, Rlimit, RlimitResource};

use crate::attributes;
use crate::step::{FileSystem, MountAttributes, Phase, Plan, Planned, Program, Slot, SlotId, Step, Target};

/// Width of the column of steps; a longer step pushes its reason to the right.
const STEP_COLUMN: usize = 56;

/// Multi-line; one line for each step, with its number and its reason.
impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt_clone(f)?;
        for (index, slot) in self.slots.iter().enumerate() {
            writeln!(f, "{:<8}{index} {slot}", if index == 0 { "slots" } else { "" })?;
        }
        let mut phase = None;
        for (index, planned) in self.steps.iter().enumerate() {
            if phase.replace(planned.phase) != Some(planned.phase) {
                writeln!(f, "{}", planned.phase)?;
            }
            let step = self.step(planned).to_string();
            writeln!(f, " {index:02} {step:<STEP_COLUMN$}  {}", planned.why)?;
        }
        match &self.program {
            Some(program) => writeln!(f, "{program}"),
            None => {
                writeln!(f, "program none: the spec has no process, so it can be created and not started")
            }
        }
    }
}

impl Plan {
    fn fmt_clone(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("clone3  ")?;
        match self.new_namespaces.as_slice() {
            [] => f.write_str("no new namespace")?,
            kinds => fmt_kinds(kinds, f)?,
        }
        if let Some(SlotId(slot)) = self.pid_namespace {
            write!(f, ", in the pid namespace of slot {slot}")?;
        }
        let joins = self.steps.iter().any(|planned| planned.step == Step::JoinCgroups);
        f.write_str(if joins { ", its cgroup by a write\n" } else { ", into the container's cgroup\n" })
    }

    /// A step of this plan as the object of an error, with the name of the program where it is about that:
    /// `execute /bin/sh` instead of `execute the program`.
    #[must_use]
    pub fn step<'a>(&'a self, planned: &'a Planned) -> impl Display + 'a {
        Named { step: &planned.step, program: self.program.as_ref() }
    }
}

struct Named<'a> {
    step: &'a Step,
    program: Option<&'a Program>,
}

impl Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.step, self.program) {
            (Step::FindProgram, Some(program)) => write!(f, "find {}", Text(&program.name)),
            (Step::Execute, Some(program)) => write!(f, "execute {}", Text(&program.name)),
            (step, _) => step.fmt(f),
        }
    }
}

/// `mount proc on /proc` and the reason, on one line.
impl Display for Planned {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.why)
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Isolate => "isolate",
            Self::Rootfs => "rootfs",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Protect => "protect",
            Self::Pivot => "pivot",
            Self::Environment => "environment",
            Self::Identity => "identity",
            Self::Gate => "gate",
            Self::Execute => "execute",
        })
    }
}

impl Display for Slot {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { path, kind } => {
                write!(f, "{} namespace {}", kind.as_str(), PathText(path))
            }
            Self::Init => f.write_str("pidfd of the container's init"),
        }
    }
}

/// Lower case, a verb and its object.
impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinCgroups => f.write_str("join the cgroups"),
            Self::JoinNamespace { slot, kind } => {
                write!(f, "join the {} namespace of slot {}", kind.as_str(), slot.0)
            }
            Self::JoinInit { kinds, .. } => {
                f.write_str("join the ")?;
                fmt_kinds(kinds, f)?;
                f.write_str(" namespaces of init")
            }
            Self::NewCgroupNamespace => f.write_str("make a cgroup namespace"),
            Self::NewSession => f.write_str("make a session"),
            Self::SetOomScore(score) => write!(f, "set oom_score_adj {score}"),
            Self::NewKeyring(name) => write!(f, "join session keyring {}", Text(name)),
            Self::RaiseLoopback => f.write_str("set lo up"),

            Self::SetRootPropagation(propagation) => {
                write!(f, "make all mounts {propagation}", propagation = Spread(*propagation))
            }
            Self::AttachRootfs(path) => write!(f, "attach a clone of {} as root", Text(path)),
            Self::OpenRootfs(path) => write!(f, "open {} as root", Text(path)),
            Self::MountFileSystem { file_system, target, propagation, .. } => {
                write!(
                    f,
                    "mount {} on {target}{}",
                    Text(&file_system.fs_type),
                    Details::of(file_system, propagation)
                )
            }
            Self::BindMount { source, recursive, attributes, recursive_attributes, target, propagation } => {
                let details = Details::bind(*recursive, *attributes, *recursive_attributes, propagation);
                write!(f, "bind {} on {target}{details}", Text(source))
            }
            Self::SetReadonly { target } => write!(f, "make {target} read-only"),
            Self::MakeNode { .. } => fmt_node(self, f),
            Self::MakeSymlink { target, path, replace } => {
                write!(f, "link {} to {}", Inside(path), Text(target))?;
                f.write_str(if *replace { " in the place of what is there" } else { "" })
            }
            Self::OpenPrivateProc => f.write_str("open a private procfs"),
            Self::WriteSysctl { path, value } => write!(f, "set {} to {}", Text(path), Text(value)),
            Self::MakeReadonly { path } => write!(f, "make {} read-only", Inside(path)),
            Self::Mask { path } => write!(f, "mask {}", Inside(path)),
            Self::PivotRoot => f.write_str("pivot to the root"),
            Self::Chroot => f.write_str("chroot to the root"),
            Self::SetRootfsPropagation(propagation) => write!(f, "make / {}", Spread(*propagation)),
            Self::SetRootReadonly => f.write_str("make / read-only"),

            Self::SetHostname(name) => write!(f, "set hostname {}", Text(name)),
            Self::SetDomainname(name) => write!(f, "set domainname {}", Text(name)),
            Self::OpenTerminal { size, uid, console } => {
                write!(f, "open a terminal for uid {uid}")?;
                if let Some(size) = size {
                    write!(f, " of {} columns and {} rows", size.columns, size.rows)?;
                }
                f.write_str(if *console { " on /dev/console" } else { "" })
            }
            Self::SetStreams { uid } => write!(f, "set streams 0 1 2 for uid {uid}"),
            Self::SetUmask(mask) => write!(f, "set umask {mask:04o}"),
            Self::MakeWorkingDirectory(path) => write!(f, "make working directory {}", Text(path)),

            Self::SetRlimit(limit) => fmt_rlimit(*limit, f),
            Self::SetApparmorProfile(name) => write!(f, "set apparmor profile {}", Text(name)),
            Self::SetSelinuxLabel(label) => write!(f, "set selinux label {}", Text(label)),
            Self::SetNoNewPrivileges => f.write_str("set no_new_privs"),
            Self::LoadSeccomp(filter) => {
                write!(f, "load seccomp filter of {} instructions", filter.program.instructions.len())
            }
            Self::ChangeDirectory(path) => write!(f, "change directory to {}", Text(path)),
            Self::DropBounding { keep, .. } => write!(f, "limit capabilities to {}", CapabilityMask(*keep)),
            Self::KeepCapabilities(true) => f.write_str("keep capabilities over the change of ids"),
            Self::KeepCapabilities(false) => f.write_str("keep capabilities no longer"),
            Self::SetGroups(groups) => fmt_groups(groups, f),
            Self::SetIds { uid, gid } => write!(f, "set uid {uid} gid {gid}"),
            Self::RetryChangeDirectory(path) => write!(f, "change directory to {} as the user", Text(path)),
            Self::VerifyWorkingDirectory => {
                f.write_str("verify that the working directory is inside the root")
            }
            Self::SetCapabilities { effective, permitted, inheritable } => {
                let (e, p) = (CapabilityMask(*effective), CapabilityMask(*permitted));
                let inheritable = CapabilityMask(*inheritable);
                if effective == permitted {
                    write!(f, "set effective and permitted capabilities {e}, inheritable {inheritable}")
                } else {
                    write!(f, "set effective capabilities {e}, permitted {p}, inheritable {inheritable}")
                }
            }
            Self::SetAmbient(mask) => write!(f, "set ambient capabilities {}", CapabilityMask(*mask)),
            Self::FindProgram => f.write_str("find the program"),
            Self::Ready => f.write_str("report created"),
            Self::AwaitStart => f.write_str("wait for start"),
            Self::CloseDescriptors => f.write_str("close descriptors from 3 up"),
            Self::Execute => f.write_str("execute the program"),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Inside(&self.path).fmt(f)
    }
}

/// `program sh -c "exit 3"`, then where it is looked for.
impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("program")?;
        for argument in &self.args {
            let plain = !argument.is_empty() && argument.to_bytes().iter().all(|b| b.is_ascii_graphic());
            let quote = if plain { "" } else { "\"" };
            write!(f, " {quote}{}{quote}", Text(argument))?;
        }
        let variables = self.env.len();
        write!(f, ", {variables} variable{}", if variables == 1 { "" } else { "s" })?;
        if self.candidates.len() > 1 {
            f.write_str("\n        first of")?;
            self.candidates.iter().try_for_each(|candidate| write!(f, " {}", Text(candidate)))?;
        }
        Ok(())
    }
}

fn fmt_kinds(kinds: &[NamespaceKind], f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(&kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" "))
}

fn fmt_node(step: &Step, f: &mut Formatter<'_>) -> fmt::Result {
    let Step::MakeNode { path, mode, major, minor, uid, gid } = step else { return Ok(()) };
    write!(f, "make node {} ", Inside(path))?;
    match mode & 0o170_000 {
        0o010_000 => f.write_str("fifo")?,
        0o060_000 => write!(f, "block {major}:{minor}")?,
        _ => write!(f, "char {major}:{minor}")?,
    }
    write!(f, " {:04o}", mode & 0o7777)?;
    if (*uid, *gid) != (0, 0) {
        write!(f, " of {uid}:{gid}")?;
    }
    Ok(())
}

fn fmt_rlimit(limit: Rlimit, f: &mut Formatter<'_>) -> fmt::Result {
    let value = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
    write!(f, "set rlimit {} {} {}", rlimit_name(limit.resource), value(limit.soft), value(limit.hard))
}

fn rlimit_name(resource: RlimitResource) -> &'static str {
    match resource {
        RlimitResource::As => "as",
        RlimitResource::Core => "core",
        RlimitResource::Cpu => "cpu",
        RlimitResource::Data => "data",
        RlimitResource::Fsize => "fsize",
        RlimitResource::Locks => "locks",
        RlimitResource::Memlock => "memlock",
        RlimitResource::Msgqueue => "msgqueue",
        RlimitResource::Nice => "nice",
        RlimitResource::Nofile => "nofile",
        RlimitResource::Nproc => "nproc",
        RlimitResource::Rss => "rss",
        RlimitResource::Rtprio => "rtprio",
        RlimitResource::Rttime => "rttime",
        RlimitResource::Sigpending => "sigpending",
        RlimitResource::Stack => "stack",
    }
}

fn fmt_groups(groups: &[u32], f: &mut Formatter<'_>) -> fmt::Result {
    if groups.is_empty() {
        return f.write_str("set no supplementary groups");
    }
    f.write_str("set supplementary groups")?;
    groups.iter().try_for_each(|group| write!(f, " {group}"))
}

/// A set of capabilities by their names without `CAP_`, or by what is missing when that is shorter.
struct CapabilityMask(u64);

impl Display for CapabilityMask {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (held, missing): (Vec<_>, Vec<_>) =
            (0..Capabilities::NAMES.len()).partition(|number| self.0 & (1 << number) != 0);
        match (held.as_slice(), missing.as_slice()) {
            ([], _) => f.write_str("none"),
            (_, []) => f.write_str("all"),
            (_, few) if few.len() <= 5 => write!(f, "all but {}", names(few)),
            (some, _) => f.write_str(&names(some)),
        }
    }
}

fn names(capabilities: &[usize]) -> String {
    let name = |number: &usize| Capabilities::NAMES[*number].trim_start_matches("CAP_").to_ascii_lowercase();
    capabilities.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// What stands in parentheses behind a mount; nothing when there is nothing to say.
struct Details(Vec<String>);

impl Details {
    fn of(file_system: &FileSystem, propagation: &[Propagation]) -> Self {
        let mut words = attribute_words(file_system.attributes, "");
        words.extend(superblock_words(file_system.superblock));
        for (name, value) in &file_system.options {
            words.push(match value {
                Some(value) => format!("{}={}", Text(name), Text(value)),
                None => Text(name).to_string(),
            });
        }
        words.extend(propagation.iter().map(|one| Spread(*one).to_string()));
        Self(words)
    }

    fn bind(
        recursive: bool,
        own: MountAttributes,
        tree: MountAttributes,
        propagation: &[Propagation],
    ) -> Self {
        let mut words: Vec<_> = recursive.then(|| "with all below".to_owned()).into_iter().collect();
        words.extend(change_words(own, ""));
        words.extend(change_words(tree, "r"));
        words.extend(propagation.iter().map(|one| Spread(*one).to_string()));
        Self(words)
    }
}

impl Display for Details {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0.join(" ")) }
    }
}

const WORDS: [(u64, &str, &str); 6] = [
    (attributes::RDONLY, "ro", "rw"),
    (attributes::NOSUID, "nosuid", "suid"),
    (attributes::NODEV, "nodev", "dev"),
    (attributes::NOEXEC, "noexec", "exec"),
    (attributes::NODIRATIME, "nodiratime", "diratime"),
    (attributes::NOSYMFOLLOW, "nosymfollow", "symfollow"),
];

fn attribute_words(bits: u64, prefix: &str) -> Vec<String> {
    let flags = WORDS.iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, set, _)| format!("{prefix}{set}"));
    let atime = match bits & attributes::ATIME {
        attributes::NOATIME => Some(format!("{prefix}noatime")),
        attributes::STRICTATIME => Some(format!("{prefix}strictatime")),
        _ => None,
    };
    flags.chain(atime).collect()
}

fn change_words(change: MountAttributes, prefix: &str) -> Vec<String> {
    let mut words = attribute_words(change.set, prefix);
    let cleared = WORDS.iter().filter(|(bit, ..)| change.clear & bit != 0);
    words.extend(cleared.map(|(_, _, clear)| format!("{prefix}{clear}")));
    if change.clear & attributes::ATIME != 0 && change.set & attributes::ATIME == 0 {
        words.push(format!("{prefix}relatime"));
    }
    words
}

fn superblock_words(superblock: Superblock) -> impl Iterator<Item = String> {
    let Superblock { read_only, synchronous, dirsync, lazytime, mandlock, iversion } = superblock;
    [
        (read_only, "read-only superblock"),
        (synchronous, "sync"),
        (dirsync, "dirsync"),
        (lazytime, "lazytime"),
        (mandlock, "mand"),
        (iversion, "iversion"),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .map(|(_, word)| word.to_owned())
}

/// `rslave`, `private`.
struct Spread(Propagation);

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.recursive { "r" } else { "" })?;
        f.write_str(match self.0.kind {
            PropagationKind::Private => "private",
            PropagationKind::Shared => "shared",
            PropagationKind::Slave => "slave",
            PropagationKind::Unbindable => "unbindable",
        })
    }
}

/// A path relative to the container's root, as the container sees it.
struct Inside<'a>(&'a CStr);

impl Display for Inside<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", Text(self.0))
    }
}

struct PathText<'a>(&'a Path);

impl Display for PathText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt_escaped(&self.0.to_string_lossy(), f)
    }
}

struct Text<'a>(&'a CStr);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        fmt_escaped(&self.0.to_string_lossy(), f)
    }
}

fn fmt_escaped(text: &str, f: &mut Formatter<'_>) -> fmt::Result {
    text.chars().try_for_each(|one| match one {
        _ if one.is_control() => write!(f, "{}", one.escape_default()),
        _ => f.write_char(one),
    })
}

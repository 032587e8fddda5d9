//! A container's cgroup as a scope of systemd.
//!
//! The scope's directory is made, limited and used as every other: systemd comes to know of it when a process is
//! inside already, so that nobody waits for systemd before limits hold. What systemd would write to the
//! directory by itself it is told as properties of the unit. Owns names, properties and calls; leaves the
//! directory to [`crate::cgroup`] and the waiting to the crates above.

mod bus;
mod message;
mod property;
mod start;
mod tally;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dunnage_sys::Errno;
use dunnage_sys::kernfs::Dir;
use dunnage_sys::pidfd::Pid;

use crate::error::{Error, ErrorKind, Refused, Result};
use crate::limits::Write;
use crate::stats::Stats;

use bus::{Connection, Refusal, Silence};
use message::{Argument, Property, Value};

pub use start::UnitStart;
use start::{Outcome, Unknown};
use tally::Tally;

/// sd_booted(3): this directory exists exactly when systemd is the service manager.
pub(crate) fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether systemd has made a delegated unit of a directory: it marks them (systemd.git, `cgroup_xattr_apply`).
pub(crate) fn has_unit(directory: &Path) -> bool {
    // What cannot be asked may be one.
    dunnage_sys::xattr::exists(directory, "trusted.delegate").unwrap_or(true)
}

/// A scope and what is to be in its files.
#[derive(Debug)]
pub(crate) struct Scope {
    slice: String,
    unit: String,
    /// Values of files as they must stay, in the order in which they are written.
    wanted: Mutex<Vec<Write>>,
    /// Whether there is a unit at this directory, or may be. A unit of the same name elsewhere is not ours.
    told: Arc<AtomicBool>,
    /// How often its end was looked for since it was empty.
    looks: AtomicU32,
    unknown: Unknown,
    /// Shared with the watch, which may read the last value that there is.
    oom_kills: Arc<AtomicU64>,
    /// Of a scope that was made here.
    tally: Option<Tally>,
    stats: Mutex<Option<Stats>>,
}

impl Scope {
    pub(crate) fn new(slice: String, unit: String, told: bool) -> Self {
        Self {
            slice,
            unit,
            wanted: Mutex::default(),
            told: Arc::new(AtomicBool::new(told)),
            looks: AtomicU32::new(0),
            unknown: Unknown::default(),
            oom_kills: Arc::default(),
            tally: None,
            stats: Mutex::default(),
        }
    }

    /// Begins to make the unit around a process that is in its directory already.
    pub(crate) fn start(&self, pid: Pid) -> Result<UnitStart> {
        let connection = Connection::open().map_err(|silence| failed("connect for", &self.unit, &silence))?;
        let limits = property::of(&self.wanted(), true);
        let mut properties = self.properties(pid);
        if !limits.known.iter().any(|property| property.name == "TasksMax") {
            // Unasked, systemd would give it DefaultTasksMax.
            properties.push(Property { name: "TasksMax", value: Value::U64(u64::MAX) });
        }
        properties.extend(limits.known);
        let outcome = Outcome { told: Arc::clone(&self.told), unknown: Arc::clone(&self.unknown) };
        UnitStart::begin(connection, self.unit.clone(), properties, limits.newer, outcome)
    }

    /// What systemd turned out not to know when the unit was made; told once.
    pub(crate) fn take_unknown(&self) -> Vec<Refused> {
        std::mem::take(&mut self.unknown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn properties(&self, pid: Pid) -> Vec<Property> {
        let yes = |name| Property { name, value: Value::Bool(true) };
        let text = |name, value: &str| Property { name, value: Value::Text(value.to_owned()) };
        vec![
            text("Description", &format!("container {}", self.unit.trim_end_matches(".scope"))),
            text("Slice", &self.slice),
            Property { name: "PIDs", value: Value::U32s(vec![pid.as_raw_nonzero().get().unsigned_abs()]) },
            // All controllers, and nobody but the container below.
            yes("Delegate"),
            yes("CPUAccounting"),
            yes("MemoryAccounting"),
            yes("IOAccounting"),
            yes("TasksAccounting"),
            // Nothing at shutdown stops it before containerd does.
            Property { name: "DefaultDependencies", value: Value::Bool(false) },
            // A unit that has failed goes like any other: nobody has to call ResetFailedUnit.
            text("CollectMode", "inactive-or-failed"),
        ]
    }

    /// Makes the first writes such as a unit can have them, and keeps what systemd has to know: `all` values that
    /// are wanted, also those that need no write.
    pub(crate) fn prepare(&self, writes: &mut [Write], mut all: Vec<Write>) {
        self.round(writes);
        property::round(&mut all);
        self.want(&all);
    }

    /// Makes values such as a unit can have them.
    #[expect(clippy::unused_self, reason = "only what is a unit has its values rounded")]
    pub(crate) fn round(&self, writes: &mut [Write]) {
        property::round(writes);
    }

    /// Keeps writes in place of earlier ones of the same files, of which some take a line for each device.
    fn want(&self, writes: &[Write]) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.retain(|old| writes.iter().all(|new| new.file != old.file));
        wanted.extend_from_slice(writes);
    }

    /// What [`Scope::want`] was told.
    pub(crate) fn wanted(&self) -> Vec<Write> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells systemd of values that were written to the files of a running scope.
    pub(crate) fn set(&self, writes: &[Write]) -> Result<Vec<Refused>> {
        let refused = self.set_properties(writes)?;
        self.want(writes);
        Ok(refused)
    }

    /// Keeps a value that was written though nobody had asked for it; gives it back when systemd does not take it,
    /// and may undo it.
    pub(crate) fn keep(&self, write: Write) -> Option<Refused> {
        let writes = [write];
        if !self.is_told() {
            self.want(&writes);
            return None;
        }
        let errno = match self.set(&writes) {
            Ok(mut refused) => return refused.pop(),
            Err(_) => Errno::IO,
        };
        let [Write { file, value, .. }] = writes;
        Some(Refused { file: file.into_owned(), value, errno, what: UNDOABLE })
    }

    fn set_properties(&self, writes: &[Write]) -> Result<Vec<Refused>> {
        const CALL: &str = "SetUnitProperties";
        let limits = property::of(writes, false);
        let mut properties = limits.known;
        let newer = limits.newer.len();
        properties.extend(limits.newer);
        if properties.is_empty() {
            return Ok(Vec::new());
        }
        let silent = |silence: Silence| failed(CALL, &self.unit, &silence);
        let mut connection = Connection::open().map_err(silent)?;
        let mut call = |properties: &[Property]| {
            // Until the next boot, which no container outlives.
            let arguments =
                [Argument::Text(&self.unit), Argument::Bool(true), Argument::Properties(properties)];
            connection.call(CALL, &arguments).map_err(silent)
        };
        match call(&properties)? {
            Ok(()) => Ok(Vec::new()),
            Err(refusal) if newer > 0 && is_unknown_property(&refusal.name) => {
                let unknown = properties.split_off(properties.len() - newer);
                if !properties.is_empty() {
                    call(&properties)?.map_err(|refusal| refused(CALL, &self.unit, refusal))?;
                }
                Ok(unknown.iter().map(unknown_property).collect())
            }
            Err(refusal) => Err(refused(CALL, &self.unit, refusal)),
        }
    }

    /// Whether the directory may be systemd's.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Counts the looks at an empty scope that is still there.
    pub(crate) fn look(&self) -> u32 {
        self.looks.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks systemd to stop the unit; `false` when it knows of none. The directory goes some time after.
    pub(crate) fn stop(&self) -> Result<bool> {
        const CALL: &str = "StopUnit";
        let silent = |silence: Silence| failed(CALL, &self.unit, &silence);
        let mut connection = Connection::open().map_err(silent)?;
        let arguments = [Argument::Text(&self.unit), Argument::Text("replace")];
        match connection.call(CALL, &arguments).map_err(silent)? {
            Ok(()) => Ok(true),
            Err(refusal) if kind(&refusal.name) == ErrorKind::NotFound => Ok(false),
            Err(refusal) => Err(refused(CALL, &self.unit, refusal)),
        }
    }

    /// Counts kills from now on also where the directory above counts them, `parent`.
    pub(crate) fn tally(mut self, path: &Path, parent: Dir) -> Self {
        if let (Some(slice), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            self.tally = Some(Tally::new(slice, parent, name, Arc::clone(&self.oom_kills)));
        }
        self
    }

    /// The directory is gone: what is known without it is added to [`Scope::oom_kills`].
    pub(crate) fn recover_kills(&self) {
        if let Some(tally) = &self.tally {
            tally.recover();
        }
    }

    /// The most kills ever seen: the counter goes with the directory.
    pub(crate) fn oom_kills(&self) -> &Arc<AtomicU64> {
        &self.oom_kills
    }

    /// Keeps a reading for the time after the directory.
    pub(crate) fn keep_stats(&self, stats: &Stats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats.clone());
    }

    /// The last reading that was kept.
    pub(crate) fn kept_stats(&self) -> Option<Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

const UNDOABLE: &str = "systemd does not take it; a daemon-reload may undo the value in the cgroup";

fn unknown_property(property: &Property) -> Refused {
    Refused {
        file: property.name.to_owned(),
        value: format!("{:?}", property.value),
        errno: Errno::OPNOTSUPP,
        what: UNDOABLE,
    }
}

fn failed(call: &'static str, unit: &str, silence: &Silence) -> Error {
    let kind = match silence {
        Silence::Call(_, Errno::PERM | Errno::ACCESS) | Silence::Stranger(_) => ErrorKind::Denied,
        _ => ErrorKind::Internal,
    };
    Error::Systemd { call, unit: unit.to_owned(), reason: silence.to_string(), kind }
}

fn refused(call: &'static str, unit: &str, refusal: Refusal) -> Error {
    let Refusal { name, text } = refusal;
    Error::Systemd { call, unit: unit.to_owned(), kind: kind(&name), reason: format!("{text} ({name})") }
}

fn kind(error: &str) -> ErrorKind {
    match error {
        "org.freedesktop.systemd1.NoSuchUnit" => ErrorKind::NotFound,
        "org.freedesktop.systemd1.UnitExists" => ErrorKind::Precondition,
        "org.freedesktop.DBus.Error.AccessDenied" => ErrorKind::Denied,
        "org.freedesktop.DBus.Error.InvalidArgs" => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    }
}

/// As systemd has refused properties and values from before their time, in its various versions.
fn is_unknown_property(error: &str) -> bool {
    matches!(
        error,
        "org.freedesktop.DBus.Error.PropertyReadOnly"
            | "org.freedesktop.DBus.Error.UnknownProperty"
            | "org.freedesktop.DBus.Error.InvalidArgs"
    )
}

//! From [`Resources`] to writes of cgroup files, in the order the kernel accepts, and the writing itself.
//!
//! A draft is made first, against the values that are there now: equal values are not written (a write of
//! `cpu.max` is costly even when it changes nothing), values that depend on each other are ordered so that
//! every state in between is allowed, and each write knows how to be taken back.

mod bandwidth;
mod convert;
mod v1;
mod v2;

use std::borrow::Cow;

use dunnage_spec::Resources;
use dunnage_sys::Errno;

use crate::controller::Controller;
use crate::error::{Error, Refused, Result};

pub(crate) use convert::{parse_bytes, parse_list};

/// What a file says before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A directory just made: the kernel's default, which nobody has to read.
    Default,
    /// The text, without white space at its ends.
    Text(String),
    /// There is no such file.
    Absent,
}

/// The values that are there now: a directory, or in tests a map.
pub(crate) trait Live {
    fn seen(&self, controller: Controller, file: &str) -> Result<Seen>;
    fn exists(&self, controller: Controller, file: &str) -> bool;
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: Controller,
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
    /// What to write when a later write fails.
    pub(crate) undo: Option<String>,
    /// Why it does not matter when the file is absent.
    pub(crate) dispensable: Option<&'static str>,
}

/// Where a draft's writes go.
pub(crate) trait Target {
    fn write(&self, write: &Write, value: &str) -> Result<(), Errno>;
    fn explain(&self, write: &Write, errno: Errno) -> Error;
}

/// The writes for some [`Resources`], in order, and what will not be written.
#[derive(Debug)]
pub(crate) struct Draft<'a, L> {
    live: &'a L,
    pub(crate) writes: Vec<Write>,
    pub(crate) refused: Vec<Refused>,
}

/// Limits for cgroup v2, or for v1 and hybrid.
pub(crate) fn draft<'a, L: Live>(unified: bool, wanted: &Resources, live: &'a L) -> Result<Draft<'a, L>> {
    let mut draft = Draft { live, writes: Vec::new(), refused: Vec::new() };
    if unified {
        v2::draft(wanted, &mut draft)?;
    } else {
        v1::draft(wanted, &mut draft)?;
    }
    Ok(draft)
}

impl<L: Live> Draft<'_, L> {
    fn seen(&self, controller: Controller, file: &str) -> Result<Seen> {
        self.live.seen(controller, file)
    }

    /// Adds a write unless the value is there already.
    fn set(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Result<()> {
        let (file, value) = (file.into(), value.into());
        let undo = match self.seen(controller, &file)? {
            Seen::Text(text) if same(&file, &text, &value) => return Ok(()),
            Seen::Text(text) => Some(text),
            Seen::Default | Seen::Absent => None,
        };
        self.writes.push(Write { controller, file, value, undo, dispensable: None });
        Ok(())
    }

    /// As [`Draft::set`]; a missing file is reported and no failure.
    fn set_if_there(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        why: &'static str,
    ) -> Result<()> {
        let before = self.writes.len();
        self.set(controller, file, value)?;
        if let Some(write) = self.writes.get_mut(before) {
            write.dispensable = Some(why);
        }
        Ok(())
    }

    fn push(
        &mut self,
        controller: Controller,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        undo: Option<String>,
    ) {
        let (file, value) = (file.into(), value.into());
        self.writes.push(Write { controller, file, value, undo, dispensable: None });
    }

    fn refuse(&mut self, file: &str, value: impl Into<String>, errno: Errno, what: &'static str) {
        self.refused.push(Refused { file: file.to_owned(), value: value.into(), errno, what });
    }

    /// Writes all of it; on a failure takes back, newest first, what was written.
    ///
    /// # Errors
    /// The first write that failed, explained.
    pub(crate) fn apply(self, target: &impl Target) -> Result<Vec<Refused>> {
        let mut refused = self.refused;
        for (index, write) in self.writes.iter().enumerate() {
            match (target.write(write, &write.value), write.dispensable) {
                (Ok(()), _) => {}
                (Err(errno @ (Errno::NOENT | Errno::OPNOTSUPP)), Some(what)) => refused.push(Refused {
                    file: write.file.clone().into_owned(),
                    value: write.value.clone(),
                    errno,
                    what,
                }),
                (Err(errno), _) => {
                    let error = target.explain(write, errno);
                    take_back(&self.writes[..index], target);
                    return Err(error);
                }
            }
        }
        Ok(refused)
    }
}

/// Whether two CPU lists name different CPUs; lists that cannot be read do not.
pub(crate) fn differs(wanted: &str, effective: &str) -> bool {
    match (parse_list(wanted), parse_list(effective)) {
        (Some(wanted), Some(effective)) => wanted != effective,
        _ => false,
    }
}

/// Writes the old values again, newest first.
pub(crate) fn take_back(written: &[Write], target: &impl Target) {
    for write in written.iter().rev() {
        if let Some(undo) = &write.undo {
            // The failure that led here is the one to report; each old value was valid a moment ago.
            let _ = target.write(write, undo);
        }
    }
}

/// Whether the kernel would print `value` as `text`.
pub(crate) fn same(file: &str, text: &str, value: &str) -> bool {
    text == value
        || text.strip_prefix("default ") == Some(value)
        || (file.starts_with("memory.") && convert::same_bytes(text, value))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// Files in a map; what is not in it is absent, and with `fresh` nothing needs to be read.
    #[derive(Debug, Default)]
    pub(crate) struct Files {
        pub(crate) fresh: bool,
        pub(crate) texts: RefCell<BTreeMap<String, String>>,
        pub(crate) fails_at: Option<(&'static str, Errno)>,
    }

    impl Files {
        pub(crate) fn fresh() -> Self {
            Self { fresh: true, ..Self::default() }
        }

        pub(crate) fn with(files: &[(&str, &str)]) -> Self {
            let texts = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
            Self { texts: RefCell::new(texts), ..Self::default() }
        }
    }

    impl Live for Files {
        fn seen(&self, _: Controller, file: &str) -> Result<Seen> {
            Ok(match self.texts.borrow().get(file) {
                _ if self.fresh => Seen::Default,
                Some(text) => Seen::Text(text.clone()),
                None => Seen::Absent,
            })
        }

        fn exists(&self, _: Controller, file: &str) -> bool {
            self.texts.borrow().contains_key(file)
        }
    }

    impl Target for Files {
        fn write(&self, write: &Write, value: &str) -> Result<(), Errno> {
            if let Some((file, errno)) = self.fails_at
                && file == write.file
            {
                return Err(errno);
            }
            self.texts.borrow_mut().insert(write.file.clone().into_owned(), value.to_owned());
            Ok(())
        }

        fn explain(&self, write: &Write, errno: Errno) -> Error {
            Error::Kernel(dunnage_sys::Error::new(format!("write {}", write.file), errno))
        }
    }

    /// The drafted writes as `file=value`.
    pub(crate) fn lines<L>(draft: &Draft<'_, L>) -> Vec<String> {
        draft.writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect()
    }

    #[test]
    fn a_failing_write_takes_back_the_ones_before_it() {
        let files = Files {
            fails_at: Some(("pids.max", Errno::INVAL)),
            ..Files::with(&[("cpu.weight", "100"), ("memory.max", "max"), ("pids.max", "max")])
        };
        let mut draft = Draft { live: &files, writes: Vec::new(), refused: Vec::new() };
        draft.set(Controller::Cpu, "cpu.weight", "59").unwrap();
        draft.set(Controller::Memory, "memory.max", "4096").unwrap();
        draft.set(Controller::Pids, "pids.max", "7").unwrap();
        let error = draft.apply(&files).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::INVAL));
        let texts = files.texts.borrow();
        assert_eq!((texts["cpu.weight"].as_str(), texts["memory.max"].as_str()), ("100", "max"));
    }

    #[test]
    fn equal_values_are_not_written_again() {
        let files = Files::with(&[("io.weight", "default 100"), ("memory.max", "8192")]);
        let mut draft = Draft { live: &files, writes: Vec::new(), refused: Vec::new() };
        draft.set(Controller::Io, "io.weight", "100").unwrap();
        // The kernel rounds down to whole pages.
        draft.set(Controller::Memory, "memory.max", "8200").unwrap();
        assert!(draft.writes.is_empty());
    }
}

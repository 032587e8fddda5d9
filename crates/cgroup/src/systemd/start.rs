//! Starting a scope: from the call to the end of the job, in steps that never wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bus::{Connection, Refusal};
use super::message::{Argument, Heard, Property};
use super::{failed, refused};
use crate::error::{Error, ErrorKind, Refused, Result};

/// What systemd turned out not to know, for who asks when the unit runs.
pub(super) type Unknown = Arc<Mutex<Vec<Refused>>>;

/// What the scope learns of its start.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) unknown: Unknown,
    /// Whether there is a unit, or may be.
    pub(super) told: Arc<AtomicBool>,
}

const CALL: &str = "StartTransientUnit";

/// A scope that systemd is making around a process. Dropping it does not take the call back.
#[derive(Debug)]
pub struct UnitStart {
    connection: Connection,
    unit: String,
    properties: Vec<Property>,
    /// Left out when systemd turns out not to know them.
    newer: Vec<Property>,
    outcome: Outcome,
    stage: Stage,
    /// Jobs that ended before we knew which one is ours.
    ended: Vec<(String, String)>,
    reset: bool,
}

#[derive(Debug)]
enum Stage {
    /// Number of the call.
    Calling(u32),
    /// A unit of this name has failed before: number of the call that makes systemd forget it.
    Forgetting(u32),
    /// Path of the job.
    Waiting(String),
    Done,
}

impl AsFd for UnitStart {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl UnitStart {
    pub(super) fn begin(
        connection: Connection,
        unit: String,
        properties: Vec<Property>,
        newer: Vec<Property>,
        outcome: Outcome,
    ) -> Result<Self> {
        let (stage, ended) = (Stage::Done, Vec::new());
        let mut start = Self { connection, unit, properties, newer, outcome, stage, ended, reset: false };
        start.call()?;
        Ok(start)
    }

    /// Looks once; `true` when the unit runs. To be called again when the descriptor is readable, for as long as
    /// the caller is patient (systemd has its own limits, and tells when they are reached).
    ///
    /// # Errors
    /// [`Error::Systemd`]: it was refused, or the job failed.
    pub fn poll(&mut self) -> Result<bool> {
        while !matches!(self.stage, Stage::Done) {
            let heard = self.connection.hear().map_err(|silence| failed(CALL, &self.unit, &silence))?;
            let Some(heard) = heard else { return Ok(false) };
            self.hear(heard)?;
        }
        Ok(true)
    }

    /// The error of a caller that has waited for so long.
    #[must_use]
    pub fn give_up(self, waited: Duration) -> Error {
        Error::Systemd {
            call: "start",
            unit: self.unit,
            reason: format!("not done within {} s", waited.as_secs()),
            kind: ErrorKind::Internal,
        }
    }

    fn call(&mut self) -> Result<()> {
        let properties = [self.properties.as_slice(), &self.newer].concat();
        let arguments = [
            Argument::Text(&self.unit),
            Argument::Text("replace"),
            Argument::Properties(&properties),
            Argument::NoUnits,
        ];
        let sent = self.connection.send(CALL, &arguments);
        self.stage = Stage::Calling(sent.map_err(|silence| failed(CALL, &self.unit, &silence))?);
        self.outcome.told.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn hear(&mut self, heard: Heard) -> Result<()> {
        match (heard, &self.stage) {
            (Heard::Returned { to, job: Some(job) }, Stage::Calling(serial)) if to == *serial => {
                let ended = self.ended.iter().position(|(other, _)| *other == job);
                let ended = ended.map(|index| self.ended.swap_remove(index).1);
                self.stage = Stage::Waiting(job);
                ended.map_or(Ok(()), |result| self.end(&result))
            }
            (Heard::Refused { to, name, text }, Stage::Calling(serial)) if to == *serial => {
                self.try_again(Refusal { name, text })
            }
            // That there is nothing to forget shows in the next answer.
            (Heard::Returned { to, .. } | Heard::Refused { to, .. }, Stage::Forgetting(serial))
                if to == *serial =>
            {
                self.call()
            }
            (Heard::JobRemoved { job, result }, Stage::Waiting(ours)) if job == *ours => self.end(&result),
            (Heard::JobRemoved { job, result }, Stage::Calling(_)) => {
                self.ended.push((job, result));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, result: &str) -> Result<()> {
        self.stage = Stage::Done;
        match result {
            "done" => Ok(()),
            // `failed`, `timeout`, `canceled`, `dependency` and so on (org.freedesktop.systemd1(5)).
            other => Err(Error::Systemd {
                call: "start",
                unit: self.unit.clone(),
                reason: format!("its job ended as {other}"),
                kind: ErrorKind::Internal,
            }),
        }
    }

    /// Two refusals have a remedy, each once.
    fn try_again(&mut self, refusal: Refusal) -> Result<()> {
        match refusal.name.as_str() {
            "org.freedesktop.systemd1.UnitExists" if !self.reset => {
                self.reset = true;
                let sent = self.connection.send("ResetFailedUnit", &[Argument::Text(&self.unit)]);
                let sent = sent.map_err(|silence| failed("ResetFailedUnit", &self.unit, &silence))?;
                self.stage = Stage::Forgetting(sent);
                Ok(())
            }
            name if !self.newer.is_empty() && super::is_unknown_property(name) => {
                let unknown = self.newer.drain(..).map(|property| super::unknown_property(&property));
                self.outcome.unknown.lock().unwrap_or_else(PoisonError::into_inner).extend(unknown);
                self.call()
            }
            _ => {
                self.stage = Stage::Done;
                self.outcome.told.store(false, Ordering::Relaxed);
                Err(refused(CALL, &self.unit, refusal))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::message::{Value, tests as bytes};
    use super::*;

    const JOB: &str = "/org/freedesktop/systemd1/job/7";

    struct Systemd(UnixStream);

    impl Systemd {
        fn say(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).unwrap();
        }

        /// The names of methods called since the last time, in order.
        fn called(&mut self) -> Vec<&'static str> {
            self.0.set_nonblocking(true).unwrap();
            let mut text = Vec::new();
            // Ends with "would block".
            let _ = self.0.read_to_end(&mut text);
            let text = String::from_utf8_lossy(&text).into_owned();
            let names = ["StartTransientUnit", "ResetFailedUnit", "OOMPolicy"];
            let mut found: Vec<_> =
                names.iter().flat_map(|name| text.match_indices(name).map(|(at, _)| (at, *name))).collect();
            found.sort_unstable();
            found.into_iter().map(|(_, name)| name).collect()
        }
    }

    fn begin() -> (UnitStart, Systemd, Outcome) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let outcome = Outcome::default();
        let newer = vec![Property { name: "OOMPolicy", value: Value::Text("kill".to_owned()) }];
        let connection = Connection::over(ours).unwrap();
        let start = UnitStart::begin(connection, "a.scope".to_owned(), Vec::new(), newer, outcome.clone());
        let (mut start, mut systemd) = (start.unwrap(), Systemd(theirs));
        systemd.say(b"OK 1234\r\n");
        assert!(!start.poll().unwrap());
        assert_eq!(systemd.called(), ["StartTransientUnit", "OOMPolicy"]);
        (start, systemd, outcome)
    }

    #[test]
    fn a_unit_runs_when_its_job_is_done_and_not_when_another_is() {
        let (mut start, mut systemd, _) = begin();
        systemd.say(&bytes::returned(1, JOB));
        systemd.say(&bytes::job_removed("/org/freedesktop/systemd1/job/70", "failed"));
        assert!(!start.poll().unwrap());
        systemd.say(&bytes::job_removed(JOB, "done"));
        assert!(start.poll().unwrap());
        assert!(start.poll().unwrap());
    }

    #[test]
    fn a_job_that_ends_before_its_name_is_known_is_not_missed() {
        let (mut start, mut systemd, _) = begin();
        systemd.say(&bytes::job_removed(JOB, "done"));
        assert!(!start.poll().unwrap());
        systemd.say(&bytes::returned(1, JOB));
        assert!(start.poll().unwrap());
    }

    #[test]
    fn a_job_that_fails_says_how() {
        let (mut start, mut systemd, _) = begin();
        systemd.say(&[bytes::returned(1, JOB), bytes::job_removed(JOB, "timeout")].concat());
        let error = start.poll().unwrap_err();
        assert_eq!(error.to_string(), "systemd: start a.scope: its job ended as timeout");
    }

    #[test]
    fn a_unit_that_has_failed_before_is_forgotten_once() {
        let (mut start, mut systemd, outcome) = begin();
        assert!(outcome.told.load(Ordering::Relaxed));
        systemd.say(&bytes::refused(1, "org.freedesktop.systemd1.UnitExists", "was already loaded"));
        assert!(!start.poll().unwrap());
        assert_eq!(systemd.called(), ["ResetFailedUnit"]);
        systemd.say(&bytes::refused(2, "org.freedesktop.systemd1.NoSuchUnit", "not loaded"));
        assert!(!start.poll().unwrap());
        assert_eq!(systemd.called(), ["StartTransientUnit", "OOMPolicy"]);
        systemd.say(&bytes::refused(3, "org.freedesktop.systemd1.UnitExists", "was already loaded"));
        let error = start.poll().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(!outcome.told.load(Ordering::Relaxed), "the unit is another's");
        let text =
            "systemd: StartTransientUnit a.scope: was already loaded (org.freedesktop.systemd1.UnitExists)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn what_an_old_systemd_does_not_know_is_left_out_and_reported() {
        let (mut start, mut systemd, outcome) = begin();
        systemd.say(&bytes::refused(
            1,
            "org.freedesktop.DBus.Error.PropertyReadOnly",
            "Cannot set OOMPolicy",
        ));
        assert!(!start.poll().unwrap());
        assert_eq!(systemd.called(), ["StartTransientUnit"]);
        assert_eq!(outcome.unknown.lock().unwrap()[0].file, "OOMPolicy");
        systemd.say(&bytes::refused(2, "org.freedesktop.DBus.Error.InvalidArgs", "no"));
        assert_eq!(start.poll().unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_systemd_that_goes_away_is_an_error() {
        let (mut start, systemd, _) = begin();
        drop(systemd);
        assert!(start.poll().unwrap_err().to_string().starts_with("systemd: StartTransientUnit a.scope: "));
    }
}

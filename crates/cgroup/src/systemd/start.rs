//! Starting a scope: from the call to the end of the job, in steps that never wait.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::bus::{Connection, Refusal};
use super::message::{Argument, Heard, Property};
use super::{failed, refused};
use crate::error::{Error, ErrorKind, Result};

const CALL: &str = "StartTransientUnit";

/// A scope that systemd is making around a process. Dropping it does not take the call back.
#[derive(Debug)]
pub struct UnitStart {
    connection: Connection,
    unit: String,
    properties: Vec<Property>,
    /// Left out when systemd turns out not to know them.
    newer: Vec<Property>,
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
    ) -> Result<Self> {
        let stage = Stage::Done;
        let mut start = Self { connection, unit, properties, newer, stage, ended: Vec::new(), reset: false };
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
                self.newer.clear();
                self.call()
            }
            _ => {
                self.stage = Stage::Done;
                Err(refused(CALL, &self.unit, refusal))
            }
        }
    }
}

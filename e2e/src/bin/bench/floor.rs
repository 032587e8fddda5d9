//! The kernel's own price: `e2e/floor/floor.c`, compiled here and driven round by round beside the contenders.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::Course;
use crate::driven::{Driven, compiled};
use crate::rounds::Round;

/// Its name in the table.
pub(crate) const NAME: &str = "floor";

/// What it tells of each round, in order.
const PHASES: [&str; 5] = ["root", "cgroups", "clone and join", "child", "cleanup"];

/// The running floor program.
#[derive(Debug)]
pub(crate) struct Floor {
    program: Driven,
    _layers: TempDir,
}

impl Floor {
    pub(crate) fn start(course: &Course) -> Result<Self> {
        let layers = TempDir::new_in(course.world.dir()).context("make a folder")?;
        let probe = course.template.probe.as_os_str();
        let arguments = [probe, layers.path().as_os_str(), course.world.id().as_ref()];
        Ok(Self { program: Driven::start(&compiled("floor")?, &arguments)?, _layers: layers })
    }

    /// One container at the kernel's price.
    pub(crate) fn round(&mut self) -> Result<Round> {
        let took = self.program.ask("x")?;
        ensure!(took.len() == PHASES.len(), "the floor said {took:?}");
        let took = took.into_iter().map(|micros| Duration::from_secs_f64(micros / 1e6));
        Ok(PHASES.into_iter().zip(took).collect())
    }
}

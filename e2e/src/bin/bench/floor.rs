//! The kernel's own price: `e2e/floor/floor.c`, compiled here and driven round by round beside the contenders.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use tempfile::TempDir;

use crate::Course;
use crate::peer;
use crate::rounds::Round;

/// Its name in the table.
pub(crate) const NAME: &str = "floor";

/// What it tells of each round, in order.
const PHASES: [&str; 5] = ["root", "cgroups", "clone and join", "child", "cleanup"];

/// The running floor program.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _layers: TempDir,
}

impl Floor {
    pub(crate) fn start(course: &Course) -> Result<Self> {
        let cache = peer::cache().context("no folder for the compiled floor")?;
        let source = cache.with_file_name("floor").join("floor.c");
        fs::create_dir_all(&cache).context("make the cache")?;
        let program = cache.join("floor");
        let compiled =
            Command::new("gcc").args(["-O2", "-o"]).args([&program, &source]).status().context("run gcc")?;
        ensure!(compiled.success(), "gcc {}: {compiled}", source.display());
        let layers = TempDir::new_in(course.world.dir()).context("make a folder")?;
        let mut child = Command::new(program)
            .arg(&course.template.probe)
            .arg(layers.path())
            .arg(course.world.id())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the floor")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the floor has no output")?);
        Ok(Self { child, stdin, stdout, _layers: layers })
    }

    /// One container at the kernel's price.
    pub(crate) fn round(&mut self) -> Result<Round> {
        self.stdin.as_mut().context("the floor has no input")?.write_all(b"x").context("ask the floor")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("the floor's answer")?;
        let took: Vec<f64> = line.split_whitespace().flat_map(str::parse).collect();
        ensure!(took.len() == PHASES.len(), "the floor said {line:?}");
        Ok(PHASES
            .into_iter()
            .zip(took.into_iter().map(|micros| Duration::from_secs_f64(micros / 1e6)))
            .collect())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Its input ends, and with it the program.
        drop(self.stdin.take());
        _ = self.child.wait();
    }
}

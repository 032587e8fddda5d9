//! A program that is asked by lines on its stdin and answers each with a line, within a limit.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dunnage_e2e::wait;

use crate::peer;

/// How long an answer may take. One takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The running program. It ends with this.
#[derive(Debug)]
pub(crate) struct Driven {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Driven {
    pub(crate) fn start(program: &Path, arguments: &[&OsStr]) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let command =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = command.with_context(|| format!("start {}", program.display()))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("it has no output")?);
        let (told, answers) = channel();
        // Ends when the program has: then there is nothing more to read.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        Ok(Self { name, child, stdin, answers })
    }

    /// Writes `question` as it is and gives the numbers in the line that is the answer.
    pub(crate) fn ask(&mut self, question: &str) -> Result<Vec<f64>> {
        let mut stdin = self.stdin.as_ref().context("it has no input")?;
        stdin.write_all(question.as_bytes()).with_context(|| format!("ask {}", self.name))?;
        let answer = self.answers.recv_timeout(LIMIT * wait::patience());
        let answer = answer.with_context(|| format!("{} does not answer to {:?}", self.name, question))?;
        Ok(answer.split_whitespace().flat_map(str::parse).collect())
    }

    /// As [`Self::ask`], for one number of microseconds.
    pub(crate) fn time(&mut self, question: &str) -> Result<Duration> {
        let told = self.ask(question)?;
        ensure!(told.len() == 1, "{} said {told:?}", self.name);
        Ok(Duration::from_secs_f64(told[0] / 1e6))
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It may be the one that hangs.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Compiles a program of `e2e/floor`.
pub(crate) fn compiled(name: &str) -> Result<PathBuf> {
    let cache = peer::cache().context("no folder for the compiled floor")?;
    let source = cache.with_file_name("floor").join(format!("{name}.c"));
    std::fs::create_dir_all(&cache).context("make the cache")?;
    let program = cache.join(format!("floor-{name}"));
    let status =
        Command::new("gcc").args(["-O2", "-o"]).args([&program, &source]).status().context("run gcc")?;
    ensure!(status.success(), "gcc {}: {status}", source.display());
    Ok(program)
}

//! What is wrong with a manifest: each fault with its place and the path of its field.
//!
//! Faults are gathered, not returned one by one, so that a person mends a file in one round.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use super::yaml::Place;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) at: Place,
    /// As `kubectl explain` writes it: `spec.containers[0].resources.limits.cpu`; empty for the whole file.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Where decoders leave the faults they meet.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: RefCell<Vec<Problem>>,
}

impl Report {
    pub(crate) fn add(&self, at: Place, path: &str, text: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { at, path: path.to_owned(), text: text.into() });
    }

    /// The faults in the order of the text.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.at);
        problems
    }
}

/// A manifest that cannot be run, with all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ManifestError {
    pub(crate) file: PathBuf,
    pub(crate) problems: Vec<Problem>,
}

impl ManifestError {
    pub(crate) fn new(file: &Path, problems: Vec<Problem>) -> Self {
        Self { file: file.to_owned(), problems }
    }
}

impl fmt::Display for ManifestError {
    /// `pod.yaml:12:9: spec.containers[0].image: text`, one line to a fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: ", self.file.display(), problem.at.line, problem.at.column)?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            write!(f, "{}", problem.text)?;
        }
        Ok(())
    }
}

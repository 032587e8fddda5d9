//! What can go wrong at a birth, as a sentence and as a kind.

use std::fmt::Write;

use dunnage_plan::step::Program;
use dunnage_plan::{Plan, Planned, Step};
use dunnage_sys::Errno;
use dunnage_sys::error::Named;
use dunnage_sys::pidfd::{Exit, Pid};

use crate::interpreter;
use crate::wire::{Call, Failure, PROLOGUE, Record};

/// A birth failed: `{step}: {errno}`, or the call of the parent that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    step: Option<usize>,
}

/// What an [`Error`] is, for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The spec asks for something that cannot be.
    InvalidArgument,
    /// The program, or a file the spec names, does not exist.
    NotFound,
    /// The program may not be executed.
    PermissionDenied,
    /// The kernel lacks it.
    Unsupported,
    /// Out of memory, processes, descriptors or namespaces.
    ResourceExhausted,
    /// Anything else.
    Internal,
}

impl Error {
    /// For decisions; nothing may decide by the text.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Number of the step of the plan that failed, when it was one.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        self.step
    }

    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), step: None }
    }

    pub(crate) fn because(mut self, reason: &str) -> Self {
        let _ = write!(self.message, ": {reason}");
        self
    }

    pub(crate) fn of(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn no_init() -> Self {
        Self::new(ErrorKind::Internal, "the plan joins the init of a container, and no pidfd of it was given")
    }

    pub(crate) fn late(state: &str) -> Self {
        Self::new(ErrorKind::Internal, format!("the process was not {state} in time"))
    }

    pub(crate) fn strange(message: &[u8]) -> Self {
        Self::new(ErrorKind::Internal, format!("the child said {message:?}, which means nothing"))
    }

    /// The child died without a word.
    pub(crate) fn death(exit: Option<Exit>, created: bool) -> Self {
        let before = if created { "started" } else { "created" };
        match exit {
            // The kernel's only way to end a child that does nothing wrong is the OOM killer.
            Some(Exit::Signal(9)) => Self::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "the process was killed (SIGKILL) before it was {before}: by someone, or because the memory limit is too low"
                ),
            ),
            Some(Exit::Signal(signal)) => Self::new(
                ErrorKind::Internal,
                format!("signal {signal} ended the process before it was {before}"),
            ),
            Some(Exit::Status(status)) => Self::new(
                ErrorKind::Internal,
                format!("the process exited with status {status} before it was {before}"),
            ),
            None => Self::new(ErrorKind::Internal, format!("the process ended before it was {before}")),
        }
    }

    /// The child has told what failed, and waits.
    pub(crate) fn from_record(record: &Record, plan: &Plan, pid: Pid) -> Self {
        let Record { step, failure, text } = record;
        let text = String::from_utf8_lossy(text.as_bytes());
        let (about, kernel) = text.split_once('\n').unwrap_or((&text, ""));
        let Some(planned) = plan.steps.get(usize::from(*step)) else {
            return Self::outside_of_steps(*step, *failure);
        };
        let mut error = match (&planned.step, &plan.program) {
            (Step::FindProgram, Some(program)) if failure.call == Call::Access => {
                Self::program_not_found(program, failure.errno)
            }
            (Step::Execute, Some(program)) if failure.call == Call::Execve => {
                Self::not_executed(program, failure.errno, interpreter::missing(pid, about))
            }
            _ => Self::of_step(plan, planned, *failure, (about, kernel)),
        };
        error.step = Some(usize::from(*step));
        error
    }

    fn of_step(plan: &Plan, planned: &Planned, failure: Failure, (about, kernel): (&str, &str)) -> Self {
        let mut message = plan.step(planned).to_string();
        let call = failure.call.name();
        for (before, part) in [(": ", call), (if call.is_empty() { ": " } else { " " }, about)] {
            if !part.is_empty() {
                let _ = write!(message, "{before}{}", printable(part));
            }
        }
        let _ = write!(message, ": {}", Named(failure.errno));
        if !kernel.is_empty() {
            let _ = write!(message, ": {}", printable(kernel.trim_end()));
        }
        Self::new(kind(&planned.step, failure), message)
    }

    fn outside_of_steps(step: u16, failure: Failure) -> Self {
        if failure.call == Call::NoProgram {
            return Self::new(ErrorKind::InvalidArgument, Call::NoProgram.name());
        }
        debug_assert_eq!(step, PROLOGUE);
        let kind = general_kind(failure.errno);
        Self::new(kind, format!("prepare the child: {}: {}", failure.call.name(), Named(failure.errno)))
    }

    /// In the words of the field, which users search for.
    fn program_not_found(program: &Program, errno: Errno) -> Self {
        let name = program.name.to_string_lossy();
        match errno {
            Errno::NOENT if name.contains('/') => {
                Self::new(ErrorKind::NotFound, format!("exec: {name:?}: no such file or directory"))
            }
            Errno::NOENT => {
                Self::new(ErrorKind::NotFound, format!("exec: {name:?}: executable file not found in $PATH"))
            }
            errno => Self::not_executed(program, errno, None),
        }
    }

    fn not_executed(program: &Program, errno: Errno, interpreter: Option<String>) -> Self {
        let name = program.name.to_string_lossy();
        let (kind, reason) = match (errno, interpreter) {
            (Errno::NOENT, Some(interpreter)) => {
                (ErrorKind::NotFound, format!("no such file or directory: its interpreter {interpreter:?}"))
            }
            (Errno::NOENT, None) => {
                (ErrorKind::NotFound, "no such file or directory: it or its interpreter".to_owned())
            }
            (Errno::ACCESS | Errno::PERM, _) => (ErrorKind::PermissionDenied, "permission denied".to_owned()),
            (Errno::NOEXEC, _) => (ErrorKind::InvalidArgument, "exec format error".to_owned()),
            (Errno::TOOBIG, _) => (ErrorKind::InvalidArgument, "argument list too long".to_owned()),
            (errno, _) => (general_kind(errno), Named(errno).to_string()),
        };
        Self::new(kind, format!("exec: {name:?}: {reason}"))
    }
}

/// Strings of a bundle must not write to the terminal of whoever reads the error.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A call of the parent failed.
impl From<dunnage_sys::Error> for Error {
    fn from(error: dunnage_sys::Error) -> Self {
        Self::new(general_kind(error.errno()), error.to_string())
    }
}

fn kind(step: &Step, failure: Failure) -> ErrorKind {
    match (failure.errno, step) {
        (Errno::NOENT | Errno::NOTDIR, Step::ChangeDirectory(_) | Step::VerifyWorkingDirectory) => {
            ErrorKind::InvalidArgument
        }
        (Errno::ACCESS | Errno::PERM, Step::RetryChangeDirectory(_)) => ErrorKind::PermissionDenied,
        (Errno::NODEV, Step::MountFileSystem { .. }) if failure.call == Call::Fsopen => {
            ErrorKind::Unsupported
        }
        (errno, _) => general_kind(errno),
    }
}

fn general_kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::INVAL | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => ErrorKind::InvalidArgument,
        Errno::NOSYS | Errno::OPNOTSUPP => ErrorKind::Unsupported,
        Errno::NOMEM
        | Errno::NOSPC
        | Errno::MFILE
        | Errno::NFILE
        | Errno::AGAIN
        | Errno::DQUOT
        | Errno::USERS => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Internal,
    }
}

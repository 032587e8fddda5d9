//! The life of one process, as a pure table: what may happen when, and what follows from it.
//!
//! ```text
//!            Born            Start               Started
//! Creating ───────▶ Created ───────▶ Starting ───────────▶ Running ◀──────▶ Paused
//!     │                │ Exit           │ NotStarted          │ Exit  Pause,    │ Exit
//!     │ Exit           ▼                ▼                     ▼       Resume    ▼
//!     └───────────▶ Stopped ◀───────────┴─────────────────────┴─────────────────┘
//! ```
//!
//! An init is born (parked at its gate) before it is created; an exec is only registered while it is created.
//! Whoever watches a process tells of its start before its end (`watch`), so no exit has to wait in
//! `Starting`. Owns no descriptor and no clock: time comes in with the input.

use std::time::SystemTime;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255, or 128 plus the number of the signal.
    pub status: u32,
    /// When the shim saw it.
    pub at: SystemTime,
}

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The child executes its plan.
    Creating,
    /// Ready to start.
    Created,
    /// The gate is open; `execve` is not confirmed yet.
    Starting,
    /// The user's program runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended.
    Stopped(Exit),
}

/// What can happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The child reached its gate.
    Born,
    /// Asked to start.
    Start,
    /// `execve` succeeded.
    Started,
    /// It did not; the exit is what the child left.
    NotStarted(Exit),
    /// The process ended.
    Exit(Exit),
    /// It is frozen now.
    Pause,
    /// It is thawed now.
    Resume,
}

/// What the driver does after a transition, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// Open the gate (init) or make the process (exec).
    pub launch: bool,
    /// Publish that it started.
    pub publish_start: bool,
    /// Freeze is still in force although the process is gone: thaw what is left.
    pub thaw: bool,
    /// It is over: report the exit, once.
    pub ended: Option<Exit>,
}

/// A request that is only looked at against the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Register a process to execute.
    Exec,
    /// Send a signal.
    Kill,
    /// Change limits.
    Update,
    /// Remove.
    Delete,
}

/// Why something is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The verb does not fit the state.
    #[error("cannot {verb} a {state} process")]
    Wrong {
        /// What was asked.
        verb: &'static str,
        /// What it is.
        state: &'static str,
    },
    /// A signal for what has ended.
    #[error("process already finished")]
    Finished,
}

impl State {
    /// The word for it, as `State` and messages say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting | Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
        }
    }

    /// The exit, once there is one to tell.
    #[must_use]
    pub fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether `request` makes sense now.
    ///
    /// # Errors
    /// [`Denied`] with the reason.
    pub fn allows(self, request: Request) -> Result<(), Denied> {
        let (verb, fits) = match request {
            Request::Exec => ("exec in", matches!(self, Self::Running)),
            Request::Update => ("update", !matches!(self, Self::Creating | Self::Stopped(_))),
            Request::Delete => ("delete", matches!(self, Self::Creating | Self::Created | Self::Stopped(_))),
            Request::Kill if matches!(self, Self::Stopped(_)) => return Err(Denied::Finished),
            Request::Kill => ("kill", !matches!(self, Self::Creating)),
        };
        if fits { Ok(()) } else { Err(self.wrong(verb)) }
    }

    fn wrong(self, verb: &'static str) -> Denied {
        Denied::Wrong { verb, state: self.as_str() }
    }
}

/// The table: the state after `input`, and what follows.
///
/// # Errors
/// [`Denied`] when a request does not fit. What the kernel reports always fits: a second exit of the same
/// process is ignored.
pub fn next(state: State, input: Input) -> Result<(State, Effects), Denied> {
    let quiet = Effects::default();
    let over = |exit| Effects { ended: Some(exit), ..quiet };
    Ok(match (state, input) {
        (State::Creating, Input::Born) => (State::Created, quiet),
        (State::Created, Input::Start) => (State::Starting, Effects { launch: true, ..quiet }),
        (State::Starting, Input::Started) => (State::Running, Effects { publish_start: true, ..quiet }),
        (State::Starting, Input::NotStarted(exit)) => (State::Stopped(exit), over(exit)),
        (State::Paused, Input::Exit(exit)) => (State::Stopped(exit), Effects { thaw: true, ..over(exit) }),
        (State::Stopped(_), Input::Exit(_)) => (state, quiet),
        (_, Input::Exit(exit)) => (State::Stopped(exit), over(exit)),
        (State::Running, Input::Pause) => (State::Paused, quiet),
        (State::Paused, Input::Resume) => (State::Running, quiet),
        (_, Input::Start) => return Err(state.wrong("start")),
        (_, Input::Pause) => return Err(state.wrong("pause")),
        (_, Input::Resume) => return Err(state.wrong("resume")),
        (_, Input::Born | Input::Started | Input::NotStarted(_)) => (state, quiet),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn exit(status: u32) -> Exit {
        Exit { status, at: SystemTime::UNIX_EPOCH + Duration::from_secs(1) }
    }

    fn inputs() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Born),
            Just(Input::Start),
            Just(Input::Started),
            (0u32..256).prop_map(|status| Input::NotStarted(exit(status))),
            (0u32..256).prop_map(|status| Input::Exit(exit(status))),
            Just(Input::Pause),
            Just(Input::Resume),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_an_end_is_reported_at_most_once_and_never_before_the_start(
            story in proptest::collection::vec(inputs(), 0..40)
        ) {
            let mut state = State::Creating;
            let (mut starts, mut ends) = (0, 0);
            for input in story {
                let Ok((after, effects)) = next(state, input) else { continue };
                prop_assert!(!(effects.publish_start && ends > 0), "start published after the end");
                starts += u32::from(effects.publish_start);
                ends += u32::from(effects.ended.is_some());
                prop_assert!(matches!(after, State::Stopped(_)) == (ends == 1));
                state = after;
            }
            prop_assert!(starts <= 1 && ends <= 1);
        }

        #[test]
        fn a_stopped_process_never_changes_again(
            status in 0u32..256, story in proptest::collection::vec(inputs(), 1..20)
        ) {
            let stopped = State::Stopped(exit(status));
            for input in story {
                if let Ok((after, effects)) = next(stopped, input) {
                    prop_assert_eq!(after, stopped);
                    prop_assert_eq!(effects, Effects::default());
                }
            }
        }

        #[test]
        fn a_denied_input_leaves_a_reason_with_verb_and_state(input in inputs()) {
            if let Err(denied) = next(State::Stopped(exit(0)), input) {
                prop_assert!(denied.to_string().contains("stopped"));
            }
        }
    }

    #[test]
    fn the_life_of_an_ordinary_process_starts_once_and_ends_once() {
        let mut state = State::Creating;
        let mut seen = Vec::new();
        for input in [Input::Born, Input::Start, Input::Started, Input::Exit(exit(7))] {
            let (after, effects) = next(state, input).unwrap();
            seen.push((after.as_str(), effects.publish_start, effects.ended));
            state = after;
        }
        let expected = [
            ("created", false, None),
            ("running", false, None),
            ("running", true, None),
            ("stopped", false, Some(exit(7))),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_frozen_process_that_dies_is_thawed() {
        let (_, effects) = next(State::Paused, Input::Exit(exit(137))).unwrap();
        assert!(effects.thaw);
    }

    #[test]
    fn killing_what_has_ended_says_so() {
        assert_eq!(State::Stopped(exit(0)).allows(Request::Kill), Err(Denied::Finished));
        assert_eq!(
            State::Running.allows(Request::Delete).unwrap_err().to_string(),
            "cannot delete a running process"
        );
    }
}

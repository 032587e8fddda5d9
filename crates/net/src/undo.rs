//! An owned stack of what was done, undone in reverse unless it is committed.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::{Error, Result};

type Step<C> = (&'static str, Box<dyn FnOnce(&mut C) -> Result<()>>);

/// What steps work on, and how to take each of them back.
pub(crate) struct Undo<C> {
    context: C,
    steps: Vec<Step<C>>,
}

impl<C> Undo<C> {
    pub(crate) fn new(context: C) -> Self {
        Self { context, steps: Vec::new() }
    }

    /// Remembers how to take back what was just done.
    pub(crate) fn push(&mut self, what: &'static str, step: impl FnOnce(&mut C) -> Result<()> + 'static) {
        self.steps.push((what, Box::new(step)));
    }

    /// Everything is done: nothing is to be taken back.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }

    /// Takes everything back and gives the reason, with what could not be taken back.
    pub(crate) fn roll_back(mut self, error: Error) -> Error {
        let left: Vec<String> = self.unwind().map(|(what, error)| format!("{what}: {error}")).collect();
        if left.is_empty() {
            error
        } else {
            Error::LeftBehind { error: Box::new(error), left: left.join("; ") }
        }
    }

    /// Goes on after a step that fails: each of the others may still leave one thing less behind.
    fn unwind(&mut self) -> impl Iterator<Item = (&'static str, Error)> {
        std::iter::from_fn(|| self.steps.pop().map(|(what, step)| (what, step(&mut self.context))))
            .filter_map(|(what, done)| done.err().map(|error| (what, error)))
    }
}

impl<C> Drop for Undo<C> {
    fn drop(&mut self) {
        // Reached with steps only by a panic, which is the error that is seen.
        self.unwind().for_each(drop);
    }
}

impl<C> Deref for Undo<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.context
    }
}

impl<C> DerefMut for Undo<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.context
    }
}

impl<C> fmt::Debug for Undo<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|(what, _)| what)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    type Log = Rc<RefCell<Vec<u8>>>;

    fn undo() -> Undo<Log> {
        let mut undo = Undo::new(Log::default());
        for number in 1..4 {
            undo.push("step", move |log| {
                log.borrow_mut().push(number);
                if number == 2 { Err(reason("undo")) } else { Ok(()) }
            });
        }
        undo
    }

    fn reason(value: &str) -> Error {
        Error::Invalid { what: "x", value: value.to_owned(), reason: "y" }
    }

    #[test]
    fn steps_are_undone_in_reverse_and_one_that_fails_does_not_stop_the_others() {
        let undo = undo();
        let log = undo.context.clone();
        let error = undo.roll_back(reason("step"));
        assert_eq!(*log.borrow(), [3, 2, 1]);
        assert_eq!(error.to_string(), "x \"step\": y; and it could not be undone: step: x \"undo\": y");
    }

    #[test]
    fn a_commit_keeps_everything_and_a_drop_keeps_nothing() {
        let kept = undo();
        let log = kept.context.clone();
        kept.commit();
        assert!(log.borrow().is_empty());
        let dropped = undo();
        let log = dropped.context.clone();
        drop(dropped);
        assert_eq!(*log.borrow(), [3, 2, 1]);
    }
}

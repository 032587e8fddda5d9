//! A plan while it is being written: the slots and steps so far, and the phase of the next step.

use crate::step::{Phase, Planned, Slot, SlotId, Step};

#[derive(Debug)]
pub(crate) struct Draft {
    phase: Phase,
    pub(crate) slots: Vec<Slot>,
    pub(crate) steps: Vec<Planned>,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Isolate, slots: Vec::new(), steps: Vec::with_capacity(96) }
    }

    /// The steps that follow belong to `phase`.
    pub(crate) fn enter(&mut self, phase: Phase) {
        debug_assert!(phase >= self.phase, "phases never go backwards");
        self.phase = phase;
    }

    pub(crate) fn step(&mut self, step: Step, why: &'static str) {
        self.steps.push(Planned { phase: self.phase, step, why });
    }

    pub(crate) fn slot(&mut self, slot: Slot) -> SlotId {
        let id =
            u8::try_from(self.slots.len()).expect("there is at most one slot for each kind of namespace");
        self.slots.push(slot);
        SlotId(id)
    }
}

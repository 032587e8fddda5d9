//! Decisions to instructions: a balanced search over numbers, then the comparisons of arguments.
//!
//! The architecture and the number are the only things loaded on the way to an action without conditions. The
//! kernel (5.11 and later) runs the filter once for every number with nothing else, and calls that are allowed
//! on such a way skip the filter altogether from then on.

use std::collections::VecDeque;

use dunnage_spec::seccomp::{Action, Condition, Operator};

use crate::decide::{Alternative, Decision, Target};
use crate::instruction::{
    AND, ARCH_OFFSET, ARGUMENTS_OFFSET, IF_EQUAL, IF_GREATER, IF_GREATER_OR_EQUAL, Instruction, JUMP, LOAD,
    NUMBER_OFFSET, RETURN, return_value,
};

/// The whole filter: first the token of the architecture, the native one before the others.
pub(crate) fn assemble(decisions: &[Decision]) -> Vec<Instruction> {
    let mut code = Assembler::default();
    let mut searches = VecDeque::with_capacity(decisions.len());
    for decision in decisions.iter().rev() {
        let search = code.search(&decision.ranges, decision.wide);
        searches.push_front((decision.token, code.load(NUMBER_OFFSET, search)));
    }
    let mut next = code.action(Action::KillProcess);
    for (token, search) in searches.into_iter().rev() {
        next = code.branch(IF_EQUAL, token, search, next);
    }
    code.load(ARCH_OFFSET, next);
    code.backward.reverse();
    code.backward
}

/// Writes from the last instruction to the first: jumps only go forward, so every target is known, and equal
/// ends are shared.
#[derive(Default)]
struct Assembler {
    backward: Vec<Instruction>,
}

/// An instruction that is already written, by its place from the end.
#[derive(Clone, Copy)]
struct Label(usize);

/// How far a conditional jump is taken to reach. It reaches 255; both targets of a branch may need an
/// instruction of their own in between.
const REACH: usize = 250;

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.backward.push(Instruction { code, jt, jf, k });
        Label(self.backward.len() - 1)
    }

    /// Instructions between the next one written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.backward.len() - 1 - label.0
    }

    fn action(&mut self, action: Action) -> Label {
        let end = Instruction { code: RETURN, jt: 0, jf: 0, k: return_value(action) };
        let first = self.backward.len().saturating_sub(REACH / 2);
        match self.backward[first..].iter().rposition(|instruction| *instruction == end) {
            Some(place) => Label(first + place),
            None => self.push(RETURN, 0, 0, end.k),
        }
    }

    fn load(&mut self, offset: u32, then: Label) -> Label {
        self.fall_to(then);
        self.push(LOAD, 0, 0, offset)
    }

    fn and(&mut self, mask: u32, then: Label) -> Label {
        self.fall_to(then);
        self.push(AND, 0, 0, mask)
    }

    /// Makes `target` what the next instruction written goes on to.
    fn fall_to(&mut self, target: Label) {
        if self.distance(target) > 0 {
            self.jump(target);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        let instruction = self.backward[target.0];
        if instruction.code == RETURN {
            return self.push(RETURN, 0, 0, instruction.k);
        }
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    fn branch(&mut self, comparison: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let (jt, jf) = (self.skip(yes), self.skip(no));
        self.push(comparison, jt, jf, k)
    }

    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) > REACH { self.jump(label) } else { label }
    }

    fn skip(&self, label: Label) -> u8 {
        u8::try_from(self.distance(label)).expect("a near label is within reach")
    }

    /// A balanced search: every number takes about as many comparisons, the logarithm of the ranges.
    fn search(&mut self, ranges: &[(u32, Target)], wide: bool) -> Label {
        match ranges {
            [] => self.action(Action::KillProcess),
            [(_, target)] => self.target(target, wide),
            _ => {
                let (lower, upper) = ranges.split_at(ranges.len() / 2);
                let at_least = self.search(upper, wide);
                let below = self.search(lower, wide);
                self.branch(IF_GREATER_OR_EQUAL, upper[0].0, at_least, below)
            }
        }
    }

    fn target(&mut self, target: &Target, wide: bool) -> Label {
        match target {
            Target::Action(action) => self.action(*action),
            Target::Alternatives(alternatives, default) => {
                let mut next = self.action(*default);
                for alternative in alternatives.iter().rev() {
                    next = self.alternative(alternative, wide, next);
                }
                next
            }
        }
    }

    fn alternative(&mut self, alternative: &Alternative, wide: bool, no: Label) -> Label {
        let mut yes = self.action(alternative.action);
        for condition in alternative.conditions.iter().rev() {
            yes = self.condition(condition, wide, yes, no);
        }
        yes
    }

    fn condition(&mut self, condition: &Condition, wide: bool, yes: Label, no: Label) -> Label {
        let Condition { argument, operator, value, value_two } = *condition;
        let halves = Halves { argument, wide };
        match operator {
            Operator::Equal => self.equal(halves, u64::MAX, value, yes, no),
            Operator::NotEqual => self.equal(halves, u64::MAX, value, no, yes),
            Operator::MaskedEqual => self.equal(halves, value, value_two, yes, no),
            Operator::GreaterThan => self.above(halves, IF_GREATER, value, yes, no),
            Operator::LessOrEqual => self.above(halves, IF_GREATER, value, no, yes),
            Operator::GreaterOrEqual => self.above(halves, IF_GREATER_OR_EQUAL, value, yes, no),
            Operator::LessThan => self.above(halves, IF_GREATER_OR_EQUAL, value, no, yes),
        }
    }

    /// `argument & mask == value`, the high half first.
    fn equal(&mut self, halves: Halves, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let low = self.half_equal(halves.low(), low(mask), low(value), yes, no);
        if halves.wide { self.half_equal(halves.high(), high(mask), high(value), low, no) } else { low }
    }

    fn half_equal(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        let mut next = self.branch(IF_EQUAL, value, yes, no);
        if mask != u32::MAX {
            next = self.and(mask, next);
        }
        self.load(offset, next)
    }

    /// The comparison of the low half counts only when the high halves are equal.
    fn above(&mut self, halves: Halves, comparison: u16, value: u64, yes: Label, no: Label) -> Label {
        let next = self.branch(comparison, low(value), yes, no);
        let next = self.load(halves.low(), next);
        if !halves.wide {
            return next;
        }
        let next = self.branch(IF_EQUAL, high(value), next, no);
        let next = self.branch(IF_GREATER, high(value), yes, next);
        self.load(halves.high(), next)
    }
}

/// Where an argument is in struct seccomp_data. Calls of 32-bit architectures have only the low halves, and
/// values are cut to them, so that -1 means what it says.
#[derive(Clone, Copy)]
struct Halves {
    argument: u8,
    wide: bool,
}

impl Halves {
    fn low(self) -> u32 {
        ARGUMENTS_OFFSET + 8 * u32::from(self.argument)
    }

    fn high(self) -> u32 {
        self.low() + 4
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

//! What happens to each number on each architecture: a profile as ranges of numbers with one target each.
//!
//! All the rules about meaning are here, so that the assembler only searches and compares.

use dunnage_spec::seccomp::{Action, Arch, Condition, Profile, Rule};

use crate::row::{NONE, X32};
use crate::syscall::{self, Call};

/// ENOSYS: to programs and libc "this kernel is too old, do it another way".
const ENOSYS: u16 = 38;

/// What the filter does with calls that come with one architecture token.
#[derive(Debug)]
pub(crate) struct Decision {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(crate) token: u32,
    /// Arguments have 64 bits.
    pub(crate) wide: bool,
    /// Each begins at its number and ends before the next; the first begins at 0, neighbours differ.
    pub(crate) ranges: Vec<(u32, Target)>,
}

/// What happens to the calls of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Without a look at the arguments.
    Action(Action),
    /// The first alternative whose conditions all hold decides, or else the default.
    Alternatives(Vec<Alternative>, Action),
}

/// Conditions, at least one, and what happens when they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: Action,
}

/// The calls that rules name, in order, and the names that no architecture has, each once.
pub(crate) fn resolve(profile: &Profile) -> (Vec<(Call, &Rule)>, Vec<String>) {
    let (mut calls, mut unknown) = (Vec::new(), Vec::new());
    for rule in &profile.rules {
        for name in &rule.names {
            match Call::named(name) {
                Some(call) => calls.push((call, rule)),
                None if unknown.contains(name) => {}
                None => unknown.push(name.clone()),
            }
        }
    }
    (calls, unknown)
}

/// One entry for each token that calls on this machine can have, the native one first.
pub(crate) fn decide(profile: &Profile, calls: &[(Call, &Rule)], native: Arch) -> Vec<Decision> {
    let mut tokens = vec![native];
    for &arch in &profile.architectures {
        // x32 calls come with the token of x86-64.
        if arch != Arch::X32 && !tokens.contains(&arch) && runs_on(arch, native) {
            tokens.push(arch);
        }
    }
    tokens.into_iter().map(|arch| decision(profile, calls, arch)).collect()
}

fn runs_on(arch: Arch, native: Arch) -> bool {
    matches!((arch, native), (Arch::X86, Arch::X86_64) | (Arch::Arm, Arch::Aarch64))
}

fn decision(profile: &Profile, calls: &[(Call, &Rule)], arch: Arch) -> Decision {
    let (token, wide) = match arch {
        Arch::X86_64 | Arch::X32 => (0xc000_003e, true),
        Arch::X86 => (0x4000_0003, false),
        Arch::Aarch64 => (0xc000_00b7, true),
        Arch::Arm => (0x4000_0028, false),
    };
    let mut named = Named { default: profile.default_action, rules: Vec::with_capacity(2 * calls.len()) };
    let mut spaces = vec![named.add(calls, arch, 0)];
    if arch == Arch::X86_64 {
        spaces.push(if profile.architectures.contains(&Arch::X32) {
            named.add(calls, Arch::X32, X32)
        } else {
            Space { first: X32, newer: X32, newer_action: Action::KillProcess, reserved: Arch::X86_64 }
        });
    }
    Decision { token, wide, ranges: named.ranges(&spaces) }
}

/// A row of numbers and what happens to those in it that no rule names.
struct Space {
    first: u32,
    /// The first number that is newer than every call the profile names.
    newer: u32,
    newer_action: Action,
    /// Whose reserved numbers are never newer.
    reserved: Arch,
}

/// The numbers that rules name, with what the rules say, in the order of the rules.
struct Named<'a> {
    default: Action,
    rules: Vec<(u32, Action, Conditions<'a>)>,
}

#[derive(Clone, Copy)]
enum Conditions<'a> {
    Rule(&'a [Condition]),
    Multiplexed(Condition),
}

impl<'a> Named<'a> {
    fn add(&mut self, calls: &[(Call, &'a Rule)], arch: Arch, first: u32) -> Space {
        let reserved = syscall::reserved(arch);
        let mut newest = None;
        for (call, rule) in calls {
            let number = call.number(arch);
            newest = newest.max(number.filter(|number| !reserved.contains(number)));
            // The default happens anyway.
            if rule.action != self.default {
                self.add_rule(rule, number, call.multiplexed(arch));
            }
        }
        // A program that meets a refusal where it expects ENOSYS does not try the older call: profiles that
        // are older than the libc break it (clone3, faccessat2).
        match (newest, self.default) {
            (Some(newest), Action::Errno(_)) => {
                Space { first, newer: newest + 1, newer_action: Action::Errno(ENOSYS), reserved: arch }
            }
            _ => Space { first, newer: first, newer_action: self.default, reserved: arch },
        }
    }

    fn add_rule(&mut self, rule: &'a Rule, number: Option<u32>, multiplexed: Option<(u32, Condition)>) {
        if let Some(number) = number {
            self.rules.push((number, rule.action, Conditions::Rule(&rule.conditions)));
        }
        // A multiplexer gets its arguments through a pointer, which no filter can follow: conditions cannot be
        // carried over to it.
        if let Some((number, condition)) = multiplexed.filter(|_| rule.conditions.is_empty()) {
            self.rules.push((number, rule.action, Conditions::Multiplexed(condition)));
        }
    }

    fn ranges(mut self, spaces: &[Space]) -> Vec<(u32, Target)> {
        let unnamed = |number| (number, Target::Action(unnamed(number, spaces).unwrap_or(self.default)));
        // Stable, so that the rules of one number stay in order.
        self.rules.sort_by_key(|&(number, ..)| number);
        let mut starts: Vec<(u32, Target)> = Vec::with_capacity(2 * self.rules.len() + 10);
        for rules in self.rules.chunk_by(|(a, ..), (b, ..)| a == b) {
            starts.push((rules[0].0, target(rules, self.default)));
        }
        let named = starts.len();
        starts.extend([unnamed(0), unnamed(NONE)]);
        for space in spaces {
            let reserved = syscall::reserved(space.reserved);
            starts.extend([space.first, space.newer, reserved.start, reserved.end].map(unnamed));
        }
        for after in 0..named {
            starts.push(unnamed(starts[after].0 + 1));
        }
        // Stable again: at one number what is named comes first.
        starts.sort_by_key(|&(number, _)| number);
        starts.dedup_by_key(|&mut (number, _)| number);
        starts.dedup_by(|(_, next), (_, target)| next == target);
        starts
    }
}

/// What the rules about one number come to.
fn target(rules: &[(u32, Action, Conditions<'_>)], default: Action) -> Target {
    let mut alternatives = Vec::new();
    for (_, action, conditions) in rules {
        match conditions {
            Conditions::Rule([]) => return Target::Action(*action),
            Conditions::Rule(conditions) => add_alternatives(&mut alternatives, *action, conditions),
            Conditions::Multiplexed(condition) => {
                add_alternatives(&mut alternatives, *action, std::slice::from_ref(condition));
            }
        }
    }
    Target::Alternatives(alternatives, default)
}

/// What happens to a number that no rule names; `None` is the default.
fn unnamed(number: u32, spaces: &[Space]) -> Option<Action> {
    // A tracer that skips a call sets -1, and filters run after it (seccomp(2), since 4.8).
    if number == NONE {
        return None;
    }
    let space = spaces.iter().rev().find(|space| space.first <= number)?;
    let newer = number >= space.newer && !syscall::reserved(space.reserved).contains(&number);
    newer.then_some(space.newer_action)
}

fn add_alternatives(alternatives: &mut Vec<Alternative>, action: Action, conditions: &[Condition]) {
    if has_argument_twice(conditions) {
        // What callers mean by several conditions on one argument, and what libseccomp cannot express
        // otherwise: each of all the conditions is an alternative.
        let alone = |condition: &Condition| Alternative { conditions: vec![*condition], action };
        alternatives.extend(conditions.iter().map(alone));
    } else {
        alternatives.push(Alternative { conditions: conditions.to_vec(), action });
    }
}

fn has_argument_twice(conditions: &[Condition]) -> bool {
    let earlier = |i: usize| conditions[..i].iter();
    conditions
        .iter()
        .enumerate()
        .any(|(i, condition)| earlier(i).any(|other| other.argument == condition.argument))
}

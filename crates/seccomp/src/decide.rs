//! What happens to each number on each architecture: a profile as ranges of numbers with one target each.
//!
//! All the rules about meaning are here, so that the assembler only searches and compares.

use std::collections::BTreeMap;

use dunnage_spec::seccomp::{Action, Arch, Condition, Profile, Rule};

use crate::syscall::{self, NONE, X32};

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

/// One entry for each token that calls on this machine can have, the native one first.
pub(crate) fn decide(profile: &Profile, native: Arch) -> Vec<Decision> {
    let mut tokens = vec![native];
    for &arch in &profile.architectures {
        // x32 calls come with the token of x86-64.
        if arch != Arch::X32 && !tokens.contains(&arch) && runs_on(arch, native) {
            tokens.push(arch);
        }
    }
    tokens.into_iter().map(|arch| decision(profile, arch)).collect()
}

fn runs_on(arch: Arch, native: Arch) -> bool {
    matches!((arch, native), (Arch::X86, Arch::X86_64) | (Arch::Arm, Arch::Aarch64))
}

fn decision(profile: &Profile, arch: Arch) -> Decision {
    let (token, wide) = match arch {
        Arch::X86_64 | Arch::X32 => (0xc000_003e, true),
        Arch::X86 => (0x4000_0003, false),
        Arch::Aarch64 => (0xc000_00b7, true),
        Arch::Arm => (0x4000_0028, false),
    };
    let mut calls = Calls::new(profile);
    let mut spaces = vec![calls.add(arch, 0)];
    if arch == Arch::X86_64 {
        spaces.push(if profile.architectures.contains(&Arch::X32) {
            calls.add(Arch::X32, X32)
        } else {
            Space { first: X32, newer: X32, newer_action: Action::KillProcess, reserved: Arch::X86_64 }
        });
    }
    Decision { token, wide, ranges: calls.ranges(&spaces) }
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

/// The calls that rules name, by number.
struct Calls<'a> {
    profile: &'a Profile,
    named: BTreeMap<u32, Named>,
}

#[derive(Default)]
struct Named {
    unconditional: Option<Action>,
    alternatives: Vec<Alternative>,
}

impl<'a> Calls<'a> {
    fn new(profile: &'a Profile) -> Self {
        Self { profile, named: BTreeMap::new() }
    }

    fn add(&mut self, arch: Arch, first: u32) -> Space {
        let reserved = syscall::reserved(arch);
        let mut newest = None;
        for rule in &self.profile.rules {
            for name in &rule.names {
                let number = syscall::number(name, arch);
                newest = newest.max(number.filter(|number| !reserved.contains(number)));
                // The default happens anyway.
                if rule.action != self.profile.default_action {
                    self.add_rule(rule, name, arch, number);
                }
            }
        }
        let default = self.profile.default_action;
        // A program that meets a refusal where it expects ENOSYS does not try the older call: profiles that
        // are older than the libc break it (clone3, faccessat2).
        match (newest, default) {
            (Some(newest), Action::Errno(_)) => {
                Space { first, newer: newest + 1, newer_action: Action::Errno(ENOSYS), reserved: arch }
            }
            _ => Space { first, newer: first, newer_action: default, reserved: arch },
        }
    }

    fn add_rule(&mut self, rule: &Rule, name: &str, arch: Arch, number: Option<u32>) {
        if let Some(number) = number {
            self.named.entry(number).or_default().add(rule.action, &rule.conditions);
        }
        // A multiplexer gets its arguments through a pointer, which no filter can follow: conditions cannot be
        // carried over to it.
        if let Some((number, condition)) =
            syscall::multiplexed(name, arch).filter(|_| rule.conditions.is_empty())
        {
            self.named.entry(number).or_default().add(rule.action, &[condition]);
        }
    }

    fn ranges(&self, spaces: &[Space]) -> Vec<(u32, Target)> {
        let mut ranges: Vec<(u32, Target)> = Vec::new();
        for start in self.starts(spaces) {
            let target = self.target(start, spaces);
            if ranges.last().is_none_or(|(_, last)| *last != target) {
                ranges.push((start, target));
            }
        }
        ranges
    }

    /// Every number at which the target may change, in order.
    fn starts(&self, spaces: &[Space]) -> Vec<u32> {
        let mut starts = vec![0, NONE];
        for space in spaces {
            let reserved = syscall::reserved(space.reserved);
            starts.extend([space.first, space.newer, reserved.start, reserved.end]);
        }
        starts.extend(self.named.keys().flat_map(|&number| [number, number + 1]));
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    fn target(&self, number: u32, spaces: &[Space]) -> Target {
        let default = self.profile.default_action;
        match self.named.get(&number) {
            Some(Named { unconditional: Some(action), .. }) => Target::Action(*action),
            Some(named) => Target::Alternatives(named.alternatives.clone(), default),
            None => Target::Action(unnamed(number, spaces).unwrap_or(default)),
        }
    }
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

impl Named {
    fn add(&mut self, action: Action, conditions: &[Condition]) {
        if conditions.is_empty() {
            self.unconditional.get_or_insert(action);
        } else if has_argument_twice(conditions) {
            // What callers mean by several conditions on one argument, and what libseccomp cannot express
            // otherwise: each of all the conditions is an alternative.
            let alone = |condition: &Condition| Alternative { conditions: vec![*condition], action };
            self.alternatives.extend(conditions.iter().map(alone));
        } else {
            self.alternatives.push(Alternative { conditions: conditions.to_vec(), action });
        }
    }
}

fn has_argument_twice(conditions: &[Condition]) -> bool {
    let earlier = |i: usize| conditions[..i].iter();
    conditions
        .iter()
        .enumerate()
        .any(|(i, condition)| earlier(i).any(|other| other.argument == condition.argument))
}

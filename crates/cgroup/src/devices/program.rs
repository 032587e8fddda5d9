//! Device rules as a BPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! For each kind of access that is asked for, the last rule that speaks of it decides; no rule means no. So the
//! program goes through the rules from the last to the first and keeps the accesses that are still undecided.

use dunnage_spec::resources::{DeviceRule, DeviceRuleKind};
use dunnage_sys::bpf::{Instruction, Register};

use super::rules::{bits, is_everything};

// linux/bpf.h: struct bpf_cgroup_dev_ctx { access_type, major, minor }; BPF_DEVCG_DEV_BLOCK and _CHAR.
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

const KIND: Register = Register::R2;
const UNDECIDED: Register = Register::R3;
const MAJOR_NUMBER: Register = Register::R4;
const MINOR_NUMBER: Register = Register::R5;
const ANSWER: Register = Register::R0;

/// The program for these rules.
pub(super) fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    // Nothing before a rule about everything has a say.
    let start = rules.iter().rposition(is_everything);
    let rules = &rules[start.unwrap_or(0)..];
    if start.is_some() && rules.iter().all(|rule| rule.allow) {
        return answer(true).to_vec();
    }
    // `KIND` holds the lower, `UNDECIDED` the upper half of the first word.
    let mut program = vec![
        Instruction::load(KIND, Register::R1, ACCESS_TYPE),
        Instruction::copy(UNDECIDED, KIND),
        Instruction::and(KIND, 0xffff),
        Instruction::shift_right(UNDECIDED, 16),
        Instruction::load(MAJOR_NUMBER, Register::R1, MAJOR),
        Instruction::load(MINOR_NUMBER, Register::R1, MINOR),
    ];
    for rule in rules.iter().rev() {
        program.extend(one(rule));
    }
    if start.is_none() {
        program.extend(answer(false));
    }
    program
}

/// Whether a program is the one that denies nothing.
pub(super) fn allows_everything(program: &[Instruction]) -> bool {
    program == answer(true)
}

fn answer(allow: bool) -> [Instruction; 2] {
    [Instruction::set(ANSWER, i32::from(allow)), Instruction::exit()]
}

fn one(rule: &DeviceRule) -> Vec<Instruction> {
    if is_everything(rule) {
        return answer(rule.allow).to_vec();
    }
    let numbers = [(MAJOR_NUMBER, rule.major), (MINOR_NUMBER, rule.minor)];
    let mut conditions = Vec::new();
    match rule.kind {
        DeviceRuleKind::All => {}
        DeviceRuleKind::Char => conditions.push((KIND, CHAR)),
        DeviceRuleKind::Block => conditions.push((KIND, BLOCK)),
    }
    for (register, number) in numbers {
        match number.map(i32::try_from) {
            None => {}
            Some(Ok(number)) => conditions.push((register, number)),
            // No device has such a number (12 bits of major, 20 of minor).
            Some(Err(_)) => return Vec::new(),
        }
    }
    let access = bits(rule.access);
    let body = if rule.allow {
        // Decided: allowed. Nothing left: allowed altogether.
        vec![
            Instruction::and(UNDECIDED, !access & 7),
            Instruction::skip_unless_equal(UNDECIDED, 0, 2),
            answer(true)[0],
            answer(true)[1],
        ]
    } else {
        // Something that is asked for and undecided is denied here.
        vec![
            Instruction::copy(ANSWER, UNDECIDED),
            Instruction::and(ANSWER, access),
            Instruction::skip_if_equal(ANSWER, 0, 2),
            answer(false)[0],
            answer(false)[1],
        ]
    };
    let mut instructions = Vec::with_capacity(conditions.len() + body.len());
    for (index, (register, value)) in conditions.iter().enumerate() {
        let skip = conditions.len() - index - 1 + body.len();
        // At most seven instructions.
        let skip = i16::try_from(skip).unwrap_or(i16::MAX);
        instructions.push(Instruction::skip_unless_equal(*register, *value, skip));
    }
    instructions.extend(body);
    instructions
}

#[cfg(test)]
mod tests {
    use dunnage_spec::resources::DeviceAccess;
    use dunnage_sys::bpf::Meaning;
    use proptest::prelude::*;

    use super::super::rules::with_defaults;
    use super::*;

    #[derive(Debug, Clone, Copy)]
    struct Request {
        kind: i32,
        access: i32,
        major: u32,
        minor: u32,
    }

    /// The BPF machine, as far as these programs need it.
    fn run(program: &[Instruction], request: Request) -> bool {
        let context =
            [u32::try_from(request.access << 16 | request.kind).unwrap(), request.major, request.minor];
        let mut registers = [0u32; 11];
        let mut at = 0;
        loop {
            let register = |number: u8| registers[usize::from(number)];
            let meaning = program[at].meaning();
            at += 1;
            let (to, value) = match meaning {
                Meaning::Load { to, from: 1, offset } => (to, context[usize::try_from(offset / 4).unwrap()]),
                Meaning::Copy { to, from } => (to, register(from)),
                Meaning::Set { to, value } => (to, value.cast_unsigned()),
                Meaning::And { register: to, mask } => (to, register(to) & mask.cast_unsigned()),
                Meaning::ShiftRight { register: to, bits } => (to, register(to) >> bits),
                Meaning::SkipIfEqual { register: of, value, skip } => {
                    at += if register(of) == value.cast_unsigned() {
                        usize::try_from(skip).unwrap()
                    } else {
                        0
                    };
                    continue;
                }
                Meaning::SkipUnlessEqual { register: of, value, skip } => {
                    at += if register(of) == value.cast_unsigned() {
                        0
                    } else {
                        usize::try_from(skip).unwrap()
                    };
                    continue;
                }
                Meaning::Exit => return registers[0] == 1,
                other => panic!("{other:?}"),
            };
            registers[usize::from(to)] = value;
        }
    }

    /// Each access asked for is decided by the last rule that names it.
    fn model(rules: &[DeviceRule], request: Request) -> bool {
        [1, 2, 4].into_iter().filter(|bit| request.access & bit != 0).all(|bit| {
            let speaks = |rule: &&DeviceRule| {
                let kind = match rule.kind {
                    DeviceRuleKind::All => true,
                    DeviceRuleKind::Char => request.kind == CHAR,
                    DeviceRuleKind::Block => request.kind == BLOCK,
                };
                kind && rule.major.is_none_or(|major| major == request.major)
                    && rule.minor.is_none_or(|minor| minor == request.minor)
                    && bits(rule.access) & bit != 0
            };
            rules.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
        })
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind =
            prop_oneof![Just(DeviceRuleKind::All), Just(DeviceRuleKind::Char), Just(DeviceRuleKind::Block)];
        let number = || prop::option::of(prop_oneof![0u32..3, Just(u32::MAX)]);
        (any::<bool>(), kind, number(), number(), 1u8..8).prop_map(|(allow, kind, major, minor, access)| {
            let access =
                DeviceAccess { mknod: access & 1 != 0, read: access & 2 != 0, write: access & 4 != 0 };
            DeviceRule { allow, kind, major, minor, access }
        })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_last_rule_for_each_access(
            rules in prop::collection::vec(rule(), 0..8), kind in 1i32..3, access in 1i32..8,
            major in 0u32..3, minor in 0u32..3,
        ) {
            let request = Request { kind, access, major, minor };
            prop_assert_eq!(run(&compile(&rules), request), model(&rules, request));
        }
    }

    const EVERYTHING: DeviceRule = DeviceRule {
        allow: true,
        kind: DeviceRuleKind::All,
        major: None,
        minor: None,
        access: DeviceAccess { read: true, write: true, mknod: true },
    };

    #[test]
    fn a_privileged_container_gets_no_program() {
        let deny = DeviceRule { allow: false, ..EVERYTHING };
        assert!(allows_everything(&compile(&with_defaults(&[deny, EVERYTHING]))));
        assert!(!allows_everything(&compile(&with_defaults(&[deny]))));
    }

    #[test]
    fn without_rules_only_the_default_devices_work() {
        let program = compile(&with_defaults(&[]));
        let null = Request { kind: CHAR, access: 6, major: 1, minor: 3 };
        assert!(run(&program, null));
        assert!(run(&program, Request { kind: BLOCK, access: 1, major: 8, minor: 0 }));
        assert!(!run(&program, Request { kind: BLOCK, access: 2, ..null }));
        assert!(!run(&program, Request { major: 10, minor: 232, ..null }));
    }
}

//! A compiled program decides as a plain reading of the profile does, for any profile and any call.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(clippy::cast_possible_truncation, reason = "halves of arguments")]

mod machine;

use std::path::Path;

use dunnage_seccomp::{Error, Program, compile_for, number};
use dunnage_spec::Spec;
use dunnage_spec::seccomp::{Action, Arch, Condition, Flags, Operator, Profile, Rule};
use machine::{Call, assert_loadable, run};
use proptest::prelude::*;

const X32: u32 = 0x4000_0000;

fn token(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 | Arch::X32 => 0xc000_003e,
        Arch::X86 => 0x4000_0003,
        Arch::Aarch64 => 0xc000_00b7,
        Arch::Arm => 0x4000_0028,
    }
}

fn value(action: Action) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x3_0000,
        Action::Errno(errno) => 0x5_0000 + u32::from(errno),
        Action::Trace(data) => 0x7ff0_0000 + u32::from(data),
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

/// Reads the profile from the top for one call: slow, and without anything the compiler does.
fn verdict(profile: &Profile, native: Arch, call: Call) -> Action {
    let mut filtered: Vec<Arch> = vec![native];
    filtered.extend(&profile.architectures);
    let machine: &[Arch] = match native {
        Arch::X86_64 => &[Arch::X86_64, Arch::X86, Arch::X32],
        _ => &[Arch::Aarch64, Arch::Arm],
    };
    let called_as = |arch: &&Arch| {
        let x32 = call.number >= X32 && call.number != u32::MAX;
        token(**arch) == call.token && (call.token != token(Arch::X32) || (**arch == Arch::X32) == x32)
    };
    let Some(&arch) = filtered.iter().filter(|arch| machine.contains(arch)).find(called_as) else {
        return Action::KillProcess;
    };
    by_rules(profile, arch, call).unwrap_or_else(|| unnamed(profile, arch, call.number))
}

fn by_rules(profile: &Profile, arch: Arch, call: Call) -> Option<Action> {
    let mut rules: Vec<(Action, Vec<Condition>)> = Vec::new();
    for rule in profile.rules.iter().filter(|rule| rule.action != profile.default_action) {
        for name in &rule.names {
            if number(name, arch) == Some(call.number) {
                rules.push((rule.action, rule.conditions.clone()));
            }
            if arch == Arch::X86 && rule.conditions.is_empty() && multiplexed(name, call) {
                rules.push((rule.action, vec![]));
                // It holds only for this value of the argument, so it does not go before the others.
                rules.last_mut().unwrap().1.push(Condition {
                    argument: 0,
                    operator: Operator::GreaterOrEqual,
                    value: 0,
                    value_two: 0,
                });
            }
        }
    }
    if let Some((action, _)) = rules.iter().find(|(_, conditions)| conditions.is_empty()) {
        return Some(*action);
    }
    if let Some((action, _)) = rules.iter().find(|(_, conditions)| fits(conditions, arch, call)) {
        return Some(*action);
    }
    // A call that is named is never newer than the profile.
    None
}

fn multiplexed(name: &str, call: Call) -> bool {
    let argument = call.arguments[0] as u32;
    match (name, call.number) {
        ("socket", 102) => argument == 1,
        ("connect", 102) => argument == 3,
        ("shmget", 117) => argument as u16 == 23,
        _ => false,
    }
}

fn fits(conditions: &[Condition], arch: Arch, call: Call) -> bool {
    let mut arguments: Vec<u8> = conditions.iter().map(|condition| condition.argument).collect();
    arguments.sort_unstable();
    arguments.dedup();
    let wide = matches!(arch, Arch::X86_64 | Arch::X32 | Arch::Aarch64);
    let cut = |value: u64| if wide { value } else { u64::from(value as u32) };
    let holds = |condition: &Condition| {
        let argument = cut(call.arguments[usize::from(condition.argument)]);
        let (value, value_two) = (cut(condition.value), cut(condition.value_two));
        match condition.operator {
            Operator::NotEqual => argument != value,
            Operator::LessThan => argument < value,
            Operator::LessOrEqual => argument <= value,
            Operator::Equal => argument == value,
            Operator::GreaterOrEqual => argument >= value,
            Operator::GreaterThan => argument > value,
            Operator::MaskedEqual => argument & value == value_two,
        }
    };
    let alternatives = arguments.len() < conditions.len();
    if alternatives { conditions.iter().any(holds) } else { conditions.iter().all(holds) }
}

fn unnamed(profile: &Profile, arch: Arch, called: u32) -> Action {
    let reserved = |number: u32| match arch {
        Arch::X32 => (X32 + 512..X32 + 548).contains(&number),
        Arch::Arm => (0xf_0000..0x10_0000).contains(&number),
        _ => false,
    };
    let names = profile.rules.iter().flat_map(|rule| &rule.names);
    let newest = names.filter_map(|name| number(name, arch)).filter(|&number| !reserved(number)).max();
    match (profile.default_action, newest) {
        (Action::Errno(_), Some(newest)) if called > newest && called != u32::MAX && !reserved(called) => {
            Action::Errno(38)
        }
        (default, _) => default,
    }
}

fn allow(names: &[&str]) -> Rule {
    Rule {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: Action::Allow,
        conditions: vec![],
    }
}

fn profile(default_action: Action, architectures: &[Arch], rules: Vec<Rule>) -> Profile {
    Profile { default_action, architectures: architectures.to_vec(), flags: Flags::default(), rules }
}

fn x86_64(name: &str, arguments: [u64; 6]) -> Call {
    Call { token: token(Arch::X86_64), number: number(name, Arch::X86_64).unwrap(), arguments }
}

fn containerd() -> Profile {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/tests/fixtures/cri-2.x-v2-container.json");
    let text = std::fs::read(fixture).unwrap();
    let spec = Spec::from_json(&text, Path::new("/b"), &"c1".parse().unwrap()).unwrap();
    spec.seccomp.unwrap()
}

fn compile(profile: &Profile) -> Program {
    let program = compile_for(profile, Arch::X86_64).unwrap();
    assert_loadable(&program);
    program
}

#[test]
fn the_profile_of_containerd_is_small_and_quick() {
    let program = compile(&containerd());
    assert_eq!(program.unknown, Vec::<String>::new());
    assert!(program.instructions.len() < 1000, "{}", program.instructions.len());
    assert!(program.flags.spec_allow);
    for name in ["read", "futex", "epoll_wait", "openat", "write", "close"] {
        let outcome = run(&program, x86_64(name, [0; 6]));
        assert_eq!(outcome.returned, value(Action::Allow), "{name}");
        assert!(outcome.steps <= 16, "{name} takes {} steps", outcome.steps);
    }
    let outcome = run(&program, x86_64("mount", [0; 6]));
    assert_eq!(outcome.returned, value(Action::Errno(1)));
}

#[test]
fn calls_allowed_without_conditions_load_no_argument_so_that_the_kernel_can_skip_the_filter() {
    let profile = containerd();
    let program = compile(&profile);
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        for name in &profile.rules[0].names {
            let Some(number) = number(name, arch) else { continue };
            let outcome = run(&program, Call { token: token(arch), number, arguments: [0; 6] });
            assert_eq!((outcome.returned, outcome.arguments_loaded), (value(Action::Allow), false), "{name}");
        }
    }
}

#[test]
fn calls_newer_than_the_profile_fail_with_enosys_and_others_with_the_default() {
    let program = compile(&profile(Action::Errno(1), &[], vec![allow(&["read", "openat2"])]));
    let returned =
        |number| run(&program, Call { token: token(Arch::X86_64), number, arguments: [0; 6] }).returned;
    assert_eq!(returned(1), value(Action::Errno(1)));
    assert_eq!(returned(437), value(Action::Allow));
    assert_eq!(returned(438), value(Action::Errno(38)));
    // What a tracer sets to skip a call.
    assert_eq!(returned(u32::MAX), value(Action::Errno(1)));
    // x32 is not listed.
    assert_eq!(returned(X32), value(Action::KillProcess));
    assert_eq!(returned(u32::MAX - 1), value(Action::KillProcess));
}

#[test]
fn with_another_default_than_errno_new_calls_get_the_default() {
    for default in [Action::Allow, Action::KillProcess, Action::Trap, Action::Log] {
        let program = compile(&profile(default, &[], vec![allow(&["read"])]));
        let call = Call { token: token(Arch::X86_64), number: 5000, arguments: [0; 6] };
        assert_eq!(run(&program, call).returned, value(default));
    }
}

#[test]
fn a_call_of_an_architecture_that_is_not_listed_ends_the_process() {
    let program = compile(&profile(Action::Allow, &[Arch::X86], vec![]));
    let returned = |token| run(&program, Call { token, number: 0, arguments: [0; 6] }).returned;
    assert_eq!(returned(token(Arch::X86)), value(Action::Allow));
    assert_eq!(returned(token(Arch::Aarch64)), value(Action::KillProcess));
    assert_eq!(returned(0), value(Action::KillProcess));
}

#[test]
fn all_64_bits_of_an_argument_count() {
    let condition = Condition { argument: 2, operator: Operator::Equal, value: 0x1_0000_0002, value_two: 0 };
    let rule = Rule { conditions: vec![condition], ..allow(&["read"]) };
    let program = compile(&profile(Action::Trap, &[], vec![rule]));
    let returned = |value| run(&program, x86_64("read", [0, 0, value, 0, 0, 0])).returned;
    assert_eq!(returned(0x1_0000_0002), value(Action::Allow));
    assert_eq!(returned(0x0_0000_0002), value(Action::Trap));
    assert_eq!(returned(0x1_0000_0003), value(Action::Trap));
}

#[test]
fn several_conditions_on_one_argument_are_alternatives() {
    let equal = |value| Condition { argument: 0, operator: Operator::Equal, value, value_two: 0 };
    let rule = Rule { conditions: vec![equal(1), equal(3)], ..allow(&["personality"]) };
    let program = compile(&profile(Action::Errno(1), &[], vec![rule]));
    let returned = |value| run(&program, x86_64("personality", [value, 0, 0, 0, 0, 0])).returned;
    assert_eq!([returned(1), returned(2), returned(3)], [0x7fff_0000, 0x5_0001, 0x7fff_0000]);
}

#[test]
fn a_rule_without_conditions_goes_before_those_with_some() {
    let condition = Condition { argument: 0, operator: Operator::Equal, value: 1, value_two: 0 };
    let refuse = Rule { action: Action::Errno(5), conditions: vec![condition], ..allow(&["read"]) };
    let program = compile(&profile(Action::Trap, &[], vec![refuse, allow(&["read"])]));
    assert_eq!(run(&program, x86_64("read", [1, 0, 0, 0, 0, 0])).returned, value(Action::Allow));
}

#[test]
fn a_refusal_of_socket_on_x86_holds_for_socketcall_too() {
    let refuse = Rule { action: Action::Errno(13), ..allow(&["socket", "shmget"]) };
    let program = compile(&profile(Action::Allow, &[Arch::X86], vec![refuse]));
    let returned = |number, argument| {
        let call = Call { token: token(Arch::X86), number, arguments: [argument, 0, 0, 0, 0, 0] };
        run(&program, call).returned
    };
    assert_eq!(returned(359, 0), value(Action::Errno(13)));
    assert_eq!(returned(102, 1), value(Action::Errno(13)));
    assert_eq!(returned(102, 2), value(Action::Allow));
    // With a version in the upper half, as glibc calls it.
    assert_eq!(returned(117, 0x1_0017), value(Action::Errno(13)));
    assert_eq!(returned(117, 21), value(Action::Allow));
}

#[test]
fn names_no_architecture_has_are_told_once_and_ignored() {
    let rules = vec![allow(&["read", "future_call"]), allow(&["future_call", "another", "send"])];
    assert_eq!(compile(&profile(Action::Trap, &[], rules)).unknown, ["future_call", "another"]);
}

#[test]
fn a_profile_that_needs_more_room_than_the_kernel_has_is_refused() {
    let equal = |value| Condition { argument: 0, operator: Operator::Equal, value, value_two: 0 };
    let rules = (0..1100).map(|i| Rule { conditions: vec![equal(i)], ..allow(&["read"]) }).collect();
    let error = compile_for(&profile(Action::Trap, &[], rules), Arch::X86_64).unwrap_err();
    let Error::TooLong { instructions } = error;
    assert!(instructions > 4096);
    assert_eq!(
        error.to_string(),
        format!("seccomp filter of {instructions} instructions: the kernel takes 4096")
    );
}

#[test]
fn a_program_reads_as_what_it_does() {
    let masked = Condition { argument: 0, operator: Operator::MaskedEqual, value: 0x7e02_0000, value_two: 0 };
    let rules = vec![allow(&["read", "write"]), Rule { conditions: vec![masked], ..allow(&["clone"]) }];
    insta::assert_snapshot!(compile(&profile(Action::Errno(1), &[Arch::X86], rules)).to_string());
}

const ARCHS: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "mmap",
    "clone",
    "clone3",
    "personality",
    "socket",
    "connect",
    "shmget",
    "socketcall",
    "ipc",
    "rt_sigaction",
    "set_tls",
    "openat2",
    "no_such_call",
];

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::KillProcess),
        Just(Action::KillThread),
        Just(Action::Trap),
        Just(Action::Log),
        (1_u16..40).prop_map(Action::Errno),
        (0_u16..40).prop_map(Action::Trace),
    ]
}

/// Few values, so that conditions and arguments meet.
fn values() -> impl Strategy<Value = u64> {
    let word =
        || prop_oneof![Just(0_u64), Just(1), Just(2), Just(23), Just(0x1_0017), Just(0xffff_ffff), 0..4_u64];
    (word(), word()).prop_map(|(high, low)| high << 32 | low)
}

fn conditions() -> impl Strategy<Value = Condition> {
    let operators = prop_oneof![
        Just(Operator::NotEqual),
        Just(Operator::LessThan),
        Just(Operator::LessOrEqual),
        Just(Operator::Equal),
        Just(Operator::GreaterOrEqual),
        Just(Operator::GreaterThan),
        Just(Operator::MaskedEqual),
    ];
    (0_u8..3, operators, values(), values()).prop_map(|(argument, operator, value, value_two)| Condition {
        argument,
        operator,
        value,
        value_two,
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let names = prop::collection::vec(prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1..6);
    (names, actions(), prop::collection::vec(conditions(), 0..4))
        .prop_map(|(names, action, conditions)| Rule { names, action, conditions })
}

fn profiles() -> impl Strategy<Value = Profile> {
    let architectures = prop::sample::subsequence(&ARCHS[..], 0..=5);
    (actions(), architectures, prop::collection::vec(rules(), 0..8))
        .prop_map(|(action, architectures, rules)| profile(action, &architectures, rules))
}

fn calls() -> impl Strategy<Value = Call> {
    let archs = prop::sample::select(&ARCHS[..]);
    let numbers = prop_oneof![
        4 => prop::sample::select(&NAMES[..]).prop_map(Err),
        1 => (0_u32..600).prop_map(Ok),
        1 => (X32..X32 + 600).prop_map(Ok),
        1 => (0xe_fff0_u32..0x10_0010).prop_map(Ok),
        1 => prop_oneof![Just(u32::MAX), Just(u32::MAX - 1), any::<u32>()].prop_map(Ok),
    ];
    (archs, numbers, prop::array::uniform6(values())).prop_map(|(arch, called, arguments)| {
        let number = called.unwrap_or_else(|name| number(name, arch).unwrap_or(0));
        Call { token: token(arch), number, arguments }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_program_decides_as_its_profile_reads(
        profile in profiles(),
        native in prop::sample::select(&[Arch::X86_64, Arch::Aarch64][..]),
        calls in prop::collection::vec(calls(), 1..24),
    ) {
        let program = compile_for(&profile, native).unwrap();
        assert_loadable(&program);
        for call in calls {
            let expected = value(verdict(&profile, native, call));
            prop_assert_eq!(run(&program, call).returned, expected, "{:x?}\n{}", call, program);
        }
    }
}

#[test]
fn the_profile_of_containerd_decides_every_number_as_it_reads() {
    let profile = containerd();
    let program = compile(&profile);
    for arch in [Arch::X86_64, Arch::X86] {
        for number in (0..600).chain(X32..X32 + 600) {
            for argument in [0, 1, 8, 40, 0x7e02_0000, 0xffff_ffff] {
                let call = Call { token: token(arch), number, arguments: [argument, 0, 0, 0, 0, 0] };
                assert_eq!(
                    run(&program, call).returned,
                    value(verdict(&profile, Arch::X86_64, call)),
                    "{call:x?}"
                );
            }
        }
    }
}

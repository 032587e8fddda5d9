//! A machine for filters, as small as the kernel's rules allow (net/core/filter.c, kernel/seccomp.c).

use dunnage_seccomp::{INSTRUCTIONS_MAX, Instruction, Program};

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) token: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// What a run gave and what it looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) returned: u32,
    pub(crate) arguments_loaded: bool,
    pub(crate) steps: usize,
}

/// Panics where the kernel would refuse the filter when it is loaded.
pub(crate) fn assert_loadable(program: &Program) {
    let code = &program.instructions;
    assert!((1..=INSTRUCTIONS_MAX).contains(&code.len()));
    for (at, &Instruction { code: operation, jt, jf, k }) in code.iter().enumerate() {
        match operation {
            0x20 => assert!(k.is_multiple_of(4) && k < 64, "load of {k} at {at}"),
            0x54 | 0x06 => {}
            0x05 => assert!(at + 1 + (k as usize) < code.len(), "jump at {at}"),
            0x15 | 0x25 | 0x35 => assert!(at + 1 + usize::from(jt.max(jf)) < code.len(), "branch at {at}"),
            _ => panic!("unknown operation {operation:#x} at {at}"),
        }
    }
    assert_eq!(code.last().unwrap().code, 0x06, "the last instruction returns");
}

/// Runs a filter on a call.
pub(crate) fn run(program: &Program, call: Call) -> Outcome {
    let (mut at, mut accumulator, mut arguments_loaded) = (0, 0, false);
    for steps in 1.. {
        let Instruction { code, jt, jf, k } = program.instructions[at];
        let branch = |holds: bool| at + 1 + usize::from(if holds { jt } else { jf });
        at = match code {
            0x20 => {
                arguments_loaded |= k >= 8;
                accumulator = load(call, k);
                at + 1
            }
            0x54 => {
                accumulator &= k;
                at + 1
            }
            0x05 => at + 1 + k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x06 => return Outcome { returned: k, arguments_loaded, steps },
            _ => panic!("unknown operation {code:#x}"),
        };
    }
    unreachable!("a filter has no loops")
}

fn load(call: Call, offset: u32) -> u32 {
    let word = |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
    match offset {
        0 => call.number,
        4 => call.token,
        8 | 12 => 0,
        _ => word(call.arguments[(offset as usize - 16) / 8]),
    }
}

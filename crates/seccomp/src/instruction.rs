//! The instructions of classic BPF as far as a seccomp filter needs them, and how they read.

use std::fmt;

use dunnage_spec::seccomp::Action;

use crate::Program;

/// One instruction, in the layout of the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

// linux/bpf_common.h: load a word of struct seccomp_data; and with a constant; jump; compare with a constant;
// return a constant.
pub(crate) const LOAD: u16 = 0x20;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const IF_EQUAL: u16 = 0x15;
pub(crate) const IF_GREATER: u16 = 0x25;
pub(crate) const IF_GREATER_OR_EQUAL: u16 = 0x35;
pub(crate) const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data; all architectures here are little endian.
pub(crate) const NUMBER_OFFSET: u32 = 0;
pub(crate) const ARCH_OFFSET: u32 = 4;
pub(crate) const ARGUMENTS_OFFSET: u32 = 16;

/// What a filter returns for `action` (linux/seccomp.h).
pub(crate) fn return_value(action: Action) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::Trace(value) => 0x7ff0_0000 | u32::from(value),
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

impl fmt::Display for Program {
    /// One instruction a line, with jumps as line numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, instruction) in self.instructions.iter().enumerate() {
            write!(f, "{line:4}: ")?;
            render(f, line, *instruction)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

fn render(f: &mut fmt::Formatter<'_>, line: usize, instruction: Instruction) -> fmt::Result {
    let Instruction { code, jt, jf, k } = instruction;
    let comparison = match code {
        LOAD => return render_load(f, k),
        AND => return write!(f, "and {k:#x}"),
        JUMP => return write!(f, "jump {}", u64::from(k) + line as u64 + 1),
        RETURN => return render_return(f, k),
        IF_EQUAL => "==",
        IF_GREATER => ">",
        IF_GREATER_OR_EQUAL => ">=",
        _ => return write!(f, "code {code:#x} jt {jt} jf {jf} k {k:#x}"),
    };
    write!(
        f,
        "if {comparison} {k:#x} goto {} else {}",
        line + 1 + usize::from(jt),
        line + 1 + usize::from(jf)
    )
}

fn render_load(f: &mut fmt::Formatter<'_>, offset: u32) -> fmt::Result {
    match offset {
        NUMBER_OFFSET => f.write_str("load number"),
        ARCH_OFFSET => f.write_str("load arch"),
        _ if offset < ARGUMENTS_OFFSET => write!(f, "load offset {offset}"),
        _ => {
            let half = if offset.is_multiple_of(8) { "low" } else { "high" };
            write!(f, "load argument {} {half}", (offset - ARGUMENTS_OFFSET) / 8)
        }
    }
}

fn render_return(f: &mut fmt::Formatter<'_>, value: u32) -> fmt::Result {
    let data = value & 0xffff;
    match value & 0xffff_0000 {
        0x8000_0000 => f.write_str("return kill process"),
        0 => f.write_str("return kill thread"),
        0x0003_0000 => f.write_str("return trap"),
        0x0005_0000 => write!(f, "return errno {data}"),
        0x7ff0_0000 => write!(f, "return trace {data}"),
        0x7ffc_0000 => f.write_str("return log"),
        0x7fff_0000 => f.write_str("return allow"),
        _ => write!(f, "return {value:#x}"),
    }
}

//! The result of a compilation: a classic BPF program as `seccomp(2)` takes it.

use dunnage_spec::seccomp::Flags;

/// A filter and the flags to load it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// At most 4096 (`BPF_MAXINSNS`).
    pub instructions: Vec<Instruction>,
    /// Flags of seccomp(2).
    pub flags: Flags,
    /// System call names of the profile that no architecture here knows: ignored, as the specification asks.
    pub unknown: Vec<String>,
}

/// One `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true, counted from the next instruction.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

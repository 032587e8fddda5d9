//! OCI seccomp profile to a classic BPF program, pure.
//!
//! Owns the meaning of a [`Profile`] for every architecture a machine can run, the tables of system call
//! numbers, and the assembling. Loading the program is left to whoever makes the process. A profile is `Hash`,
//! so a caller can keep programs by it. libseccomp is not used because it is a C library, and dunnage needs
//! none besides libc.
//!
//! ```text
//! Profile ── decide ──▶ per architecture: ranges of numbers ──▶ actions or comparisons ── assemble ──▶ Program
//! ```
//!
//! Where the specification is silent the meaning is libseccomp's, which runc, crun and youki all use: the
//! machine's own architecture is always filtered by the rules; a rule with the default action is skipped; a
//! rule without conditions goes before rules with conditions for the same call, and otherwise the first rule
//! that fits decides.
#![forbid(unsafe_code)]

mod assemble;
mod decide;
mod instruction;
mod row;
mod syscall;
mod table;

pub use instruction::Instruction;
pub use syscall::number;

use dunnage_spec::seccomp::{Arch, Flags, Profile};

/// The most instructions the kernel takes in one filter (BPF_MAXINSNS).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// A filter for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// 1 to [`INSTRUCTIONS_MAX`].
    pub instructions: Vec<Instruction>,
    /// For seccomp(2).
    pub flags: Flags,
    /// Names in the profile that no architecture here has, each once, in order; they have no effect.
    pub unknown: Vec<String>,
}

/// Why a profile cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The rules need more room than the kernel has.
    #[error("seccomp filter of {instructions} instructions: the kernel takes {INSTRUCTIONS_MAX}")]
    TooLong {
        /// How many it would be.
        instructions: usize,
    },
}

/// Compiles `profile` for the machine this program runs on.
///
/// # Errors
/// [`Error::TooLong`].
pub fn compile(profile: &Profile) -> Result<Program, Error> {
    compile_for(profile, NATIVE)
}

/// Compiles `profile` for a machine whose own architecture is `native`. Listed architectures that such a
/// machine cannot run are left out.
///
/// # Errors
/// [`Error::TooLong`].
pub fn compile_for(profile: &Profile, native: Arch) -> Result<Program, Error> {
    let (calls, unknown) = decide::resolve(profile);
    let decisions = decide::decide(profile, &calls, native);
    let instructions = assemble::assemble(&decisions);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(Error::TooLong { instructions: instructions.len() });
    }
    Ok(Program { instructions, flags: profile.flags, unknown })
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::Aarch64;
#[cfg(target_arch = "x86")]
const NATIVE: Arch = Arch::X86;
#[cfg(target_arch = "arm")]
const NATIVE: Arch = Arch::Arm;

//! OCI seccomp profile to a classic BPF program, pure.
#![forbid(unsafe_code)]

pub mod program;

pub use program::{Instruction, Program};

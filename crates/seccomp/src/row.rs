//! One line of the table of system calls.

/// The numbers of one name; [`NONE`] where an architecture does not have the call.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) numbers: [u32; 5],
}

/// No call has this number: it is what a tracer sets to skip one.
pub(crate) const NONE: u32 = u32::MAX;

/// Set in the numbers of x32 calls, which otherwise come with the architecture of x86-64.
pub(crate) const X32: u32 = 0x4000_0000;

pub(crate) const fn row(name: &'static str, x86_64: u32, x32: u32, x86: u32, aarch64: u32, arm: u32) -> Row {
    Row { name, numbers: [x86_64, x32, x86, aarch64, arm] }
}

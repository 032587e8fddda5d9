//! Loading a classic BPF program with seccomp(2).

use crate::Errno;
use crate::raw::outcome;

/// `SECCOMP_FILTER_FLAG_TSYNC`
pub const TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`
pub const LOG: u32 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`
pub const SPEC_ALLOW: u32 = 4;

/// A filter in the kernel's layout, made before the clone.
#[derive(Debug)]
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: u32,
}

impl Filter {
    /// Of instructions `(code, jt, jf, k)`.
    pub fn new(instructions: impl IntoIterator<Item = (u16, u8, u8, u32)>, flags: u32) -> Self {
        let instructions =
            instructions.into_iter().map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
        Self { instructions, flags }
    }

    /// Puts the calling thread under the filter, for ever.
    ///
    /// # Errors
    /// `EACCES` with neither `CAP_SYS_ADMIN` nor no-new-privileges, `EINVAL` for a program that is wrong or
    /// longer than 4096 instructions.
    pub fn load(&self) -> Result<(), Errno> {
        let len = u16::try_from(self.instructions.len()).map_err(|_| Errno::INVAL)?;
        let program = libc::sock_fprog { len, filter: self.instructions.as_ptr().cast_mut() };
        let program = std::ptr::from_ref(&program);
        // SAFETY: the program and the instructions it counts outlive the call, which only reads them.
        let returned =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, program) };
        outcome(returned).map(drop)
    }
}

//! What becomes of 0, 1 and 2 in the child.

use std::os::fd::BorrowedFd;

/// Standard streams; an absent one is the container's own `/dev/null`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams<'a> {
    /// 0
    pub stdin: Option<BorrowedFd<'a>>,
    /// 1
    pub stdout: Option<BorrowedFd<'a>>,
    /// 2
    pub stderr: Option<BorrowedFd<'a>>,
}

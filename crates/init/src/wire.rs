//! What parent and child say to each other over the socket.
//!
//! ```text
//! parent → child   GO                   start
//! child → parent   TERMINAL + fd        the master of its terminal
//!                  CREATED              waits at the gate
//!                  (end of file)        it executes its program, or died without a word
//!                  FAILED + record      the last words; it waits for the parent to look, then exits
//! ```
//!
//! No word before execve: a message tells the scheduler that its sender is about to sleep, so the parent would
//! be woken on the child's CPU and wait there until the program has run (0.3 ms later, measured).
//!
//! A failure is a record of fixed size, never a sentence: the parent knows the words.

use dunnage_sys::Errno;

use crate::text::Text;

/// Lets the child go on.
pub(crate) const GO: u8 = b'g';
/// A descriptor comes along.
pub(crate) const TERMINAL: u8 = b't';
/// At the gate.
pub(crate) const CREATED: u8 = b'c';
/// A [`Record`] follows.
pub(crate) const FAILED: u8 = b'f';

/// Step number of what the child does before the first step.
pub(crate) const PROLOGUE: u16 = u16::MAX;

/// Longest text of a record.
pub(crate) const TEXT: usize = 160;
const HEADER: usize = 8;
/// Longest message.
pub(crate) const LONGEST: usize = HEADER + TEXT;

/// How a step failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// The call.
    pub(crate) call: Call,
    /// What it answered.
    pub(crate) errno: Errno,
}

/// Names the call that failed.
pub(crate) trait At<T> {
    fn at(self, call: Call) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, call: Call) -> Result<T, Failure> {
        self.map_err(|errno| Failure { call, errno })
    }
}

/// A failure as it travels. The text is what the call was about, and after a line feed what the kernel said.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) step: u16,
    pub(crate) failure: Failure,
    pub(crate) text: Text<TEXT>,
}

impl Record {
    /// The message, in `buffer`.
    pub(crate) fn encode<'b>(&self, buffer: &'b mut [u8; LONGEST]) -> &'b [u8] {
        let text = self.text.as_bytes();
        buffer[0] = FAILED;
        buffer[1] = self.failure.call as u8;
        buffer[2..4].copy_from_slice(&self.step.to_ne_bytes());
        buffer[4..HEADER].copy_from_slice(&self.failure.errno.raw_os_error().to_ne_bytes());
        buffer[HEADER..HEADER + text.len()].copy_from_slice(text);
        &buffer[..HEADER + text.len()]
    }

    /// Reads a message; `None` when it is no record.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let (header, text) = message.split_first_chunk::<HEADER>()?;
        let [FAILED, call, step @ .., e0, e1, e2, e3] = *header else { return None };
        // Others are no errno (linux/err.h), and rustix takes that for granted.
        let errno = Some(i32::from_ne_bytes([e0, e1, e2, e3])).filter(|errno| (1..4096).contains(errno))?;
        let failure = Failure { call: Call::from_number(call)?, errno: Errno::from_raw_os_error(errno) };
        let mut copy = Text::new();
        copy.push(text);
        Some(Self { step: u16::from_ne_bytes(step), failure, text: copy })
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $variant:ident $name:literal),* $(,)?) => {
        /// Calls of the child, as they are named in messages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Call { $($(#[$doc])* $variant),* }

        impl Call {
            fn from_number(number: u8) -> Option<Self> {
                $(if number == Self::$variant as u8 { return Some(Self::$variant); })*
                None
            }

            /// Name for messages; empty when the step says it all.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

calls! {
    /// The step is one call.
    Itself "",
    Access "access",
    Bounding "PR_CAPBSET_DROP",
    Ambient "PR_CAP_AMBIENT",
    Chdir "chdir",
    Chown "fchownat",
    Chmod "fchmodat2",
    Chroot "chroot",
    CloseRange "close_range",
    CheckDevice "check for device 1:3",
    CheckNode "compare with the existing node",
    CheckProc "check for procfs",
    CheckTerminal "check for devpts",
    CheckTarget "check that it is not the root itself",
    Create "create the file",
    Dup "dup",
    Execve "execve",
    Fchdir "fchdir",
    Fsconfig "fsconfig",
    Fsmount "fsmount",
    Fsopen "fsopen",
    Getcwd "getcwd",
    Injected "injected fault",
    Ioctl "ioctl",
    JoinCgroup "join the cgroup",
    Mkdir "mkdirat",
    Mknod "mknodat",
    MountSetattr "mount_setattr",
    MoveMount "move_mount",
    NoProgram "the spec has no process",
    Open "open",
    OpenSource "open the source",
    OpenTarget "open the target",
    OpenTree "open_tree",
    PivotRoot "pivot_root",
    Read "read",
    Readlink "readlinkat",
    Register "use a register that no step has filled",
    Seccomp "seccomp",
    SendTerminal "send the terminal",
    Setgid "setresgid",
    Setuid "setresuid",
    Signals "reset signals",
    Slot "use a slot that the plan does not have",
    Stat "fstat",
    Symlink "symlinkat",
    Umount "umount2",
    Unlink "unlinkat",
    Unshare "unshare",
    Write "write",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_arrives_as_it_was_sent() {
        let mut text = Text::new();
        text.push(b"size=12x");
        let failure = Failure { call: Call::Fsconfig, errno: Errno::INVAL };
        let mut buffer = [0; LONGEST];
        let message = Record { step: 300, failure, text }.encode(&mut buffer).to_vec();
        let read = Record::decode(&message).unwrap();
        assert_eq!((read.step, read.failure.call, read.failure.errno), (300, Call::Fsconfig, Errno::INVAL));
        assert_eq!(read.text.as_bytes(), b"size=12x");
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        assert!(Record::decode(&[FAILED, 0, 0]).is_none());
        assert!(Record::decode(&[CREATED; 32]).is_none());
        assert!(Record::decode(&[FAILED, 250, 0, 0, 1, 0, 0, 0]).is_none());
        assert!(Record::decode(&[FAILED, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}

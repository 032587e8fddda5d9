//! The program: found before the gate, executed behind it.
//!
//! What comes after the filter uses only `read`, `write`, `close`, `execve` and `exit_group`.

use std::ffi::CStr;
use std::os::fd::AsFd;

use dunnage_plan::step::Program;
use dunnage_sys::clone::exit;
use dunnage_sys::{Errno, open};

use super::Child;
use super::place::{REGULAR, kind};
use crate::wire::{At, Call, Failure};

impl<'a> Child<'a> {
    /// Waits for the parent's word. When the parent is gone there is nobody to be born for.
    pub(super) fn await_go(&mut self) -> Result<(), Failure> {
        loop {
            match open::read(self.given.socket, &mut [0; 1]) {
                Ok(0) => exit(1),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).at(Call::Read),
            }
        }
    }

    pub(super) fn say(&mut self, word: u8) -> Result<(), Failure> {
        open::write(self.given.socket, &[word]).map(drop).at(Call::Write)
    }

    /// As execvp(3): a candidate that may not be executed is remembered, and another one looked for.
    pub(super) fn find_program(&mut self) -> Result<(), Failure> {
        let mut errno = Errno::NOENT;
        for (index, path) in self.program()?.candidates.iter().enumerate() {
            match executable(path) {
                Ok(()) => {
                    self.found = index;
                    return Ok(());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(other) => errno = other,
            }
        }
        Err(errno).at(Call::Access)
    }

    pub(super) fn close_descriptors(&mut self) -> Result<(), Failure> {
        // With a filter everything unknown is closed already; these are left.
        (self.root, self.proc, self.mounted_proc) = (None, None, None);
        (self.null, self.empty, self.directory) = (None, None, None);
        if self.sealed {
            Ok(())
        } else {
            self.alone.close_all_but([self.given.socket].into_iter()).at(Call::Itself)
        }
    }

    /// Closes all that is neither the socket nor a register.
    pub(super) fn close_unknown(&mut self) -> Result<(), Failure> {
        (self.mounted_proc, self.null, self.empty, self.directory) = (None, None, None, None);
        let registers = [&self.root, &self.proc].into_iter().flatten().map(AsFd::as_fd);
        self.alone.close_all_but(registers.chain([self.given.socket])).at(Call::CloseRange)
    }

    pub(super) fn execute(&mut self) -> Result<(), Failure> {
        let path = self.program()?.candidates.get(self.found).ok_or(Errno::NOENT).at(Call::Register)?;
        let arguments = self.given.arguments.ok_or(Errno::NOEXEC).at(Call::NoProgram)?;
        let errno = self.alone.execute(path, arguments);
        self.text.push(path.to_bytes());
        Err(errno).at(Call::Execve)
    }

    fn program(&self) -> Result<&'a Program, Failure> {
        self.given.plan.program.as_ref().ok_or(Errno::NOEXEC).at(Call::NoProgram)
    }
}

fn executable(path: &CStr) -> Result<(), Errno> {
    match open::may_execute(path) {
        // No file system answers so to this question: a filter did. execve will tell.
        Ok(()) | Err(Errno::PERM | Errno::NOSYS) => {}
        Err(errno) => return Err(errno),
    }
    match open::stat(path) {
        Ok(stat) if kind(stat.st_mode) == REGULAR => Ok(()),
        Ok(_) => Err(Errno::ACCESS),
        Err(Errno::PERM | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

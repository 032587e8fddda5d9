//! Why the kernel answers `ENOENT` for a program that exists: the interpreter of a script, or the dynamic
//! loader of an ELF file, is missing.
//!
//! The child waits after its last words, so that its root can be looked at through `/proc/<pid>/root`.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use dunnage_sys::Errno;
use dunnage_sys::open::{self, Mode, OFlags};
use dunnage_sys::pidfd::Pid;

/// The interpreter that the program at the absolute path `path` names and that does not exist.
pub(crate) fn missing(pid: Pid, path: &str) -> Option<String> {
    let root = CString::new(format!("/proc/{pid}/root")).ok()?;
    let root = open::host(&root, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    let program = in_root(&root, path).ok().filter(|_| path.starts_with('/'))?;
    let interpreter = named_by(&File::from(program))?;
    (in_root(&root, &interpreter).err() == Some(Errno::NOENT)).then_some(interpreter)
}

fn in_root(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    open::in_root(root.as_fd(), &path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
}

/// What the first bytes of a program say about who runs it.
fn named_by(program: &File) -> Option<String> {
    let mut head = vec![0; 4096];
    let length = program.read_at(&mut head, 0).ok()?;
    head.truncate(length);
    match head.strip_prefix(b"#!") {
        Some(line) => script_interpreter(line),
        None => elf_interpreter(program, &head),
    }
}

fn script_interpreter(line: &[u8]) -> Option<String> {
    let line = line.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    words.next().map(|word| String::from_utf8_lossy(word).into_owned())
}

/// `PT_INTERP` of a 64-bit little-endian file (elf(5)).
fn elf_interpreter(program: &File, head: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    const HEADER: usize = 56;
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let number = |at: usize, length: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(head.get(at..at + length)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let (table, count) = (number(32, 8)?, number(56, 2)?);
    for index in 0..count {
        let at = table.checked_add(index * HEADER)?;
        if number(at, 4)? == PT_INTERP as usize {
            let (offset, size) = (number(at + 8, 8)?, number(at + 32, 8)?.min(4096));
            let mut path = vec![0; size];
            program.read_exact_at(&mut path, u64::try_from(offset).ok()?).ok()?;
            path.truncate(path.iter().position(|&byte| byte == 0)?);
            return String::from_utf8(path).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_script_names_its_interpreter_in_the_first_line() {
        assert_eq!(named_by(&file(b"#! /bin/bash -e\necho")).unwrap(), "/bin/bash");
        assert_eq!(named_by(&file(b"#!/bin/bash\r\n")).unwrap(), "/bin/bash\r");
        assert_eq!(named_by(&file(b"echo")), None);
    }

    #[test]
    fn an_elf_file_names_its_loader() {
        let mut elf = vec![0; 200];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[56] = 1;
        elf[64] = 3;
        elf[72] = 130;
        elf[96] = 20;
        elf[130..139].copy_from_slice(b"/lib/ld.1");
        assert_eq!(named_by(&file(&elf)).unwrap(), "/lib/ld.1");
        elf.truncate(100);
        assert_eq!(named_by(&file(&elf)), None);
    }
}

//! The few BPF calls that a device program on a cgroup needs, and the instructions such a program is made of.
//!
//! Owns the encoding (bpf(2), `linux/bpf.h`). Leaves what a program says to the crate that knows device rules.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Errno;

/// A register of the BPF machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Register {
    /// The result.
    R0 = 0,
    /// On entry, a pointer to the context.
    R1 = 1,
    /// Scratch.
    R2 = 2,
    /// Scratch.
    R3 = 3,
    /// Scratch.
    R4 = 4,
    /// Scratch.
    R5 = 5,
}

/// One instruction as the kernel reads it (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// An instruction in words, for printing a program and for checking it without a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// `to = *(u32 *)(from + offset)`
    Load {
        /// Destination.
        to: u8,
        /// Pointer.
        from: u8,
        /// Bytes.
        offset: i16,
    },
    /// `to = from`
    Copy {
        /// Destination.
        to: u8,
        /// Source.
        from: u8,
    },
    /// `to = value`
    Set {
        /// Destination.
        to: u8,
        /// Constant.
        value: i32,
    },
    /// `register &= mask`, on the lower 32 bits
    And {
        /// Operand and destination.
        register: u8,
        /// Constant.
        mask: i32,
    },
    /// `register >>= bits`, on the lower 32 bits, filling with zeros
    ShiftRight {
        /// Operand and destination.
        register: u8,
        /// Constant.
        bits: i32,
    },
    /// Skips `skip` instructions when the register's lower 32 bits equal `value`.
    SkipIfEqual {
        /// Operand.
        register: u8,
        /// Constant.
        value: i32,
        /// Instructions.
        skip: i16,
    },
    /// Skips `skip` instructions when the register's lower 32 bits differ from `value`.
    SkipUnlessEqual {
        /// Operand.
        register: u8,
        /// Constant.
        value: i32,
        /// Instructions.
        skip: i16,
    },
    /// Ends the program with the value of `R0`.
    Exit,
    /// Not one of those above.
    Unknown,
}

// linux/bpf_common.h and linux/bpf.h. Arithmetic and jumps are the 32-bit classes (BPF_ALU, and BPF_JMP with
// operands that a 32-bit load has zero-extended): BPF_JMP32 would need Linux 5.1.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SKIP_IF_EQUAL: u8 = 0x15;
const SKIP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

impl Instruction {
    const fn new(code: u8, to: Register, from: Option<Register>, offset: i16, immediate: i32) -> Self {
        let from = match from {
            Some(from) => from as u8,
            None => 0,
        };
        // The two are bit fields of one byte, in the order of the machine's bytes.
        let registers =
            if cfg!(target_endian = "little") { (from << 4) | to as u8 } else { ((to as u8) << 4) | from };
        Self { code, registers, offset, immediate }
    }

    /// `to = *(u32 *)(from + offset)`
    #[must_use]
    pub const fn load(to: Register, from: Register, offset: i16) -> Self {
        Self::new(LOAD_WORD, to, Some(from), offset, 0)
    }

    /// `to = from`
    #[must_use]
    pub const fn copy(to: Register, from: Register) -> Self {
        Self::new(COPY, to, Some(from), 0, 0)
    }

    /// `to = value`
    #[must_use]
    pub const fn set(to: Register, value: i32) -> Self {
        Self::new(SET, to, None, 0, value)
    }

    /// `register &= mask`
    #[must_use]
    pub const fn and(register: Register, mask: i32) -> Self {
        Self::new(AND, register, None, 0, mask)
    }

    /// `register >>= bits`
    #[must_use]
    pub const fn shift_right(register: Register, bits: i32) -> Self {
        Self::new(SHIFT_RIGHT, register, None, 0, bits)
    }

    /// Skips `skip` instructions when `register` equals `value`.
    #[must_use]
    pub const fn skip_if_equal(register: Register, value: i32, skip: i16) -> Self {
        Self::new(SKIP_IF_EQUAL, register, None, skip, value)
    }

    /// Skips `skip` instructions when `register` differs from `value`.
    #[must_use]
    pub const fn skip_unless_equal(register: Register, value: i32, skip: i16) -> Self {
        Self::new(SKIP_UNLESS_EQUAL, register, None, skip, value)
    }

    /// Ends the program with the value of `R0`.
    #[must_use]
    pub const fn exit() -> Self {
        Self::new(EXIT, Register::R0, None, 0, 0)
    }

    /// What the instruction does.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        let (high, low) = (self.registers >> 4, self.registers & 0xf);
        let (register, from) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        match self.code {
            LOAD_WORD => Meaning::Load { to: register, from, offset: self.offset },
            COPY => Meaning::Copy { to: register, from },
            SET => Meaning::Set { to: register, value: self.immediate },
            AND => Meaning::And { register, mask: self.immediate },
            SHIFT_RIGHT => Meaning::ShiftRight { register, bits: self.immediate },
            SKIP_IF_EQUAL => Meaning::SkipIfEqual { register, value: self.immediate, skip: self.offset },
            SKIP_UNLESS_EQUAL => {
                Meaning::SkipUnlessEqual { register, value: self.immediate, skip: self.offset }
            }
            EXIT => Meaning::Exit,
            _ => Meaning::Unknown,
        }
    }
}

/// A loaded device program (`BPF_PROG_TYPE_CGROUP_DEVICE`, Linux 4.15). It lives as long as this descriptor or
/// an attachment does.
#[derive(Debug)]
pub struct DeviceProgram(OwnedFd);

/// The number by which the kernel knows a loaded program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramId(u32);

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// More programs than the kernel lets one cgroup have (`BPF_CGROUP_MAX_PROGS`).
const PROGRAMS: usize = 64;

/// `union bpf_attr`, larger than any kernel's. Linux 6.17 to 7.1 write a field beyond the size that older
/// programs hand over, so it is always given whole; a kernel that knows less checks that the rest is zero.
#[repr(C, align(8))]
struct Attr([u32; 64]);

impl Attr {
    const fn zeroed() -> Self {
        Self([0; 64])
    }

    fn set<T: ?Sized>(&mut self, word: usize, pointer: *const T) {
        let address = (pointer.cast::<u8>() as u64).to_ne_bytes();
        let (first, second) = address.split_at(4);
        for (offset, half) in [first, second].into_iter().enumerate() {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(half);
            self.0[word + offset] = u32::from_ne_bytes(bytes);
        }
    }
}

/// # Safety
/// Every address in `attr` must be valid for what `command` does with it until the call returns.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> Result<i32, Errno> {
    let attr: *mut Attr = attr;
    // SAFETY: `attr` is exclusively borrowed and of the size that is given; the caller answers for the
    // addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    i32::try_from(result).map_err(|_| Errno::IO)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, as always with bpf(2)) and
    // nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl DeviceProgram {
    /// Loads a program under a name of at most 15 letters, digits, `_` or `.`.
    ///
    /// # Errors
    /// The errno of `bpf`: `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or in a user namespace), `EINVAL` when
    /// the verifier refuses it or the kernel has no device programs.
    pub fn load(name: &CStr, program: &[Instruction]) -> Result<Self, Errno> {
        let length = u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
        let mut attr = Attr::zeroed();
        attr.0[0] = BPF_PROG_TYPE_CGROUP_DEVICE;
        attr.0[1] = length;
        attr.set(2, program.as_ptr());
        // The program calls nothing that asks for the GPL.
        attr.set(4, c"Apache-2.0".as_ptr());
        for (index, byte) in name.to_bytes().iter().take(15).enumerate() {
            let word = 12 + index / 4;
            let mut bytes = attr.0[word].to_ne_bytes();
            bytes[index % 4] = *byte;
            attr.0[word] = u32::from_ne_bytes(bytes);
        }
        attr.0[17] = BPF_CGROUP_DEVICE;
        // SAFETY: the instructions are borrowed for the whole call and are as many as the attribute says; the
        // licence is a static string that ends with a NUL.
        let loaded = unsafe { bpf(BPF_PROG_LOAD, &mut attr) };
        loaded.map(|fd| Self(owned(fd)))
    }

    /// Attaches the program to a cgroup v2 directory, beside others (`BPF_F_ALLOW_MULTI`): all of them, here and
    /// in the ancestors, have to agree.
    ///
    /// # Errors
    /// The errno of `bpf`; `EPERM` when an ancestor has a program that forbids others.
    pub fn attach(&self, cgroup: impl AsFd) -> Result<(), Errno> {
        let mut attr = Attr::zeroed();
        attr.0[0] = number(cgroup.as_fd());
        attr.0[1] = number(self.0.as_fd());
        attr.0[2] = BPF_CGROUP_DEVICE;
        attr.0[3] = BPF_F_ALLOW_MULTI;
        // SAFETY: this command reads no address.
        let attached = unsafe { bpf(BPF_PROG_ATTACH, &mut attr) };
        attached.map(|_| ())
    }

    /// Takes the program off a cgroup.
    ///
    /// # Errors
    /// The errno of `bpf`; `ENOENT` when it was not attached there.
    pub fn detach(&self, cgroup: impl AsFd) -> Result<(), Errno> {
        let mut attr = Attr::zeroed();
        attr.0[0] = number(cgroup.as_fd());
        attr.0[1] = number(self.0.as_fd());
        attr.0[2] = BPF_CGROUP_DEVICE;
        // SAFETY: this command reads no address.
        let detached = unsafe { bpf(BPF_PROG_DETACH, &mut attr) };
        detached.map(|_| ())
    }

    /// Opens a program that somebody has attached.
    ///
    /// # Errors
    /// The errno of `bpf`; `ENOENT` when it is gone.
    pub fn by_id(id: ProgramId) -> Result<Self, Errno> {
        let mut attr = Attr::zeroed();
        attr.0[0] = id.0;
        // SAFETY: this command reads no address.
        let opened = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) };
        opened.map(|fd| Self(owned(fd)))
    }

    /// The name it was loaded under.
    ///
    /// # Errors
    /// The errno of `bpf`.
    pub fn name(&self) -> Result<Vec<u8>, Errno> {
        // struct bpf_prog_info up to and with the name, which is at byte 64. As 64-bit words: it has some.
        let mut facts = [0u64; 10];
        let mut attr = Attr::zeroed();
        attr.0[0] = number(self.0.as_fd());
        attr.0[1] = 80;
        attr.set(2, facts.as_mut_ptr());
        // SAFETY: the address is that of 80 exclusively borrowed bytes, and 80 is the length given; the fields
        // that would make the kernel write elsewhere are zero.
        let asked = unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) };
        asked?;
        let name = facts[8..].iter().flat_map(|word| word.to_ne_bytes());
        Ok(name.take_while(|byte| *byte != 0).collect())
    }
}

/// The device programs attached to one cgroup v2 directory itself, oldest first.
///
/// # Errors
/// The errno of `bpf`.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<ProgramId>, Errno> {
    let mut ids = [0u32; PROGRAMS];
    let mut attr = Attr::zeroed();
    attr.0[0] = number(cgroup.as_fd());
    attr.0[1] = BPF_CGROUP_DEVICE;
    attr.set(4, ids.as_mut_ptr());
    attr.0[6] = 64;
    // SAFETY: the address is that of 64 exclusively borrowed numbers, and 64 is the count given.
    let asked = unsafe { bpf(BPF_PROG_QUERY, &mut attr) };
    asked?;
    let count = usize::try_from(attr.0[6]).unwrap_or(PROGRAMS).min(PROGRAMS);
    Ok(ids[..count].iter().map(|id| ProgramId(*id)).collect())
}

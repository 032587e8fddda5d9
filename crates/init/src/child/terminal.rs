//! The pseudo terminal of the container: from its own devpts, by descriptor only.

use std::os::fd::{AsFd, OwnedFd};

use dunnage_spec::process::WindowSize;
use dunnage_sys::open::{Mode, OFlags, fstat, fstatfs};
use dunnage_sys::{Errno, message, mount, open, tty};

use super::place::{CHARACTER, Make, kind};
use super::{Child, PLACE};
use crate::wire::{At, Call, Failure, TERMINAL};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: u64 = 0x1cd1;
/// Majors of the other ends (`UNIX98_PTY_SLAVE_MAJOR` and seven more, Documentation/admin-guide/devices.txt).
const PEER_MAJORS: std::ops::Range<u32> = 136..144;

impl Child<'_> {
    pub(super) fn open_terminal(
        &mut self,
        size: Option<WindowSize>,
        uid: u32,
        console: bool,
    ) -> Result<(), Failure> {
        let master = self.open_master()?;
        let peer = tty::peer(&master).at(Call::Ioctl)?;
        check_peer(&peer)?;
        if let Some(WindowSize { rows, columns }) = size {
            tty::set_size(&peer, rows, columns).at(Call::Ioctl)?;
        }
        // Only the user: the group is the business of devpts (`gid=5`).
        open::set_owner(&peer, Some(uid), None).at(Call::Chown)?;
        if console {
            self.attach_console(&peer)?;
        }
        message::send_with(self.given.socket, &[TERMINAL], master.as_fd()).at(Call::SendTerminal)?;
        drop(master);
        for number in 0..3 {
            self.alone.duplicate_to(peer.as_fd(), number).at(Call::Dup)?;
        }
        tty::set_controlling(&peer).at(Call::Ioctl)
    }

    fn open_master(&mut self) -> Result<OwnedFd, Failure> {
        self.root_or_slash()?;
        let pts = open::in_root(self.root()?, c"dev/pts", PLACE, Mode::empty()).at(Call::Open)?;
        require_devpts(&pts)?;
        open::same_mount(&pts, c"ptmx", OFlags::RDWR | OFlags::NOCTTY).at(Call::Open)
    }

    /// The kernel opened the peer on the mount of its master, so its mount can be cloned: no name is used
    /// (CVE-2025-52565).
    fn attach_console(&mut self, peer: &OwnedFd) -> Result<(), Failure> {
        let place = self.mount_point(c"dev/console", Make::File, true)?;
        let cover = mount::clone_of(peer, false).at(Call::OpenTree)?;
        mount::attach(&cover, &place.fd).at(Call::MoveMount)
    }
}

fn check_peer(peer: &OwnedFd) -> Result<(), Failure> {
    require_devpts(peer)?;
    let stat = fstat(peer).at(Call::Stat)?;
    if kind(stat.st_mode) != CHARACTER || !PEER_MAJORS.contains(&open::major(stat.st_rdev)) {
        return Err(Failure { call: Call::CheckTerminal, errno: Errno::NOTTY });
    }
    Ok(())
}

fn require_devpts(file: &OwnedFd) -> Result<(), Failure> {
    if u64::try_from(fstatfs(file).at(Call::Stat)?.f_type) != Ok(DEVPTS_MAGIC) {
        return Err(Failure { call: Call::CheckTerminal, errno: Errno::NODEV });
    }
    Ok(())
}

//! Limits, labels, ids, capabilities and the filter.

use std::ffi::CStr;

use dunnage_spec::process::{Rlimit, RlimitResource};
use dunnage_sys::surroundings::{self, Resource};
use dunnage_sys::{Errno, identity};

use super::Child;
use crate::text::Text;
use crate::wire::{At, Call, Failure};

pub(super) fn set_rlimit(limit: Rlimit) -> Result<(), Failure> {
    surroundings::set_limit(resource(limit.resource), limit.soft, limit.hard).at(Call::Itself)
}

fn resource(resource: RlimitResource) -> Resource {
    match resource {
        RlimitResource::As => Resource::As,
        RlimitResource::Core => Resource::Core,
        RlimitResource::Cpu => Resource::Cpu,
        RlimitResource::Data => Resource::Data,
        RlimitResource::Fsize => Resource::Fsize,
        RlimitResource::Locks => Resource::Locks,
        RlimitResource::Memlock => Resource::Memlock,
        RlimitResource::Msgqueue => Resource::Msgqueue,
        RlimitResource::Nice => Resource::Nice,
        RlimitResource::Nofile => Resource::Nofile,
        RlimitResource::Nproc => Resource::Nproc,
        RlimitResource::Rss => Resource::Rss,
        RlimitResource::Rtprio => Resource::Rtprio,
        RlimitResource::Rttime => Resource::Rttime,
        RlimitResource::Sigpending => Resource::Sigpending,
        RlimitResource::Stack => Resource::Stack,
    }
}

pub(super) fn set_ids(uid: u32, gid: u32) -> Result<(), Failure> {
    identity::set_gid(gid).at(Call::Setgid)?;
    identity::set_uid(uid).at(Call::Setuid)?;
    // The change made it what fs.suid_dumpable says.
    identity::forbid_dumps().at(Call::Itself)
}

impl Child<'_> {
    pub(super) fn set_apparmor_profile(&mut self, name: &CStr) -> Result<(), Failure> {
        let mut value = Text::<1024>::new();
        value.try_push(b"exec ").at(Call::Write)?;
        value.try_push(name.to_bytes()).at(Call::Write)?;
        match self.write_proc(c"self/attr/apparmor/exec", value.as_bytes()) {
            // Before 5.8 all modules share one file.
            Err(Failure { call: Call::Open, errno: Errno::NOENT }) => {
                self.write_proc(c"self/attr/exec", value.as_bytes())
            }
            result => result,
        }
    }

    pub(super) fn set_selinux_label(&mut self, label: &CStr) -> Result<(), Failure> {
        self.write_proc(c"self/attr/exec", label.to_bytes())
    }

    /// A filter may refuse `close_range`, so everything but the registers is closed before the first one.
    pub(super) fn load_seccomp(&mut self) -> Result<(), Failure> {
        if !self.sealed {
            self.close_unknown()?;
            self.sealed = true;
        }
        let filter = self.given.filters.get(self.filters).ok_or(Errno::BADF).at(Call::Register)?;
        self.filters += 1;
        filter.load().at(Call::Itself)
    }

    pub(super) fn drop_bounding(&mut self, keep: u64, last: u8) -> Result<(), Failure> {
        for capability in (0..=last.min(63)).filter(|capability| keep >> capability & 1 == 0) {
            let dropped = identity::drop_bounding(capability).at(Call::Bounding);
            self.about_number(dropped, capability)?;
        }
        Ok(())
    }

    pub(super) fn set_ambient(&mut self, mask: u64) -> Result<(), Failure> {
        identity::clear_ambient().at(Call::Ambient)?;
        for capability in (0..64).filter(|capability| mask >> capability & 1 == 1) {
            let raised = identity::raise_ambient(capability).at(Call::Ambient);
            self.about_number(raised, capability)?;
        }
        Ok(())
    }

    fn about_number(&mut self, result: Result<(), Failure>, capability: u8) -> Result<(), Failure> {
        if result.is_err() {
            self.text.push_number(capability.into(), 10);
        }
        result
    }
}

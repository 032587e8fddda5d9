//! From the host's root to the user of the process: labels, limits, ids, capabilities, filter.
//!
//! The order is the content of this module. Each step takes something away that no later step may need:
//!
//! ```text
//! labels        open files, need no capability later
//! rlimits       raising needs CAP_SYS_RESOURCE; NOFILE last, it can forbid every further open
//! no_new_privs  after the labels: AppArmor refuses some transitions under it
//! chdir         with all privileges
//! bounding set  needs CAP_SETPCAP
//! groups        need CAP_SETGID
//! filter        without no_new_privs it needs CAP_SYS_ADMIN in force, and ids end that
//! ids           need CAP_SETUID
//! chdir, getcwd as the user
//! capabilities  kept over the change of ids, set last
//! ```

use dunnage_spec::Process;
use dunnage_spec::process::{Capabilities, Rlimit, RlimitResource, User};

use crate::draft::Draft;
use crate::error::Error;
use crate::facts::HostFacts;
use crate::step::{Filter, Phase, Step};
use crate::text;

/// Security labels that take effect at `execve`.
pub(crate) fn labels(draft: &mut Draft, process: &Process, host: &HostFacts) -> Result<(), Error> {
    draft.enter(Phase::Identity);
    let why = "takes effect at execve; before no_new_privs, under which a transition may be refused";
    match process.apparmor_profile.as_deref() {
        None => {}
        // No confinement is what a host without AppArmor gives. Any other profile must not be lost in silence.
        Some("unconfined") if !host.apparmor => {}
        Some(_) if !host.apparmor => {
            return Err(Error::host("process.apparmorProfile", "AppArmor is not enabled on this host"));
        }
        Some(profile) => {
            draft.step(Step::SetApparmorProfile(text::c_string("process.apparmorProfile", profile)?), why);
        }
    }
    match process.selinux_label.as_deref() {
        None => {}
        Some(_) if !host.selinux => {
            return Err(Error::host("process.selinuxLabel", "SELinux is not enabled on this host"));
        }
        Some(label) => {
            draft.step(Step::SetSelinuxLabel(text::c_string("process.selinuxLabel", label)?), why);
        }
    }
    Ok(())
}

/// Resource limits.
pub(crate) fn limits(draft: &mut Draft, process: &Process) {
    let is_nofile = |limit: &&Rlimit| limit.resource == RlimitResource::Nofile;
    for limit in process.rlimits.iter().filter(|limit| !is_nofile(limit)) {
        draft.step(Step::SetRlimit(*limit), "raising a hard limit needs CAP_SYS_RESOURCE");
    }
    for limit in process.rlimits.iter().filter(is_nofile) {
        draft.step(Step::SetRlimit(*limit), "last of the limits: it may forbid to open anything further");
    }
}

/// Becomes the user. `filter` is the one that has to be loaded while CAP_SYS_ADMIN is in force.
pub(crate) fn user(
    draft: &mut Draft,
    process: &Process,
    host: &HostFacts,
    filter: Option<Filter>,
) -> Result<(), Error> {
    let cwd = text::path("process.cwd", &process.cwd)?;
    let sets = Sets::of(&process.capabilities, host.last_capability);
    if process.no_new_privileges {
        draft.step(Step::SetNoNewPrivileges, "no program may give what this process does not have");
    }
    draft.step(
        Step::ChangeDirectory(cwd.clone()),
        "with all privileges; what is refused is tried again below",
    );
    let bounding = Step::DropBounding { keep: sets.bounding, last: host.last_capability };
    draft.step(bounding, "needs CAP_SETPCAP");
    draft.step(Step::KeepCapabilities(true), "the change of user would clear the permitted set");
    ids(draft, &process.user, filter);
    draft.step(Step::RetryChangeDirectory(cwd), "a root-squashed or 0700 directory opens to its user only");
    let why = "a directory outside the root would be a way to the host (CVE-2024-21626)";
    draft.step(Step::VerifyWorkingDirectory, why);
    draft.step(Step::KeepCapabilities(false), "the program gets the default back");
    let (effective, permitted, inheritable) = (sets.effective, sets.permitted, sets.inheritable);
    let capabilities = Step::SetCapabilities { effective, permitted, inheritable };
    draft.step(capabilities, "the change of user emptied the effective set");
    draft.step(Step::SetAmbient(sets.ambient), "needs each in the permitted and the inheritable set");
    Ok(())
}

fn ids(draft: &mut Draft, user: &User, filter: Option<Filter>) {
    let groups = Step::SetGroups(user.additional_gids.clone());
    draft.step(groups, "also when empty: the groups of the parent must go (CVE-2023-25173)");
    if let Some(filter) = filter {
        let why = "without no_new_privs it needs CAP_SYS_ADMIN, and the change of user ends that";
        draft.step(Step::LoadSeccomp(filter), why);
    }
    draft.step(Step::SetIds { uid: user.uid, gid: user.gid }, "group first: it needs the old user's rights");
}

/// The sets as the kernel accepts them.
#[derive(Debug, PartialEq, Eq)]
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// What the running kernel does not know is left out, as the specification asks. What is in force is also
    /// permitted, and ambient is only what is both permitted and inheritable: capset(2) and prctl(2) answer
    /// EPERM to everything else, and the names in the spec mean just that.
    fn of(wanted: &Capabilities, last: u8) -> Self {
        let known = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
        let permitted = (wanted.permitted | wanted.effective) & known;
        let inheritable = wanted.inheritable & known;
        Self {
            bounding: wanted.bounding & known,
            effective: wanted.effective & known,
            permitted,
            inheritable,
            ambient: wanted.ambient & permitted & inheritable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_the_kernel_does_not_know_are_left_out() {
        let all = Capabilities { bounding: u64::MAX, permitted: u64::MAX, ..Capabilities::default() };
        let sets = Sets::of(&all, 40);
        assert_eq!(sets.bounding, 0x1ff_ffff_ffff);
        assert_eq!(sets.permitted, 0x1ff_ffff_ffff);
        assert_eq!(Sets::of(&all, 63).bounding, u64::MAX);
        assert_eq!(Sets::of(&all, u8::MAX).bounding, u64::MAX);
    }

    #[test]
    fn what_is_in_force_is_permitted_and_nothing_becomes_inheritable_by_itself() {
        let wanted =
            Capabilities { effective: 0b110, permitted: 0b010, ambient: 0b111, ..Capabilities::default() };
        let sets = Sets::of(&wanted, 40);
        assert_eq!((sets.effective, sets.permitted), (0b110, 0b110));
        assert_eq!((sets.inheritable, sets.ambient), (0, 0));
    }

    #[test]
    fn ambient_is_what_is_both_permitted_and_inheritable() {
        let wanted =
            Capabilities { permitted: 0b011, inheritable: 0b110, ambient: 0b111, ..Capabilities::default() };
        assert_eq!(Sets::of(&wanted, 40).ambient, 0b010);
    }
}

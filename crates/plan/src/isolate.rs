//! Leaving the parent: its session, its namespaces and its cgroups.
//!
//! Decides which namespaces the clone makes, which are joined and by which slot. The cgroup itself is the
//! parent's work; here the child only waits for it.

use dunnage_spec::namespace::{Namespace, NamespaceKind, Namespaces};
use dunnage_spec::{Process, Spec};

use crate::draft::Draft;
use crate::error::Error;
use crate::facts::{HostFacts, RootfsFacts};
use crate::step::{Phase, Slot, SlotId, Step};
use crate::text;

/// What the clone does, as far as it is not a step of the child.
#[derive(Debug, Default)]
pub(crate) struct Birth {
    pub(crate) new_namespaces: Vec<NamespaceKind>,
    pub(crate) pid_namespace: Option<SlotId>,
}

/// Order of the namespaces in which people name them; the kernel makes them all at once.
const MADE: [NamespaceKind; 6] = [
    NamespaceKind::Pid,
    NamespaceKind::Network,
    NamespaceKind::Mount,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Cgroup,
];

/// A container's init.
pub(crate) fn init(
    draft: &mut Draft,
    spec: &Spec,
    host: &HostFacts,
    own: &RootfsFacts,
) -> Result<Birth, Error> {
    draft.enter(Phase::Isolate);
    join_cgroups(draft, host);
    leave_parent(draft, spec.process.as_ref());
    let pid_namespace = join(draft, &spec.namespaces);
    if spec.namespaces.network == Namespace::New {
        draft.step(Step::RaiseLoopback, "a new network namespace has a loopback device that is down");
    }
    join_keyring(draft, own)?;
    let cgroup_by_clone = host.unified_cgroup;
    if spec.namespaces.cgroup == Namespace::New && !cgroup_by_clone {
        let why = "its root is where the process is now, so only once it is in its cgroups";
        draft.step(Step::NewCgroupNamespace, why);
    }
    let new_namespaces = MADE
        .into_iter()
        .filter(|kind| *spec.namespaces.get(*kind) == Namespace::New)
        .filter(|kind| *kind != NamespaceKind::Cgroup || cgroup_by_clone)
        .collect();
    Ok(Birth { new_namespaces, pid_namespace })
}

/// A process executed later: everything the container has of its own, by the pidfd of its init.
pub(crate) fn exec(
    draft: &mut Draft,
    process: &Process,
    namespaces: &Namespaces,
    host: &HostFacts,
    own: &RootfsFacts,
) -> Result<Birth, Error> {
    draft.enter(Phase::Isolate);
    join_cgroups(draft, host);
    leave_parent(draft, Some(process));
    let kinds: Vec<_> = NamespaceKind::ALL
        .into_iter()
        .filter(|kind| *kind != NamespaceKind::Pid && namespaces.get(*kind).is_own())
        .collect();
    let slot = (namespaces.pid.is_own() || !kinds.is_empty()).then(|| draft.slot(Slot::Init));
    if let Some(slot) = slot.filter(|_| !kinds.is_empty()) {
        draft.step(
            Step::JoinInit { slot, kinds },
            "all or none, of exactly this init: no path can be swapped",
        );
    }
    join_keyring(draft, own)?;
    Ok(Birth { new_namespaces: Vec::new(), pid_namespace: slot.filter(|_| namespaces.pid.is_own()) })
}

fn leave_parent(draft: &mut Draft, process: Option<&Process>) {
    if let Some(score) = process.and_then(|process| process.oom_score_adj) {
        let why = "while /proc is still the host's, and before a change of user takes the file away";
        draft.step(Step::SetOomScore(score), why);
    }
    draft.step(Step::NewSession, "signals to the parent's session and its terminal stay outside");
}

/// Joins everything that has a path, and gives the slot of the pid namespace, which only the parent can enter
/// for its child.
fn join(draft: &mut Draft, namespaces: &Namespaces) -> Option<SlotId> {
    let mut pid_namespace = None;
    for kind in NamespaceKind::ALL {
        let Namespace::Join(path) = namespaces.get(kind) else { continue };
        let slot = draft.slot(Slot::Namespace { path: path.clone(), kind });
        if kind == NamespaceKind::Pid {
            pid_namespace = Some(slot);
        } else {
            draft.step(Step::JoinNamespace { slot, kind }, "the spec names it by its path");
        }
    }
    pid_namespace
}

fn join_keyring(draft: &mut Draft, own: &RootfsFacts) -> Result<(), Error> {
    if let Some(name) = &own.keyring {
        let name = text::c_string("session keyring", name)?;
        draft.step(Step::NewKeyring(name), "keys of the host's session stay outside");
    }
    Ok(())
}

/// Stands first: what the child touches from here on counts for the container.
fn join_cgroups(draft: &mut Draft, host: &HostFacts) {
    if !host.unified_cgroup {
        draft.step(Step::JoinCgroups, "v1 cannot be joined by the clone; limits hold from here on");
    }
}

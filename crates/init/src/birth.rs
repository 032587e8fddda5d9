//! The parent's end: from a plan to a living child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dunnage_plan::{Plan, Step};
use dunnage_spec::namespace::NamespaceKind;
use dunnage_sys::clone::{self, Arguments};
use dunnage_sys::namespace::{self, Kinds};
use dunnage_sys::open::{self, OFlags};
use dunnage_sys::pidfd::Pid;
use dunnage_sys::seccomp::{self, Filter};
use dunnage_sys::{Call, Errno, message};

use crate::child::{self, Inheritance, Late};
use crate::slots::Slots;
use crate::streams::Streams;
use crate::{Error, ErrorKind, Newborn, fault};

/// Everything one birth needs.
#[derive(Debug, Clone, Copy)]
pub struct Birth<'a> {
    /// What the child does.
    pub plan: &'a Plan,
    /// Its standard streams, unless the plan opens a terminal.
    pub streams: Streams<'a>,
    /// Pidfd of the container's init, for [`dunnage_plan::Slot::Init`].
    pub init: Option<BorrowedFd<'a>>,
    /// Directory of the cgroup v2 to be born in.
    pub clone_into: Option<BorrowedFd<'a>>,
    /// For `JoinCgroups`: the open files that the child writes `0` to, `tasks` of every v1 hierarchy.
    pub cgroups: &'a [OwnedFd],
}

/// Opens the slots of the plan and clones the child, which begins at once.
///
/// # Errors
/// A slot cannot be opened, or the clone failed; nothing is left behind.
pub fn spawn(birth: &Birth<'_>) -> Result<Newborn, Error> {
    let plan = birth.plan;
    let slots = Slots::open(plan, birth.init)?;
    let descriptors = slots.descriptors();
    let filters = filters(plan);
    let arguments = plan.program.as_ref().map(|program| Arguments::new(&program.args, &program.env));
    let (socket, childs) = message::pair().call(|| "socketpair")?;
    let childs = open::above_streams(childs).call(|| "dup the socket")?;
    let inheritance = Inheritance {
        plan,
        socket: childs.as_fd(),
        slots: &descriptors,
        streams: birth.streams,
        filters: &filters,
        arguments: arguments.as_ref(),
        cgroups: birth.cgroups,
        late: None,
    };
    let entered = PidNamespace::enter(plan, &slots)?;
    let cloned = clone_child(&inheritance, birth.clone_into);
    let left = entered.leave();
    let (pid, pidfd, born_in_cgroup) = cloned?;
    // From here on an error drops the newborn, which ends the child.
    let newborn = Newborn::new((pid, pidfd), socket, plan, born_in_cgroup);
    left.map(|()| newborn)
}

fn filters(plan: &Plan) -> Vec<Filter> {
    plan.steps
        .iter()
        .filter_map(|planned| match &planned.step {
            Step::LoadSeccomp(filter) => Some(&filter.program),
            _ => None,
        })
        .map(|program| {
            let flags = [
                (program.flags.tsync, seccomp::TSYNC),
                (program.flags.log, seccomp::LOG),
                (program.flags.spec_allow, seccomp::SPEC_ALLOW),
            ];
            let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit);
            Filter::new(program.instructions.iter().map(|i| (i.code, i.jt, i.jf, i.k)), flags)
        })
        .collect()
}

/// Clones into the cgroup, or, where the kernel or the state of the cgroup does not allow that, beside it: then
/// the child moves itself before anything else. Gives whether it was born there.
fn clone_child(
    inheritance: &Inheritance<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Pid, OwnedFd, bool), Error> {
    let kinds = inheritance.plan.new_namespaces.iter();
    let kinds = kinds.fold(Kinds::empty(), |bits, kind| bits | child::bit(*kind));
    let first = if cgroup.is_some() && fault::clone_refused() {
        Err(Errno::NOSYS)
    } else {
        clone::child(kinds, cgroup, |alone| child::run(alone, *inheritance))
    };
    match (first, cgroup) {
        (Ok((pid, pidfd)), cgroup) => Ok((pid, pidfd, cgroup.is_some())),
        (Err(Errno::NOSYS | Errno::INVAL | Errno::BUSY | Errno::OPNOTSUPP | Errno::TOOBIG), Some(cgroup)) => {
            let procs = open::within(cgroup, c"cgroup.procs", OFlags::WRONLY);
            let procs = procs.and_then(open::above_streams).call(|| "open cgroup.procs")?;
            // The root of a cgroup namespace is where its maker is: only after the move.
            let late = Some(Late { procs: procs.as_fd(), namespace: kinds.contains(Kinds::CGROUP) });
            let beside = Inheritance { late, ..*inheritance };
            let cloned = clone::child(kinds - Kinds::CGROUP, None, |alone| child::run(alone, beside));
            cloned.map(|(pid, pidfd)| (pid, pidfd, false)).map_err(|errno| clone_failed(inheritance, errno))
        }
        (Err(errno), _) => Err(clone_failed(inheritance, errno)),
    }
}

fn clone_failed(inheritance: &Inheritance<'_>, errno: Errno) -> Error {
    let names: Vec<_> =
        inheritance.plan.new_namespaces.iter().map(|kind: &NamespaceKind| kind.as_str()).collect();
    let call = if names.is_empty() {
        "clone3".to_owned()
    } else {
        format!("clone3 with new namespaces {}", names.join(", "))
    };
    let failed = Error::from(dunnage_sys::Error::new(call, errno));
    match errno {
        // clone(2): the init of the pid namespace has ended.
        Errno::NOMEM if inheritance.plan.pid_namespace.is_some() => {
            failed.because("the init of the pid namespace may have ended")
        }
        // Nothing else of a clone can be missing; ENODEV on older kernels.
        Errno::NOENT | Errno::NODEV => failed.because("the cgroup was removed").of(ErrorKind::Internal),
        _ => failed,
    }
}

/// The pid namespace in which the children of this thread are born.
struct PidNamespace {
    own: Option<OwnedFd>,
}

impl PidNamespace {
    /// Enters that of the plan, if it names one.
    fn enter(plan: &Plan, slots: &Slots<'_>) -> Result<Self, Error> {
        let Some(slot) = plan.pid_namespace else { return Ok(Self { own: None }) };
        let slot = slots.get(slot).ok_or(Errno::BADF).call(|| "find the slot of the pid namespace")?;
        let own = namespace::own_pid().call(|| "open /proc/thread-self/ns/pid")?;
        namespace::join(slot, Kinds::PID).call(|| "setns the pid namespace")?;
        Ok(Self { own: Some(own) })
    }

    /// Goes back to the thread's own.
    fn leave(self) -> Result<(), Error> {
        match self.own {
            Some(own) => Ok(namespace::join(own, Kinds::PID).call(|| "setns back to the own pid namespace")?),
            None => Ok(()),
        }
    }
}

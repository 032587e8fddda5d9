//! From a bundle to a child that executes its plan, and what to take down when that fails half way.

use std::path::Path;
use std::rc::Rc;

use dunnage_cgroup::{Cgroup, UnitStart};
use dunnage_init::{Birth, Created, Newborn, Streams};
use dunnage_plan::{Plan, RootfsFacts};
use dunnage_spec::{Bundle, Namespace, Spec};

use crate::command::{Create, Target};
use crate::container::{Container, Held, Process};
use crate::error::{Error, Result};
use crate::host::{Host, home};
use crate::mailbox::Mailbox;
use crate::record::Identity;
use crate::rootfs;
use crate::state::State;
use crate::stdio::{self, ProcessEnds};
use crate::{orphan, watch};

/// By which runc and crun take properties of the systemd unit.
const UNIT_PROPERTY: &str = "org.systemd.property.";

/// A create that failed, with what it had made by then.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) held: Held,
}

/// Makes everything up to the child, which executes its plan from here on, and the unit that systemd makes
/// around it meanwhile.
pub(crate) fn prepare(
    host: &mut Host,
    create: Create,
) -> std::result::Result<(Container, Newborn, Option<UnitStart>), Box<Failed>> {
    let mut held = Held::default();
    match build(host, &create, &mut held) {
        Ok((spec, init, newborn, unit)) => Ok((container(create, spec, init, held), newborn, unit)),
        Err(error) => Err(Box::new(Failed { error, held })),
    }
}

fn container(create: Create, spec: Spec, init: Process, held: Held) -> Container {
    Container {
        id: create.id,
        bundle: create.bundle,
        spec: Rc::new(spec),
        rootfs: create.rootfs,
        no_new_keyring: create.no_new_keyring,
        init,
        execs: std::collections::BTreeMap::new(),
        held,
        oom_kills: 0,
        deleting: None,
        pausing: None,
        creating: None,
    }
}

// Cheap refusals come first: a spec that cannot work makes nothing.
fn build(
    host: &mut Host,
    create: &Create,
    held: &mut Held,
) -> Result<(Spec, Process, Newborn, Option<UnitStart>)> {
    let Bundle { spec, .. } = Bundle::load(&create.bundle, &create.id)?;
    for warning in &spec.warnings {
        tracing::warn!(container = %create.id, %warning, "config.json");
    }
    for annotation in spec.annotations.keys().filter(|key| key.starts_with(UNIT_PROPERTY)) {
        tracing::warn!(container = %create.id, annotation, "properties of units are not implemented");
    }
    let (ends, kept) = stdio::open(&create.stdio)?;
    let rootfs = create.bundle.join("rootfs");
    let mounted = (!create.rootfs.is_empty()).then(|| rootfs.clone());
    held.record = Some(host.store.create(&create.id, &create.bundle, &spec.cgroup, mounted)?);
    held.rootfs = rootfs::mount(&create.rootfs, &rootfs)?;
    let (cgroup, refused) = Cgroup::create(&host.layout, &spec.cgroup, &spec.resources)?;
    let cgroup = held.cgroup.insert(Rc::new(cgroup));
    for refused in refused {
        tracing::warn!(container = %create.id, %refused, "limits");
    }
    let plan = plan(host, create, &spec, cgroup)?;
    let newborn = birth(&plan, &ends, cgroup, None)?;
    let unit = cgroup.start_unit(newborn.pid())?;
    let mut init = Process::new(State::Creating, create.stdio.clone());
    init.kept = kept;
    Ok((spec, init, newborn, unit))
}

fn plan(host: &mut Host, create: &Create, spec: &Spec, cgroup: &Cgroup) -> Result<Plan> {
    let facts = RootfsFacts {
        home: spec.process.as_ref().and_then(|process| home(&spec.root.path, process)),
        cgroups: Host::cgroup_mounts(cgroup),
        keyring: (!create.no_new_keyring).then(|| format!("_ses.{}", create.id)),
    };
    Ok(dunnage_plan::lower(spec, &host.facts, &facts, &mut host.filters)?)
}

/// Clones the child and puts it into its cgroups.
pub(crate) fn birth(
    plan: &Plan,
    ends: &ProcessEnds,
    cgroup: &Cgroup,
    init: Option<std::os::fd::BorrowedFd<'_>>,
) -> Result<Newborn> {
    let verb = if init.is_some() { "exec" } else { "create" };
    let failed = |source| Error::Birth { verb, source };
    let [stdin, stdout, stderr] = ends.borrowed();
    let streams = Streams { stdin, stdout, stderr };
    let clone_into = cgroup.clone_into();
    let cgroups = cgroup.join_files()?;
    dunnage_init::spawn(&Birth { plan, streams, init, clone_into, cgroups: &cgroups }).map_err(failed)
}

/// The child is at its gate: everything that must be known of it before anybody can start it.
pub(crate) fn complete(container: &mut Container, created: Created, mailbox: Mailbox) -> Result<()> {
    let start_time = start_time(container.init.pid)?;
    if let Some(record) = &mut container.held.record {
        record.set_init(Identity { pid: container.init.pid, start_time })?;
    }
    if let Some(cgroup) = &container.held.cgroup {
        for refused in cgroup.settle(container.init.pid)? {
            tracing::warn!(container = %container.id, %refused, "unit");
        }
        // Watched before the program runs, or its first kill could go unseen.
        let target = Target { id: container.id.clone(), exec: None };
        container.held.oom_watch = Some(watch::oom(cgroup.oom_watch()?, target, mailbox.clone()));
    }
    if container.spec.namespaces.pid == Namespace::Host {
        container.held.orphan_watch = Some(orphan::watch(mailbox)?);
    }
    if let Some(master) = created.terminal {
        container.init.attach(master)?;
    }
    container.init.state = State::Created;
    Ok(())
}

fn start_time(pid: u32) -> Result<u64> {
    use dunnage_sys::{Call, Errno};
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(Path::new(&path)).call(|| format!("read {path}"))?;
    // The second field is the name in parentheses, which may hold anything, parentheses too (proc(5)).
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = fields.split(' ').nth(19).and_then(|field| field.parse().ok());
    Ok(ticks.ok_or_else(|| dunnage_sys::Error::new(format!("parse {path}"), Errno::INVAL))?)
}

//! From a checked spec to a plan: the order of a birth, as one list.

use dunnage_spec::{Process, Spec};

use crate::draft::Draft;
use crate::error::Error;
use crate::facts::{HostFacts, RootfsFacts};
use crate::filter::FilterCache;
use crate::isolate::Birth;
use crate::step::{Filter, Phase, Plan, Step};
use crate::{devices, environment, identity, isolate, mounts, program, protect, rootfs};

/// The plan of a container's init.
///
/// # Errors
/// The spec contradicts itself or asks for what this host lacks; the error names the field.
pub fn lower(
    spec: &Spec,
    host: &HostFacts,
    own: &RootfsFacts,
    filters: &mut FilterCache,
) -> Result<Plan, Error> {
    let process = spec.process.as_ref();
    let mut draft = Draft::new();
    let draft = &mut draft;

    let birth = isolate::init(draft, spec, host, own)?;
    rootfs::attach(draft, spec)?;
    let late = mounts::all(draft, spec, host, own)?;
    devices::all(draft, spec, host)?;
    protect::private_proc(draft, Some(spec), process);
    protect::paths(draft, spec)?;
    rootfs::pivot(draft, spec);
    environment::streams(draft, process, rootfs::has_own_mounts(spec));
    environment::working_directory(draft, process)?;
    rootfs::seal(draft, spec, late);
    environment::names(draft, spec)?;
    environment::umask(draft, process);
    match process {
        Some(process) => run(draft, process, spec, host, filters)?,
        None => gate(draft),
    }
    finish(draft, birth, process, own)
}

/// The plan of a process executed later in the container that `spec` describes.
///
/// # Errors
/// As [`lower`].
pub fn lower_exec(
    process: &Process,
    spec: &Spec,
    host: &HostFacts,
    own: &RootfsFacts,
    filters: &mut FilterCache,
) -> Result<Plan, Error> {
    let mut draft = Draft::new();
    let draft = &mut draft;

    let birth = isolate::exec(draft, process, &spec.namespaces, host, own)?;
    rootfs::open(draft, spec)?;
    protect::private_proc(draft, None, Some(process));
    rootfs::enter(draft, spec);
    environment::streams(draft, Some(process), false);
    environment::umask(draft, Some(process));
    run(draft, process, spec, host, filters)?;
    finish(draft, birth, Some(process), own)
}

/// From the identity to the program; the same for both.
fn run(
    draft: &mut Draft,
    process: &Process,
    spec: &Spec,
    host: &HostFacts,
    filters: &mut FilterCache,
) -> Result<(), Error> {
    let filter = spec.seccomp.as_ref().map(|profile| filters.compile(profile)).transpose()?;
    let (late, early) = if process.no_new_privileges { (filter, None) } else { (None, filter) };

    identity::labels(draft, process, host)?;
    identity::limits(draft, process);
    identity::user(draft, process, host, early)?;
    draft
        .step(Step::FindProgram, "as the user, so that a missing program fails the create and not the start");
    gate(draft);
    execute(draft, late);
    Ok(())
}

fn gate(draft: &mut Draft) {
    draft.enter(Phase::Gate);
    draft.step(Step::Ready, "created: everything that can fail before the program has not");
    draft.step(Step::AwaitStart, "create and start are two requests");
}

/// A filter that needs no privilege is loaded behind the gate, next to `execve`: it must allow nothing but
/// that, neither the answer to the parent nor the wait nor `close_range`. The price is that a filter the
/// kernel refuses fails the start and not the create; but what is compiled here is valid.
fn execute(draft: &mut Draft, filter: Option<Filter>) {
    draft.enter(Phase::Execute);
    let why = "closed and not only marked: the program's path may name a descriptor (CVE-2024-21626)";
    draft.step(Step::CloseDescriptors, why);
    if let Some(filter) = filter {
        draft.step(
            Step::LoadSeccomp(filter),
            "with no_new_privs as late as possible: it must allow execve only",
        );
    }
    draft.step(Step::Execute, "the end of the plan");
}

fn finish(
    draft: &mut Draft,
    birth: Birth,
    process: Option<&Process>,
    own: &RootfsFacts,
) -> Result<Plan, Error> {
    Ok(Plan {
        new_namespaces: birth.new_namespaces,
        pid_namespace: birth.pid_namespace,
        slots: std::mem::take(&mut draft.slots),
        steps: std::mem::take(&mut draft.steps),
        program: process.map(|process| program::lower(process, own)).transpose()?,
    })
}

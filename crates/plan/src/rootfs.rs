//! The container's root: cloned and attached, later made `/`.
//!
//! A container that shares its mount namespace with somebody gets no mount work at all, because every mount
//! would be made in a table that others use and would outlive the container. It can only `chroot`, and a spec
//! that asks for more is refused.

use dunnage_spec::Spec;
use dunnage_spec::mount::{Propagation, PropagationKind};
use dunnage_spec::namespace::Namespace;

use crate::draft::Draft;
use crate::error::Error;
use crate::step::{Phase, Step, Target};
use crate::text;

/// Whether the container has a mount table that dies with it.
pub(crate) fn has_own_mounts(spec: &Spec) -> bool {
    spec.namespaces.mount == Namespace::New
}

/// Fills the root register.
pub(crate) fn attach(draft: &mut Draft, spec: &Spec) -> Result<(), Error> {
    draft.enter(Phase::Rootfs);
    let path = text::path("root.path", &spec.root.path)?;
    if has_own_mounts(spec) {
        let (propagation, why) = inherited_propagation(spec.root.propagation);
        draft.step(Step::SetRootPropagation(propagation), why);
        let why = "pivot_root needs a mount, and the clone is this container's own to change";
        draft.step(Step::AttachRootfs(path), why);
    } else {
        refuse_mount_work(spec)?;
        draft
            .step(Step::OpenRootfs(path), "the mount namespace is not the container's own: only looked into");
    }
    Ok(())
}

/// How the copied mount table hears of the host. Never private: a volume mounted `rslave` must still be able
/// to receive what the host mounts later, and a table that hears no unmount would pin the host's devices until
/// the old root is gone. Only `shared` reaches back, for volumes that ask for both ways.
fn inherited_propagation(wanted: Propagation) -> (Propagation, &'static str) {
    if wanted.kind == PropagationKind::Shared {
        (wanted, "volumes may show their mounts to the host, because rootfsPropagation is shared")
    } else {
        let slave = Propagation { kind: PropagationKind::Slave, recursive: true };
        (slave, "no mount made from here on may reach the host")
    }
}

fn refuse_mount_work(spec: &Spec) -> Result<(), Error> {
    let asked = [
        ("mounts", !spec.mounts.is_empty()),
        ("linux.maskedPaths", !spec.masked_paths.is_empty()),
        ("linux.readonlyPaths", !spec.readonly_paths.is_empty()),
        ("root.readonly", spec.root.readonly),
        ("linux.rootfsPropagation", spec.root.propagation.kind != PropagationKind::Private),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((field, _)) => Err(Error::invalid(
            field,
            "needs a new mount namespace: in a joined one it would outlive the container",
        )),
    }
}

/// The root register becomes `/`.
pub(crate) fn pivot(draft: &mut Draft, spec: &Spec) {
    draft.enter(Phase::Pivot);
    if !has_own_mounts(spec) {
        draft.step(Step::Chroot, "pivot_root would change the root of everybody in this mount namespace");
        return;
    }
    draft.step(Step::PivotRoot, "the host's mounts leave this mount table");
    if spec.root.propagation.kind != PropagationKind::Private {
        draft.step(Step::SetRootfsPropagation(spec.root.propagation), "rootfsPropagation of the spec");
    }
}

/// Fills the root register of a process executed later, which already has the container's mount namespace.
pub(crate) fn open(draft: &mut Draft, spec: &Spec) -> Result<(), Error> {
    draft.enter(Phase::Rootfs);
    if has_own_mounts(spec) {
        draft.step(Step::OpenRootfs(c"/".to_owned()), "joining a mount namespace leads to its root");
    } else {
        let path = text::path("root.path", &spec.root.path)?;
        draft.step(Step::OpenRootfs(path), "init was confined by chroot, which no namespace carries");
    }
    Ok(())
}

/// Confines a process executed later where init itself could only `chroot`.
pub(crate) fn enter(draft: &mut Draft, spec: &Spec) {
    if !has_own_mounts(spec) {
        draft.enter(Phase::Pivot);
        draft.step(Step::Chroot, "the same root as init's");
    }
}

/// Makes read-only what had to be writable for mount points, nodes, the console and the working directory.
pub(crate) fn seal(draft: &mut Draft, spec: &Spec, late: Vec<Target>) {
    for target in late {
        draft.step(Step::SetReadonly { target }, "everything that had to be made in it is there now");
    }
    if spec.root.readonly {
        draft.step(Step::SetRootReadonly, "every mount point, node and directory in it is there now");
    }
}

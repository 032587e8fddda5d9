//! Kernel parameters, and the paths that a container must not write or not see.

use dunnage_spec::{Process, Spec};

use crate::draft::Draft;
use crate::error::Error;
use crate::step::{Phase, Step};
use crate::text;

/// Opens the procfs that everything is written through which a fake `/proc` must not catch: kernel parameters
/// and security labels.
pub(crate) fn private_proc(draft: &mut Draft, spec: Option<&Spec>, process: Option<&Process>) {
    draft.enter(Phase::Protect);
    let has_sysctls = spec.is_some_and(|spec| !spec.sysctls.is_empty());
    let has_label =
        process.is_some_and(|process| process.apparmor_profile.is_some() || process.selinux_label.is_some());
    if has_sysctls || has_label {
        let why = "nothing that lies over /proc may catch what is written through it (CVE-2025-52881)";
        draft.step(Step::OpenPrivateProc, why);
    }
}

/// Kernel parameters, then read-only paths, then masked ones: a path that is both ends up hidden.
pub(crate) fn paths(draft: &mut Draft, spec: &Spec) -> Result<(), Error> {
    for sysctl in &spec.sysctls {
        let field = || format!("linux.sysctl[{}]", sysctl.path);
        let (path, value) = (text::c_string(field(), &sysctl.path)?, text::c_string(field(), &sysctl.value)?);
        draft.step(
            Step::WriteSysctl { path, value },
            "after its namespace is joined, before /proc/sys is read-only",
        );
    }
    for (index, path) in spec.readonly_paths.iter().enumerate() {
        let path = text::relative(format!("linux.readonlyPaths[{index}]"), path)?;
        draft.step(Step::MakeReadonly { path }, "by descriptor, so that no rename can redirect it");
    }
    for (index, path) in spec.masked_paths.iter().enumerate() {
        let path = text::relative(format!("linux.maskedPaths[{index}]"), path)?;
        draft.step(Step::Mask { path }, "it tells about, or reaches, the host");
    }
    Ok(())
}

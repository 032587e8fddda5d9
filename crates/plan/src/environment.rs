//! What a process finds around it: streams or a terminal, working directory, names.

use std::path::Path;

use dunnage_spec::{Process, Spec};

use crate::draft::Draft;
use crate::error::Error;
use crate::step::{Phase, Step};
use crate::text;

/// Streams or a terminal. `console`: the terminal is the container's `/dev/console`.
pub(crate) fn streams(draft: &mut Draft, process: Option<&Process>, console: bool) {
    draft.enter(Phase::Environment);
    let uid = process.map_or(0, |process| process.user.uid);
    match process.and_then(|process| process.terminal) {
        Some(terminal) => {
            let why = "from the container's own devpts, before its tree becomes read-only";
            draft.step(Step::OpenTerminal { size: terminal.size, uid, console }, why);
        }
        None => draft.step(Step::SetStreams { uid }, "what is absent is the container's own /dev/null"),
    }
}

/// The directory to start in, made when the image lacks it.
pub(crate) fn working_directory(draft: &mut Draft, process: Option<&Process>) -> Result<(), Error> {
    if let Some(process) = process.filter(|process| process.cwd != Path::new("/")) {
        let cwd = text::path("process.cwd", &process.cwd)?;
        draft.step(Step::MakeWorkingDirectory(cwd), "images name directories that they do not have");
    }
    Ok(())
}

/// Host and domain name; the spec has them only with a UTS namespace of its own.
pub(crate) fn names(draft: &mut Draft, spec: &Spec) -> Result<(), Error> {
    if let Some(name) = &spec.hostname {
        draft.step(Step::SetHostname(text::c_string("hostname", name)?), "in its uts namespace");
    }
    if let Some(name) = &spec.domainname {
        draft.step(Step::SetDomainname(text::c_string("domainname", name)?), "in its uts namespace");
    }
    Ok(())
}

/// The mask for files the program makes.
pub(crate) fn umask(draft: &mut Draft, process: Option<&Process>) {
    if let Some(process) = process {
        let why = "after the last file that is made for the program";
        draft.step(Step::SetUmask(process.user.umask), why);
    }
}

//! The process that holds a pod's namespaces: `dunnage` itself, alone in an empty root.
//!
//! It waits to be told to end, and buries what is orphaned to it when the pod shares its process namespace.

use std::process::ExitCode;

/// The argument that makes `dunnage` this process. Hidden: it is of no use to people.
pub(crate) const WORD: &str = "__pause";

/// Holds the namespaces until SIGTERM or SIGINT.
pub(crate) fn hold() -> ExitCode {
    match dunnage_sys::hold::until_told_to_end() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

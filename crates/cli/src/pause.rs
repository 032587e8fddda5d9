//! The process that holds a pod's namespaces: `dunnage` itself, alone in an empty root.
//!
//! It waits to be told to end, and buries what is orphaned to it when the pod shares its process namespace.

/// The argument that makes `dunnage` this process. Hidden: it is of no use to people.
pub(crate) const WORD: &str = "__pause";

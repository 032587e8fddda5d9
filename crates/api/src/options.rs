//! Options that containerd and CRI pass with a container, in both forms.

/// `containerd.runc.v1`: what CRI sends to a runtime named like runc, and the client library to any.
pub mod runc {
    pub use crate::wire::containerd::runc::v1::*;
}

/// `runtimeoptions.v1`: what CRI sends to every other runtime.
pub mod runtime {
    pub use crate::wire::runtimeoptions::v1::*;
}

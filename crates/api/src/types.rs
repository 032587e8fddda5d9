//! Messages that several services share: mounts, runtime information, processes and states.

pub use crate::wire::containerd::types::{Mount, RuntimeInfo, RuntimeVersion};
pub use crate::wire::containerd::v1::types::{ProcessInfo, Status};

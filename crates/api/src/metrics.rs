//! Answers of Stats, one module per cgroup version.

/// cgroup v1: `io.containerd.cgroups.v1.Metrics` and what it is made of.
pub mod v1 {
    pub use crate::wire::io::containerd::cgroups::v1::*;
}

/// cgroup v2: `io.containerd.cgroups.v2.Metrics` and what it is made of.
pub mod v2 {
    pub use crate::wire::io::containerd::cgroups::v2::*;
}

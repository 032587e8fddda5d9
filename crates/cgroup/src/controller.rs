//! The controllers, under one name for both versions of cgroups.

use std::fmt;

/// A kernel controller that dunnage sets or reads something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// CPU accounting; a part of `cpu` on v2.
    Cpuacct,
    /// CPUs and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Device access; a program instead on v2.
    Devices,
    /// Freezing; a part of every cgroup on v2.
    Freezer,
    /// Block devices: `blkio` on v1, `io` on v2.
    Io,
    /// Number of tasks.
    Pids,
    /// Huge pages.
    Hugetlb,
    /// RDMA resources.
    Rdma,
    /// Host-wide scarce resources such as encrypted address spaces.
    Misc,
}

impl Controller {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::Cpu,
            "cpuacct" => Self::Cpuacct,
            "cpuset" => Self::Cpuset,
            "memory" => Self::Memory,
            "devices" => Self::Devices,
            "freezer" => Self::Freezer,
            "blkio" | "io" => Self::Io,
            "pids" => Self::Pids,
            "hugetlb" => Self::Hugetlb,
            "rdma" => Self::Rdma,
            "misc" => Self::Misc,
            _ => return None,
        })
    }

    /// The name on v2, or on v1 where v2 has none.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

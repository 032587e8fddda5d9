//! The pod's own cgroup, as the kubelet makes it: the levels of its class above, its limits on it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use dunnage_cgroup::{Cgroup, Layout};
use dunnage_spec::QosClass;
use dunnage_spec::resources::{CgroupPath, Cpu, Limit, Memory, Resources};

use crate::kubelet::{CPU_PERIOD_US, CgroupLimits};

/// Makes the cgroup of a pod and writes its limits; gives what was refused and need not have been.
///
/// # Errors
/// The cgroup cannot be made, or a limit was refused.
pub(super) fn create(
    layout: &Layout,
    parent: &str,
    class: QosClass,
    limits: &CgroupLimits,
) -> anyhow::Result<Vec<String>> {
    let resources = Resources {
        cpu: Cpu {
            shares: u64::try_from(limits.cpu_shares).ok(),
            quota_us: limits.cpu_quota_us.and_then(limit),
            period_us: limits.cpu_quota_us.and_then(|_| u64::try_from(CPU_PERIOD_US).ok()),
            ..Cpu::default()
        },
        memory: Memory { limit: limits.memory.and_then(limit), ..Memory::default() },
        ..Resources::default()
    };
    let (_, refused) = Cgroup::create(layout, &CgroupPath::Cgroupfs(PathBuf::from(parent)), &resources)
        .with_context(|| format!("make the pod's cgroup {parent}"))?;
    let mut refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    if class == QosClass::BestEffort
        && let Some(level) = Path::new(parent).parent()
    {
        refused.extend(idle_level(layout, level)?);
    }
    Ok(refused)
}

/// All BestEffort pods together get what is left over: two shares beside the thousands of the others. The
/// kubelet keeps this level so.
fn idle_level(layout: &Layout, level: &Path) -> anyhow::Result<Vec<String>> {
    let path = CgroupPath::Cgroupfs(level.to_owned());
    let Some(cgroup) = Cgroup::open(layout, &path)? else { return Ok(Vec::new()) };
    let resources = Resources { cpu: Cpu { shares: Some(2), ..Cpu::default() }, ..Resources::default() };
    let refused =
        cgroup.update(&resources).with_context(|| format!("limit the cgroup {}", level.display()))?;
    Ok(refused.iter().map(ToString::to_string).collect())
}

fn limit(value: i64) -> Option<Limit> {
    u64::try_from(value).ok().map(Limit::To)
}

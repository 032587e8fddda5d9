//! `dunnage plan`: what would happen in the kernel to make the container of a bundle, step by step, with the
//! reason of each. Changes nothing and needs no privilege.

use std::path::Path;

use anyhow::Context;
use dunnage_cgroup::{Hierarchy, Layout};
use dunnage_plan::{CgroupMount, FilterCache, RootfsFacts, lower};
use dunnage_spec::resources::CgroupPath;
use dunnage_spec::{Bundle, ContainerId};
use dunnage_task::host;

/// The plan of the bundle as text; `id` names the container.
///
/// # Errors
/// The bundle cannot be read, or asks for what dunnage does not do.
pub(crate) fn text(bundle: &Path, id: &str) -> anyhow::Result<String> {
    let id: ContainerId = id.parse()?;
    let Bundle { spec, .. } = Bundle::load(bundle, &id)?;
    let layout = Layout::detect()?;
    let own = RootfsFacts {
        home: None,
        cgroups: cgroup_mounts(&layout, &spec.cgroup),
        keyring: Some(format!("_ses.{id}")),
    };
    let plan = lower(&spec, &host::facts(&layout), &own, &mut FilterCache::default())
        .with_context(|| format!("plan {}", bundle.display()))?;
    let warnings: String = spec.warnings.iter().map(|warning| format!("ignored {warning}\n")).collect();
    Ok(format!("{warnings}{plan}"))
}

/// Where the container's directories will be; nobody has made them yet.
fn cgroup_mounts(layout: &Layout, path: &CgroupPath) -> Vec<CgroupMount> {
    // A systemd scope lies where systemd puts it.
    let CgroupPath::Cgroupfs(path) = path else { return Vec::new() };
    let mount = |hierarchy: &std::sync::Arc<Hierarchy>| {
        let name = hierarchy.name().to_owned();
        CgroupMount {
            v1_options: (!hierarchy.is_unified()).then(|| host::v1_options(&name)),
            symlinks: if name.contains(',') {
                name.split(',').map(str::to_owned).collect()
            } else {
                Vec::new()
            },
            host_path: hierarchy.mount_point().join(path.strip_prefix("/").unwrap_or(path)),
            name,
        }
    };
    layout.hierarchies().iter().map(mount).collect()
}

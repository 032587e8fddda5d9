//! The contenders: which shims are here, with which runtime behind them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use dunnage_e2e::line::Line;
use dunnage_e2e::programs::{self, Runtime};
use dunnage_e2e::shim::{Daemon, Launch};
use dunnage_e2e::world::World;

/// Where events go.
pub(crate) const EVENTS: &str = "/run/events.sock";

/// Where the C library of the fetched crun is looked for; see `e2e/fetch-peers`.
const LIBRARIES: &str = "/run/crun.ld";

/// A shim and what it runs containers with.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: PathBuf,
    daemon: Daemon,
    runtime: Option<PathBuf>,
}

/// Everybody who might be here.
fn candidates() -> [(&'static str, Option<Peer>); 4] {
    let go = Runtime::Runc.shim().ok();
    // Of the containerd that is found first, as that Go shim is.
    let daemon = Line::under_test().map_or(Daemon::V1_6, Line::daemon);
    let crun = cache().map(|cache| cache.join("crun/crun")).filter(|path| path.is_file());
    let rust =
        cache().map(|cache| cache.join("tools/bin/containerd-shim-runc-v2-rs")).filter(|path| path.is_file());
    let peer = |name, program: Option<&PathBuf>, daemon, runtime: Option<PathBuf>| {
        program.map(|program| Peer { name, program: program.clone(), daemon, runtime })
    };
    let dunnage = Runtime::Dunnage.shim().ok();
    let with_crun = |program: Option<PathBuf>| program.filter(|_| crun.is_some());
    [
        ("dunnage", peer("dunnage", dunnage.as_ref(), Daemon::V2_3, None)),
        ("go+runc", peer("go+runc", go.as_ref(), daemon, None)),
        ("go+crun", peer("go+crun", with_crun(go).as_ref(), daemon, crun.clone())),
        ("rust+crun", peer("rust+crun", with_crun(rust).as_ref(), Daemon::V2_3, crun.clone())),
    ]
}

/// Those that are here.
pub(crate) fn all() -> Vec<Peer> {
    candidates().into_iter().filter_map(|(_, peer)| peer).collect()
}

/// Those that are not.
pub(crate) fn absent() -> Vec<&'static str> {
    candidates().into_iter().filter(|(_, peer)| peer.is_none()).map(|(name, _)| name).collect()
}

/// Where downloads lie.
pub(crate) fn cache() -> Option<PathBuf> {
    let build = programs::build_dir().ok()?;
    build.ancestors().map(|dir| dir.join("e2e")).find(|dir| dir.is_dir()).map(|dir| dir.join("cache"))
}

/// Makes the world fit for crun: its libraries where it looks for them, and a unified hierarchy without
/// controllers, as crun refuses hybrid machines on which one was left there. Only this world sees it.
pub(crate) fn link_libraries() -> Result<()> {
    let Some(crun) = cache().map(|cache| cache.join("crun")) else { return Ok(()) };
    std::os::unix::fs::symlink(crun, LIBRARIES).context("link crun's libraries")?;
    let unified = dunnage_e2e::cgroup::hierarchies()?.into_iter().find(|hierarchy| hierarchy.is_unified());
    let Some(unified) = unified.filter(|unified| unified.path.ends_with("unified")) else { return Ok(()) };
    let empty = Path::new("/run/no-controllers");
    std::fs::write(empty, "").context("make an empty file")?;
    let controllers = unified.path.join("cgroup.controllers");
    let none: Option<&str> = None;
    nix::mount::mount(Some(empty), &controllers, none, nix::mount::MsFlags::MS_BIND, none)
        .context("hide controllers")
}

impl Peer {
    /// How it is started in a world.
    pub(crate) fn launch(&self, world: &World) -> Launch {
        Launch {
            program: self.program.clone(),
            address: PathBuf::from("/run/containerd/containerd.sock"),
            events: PathBuf::from(EVENTS),
            namespace: world.id().to_owned(),
            daemon: self.daemon,
            env: Vec::new(),
        }
    }

    /// The options that name its runtime.
    pub(crate) fn options(&self) -> Result<Option<Any>> {
        let Some(runtime) = &self.runtime else { return Ok(None) };
        let options = Options { binary_name: runtime.to_string_lossy().into_owned(), ..Default::default() };
        let value = options.write_to_bytes()?;
        Ok(Some(Any { type_url: "containerd.runc.v1.Options".to_owned(), value, ..Default::default() }))
    }
}

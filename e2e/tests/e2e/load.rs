//! A little load as part of the suite; `make load` puts on more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::fault::{self, Lie, Script};
use dunnage_e2e::load::{self, Load};
use dunnage_e2e::wait;

use crate::only_dunnage;
use crate::rig::Cluster;

#[tokio::test]
async fn pods_that_live_random_lives_at_once_all_live_them_as_they_should() -> Result<()> {
    if !only_dunnage("it tells out-of-memory kills too late under load, or not at all") {
        return Ok(());
    }
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let load = Load { pods: 3, time: Duration::from_secs(5), seed };
    let node = Cluster::new().await?;
    let outcome = load::run(&node.world, &node.containerd, &node.cri, load).await;
    let outcome = outcome.with_context(|| format!("seed {seed}"))?;
    let wrongs = outcome.wrongs.join("\n");
    ensure!(wrongs.is_empty(), "{wrongs}\n{outcome}{}", node.containerd.last_words());
    node.require_nothing_left().await.with_context(|| format!("seed {seed}"))
}

#[tokio::test]
async fn the_load_finds_what_a_lying_shim_tells_wrongly() -> Result<()> {
    // Pods whose end is never told are waited for in vain.
    wait::limit_to(Duration::from_secs(8));
    let lies = [
        (Lie::ExitTwice, "TaskExit twice"),
        (Lie::ExitBeforeStart, "TaskExit before TaskStart"),
        (Lie::NoDelete, "no TaskDelete"),
        (Lie::ExitCode, " ended with "),
    ];
    for (lie, words) in lies {
        // Logs of the same names must not be there already.
        let node = Cluster::new().await?;
        let cri = node.cri.clone().under(fault::DOUBLE_HANDLER);
        Script::new(&node.world)?.telling(lie).write()?;
        let load = Load { pods: 2, time: Duration::from_secs(3), seed: 1 };
        let outcome = load::run(&node.world, &node.containerd, &cri, load).await?;
        let found = outcome.wrongs.iter().any(|wrong| wrong.contains(words));
        ensure!(found, "{lie:?}: {words:?} is not in {:#?}", outcome.wrongs);
        node.require_nothing_left().await.with_context(|| format!("{lie:?}"))?;
    }
    Ok(())
}

//! A little load as part of the suite; `make load` puts on more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use dunnage_e2e::load::{self, Load};

use crate::rig::Cluster;

#[tokio::test]
async fn pods_that_live_random_lives_at_once_all_live_them_as_they_should() -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let load = Load { pods: 3, time: Duration::from_secs(5), seed };
    let node = Cluster::new().await?;
    let outcome = load::run(&node.world, &node.containerd, &node.cri, load).await;
    let outcome = outcome.with_context(|| format!("seed {seed}"))?;
    let wrongs = outcome.wrongs.join("\n");
    ensure!(wrongs.is_empty(), "{wrongs}\n{outcome}{}", node.containerd.last_words());
    node.require_nothing_left().await.with_context(|| format!("seed {seed}"))
}

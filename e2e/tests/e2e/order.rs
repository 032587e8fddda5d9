//! The order of events and the life of processes, on a bare shim with the test as its containerd.

use anyhow::{Result, ensure};
use dunnage_e2e::events::Event;

use crate::rig::Bench;

#[tokio::test]
async fn a_task_that_exits_at_once_starts_before_it_exits_and_exits_once_two_hundred_times() -> Result<()> {
    let bench = Bench::new().await?;
    for round in 0..200 {
        let id = format!("c{round}");
        let (bundle, client) = bench.task(&id, &["true"]).await?;
        let pid = bundle.create(&bench.world, &client, ["", "", ""]).await?;
        ensure!(client.start(&id, "").await? == pid);
        ensure!(client.wait(&id, "").await?.exit_status == 0);
        bench.finish(bundle, &client).await?;
        bench
            .events
            .wait_for("the deletion", |event| matches!(event, Event::Delete { id: of, .. } if *of == id))
            .await?;
        let expected = [
            Event::Create { id: id.clone(), pid },
            Event::Start { id: id.clone(), pid },
            Event::Exit { id: id.clone(), exec_id: id.clone(), pid, status: 0 },
            Event::Delete { id: id.clone(), pid, status: 0 },
        ];
        assert_eq!(bench.events.of(&id), expected, "round {round}");
    }
    bench.require_nothing_left().await
}

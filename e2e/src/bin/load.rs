//! Puts load on the runtime under test through CRI and says what was wrong and how long calls took.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is for people")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Parser;
use dunnage_e2e::census::Census;
use dunnage_e2e::containerd::Containerd;
use dunnage_e2e::load::{self, Load};
use dunnage_e2e::world::World;

/// Pods that live random lives at the same time, each answer of which is checked.
#[derive(Debug, Parser)]
struct Args {
    /// Pods at a time, beside one that stays.
    #[arg(long, default_value_t = 8)]
    pods: usize,
    /// After this no new pod begins.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where all choices come from; without it, from the clock.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let seed = args.seed.unwrap_or_else(clock);
    println!("seed {seed}");
    let load = Load { pods: args.pods, time: Duration::from_secs(args.seconds), seed };
    let world = World::enter()?;
    let containerd = Containerd::start(&world).await?;
    let cri = containerd.cri().await?;
    let before = Census::take(&world)?;
    let outcome = load::run(&world, &containerd, &cri, load).await?;
    print!("{outcome}");
    let mut wrongs = outcome.wrongs;
    if let Err(error) = before.require_same(&world).await {
        wrongs.push(format!("{error:#}"));
    }
    if wrongs.is_empty() {
        println!("nothing wrong, nothing left behind");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} WRONG:\n{}\n{}", wrongs.len(), wrongs.join("\n"), containerd.last_words());
    Ok(ExitCode::FAILURE)
}

//! What addresses cost in a network that fills up: `fill_cost STATE_DIR`, a directory that is not there yet.
//!
//! Leases all 65,533 addresses of a /16, gives them back in another order, and prints the median microseconds of
//! the first, middle and last thousand of either; each with a lock of its own, as one ADD and one DEL have. Nothing
//! of a network is made. The directory is removed.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dunnage_net::{LeaseState, LeaseStore, Owner, Ranges};
use dunnage_sys::netns::NetnsId;

const ALL: u32 = 65_533;
/// Has no divisor in common with that.
const STRIDE: u32 = 7919;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir] = &arguments[..] else { bail!("usage: fill_cost STATE_DIR") };
    let dir = Path::new(dir);
    ensure!(!dir.exists(), "{} is there already", dir.display());
    let store = LeaseStore::new(dir, &"pods".parse()?, Ranges::of("10.0.0.0/16".parse()?, None))?;
    let measured = measure(&store);
    std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    measured
}

fn measure(store: &LeaseStore) -> anyhow::Result<()> {
    let numbers = || (0..ALL).map(|number| number.wrapping_mul(STRIDE) % ALL);
    tell("reserve and activate", numbers(), |owner| {
        let mut leases = store.lock()?;
        let mut lease = leases.reserve(owner, NetnsId { dev: 4, ino: 1 })?;
        Ok(leases.set_state(&mut lease, LeaseState::Active)?)
    })?;
    let nobody = (0..1000).map(|number| ALL + number);
    tell("find nobody in the full table", nobody, |owner| {
        ensure!(store.lock()?.find(owner)?.is_none(), "{owner} has a lease");
        Ok(())
    })?;
    tell("find and release", numbers().map(|number| number.wrapping_mul(3) % ALL), |owner| {
        let mut leases = store.lock()?;
        let lease = leases.find(owner)?.with_context(|| format!("{owner} has no lease"))?;
        Ok(leases.release(&lease)?)
    })
}

fn tell(
    what: &str,
    numbers: impl Iterator<Item = u32>,
    mut deed: impl FnMut(&Owner) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for number in numbers {
        // As long as the ids of containerd.
        let owner = Owner::new(&format!("{number:064x}"), "eth0".parse()?)?;
        let started = Instant::now();
        deed(&owner)?;
        took.push(started.elapsed());
    }
    if took.len() <= 1000 {
        println!("{what}: {:.1}", median(&mut took));
        return Ok(());
    }
    let (middle, last) = (took.len() / 2 - 500, took.len() - 1000);
    for (name, from) in [("first", 0), ("middle", middle), ("last", last)] {
        println!("{what}, {name} 1000: {:.1}", median(&mut took[from..from + 1000]));
    }
    Ok(())
}

/// In microseconds.
fn median(took: &mut [Duration]) -> f64 {
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e6
}

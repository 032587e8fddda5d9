//! Waiting for a condition, with a limit so generous that only a hang reaches it.

use std::env;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take on a machine that does something else besides.
const LIMIT: Duration = Duration::from_secs(60);

/// Set by [`limit_to`].
static SHORTER: OnceLock<Duration> = OnceLock::new();

const STEP: Duration = Duration::from_millis(10);

/// How long anything may take here.
pub fn limit() -> Duration {
    *SHORTER.get().unwrap_or(&LIMIT) * patience()
}

/// For a test that has to wait in vain, since what it provokes never comes: so long instead, in all of its process.
pub fn limit_to(limit: Duration) {
    // The first word holds; a test says it once.
    let _ = SHORTER.set(limit);
}

/// How many times slower than usual this machine may be: `E2E_PATIENCE`, which an emulated one sets.
pub fn patience() -> u32 {
    env::var("E2E_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Waits until `probe` gives a value.
///
/// # Errors
/// When it gave none within [`limit`]: `what` names what did not come.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() > limit() {
            bail!("waited {:?} in vain for {what}", start.elapsed());
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until the call `probe` makes succeeds.
///
/// # Errors
/// The last error, when it did not succeed within [`limit`].
pub async fn until_ok<T, F>(what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit() => {
                return Err(error.context(format!("waited {:?} in vain for {what}", start.elapsed())));
            }
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

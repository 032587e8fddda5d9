//! Waiting for a condition, with a limit so generous that only a hang reaches it.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take on a machine that does something else besides.
pub const LIMIT: Duration = Duration::from_secs(60);

const STEP: Duration = Duration::from_millis(10);

/// Waits until `probe` gives a value.
///
/// # Errors
/// When it gave none within [`LIMIT`]: `what` names what did not come.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} in vain for {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until the call `probe` makes succeeds.
///
/// # Errors
/// The last error, when it did not succeed within [`LIMIT`].
pub async fn until_ok<T, F>(what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > LIMIT => {
                return Err(error.context(format!("waited {LIMIT:?} in vain for {what}")));
            }
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

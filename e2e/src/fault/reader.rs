//! Readers of a fifo that are not as quick as containerd.

use std::time::Duration;

use anyhow::Result;

use crate::bundle::Fifo;

/// Reads to the end, so many bytes at a time with a pause before each.
///
/// # Errors
/// When the fifo does not end.
pub async fn read_slowly(mut fifo: Fifo, bytes: usize, pause: Duration) -> Result<String> {
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(pause).await;
        let part = fifo.read_some(bytes).await?;
        if part.is_empty() {
            return Ok(String::from_utf8_lossy(&seen).into_owned());
        }
        seen.extend(part);
    }
}

//! Pods run by the real `dunnage` with the real shim on this machine, as root. Each test requires that nothing
//! is left behind.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod images;
mod life;
mod refusals;
mod stopping;
mod walls;
mod world;

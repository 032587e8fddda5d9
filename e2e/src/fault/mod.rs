//! Faults, each said in one line of a test: a process that dies at a chosen moment, a resource that is used up, a
//! reader that is slow or gone, a clock that steps.
//!
//! What happens at a moment of the protocol, and what a shim does wrong, is a [`Script`] for the double that
//! stands between containerd and the shim under test. All else acts on a process from outside, as a bad day does,
//! and ends with the value that stands for it.

mod reader;
mod script;
mod shortage;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill as send};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::Pid;

use crate::process::Process;
use crate::task::TaskClient;
use crate::wait;

pub use reader::read_slowly;
pub use script::{Act, Deed, Leak, Lie, Moment, PLACE, Script, Victim, shim_address_file};
pub use shortage::{Shortage, descriptors, disk, memory, pids, room};

/// The runtime type of the double, by which containerd finds it.
pub const DOUBLE: &str = "io.containerd.double.v1";

/// The CRI handler that the rig's containerd configures for it.
pub const DOUBLE_HANDLER: &str = "double";

/// The double's program.
pub const DOUBLE_SHIM: &str = "containerd-shim-double-v1";

/// Kills a process at once and waits until nothing of it runs.
///
/// # Errors
/// When it is gone already, or stays.
pub async fn kill(pid: i32) -> Result<()> {
    send(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))?;
    wait::until("a killed process's end", || is_over(pid).then_some(())).await
}

/// Whether a process has ended, also when its parent has not noticed.
pub fn is_over(pid: i32) -> bool {
    Process::read(pid).is_none_or(|process| process.is_zombie())
}

/// A process that does nothing until this is dropped, as on a machine that is short of processors.
#[derive(Debug)]
#[must_use = "it goes on when this is dropped"]
pub struct Halted {
    pid: Pid,
}

/// Halts a process.
///
/// # Errors
/// When it is gone.
pub fn halt(pid: i32) -> Result<Halted> {
    let pid = Pid::from_raw(pid);
    send(pid, Signal::SIGSTOP).with_context(|| format!("stop {pid}"))?;
    Ok(Halted { pid })
}

impl Drop for Halted {
    fn drop(&mut self) {
        // It may have been killed.
        _ = send(self.pid, Signal::SIGCONT);
    }
}

/// The caller is gone, with everything it still waited for.
pub fn hang_up(client: TaskClient) {
    drop(client);
}

/// A step of the machine's clock, undone when it is dropped.
#[derive(Debug)]
pub struct Stepped {
    by: Duration,
}

/// Puts the clock forward by `by`. Only a machine that is ours alone has a clock to step: no namespace has one of
/// its own (`CLOCK_REALTIME` is not among those of time_namespaces(7)), and a static program cannot be given
/// another by its loader. So this works in the rig's virtual machine; elsewhere it says that it does not.
///
/// # Errors
/// When the clock cannot be set although the machine is ours.
pub fn clock_step(by: Duration) -> Result<Option<Stepped>> {
    if !Path::new("/payload/request").exists() {
        return Ok(None);
    }
    set_clock(|now| now + by)?;
    Ok(Some(Stepped { by }))
}

fn set_clock(change: impl FnOnce(Duration) -> Duration) -> Result<()> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME).context("read the clock")?);
    let then = change(now);
    clock_settime(ClockId::CLOCK_REALTIME, then.into()).context("set the clock")
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // It was allowed a moment ago; a machine that is switched off next needs no more than the attempt.
        _ = set_clock(|now| now.saturating_sub(self.by));
    }
}

/// The pid of the only shim that serves `client`'s task.
///
/// # Errors
/// The shim's, or when the pid is none.
pub async fn shim_of(client: &TaskClient, id: &str) -> Result<i32> {
    let (shim, _) = client.pids_of_shim_and_task(id).await?;
    ensure!(shim > 1, "shim pid {shim}");
    Ok(i32::try_from(shim)?)
}

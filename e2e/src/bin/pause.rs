//! The sandbox's process: holds the pod's namespaces, reaps what is orphaned into it, leaves on TERM or INT.
#![forbid(unsafe_code)]

use std::io;

use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> io::Result<()> {
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM])?;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        // Signals coalesce: one SIGCHLD may stand for many children.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    Ok(())
}

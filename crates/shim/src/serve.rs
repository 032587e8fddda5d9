//! The serving process: one for a pod, on one thread, until it is told to stop.
//!
//! Owns how that process stands to the system (reaper of orphans, sealed, unreadable), its runtime, its signals
//! and the order in which it ends. Leaves the answers to the services.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use dunnage_api::ttrpc::Server;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::address::Address;
use crate::args::Args;
use crate::log::{self, Log};
use crate::pod;
use crate::publish::Publisher;
use crate::start::{TTRPC_ADDRESS, UNSEALED, listen};
use crate::stop::Stop;

/// Time for calls in progress once the process is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Time for the last events, the deletion of the last container among them.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves on a socket that `start` has made, until a signal or [`Stop::request`].
pub(crate) fn serve(listener: UnixListener, args: &Args) -> anyhow::Result<()> {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    let log = log::install(&bundle.join("log"), args.debug);
    let served = stand().and_then(|()| {
        let runtime =
            Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
        runtime.block_on(run(listener, args, &log))
    });
    // Whatever happened: the listener is closed, so the socket is dead unless a successor has it.
    let removed = remove_socket(args);
    let served = served.and(removed);
    if let Err(error) = &served {
        tracing::error!(error = format!("{error:#}"), id = %args.id, "serve");
    }
    served
}

/// How this process stands to the system. The directory is `/` already, so no bundle is held by it.
///
/// Huge pages stay as they are: the flag that forbids them would pass to every container, and no mapping of a
/// process with one thread is large enough for one.
fn stand() -> anyhow::Result<()> {
    // The program runs under the number of a descriptor until now.
    dunnage_sys::process::set_name(c"containerd-shim")?;
    dunnage_sys::process::become_undumpable()?;
    dunnage_sys::process::become_subreaper()?;
    if let Some(reason) = std::env::var_os(UNSEALED) {
        tracing::warn!(reason = %reason.display(), "running from a file that can be written to");
    }
    Ok(())
}

async fn run(listener: UnixListener, args: &Args, log: &Log) -> anyhow::Result<()> {
    listener.set_nonblocking(true).context("listener")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("listener")?;
    let stop = Stop::default();
    tokio::task::spawn_local(stop_on_signals(stop.clone(), Signals::listen()?));
    tokio::task::spawn_local({
        let log = log.clone();
        async move { log.write_kept().await }
    });
    let publisher = Publisher::start(containerd(), &args.namespace);

    let server = Server::new().with(pod::start(&args.namespace, &publisher, stop.clone())?);
    tracing::debug!(id = %args.id, socket = args.socket, "serving");
    tokio::select! {
        () = server.serve(listener, stop.requested()) => {}
        () = stop.requested_before(GRACE) => tracing::warn!("calls did not end in time"),
    }

    publisher.drain(DRAIN).await;
    Ok(())
}

fn remove_socket(args: &Args) -> anyhow::Result<()> {
    Ok(listen::remove_dead(&Address::parse(&args.socket)?)?)
}

/// The socket that takes events.
fn containerd() -> Option<PathBuf> {
    let address = std::env::var(TTRPC_ADDRESS).ok()?;
    let path = address.strip_prefix("unix://").unwrap_or(&address);
    (!path.is_empty()).then(|| path.into())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    dump: Signal,
}

impl Signals {
    /// SIGPIPE is ignored from the start of every Rust program; all others keep their default.
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            dump: listen(SignalKind::user_defined1())?,
        })
    }
}

async fn stop_on_signals(stop: Stop, mut signals: Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            // Sent to every shim of a node by those who want stacks of the Go ones; its default is to end us.
            _ = signals.dump.recv() => tracing::info!("one thread, no stacks to dump"),
        }
    }
    tracing::info!("stopping at a signal");
    stop.request();
}

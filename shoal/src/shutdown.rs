//! Ending on request.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Cancels `stop` at the first Ctrl-C or SIGTERM; the second one ends the process at once.
pub(crate) fn on_signal(stop: &CancellationToken) -> Result<(), Failure> {
    let mut signals = Signals::new()
        .map_err(|error| Failure::environment(format!("cannot handle signals: {error}")))?;
    let stop = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        stop.cancel();
        signals.next().await;
        std::process::exit(130);
    });
    Ok(())
}

/// Cancels `stop` after a while.
pub(crate) fn after(stop: &CancellationToken, time: Duration) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        stop.cancel();
    });
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

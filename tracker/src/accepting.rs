//! Takes connections from the listener, as many as there are places for.

use std::{
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time,
};

use crate::{
    config::LimitsConfig,
    lobby::{Lobby, Seat},
    metrics::Counters,
    server::{Context, serve_http},
};

/// After an error of the listener (no more files), before it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Files that a tracker needs beside those of connections, with something to spare.
const OTHER_FILES: u64 = 128;

/// Tells the operator where connections would fail for want of files (Linux).
pub(crate) fn warn_of_few_files(limits: &LimitsConfig) {
    let wanted = u64::from(limits.connections_max) + u64::from(limits.requests_max) + OTHER_FILES;
    let table = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(files) = open_files_max(&table)
        && files < wanted
    {
        tracing::warn!(
            files,
            wanted,
            "fewer files may be open than limits.connections_max and limits.requests_max need: raise the \
             limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
}

/// The soft limit in a table of limits (proc(5)); `None` where there is none.
fn open_files_max(table: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Takes connections in until `shutdown`.
pub(crate) async fn accept(
    listener: TcpListener,
    context: &Arc<Context>,
    lobby: &Arc<Lobby>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut failing = false;
    loop {
        let next = async {
            let seat = lobby.seat().await;
            (seat, listener.accept().await)
        };
        let (seat, accepted) = tokio::select! {
            () = &mut shutdown => return,
            next = next => next,
        };
        match (seat, accepted) {
            (Some(seat), Ok((stream, peer))) => {
                failing = false;
                lead_in(stream, peer.ip(), seat, context);
            }
            (_, accepted) => {
                Counters::add(&context.counters.accept_errors);
                // Once for each time that it begins.
                if let (Err(error), false) = (&accepted, failing) {
                    tracing::error!(%error, "connections cannot be accepted");
                }
                failing = true;
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes a connection in, unless its address has too many that are no viewer's.
fn lead_in(stream: TcpStream, peer: IpAddr, mut seat: Seat, context: &Arc<Context>) {
    let refuse = move |context: &Context, reason: &AtomicU64, why: &dyn std::fmt::Display| {
        Counters::add(&context.counters.connections_refused);
        Counters::add(reason);
        tracing::debug!(%peer, %why, "not let in");
    };
    let many = "too many connections of this address";
    let trusted = context.entrance.trusts(peer);
    if !trusted && !seat.take(peer) {
        return refuse(context, &context.counters.refusals.address, &many);
    }
    // Frames are small and answer each other: waiting to fill packets only delays.
    let _ = stream.set_nodelay(true);
    let context = Arc::clone(context);
    tokio::spawn(async move {
        let refusals = &context.counters.refusals;
        match context.entrance.enter(stream, peer).await {
            Ok((_, whose)) if trusted && !may_sit(&context, whose.address, &mut seat) => {
                refuse(&context, &refusals.address, &many);
            }
            Ok((stream, whose)) => serve_http(stream, whose, context).await,
            Err(error) => refuse(&context, &refusals.entrance, &error),
        }
        drop(seat);
    });
}

/// Whether a connection that a proxy passes on may stay: it counts for the address that the proxy
/// names below HTTP, if any.
fn may_sit(context: &Context, address: IpAddr, seat: &mut Seat) -> bool {
    context.entrance.trusts(address) || seat.take(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_found() {
        let table = "Limit  Soft Limit  Hard Limit  Units\n\
                     Max processes             unlimited            unlimited            processes\n\
                     Max open files            1024                 524288               files\n";
        assert_eq!(open_files_max(table), Some(1024));
        assert_eq!(open_files_max(""), None);
    }
}

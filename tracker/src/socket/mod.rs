//! WebSockets (RFC 6455) that keep next to nothing while they are idle.
//!
//! A tracker holds tens of thousands of connections of which nearly all are silent, so what each of
//! them keeps decides how many a machine carries. Four rules keep it small:
//!
//! - Bytes are read into one buffer per thread and handled there, in place; a connection keeps some
//!   only while a frame is incomplete ([`frames`]).
//! - What is to be sent waits in the connection's queue until the end of the turn, leaves in one
//!   write, and the queue's memory goes with it ([`crate::outgoing`], [`flush`]). No task is woken
//!   for it unless the network takes less.
//! - One walk over all connections pings the silent ones and ends them ([`watch`]): none has a timer.
//! - Messages are handled where they were read: no task, no channel and no copy between.
//!
//! The bits of a frame's header are tungstenite's; the rules of the RFC are [`frames`]'.

pub(crate) mod flush;
pub(crate) mod frames;
pub(crate) mod io;
mod reading;
mod watch;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use flush::Flushers;
pub(crate) use reading::{Incoming, Limits, Socket};
use watch::Watch;

/// What serves all connections of a tracker.
#[derive(Debug)]
pub(crate) struct Sockets {
    flushers: Flushers,
    watch: Arc<Watch>,
}

impl Sockets {
    /// For connections of which none pings more often than each `ping_ms`; all end with `stopped`.
    pub(crate) fn start(ping_ms: u32, stopped: &CancellationToken) -> Self {
        Self {
            flushers: Flushers::start(stopped),
            watch: Watch::start(ping_ms, stopped),
        }
    }
}

/// Why a connection ends without having been told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The socket is closed or broken, or silent for too long.
    Gone,
    /// The other side reads too slowly: its queue is full.
    Slow,
    /// The other side broke the rules of WebSockets.
    Broke(frames::Violation),
    /// Everything is said, and the connection was to be closed then; or the other side has closed it.
    Said,
    /// Whoever reads has heard enough.
    Enough,
}

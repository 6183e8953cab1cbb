//! One viewer: the hybrid switcher and its part in the swarm.

mod io;
mod policy;

pub use io::{
    Action, Environment, Event, FetchOutcome, Input, Outbox, Payload, Source, Span, Timer, Wakeup,
};
pub use policy::{CloseReason, Policy};

use alloc::sync::Arc;

use crate::time::Instant;

/// What a viewer has done since it was made. All in bytes but where the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Verified bytes from neighbours that were new.
    pub bytes_p2p: u64,
    /// Bytes from the CDN.
    pub bytes_cdn: u64,
    /// Bytes sent to neighbours.
    pub bytes_up: u64,
    /// Bytes from neighbours that were there already, or bad.
    pub bytes_wasted: u64,
    /// Pieces that failed verification.
    pub bad_pieces: u64,
    /// Segments delivered to the player.
    pub segments: u64,
    /// Fetches made because a deadline came near.
    pub backstops: u64,
    /// Links that are up.
    pub links: u32,
}

/// The brain of one viewer. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Peer {
    policy: Arc<Policy>,
    now: Instant,
    stats: Stats,
}

impl Peer {
    /// A viewer that knows nothing yet. `seed` decides its jitter.
    pub fn new(policy: Arc<Policy>, seed: u64, now: Instant) -> Self {
        let _ = seed;
        Self {
            policy,
            now,
            stats: Stats::default(),
        }
    }

    /// Takes one input; what is to be done is appended to `out`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outbox) {
        self.now = self.now.max(now);
        if let Input::Wanted { request, .. } = input {
            let _ = self.policy.enabled;
            out.push(Action::Bypass(request));
        }
    }

    /// When to call [`Peer::handle`] with [`Input::Tick`] at the latest.
    pub fn next_wakeup(&self) -> Option<Wakeup> {
        None
    }

    /// What it has done.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }
}

//! One of the viewers that this one is linked with.

use alloc::boxed::Box;
use core::num::NonZeroU16;

use super::timeline::Tracks;
use crate::{
    id::{PeerId, Slot, TrackId},
    time::{Instant, Moment, Short},
    wire::peer::PeerStatus,
};

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Being set up.
    Connecting,
    /// Open; no hello yet.
    Open,
    /// Both sides know each other.
    Ready,
}

/// What counts of a [`PeerStatus`] that this viewer has told. Nearly everybody plays one track: several are
/// elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) weight: u16,
    is_any: bool,
    first: TrackId,
    several: Option<Box<Tracks>>,
}

impl Told {
    pub(super) fn of(status: &PeerStatus) -> Self {
        let tracks = status.tracks.as_slice();
        Self {
            weight: status.weight,
            is_any: !tracks.is_empty(),
            first: tracks.first().copied().unwrap_or_default(),
            several: (tracks.len() > 1).then(|| Box::new(Tracks::told(tracks))),
        }
    }

    /// The tracks that it plays.
    pub(super) fn tracks(&self) -> &[TrackId] {
        match &self.several {
            Some(tracks) => tracks.ids(),
            None if self.is_any => core::slice::from_ref(&self.first),
            None => &[],
        }
    }

    /// The weight, and the tracks.
    pub(super) fn words(&self) -> (u16, &[TrackId]) {
        (self.weight, self.tracks())
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.several.as_deref().map_or(0, size_of_val)
    }
}

/// A viewer at the other end of a link. In the order of its fields in memory: what a message or a piece
/// looks at comes first. What is a bit for each link is in [`Neighbours`](super::neighbours::Neighbours).
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Neighbour {
    pub(super) slot: Slot,
    pub(super) state: LinkState,
    /// Broken promises lately: pulls that timed out, claims and pushes of which nothing came.
    pub(super) strikes: u8,
    /// How many tracks it plays: nearly always one, which is `track`.
    pub(super) track_count: u8,
    /// Bytes that wait in the transport.
    pub(super) buffered: u32,
    pub(super) peer: PeerId,
    /// When it reached its state.
    pub(super) since: Moment,
    pub(super) heard: Moment,
    /// When a piece came from it last.
    pub(super) gave_at: Moment,
    /// When some of what waits in the transport left last, or began to wait.
    pub(super) drained_at: Moment,
    pub(super) track: TrackId,
    pub(super) weight: u16,
    /// How long pieces that it was asked for have taken, on average.
    pub(super) pull_ms: u16,
    /// Its round trip; 0 until that is measured.
    pub(super) rtt_ms: u16,
    /// The nonce of a ping that it has not answered.
    ping: Option<NonZeroU16>,
    /// Bytes from it that were of no use.
    surplus: u32,
    pub(super) bytes_in: Short,
    pub(super) bytes_out: Short,
    /// When it was pinged last.
    pinged_at: Moment,
    /// When the last of the strikes was noted, or forgiven.
    struck_at: Moment,
}

// There are some twenty for each viewer.
const _: () = assert!(size_of::<Neighbour>() <= 80);

/// After this many broken promises in a row a neighbour is not believed: nothing is asked of it, and nothing
/// is left to it.
const STRIKES_MAX: u8 = 3;
/// A broken promise is forgiven after this long.
const FORGIVEN_AFTER_MS: u64 = 30_000;

/// A neighbour that is silent for so long is pinged, and one that is not, each time its round trip is
/// so old: links of a swarm at work carry several messages a second.
const QUIET_MS: u64 = 1500;
const RTT_AGE_MS_MAX: u64 = 30_000;

/// What a neighbour may send that is of no use, and what more of it for what it has sent that was: pieces
/// that somebody else sent sooner, or that were evicted meanwhile.
const SURPLUS_BYTES: u64 = 4 * 1024 * 1024;
const SURPLUS_PERCENT: u64 = 50;

/// What a piece that a neighbour is asked for takes, before any has come.
const PULL_MS_UNKNOWN: u16 = 250;

impl Neighbour {
    /// A piece that it was asked for came, or did not, after `ms`.
    pub(super) fn on_pulled(&mut self, ms: u64) {
        let sample = ms.min(10_000) as u32;
        self.pull_ms = ((u32::from(self.pull_ms) * 3 + sample) / 4) as u16;
    }

    pub(super) fn new(slot: Slot, peer: PeerId, now: Instant) -> Self {
        let now = Moment::new(now);
        Self {
            slot,
            peer,
            state: LinkState::Connecting,
            since: now,
            heard: now,
            track_count: 0,
            track: TrackId(0),
            weight: 0,
            buffered: 0,
            drained_at: now,
            ping: None,
            pinged_at: now,
            rtt_ms: 0,
            pull_ms: PULL_MS_UNKNOWN,
            strikes: 0,
            struck_at: now,
            gave_at: now,
            bytes_in: Short::default(),
            surplus: 0,
            bytes_out: Short::default(),
        }
    }

    /// It has sent so much that is of no use. Whether that is more than can happen to somebody who plays by
    /// the rules.
    pub(super) fn on_surplus(&mut self, len: u32) -> bool {
        self.surplus = self.surplus.saturating_add(len);
        let most = SURPLUS_BYTES + self.bytes_in.get() / 100 * SURPLUS_PERCENT;
        u64::from(self.surplus) > most || self.surplus == u32::MAX
    }

    /// Whether it is time to ping it: nothing was heard of it lately, or its round trip is an old one.
    pub(super) fn is_ping_due(&self, now: Instant) -> bool {
        now.ms_since(self.heard.get()) >= QUIET_MS
            || now.ms_since(self.pinged_at.get()) >= RTT_AGE_MS_MAX
    }

    pub(super) fn on_ping(&mut self, nonce: NonZeroU16, now: Instant) {
        (self.ping, self.pinged_at) = (Some(nonce), now.into());
    }

    /// It has answered a ping: whether it was the last one, which measures the round trip.
    pub(super) fn on_pong(&mut self, nonce: u32, now: Instant) -> bool {
        if self.ping.is_none_or(|ping| u32::from(ping.get()) != nonce) {
            return false;
        }
        self.ping = None;
        let rtt_ms = now.ms_since(self.pinged_at.get());
        self.rtt_ms = rtt_ms.clamp(1, u64::from(u16::MAX)) as u16;
        true
    }

    pub(super) fn on_handed(&mut self, len: u32, now: Instant) {
        if self.buffered == 0 {
            self.drained_at = now.into();
        }
        self.buffered = self.buffered.saturating_add(len);
    }

    pub(super) fn on_sent(&mut self, buffered: u32, now: Instant) {
        if buffered < self.buffered {
            self.drained_at = now.into();
        }
        self.buffered = buffered;
    }

    /// Whether its round trip was measured.
    pub(super) const fn is_measured(&self) -> bool {
        self.rtt_ms != 0
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == LinkState::Ready
    }

    /// It has broken a promise. Whether it has just lost its credit.
    pub(super) fn on_broken(&mut self, now: Instant) -> bool {
        let was_believed = self.is_believed();
        self.strikes = self.strikes.saturating_add(1);
        self.struck_at = now.into();
        was_believed && !self.is_believed()
    }

    /// It has kept one. Whether it has its credit back.
    pub(super) fn on_kept(&mut self) -> bool {
        let was_believed = self.is_believed();
        self.strikes = 0;
        !was_believed && self.is_believed()
    }

    /// Forgives what lies long back. Whether it has its credit back.
    pub(super) fn forgive(&mut self, now: Instant) -> bool {
        let was_believed = self.is_believed();
        if self.strikes > 0 && now.ms_since(self.struck_at.get()) >= FORGIVEN_AFTER_MS {
            self.strikes = self.strikes.min(STRIKES_MAX) - 1;
            self.struck_at = now.into();
        }
        !was_believed && self.is_believed()
    }

    pub(super) fn is_believed(&self) -> bool {
        self.is_ready() && self.strikes < STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_breaks_promises_loses_credit_until_it_delivers_or_time_has_passed() {
        let mut now = Instant::from_millis(1000);
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), now);
        neighbour.state = LinkState::Ready;
        assert!(!neighbour.on_broken(now) && !neighbour.on_broken(now));
        assert!(neighbour.is_believed());
        assert!(neighbour.on_broken(now) && !neighbour.is_believed());
        assert!(neighbour.on_kept() && neighbour.is_believed());
        for _ in 0..200 {
            neighbour.on_broken(now);
        }
        assert!(!neighbour.forgive(now.plus_ms(FORGIVEN_AFTER_MS - 1)));
        now = now.plus_ms(FORGIVEN_AFTER_MS);
        assert!(neighbour.forgive(now) && neighbour.is_believed());
        assert!(neighbour.on_broken(now), "one more is enough");
    }

    #[test]
    fn what_is_of_no_use_has_a_limit_that_grows_with_what_was() {
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), Instant::from_millis(1000));
        assert!(!neighbour.on_surplus(SURPLUS_BYTES as u32));
        assert!(neighbour.on_surplus(1));
        neighbour.bytes_in = Short::new(1000);
        assert!(!neighbour.on_surplus(499));
        assert!(neighbour.on_surplus(1));
    }

    #[test]
    fn who_is_heard_is_pinged_for_its_round_trip_alone() {
        let began = Instant::from_millis(1000);
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), began);
        neighbour.on_ping(NonZeroU16::MIN, began);
        assert!(!neighbour.on_pong(8, began.plus_ms(30)));
        assert!(!neighbour.is_measured());
        assert!(neighbour.on_pong(1, began.plus_ms(40)));
        assert!(!neighbour.on_pong(1, began.plus_ms(50)), "once is enough");
        assert_eq!(neighbour.rtt_ms, 40);
        assert!(
            neighbour.is_ping_due(began.plus_ms(QUIET_MS)),
            "it is silent"
        );
        let later = began.plus_ms(RTT_AGE_MS_MAX);
        neighbour.heard = later.minus_ms(1).into();
        assert!(!neighbour.is_ping_due(later.minus_ms(1)));
        assert!(neighbour.is_ping_due(later));
    }
}

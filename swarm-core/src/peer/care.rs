//! Whether this viewer's own line is too thin for what comes from all sides, and what it does then: it asks for little
//! at a time and has nothing pushed, and in the end takes nothing from neighbours.

use super::{Peer, segment::Segment};

/// A downlink that gives less than this many percent of the bitrate is thin; it is no longer thin
/// when it gives as much as the second one.
const THIN_PERCENT: (u64, u64) = (160, 220);
/// With no more media than this ahead of the playhead, who waits for a segment for twice its duration, and at least so
/// long, gets too little: a player that has not begun does not stall.
const STARVED_BUFFER_MS: u64 = 1000;
const STARVED_MS_MIN: u64 = 4000;
/// After a stall a viewer treats its downlink as thin for so long.
const CAREFUL_AFTER_STALL_MS: u64 = 60_000;
/// If it has had more stalls than this and still has one, it takes nothing from neighbours for as long.
const BEARABLE_STALLS: u32 = 3;

impl Peer {
    /// Whether to treat the downlink as thin.
    pub(super) fn should_be_careful(&self) -> bool {
        if self.player.scarce {
            // What is slow is the CDN, for all.
            return false;
        }
        let is_sure = self
            .player
            .careful_until
            .is_some_and(|until| until > self.now);
        is_sure || self.has_thin_line()
    }

    /// Whether all that ever came at a time was little more than the stream.
    pub(super) fn has_thin_line(&self) -> bool {
        let tracks = self.tracks.ids().iter();
        let bitrate = tracks.map(|track| self.bitrate_bps(*track)).max();
        let bitrate = bitrate.unwrap_or(0);
        let percent = if self.player.careful {
            THIN_PERCENT.1
        } else {
            THIN_PERCENT.0
        };
        let seen_bps = self.estimate.cdn_bps().max(self.downlink.best_bps());
        self.estimate.is_measured() && seen_bps < bitrate * percent / 100
    }

    /// Whether what the player waits for does not come, whatever comes meanwhile for others.
    pub(super) fn is_starved(&self) -> bool {
        let waits = |segment: &Segment| {
            let since = segment
                .work()
                .requests
                .iter()
                .map(|request| request.since)
                .min();
            let most_ms = STARVED_MS_MIN.max(2 * u64::from(segment.duration_ms));
            since.is_some_and(|since| self.now.ms_since(since) > most_ms)
        };
        self.buffer_ms() <= STARVED_BUFFER_MS && self.segments.iter().any(waits)
    }

    /// The downlink may carry less than it once did, unless it is the CDN that is slow. Where care has not helped, all
    /// comes from the CDN for a while, as it would for a viewer without neighbours.
    pub(super) fn doubt_line(&mut self) {
        let until = self.now.plus_ms(CAREFUL_AFTER_STALL_MS);
        self.player.careful_until = Some(until);
        if self.is_in_need() && self.has_thin_line() {
            self.player.alone_until = Some(until);
        }
        if !self.player.scarce {
            self.downlink.forget();
        }
    }

    /// Whether neighbours have not helped it.
    pub(super) fn is_alone(&self) -> bool {
        self.player
            .alone_until
            .is_some_and(|until| until > self.now)
    }

    /// Whether it has stalled often, and care is not enough.
    fn is_in_need(&self) -> bool {
        self.player.careful && self.stats.stalls > BEARABLE_STALLS
    }

    /// Whether it takes nothing from neighbours, though it may have some.
    pub(super) fn takes_nothing(&self) -> bool {
        self.is_in_need() && self.is_alone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::waiting;
    use crate::{
        id::SegmentId,
        peer::{Input, Outbox},
        time::Instant,
        timeline::Content,
    };

    #[test]
    fn who_waits_for_long_with_nothing_to_play_is_spared() {
        let (start, mut out) = (Instant::from_millis(1000), Outbox::new());
        let mut peer = waiting(start, [1], 1);
        // It has never begun to play, so it does not stall.
        let mut is_careful_at = |ms: u64, buffer_ms: u32| {
            let player = Input::Player {
                buffer_ms,
                lag_ms: 0,
                stalled: false,
            };
            peer.handle(start.plus_ms(ms), player, &mut out);
            peer.player.careful
        };
        assert!(!is_careful_at(8000, 900));
        assert!(!is_careful_at(9000, 5000), "there is time");
        assert!(is_careful_at(10_000, 900));
        assert!(is_careful_at(30_000, 9000), "for a while");
        assert!(!is_careful_at(71_000, 9000));
    }

    #[test]
    fn whom_care_does_not_help_takes_nothing_from_neighbours_for_a_while() {
        let start = Instant::from_millis(1000);
        let (mut peer, mut out) = (waiting(start, [1], 1), Outbox::new());
        peer.estimate.on_fetch(500_000, 50, 2050);
        peer.segments[0].set_content(Content {
            id: SegmentId(1),
            len: 2_500_000,
            piece_len: 65_536,
            epoch: 0,
        });
        let mut told = |ms: u64, stalled: bool| {
            let player = Input::Player {
                buffer_ms: 1500,
                lag_ms: 0,
                stalled,
            };
            peer.handle(start.plus_ms(ms), player, &mut out);
            peer.takes_nothing()
        };
        for stall in 0..3 {
            assert!(!told(stall * 100, true));
            told(stall * 100 + 50, false);
        }
        assert!(told(300, true), "the fourth stall");
        assert!(told(60_000, false));
        assert!(!told(61_000, false), "it may have been bad luck");
    }
}

//! When the CDN brings less than is played, because many ask for the same bytes over the same line: an office whose
//! staff all open the stream at once. Then a group divides even what its players wait for.

use super::{
    Peer,
    announce::WEIGHT_KBPS,
    io::{Action, Outbox, Source},
    need::Need,
    neighbour::Neighbour,
    plan::last_of,
    segment::Segment,
    transfers::Fetch,
};
use crate::time::Instant;

/// A fetch for the player is judged when it has taken half as long as the segment plays, and this; of one that is
/// played while it arrives, as long as it plays.
const JUDGED_MS_MIN: u64 = 2000;
/// The CDN is not scarce any more when it gives so much of what is played.
const PLENTY_PERCENT: u64 = 150;
/// Whoever got less than half of a segment in the time that its group has, from neighbours whose uplinks carry less than
/// the stream, or waits for long while its own line is thin, divides nothing for so long: that line may be all that is slow.
const ALONE_MS: u64 = 300_000;

/// How long after it was made a fetch for the player is judged.
pub(super) fn judged_after_ms(segment: &Segment) -> u64 {
    let is_in_order = segment.need().is_some_and(|need| need.spread_ms > 0);
    let parts = if is_in_order { 1 } else { 2 };
    JUDGED_MS_MIN.max(u64::from(segment.duration_ms) / parts)
}

/// Until when a group has time to bring a segment that a player waits for.
pub(super) fn patient_until(segment: &Segment, need: &Need) -> Instant {
    let listed = segment.known_at().plus_ms(segment.duration_ms.into());
    listed.max(need.at)
}

impl Peer {
    /// Whether the group divides what its players wait for.
    pub(super) fn is_scarce(&self) -> bool {
        self.player.scarce && self.neighbours.ready_slots() != 0
    }

    /// Gives up what the player waits for if not half of it has come in that time, and
    /// neighbours do not hold the rest: they wait for the same bytes. From now on each brings a part.
    pub(super) fn look_for_scarcity(&mut self, index: usize, out: &mut Outbox) {
        if self.player.scarce {
            return self.look_for_weakness(index);
        }
        if self.is_alone() {
            return;
        }
        let segment = &self.segments[index];
        let ours = |f: &&Fetch| f.name == segment.name && !f.seeding;
        let Some(since) = self.fetches.iter().filter(ours).map(|f| f.since).min() else {
            return;
        };
        let is_judged = since.plus_ms(judged_after_ms(segment)) <= self.now;
        if !is_judged || !segment.is_known() || self.neighbours.ready_slots() == 0 {
            return;
        }
        let missing = segment.full() & !segment.have();
        if missing.count_ones() * 2 <= segment.full().count_ones() {
            return;
        }
        let masks = self.neighbours.masks(segment.track());
        let row = segment.id().and_then(|id| self.remotes.row(id));
        let [offered] = row.map_or([0], |row| row.held_by([masks.seeding | masks.giving]));
        if missing & !offered == 0 {
            return;
        }
        (self.player.scarce, self.player.careful) = (true, false);
        self.cancel_fetches(index, out, true, |_| true);
        // The order of seeders begins anew.
        let segment = &mut self.segments[index];
        segment.fresh = true;
        segment.duty_mut().known_at = self.now;
        segment.work_mut().began_ms = None;
        self.touch_all();
    }

    /// Divides nothing any more if the group has brought little in its time, and can bring little; or if what it sends
    /// does not come through.
    fn look_for_weakness(&mut self, index: usize) {
        let segment = &self.segments[index];
        let Some(need) = segment.need().filter(|_| segment.is_known()) else {
            return;
        };
        let is_over = patient_until(segment, &need) <= self.now;
        let is_little = segment.bytes_p2p < segment.len_of(segment.full()) / 2;
        let is_weak = is_over && is_little && self.is_among_the_weak(index);
        if is_weak || (self.is_starved() && self.has_thin_line()) {
            self.player.scarce = false;
            self.player.alone_until = Some(self.now.plus_ms(ALONE_MS));
            self.player.careful = self.should_be_careful();
            self.touch_all();
        }
    }

    /// Whether the uplinks of its neighbours carry less than the stream, all together.
    fn is_among_the_weak(&self, index: usize) -> bool {
        let kbps = |n: &Neighbour| u64::from(n.weight) * WEIGHT_KBPS;
        let upload_kbps: u64 = self.neighbours.ready().map(kbps).sum();
        let track = self.segments[index].track();
        upload_kbps * 1000 < track.map_or(0, |track| self.bitrate_bps(track))
    }

    /// A fetch is done: whether the CDN keeps up again with what is played.
    pub(super) fn look_for_plenty(&mut self, index: usize) {
        let track = self.segments[index].track();
        let played_bps = track.map_or(0, |track| self.bitrate_bps(track));
        if self.player.scarce && self.estimate.cdn_bps() >= played_bps * PLENTY_PERCENT / 100 {
            (self.player.scarce, self.player.caught_up) = (false, true);
            self.touch_all();
        }
    }

    /// What `source` has `sent` was what some fetches were still to bring: they are not needed any more. One that
    /// has brought its last piece is over by itself.
    pub(super) fn cancel_brought(
        &mut self,
        index: usize,
        source: Source,
        sent: u64,
        out: &mut Outbox,
    ) {
        let segment = &self.segments[index];
        let (have, full) = (segment.have(), segment.full());
        self.cancel_fetches(index, out, false, |fetch| {
            let brings = if fetch.whole { full } else { fetch.bits };
            let ends = source == Source::Cdn(fetch.id) && sent & last_of(brings) != 0;
            brings & !have == 0 && brings != 0 && !ends
        });
    }

    /// Cancels the fetches of a segment that `which` accepts; `is_slow`: because they are too slow.
    fn cancel_fetches(
        &mut self,
        index: usize,
        out: &mut Outbox,
        is_slow: bool,
        which: impl Fn(&Fetch) -> bool,
    ) {
        let segment = &self.segments[index];
        let (now, name) = (self.now, segment.name);
        let beside = u64::from(segment.bytes_p2p);
        let is_gone = |fetch: &mut Fetch| fetch.name == name && which(fetch);
        for fetch in self.fetches.extract_if(.., is_gone) {
            out.push(Action::CancelFetch(fetch.id));
            let bytes = u64::from(fetch.brought);
            self.stats.bytes_cdn += bytes;
            // What was on its way when neighbours had brought the rest is not known.
            let until = if is_slow { now } else { fetch.brought_at };
            if fetch.whole && (is_slow || bytes > 0) {
                let total_ms = until.ms_since(fetch.since);
                self.estimate.on_cancelled(bytes + beside, total_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec::Vec};

    use super::*;
    use crate::{
        id::{FetchId, Name, SegmentId, Slot, TrackId},
        limits::PIECE_LEN_MIN,
        peer::{Input, Policy, neighbour::LinkState},
        timeline::{Content, SegmentInfo},
    };

    const NEIGHBOUR: Source = Source::Peer(Slot(1));
    const SEGMENT: SegmentId = SegmentId(9);

    /// A viewer who is fetching these pieces of a segment of eight, with a fetch for each set.
    fn fetching(sets: &[u64]) -> Peer {
        let now = Instant::from_millis(1000);
        let mut peer = Peer::new(Arc::new(Policy::default()), 1, now);
        let segments = &[SegmentInfo {
            name: Name(9),
            seq: 1,
            duration_ms: 4000,
            content: Some(Content {
                id: SEGMENT,
                len: 8 * PIECE_LEN_MIN,
                piece_len: PIECE_LEN_MIN,
                epoch: 0,
            }),
        }];
        let track = TrackId(7);
        peer.handle(now, Input::Timeline { track, segments }, &mut Outbox::new());
        let fetches = sets.iter().zip(1..).map(|(bits, id)| Fetch {
            id: FetchId(id),
            name: Name(9),
            bits: *bits,
            whole: *bits == 0xff,
            seeding: false,
            arrived: 0,
            since: now,
            brought: 0,
            brought_at: now,
        });
        peer.fetches = fetches.collect();
        peer
    }

    /// The fetches that are cancelled when `source` sends these pieces.
    fn cancelled(peer: &mut Peer, source: Source, bits: u64) -> Vec<u32> {
        let mut out = Outbox::new();
        peer.handle_pieces(source, SEGMENT, bits, &mut out);
        let cancelled = out.actions().iter().filter_map(|action| match action {
            Action::CancelFetch(FetchId(id)) => Some(*id),
            _ => None,
        });
        cancelled.collect()
    }

    #[test]
    fn a_fetch_of_which_nothing_is_missing_any_more_is_cancelled() {
        let mut peer = fetching(&[0b0011, 0b1100]);
        assert!(cancelled(&mut peer, NEIGHBOUR, 0b1010).is_empty());
        assert_eq!(cancelled(&mut peer, NEIGHBOUR, 0b0100), [2]);
        assert_eq!(peer.fetches.len(), 1);
    }

    #[test]
    fn a_fetch_that_brings_its_last_piece_is_over_by_itself() {
        for sets in [[0b0011], [0xff]] {
            let mut peer = fetching(&sets);
            let last = last_of(sets[0]);
            let fetch = Source::Cdn(FetchId(1));
            assert!(cancelled(&mut peer, fetch, sets[0] & !last).is_empty());
            assert!(cancelled(&mut peer, fetch, last).is_empty());
        }
    }

    /// A viewer for whom the CDN is scarce, a segment's duration after it has begun to wait, with so much of the
    /// segment from neighbours, and a neighbour of this weight: whether it still divides what it waits for.
    fn is_scarce_after(bytes_p2p: u32, weight: u16) -> bool {
        let mut peer = fetching(&[]);
        peer.segments[0].add_request(crate::peer::duty::Request {
            id: crate::id::RequestId(1),
            since: peer.now,
            deadline: peer.now,
            grain_ms: 0,
            released: 0,
        });
        let slot = peer.neighbours.add(crate::id::PeerId(5), true, peer.now);
        let slot = slot.expect("there is room");
        for state in [LinkState::Open, LinkState::Ready] {
            peer.neighbours.on_state(slot, state, peer.now);
        }
        let neighbour = peer.neighbours.get_mut(slot).expect("it is there");
        neighbour.weight = weight;
        peer.segments[0].bytes_p2p = bytes_p2p;
        peer.player.scarce = true;
        peer.look_for_scarcity(0, &mut Outbox::new());
        assert!(peer.is_scarce(), "there is time");
        peer.now = peer.now.plus_ms(4000);
        peer.look_for_scarcity(0, &mut Outbox::new());
        peer.is_scarce()
    }

    #[test]
    fn whoever_gets_little_from_few_divides_nothing_with_them() {
        let len = 8 * PIECE_LEN_MIN;
        // The stream has a bit more than 2 units of weight.
        assert!(!is_scarce_after(0, 1));
        assert!(is_scarce_after(len / 2, 1), "it gets half");
        assert!(is_scarce_after(0, 20), "the group will bring it");
    }

    #[test]
    fn a_fetch_that_meets_what_neighbours_brought_is_cancelled() {
        let mut peer = fetching(&[0xff]);
        assert!(cancelled(&mut peer, NEIGHBOUR, 0xf0).is_empty());
        assert_eq!(cancelled(&mut peer, Source::Cdn(FetchId(1)), 0x0f), [1]);
    }
}

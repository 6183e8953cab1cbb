//! The segments that a viewer knows of.

use alloc::{boxed::Box, vec::Vec};

use super::pulls::{Pull, Recall};
use crate::{
    id::{Name, RequestId, SegmentId, Slot, TrackId},
    limits::{PIECES_MAX, STRIPES_MAX},
    record::piece_count,
    time::Instant,
    timeline::Content,
};

/// What neighbours say is planned for at most this often.
const PLAN_GAP_MS: u64 = 50;

/// A request of the player that waits for its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) since: Instant,
    /// When the player runs dry without it.
    pub(super) deadline: Instant,
    /// Media that the player takes at a time while the segment arrives; 0 if it waits for all of it.
    pub(super) grain_ms: u32,
    /// Pieces that it was handed.
    pub(super) released: u8,
}

/// A neighbour has said that it fetches these pieces and will push them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) slot: Slot,
    pub(super) bits: u64,
    /// Those of them that this viewer passes on to everybody when they come from that neighbour: from
    /// another one they come to everybody already.
    pub(super) mine: u64,
    /// Believed until then; moved on by every piece that keeps the promise.
    pub(super) until: Instant,
    /// Some of it has come.
    pub(super) kept: bool,
}

/// What is under way for a segment: who brings it to whom.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// Pieces that this viewer passes on to everybody, as whoever brings them into the group says.
    pub(super) mine: u64,
    /// Those of them that are there and still to be sent to somebody.
    pub(super) seeded: u64,
    /// Pieces that this viewer brings into the group, each with the slot of the one who passes it on.
    pub(super) handed: Vec<(u8, Slot)>,
    /// Pieces that this viewer brings into the group.
    pub(super) brought: u64,
    /// Pieces that this viewer asked of bridges for the group.
    pub(super) relayed: u64,
    pub(super) claims: Vec<Claim>,
    /// The slots, a bit each, of those who have broken a promise about it.
    pub(super) struck: u32,
    /// Missing pieces that a neighbour is to push here, each with the neighbour's slot; one for a piece.
    pub(super) pushers: Vec<(u8, Slot)>,
    /// What bridges bring into their groups.
    pub(super) upstream: Vec<(Slot, u64)>,
    pub(super) pulls: Vec<Pull>,
    pub(super) recalled: Recall,
    /// This viewer's place in the order of seeders for each stripe, and for which view of the
    /// group and how many stripes it was computed.
    pub(super) ranks: [u8; STRIPES_MAX as usize],
    pub(super) ranks_for: (u32, u32),
    /// What was drawn for the group, for each stripe: the least, of 256, begin.
    pub(super) draws: [u8; STRIPES_MAX as usize],
    /// When each stripe was first seen at a bridge, in milliseconds after `known_at`, and 1 more.
    pub(super) seen_ms: [u16; STRIPES_MAX as usize],
}

impl Work {
    pub(super) const NONE: Self = Self {
        mine: 0,
        seeded: 0,
        handed: Vec::new(),
        brought: 0,
        relayed: 0,
        claims: Vec::new(),
        struck: 0,
        pushers: Vec::new(),
        upstream: Vec::new(),
        pulls: Vec::new(),
        recalled: Recall::NONE,
        ranks: [super::rendezvous::NEVER; STRIPES_MAX as usize],
        ranks_for: (u32::MAX, 0),
        draws: [0; STRIPES_MAX as usize],
        seen_ms: [0; STRIPES_MAX as usize],
    };

    /// The segment's content is known, or another one than before (`is_other`).
    fn on_content(&mut self, is_other: bool) {
        (self.seeded, self.relayed) = (0, 0);
        self.handed.clear();
        if is_other {
            // What was promised was the other content.
            self.claims.clear();
            self.pushers.clear();
            self.mine = 0;
            self.upstream.clear();
        }
        self.pulls.clear();
        self.ranks_for = (u32::MAX, 0);
    }

    /// A neighbour has promised something; few do for one segment.
    pub(super) fn add_claim(&mut self, claim: Claim) {
        self.claims.reserve_exact(1);
        self.claims.push(claim);
    }

    /// The slots, a bit each, of those who are handed something.
    pub(super) fn passers(&self) -> u32 {
        let bit = |slot: Slot| 1u32.checked_shl(slot.0.into()).unwrap_or(0);
        let slots = self.handed.iter().map(|(_, slot)| bit(*slot));
        slots.fold(0, |slots, slot| slots | slot)
    }

    /// Those whom `which` accepts are no longer asked for these pieces.
    pub(super) fn ask_no_more(&mut self, bits: u64, which: impl Fn(&Pull) -> bool) {
        for pull in self.pulls.iter_mut().filter(|pull| which(pull)) {
            pull.bits &= !bits;
        }
        self.pulls.retain(|pull| pull.bits != 0);
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + self.claims.capacity() * size_of::<Claim>()
            + self.pulls.capacity() * size_of::<Pull>()
            + self.upstream.capacity() * size_of::<(Slot, u64)>()
            + (self.handed.capacity() + self.pushers.capacity()) * size_of::<(u8, Slot)>()
    }
}

static IDLE: Work = Work::NONE;

/// One segment: what is known of it, and what is there.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    /// `None` until a playlist of this viewer lists it: neighbours may be ahead.
    pub(super) track: Option<TrackId>,
    /// Whose neighbours it is pushed to: `track`, or the only one there is while that is not known.
    pub(super) push_track: Option<TrackId>,
    pub(super) seq: u64,
    pub(super) duration_ms: u32,
    pub(super) known_at: Instant,
    /// Media ahead of the playhead at that time, in milliseconds: about how long this viewer can
    /// do without the segment.
    pub(super) window_ms: u32,
    /// Over how long the player needs its pieces after that, if it plays while they arrive.
    pub(super) spread_ms: u32,
    /// When the first piece came, in milliseconds after `known_at`.
    pub(super) began_ms: Option<u32>,
    /// Appeared while this viewer was watching: to be seeded. Older ones are there already, at
    /// the neighbours or not at all.
    pub(super) fresh: bool,
    /// No record vouches for it: the CDN's alone.
    pub(super) cdn_only: bool,
    pub(super) content: Option<Content>,
    /// How many pieces that is; 0 while it is unknown.
    pub(super) pieces: u8,
    /// Something of it may be there that is to be sent unasked. Where not, nobody need look at `work` for it.
    pub(super) may_push: bool,
    /// Whether a verified record is stored, without which nothing may be passed on.
    pub(super) has_record: bool,
    /// Verified pieces in the store.
    pub(super) have: u64,
    pub(super) requests: Vec<Request>,
    /// Most segments lie behind the playhead, and nothing is under way for them.
    pub(super) work: Option<Box<Work>>,
    pub(super) bytes_p2p: u32,
    pub(super) bytes_cdn: u32,
    pub(super) delivered: bool,
    /// The have-map has changed since it was announced.
    pub(super) unannounced: bool,
    /// Parts of the segment of which the bridges have heard, and whether there are new ones.
    pub(super) bridged: u8,
    pub(super) bridge_news: bool,
    pub(super) fetch_failures: u8,
    /// No fetch before then, after a failed one.
    pub(super) fetch_not_before: Option<Instant>,
    /// Something that plans look at has changed since the last one.
    pub(super) stale: bool,
    /// When it was planned last.
    pub(super) planned_at: Instant,
    /// When its plan may change by itself.
    pub(super) plan_at: Option<Instant>,
}

impl Segment {
    pub(super) fn new(name: Name, now: Instant) -> Self {
        Self {
            name,
            track: None,
            push_track: None,
            seq: 0,
            duration_ms: 0,
            known_at: now,
            window_ms: 0,
            spread_ms: 0,
            began_ms: None,
            fresh: false,
            cdn_only: false,
            content: None,
            pieces: 0,
            may_push: false,
            has_record: false,
            have: 0,
            requests: Vec::new(),
            work: None,
            bytes_p2p: 0,
            bytes_cdn: 0,
            delivered: false,
            unannounced: false,
            bridged: 0,
            bridge_news: false,
            fetch_failures: 0,
            fetch_not_before: None,
            stale: true,
            planned_at: Instant::ORIGIN,
            plan_at: None,
        }
    }

    /// Has it planned at `at`, or earlier if that is intended already.
    pub(super) fn wake_at(&mut self, at: Instant) {
        self.plan_at = Some(self.plan_at.map_or(at, |old| old.min(at)));
    }

    /// Has it planned soon: news from neighbours come in bursts.
    pub(super) fn touch(&mut self) {
        self.wake_at(self.planned_at.plus_ms(PLAN_GAP_MS));
    }

    /// Bytes outside of the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        let work = self.work.as_deref().map_or(0, Work::heap_bytes);
        self.requests.capacity() * size_of::<Request>() + work
    }

    /// What is under way.
    pub(super) fn work(&self) -> &Work {
        self.work.as_deref().unwrap_or(&IDLE)
    }

    /// The same, for something to be added to it or changed.
    pub(super) fn work_mut(&mut self) -> &mut Work {
        self.work.get_or_insert_with(|| Box::new(Work::NONE))
    }

    /// The same if there is anything.
    pub(super) fn work_if_any(&mut self) -> Option<&mut Work> {
        self.work.as_deref_mut()
    }

    /// It lies behind, and is whole: nothing is under way for it any more.
    pub(super) fn rest(&mut self) {
        self.work = None;
        self.may_push = false;
    }

    pub(super) fn id(&self) -> Option<SegmentId> {
        self.content.map(|content| content.id)
    }

    /// All pieces; none while the content is unknown.
    pub(super) fn full(&self) -> u64 {
        mask(self.pieces.into())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.content.is_some() && self.have == self.full()
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.requests.is_empty()
    }

    /// When this viewer needs it, as far as it knows: who waits for its own segment should not wait
    /// for what others push beyond that.
    pub(super) fn is_too_late_to_push(&self, now: Instant) -> bool {
        let until_ms = u64::from(self.window_ms) + u64::from(self.spread_ms);
        self.window_ms > 0 && now.ms_since(self.known_at) >= until_ms
    }

    /// Bridges hold some of these pieces.
    pub(super) fn note_seen(&mut self, held: u64, stripe_count: u32, now: Instant) {
        let age_ms = now.ms_since(self.known_at).min(u64::from(u16::MAX) - 1) as u16;
        for stripe in 0..stripe_count.min(STRIPES_MAX) {
            let bits = self.stripe_bits(stripe, stripe_count);
            let seen_ms = &mut self.work_mut().seen_ms[stripe as usize];
            if bits & held != 0 && *seen_ms == 0 {
                *seen_ms = age_ms + 1;
            }
        }
    }

    /// Everything is there: who was to bring it, and who was asked, matters no more.
    pub(super) fn settle(&mut self) {
        if let Some(work) = self.work_if_any() {
            (work.claims, work.upstream) = (Vec::new(), Vec::new());
            (work.pulls, work.pushers) = (Vec::new(), Vec::new());
        }
    }

    /// Nobody waits for pushes any more.
    pub(super) fn stop_pushing(&mut self) {
        if let Some(work) = self.work_if_any() {
            work.seeded = 0;
            work.handed = Vec::new();
        }
        self.may_push = false;
    }

    /// How many bytes these pieces are.
    pub(super) fn len_of(&self, bits: u64) -> u32 {
        let Some(content) = self.content else {
            return 0;
        };
        let bits = bits & self.full();
        let last = piece_count(content.len, content.piece_len) - 1;
        let whole = bits.count_ones() * content.piece_len;
        let tail = content.len - last * content.piece_len;
        whole
            - if bits >> last & 1 == 1 {
                content.piece_len - tail
            } else {
                0
            }
    }

    /// The pieces, of those to be handed on, that the neighbour in `slot` passes on.
    pub(super) fn handed_to(&self, slot: Slot) -> u64 {
        let to = self
            .work()
            .handed
            .iter()
            .filter(|(_, passer)| *passer == slot);
        to.fold(0, |bits, (piece, _)| bits | 1 << piece) & self.have
    }

    /// The pieces of stripe `stripe` of `count`: a contiguous run.
    pub(super) fn stripe_bits(&self, stripe: u32, count: u32) -> u64 {
        let Some(content) = self.content else {
            return 0;
        };
        let pieces = piece_count(content.len, content.piece_len);
        let count = count.max(1);
        let (from, to) = (pieces * stripe / count, pieces * (stripe + 1) / count);
        mask(to.min(pieces)) & !mask(from.min(pieces))
    }

    /// First byte and length of a contiguous run of pieces; `None` if it is the whole segment.
    pub(super) fn range_of(&self, run: u64) -> Option<(u32, u32)> {
        let content = self.content?;
        if run == self.full() {
            return None;
        }
        Some((run.trailing_zeros() * content.piece_len, self.len_of(run)))
    }

    /// Takes over what a playlist or record says of the content. Returns the content that it
    /// replaces, if that is another one.
    pub(super) fn set_content(&mut self, content: Content) -> Option<Content> {
        match self.content {
            Some(old) if old.id == content.id => None,
            Some(old) if old.epoch > content.epoch => None,
            old => {
                self.content = Some(content);
                let pieces = piece_count(content.len, content.piece_len);
                self.pieces = pieces.min(PIECES_MAX) as u8;
                self.has_record = false;
                self.have = 0;
                (self.bytes_p2p, self.bytes_cdn) = (0, 0);
                self.delivered = false;
                self.stale = true;
                if let Some(work) = self.work_if_any() {
                    work.on_content(old.is_some());
                }
                old
            }
        }
    }

    /// How long this viewer can do without a piece from when the segment was listed, as far as it
    /// knows; 0 if it knows nothing.
    pub(super) fn window_ms_of(&self, piece: u32) -> u64 {
        let count = self.full().count_ones().max(1);
        let after_ms = u64::from(self.spread_ms) * u64::from(piece) / u64::from(count);
        match self.window_ms {
            0 => 0,
            window_ms => u64::from(window_ms) + after_ms,
        }
    }

    /// When a piece is late that has not been pushed.
    pub(super) fn late_at(&self, piece: u32) -> Instant {
        self.began_at()
            .plus_ms(super::plan::patience_ms(self, piece))
    }

    /// Those of `bits` that should have been pushed by now.
    pub(super) fn late(&self, bits: u64, now: Instant) -> u64 {
        if self.spread_ms == 0 || self.window_ms == 0 {
            // All pieces are at the same time.
            return if self.late_at(0) <= now { bits } else { 0 };
        }
        let mut late = bits;
        while late != 0 {
            let last = u64::BITS - 1 - late.leading_zeros();
            if self.late_at(last) <= now {
                break;
            }
            late &= !(1 << last);
        }
        late
    }

    /// Pieces that neighbours have promised and are still believed to bring.
    pub(super) fn claimed(&self, now: Instant) -> u64 {
        let live = self.work().claims.iter().filter(|claim| claim.until > now);
        live.fold(0, |bits, claim| bits | claim.bits)
    }

    /// All pieces that neighbours have promised.
    pub(super) fn promised(&self) -> u64 {
        self.work()
            .claims
            .iter()
            .fold(0, |bits, claim| bits | claim.bits)
    }

    /// When the first piece came; until then, when the segment became known.
    pub(super) fn began_at(&self) -> Instant {
        self.known_at.plus_ms(self.began_ms.unwrap_or(0).into())
    }

    /// When the last promise for any of `bits` ran out or will.
    pub(super) fn claimed_until(&self, bits: u64) -> Option<Instant> {
        let claims = self
            .work()
            .claims
            .iter()
            .filter(|claim| claim.bits & bits != 0);
        claims.map(|claim| claim.until).max()
    }

    /// Pieces that members of other groups are bringing into theirs.
    pub(super) fn upstream(&self) -> u64 {
        self.work()
            .upstream
            .iter()
            .fold(0, |bits, (_, more)| bits | more)
    }

    /// Those of them that the bridge in `slot` is bringing.
    pub(super) fn upstream_of(&self, slot: Slot) -> u64 {
        let theirs = self
            .work()
            .upstream
            .iter()
            .filter(|(bridge, _)| *bridge == slot);
        theirs.fold(0, |bits, (_, more)| bits | more)
    }
}

/// The lowest `count` bits.
pub(super) const fn mask(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// Splits a set of pieces into at most `most` contiguous runs that cover it; where there are more,
/// the gaps are covered as well.
pub(super) fn runs(bits: u64, most: usize) -> Vec<u64> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut rest = bits;
    while rest != 0 {
        let start = rest.trailing_zeros();
        let len = (rest >> start).trailing_ones();
        runs.push((start, start + len));
        rest &= !mask(start + len);
    }
    while runs.len() > most.max(1) {
        let gap = |i: &usize| runs[i + 1].0 - runs[*i].1;
        let narrowest = (0..runs.len() - 1).min_by_key(gap).unwrap_or(0);
        runs[narrowest].1 = runs[narrowest + 1].1;
        runs.remove(narrowest + 1);
    }
    runs.into_iter()
        .map(|(from, to)| mask(to) & !mask(from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(len: u32) -> Segment {
        let mut segment = Segment::new(Name(1), Instant::ORIGIN);
        segment.set_content(Content {
            id: SegmentId(1),
            len,
            piece_len: 16_384,
            epoch: 0,
        });
        segment
    }

    #[test]
    fn stripes_cover_every_piece_once() {
        for pieces in [1, 3, 8, 37, 64] {
            let segment = segment(pieces * 16_384 - 5);
            for count in [1, 2, 4, 8] {
                let mut seen = 0;
                for stripe in 0..count {
                    let bits = segment.stripe_bits(stripe, count);
                    assert_eq!(seen & bits, 0);
                    seen |= bits;
                }
                assert_eq!(seen, segment.full(), "{pieces} pieces in {count} stripes");
            }
        }
    }

    #[test]
    fn the_last_piece_is_shorter() {
        let segment = segment(40_000);
        assert_eq!(segment.len_of(0b111), 40_000);
        assert_eq!(segment.len_of(0b100), 40_000 - 2 * 16_384);
        assert_eq!(segment.range_of(0b110), Some((16_384, 40_000 - 16_384)));
        assert_eq!(segment.range_of(0b111), None);
    }

    #[test]
    fn runs_merge_over_the_narrowest_gap() {
        assert_eq!(runs(0b1_1000_1101, 8), [0b1, 0b1100, 0b1_1000_0000]);
        assert_eq!(runs(0b1_1000_1101, 2), [0b1101 | 0b10, 0b1_1000_0000]);
        assert_eq!(runs(u64::MAX, 1), [u64::MAX]);
        assert!(runs(0, 4).is_empty());
    }

    #[test]
    fn an_older_epoch_never_replaces_a_newer_one() {
        let mut segment = segment(10);
        let newer = Content {
            id: SegmentId(2),
            len: 10,
            piece_len: 16_384,
            epoch: 5,
        };
        assert!(segment.set_content(newer).is_some());
        segment.have = 1;
        let older = Content {
            id: SegmentId(1),
            epoch: 0,
            ..newer
        };
        assert_eq!(segment.set_content(older), None);
        assert_eq!((segment.id(), segment.have), (Some(SegmentId(2)), 1));
    }
}

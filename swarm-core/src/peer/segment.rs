//! The segments that a viewer knows of.

use alloc::{boxed::Box, vec::Vec};

use super::duty::{Duty, Request, Work};
use crate::{
    id::{Name, RequestId, SegmentId, Slot, TrackId},
    limits::{PIECES_MAX, STRIPES_MAX},
    record::piece_count,
    time::Instant,
    timeline::Content,
};

/// What neighbours say is planned for at most this often.
const PLAN_GAP_MS: u64 = 50;

static IDLE: Work = Work::NONE;
static FREE: Duty = Duty::NONE;

/// How a viewer has come to know a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// Neighbours are ahead: no playlist of this viewer lists it yet. It may be of any of its tracks.
    Unlisted,
    /// The same, and the viewer plays only one track.
    Guessed,
    Listed,
}

/// Who is to be told that more of a segment is there, a bit each.
pub(super) const GROUP: u8 = 1;
pub(super) const BRIDGES: u8 = 2;

/// One segment. Most lie behind the playhead, whole: what matters for the others alone is in [`Duty`] and
/// [`Work`](super::duty::Work).
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    pub(super) seq: u64,
    /// Of its content, like the three lengths and `epoch`; none of them says anything while `pieces` is 0.
    id: SegmentId,
    /// What there is to do. Without it, the segment is whole and at rest.
    duty: Option<Box<Duty>>,
    len: u32,
    piece_len: u32,
    epoch: u32,
    track: TrackId,
    pub(super) duration_ms: u32,
    pub(super) bytes_p2p: u32,
    /// How many pieces the content is; 0 while that is unknown.
    pub(super) pieces: u8,
    listing: Listing,
    /// It is played while it arrives.
    pub(super) is_progressive: bool,
    /// Appeared while this viewer was watching: to be seeded. Older ones are there already, at
    /// the neighbours or not at all.
    pub(super) fresh: bool,
    /// There are requests for it: asked of all segments on every occasion.
    is_wanted: bool,
    /// Something of it may be there that is to be sent unasked. Where not, nobody need look at `duty` for it.
    pub(super) may_push: bool,
    /// Whether a verified record is stored, without which nothing may be passed on.
    pub(super) has_record: bool,
    /// To whom ([`GROUP`], [`BRIDGES`]) the have-map has not been announced since it changed.
    pub(super) news: u8,
}

// There are a dozen for each viewer.
const _: () = assert!(size_of::<Segment>() <= 64);

impl Segment {
    pub(super) fn new(name: Name, now: Instant) -> Self {
        let duty = Duty {
            known_at: now,
            stale: true,
            ..Duty::NONE
        };
        Self {
            name,
            seq: 0,
            id: SegmentId(0),
            duty: Some(Box::new(duty)),
            len: 0,
            piece_len: 0,
            epoch: 0,
            track: TrackId(0),
            duration_ms: 0,
            bytes_p2p: 0,
            pieces: 0,
            listing: Listing::Unlisted,
            is_progressive: false,
            fresh: false,
            is_wanted: false,
            may_push: false,
            has_record: false,
            news: 0,
        }
    }

    /// The track of the playlist that lists it, if one does.
    pub(super) fn track(&self) -> Option<TrackId> {
        (self.listing == Listing::Listed).then_some(self.track)
    }

    /// Whose neighbours it is pushed to: its track, or the only one there is while that is not known.
    pub(super) fn push_track(&self) -> Option<TrackId> {
        (self.listing != Listing::Unlisted).then_some(self.track)
    }

    /// A playlist lists it. Whether that is news.
    pub(super) fn list(&mut self, track: TrackId) -> bool {
        self.track = track;
        core::mem::replace(&mut self.listing, Listing::Listed) != Listing::Listed
    }

    /// Nothing lists it, but this is the only track there is.
    pub(super) const fn guess(&mut self, track: TrackId) {
        (self.track, self.listing) = (track, Listing::Guessed);
    }

    /// Verified pieces in the store.
    pub(super) fn have(&self) -> u64 {
        match &self.duty {
            Some(duty) => duty.have,
            None => self.full(),
        }
    }

    /// Since when it is known; for ever, if it is at rest.
    pub(super) fn known_at(&self) -> Instant {
        self.duty().known_at
    }

    /// About how long this viewer could do without it when it became known ([`Duty::window_ms`]).
    pub(super) fn window_ms(&self) -> u32 {
        self.duty().window_ms
    }

    /// When its plan may change by itself.
    pub(super) fn plan_at(&self) -> Option<Instant> {
        self.duty.as_ref()?.plan_at
    }

    /// Has it planned at `at`, or earlier if that is intended already.
    pub(super) fn wake_at(&mut self, at: Instant) {
        let plan_at = &mut self.duty_mut().plan_at;
        *plan_at = Some(plan_at.map_or(at, |old| old.min(at)));
    }

    /// Has it planned again, unless it is whole.
    pub(super) fn spoil(&mut self) {
        if let Some(duty) = &mut self.duty {
            duty.stale |= self.pieces == 0 || duty.have != mask(self.pieces.into());
        }
    }

    /// Whether it is time to plan it: by the clock, or because something has changed. Then it is no more.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let Some(duty) = &mut self.duty else {
            return false;
        };
        let is_due = duty.stale || duty.plan_at.is_some_and(|at| at <= now);
        if is_due {
            (duty.stale, duty.plan_at) = (false, None);
        }
        is_due
    }

    /// Whether those in `whom` are to be told of new pieces. Then they are no more.
    pub(super) const fn take_news(&mut self, whom: u8) -> bool {
        let is_news = self.news & whom != 0;
        self.news &= !whom;
        is_news
    }

    /// Has it planned soon: news from neighbours come in bursts.
    pub(super) fn touch(&mut self) {
        self.wake_at(self.work().planned_at.plus_ms(PLAN_GAP_MS));
    }

    /// Bytes outside of the struct itself.
    pub(super) fn heap_bytes(&self) -> usize {
        self.duty.as_deref().map_or(0, Duty::heap_bytes)
    }

    /// What this viewer does for it.
    pub(super) fn duty(&self) -> &Duty {
        self.duty.as_deref().unwrap_or(&FREE)
    }

    /// The same, for something to be added to it or changed.
    pub(super) fn duty_mut(&mut self) -> &mut Duty {
        let pieces = self.pieces.into();
        self.duty.get_or_insert_with(|| {
            Box::new(Duty {
                have: mask(pieces),
                ..Duty::NONE
            })
        })
    }

    /// The same if there is anything.
    pub(super) fn duty_if_any(&mut self) -> Option<&mut Duty> {
        self.duty.as_deref_mut()
    }

    /// What is under way.
    pub(super) fn work(&self) -> &Work {
        self.duty().work.as_deref().unwrap_or(&IDLE)
    }

    /// The same, for something to be added to it or changed.
    pub(super) fn work_mut(&mut self) -> &mut Work {
        let work = &mut self.duty_mut().work;
        work.get_or_insert_with(|| Box::new(Work::NONE))
    }

    /// The same if there is anything.
    pub(super) fn work_if_any(&mut self) -> Option<&mut Work> {
        self.duty.as_deref_mut()?.work.as_deref_mut()
    }

    /// It lies behind, and is whole: nothing is under way for it any more.
    pub(super) fn rest(&mut self) {
        (self.may_push, self.is_wanted) = (false, false);
        if let Some(duty) = &mut self.duty {
            duty.stop();
        }
        self.rest_if_idle();
    }

    /// Nothing may be left to do for it: it is whole and listed, and nobody waits for it.
    pub(super) fn rest_if_idle(&mut self) {
        let is_listed = self.listing == Listing::Listed;
        if is_listed && self.is_complete() && self.duty().is_idle() {
            self.duty = None;
        }
    }

    /// What is known of its bytes.
    pub(super) fn content(&self) -> Option<Content> {
        self.is_known().then_some(Content {
            id: self.id,
            len: self.len,
            piece_len: self.piece_len,
            epoch: self.epoch,
        })
    }

    /// Whether its content is known.
    pub(super) const fn is_known(&self) -> bool {
        self.pieces != 0
    }

    pub(super) fn id(&self) -> Option<SegmentId> {
        self.is_known().then_some(self.id)
    }

    /// Bytes of it that have come from the CDN.
    pub(super) fn bytes_cdn(&self) -> u32 {
        self.len_of(self.have()).saturating_sub(self.bytes_p2p)
    }

    /// Over how long the player needs its pieces after `window_ms`.
    pub(super) const fn spread_ms(&self) -> u32 {
        if self.is_progressive {
            self.duration_ms
        } else {
            0
        }
    }

    /// All pieces; none while the content is unknown.
    pub(super) fn full(&self) -> u64 {
        mask(self.pieces.into())
    }

    pub(super) fn is_complete(&self) -> bool {
        match &self.duty {
            Some(duty) => self.is_known() && duty.have == self.full(),
            None => true,
        }
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// When this viewer needs it, as far as it knows: who waits for its own segment should not wait
    /// for what others push beyond that.
    pub(super) fn is_too_late_to_push(&self, now: Instant) -> bool {
        let until_ms = u64::from(self.window_ms()) + u64::from(self.spread_ms());
        self.window_ms() > 0 && now.ms_since(self.known_at()) >= until_ms
    }

    /// Bridges hold some of these pieces.
    pub(super) fn note_seen(&mut self, held: u64, stripe_count: u32, now: Instant) {
        let age_ms = now.ms_since(self.known_at()).min(u64::from(u16::MAX) - 1) as u16;
        for stripe in 0..stripe_count.min(STRIPES_MAX) {
            let is_seen = self.stripe_bits(stripe, stripe_count) & held != 0;
            if is_seen && self.work().seen_ms[stripe as usize] == 0 {
                self.work_mut().seen_ms[stripe as usize] = age_ms + 1;
            }
        }
    }

    /// The player asks for it.
    pub(super) fn add_request(&mut self, request: Request) {
        let requests = &mut self.work_mut().requests;
        requests.reserve_exact(1);
        requests.push(request);
        self.is_wanted = true;
    }

    /// Whoever made this request does not wait any longer.
    pub(super) fn drop_request(&mut self, id: RequestId) {
        if let Some(work) = self.work_if_any() {
            work.requests.retain(|request| request.id != id);
            self.is_wanted = !self.work().requests.is_empty();
        }
    }

    /// Those who wait for it do so no longer.
    pub(super) fn take_requests(&mut self) -> Vec<Request> {
        self.is_wanted = false;
        let work = self.work_if_any();
        work.map_or_else(Vec::new, |work| core::mem::take(&mut work.requests))
    }

    /// Everything is there: who was to bring it, and who was asked, matters no more.
    pub(super) fn settle(&mut self) {
        let is_wanted = self.is_wanted;
        let Some(duty) = &mut self.duty else { return };
        match duty.work.as_deref_mut().filter(|_| is_wanted) {
            Some(work) => {
                (work.claims, work.upstream) = (Vec::new(), Vec::new());
                (work.pulls, work.pushers) = (Vec::new(), Vec::new());
            }
            None => duty.work = None,
        }
        self.rest_if_idle();
    }

    /// Nobody waits for pushes any more.
    pub(super) fn stop_pushing(&mut self) {
        if let Some(duty) = self.duty_if_any() {
            duty.seeded = 0;
            duty.handed = Vec::new();
        }
        self.may_push = false;
    }

    /// How many bytes these pieces are.
    pub(super) fn len_of(&self, bits: u64) -> u32 {
        let Some(content) = self.content() else {
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
        let handed = self.duty().handed.iter();
        let to = handed.filter(|(_, passer)| *passer == slot);
        to.fold(0, |bits, (piece, _)| bits | 1 << piece) & self.have()
    }

    /// The pieces of stripe `stripe` of `count`: a contiguous run.
    pub(super) fn stripe_bits(&self, stripe: u32, count: u32) -> u64 {
        let Some(content) = self.content() else {
            return 0;
        };
        let pieces = piece_count(content.len, content.piece_len);
        let count = count.max(1);
        let (from, to) = (pieces * stripe / count, pieces * (stripe + 1) / count);
        mask(to.min(pieces)) & !mask(from.min(pieces))
    }

    /// First byte and length of a contiguous run of pieces; `None` if it is the whole segment.
    pub(super) fn range_of(&self, run: u64) -> Option<(u32, u32)> {
        let content = self.content()?;
        if run == self.full() {
            return None;
        }
        Some((run.trailing_zeros() * content.piece_len, self.len_of(run)))
    }

    /// Takes over what a playlist or record says of the content. Returns the content that it
    /// replaces, if that is another one.
    pub(super) fn set_content(&mut self, content: Content) -> Option<Content> {
        match self.content() {
            Some(old) if old.id == content.id => None,
            Some(old) if old.epoch > content.epoch => None,
            old => {
                (self.id, self.epoch) = (content.id, content.epoch);
                (self.len, self.piece_len) = (content.len, content.piece_len);
                let pieces = piece_count(content.len, content.piece_len);
                self.pieces = pieces.clamp(1, PIECES_MAX) as u8;
                self.has_record = false;
                self.bytes_p2p = 0;
                self.duty_mut().on_content(old.is_some());
                old
            }
        }
    }

    /// How long this viewer can do without a piece from when the segment was listed, as far as it
    /// knows; 0 if it knows nothing.
    pub(super) fn window_ms_of(&self, piece: u32) -> u64 {
        let count = self.full().count_ones().max(1);
        let after_ms = u64::from(self.spread_ms()) * u64::from(piece) / u64::from(count);
        match self.window_ms() {
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
        if self.spread_ms() == 0 || self.window_ms() == 0 {
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

    /// When the first piece came; until then, when the segment became known.
    pub(super) fn began_at(&self) -> Instant {
        let began_ms = self.work().began_ms;
        self.known_at().plus_ms(began_ms.unwrap_or(0).into())
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
    fn what_is_whole_and_done_takes_nothing_beside_itself() {
        let mut segment = segment(40_000);
        assert!(segment.list(TrackId(1)));
        segment.duty_mut().have = 0b011;
        segment.rest_if_idle();
        assert!(!segment.is_complete() && segment.heap_bytes() > 0);
        segment.duty_mut().have = 0b111;
        segment.wake_at(Instant::from_millis(5));
        segment.settle();
        assert!(segment.heap_bytes() > 0, "it is looked at once more");
        assert!(segment.take_due(Instant::from_millis(5)));
        segment.rest_if_idle();
        assert_eq!(segment.heap_bytes(), 0);
        assert!(segment.is_complete());
        segment.duty_mut().mine = 0b1;
        assert_eq!(segment.have(), 0b111, "as before");
        segment.rest();
        assert_eq!((segment.have(), segment.heap_bytes()), (0b111, 0));
        let other = segment.set_content(Content {
            id: SegmentId(2),
            len: 10,
            piece_len: 16_384,
            epoch: 0,
        });
        assert!(other.is_some() && !segment.is_complete());
        assert_eq!(
            (segment.have(), segment.take_due(Instant::ORIGIN)),
            (0, true)
        );
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
        segment.duty_mut().have = 1;
        let older = Content {
            id: SegmentId(1),
            epoch: 0,
            ..newer
        };
        assert_eq!(segment.set_content(older), None);
        assert_eq!((segment.id(), segment.have()), (Some(SegmentId(2)), 1));
    }
}

//! What this viewer sends to whom.

use super::{
    cells::Cell,
    neighbour::Neighbour,
    neighbours::{Neighbours, slots_of},
    remotes::{COPIES_MAX, Remotes, Row},
    segment::Segment,
};
use crate::{id::Slot, time::Instant};

/// Bytes that may wait in all links together, as time at the full rate, and at least. What waits cannot be
/// taken back when it comes from elsewhere, and delays everything else that leaves the viewer's home.
const WAITING_MS_MAX: u64 = 70;
const WAITING_BYTES_MIN: u64 = 128 * 1024;
/// A link that takes nothing for so long is held up at its other end: others need not wait for it.
const HELD_UP_MS: u64 = 300;

/// So many neighbouring pieces of a segment that is played while it arrives are as urgent as each other.
const IN_ORDER_PIECES: u32 = 4;

/// One piece to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) slot: Slot,
    /// Index in the list of segments.
    pub(super) index: usize,
    pub(super) piece: u32,
    /// The receiver has asked for it; it was not divided among those who pass on.
    pub(super) is_asked: bool,
}

/// Less is sent sooner: its class (what others wait for in order to pass it on, what was asked for,
/// what is pushed), number, piece, pieces held, slot.
type Urgency = (u8, u64, u32, u32, Slot);

/// Whether enough waits to leave: the moment to look again, if nothing is heard before.
pub(super) fn busy_until(neighbours: &Neighbours, rate_bps: u64, now: Instant) -> Option<Instant> {
    let moves = |n: &&Neighbour| now < n.drained_at.get().plus_ms(HELD_UP_MS);
    let moving = neighbours.sending().filter(moves);
    let waiting: u64 = moving.clone().map(|n| u64::from(n.buffered)).sum();
    let most = (rate_bps / 8000 * WAITING_MS_MAX).max(WAITING_BYTES_MIN);
    let looked_at = moving.map(|n| n.drained_at.get().plus_ms(HELD_UP_MS)).min();
    looked_at.filter(|_| waiting >= most)
}

/// The most useful piece to send next: what the receiver passes on to others, before what it asked
/// for, before what is pushed; the oldest segment first, in it the lowest piece (the CDN, where it
/// must help out, begins at the other end), and of those who lack it the one who has least.
pub(super) fn plan_next(
    segments: &[Segment],
    neighbours: &mut Neighbours,
    remotes: &Remotes,
    now: Instant,
) -> Option<Next> {
    let mut best: Option<(Urgency, Next)> = None;
    let roomy = neighbours.roomy_slots();
    let anywhere_wants = remotes.any_wants();
    for (index, segment) in segments.iter().enumerate() {
        if !segment.may_push && !anywhere_wants {
            continue;
        }
        let Some(id) = segment.id().filter(|_| segment.has_record) else {
            continue;
        };
        let row = remotes.row(id);
        let offer = Offer::of(segment, neighbours, now);
        let able = roomy & (offer.passers | offer.sharers | row.map_or(0, Row::wanting));
        let mut copies_of = None;
        for slot in slots_of(able) {
            let cell = row.map_or_else(Cell::default, |row| row.cell(slot));
            let Some((class, bits)) = offer.to(slot, &cell, segment, neighbours) else {
                continue;
            };
            let copies_of =
                copies_of.get_or_insert_with(|| row.map(Row::copies).unwrap_or_default());
            let (copies, rarest) = copies_of.rarest(bits);
            let (copies, piece) = match segment.spread_ms() {
                0 => (copies, rarest.trailing_zeros()),
                _ => in_order(copies, bits.trailing_zeros()),
            };
            let holds = (cell.have | cell.sent).count_ones();
            let key = (class, segment.seq, copies, holds, slot);
            if best.as_ref().is_none_or(|(other, _)| key < *other) {
                let is_asked = class == 1;
                best = Some((
                    key,
                    Next {
                        slot,
                        index,
                        piece,
                        is_asked,
                    },
                ));
            }
        }
    }
    best.map(|(_, next)| next)
}

/// What of a segment may go to whom, unasked. Mostly to few, and most plans look at many segments.
struct Offer {
    /// Pieces that are pushed to everybody.
    seeded: u64,
    /// The slots, a bit each, of those who are handed something to pass on, and of those it is pushed to.
    passers: u32,
    sharers: u32,
}

impl Offer {
    fn of(segment: &Segment, neighbours: &mut Neighbours, now: Instant) -> Self {
        let (mut seeded, mut passers, mut sharers) = (0, 0, 0);
        if segment.may_push {
            seeded = segment.duty().seeded & segment.have();
            passers = segment.duty().passers();
        }
        if seeded != 0 && segment.is_too_late_to_push(now) {
            seeded = 0;
        }
        if seeded != 0 {
            sharers = neighbours.masks(segment.push_track()).sharing();
        }
        Self {
            seeded,
            passers,
            sharers,
        }
    }

    /// The pieces for the neighbour in `slot`, of which `cell` is known, and their class.
    fn to(
        &self,
        slot: Slot,
        cell: &Cell,
        segment: &Segment,
        neighbours: &Neighbours,
    ) -> Option<(u8, u64)> {
        let is_in = |slots: u32| slots >> slot.0 & 1 == 1;
        let have = segment.have();
        let lacks = have & !cell.have & !cell.sent;
        if is_in(self.passers) {
            let handed = segment.handed_to(slot) & lacks;
            if handed != 0 {
                return Some((0, handed));
            }
        }
        let wanted = cell.wants() & have;
        if wanted != 0 {
            let early = wanted & (segment.duty().brought | segment.duty().mine);
            let is_early = early != 0 && is_in(neighbours.bridge_slots());
            return Some(if is_early { (0, early) } else { (1, wanted) });
        }
        let pushed = self.seeded & lacks;
        let is_for =
            pushed != 0 && is_in(self.sharers) && neighbours.is_since(slot, segment.known_at());
        is_for.then_some((2, pushed))
    }
}

/// What comes before what in a segment that is played while it arrives, and the piece: always a receiver's
/// lowest. Who lacks one of an earlier run comes first; in the same run, who lacks what fewest hold.
fn in_order(copies: u32, piece: u32) -> (u32, u32) {
    (piece / IN_ORDER_PIECES * (COPIES_MAX + 1) + copies, piece)
}

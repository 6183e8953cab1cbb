//! What is known of segments at neighbours: one row for each segment that matters now, one cell in it
//! for each link.

use alloc::vec::Vec;

use super::{
    cells::{Cell, Cells},
    neighbours::slots_of,
};
use crate::{
    id::{SegmentId, Slot},
    limits::{NEIGHBOUR_SEGMENTS_MAX, NEIGHBOURS_MAX},
};

/// Rows of segments that this viewer has not heard of otherwise: neighbours may be ahead.
const UNKNOWN_MAX: usize = 8;
/// Copies of a piece are counted up to this number.
pub(super) const COPIES_MAX: u32 = 24;
/// Binary digits of the number of neighbours.
const COPIES_DIGITS: usize = (u32::BITS - (NEIGHBOURS_MAX as u32).leading_zeros()) as usize;

/// A number of copies for each of 64 pieces: plane `i` has the numbers' digits of weight `2^i`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copies([u64; COPIES_DIGITS]);

impl Copies {
    /// One more of each piece in `bits`.
    fn add(&mut self, bits: u64) {
        let mut carry = bits;
        for plane in &mut self.0 {
            if carry == 0 {
                break;
            }
            (*plane, carry) = (*plane ^ carry, *plane & carry);
        }
    }

    /// Those of `bits` of which there are fewest, and how many there are of them: no more than
    /// [`COPIES_MAX`], above which all are alike.
    pub(super) fn rarest(&self, bits: u64) -> (u32, u64) {
        let (mut least, mut rarest) = (0, bits);
        for plane in self.0.iter().rev() {
            let fewer = rarest & !plane;
            least = least << 1 | u32::from(fewer == 0);
            rarest = if fewer == 0 { rarest } else { fewer };
        }
        if least >= COPIES_MAX {
            return (COPIES_MAX, bits);
        }
        (least, rarest)
    }
}

/// One segment at all neighbours.
#[derive(Clone, Debug)]
pub(super) struct Row {
    segment: SegmentId,
    /// Bit `i`: the neighbour in slot `i` has the record.
    recorded: u32,
    /// Bit `i`: the neighbour in slot `i` waits for pieces that it asked for.
    wanting: u32,
    cells: Cells,
}

const _: () = assert!(NEIGHBOURS_MAX <= u32::BITS as usize);
const _: () = assert!(size_of::<Row>() <= 64);

impl Row {
    pub(super) fn cell(&self, slot: Slot) -> Cell {
        self.cells.get(usize::from(slot.0))
    }

    /// Pieces that the neighbour in `slot` says it holds.
    pub(super) fn have(&self, slot: Slot) -> u64 {
        self.cells.have(slot.0.into())
    }

    /// The neighbour in `slot` has told, asked for, or been sent something of the segment: `change` says
    /// what that is in its cell.
    pub(super) fn update(&mut self, slot: Slot, change: impl FnOnce(&mut Cell)) {
        let index = usize::from(slot.0) % NEIGHBOURS_MAX;
        let cell = self.cells.update(index, change);
        self.wanting &= !(1 << index);
        self.wanting |= u32::from(cell.wants() != 0) << index;
    }

    /// Pieces that those in each set of slots (a bit each) say they hold.
    pub(super) fn held_by<const N: usize>(&self, sets: [u32; N]) -> [u64; N] {
        let mut held = [0; N];
        let asked = sets.iter().fold(0, |all, set| all | set);
        for slot in slots_of(asked & self.cells.holders()) {
            let have = self.have(slot);
            for (held, set) in held.iter_mut().zip(sets) {
                *held |= if set >> slot.0 & 1 == 1 { have } else { 0 };
            }
        }
        held
    }

    /// This viewer has heard of the segment.
    pub(super) const fn note_known(&mut self) {
        self.cells.known = true;
    }

    /// How many neighbours have each piece, or were sent it.
    pub(super) fn copies(&self) -> Copies {
        let mut copies = Copies::default();
        self.cells.each_copy(|bits| copies.add(bits));
        copies
    }

    pub(super) const fn any_wants(&self) -> bool {
        self.wanting != 0
    }

    /// The slots, a bit each, of those who wait for what they asked for.
    pub(super) const fn wanting(&self) -> u32 {
        self.wanting
    }

    /// Whether a neighbour needs the record before the first piece. Notes that it has it then.
    pub(super) fn take_needs_record(&mut self, slot: Slot) -> bool {
        let bit = 1 << (u32::from(slot.0) % u32::BITS);
        let needs = self.recorded & bit == 0 && self.cells.have(slot.0.into()) == 0;
        self.recorded |= bit;
        needs
    }

    pub(super) fn note_record(&mut self, slot: Slot) {
        self.recorded |= 1 << (u32::from(slot.0) % u32::BITS);
    }

    /// Whether everybody in `slots` holds all of `full` and nobody waits.
    fn is_done(&self, slots: u32, full: u64) -> bool {
        let mut rest = slots;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if self.cells.have(slot) & full != full {
                return false;
            }
        }
        !self.any_wants()
    }
}

/// The rows, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Remotes {
    rows: Vec<Row>,
}

impl Remotes {
    pub(super) fn heap_bytes(&self) -> usize {
        let cells: usize = self.rows.iter().map(|row| row.cells.heap_bytes()).sum();
        self.rows.capacity() * size_of::<Row>() + cells
    }

    pub(super) fn row(&self, segment: SegmentId) -> Option<&Row> {
        self.rows.iter().rev().find(|row| row.segment == segment)
    }

    /// Whether a neighbour waits for anything that it asked for.
    pub(super) fn any_wants(&self) -> bool {
        self.rows.iter().any(Row::any_wants)
    }

    pub(super) fn row_mut(&mut self, segment: SegmentId) -> Option<&mut Row> {
        self.rows
            .iter_mut()
            .rev()
            .find(|row| row.segment == segment)
    }

    /// The row of a segment, made if it is not there. Those that this viewer knows never make room
    /// for those that it does not.
    pub(super) fn entry(&mut self, segment: SegmentId, known: bool) -> &mut Row {
        let found = self.rows.iter().rposition(|row| row.segment == segment);
        let index = found.unwrap_or_else(|| {
            self.make_room(known);
            self.rows.reserve_exact(1);
            self.rows.push(Row {
                segment,
                recorded: 0,
                wanting: 0,
                cells: Cells::default(),
            });
            self.rows.len() - 1
        });
        self.rows[index].cells.known |= known;
        &mut self.rows[index]
    }

    fn make_room(&mut self, known: bool) {
        let unknown = self.rows.iter().filter(|row| !row.cells.known).count();
        if unknown >= UNKNOWN_MAX && !known {
            self.drop_oldest(|row| !row.cells.known);
        } else if self.rows.len() >= NEIGHBOUR_SEGMENTS_MAX {
            let any_unknown = unknown > 0;
            self.drop_oldest(|row| !any_unknown || !row.cells.known);
        }
    }

    fn drop_oldest(&mut self, which: impl Fn(&Row) -> bool) {
        if let Some(index) = self.rows.iter().position(which) {
            self.rows.remove(index);
        }
    }

    /// Forgets a segment.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        self.keep(|row| row.segment != segment);
    }

    fn keep(&mut self, which: impl Fn(&Row) -> bool) {
        self.rows.retain(which);
        self.rows.shrink_to_fit();
    }

    /// Forgets a neighbour.
    pub(super) fn forget_slot(&mut self, slot: Slot) {
        for row in &mut self.rows {
            let bit = 1u32 << (u32::from(slot.0) % u32::BITS);
            row.recorded &= !bit;
            row.wanting &= !bit;
            let index = usize::from(slot.0) % NEIGHBOURS_MAX;
            row.cells.update(index, |cell| *cell = Cell::default());
        }
    }

    /// Forgets a segment unless somebody waits for it.
    pub(super) fn forget_if_quiet(&mut self, segment: SegmentId) {
        self.keep(|row| row.segment != segment || row.any_wants());
    }

    /// Forgets a segment that is whole here and at everybody in `slots`. Whether it did.
    pub(super) fn forget_if_done(&mut self, segment: SegmentId, full: u64, slots: u32) -> bool {
        let before = self.rows.len();
        self.keep(|row| row.segment != segment || !row.is_done(slots, full));
        self.rows.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_made_up_by_neighbours_never_displace_known_ones() {
        let mut remotes = Remotes::default();
        let row = remotes.entry(SegmentId(1), true);
        row.update(Slot(3), |cell| cell.on_have(5));
        for made_up in 100..300 {
            let row = remotes.entry(SegmentId(made_up), false);
            row.update(Slot(31), |_| {});
        }
        assert_eq!(remotes.rows.len(), 1 + UNKNOWN_MAX);
        let row = remotes.row(SegmentId(1)).expect("it is kept");
        assert_eq!(row.held_by([1 << 3 | 1 << 7, 1 << 7]), [5, 0]);
    }

    #[test]
    fn the_rarest_pieces_are_those_with_the_fewest_copies() {
        let mut rng = crate::rng::Rng::new(9);
        for holders in [0, 1, 7, 23, 24, 32] {
            let sets: Vec<u64> = (0..holders)
                .map(|_| rng.next_u64() | rng.next_u64() | rng.next_u64() | 0xff)
                .collect();
            let mut copies = Copies::default();
            sets.iter().for_each(|set| copies.add(*set));
            let count = |piece: &u32| sets.iter().filter(|set| *set >> piece & 1 == 1).count();
            for bits in [u64::MAX, 0xff, 0xff00, 1 << 40] {
                let pieces = || (0..64u32).filter(|piece| bits >> piece & 1 == 1);
                let least = pieces().map(|p| count(&p)).min().unwrap_or(0) as u32;
                let few = pieces().filter(|p| count(p) as u32 == least);
                let few = few.fold(0u64, |few, piece| few | 1 << piece);
                let expected = match least {
                    0..COPIES_MAX => (least, few),
                    _ => (COPIES_MAX, bits),
                };
                assert_eq!(copies.rarest(bits), expected, "{holders} holders");
            }
        }
    }

    #[test]
    fn a_row_goes_when_everybody_has_everything() {
        let mut remotes = Remotes::default();
        let row = remotes.entry(SegmentId(1), true);
        row.update(Slot(0), |cell| cell.on_have(3));
        row.update(Slot(1), |cell| cell.on_have(1));
        remotes.forget_if_done(SegmentId(1), 3, 0b11);
        assert!(remotes.row(SegmentId(1)).is_some());
        remotes.forget_if_done(SegmentId(1), 3, 0b01);
        assert!(remotes.row(SegmentId(1)).is_none());
    }

    #[test]
    fn whoever_takes_a_slot_over_starts_anew() {
        let mut remotes = Remotes::default();
        let row = remotes.entry(SegmentId(1), true);
        row.update(Slot(2), |cell| cell.sent = 9);
        assert!(row.take_needs_record(Slot(2)));
        assert!(!row.take_needs_record(Slot(2)));
        remotes.forget_slot(Slot(2));
        let row = remotes.entry(SegmentId(1), true);
        assert_eq!(row.cell(Slot(2)).sent, 0);
        assert!(row.take_needs_record(Slot(2)));
    }
}

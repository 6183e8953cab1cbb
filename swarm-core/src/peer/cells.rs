//! What is known of one segment at each neighbour: three sets of pieces. There are cells for each link and
//! each segment that matters, a good part of what a viewer takes. Two of three sets are empty, for neighbours
//! ask for little and most pieces are passed on by others; and who has something soon has all of it. Those
//! sets are a bit each. The rest take as many bytes as the highest piece needs: a segment has some forty
//! pieces, seldom sixty-four.

use alloc::vec::Vec;

use super::{neighbours::slots_of, segment::mask};

/// Sets are read and written eight bytes at a time: as many lie from the beginning of the last one on.
const WORD_LEN: usize = size_of::<u64>();
/// Places for sets are set aside by as many, and given back beyond twice as many.
const SETS_STEP: usize = 2;
/// The kinds of sets.
const SETS: usize = 3;
const HAVE: usize = 0;
const SENT: usize = 1;
const WANTS: usize = 2;

/// One segment at one neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    /// Pieces that it says it holds.
    pub(super) have: u64,
    /// Pieces that were sent to it.
    pub(super) sent: u64,
    /// Pieces that it asked for; those of them in `sent` are to be skipped, as if they were sent.
    wants: u64,
}

impl Cell {
    /// Pieces that it asked for and has not been sent.
    pub(super) const fn wants(&self) -> u64 {
        self.wants & !self.sent
    }

    /// It asks for these pieces, and no others. What was sent is on its way, in order and reliably.
    pub(super) const fn on_want(&mut self, bits: u64) {
        let skipped = self.sent & self.wants;
        self.sent &= !(skipped & bits);
        self.wants = (bits & !self.sent) | (skipped & !bits);
    }

    /// These pieces come to it from elsewhere.
    pub(super) const fn on_skip(&mut self, bits: u64) {
        let bits = bits & !self.sent;
        self.sent |= bits;
        self.wants |= bits;
    }

    pub(super) const fn on_have(&mut self, bits: u64) {
        self.have = bits;
        self.wants &= !bits;
    }

    pub(super) const fn on_send(&mut self, piece: u32) {
        self.sent |= 1 << piece;
        self.wants &= !(1 << piece);
    }
}

/// A row of cells, one for each slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    /// The sets that are kept: by kind, and those of a kind by slot.
    bytes: Vec<u8>,
    /// Whose set of each kind is among them, a bit for each slot. Others are empty, or whole.
    kept: [u32; SETS],
    /// Who has the first `pieces` pieces and no others, a bit for each slot.
    whole: u32,
    /// The longest run from the first piece on that anybody said to have: in the end, all there are.
    pieces: u8,
    /// Bytes of a kept set.
    width: u8,
    /// Whether this viewer has the segment on its list: the row's, which has no byte left for it.
    pub(super) known: bool,
}

impl Cells {
    pub(super) const fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn get(&self, index: usize) -> Cell {
        Cell {
            have: self.have(index),
            sent: self.set(index, SENT),
            wants: self.set(index, WANTS),
        }
    }

    /// The first set of a cell alone.
    pub(super) fn have(&self, index: usize) -> u64 {
        if self.whole & bit(index) != 0 {
            return mask(self.pieces.into());
        }
        self.set(index, HAVE)
    }

    /// Those who have anything, a bit for each slot.
    pub(super) const fn holders(&self) -> u32 {
        self.whole | self.kept[HAVE]
    }

    /// Tells `note` what each has or was sent, of those of whom there is any.
    pub(super) fn each_copy(&self, mut note: impl FnMut(u64)) {
        let (whole, [have, sent, _]) = (mask(self.pieces.into()), self.kept);
        // The kept sets of a kind follow each other.
        let (mut have_at, mut sent_at) = (0, have.count_ones() as usize);
        let mut rest = self.holders() | sent;
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            rest &= !bit;
            let mut bits = if self.whole & bit != 0 { whole } else { 0 };
            if have & bit != 0 {
                bits |= self.word(have_at);
                have_at += 1;
            }
            if sent & bit != 0 {
                bits |= self.word(sent_at);
                sent_at += 1;
            }
            note(bits);
        }
    }

    /// Changes a cell; makes room for what it needs, where there is none. Returns what it is then: always empty
    /// for slots that there cannot be.
    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut Cell)) -> Cell {
        let old = self.get(index);
        let mut cell = old;
        change(&mut cell);
        if bit(index) == 0 {
            return Cell::default();
        }
        if cell.have != old.have {
            self.put_have(index, cell.have);
        }
        if cell.sent != old.sent {
            self.write(index, SENT, cell.sent);
        }
        if cell.wants != old.wants {
            self.write(index, WANTS, cell.wants);
        }
        cell
    }

    fn put_have(&mut self, index: usize, have: u64) {
        let is_run = have != 0 && have & have.wrapping_add(1) == 0;
        let pieces = have.count_ones() as u8;
        if is_run && pieces > self.pieces {
            // What was thought to be all is not.
            let (whole, run) = (core::mem::take(&mut self.whole), mask(self.pieces.into()));
            self.pieces = pieces;
            for slot in slots_of(whole) {
                self.write(slot.0.into(), HAVE, run);
            }
        }
        let is_whole = is_run && pieces == self.pieces;
        self.whole = self.whole & !bit(index) | if is_whole { bit(index) } else { 0 };
        self.write(index, HAVE, if is_whole { 0 } else { have });
    }

    /// Where the set is, or would be: its number among those that are kept.
    fn place(&self, index: usize, set: usize) -> usize {
        let of_set = self.kept[set] & bit(index).wrapping_sub(1);
        let before = self.kept[..set].iter().map(|kept| kept.count_ones());
        (of_set.count_ones() + before.sum::<u32>()) as usize
    }

    fn set(&self, index: usize, set: usize) -> u64 {
        if self.kept[set] & bit(index) == 0 {
            return 0;
        }
        self.word(self.place(index, set))
    }

    fn word(&self, place: usize) -> u64 {
        let at = place * usize::from(self.width);
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        let mask = mask(u32::from(self.width) * u8::BITS);
        word.map_or(0, |word| u64::from_le_bytes(*word) & mask)
    }

    fn write(&mut self, index: usize, set: usize, bits: u64) {
        let is_kept = self.kept[set] & bit(index) != 0;
        if !is_kept && bits == 0 {
            return;
        }
        let place = self.place(index, set);
        match (is_kept, bits != 0) {
            (_, false) => return self.take_out(index, set, place),
            (false, true) => self.put_in(index, set, place),
            (true, true) => {}
        }
        self.widen((u64::BITS - bits.leading_zeros()).div_ceil(u8::BITS) as u8);
        let width = usize::from(self.width);
        let bytes = bits.to_le_bytes();
        if let Some(word) = self.bytes.get_mut(place * width..(place + 1) * width) {
            word.copy_from_slice(&bytes[..width]);
        }
    }

    fn count(&self) -> usize {
        let counts = self.kept.iter().map(|kept| kept.count_ones() as usize);
        counts.sum()
    }

    /// Bytes of so many sets, and what is read beyond the last one.
    fn len_of(count: usize, width: u8) -> usize {
        match count {
            0 => 0,
            _ => (count - 1) * usize::from(width) + WORD_LEN,
        }
    }

    fn put_in(&mut self, index: usize, set: usize, place: usize) {
        let (width, end) = (
            usize::from(self.width),
            self.count() * usize::from(self.width),
        );
        self.kept[set] |= bit(index);
        let len = Self::len_of(self.count(), self.width);
        if self.bytes.capacity() < len {
            let more = len - self.bytes.len() + (SETS_STEP - 1) * width;
            self.bytes.reserve_exact(more);
        }
        self.bytes.resize(len, 0);
        self.bytes
            .copy_within(place * width..end, (place + 1) * width);
    }

    fn take_out(&mut self, index: usize, set: usize, place: usize) {
        let (width, end) = (
            usize::from(self.width),
            self.count() * usize::from(self.width),
        );
        self.bytes
            .copy_within((place + 1) * width..end, place * width);
        self.kept[set] &= !bit(index);
        self.bytes.truncate(Self::len_of(self.count(), self.width));
        if self.bytes.capacity() > self.bytes.len() + 2 * SETS_STEP * width {
            self.bytes.shrink_to_fit();
        }
    }

    /// Sets are to be of at least so many bytes.
    fn widen(&mut self, width: u8) {
        if width <= self.width {
            return;
        }
        let count = self.count();
        let mut bytes = alloc::vec![0; Self::len_of(count, width)];
        for place in 0..count {
            let at = place * usize::from(width);
            if let Some(word) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
                *word = self.word(place).to_le_bytes();
            }
        }
        (self.bytes, self.width) = (bytes, width);
    }
}

/// The bit of a slot; none if there cannot be such a slot.
const fn bit(index: usize) -> u32 {
    if index < u32::BITS as usize {
        1 << index
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn put(cells: &mut Cells, index: usize, cell: Cell) {
        assert_eq!(cells.update(index, |old| *old = cell), cell);
    }

    fn copies_of(cells: &Cells) -> Vec<u64> {
        let mut copies = Vec::new();
        cells.each_copy(|bits| copies.push(bits));
        copies
    }

    #[test]
    fn what_is_skipped_is_not_pushed_but_sent_when_it_is_wanted() {
        let mut cell = Cell::default();
        cell.on_send(0);
        cell.on_skip(0b11);
        assert_eq!((cell.sent, cell.wants()), (0b11, 0));
        cell.on_want(0b111);
        assert_eq!(cell.wants(), 0b110, "what was sent is on its way");
        assert_eq!(cell.sent, 0b001);
        cell.on_have(0b010);
        assert_eq!(cell.wants(), 0b100);
    }

    #[test]
    fn cells_are_what_was_written_whatever_was_written_beside_them() {
        let mut rng = Rng::new(5);
        for pieces in [1, 8, 9, 38, 57, 64] {
            let (mut cells, mut expected) = (Cells::default(), [Cell::default(); 32]);
            for _ in 0..500 {
                let index = rng.at_most(31) as usize;
                let mut bits = || match rng.at_most(5) {
                    0 => 0,
                    1 => mask(rng.at_most(pieces) as u32),
                    2 => mask(pieces as u32),
                    _ => rng.next_u64() >> (64 - pieces),
                };
                let cell = Cell {
                    have: bits(),
                    sent: bits(),
                    wants: bits(),
                };
                put(&mut cells, index, cell);
                expected[index] = cell;
            }
            let found: Vec<Cell> = (0..32).map(|index| cells.get(index)).collect();
            let copies = expected.iter().map(|cell| cell.have | cell.sent);
            let copies: Vec<u64> = copies.filter(|bits| *bits != 0).collect();
            assert_eq!(copies_of(&cells), copies);
            assert_eq!(found, expected, "{pieces} pieces");
            let width = (pieces as usize).div_ceil(8);
            assert!(cells.heap_bytes() <= (32 * SETS + SETS_STEP) * width + WORD_LEN);
        }
    }

    #[test]
    fn what_is_empty_or_whole_takes_no_bytes() {
        let (mut cells, whole) = (Cells::default(), mask(38));
        let having = |have: u64| Cell {
            have,
            ..Cell::default()
        };
        put(&mut cells, 3, having(0b111));
        assert_eq!((cells.have(3), cells.heap_bytes()), (0b111, 0), "as it is");
        put(&mut cells, 3, having(whole >> 7));
        put(&mut cells, 4, having(whole));
        assert!(cells.heap_bytes() > 0);
        assert_eq!((cells.have(3), cells.have(4)), (whole >> 7, whole));
        put(&mut cells, 3, having(whole));
        assert_eq!((cells.have(3), cells.bytes.len()), (whole, 0));
        for slot in 5..32 {
            put(&mut cells, slot, having(whole >> 1 << 1));
            put(&mut cells, slot, having(whole));
        }
        put(&mut cells, 4, Cell::default());
        assert_eq!(copies_of(&cells), [whole; 28]);
        assert_eq!(cells.bytes.len(), 0);
        assert!(cells.heap_bytes() <= 2 * SETS_STEP * 5, "it is given back");
    }

    #[test]
    fn a_cell_that_nobody_wrote_is_empty_and_takes_nothing() {
        let mut cells = Cells::default();
        assert_eq!((cells.get(31), cells.heap_bytes()), (Cell::default(), 0));
        put(&mut cells, 0, Cell::default());
        assert_eq!(
            (cells.get(0), copies_of(&cells).len()),
            (Cell::default(), 0)
        );
    }
}

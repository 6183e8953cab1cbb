//! What is known of one segment at each neighbour: three sets of pieces, in as few bytes as the highest
//! piece needs. A segment has some forty pieces, seldom sixty-four, and there are cells for each link and
//! each segment that matters: they are a good part of what a viewer takes.

use alloc::vec::Vec;

/// Sets are read and written eight bytes at a time: as many lie behind the last one.
const WORD_LEN: usize = size_of::<u64>();
/// Cells are set aside by as many.
const CELLS_STEP: usize = 4;
const SETS: usize = 3;

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

/// A row of cells, empty ones at first.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    bytes: Vec<u8>,
    /// Bytes of a set: as many as the highest piece so far needs.
    width: u8,
    count: u8,
}

impl Cells {
    pub(super) const fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn get(&self, index: usize) -> Cell {
        Cell {
            have: self.have(index),
            sent: self.set(index, 1),
            wants: self.set(index, 2),
        }
    }

    /// The first set of a cell alone.
    pub(super) fn have(&self, index: usize) -> u64 {
        self.set(index, 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Cell> + '_ {
        (0..usize::from(self.count)).map(|index| self.get(index))
    }

    /// Writes a cell; makes room for it, and for its highest piece, where there is none.
    pub(super) fn put(&mut self, index: usize, cell: Cell) {
        let highest = u64::BITS - (cell.have | cell.sent | cell.wants).leading_zeros();
        let width = (highest.div_ceil(u8::BITS) as u8).max(self.width);
        let count = usize::from(self.count).max((index + 1).next_multiple_of(CELLS_STEP));
        if (width, count) != (self.width, usize::from(self.count)) {
            self.grow(width, count);
        }
        for (set, bits) in [cell.have, cell.sent, cell.wants].into_iter().enumerate() {
            let mask = self.mask();
            if let Some(word) = self.word_mut(index, set) {
                *word = (u64::from_le_bytes(*word) & !mask | bits).to_le_bytes();
            }
        }
    }

    fn grow(&mut self, width: u8, count: usize) {
        let bytes = count * SETS * usize::from(width) + WORD_LEN;
        let mut grown = Self {
            bytes: alloc::vec![0; bytes],
            width,
            count: count as u8,
        };
        for (index, cell) in self
            .iter()
            .enumerate()
            .filter(|(_, c)| *c != Cell::default())
        {
            grown.put(index, cell);
        }
        *self = grown;
    }

    const fn mask(&self) -> u64 {
        match self.width {
            0 => 0,
            width => u64::MAX >> (u64::BITS - width as u32 * u8::BITS),
        }
    }

    fn set(&self, index: usize, set: usize) -> u64 {
        if index >= usize::from(self.count) {
            return 0;
        }
        let at = (index * SETS + set) * usize::from(self.width);
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word) & self.mask())
    }

    fn word_mut(&mut self, index: usize, set: usize) -> Option<&mut [u8; WORD_LEN]> {
        let at = (index * SETS + set) * usize::from(self.width);
        self.bytes.get_mut(at..)?.first_chunk_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

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
                let mut bits = || rng.next_u64() >> (64 - pieces);
                let cell = Cell {
                    have: bits(),
                    sent: bits(),
                    wants: bits(),
                };
                cells.put(index, cell);
                expected[index] = cell;
            }
            let found: Vec<Cell> = (0..32).map(|index| cells.get(index)).collect();
            assert_eq!(found, expected, "{pieces} pieces");
            let width = (pieces as usize).div_ceil(8);
            assert_eq!(cells.heap_bytes(), 32 * SETS * width + WORD_LEN);
        }
    }

    #[test]
    fn a_cell_that_nobody_wrote_is_empty_and_takes_nothing() {
        let mut cells = Cells::default();
        assert_eq!((cells.get(31), cells.heap_bytes()), (Cell::default(), 0));
        cells.put(0, Cell::default());
        assert_eq!((cells.get(0), cells.iter().count()), (Cell::default(), 4));
    }
}

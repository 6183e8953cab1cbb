//! What this viewer sends to whom: pulls first, then the pieces it seeds, within its rate.

use super::{
    neighbour::{Neighbour, Neighbours},
    remotes::{COPIES_MAX, Cell, Remotes, Row},
    segment::Segment,
};
use crate::{id::Slot, time::Instant};

/// Bytes that the bucket holds at most, as time at the full rate.
const BURST_MS: u64 = 1000;
/// ... but never less than this many bytes: one piece of the largest usual size.
const BURST_BYTES_MIN: u64 = 128 * 1024;
/// Bytes that may wait in a link's transport before the next piece is handed to it, so that control
/// messages never queue for long.
const BUFFERED_BYTES_MAX: u32 = 64 * 1024;

/// A token bucket over bytes.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    bps: u64,
    /// In bits * 10^6, so that microseconds times bit/s fit without rounding.
    tokens: u128,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bps: 0,
            tokens: 0,
            at: now,
        }
    }

    pub(super) fn set_rate(&mut self, now: Instant, bps: u64) {
        self.refill(now);
        if self.bps == 0 {
            self.tokens = Self::units(BURST_BYTES_MIN);
        }
        self.bps = bps;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.bps > 0
    }

    pub(super) const fn rate_bps(&self) -> u64 {
        self.bps
    }

    const fn units(bytes: u64) -> u128 {
        bytes as u128 * 8_000_000
    }

    fn refill(&mut self, now: Instant) {
        let most = Self::units((self.bps * BURST_MS / 8000).max(BURST_BYTES_MIN));
        let earned = u128::from(now.us_since(self.at)) * u128::from(self.bps);
        self.tokens = (self.tokens + earned).min(most);
        self.at = self.at.max(now);
    }

    /// Takes `bytes`, or says when they will be there. More than the bucket holds is let through
    /// when it is full, and paid for afterwards.
    pub(super) fn take(&mut self, now: Instant, bytes: u32) -> Result<(), Instant> {
        self.refill(now);
        let cost = Self::units(u64::from(bytes));
        let needed = cost.min(Self::units(BURST_BYTES_MIN));
        if self.bps == 0 {
            return Err(now.plus_ms(60_000));
        }
        if self.tokens < needed {
            let wait_us = (needed - self.tokens).div_ceil(u128::from(self.bps)) as u64;
            return Err(now.plus_us(wait_us.max(1)));
        }
        self.tokens = self.tokens.saturating_sub(cost);
        Ok(())
    }
}

/// One piece to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) slot: Slot,
    /// Index in the list of segments.
    pub(super) index: usize,
    pub(super) piece: u32,
}

/// Less is sent sooner: its class (what others wait for in order to pass it on, what was asked for,
/// what is pushed), number, piece, pieces held, slot.
type Urgency = (u8, u64, u32, u32, Slot);

/// Whether the next piece may be handed to a neighbour's link.
pub(super) fn has_room(neighbour: &Neighbour) -> bool {
    neighbour.buffered < BUFFERED_BYTES_MAX
}

/// The most useful piece to send next: what the receiver passes on to others, before what it asked
/// for, before what is pushed; the oldest segment first, in it the lowest piece (the CDN, where it
/// must help out, begins at the other end), and of those who lack it the one who has least.
pub(super) fn plan_next(
    segments: &[Segment],
    neighbours: &Neighbours,
    remotes: &Remotes,
    now: Instant,
) -> Option<Next> {
    let mut best: Option<(Urgency, Next)> = None;
    for (index, segment) in segments.iter().enumerate() {
        let Some(id) = segment.id().filter(|_| segment.has_record) else {
            continue;
        };
        let row = remotes.row(id);
        let any_wants = row.is_some_and(Row::any_wants);
        let seeded = if segment.is_too_late_to_push(now) {
            0
        } else {
            segment.seeded & segment.have
        };
        if seeded == 0 && segment.handed.is_empty() && !any_wants {
            continue;
        }
        let mut at_least = None;
        for neighbour in neighbours.ready().filter(|n| has_room(n)) {
            let slot = neighbour.slot;
            let cell = row.map_or_else(Cell::default, |row| row.cell(slot));
            let lacks = segment.have & !cell.have & !cell.sent;
            let (class, bits) = if segment.handed_to(slot) & lacks != 0 {
                (0, segment.handed_to(slot) & lacks)
            } else if cell.wants & segment.have != 0 {
                {
                    let wanted = cell.wants & segment.have;
                    let early = wanted & (segment.brought | segment.mine);
                    if neighbour.bridge && early != 0 {
                        (0, early)
                    } else {
                        (1, wanted)
                    }
                }
            } else if seeded & lacks != 0
                && neighbour.since <= segment.known_at
                && neighbour.shares(segment.push_track)
            {
                (2, seeded & lacks)
            } else {
                continue;
            };
            let at_least = at_least.get_or_insert_with(|| row.map_or([0; COPIES_MAX], Row::copies));
            let copies = at_least.iter().position(|more| bits & !more != 0);
            let copies = copies.unwrap_or(COPIES_MAX);
            let rarest = at_least.get(copies).map_or(bits, |more| bits & !more);
            let piece = rarest.trailing_zeros();
            let holds = (cell.have | cell.sent).count_ones();
            let key = (class, segment.seq, copies as u32, holds, slot);
            if best.as_ref().is_none_or(|(other, _)| key < *other) {
                best = Some((key, Next { slot, index, piece }));
            }
        }
    }
    best.map(|(_, next)| next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_lets_the_rate_through_and_no_more() {
        let mut now = Instant::from_millis(1000);
        let mut bucket = Bucket::new(now);
        bucket.set_rate(now, 8_000_000);
        let mut sent = 0u64;
        let end = now.plus_ms(10_000);
        while now < end {
            match bucket.take(now, 65_536) {
                Ok(()) => sent += 65_536,
                Err(at) => now = at,
            }
        }
        let most = 10_000_000 + BURST_BYTES_MIN.max(250_000) + 65_536;
        assert!((9_800_000..=most).contains(&sent), "{sent}");
    }

    #[test]
    fn a_piece_larger_than_the_bucket_passes_and_is_paid_for() {
        let now = Instant::from_millis(1000);
        let mut bucket = Bucket::new(now);
        bucket.set_rate(now, 1_000_000);
        assert!(bucket.take(now, 1024 * 1024).is_ok());
        assert!(bucket.take(now, 1).is_err());
    }

    #[test]
    fn nothing_leaves_a_closed_bucket() {
        let now = Instant::from_millis(1000);
        assert!(Bucket::new(now).take(now, 1).is_err());
    }
}

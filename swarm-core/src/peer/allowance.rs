//! How much a viewer may still upload: its cap, as an average over a few seconds.

use alloc::vec::Vec;

use crate::time::Instant;

/// The cap holds over every span of this length. Segments come in bursts and are wanted soon: a cap over
/// less would leave uplinks idle for most of a segment's duration.
pub(super) const SPAN_MS: u64 = 4000;
/// What was sent is kept in parts of this length.
const PART_MS: u64 = 50;
/// Every span of [`SPAN_MS`] lies within as many parts.
const PARTS: usize = (SPAN_MS / PART_MS) as usize + 1;

/// What was sent lately, against the cap.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Allowance {
    bps: u64,
    /// The number of the newest part.
    newest: u64,
    /// A piece larger than a whole span's allowance is paid for until then.
    paid_at: Instant,
    /// Bytes sent in the last parts of time, without those in which nothing was, oldest first. Most viewers
    /// send in one of four.
    sent: Vec<u32>,
    /// Those parts: bit `i` is the `i`th before the newest.
    used: u128,
}

/// Places for parts are set aside by as many, and given back beyond twice as many.
const SENT_STEP: usize = 4;

impl Allowance {
    pub(super) const fn new() -> Self {
        Self {
            bps: 0,
            sent: Vec::new(),
            used: 0,
            newest: 0,
            paid_at: Instant::ORIGIN,
        }
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.sent.capacity() * size_of::<u32>()
    }

    pub(super) const fn set_rate(&mut self, bps: u64) {
        self.bps = bps;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.bps > 0
    }

    pub(super) const fn rate_bps(&self) -> u64 {
        self.bps
    }

    /// Takes `bytes`, or says when they may be sent. What a whole span does not allow may go when
    /// nothing was sent in the last one, and nothing follows until the cap has made up for it.
    pub(super) fn take(&mut self, now: Instant, bytes: u32) -> Result<(), Instant> {
        if self.bps == 0 {
            return Err(now.plus_ms(60_000));
        }
        self.advance(now);
        if now < self.paid_at {
            return Err(self.paid_at);
        }
        let budget = self.bps.saturating_mul(SPAN_MS) / 8000;
        let sent: u64 = self.sent.iter().map(|part| u64::from(*part)).sum();
        let excess = (sent + u64::from(bytes)).saturating_sub(budget);
        if excess > 0 && sent > 0 {
            return Err(self.freed_at(excess.min(sent)));
        }
        if excess > 0 {
            self.paid_at = now.plus_ms(u64::from(bytes) * 8000 / self.bps);
        }
        self.note(bytes);
        Ok(())
    }

    /// So much is sent in the newest part.
    fn note(&mut self, bytes: u32) {
        match self.sent.last_mut().filter(|_| self.used & 1 == 1) {
            Some(part) => *part = part.saturating_add(bytes),
            None => {
                if self.sent.len() == self.sent.capacity() {
                    self.sent.reserve_exact(SENT_STEP);
                }
                self.sent.push(bytes);
                self.used |= 1;
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        let newest = (now.as_micros() / 1000 / PART_MS).max(self.newest);
        let passed = (newest - self.newest).min(PARTS as u64);
        self.newest = newest;
        self.used = self.used << passed & ((1 << PARTS) - 1);
        let gone = self.sent.len() - self.used.count_ones() as usize;
        self.sent.drain(..gone);
        if self.sent.capacity() > self.sent.len() + 2 * SENT_STEP {
            self.sent.shrink_to(self.sent.len() + SENT_STEP);
        }
    }

    /// When the oldest `bytes` of what was sent no longer count.
    fn freed_at(&self, bytes: u64) -> Instant {
        let (mut freed, mut used, mut last) = (0, self.used, 0);
        for part in &self.sent {
            last = (u128::BITS - 1 - used.leading_zeros()).into();
            used &= !(1 << last);
            freed += u64::from(*part);
            if freed >= bytes {
                break;
            }
        }
        Instant::from_millis((self.newest + PARTS as u64 - last) * PART_MS)
    }
}

const _: () = assert!(PARTS < u128::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as is let through for ten minutes: when, and how much.
    fn greedy(bps: u64, len: u32) -> Vec<(u64, u64)> {
        let mut now = Instant::from_millis(1007);
        let (mut allowance, mut sent) = (Allowance::new(), Vec::new());
        allowance.set_rate(bps);
        while now < Instant::from_millis(601_000) {
            match allowance.take(now, len) {
                Ok(()) => sent.push((now.as_micros() / 1000, u64::from(len))),
                Err(at) => {
                    assert!(at > now, "waiting ends");
                    now = at;
                }
            }
        }
        sent
    }

    #[test]
    fn no_span_carries_more_than_the_cap() {
        for (bps, len) in [(8_000_000, 65_536), (1_000_000, 20_000), (300_000, 65_536)] {
            let sent = greedy(bps, len);
            for (from, _) in &sent {
                let span = |at: &u64| (*from..from + SPAN_MS).contains(at);
                let within = sent.iter().filter(|(at, _)| span(at));
                let bytes: u64 = within.map(|(_, len)| len).sum();
                assert!(bytes <= bps * SPAN_MS / 8000, "{bytes} from {from}");
            }
        }
    }

    #[test]
    fn most_of_the_cap_can_be_used() {
        let bytes: u64 = greedy(8_000_000, 65_536).iter().map(|sent| sent.1).sum();
        assert!(bytes > 8_000_000 / 8 * 600 * 98 / 100, "{bytes}");
    }

    #[test]
    fn a_piece_larger_than_a_span_allows_passes_and_is_paid_for() {
        let sent = greedy(1_000_000, 1024 * 1024);
        let gaps = sent.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(sent.len() > 5);
        assert!(gaps.min() >= Some(1024 * 1024 * 8 / 1000));
    }

    #[test]
    fn nothing_leaves_without_a_rate() {
        let now = Instant::from_millis(1000);
        assert!(Allowance::new().take(now, 1).is_err());
    }
}

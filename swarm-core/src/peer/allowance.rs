//! How much a viewer may still upload: its cap, as an average over a few seconds.

use alloc::vec::Vec;

use crate::time::Instant;

/// The cap holds over every span of this length. Segments come in bursts and are wanted soon: a cap over
/// less would leave uplinks idle for most of a segment's duration.
pub(super) const SPAN_MS: u64 = 4000;
/// What was sent is kept in parts of this length.
const PART_MS: u64 = 50;
/// Every span of [`SPAN_MS`] lies within as many parts.
const PARTS: u64 = SPAN_MS / PART_MS + 1;

/// What was sent lately, against the cap.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Allowance {
    bps: u64,
    /// The number of the newest part.
    newest: u64,
    /// A piece larger than a whole span's allowance is paid for until then.
    paid_at: Instant,
    /// What was sent in the last parts of time, without those in which nothing was, oldest first. Most viewers
    /// send in one of four.
    sent: Vec<Sent>,
}

/// What was sent in one part: the last digits of its number, and the bytes.
#[derive(Clone, Copy, Debug)]
struct Sent(u32);

impl Sent {
    /// The most that one of them counts: what is more is counted in another one.
    const BYTES_MAX: u32 = u32::MAX >> 8;

    const fn new(part: u64, bytes: u32) -> Self {
        Self((part as u32) << 24 | bytes & Self::BYTES_MAX)
    }

    const fn bytes(self) -> u32 {
        self.0 & Self::BYTES_MAX
    }

    /// How many parts before `newest` it was.
    fn age(self, newest: u64) -> u64 {
        (newest as u8).wrapping_sub((self.0 >> 24) as u8).into()
    }
}

/// Places for parts are set aside by as many, and given back beyond twice as many.
const SENT_STEP: usize = 4;

impl Allowance {
    pub(super) const fn new() -> Self {
        Self {
            bps: 0,
            sent: Vec::new(),
            newest: 0,
            paid_at: Instant::ORIGIN,
        }
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.sent.capacity() * size_of::<Sent>()
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
        let sent: u64 = self.sent.iter().map(|part| u64::from(part.bytes())).sum();
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
        let newest = self.newest;
        let mut rest = bytes;
        if let Some(last) = self.sent.last_mut().filter(|last| last.age(newest) == 0) {
            let more = rest.min(Sent::BYTES_MAX - last.bytes());
            *last = Sent::new(newest, last.bytes() + more);
            rest -= more;
        }
        while rest > 0 {
            let more = rest.min(Sent::BYTES_MAX);
            if self.sent.len() == self.sent.capacity() {
                self.sent.reserve_exact(SENT_STEP);
            }
            self.sent.push(Sent::new(newest, more));
            rest -= more;
        }
    }

    fn advance(&mut self, now: Instant) {
        let newest = (now.as_micros() / 1000 / PART_MS).max(self.newest);
        let passed = newest - self.newest;
        self.newest = newest;
        let is_gone = |part: &&Sent| passed >= PARTS || part.age(newest) >= PARTS;
        let gone = self.sent.iter().take_while(is_gone).count();
        self.sent.drain(..gone);
        if self.sent.capacity() > self.sent.len() + 2 * SENT_STEP {
            self.sent.shrink_to(self.sent.len() + SENT_STEP);
        }
    }

    /// When the oldest `bytes` of what was sent no longer count.
    fn freed_at(&self, bytes: u64) -> Instant {
        let (mut freed, mut age) = (0, 0);
        for part in &self.sent {
            age = part.age(self.newest);
            freed += u64::from(part.bytes());
            if freed >= bytes {
                break;
            }
        }
        Instant::from_millis((self.newest + PARTS - age) * PART_MS)
    }
}

// The age of those that go is still told apart from that of new ones.
const _: () = assert!(2 * PARTS <= u8::MAX as u64);

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
    fn a_fast_line_sends_more_in_a_part_than_one_number_holds() {
        let mut allowance = Allowance::new();
        allowance.set_rate(100_000_000_000);
        let (now, len) = (Instant::from_millis(50_000), 1024 * 1024);
        for _ in 0..100 {
            assert_eq!(allowance.take(now, len), Ok(()));
        }
        let counted: u64 = allowance
            .sent
            .iter()
            .map(|part| u64::from(part.bytes()))
            .sum();
        assert_eq!(counted, 100 * u64::from(len));
        allowance.set_rate(1_000_000);
        let freed_at = now.plus_ms(PARTS * PART_MS);
        assert_eq!(allowance.take(now, 1), Err(freed_at));
        assert_eq!(allowance.take(freed_at, 1), Ok(()));
        assert_eq!(allowance.sent.len(), 1);
        assert_eq!(allowance.take(freed_at.plus_ms(256 * PART_MS), 1), Ok(()));
        assert_eq!(allowance.sent.len(), 1, "what is long past is not of today");
    }

    #[test]
    fn nothing_leaves_without_a_rate() {
        let now = Instant::from_millis(1000);
        assert!(Allowance::new().take(now, 1).is_err());
    }
}

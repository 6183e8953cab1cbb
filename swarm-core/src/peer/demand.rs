//! How much of the uplink goes to what neighbours ask for.

use crate::time::Instant;

/// It is looked at again after this long: about a segment.
const SPAN_MS: u64 = 4000;
/// Parts of the uplink that are told apart, and the most that may be set aside.
const PARTS: u64 = 8;
const PARTS_MAX: u64 = 6;
/// The parts set aside change when they are off by more than this many hundredths of one.
const OFF_PERCENT: u64 = 75;

/// What was sent because it was asked for, not because this viewer passes it on. Those whom few can
/// reach ask the few: who serves them is to pass on less, or everybody waits for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    bytes: u32,
    parts: u8,
    since: Option<Instant>,
    bps: u64,
}

impl Demand {
    pub(super) fn on_sent(&mut self, len: u32) {
        self.bytes = self.bytes.saturating_add(len);
    }

    /// Looks at the last span if it is over; the uplink carries `rate_bps`.
    pub(super) fn on_time(&mut self, now: Instant, rate_bps: u64) {
        let since = *self.since.get_or_insert(now);
        let ms = now.ms_since(since);
        if ms < SPAN_MS {
            return;
        }
        self.bps = (self.bps * 3 + u64::from(self.bytes) * 8000 / ms) / 4;
        (self.since, self.bytes) = (Some(now), 0);
        let percent = self.bps.saturating_mul(PARTS * 100) / rate_bps.max(1);
        if percent.abs_diff(u64::from(self.parts) * 100) > OFF_PERCENT {
            self.parts = ((percent + 50) / 100).min(PARTS_MAX) as u8;
        }
    }

    /// What is left of `weight` for passing on.
    pub(super) const fn rest_of(&self, weight: u64) -> u64 {
        weight * (PARTS - self.parts as u64) / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_BPS: u64 = 8_000_000;

    /// What is left of 800 after so many bytes a second for a minute.
    fn rest(demand: &mut Demand, from_ms: u64, bytes: u32) -> u64 {
        for second in 0..60 {
            demand.on_sent(bytes);
            demand.on_time(Instant::from_millis(from_ms + second * 1000), RATE_BPS);
        }
        demand.rest_of(800)
    }

    #[test]
    fn what_is_asked_for_is_set_aside_and_given_back() {
        let mut demand = Demand::default();
        assert_eq!(rest(&mut demand, 0, 0), 800);
        assert_eq!(rest(&mut demand, 100_000, 500_000), 400);
        assert_eq!(
            rest(&mut demand, 200_000, 540_000),
            400,
            "little has changed"
        );
        assert_eq!(
            rest(&mut demand, 300_000, 2_000_000),
            200,
            "never all of it"
        );
        assert_eq!(rest(&mut demand, 400_000, 0), 800);
    }
}

//! What the CDN gives this viewer, what the player is told of it, and what the downlink carries.

use crate::time::Instant;

/// Moving averages over CDN fetches, weighted by their length: small ranges say little.
#[derive(Clone, Debug, Default)]
pub(super) struct Estimate {
    cdn_bps: u64,
    ttfb_ms: u64,
}

/// Assumed before the first measurement.
const CDN_BPS_UNKNOWN: u64 = 4_000_000;
const TTFB_MS_UNKNOWN: u64 = 200;
/// A fetch of this many bytes counts half.
const WEIGHT_BYTES: u64 = 256 * 1024;
/// Shorter bodies are gone before they can be timed.
const SAMPLE_BYTES_MIN: u64 = 16 * 1024;

impl Estimate {
    /// A fetch is done, alone or while `beside` bytes of others came.
    pub(super) fn on_fetch_beside(&mut self, beside: u64, bytes: u64, ttfb_ms: u64, total_ms: u64) {
        let alone_bps = goodput_bps(bytes, ttfb_ms, total_ms);
        let shared_bps = goodput_bps(bytes + beside, 0, total_ms);
        self.on_sample(bytes, ttfb_ms, alone_bps.max(shared_bps));
    }

    pub(super) fn on_fetch(&mut self, bytes: u64, ttfb_ms: u64, total_ms: u64) {
        self.on_sample(bytes, ttfb_ms, goodput_bps(bytes, ttfb_ms, total_ms));
    }

    /// A fetch was cancelled that had brought `bytes`, the last of them after this long.
    pub(super) fn on_cancelled(&mut self, bytes: u64, total_ms: u64) {
        let sample = goodput_bps(bytes, self.ttfb_ms(), total_ms);
        self.on_sample(bytes, self.ttfb_ms(), sample);
    }

    fn on_sample(&mut self, bytes: u64, ttfb_ms: u64, sample: u64) {
        self.ttfb_ms = match self.ttfb_ms {
            0 => ttfb_ms.max(1),
            old => (old * 3 + ttfb_ms) / 4,
        };
        if bytes < SAMPLE_BYTES_MIN {
            return;
        }
        self.cdn_bps = match self.cdn_bps {
            0 => sample,
            old => {
                let total = u128::from(bytes + WEIGHT_BYTES);
                let sum = u128::from(old) * u128::from(WEIGHT_BYTES)
                    + u128::from(sample) * u128::from(bytes);
                u64::try_from(sum / total).unwrap_or(u64::MAX)
            }
        };
    }

    /// The rate that the CDN usually gives.
    pub(super) const fn cdn_bps(&self) -> u64 {
        if self.cdn_bps == 0 {
            CDN_BPS_UNKNOWN
        } else {
            self.cdn_bps
        }
    }

    pub(super) const fn is_measured(&self) -> bool {
        self.cdn_bps != 0
    }

    pub(super) const fn ttfb_ms(&self) -> u64 {
        if self.ttfb_ms == 0 {
            TTFB_MS_UNKNOWN
        } else {
            self.ttfb_ms
        }
    }

    /// How long `bytes` take from the CDN, request included.
    pub(super) const fn cdn_ms(&self, bytes: u64) -> u64 {
        self.ttfb_ms() + bytes.saturating_mul(8000) / self.cdn_bps()
    }

    /// The same on a bad day: two thirds of the usual rate.
    pub(super) const fn cdn_ms_worst(&self, bytes: u64) -> u64 {
        self.ttfb_ms() * 2 + bytes.saturating_mul(12_000) / self.cdn_bps()
    }
}

/// The most that has arrived lately, from everywhere together: a slow CDN is no thin downlink.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Downlink {
    /// Since when bytes are counted: the arrival of something that is not.
    from: Option<Instant>,
    bytes: u64,
    best_bps: u64,
}

/// Arrivals are counted over this long.
const ARRIVALS_MS: u64 = 500;
/// What was seen so long ago counts no more.
const SEEN_MS: u64 = 120_000;

impl Downlink {
    pub(super) fn on_arrival(&mut self, now: Instant, bytes: u64) {
        let Some(from) = self.from else {
            self.from = Some(now);
            return;
        };
        self.bytes += bytes;
        let ms = now.ms_since(from);
        if ms >= ARRIVALS_MS {
            let old_bps = self.best_bps.saturating_mul(SEEN_MS.saturating_sub(ms)) / SEEN_MS;
            self.best_bps = old_bps.max(self.bytes * 8000 / ms);
            (self.from, self.bytes) = (Some(now), 0);
        }
    }

    /// A rate that it has carried, in bit/s: at least this much.
    pub(super) const fn best_bps(&self) -> u64 {
        self.best_bps
    }

    /// It turned out to be worse than it had been.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// What a body of `bytes` says of the rate, the wait for its first byte left out.
pub(super) fn goodput_bps(bytes: u64, ttfb_ms: u64, total_ms: u64) -> u64 {
    bytes.saturating_mul(8000) / total_ms.saturating_sub(ttfb_ms).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ranges_barely_move_the_rate() {
        let mut estimate = Estimate::default();
        estimate.on_fetch(2_000_000, 50, 1050);
        assert_eq!(estimate.cdn_bps(), 16_000_000);
        estimate.on_fetch(1000, 50, 51);
        assert_eq!(estimate.cdn_bps(), 16_000_000);
        estimate.on_fetch(64 * 1024, 50, 51);
        assert!(estimate.cdn_bps() < 130_000_000);
    }

    #[test]
    fn fetches_beside_each_other_share_the_rate() {
        let mut estimate = Estimate::default();
        estimate.on_fetch_beside(300_000, 100_000, 50, 250);
        assert_eq!(estimate.cdn_bps(), 12_800_000);
    }

    #[test]
    fn the_downlink_is_what_its_best_half_second_was_and_fades() {
        let mut downlink = Downlink::default();
        let mut now = Instant::from_millis(5000);
        for _ in 0..21 {
            downlink.on_arrival(now, 50_000);
            now = now.plus_ms(50);
        }
        assert_eq!(downlink.best_bps(), 8_000_000);
        for _ in 0..100 {
            now = now.plus_ms(1000);
            downlink.on_arrival(now, 1000);
        }
        let later_bps = downlink.best_bps();
        assert!((2_000_000..5_000_000).contains(&later_bps), "{later_bps}");
        downlink.forget();
        assert_eq!(downlink.best_bps(), 0);
    }

    #[test]
    fn the_expected_time_counts_request_and_body() {
        let mut estimate = Estimate::default();
        estimate.on_fetch(1_000_000, 100, 1100);
        assert_eq!(estimate.cdn_ms(1_000_000), 1100);
        assert_eq!(estimate.cdn_ms_worst(1_000_000), 1700);
    }
}

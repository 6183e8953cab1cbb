//! Slows deliveries down to the bandwidth that a player's ABR logic should believe in, but never so
//! far that playback could miss them.

use std::time::Duration;

use tokio::time::Instant;

/// Shares of a segment's duration within which it is delivered at the latest: one in this many.
const DURATION_SHARE: u32 = 2;
/// Bytes sent without a pause between.
pub(crate) const SLICE_BYTES: usize = 16 * 1024;
/// Pauses shorter than this in all are left out.
const WORTH_IT: Duration = Duration::from_millis(5);

/// When the bytes of one delivery may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    from: Instant,
    per_byte_ns: u64,
}

impl Pace {
    /// Without pauses.
    pub(crate) fn none() -> Self {
        Self {
            from: Instant::now(),
            per_byte_ns: 0,
        }
    }

    /// The pace for the last `left` of `len` bytes of a segment of this duration that was asked for
    /// at `asked` and of which the player should believe that it came at `bps`.
    pub(crate) fn plan(
        asked: Instant,
        now: Instant,
        len: u64,
        left: u64,
        bps: u64,
        duration: Duration,
    ) -> Self {
        let believable = match bps {
            0 => Duration::ZERO,
            _ => Duration::from_micros(len.saturating_mul(8_000_000) / bps),
        };
        let all = believable.min(duration / DURATION_SHARE);
        let rest = all.saturating_sub(now.duration_since(asked));
        if rest < WORTH_IT || left == 0 {
            return Self {
                from: now,
                per_byte_ns: 0,
            };
        }
        Self {
            from: now,
            per_byte_ns: rest.as_nanos() as u64 / left,
        }
    }

    /// Whether there are pauses at all.
    pub(crate) fn pauses(&self) -> bool {
        self.per_byte_ns > 0
    }

    /// When the first `sent` bytes may have gone.
    pub(crate) fn due(&self, sent: u64) -> Instant {
        self.from + Duration::from_nanos(self.per_byte_ns.saturating_mul(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_take_the_time_that_the_bandwidth_says() {
        let asked = Instant::now();
        let pace = Pace::plan(asked, asked, 125_000, 125_000, 2_000_000, 4 * SECOND);
        assert_eq!(pace.due(125_000) - asked, SECOND / 2);
        let later = asked + SECOND / 4;
        let pace = Pace::plan(asked, later, 125_000, 25_000, 2_000_000, 4 * SECOND);
        assert_eq!(pace.due(25_000) - later, SECOND / 4);
    }

    #[test]
    fn never_slower_than_playback_allows_and_never_late() {
        let asked = Instant::now();
        let pace = Pace::plan(asked, asked, 1_000_000, 1_000_000, 1000, 4 * SECOND);
        assert_eq!(pace.due(1_000_000) - asked, 2 * SECOND);
        assert!(!Pace::plan(asked, asked + SECOND, 100, 100, 8000, 4 * SECOND).pauses());
        assert!(!Pace::plan(asked, asked, 100, 100, 0, 4 * SECOND).pauses());
        assert!(!Pace::none().pauses());
    }
}

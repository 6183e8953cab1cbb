//! Spreads datagrams over time, so that a burst does not overflow the receiver's socket.

use std::time::{Duration, Instant};

/// What may leave at once after a pause, in bytes. Together with one segmented send it stays below
/// what the default socket buffer of a Linux browser holds: about 90 datagrams.
const BURST_BYTES: u32 = 48 * 1024;

/// A token bucket that keeps the time at which it will be full again.
#[derive(Debug)]
pub(super) struct Pacer {
    time_per_byte: Duration,
    burst: Duration,
    full_at: Instant,
}

impl Pacer {
    /// Lets `bits_per_s` through, at least 1 Mbit/s.
    pub(super) fn new(bits_per_s: u64, now: Instant) -> Self {
        let time_per_byte = Duration::from_nanos(8_000_000_000 / bits_per_s.max(1_000_000));
        Self {
            time_per_byte,
            burst: time_per_byte * BURST_BYTES,
            full_at: now,
        }
    }

    /// When the next datagram may leave, unless at once.
    pub(super) fn plan_wait(&self, now: Instant) -> Option<Instant> {
        (self.full_at > now + self.burst).then(|| self.full_at - self.burst)
    }

    /// Records that `bytes` left.
    pub(super) fn on_sent(&mut self, now: Instant, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + self.time_per_byte * bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let start = Instant::now();
        let mut now = start;
        let mut pacer = Pacer::new(100_000_000, now);
        let mut sent = 0;
        while pacer.plan_wait(now).is_none() {
            pacer.on_sent(now, 1200);
            sent += 1200;
        }
        assert!((BURST_BYTES..BURST_BYTES + 2400).contains(&sent), "{sent}");
        while sent < 10_000_000 {
            now = pacer.plan_wait(now).unwrap_or(now);
            pacer.on_sent(now, 1200);
            sent += 1200;
        }
        let mbps = f64::from(sent) * 8e-6 / (now - start).as_secs_f64();
        assert!((99.0..102.0).contains(&mbps), "{mbps}");
    }
}

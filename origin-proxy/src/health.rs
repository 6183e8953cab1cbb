//! Which origins are up, as far as requests and checks tell.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::config::UpstreamConfig;

/// How one origin does.
pub(crate) struct Health {
    failures_max: u32,
    down: Duration,
    born: Instant,
    /// In a row.
    failures: AtomicU32,
    /// In milliseconds since `born`.
    down_until_ms: AtomicU64,
}

impl Health {
    pub(crate) fn new(config: &UpstreamConfig) -> Self {
        Self {
            failures_max: config.failures_max,
            down: Duration::from_millis(config.down_ms),
            born: Instant::now(),
            failures: AtomicU32::new(0),
            down_until_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.now_ms() >= self.down_until_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn on_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.down_until_ms.store(0, Ordering::Relaxed);
    }

    /// Returns whether it counts as down from here on and did not before.
    pub(crate) fn on_failure(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < self.failures_max {
            return false;
        }
        let until_ms = self.now_ms() + u64::try_from(self.down.as_millis()).unwrap_or(u64::MAX / 2);
        self.down_until_ms.store(until_ms, Ordering::Relaxed);
        failures == self.failures_max
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_take_an_origin_down_and_one_success_brings_it_back() {
        let health = Health::new(&UpstreamConfig {
            failures_max: 2,
            ..UpstreamConfig::default()
        });
        assert!(!health.on_failure());
        health.on_success();
        assert!(!health.on_failure() && health.is_up());
        assert!(health.on_failure() && !health.is_up());
        assert!(!health.on_failure() && !health.is_up(), "told once");
        health.on_success();
        assert!(health.is_up());
    }
}

//! Which origins are up, as far as requests and checks tell.
//!
//! The two are counted apart: an origin may answer checks at once and hang at media. What requests have found
//! out, only a request can end, and what checks have found out, only a check.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::config::UpstreamConfig;

/// How one origin does.
pub(crate) struct Health {
    failures_max: u32,
    down: Duration,
    born: Instant,
    /// Of requests, in a row.
    failures: AtomicU32,
    /// When it may be tried again after it has failed requests, in milliseconds since `born`; 0 while it is up.
    try_at_ms: AtomicU64,
    /// Of checks, in a row.
    check_failures: AtomicU32,
    has_failed_checks: AtomicBool,
}

impl Health {
    pub(crate) fn new(config: &UpstreamConfig) -> Self {
        Self {
            failures_max: config.failures_max,
            down: Duration::from_millis(config.down_ms),
            born: Instant::now(),
            failures: AtomicU32::new(0),
            try_at_ms: AtomicU64::new(0),
            check_failures: AtomicU32::new(0),
            has_failed_checks: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.try_at_ms.load(Ordering::Relaxed) == 0
            && !self.has_failed_checks.load(Ordering::Relaxed)
    }

    /// Whether there is hope that it answers: it is up, or has not been tried for long enough.
    pub(crate) fn may_be_up(&self) -> bool {
        self.now_ms() >= self.try_at_ms.load(Ordering::Relaxed)
            && !self.has_failed_checks.load(Ordering::Relaxed)
    }

    /// Whether the caller is to find out if it does better than when it failed requests: one caller in the
    /// time that it is left alone for. Checks find out for themselves.
    pub(crate) fn is_try_due(&self) -> bool {
        let now_ms = self.now_ms();
        let next_ms = self.after_pause(now_ms);
        let due = |at_ms: u64| (at_ms != 0 && now_ms >= at_ms).then_some(next_ms);
        let order = Ordering::Relaxed;
        !self.has_failed_checks.load(order)
            && self.try_at_ms.fetch_update(order, order, due).is_ok()
    }

    /// Notes that a request got an answer.
    pub(crate) fn on_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.try_at_ms.store(0, Ordering::Relaxed);
    }

    /// Notes that a request got none. Returns whether the origin counts as down from here on and did not
    /// before.
    pub(crate) fn on_failure(&self) -> bool {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures < self.failures_max {
            return false;
        }
        let try_at_ms = self.after_pause(self.now_ms());
        self.try_at_ms.swap(try_at_ms, Ordering::Relaxed) == 0
    }

    /// Notes how a check went. Returns whether the origin counts as down from here on and did not before.
    pub(crate) fn on_check(&self, is_well: bool) -> bool {
        if is_well {
            self.check_failures.store(0, Ordering::Relaxed);
            self.has_failed_checks.store(false, Ordering::Relaxed);
            return false;
        }
        let failures = self
            .check_failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        failures >= self.failures_max && !self.has_failed_checks.swap(true, Ordering::Relaxed)
    }

    fn after_pause(&self, now_ms: u64) -> u64 {
        let down_ms = u64::try_from(self.down.as_millis()).unwrap_or(u64::MAX / 2);
        now_ms.saturating_add(down_ms).max(1)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(down_ms: u64) -> Health {
        Health::new(&UpstreamConfig {
            failures_max: 2,
            down_ms,
            ..UpstreamConfig::default()
        })
    }

    #[test]
    fn failures_in_a_row_take_an_origin_down_and_one_success_brings_it_back() {
        let health = health(5000);
        assert!(!health.on_failure());
        health.on_success();
        assert!(!health.on_failure() && health.is_up());
        assert!(health.on_failure() && !health.is_up());
        assert!(!health.on_failure() && !health.is_up(), "told once");
        assert!(
            !health.is_try_due() && !health.may_be_up(),
            "it is left alone"
        );
        health.on_success();
        assert!(health.is_up());
    }

    #[test]
    fn who_has_been_down_for_long_enough_is_tried_and_not_trusted() {
        let patient = health(0);
        assert!(!patient.is_try_due(), "it is up");
        patient.on_failure();
        patient.on_failure();
        std::thread::sleep(Duration::from_millis(2));
        assert!(patient.may_be_up() && patient.is_try_due() && !patient.is_up());
        let health = health(3_600_000);
        health.try_at_ms.store(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(health.is_try_due() && !health.is_try_due(), "one tries");
        assert!(!health.is_up());
    }

    #[test]
    fn checks_and_requests_do_not_speak_for_each_other() {
        let health = health(5000);
        health.on_failure();
        assert!(!health.on_check(true));
        assert!(health.on_failure(), "a check is no success");
        health.on_check(true);
        assert!(!health.is_up());
        health.on_success();
        assert!(!health.on_check(false) && health.is_up());
        assert!(health.on_check(false) && !health.is_up());
        health.on_success();
        assert!(!health.is_up() && !health.on_check(false), "told once");
        health.on_check(true);
        assert!(health.is_up());
    }
}

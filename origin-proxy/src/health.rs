//! Which origins are up, as far as requests and checks tell.
//!
//! The two are counted apart: an origin may answer checks at once and hang at media. What requests have found
//! out, only a request can end, and what checks have found out, only a check. Requests are counted by what they bring: an
//! origin whose storage hangs may have all its playlists, or a head for every request and no whole body.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use http::HeaderMap;

use crate::{config::UpstreamConfig, playlist::Format};

/// What requests bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aspect {
    ListHead,
    ListBody,
    MediaHead,
    MediaBody,
}

impl Aspect {
    /// The head of an answer to a request for `path`: that of a playlist or manifest, or of what they list.
    pub(crate) fn head_of(path: &str) -> Self {
        match Format::of(path, &HeaderMap::new()) {
            Format::Other => Self::MediaHead,
            Format::Hls | Format::Dash => Self::ListHead,
        }
    }

    /// The body after this head.
    pub(crate) fn body(self) -> Self {
        match self {
            Self::ListHead | Self::ListBody => Self::ListBody,
            Self::MediaHead | Self::MediaBody => Self::MediaBody,
        }
    }

    /// What is known to be fine once this one is there. Who has media has lists as well, which are not asked for as
    /// often by requests that may try an origin.
    fn proves(self) -> &'static [Self] {
        match self {
            Self::ListHead => &[Self::ListHead],
            Self::ListBody => &[Self::ListBody],
            Self::MediaHead => &[Self::ListHead, Self::MediaHead],
            Self::MediaBody => &[Self::ListBody, Self::MediaBody],
        }
    }
}

/// How one origin does.
pub(crate) struct Health {
    failures_max: u32,
    down: Duration,
    born: Instant,
    /// Of each aspect: how often it was missing since it was last there.
    failures: [AtomicU32; 4],
    /// Of requests, for whatever, in a row.
    unanswered: AtomicU32,
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
            failures: Default::default(),
            unanswered: AtomicU32::new(0),
            try_at_ms: AtomicU64::new(0),
            check_failures: AtomicU32::new(0),
            has_failed_checks: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.try_at_ms.load(Ordering::Relaxed) == 0
            && !self.has_failed_checks.load(Ordering::Relaxed)
    }

    /// Whether there is hope that it answers: it does answer something, or has not been tried for long enough. One
    /// object that it fails at does not make a whole edge useless.
    pub(crate) fn may_be_up(&self) -> bool {
        let answers = self.unanswered.load(Ordering::Relaxed) < self.failures_max;
        (answers || self.now_ms() >= self.try_at_ms.load(Ordering::Relaxed))
            && !self.has_failed_checks.load(Ordering::Relaxed)
    }

    /// Whether the caller is to find out if it does better than when it failed requests, by one whose answer begins
    /// with `head`: one caller in the time that it is left alone for, of those that ask for what it has failed at.
    /// Checks find out for themselves.
    pub(crate) fn is_try_due(&self, head: Aspect) -> bool {
        let mut proven = [head, head.body()].into_iter().flat_map(Aspect::proves);
        let has_failed =
            |aspect: &Aspect| self.failures[*aspect as usize].load(Ordering::Relaxed) > 0;
        if !proven.any(has_failed) {
            return false;
        }
        let now_ms = self.now_ms();
        let next_ms = self.after_pause(now_ms);
        let due = |at_ms: u64| (at_ms != 0 && now_ms >= at_ms).then_some(next_ms);
        let order = Ordering::Relaxed;
        !self.has_failed_checks.load(order)
            && self.try_at_ms.fetch_update(order, order, due).is_ok()
    }

    /// Notes that a request brought `aspect`.
    pub(crate) fn on_success(&self, aspect: Aspect) {
        self.unanswered.store(0, Ordering::Relaxed);
        for proven in aspect.proves() {
            self.failures[*proven as usize].store(0, Ordering::Relaxed);
        }
        if !self.has_failed() {
            self.try_at_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a request did not bring `aspect`. Returns whether the origin counts as down from here on and did not
    /// before.
    pub(crate) fn on_failure(&self, aspect: Aspect) -> bool {
        let add = |failures: u32| Some(failures.saturating_add(1));
        let order = Ordering::Relaxed;
        let _ = self.failures[aspect as usize].fetch_update(order, order, add);
        if matches!(aspect, Aspect::ListHead | Aspect::MediaHead) {
            let _ = self.unanswered.fetch_update(order, order, add);
        }
        if !self.has_failed() {
            return false;
        }
        let try_at_ms = self.after_pause(self.now_ms());
        self.try_at_ms.swap(try_at_ms, order) == 0
    }

    fn has_failed(&self) -> bool {
        let failures = self
            .failures
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        failures.fold(0, u32::saturating_add) >= self.failures_max
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
        assert!(!health.on_failure(Aspect::MediaHead));
        health.on_success(Aspect::MediaHead);
        assert!(!health.on_failure(Aspect::MediaHead) && health.is_up());
        assert!(health.on_failure(Aspect::MediaHead) && !health.is_up());
        assert!(
            !health.on_failure(Aspect::MediaHead) && !health.is_up(),
            "told once"
        );
        assert!(
            !health.is_try_due(Aspect::MediaHead) && !health.may_be_up(),
            "it is left alone"
        );
        health.on_success(Aspect::MediaHead);
        assert!(health.is_up());
    }

    #[test]
    fn who_has_been_down_for_long_enough_is_tried_and_not_trusted() {
        let patient = health(0);
        assert!(!patient.is_try_due(Aspect::MediaHead), "it is up");
        patient.on_failure(Aspect::MediaHead);
        patient.on_failure(Aspect::MediaHead);
        std::thread::sleep(Duration::from_millis(2));
        assert!(patient.may_be_up() && patient.is_try_due(Aspect::MediaHead) && !patient.is_up());
        let health = health(3_600_000);
        health.on_failure(Aspect::MediaBody);
        health.on_failure(Aspect::MediaBody);
        health.try_at_ms.store(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        assert!(
            !health.is_try_due(Aspect::ListHead),
            "that says nothing of media"
        );
        assert!(
            health.is_try_due(Aspect::MediaHead) && !health.is_try_due(Aspect::MediaHead),
            "one tries"
        );
        assert!(!health.is_up());
    }

    #[test]
    fn what_requests_bring_does_not_speak_for_what_they_do_not() {
        use Aspect::{ListBody, ListHead, MediaBody, MediaHead};
        for (missing, others, proof) in [
            (MediaHead, &[ListHead, ListBody, MediaBody][..], MediaHead),
            (MediaBody, &[ListHead, ListBody, MediaHead], MediaBody),
            (ListBody, &[ListHead, MediaHead], ListBody),
            (ListHead, &[ListBody, MediaBody], MediaHead),
        ] {
            let health = health(5000);
            let go_on = || others.iter().for_each(|aspect| health.on_success(*aspect));
            assert!(!health.on_failure(missing), "{missing:?}");
            go_on();
            assert!(health.on_failure(missing), "{missing:?}");
            go_on();
            assert!(!health.is_up() && health.may_be_up(), "{missing:?}");
            assert!(!health.on_failure(missing), "told once");
            health.on_success(proof);
            assert!(health.is_up(), "{missing:?}");
        }
    }

    #[test]
    fn failures_of_every_kind_add_up() {
        let health = health(5000);
        assert!(!health.on_failure(Aspect::ListHead));
        assert!(health.on_failure(Aspect::MediaBody) && !health.is_up());
        health.on_success(Aspect::MediaBody);
        assert!(health.is_up());
    }

    #[test]
    fn checks_and_requests_do_not_speak_for_each_other() {
        let health = health(5000);
        health.on_failure(Aspect::MediaHead);
        assert!(!health.on_check(true));
        assert!(
            health.on_failure(Aspect::MediaHead),
            "a check is no success"
        );
        health.on_check(true);
        assert!(!health.is_up());
        health.on_success(Aspect::MediaHead);
        assert!(!health.on_check(false) && health.is_up());
        assert!(health.on_check(false) && !health.is_up());
        health.on_success(Aspect::MediaHead);
        assert!(!health.is_up() && !health.on_check(false), "told once");
        health.on_check(true);
        assert!(health.is_up());
    }
}

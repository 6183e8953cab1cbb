//! What is done with each token: who passes one on to others gains little.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use crate::{
    admission::Bearer,
    config::LimitsConfig,
    kicked::BearerMark,
    quota::{Bucket, Ring},
};

/// Tokens that are remembered; beyond it those that nobody uses now are forgotten.
const BEARERS_MAX: usize = 1_000_000;
/// Tokens that are looked at for that with each new one: no single one pays for all.
const FORGET_STEP: usize = 16;

/// All tokens in use.
#[derive(Debug)]
pub(crate) struct Bearers {
    connections_max: u32,
    joins_max: u32,
    messages: (u32, u32),
    bearers_max: usize,
    used: Mutex<Ring<Used>>,
}

#[derive(Debug)]
struct Used {
    connections: u32,
    joins: u32,
    until: SystemTime,
    /// What its connections may still say, all together.
    messages: Arc<Mutex<Bucket>>,
}

/// One connection with a token; given back when dropped.
#[derive(Debug)]
pub(crate) struct HeldBearer {
    bearers: Arc<Bearers>,
    key: u128,
    messages: Arc<Mutex<Bucket>>,
}

impl Bearers {
    pub(crate) fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.connections_per_token_max,
            joins_max: limits.joins_per_token_max,
            messages: (
                limits.messages_per_token_burst,
                limits.messages_per_token_per_s,
            ),
            bearers_max: BEARERS_MAX,
            used: Mutex::default(),
        })
    }

    /// Counts a join; `None` if the token was used too often, or is in use too often, or if it is new
    /// and too many others are.
    pub(crate) fn hold(self: &Arc<Self>, bearer: Bearer) -> Option<HeldBearer> {
        let mut used = self.lock();
        if used.entries.len() >= self.bearers_max && !used.entries.contains_key(&bearer.key) {
            let now = SystemTime::now();
            let idle = |used: &Used| used.connections == 0;
            // Better that one which has not ended is counted anew than that nobody new may come.
            let ended = used.forget_some::<FORGET_STEP>(|used| idle(used) && used.until <= now);
            if !ended && !used.forget_some::<FORGET_STEP>(idle) {
                return None;
            }
        }
        let entry = used.entries.entry(bearer.key).or_insert(Used {
            connections: 0,
            joins: 0,
            until: bearer.until,
            messages: Arc::new(Mutex::new(Bucket::full(self.messages.0, Instant::now()))),
        });
        if bearer.until > entry.until {
            // A newer token of the same subject.
            (entry.joins, entry.until) = (0, bearer.until);
        }
        if entry.connections >= self.connections_max || entry.joins >= self.joins_max {
            return None;
        }
        entry.connections += 1;
        entry.joins += 1;
        Some(HeldBearer {
            bearers: Arc::clone(self),
            key: bearer.key,
            messages: Arc::clone(&entry.messages),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ring<Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldBearer {
    /// What tells it from others, in short.
    pub(crate) const fn mark(&self) -> Option<BearerMark> {
        BearerMark::new(self.key as u64)
    }

    /// Whether it is this holder's.
    pub(crate) const fn is_of(&self, bearer: &Bearer) -> bool {
        self.key == bearer.key
    }

    /// Whether the token's holders may say one thing more.
    pub(crate) fn take_message(&self, now: Instant) -> bool {
        let (burst, per_s) = self.bearers.messages;
        let mut bucket = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(burst, per_s, now)
    }
}

impl Drop for HeldBearer {
    fn drop(&mut self) {
        if let Some(entry) = self.bearers.lock().entries.get_mut(&self.key) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_connections_of_a_token_share_its_messages() {
        let bearers = Bearers::new(&LimitsConfig {
            messages_per_token_burst: 3,
            messages_per_token_per_s: 1,
            ..LimitsConfig::default()
        });
        let until = SystemTime::now() + Duration::from_secs(60);
        let hold = |key| bearers.hold(Bearer { key, until }).unwrap();
        let (first, second, other) = (hold(1), hold(1), hold(2));
        let now = Instant::now();
        assert!(first.take_message(now) && second.take_message(now) && first.take_message(now));
        assert!(!first.take_message(now) && !second.take_message(now));
        assert!(other.take_message(now), "others are not concerned");
        drop((first, second));
        let again = hold(1);
        assert!(!again.take_message(now), "a new connection is no way out");
        assert!(again.take_message(now + Duration::from_secs(2)));
    }

    #[test]
    fn new_tokens_take_the_place_of_those_that_nobody_uses() {
        let mut bearers = Arc::into_inner(Bearers::new(&LimitsConfig::default())).unwrap();
        bearers.bearers_max = 10;
        let bearers = Arc::new(bearers);
        let until = SystemTime::now() + Duration::from_secs(60);
        let hold = |key, until| bearers.hold(Bearer { key, until });
        let used: Vec<_> = (0..4).filter_map(|key| hold(key, until)).collect();
        drop(hold(4, SystemTime::now()));
        for key in 5..1_000 {
            assert!(hold(key, until).is_some(), "{key}");
        }
        let entries = || bearers.used.lock().unwrap().entries.len();
        assert!(entries() <= 10 && used.len() == 4, "{}", entries());
        let full: Vec<_> = (2_000..2_100).filter_map(|key| hold(key, until)).collect();
        assert_eq!(full.len(), 6, "all are in use");
        assert!(hold(0, until).is_some(), "those that are known go on");
    }

    #[test]
    fn a_token_has_a_number_of_connections_and_of_joins() {
        let bearers = Bearers::new(&LimitsConfig {
            connections_per_token_max: 2,
            joins_per_token_max: 3,
            ..LimitsConfig::default()
        });
        let until = SystemTime::now() + Duration::from_secs(60);
        let bearer = Bearer { key: 1, until };
        let first = bearers.hold(bearer).unwrap();
        let _second = bearers.hold(bearer).unwrap();
        assert!(bearers.hold(bearer).is_none(), "two at a time");
        drop(first);
        let third = bearers.hold(bearer).unwrap();
        drop(third);
        assert!(bearers.hold(bearer).is_none(), "three in its life");
        assert!(
            bearers.hold(Bearer { key: 2, until }).is_some(),
            "others are not concerned"
        );
        let newer = Bearer {
            key: 1,
            until: until + Duration::from_secs(60),
        };
        assert!(
            bearers.hold(newer).is_some(),
            "the same subject's next token"
        );
    }
}

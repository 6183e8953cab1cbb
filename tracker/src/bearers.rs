//! What is done with each token: who passes one on to others gains little.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use crate::{admission::Bearer, config::LimitsConfig, quota::Bucket};

/// Tokens that are remembered; beyond it no new ones are accepted until some have ended.
const BEARERS_MAX: usize = 1_000_000;

/// All tokens in use.
#[derive(Debug)]
pub(crate) struct Bearers {
    connections_max: u32,
    joins_max: u32,
    messages: (u32, u32),
    used: Mutex<HashMap<u128, Used>>,
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
            used: Mutex::new(HashMap::new()),
        })
    }

    /// Counts a join; `None` if the token was used too often, or is in use too often.
    pub(crate) fn hold(self: &Arc<Self>, bearer: Bearer) -> Option<HeldBearer> {
        let mut used = self.lock();
        if used.len() >= BEARERS_MAX {
            let now = SystemTime::now();
            used.retain(|_, u| u.connections > 0 || u.until > now);
        }
        if used.len() >= BEARERS_MAX && !used.contains_key(&bearer.key) {
            return None;
        }
        let entry = used.entry(bearer.key).or_insert(Used {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldBearer {
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
        if let Some(entry) = self.bearers.lock().get_mut(&self.key) {
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

//! What is done with each token: who passes one on to others gains little.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::{admission::Bearer, config::LimitsConfig};

/// Tokens that are remembered; beyond it no new ones are accepted until some have ended.
const BEARERS_MAX: usize = 1_000_000;

/// All tokens in use.
#[derive(Debug)]
pub(crate) struct Bearers {
    connections_max: u32,
    joins_max: u32,
    used: Mutex<HashMap<u128, Used>>,
}

#[derive(Debug)]
struct Used {
    connections: u32,
    joins: u32,
    until: SystemTime,
}

/// One connection with a token; given back when dropped.
#[derive(Debug)]
pub(crate) struct HeldBearer {
    bearers: Arc<Bearers>,
    key: u128,
}

impl Bearers {
    pub(crate) fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.connections_per_token_max,
            joins_max: limits.joins_per_token_max,
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
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
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

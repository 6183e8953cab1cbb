//! Sends viewers away, spread over a time, so that they do not all come back at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::ConnId,
    limits::PLACES_MAX,
    rng::Rng,
    wire::tracker::{TrackerMsg, is_place},
};
use tokio::time::Instant;

use crate::{Error, config::LimitsConfig, sink::Sink};

/// Other trackers that are named to viewers, at most.
const CONFIGURED_MAX: usize = 64;

/// Where viewers go when this tracker sends them away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// The addresses of other trackers with the same `name_key`. If empty: those of the cluster's
    /// other nodes, and without any the address that the viewer came to.
    pub places: Vec<String>,
}

impl DrainConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let usable = self.places.iter().all(|place| is_place(place));
        if usable && self.places.len() <= CONFIGURED_MAX {
            return Ok(());
        }
        let what = "drain.places: at most 64 addresses, ws:// or wss://, of 256 bytes";
        Err(Error::Config(what.into()))
    }
}

/// How often the next ones are sent away.
const STEP: Duration = Duration::from_millis(100);

/// Viewers that are still to be sent away.
#[derive(Debug)]
pub(crate) struct Farewell<C = ConnId> {
    waiting: Vec<C>,
    until: Instant,
    next: Instant,
}

impl<C> Farewell<C> {
    /// The last of `conns` is due `over` from now.
    pub(crate) fn new(conns: Vec<C>, now: Instant, over: Duration) -> Self {
        Self {
            waiting: conns,
            until: now.checked_add(over).unwrap_or(now),
            next: now,
        }
    }

    /// When to ask for more; `None` at the end.
    pub(crate) fn wakeup_at(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next)
    }

    /// Those that are due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<C> {
        if now < self.next {
            return Vec::new();
        }
        self.next = now + STEP;
        let left = self.until.saturating_duration_since(now);
        let steps = (left.as_millis() / STEP.as_millis()) as usize + 1;
        let count = self.waiting.len().div_ceil(steps);
        self.waiting.split_off(self.waiting.len() - count)
    }
}

/// Where viewers that are sent away find a tracker.
#[derive(Debug)]
pub(crate) struct Places {
    configured: Vec<String>,
    /// Those of the cluster's other nodes that take viewers in.
    nodes: Mutex<Vec<String>>,
}

impl Places {
    pub(crate) fn new(config: &DrainConfig) -> Self {
        Self {
            configured: config.places.clone(),
            nodes: Mutex::default(),
        }
    }

    /// The other nodes' addresses have changed.
    pub(crate) fn set_nodes(&self, places: Vec<String>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// Some of them for one viewer; each comes first as often as the others.
    fn pick(&self, random: &mut Rng) -> Vec<String> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = if self.configured.is_empty() {
            nodes.clone()
        } else {
            self.configured.clone()
        };
        drop(nodes);
        if let Some(last) = places.len().checked_sub(1) {
            places.rotate_left(random.at_most(last as u64) as usize);
        }
        places.truncate(PLACES_MAX);
        places
    }
}

/// Tells viewers when and where to come back, and closes their connections.
#[derive(Debug)]
pub(crate) struct Goodbye {
    after_ms: u32,
    jitter_ms: u32,
    places: Arc<Places>,
    random: Rng,
}

impl Goodbye {
    pub(crate) fn new(limits: &LimitsConfig, places: Arc<Places>, seed: u64) -> Self {
        Self {
            after_ms: limits.reconnect_after_ms,
            jitter_ms: limits.reconnect_jitter_ms,
            places,
            random: Rng::new(seed),
        }
    }

    /// Sends one viewer away.
    pub(crate) fn say(&mut self, sink: &Sink) {
        let jitter_ms = self.random.at_most(u64::from(self.jitter_ms)) as u32;
        let after_ms = self.after_ms.saturating_add(jitter_ms);
        let places = self.places.pick(&mut self.random);
        let places = places.iter().map(String::as_str).collect();
        let mut frame = Vec::new();
        TrackerMsg::Reconnect { after_ms, places }.encode(&mut frame);
        sink.push(&frame);
        sink.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_first_for_some_and_the_configured_ones_go_before_nodes() {
        let mut random = Rng::new(7);
        let config = |places: &[&str]| DrainConfig {
            places: places.iter().map(ToString::to_string).collect(),
        };
        let places = Places::new(&config(&[]));
        assert!(places.pick(&mut random).is_empty());
        let nodes: Vec<String> = (0..6).map(|n| format!("wss://node-{n}")).collect();
        places.set_nodes(nodes.clone());
        let mut first = std::collections::BTreeMap::<String, u32>::new();
        for _ in 0..600 {
            let picked = places.pick(&mut random);
            assert_eq!(picked.len(), PLACES_MAX);
            *first.entry(picked[0].clone()).or_default() += 1;
        }
        assert!(nodes.iter().all(|n| first[n] > 50), "{first:?}");
        let places = Places::new(&config(&["wss://b.example"]));
        places.set_nodes(nodes);
        assert_eq!(places.pick(&mut random), ["wss://b.example"]);
    }

    #[test]
    fn viewers_go_evenly_and_all_within_the_time() {
        let start = Instant::now();
        let conns = (0..1_000).map(ConnId).collect();
        let mut farewell = Farewell::new(conns, start, Duration::from_secs(10));
        let mut gone = 0;
        while let Some(at) = farewell.wakeup_at() {
            let due = farewell.due(at).len();
            assert!((5..=20).contains(&due), "{due} at once");
            gone += due;
            assert!(at <= start + Duration::from_secs(10));
        }
        assert_eq!(gone, 1_000);
        let mut at_once = Farewell::new(vec![ConnId(1), ConnId(2)], start, Duration::ZERO);
        assert_eq!(at_once.due(start).len(), 2);
    }
}

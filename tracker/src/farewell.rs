//! Sends viewers away, spread over a time, so that they do not all come back at once.

use std::time::Duration;

use swarm_core::{directory::ConnId, rng::Rng, wire::tracker::TrackerMsg};
use tokio::time::Instant;

use crate::{config::LimitsConfig, sink::Sink};

/// How often the next ones are sent away.
const STEP: Duration = Duration::from_millis(100);

/// Viewers that are still to be sent away.
#[derive(Debug)]
pub(crate) struct Farewell {
    waiting: Vec<ConnId>,
    until: Instant,
    next: Instant,
}

impl Farewell {
    /// The last of `conns` is due `over` from now.
    pub(crate) fn new(conns: Vec<ConnId>, now: Instant, over: Duration) -> Self {
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
    pub(crate) fn due(&mut self, now: Instant) -> Vec<ConnId> {
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

/// Tells a viewer when to come back, and closes its connection.
pub(crate) fn send_away(sink: &Sink, limits: &LimitsConfig, jitter: &mut Rng) {
    let random_ms = jitter.at_most(u64::from(limits.reconnect_jitter_ms)) as u32;
    let after_ms = limits.reconnect_after_ms.saturating_add(random_ms);
    let mut frame = Vec::new();
    TrackerMsg::Reconnect { after_ms }.encode(&mut frame);
    sink.push(&frame);
    sink.close();
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! The world: parts with viewers, the tracker, and the windows of time in which they go on side by
//! side.
//!
//! No message between parts, or between a viewer and the tracker, takes less than a window; so
//! within one every part can go on by itself, whichever thread it is on. What they send each other
//! is handed over between windows, in the order of the parts. So the number of threads changes
//! nothing of what happens.

pub(crate) mod catalog;
mod cdn;
mod checks;
mod driver;
mod event;
mod faults;
pub(crate) mod letters;
mod links;
mod network;
pub(crate) mod node;
mod part;
mod tracker;
mod turns;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard};

use swarm_core::rng::mix;

use crate::{measure::Metrics, options::Options, reach};
use letters::WINDOW_US;
use node::Played;
use part::Part;
use tracker::Tracker;
use turns::Turns;

/// The run begins at this moment, so that there are older segments.
pub(crate) const ORIGIN_US: u64 = 1_000_000_000;
/// How often the progress is told, in simulated microseconds.
const PROGRESS_US: u64 = 100_000;

/// What came of a world.
pub(crate) struct Outcome {
    pub(crate) metrics: Metrics,
    pub(crate) played: Vec<Played>,
    /// What the first viewers were told.
    pub(crate) trace: Vec<String>,
    pub(crate) hash: u64,
    pub(crate) events: u64,
}

/// A world with or without peers.
pub(crate) struct World {
    end: u64,
    /// Of the lowest rendition: what uplinks carry is bounded whatever players choose.
    rate_bps: f64,
    parts: Vec<Mutex<Part>>,
    tracker: Mutex<Tracker>,
}

impl World {
    /// The world of `options`; its CDN-only twin if `enabled` is false. So many viewers' inputs are
    /// written down.
    pub(crate) fn new(options: &Arc<Options>, enabled: bool, trace_viewers: u32) -> Self {
        let parts =
            (0..options.parts()).map(|index| Part::new(options, index, enabled, trace_viewers));
        Self {
            end: ORIGIN_US + options.end_us(),
            rate_bps: options.ladder_bps()[0] as f64,
            parts: parts.map(Mutex::new).collect(),
            tracker: Mutex::new(Tracker::new(options)),
        }
    }

    /// Runs to the end on so many threads. `progress` is told of the simulated time and the number
    /// of events now and then.
    pub(crate) fn run(self, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Outcome {
        let turns = Turns::new(threads.min(self.parts.len()), self.parts.len() + 1);
        let work = |index: usize, until: u64| match self.parts.get(index) {
            Some(part) => lock(part).run_until(until),
            None => lock(&self.tracker).run_until(until),
        };
        turns.run(&work, |do_turn| {
            let mut at = ORIGIN_US;
            let mut told = 0;
            while at <= self.end {
                let until = (at / WINDOW_US + 1) * WINDOW_US;
                do_turn(until.min(self.end + 1));
                let (next, events) = self.hand_over();
                if at - ORIGIN_US >= told + PROGRESS_US {
                    told = at - ORIGIN_US;
                    progress(told, events);
                }
                at = next.max(until);
            }
        });
        self.outcome()
    }

    /// Hands letters over; returns when something happens next, and how much has happened.
    fn hand_over(&self) -> (u64, u64) {
        let mut tracker = lock(&self.tracker);
        let mut parts: Vec<MutexGuard<'_, Part>> = self.parts.iter().map(lock).collect();
        let (mut next, mut events) = (tracker.next_at(), tracker.events());
        for from in 0..parts.len() {
            let sent = &mut parts[from].to_tracker;
            next = next.min(sent.earliest());
            std::mem::swap(sent, &mut tracker.inbox[from]);
            let said = &mut tracker.outbox[from];
            next = next.min(said.earliest());
            std::mem::swap(said, &mut parts[from].from_tracker);
            for to in (0..parts.len()).filter(|to| *to != from) {
                let letters = std::mem::take(&mut parts[from].outbox[to]);
                next = next.min(letters.earliest());
                let empty = std::mem::replace(&mut parts[to].inbox[from], letters);
                parts[from].outbox[to] = empty;
            }
            next = next.min(parts[from].next_at());
            events += parts[from].events();
        }
        (next, events)
    }

    fn outcome(self) -> Outcome {
        let tracker = into_inner(self.tracker);
        let mut outcome = Outcome {
            hash: tracker.hash(),
            events: tracker.events(),
            metrics: tracker.metrics,
            played: Vec::new(),
            trace: Vec::new(),
        };
        let parts: Vec<Part> = self.parts.into_iter().map(into_inner).collect();
        let audience = parts.iter().flat_map(Part::audience);
        let channels = reach::by_channel(audience);
        outcome.metrics.reach_bound = reach::bound(&channels, self.rate_bps);
        outcome.metrics.uplinks_bound = reach::uplinks_bound(&channels, self.rate_bps);
        outcome.metrics.channels = channels.len();
        drop(channels);
        for part in parts {
            outcome.hash = mix(outcome.hash ^ part.hash());
            outcome.events += part.events();
            let (metrics, played, trace) = part.close();
            outcome.trace.extend(trace.into_lines());
            outcome.metrics.merge(&metrics);
            outcome.played.extend(played);
        }
        outcome
    }
}

/// A panic elsewhere ends the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A hash over facts in their order.
#[derive(Clone, Copy, Debug)]
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn note(&mut self, now: u64, kind: u64, node: u32, fact: u64) {
        let word = now ^ kind << 56 ^ u64::from(node) << 32 ^ fact.rotate_left(17);
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }
}

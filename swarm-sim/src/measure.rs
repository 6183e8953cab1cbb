//! What is counted while a run goes on.

use std::collections::HashMap;

use crate::world::catalog::Place;

/// Why bytes came from the CDN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The viewer has only just come.
    WarmUp,
    /// The group's copy.
    Seed,
    /// The viewer has nobody to get it from.
    Alone,
    /// A deadline came near.
    Backstop,
    /// Not the swarm's business.
    Bypass,
}

/// Reasons, in the order of their numbers.
pub(crate) const REASONS: [&str; 5] = ["warm_up", "seed", "alone", "backstop", "bypass"];
/// Problems that are described; further ones are counted.
const PROBLEMS_MAX: usize = 20;
/// Samples of one distribution that are kept.
const SAMPLES_MAX: usize = 400_000;

/// One second of the run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    pub(crate) cdn_bytes: u64,
    pub(crate) p2p_bytes: u64,
    pub(crate) audience: u32,
    pub(crate) stalled: u32,
}

/// Everything that is counted. Totals are of the measured window.
#[derive(Debug)]
pub(crate) struct Metrics {
    window: (u64, u64),
    origin: u64,
    pub(crate) seconds: Vec<Second>,
    pub(crate) cdn_bytes: u64,
    pub(crate) cdn_requests: u64,
    pub(crate) p2p_bytes: u64,
    pub(crate) wasted_bytes: u64,
    pub(crate) bytes_by_reason: [u64; REASONS.len()],
    pub(crate) cdn_by_segment: HashMap<Place, u64>,
    pub(crate) startup_us: Vec<u64>,
    pub(crate) latency_us: Vec<u64>,
    /// From the publication of a segment to the moment at which a viewer has it whole.
    pub(crate) ready_us: Vec<u64>,
    pub(crate) bad_pieces_seen: u64,
    pub(crate) bad_pieces_played: u64,
    pub(crate) frames: u64,
    pub(crate) problems: Vec<String>,
    pub(crate) problem_count: u64,
}

impl Metrics {
    pub(crate) fn new(origin: u64, window: (u64, u64)) -> Self {
        Self {
            window,
            origin,
            seconds: Vec::new(),
            cdn_bytes: 0,
            cdn_requests: 0,
            p2p_bytes: 0,
            wasted_bytes: 0,
            bytes_by_reason: [0; REASONS.len()],
            cdn_by_segment: HashMap::new(),
            startup_us: Vec::new(),
            latency_us: Vec::new(),
            ready_us: Vec::new(),
            bad_pieces_seen: 0,
            bad_pieces_played: 0,
            frames: 0,
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    pub(crate) fn is_measured(&self, now: u64) -> bool {
        (self.window.0..self.window.1).contains(&now)
    }

    pub(crate) fn window_s(&self) -> f64 {
        (self.window.1 - self.window.0) as f64 / 1e6
    }

    fn second(&mut self, now: u64) -> &mut Second {
        let index = ((now - self.origin) / 1_000_000) as usize;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    pub(crate) fn on_audience(&mut self, now: u64, audience: u32, stalled: u32) {
        let second = self.second(now);
        (second.audience, second.stalled) = (audience, stalled);
    }

    pub(crate) fn on_cdn(&mut self, now: u64, bytes: u64, place: Place, reason: Reason) {
        self.second(now).cdn_bytes += bytes;
        if self.is_measured(now) {
            self.cdn_bytes += bytes;
            self.bytes_by_reason[reason as usize] += bytes;
            *self.cdn_by_segment.entry(place).or_default() += bytes;
        }
    }

    pub(crate) fn on_p2p(&mut self, now: u64, bytes: u64, is_new: bool) {
        self.second(now).p2p_bytes += bytes;
        if self.is_measured(now) {
            let counter = if is_new {
                &mut self.p2p_bytes
            } else {
                &mut self.wasted_bytes
            };
            *counter += bytes;
        }
    }

    pub(crate) fn on_ready(&mut self, now: u64, delay_us: u64) {
        if self.is_measured(now) && self.ready_us.len() < SAMPLES_MAX {
            self.ready_us.push(delay_us);
        }
    }

    pub(crate) fn on_latency(&mut self, now: u64, latency_us: u64) {
        if self.is_measured(now) && self.latency_us.len() < SAMPLES_MAX {
            self.latency_us.push(latency_us);
        }
    }

    /// Something that must never happen has happened.
    pub(crate) fn on_problem(&mut self, now: u64, describe: impl FnOnce() -> String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let at_s = (now - self.origin) as f64 / 1e6;
            self.problems.push(format!("{at_s:.3} s: {}", describe()));
        }
    }
}

/// The value below which `share` of the values lie; 0 without values.
pub(crate) fn quantile(values: &mut [u64], share: f64) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let index = ((values.len() - 1) as f64 * share).round() as usize;
    *values.select_nth_unstable(index).1
}

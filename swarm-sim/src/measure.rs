//! What is counted while a run goes on.

use crate::{
    histogram::Histogram,
    world::catalog::{Map, Place},
};

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
/// Viewers that a piece passed through are told apart up to here.
pub(crate) const HOPS_MAX: usize = 6;
/// Problems that are described; further ones are counted.
const PROBLEMS_MAX: usize = 20;

/// One second of the run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    pub(crate) cdn_bytes: u64,
    /// The same, by why they were asked for.
    pub(crate) cdn_by_reason: [u64; REASONS.len()],
    pub(crate) p2p_bytes: u64,
    pub(crate) audience: u32,
    pub(crate) stalled: u32,
}

/// Everything that is counted. Totals are of the measured window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    window: (u64, u64),
    origin: u64,
    pub(crate) seconds: Vec<Second>,
    pub(crate) cdn_bytes: u64,
    /// Those of viewers who play by the rules.
    pub(crate) cdn_bytes_honest: u64,
    pub(crate) cdn_requests: u64,
    pub(crate) p2p_bytes: u64,
    pub(crate) wasted_bytes: u64,
    pub(crate) bytes_by_reason: [u64; REASONS.len()],
    pub(crate) cdn_by_segment: Map<Place, u64>,
    pub(crate) latency_us: Histogram,
    /// From the publication of a segment to the moment at which a viewer has it whole.
    pub(crate) ready_us: Histogram,
    /// From the publication of a segment to the arrival of one of its pieces, by the number of
    /// viewers it passed through.
    pub(crate) hop_us: [Histogram; HOPS_MAX],
    pub(crate) bad_pieces_seen: u64,
    pub(crate) bad_pieces_played: u64,
    pub(crate) frames: u64,
    pub(crate) audits: u64,
    pub(crate) problems: Vec<(u64, String)>,
    pub(crate) problem_count: u64,
    /// Bytes of core per viewer: sum, number and maximum of samples.
    pub(crate) core_bytes: (u64, u64, u64),
    /// Usable upload of the viewers present, in bit/s: sum and number of samples.
    pub(crate) upload_bps: (u64, u64),
    /// Groups: sum and number of samples.
    pub(crate) groups: (u64, u64),
    /// See [`crate::reach::bound`]; told once for the whole world.
    pub(crate) reach_bound: f64,
    /// See [`crate::reach::uplinks_bound`]; told once for the whole world.
    pub(crate) uplinks_bound: f64,
    /// Channels that somebody watches at the end.
    pub(crate) channels: usize,
}

impl Metrics {
    pub(crate) fn new(origin: u64, window: (u64, u64)) -> Self {
        Self {
            window,
            origin,
            ..Self::default()
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
        second.audience += audience;
        second.stalled += stalled;
    }

    pub(crate) fn on_cdn(&mut self, now: u64, bytes: u64, place: Place, reason: Reason) {
        let second = self.second(now);
        second.cdn_bytes += bytes;
        second.cdn_by_reason[reason as usize] += bytes;
        if self.is_measured(now) {
            self.cdn_bytes += bytes;
            self.bytes_by_reason[reason as usize] += bytes;
            *self.cdn_by_segment.entry(place).or_default() += bytes;
        }
    }

    /// So many of these bytes went to somebody who plays by the rules.
    pub(crate) fn on_cdn_honest(&mut self, now: u64, bytes: u64) {
        if self.is_measured(now) {
            self.cdn_bytes_honest += bytes;
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
        if self.is_measured(now) {
            self.ready_us.add(delay_us);
        }
    }

    pub(crate) fn on_hop(&mut self, now: u64, hop: u8, delay_us: u64) {
        if self.is_measured(now) {
            self.hop_us[usize::from(hop).min(HOPS_MAX - 1)].add(delay_us);
        }
    }

    pub(crate) fn on_core(&mut self, bytes: u64) {
        let (sum, count, most) = self.core_bytes;
        self.core_bytes = (sum + bytes, count + 1, most.max(bytes));
    }

    /// Something that must never happen has happened.
    pub(crate) fn on_problem(&mut self, now: u64, describe: impl FnOnce() -> String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            let at_s = (now - self.origin) as f64 / 1e6;
            self.problems
                .push((now, format!("{at_s:.3} s: {}", describe())));
        }
    }

    /// Adds what another part of the same world has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize(other.seconds.len(), Second::default());
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            mine.cdn_bytes += theirs.cdn_bytes;
            for (mine, theirs) in mine.cdn_by_reason.iter_mut().zip(theirs.cdn_by_reason) {
                *mine += theirs;
            }
            mine.p2p_bytes += theirs.p2p_bytes;
            mine.audience += theirs.audience;
            mine.stalled += theirs.stalled;
        }
        self.cdn_bytes += other.cdn_bytes;
        self.cdn_bytes_honest += other.cdn_bytes_honest;
        self.cdn_requests += other.cdn_requests;
        self.p2p_bytes += other.p2p_bytes;
        self.wasted_bytes += other.wasted_bytes;
        for (mine, theirs) in self.bytes_by_reason.iter_mut().zip(other.bytes_by_reason) {
            *mine += theirs;
        }
        for (place, bytes) in &other.cdn_by_segment {
            *self.cdn_by_segment.entry(*place).or_default() += bytes;
        }
        self.latency_us.merge(&other.latency_us);
        self.ready_us.merge(&other.ready_us);
        for (mine, theirs) in self.hop_us.iter_mut().zip(&other.hop_us) {
            mine.merge(theirs);
        }
        self.bad_pieces_seen += other.bad_pieces_seen;
        self.bad_pieces_played += other.bad_pieces_played;
        self.frames += other.frames;
        self.audits += other.audits;
        self.problem_count += other.problem_count;
        self.problems.extend(other.problems.iter().cloned());
        self.problems.sort();
        self.problems.truncate(PROBLEMS_MAX);
        let (sum, count, most) = other.core_bytes;
        self.core_bytes.0 += sum;
        self.core_bytes.1 += count;
        self.core_bytes.2 = self.core_bytes.2.max(most);
        for (mine, theirs) in [
            (&mut self.upload_bps, other.upload_bps),
            (&mut self.groups, other.groups),
        ] {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
    }
}

/// The mean of a sum and a number of samples; 0 without samples.
pub(crate) fn mean((sum, count): (u64, u64)) -> f64 {
    sum as f64 / count.max(1) as f64
}

/// The value below which `share` of the sorted values lie; 0 without values.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> u64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(0)
}

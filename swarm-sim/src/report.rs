//! What came of a run, in figures.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    bounds,
    histogram::Histogram,
    measure::{HOPS_MAX, Metrics, REASONS, Second, mean, quantile},
    options::Options,
    world::{
        ORIGIN_US, Outcome,
        catalog::{Catalog, Place},
        node::Played,
    },
};

/// How viewers fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Time stalled as a share of time that should have been played.
    pub stall_ratio: f64,
    /// Stalls in an hour of playing.
    pub stalls_per_hour: f64,
    /// From arrival to the first picture, in milliseconds: median and 95th percentile.
    pub startup_ms: (u64, u64),
    /// Behind what is happening, in seconds: median and 95th percentile.
    pub latency_s: (f64, f64),
    /// Mean bitrate of the segments that players got, in Mbit/s.
    pub bitrate_mbps: f64,
    /// Changes of the rendition per viewer.
    pub switches_per_viewer: f64,
    /// Those of them that went down.
    pub switches_down_per_viewer: f64,
    /// Share of the visits that ended before anything was played.
    pub never_started: f64,
    /// Segments left out after long stalls, per viewer.
    pub skipped_per_viewer: f64,
}

/// The result of a run: what `--json` prints. Ratios are shares of 1.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was simulated.
    pub options: Options,
    /// 1 - CDN bytes / CDN bytes of the CDN-only twin, in the measured window.
    pub offload: f64,
    /// `offload` from the first second on, the arrival of the audience included.
    pub offload_whole_run: f64,
    /// 1 - CDN bytes per second played / those of the twin, from the first second on: what is left of the
    /// offload if players choose lower renditions than the twin's, or stall more.
    pub offload_per_played_s: f64,
    /// `offload` of those alone who play by the rules: cheats whom nobody serves ask the CDN for all.
    pub offload_honest: f64,
    /// P2P bytes / (P2P + CDN bytes): what others call offload.
    pub p2p_share: f64,
    /// The throughput bound on offload for this audience.
    pub offload_bound: f64,
    /// The bound if groups shared nothing.
    pub offload_bound_groups: f64,
    /// The bound from who reaches whom through NATs, of those who watch at the end: one copy for each
    /// island of viewers.
    pub offload_bound_reach: f64,
    /// The bound from the time there is: hops of one piece within the latency.
    pub offload_bound_delay: f64,
    /// CDN bytes of a segment / its length, on average.
    pub cdn_copies_per_segment: f64,
    /// The same per group of viewers.
    pub cdn_copies_per_group: f64,
    /// Requests to the CDN per viewer and minute.
    pub cdn_requests_per_viewer_minute: f64,
    /// Time stalled / time to be played, with peers.
    pub stall_ratio: f64,
    /// The same in the CDN-only twin.
    pub stall_ratio_cdn_only: f64,
    /// Median start-up with peers, in milliseconds.
    pub startup_ms_p50: u64,
    /// Median start-up of the twin.
    pub startup_ms_p50_cdn_only: u64,
    /// 95th percentile with peers.
    pub startup_ms_p95: u64,
    /// 95th percentile of the twin.
    pub startup_ms_p95_cdn_only: u64,
    /// Median latency in seconds.
    pub latency_s_p50: f64,
    /// Median latency of the twin.
    pub latency_s_p50_cdn_only: f64,
    /// All of the viewers' experience.
    pub quality: Quality,
    /// The twin's.
    pub quality_cdn_only: Quality,
    /// Bytes from peers that were there already or bad / all bytes from peers.
    pub bytes_wasted_ratio: f64,
    /// Pieces that failed verification (and were dropped).
    pub bad_pieces_seen: u64,
    /// Bad pieces that reached a player. Must be 0.
    pub bad_pieces_played: u64,
    /// CDN bytes in the window.
    pub bytes_cdn: u64,
    /// New bytes from peers in the window.
    pub bytes_p2p: u64,
    /// CDN bytes of the twin in the window.
    pub bytes_cdn_only: u64,
    /// Share of the twin's bytes that each reason still took from the CDN: where the offload went.
    pub lost: BTreeMap<&'static str, f64>,
    /// Share of the twin's bytes that one copy a group would be, and what was fetched beyond it for
    /// the groups: second copies of the same bytes.
    pub lost_to_copies: (f64, f64),
    /// Highest CDN rate over five seconds of the measured window, in Mbit/s: with peers, and the twin's.
    pub cdn_peak_mbps: (f64, f64),
    /// What these five seconds were made of, with peers: the reasons of `lost`, in Mbit/s.
    pub cdn_peak_by_reason_mbps: BTreeMap<&'static str, f64>,
    /// The CDN's rate from the beginning of the window until newcomers come, on average, in Mbit/s: with
    /// peers, and the twin's. 0 without newcomers.
    pub cdn_steady_mbps: (f64, f64),
    /// What newcomers take before neighbours take over, in Mbit/s: the most arrivals a second within the
    /// window times the media between their start and the live edge. The peak should be little more. 0
    /// if all come before.
    pub cdn_peak_newcomers_mbps: f64,
    /// From publication until viewers have a segment whole, in milliseconds: 50, 95, 99 %.
    pub ready_ms: (u64, u64, u64),
    /// Usable upload of a viewer on average / bitrate.
    pub upload_ratio: f64,
    /// Groups on average, and viewers in them.
    pub groups: (f64, f64),
    /// Mean bytes of the core's state for one viewer.
    pub core_bytes_per_viewer: f64,
    /// Largest one.
    pub core_bytes_max: u64,
    /// From publication until a piece arrives, by the viewers it passed through: pieces, then 50
    /// and 95 % in milliseconds.
    pub hops: Vec<(u64, u64, u64)>,
    /// Control messages that were compared with the sender's store, and all that were sent.
    pub audited: (u64, u64),
    /// Broken invariants. Must be 0.
    pub problems: u64,
    /// The first of them.
    pub problems_first: Vec<String>,
    /// Events simulated, the twin's included.
    pub events: u64,
    /// Events of the twin alone.
    pub events_cdn_only: u64,
    /// Wall time in seconds, the twin included.
    pub wall_s: f64,
    /// Wall time of the twin alone.
    pub wall_s_cdn_only: f64,
    /// Threads that were used.
    pub threads: usize,
    /// Hash over all events and actions: the same options give the same on every machine.
    pub event_hash: String,
    #[serde(skip)]
    pub(crate) seconds_cdn_only: Vec<Second>,
    /// Start-up times and stall ratios, sorted, of both worlds.
    #[serde(skip)]
    pub(crate) startups: [Vec<u64>; 2],
    #[serde(skip)]
    pub(crate) stall_ratios: [Vec<u64>; 2],
    #[serde(skip)]
    pub(crate) metrics: Metrics,
}

/// What a run took beside what happened in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    pub(crate) wall_s_cdn_only: f64,
    pub(crate) threads: usize,
}

impl Report {
    pub(crate) fn new(options: &Options, world: Outcome, twin: Outcome, cost: Cost) -> Self {
        let mut report = Self {
            options: options.clone(),
            wall_s: cost.wall_s,
            wall_s_cdn_only: cost.wall_s_cdn_only,
            threads: cost.threads,
            events: world.events + twin.events,
            events_cdn_only: twin.events,
            event_hash: format!("{:016x}", world.hash ^ twin.hash.rotate_left(1)),
            startups: [startups(&world.played), startups(&twin.played)],
            stall_ratios: [stall_ratios(&world.played), stall_ratios(&twin.played)],
            ..Self::default()
        };
        report.tell_bytes(&world.metrics, &twin.metrics);
        report.tell_quality(&world, &twin);
        report.tell_bounds(&world.metrics);
        report.tell_state(&world.metrics, &twin.metrics);
        report.seconds_cdn_only = twin.metrics.seconds;
        report.metrics = world.metrics;
        report
    }

    fn tell_bytes(&mut self, metrics: &Metrics, twin: &Metrics) {
        let (cdn, p2p) = (metrics.cdn_bytes, metrics.p2p_bytes);
        let only = twin.cdn_bytes.max(1);
        let total = |seconds: &[Second]| seconds.iter().map(|s| s.cdn_bytes).sum::<u64>() as f64;
        let wasted = metrics.wasted_bytes;
        (self.bytes_cdn, self.bytes_p2p, self.bytes_cdn_only) = (cdn, p2p, only);
        self.offload = 1.0 - cdn as f64 / only as f64;
        self.offload_whole_run = 1.0 - total(&metrics.seconds) / total(&twin.seconds).max(1.0);
        self.offload_honest =
            1.0 - metrics.cdn_bytes_honest as f64 / twin.cdn_bytes_honest.max(1) as f64;
        self.p2p_share = p2p as f64 / (p2p + cdn).max(1) as f64;
        self.bytes_wasted_ratio = wasted as f64 / (p2p + wasted).max(1) as f64;
        self.bad_pieces_seen = metrics.bad_pieces_seen;
        self.bad_pieces_played = metrics.bad_pieces_played;
        let lost = REASONS.iter().zip(metrics.bytes_by_reason);
        let share = |bytes: u64| bytes as f64 / only as f64;
        self.lost = lost.map(|(name, bytes)| (*name, share(bytes))).collect();
        self.tell_rush(metrics, twin);
    }

    /// The crowd that comes while it is measured; who was there before is the steady state.
    fn tell_rush(&mut self, metrics: &Metrics, twin: &Metrics) {
        let options = &self.options;
        let from_s = options.measure_from_us() as f64 / 1e6;
        let newcomers = || {
            let arrivals = options.arrivals.iter();
            arrivals.filter(|arrival| arrival.at_s >= from_s && arrival.share > 0.0)
        };
        let rush = newcomers()
            .map(|arrival| f64::from(options.viewers) * arrival.share / arrival.over_s.max(1.0));
        let rush = rush.fold(0.0, f64::max);
        let begins_s = newcomers().map(|arrival| arrival.at_s).reduce(f64::min);
        let from = from_s as usize;
        let until = begins_s.map_or(from, |begins_s| begins_s as usize);
        let both = |rate: &dyn Fn(&[Second]) -> f64| (rate(&metrics.seconds), rate(&twin.seconds));
        self.cdn_peak_mbps = both(&|seconds| peak_mbps(seconds.get(from..).unwrap_or_default()));
        let worst = busiest(metrics.seconds.get(from..).unwrap_or_default());
        let rate = |reason: usize| {
            let bytes: u64 = worst
                .iter()
                .map(|second| second.cdn_by_reason[reason])
                .sum();
            bytes as f64 * 8.0 / 1e6 / PEAK_S as f64
        };
        let rates = REASONS.iter().enumerate();
        self.cdn_peak_by_reason_mbps = rates.map(|(at, name)| (*name, rate(at))).collect();
        self.cdn_steady_mbps =
            both(&|seconds| mean_mbps(seconds.get(from..until).unwrap_or_default()));
        self.cdn_peak_newcomers_mbps = rush * options.latency_s * options.bitrate_mbps;
    }

    /// Needs what [`Report::tell_bytes`] and [`Report::tell_quality`] have told.
    fn tell_bounds(&mut self, metrics: &Metrics) {
        let options = &self.options;
        // With a ladder, uplinks carry what was watched.
        let rate_bps = self.quality.bitrate_mbps.clamp(0.01, options.bitrate_mbps) * 1e6;
        let audience = mean_audience(metrics);
        let groups = mean(metrics.groups);
        let upload_bps = mean(metrics.upload_bps);
        let copies = self.copies_of(metrics);
        // Of many channels most may have nobody; the others are as uneven as chance made them.
        let channels = metrics.channels.max(1) as f64;
        let hop_s = hop_s(options, upload_bps);
        self.groups = (groups, audience / groups.max(1.0));
        self.upload_ratio = upload_bps / rate_bps;
        self.offload_bound = match options.channels {
            1 => bounds::throughput(audience, upload_bps, rate_bps),
            _ => metrics.uplinks_bound,
        };
        self.offload_bound_groups = bounds::groups(audience, groups, upload_bps, rate_bps);
        self.offload_bound_delay = bounds::frontier(window_s(options), hop_s, FAN_OUT).1;
        self.offload_bound_reach = metrics.reach_bound;
        self.cdn_copies_per_segment = copies;
        self.cdn_copies_per_group = copies * channels / groups.max(1.0);
        let minutes = metrics.window_s() / 60.0;
        self.cdn_requests_per_viewer_minute =
            metrics.cdn_requests as f64 / audience.max(1.0) / minutes;
        let seed = self.lost.get("seed").copied().unwrap_or_default();
        let one_a_group = seed.min(groups / audience.max(1.0));
        self.lost_to_copies = (one_a_group, seed - one_a_group);
    }

    fn copies_of(&self, metrics: &Metrics) -> f64 {
        let catalog = Catalog::new(self.options.ladder_bps(), self.options.segment_us());
        let (mut bytes, mut lens) = (0u64, 0u64);
        for (place, fetched) in whole_segments(&self.options, metrics) {
            bytes += fetched;
            lens += u64::from(catalog.len(place.rendition()));
        }
        bytes as f64 / lens.max(1) as f64
    }

    fn tell_quality(&mut self, world: &Outcome, twin: &Outcome) {
        self.quality = quality(&world.played, &self.startups[0], &world.metrics.latency_us);
        self.quality_cdn_only = quality(&twin.played, &self.startups[1], &twin.metrics.latency_us);
        let (ours, theirs) = (&self.quality, &self.quality_cdn_only);
        let per_played_s = |outcome: &Outcome| {
            let bytes: u64 = outcome.metrics.seconds.iter().map(|s| s.cdn_bytes).sum();
            let played_us: u64 = outcome.played.iter().map(|visit| visit.played_us).sum();
            bytes as f64 / played_us.max(1) as f64
        };
        let (ours_per_s, twins_per_s) = (per_played_s(world), per_played_s(twin));
        self.offload_per_played_s = 1.0 - ours_per_s / twins_per_s.max(1e-9);
        (self.stall_ratio, self.stall_ratio_cdn_only) = (ours.stall_ratio, theirs.stall_ratio);
        (self.startup_ms_p50, self.startup_ms_p95) = ours.startup_ms;
        (self.startup_ms_p50_cdn_only, self.startup_ms_p95_cdn_only) = theirs.startup_ms;
        (self.latency_s_p50, self.latency_s_p50_cdn_only) = (ours.latency_s.0, theirs.latency_s.0);
    }

    fn tell_state(&mut self, metrics: &Metrics, twin: &Metrics) {
        let ms = |values: &Histogram, share| values.quantile(share) / 1000;
        let ready = &metrics.ready_us;
        self.ready_ms = (ms(ready, 0.5), ms(ready, 0.95), ms(ready, 0.99));
        let hops = metrics.hop_us.iter().take(HOPS_MAX);
        self.hops = hops
            .map(|hop| (hop.total(), ms(hop, 0.5), ms(hop, 0.95)))
            .collect();
        let (sum, count, most) = metrics.core_bytes;
        self.core_bytes_per_viewer = mean((sum, count));
        self.core_bytes_max = most;
        self.audited = (metrics.audits, metrics.frames);
        self.problems = metrics.problem_count + twin.problem_count;
        let ours = metrics.problems.iter().map(|(_, text)| text.clone());
        let theirs = twin
            .problems
            .iter()
            .map(|(_, text)| format!("twin: {text}"));
        self.problems_first = ours.chain(theirs).collect();
    }
}

/// Viewers that one passes a piece on to in the bound by time.
pub(crate) const FAN_OUT: usize = 4;
/// The piece and the way from viewer to viewer in the bound by time.
const PIECE_BITS: f64 = 65_536.0 * 8.0;
const WAY_S: f64 = 0.04;

/// Segments with the bytes that the CDN was asked for: those for which viewers ask within the measured time.
/// Of others some has been fetched before it, or would have been after it. In a run too short for any: all.
pub(crate) fn whole_segments(options: &Options, metrics: &Metrics) -> Vec<(Place, u64)> {
    let all = || {
        metrics
            .cdn_by_segment
            .iter()
            .map(|(place, bytes)| (*place, *bytes))
    };
    let latency_us = (options.latency_s * 1e6) as u64;
    let whole: Vec<_> = all()
        .filter(|(place, _)| {
            let at_us = published_us(options, *place);
            at_us >= options.measure_from_us() && at_us + latency_us <= options.end_us()
        })
        .collect();
    if whole.is_empty() {
        all().collect()
    } else {
        whole
    }
}

/// When a segment is published, in microseconds from the start of the run; 0 for those from before.
pub(crate) fn published_us(options: &Options, place: Place) -> u64 {
    ((place.seq() + 1) * options.segment_us()).saturating_sub(ORIGIN_US)
}

/// How long one hop of a piece takes.
pub(crate) fn hop_s(options: &Options, upload_bps: f64) -> f64 {
    let segment_bits = options.bitrate_mbps * 1e6 * options.segment_s;
    PIECE_BITS.min(segment_bits) / upload_bps.max(1.0) + WAY_S
}

/// From the moment at which viewers hear of a segment until it must be there.
pub(crate) fn window_s(options: &Options) -> f64 {
    (options.latency_s - options.segment_s - options.playlist_lag_s() / 2.0).max(0.1)
}

fn quality(visits: &[Played], startups: &[u64], latency_us: &Histogram) -> Quality {
    let (mut stalled, mut played, mut stalls, mut skipped) = (0, 0, 0, 0);
    let (mut up, mut down, mut segments, mut bps) = (0, 0, 0, 0);
    for visit in visits {
        stalled += visit.stalled_us;
        played += visit.played_us;
        stalls += u64::from(visit.stalls);
        (up, down) = (up + visit.switches.0, down + visit.switches.1);
        (segments, bps) = (segments + visit.media.0, bps + visit.media.1);
        skipped += u64::from(visit.skipped);
    }
    let count = visits.len().max(1) as f64;
    let latency_s = |share| latency_us.quantile(share) as f64 / 1e6;
    Quality {
        stall_ratio: stalled as f64 / (stalled + played).max(1) as f64,
        stalls_per_hour: stalls as f64 / (played as f64 / 3.6e9).max(1e-9),
        startup_ms: (quantile(startups, 0.5), quantile(startups, 0.95)),
        latency_s: (latency_s(0.5), latency_s(0.95)),
        bitrate_mbps: bps as f64 / segments.max(1) as f64 / 1e6,
        switches_per_viewer: f64::from(up + down) / count,
        switches_down_per_viewer: f64::from(down) / count,
        never_started: visits.iter().filter(|v| v.startup_us.is_none()).count() as f64 / count,
        skipped_per_viewer: skipped as f64 / count,
    }
}

/// In milliseconds, of all visits, sorted.
fn startups(visits: &[Played]) -> Vec<u64> {
    let started = visits.iter().filter_map(|visit| visit.startup_us);
    sorted(started.map(|us| us / 1000).collect())
}

/// In hundredths of a percent, of all visits that began to play, sorted.
fn stall_ratios(visits: &[Played]) -> Vec<u64> {
    let started = visits.iter().filter(|visit| visit.startup_us.is_some());
    let ratio = |v: &Played| v.stalled_us * 10_000 / (v.stalled_us + v.played_us).max(1);
    sorted(started.map(ratio).collect())
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

fn mean_audience(metrics: &Metrics) -> f64 {
    let seconds = &metrics.seconds;
    let from = seconds.len().saturating_sub(metrics.window_s() as usize);
    let window = &seconds[from..];
    window.iter().map(|s| f64::from(s.audience)).sum::<f64>() / window.len().max(1) as f64
}

fn mean_mbps(seconds: &[Second]) -> f64 {
    let bytes: u64 = seconds.iter().map(|second| second.cdn_bytes).sum();
    bytes as f64 * 8.0 / 1e6 / seconds.len().max(1) as f64
}

/// Seconds over which the peak is taken.
const PEAK_S: usize = 5;

/// The seconds with the highest rate of the CDN.
fn busiest(seconds: &[Second]) -> &[Second] {
    let bytes = |span: &&[Second]| span.iter().map(|s| s.cdn_bytes).sum::<u64>();
    seconds
        .windows(PEAK_S)
        .max_by_key(bytes)
        .unwrap_or_default()
}

fn peak_mbps(seconds: &[Second]) -> f64 {
    let bytes: u64 = busiest(seconds).iter().map(|s| s.cdn_bytes).sum();
    bytes as f64 * 8.0 / PEAK_S as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_of_segments_that_are_asked_for_within_the_measured_time() {
        let mut options = Options::scenario("evening-match").expect("it is known");
        (options.segment_s, options.latency_s) = (4.0, 10.0);
        (options.minutes, options.measure_from_s) = (2.0, 60.0);
        let published_at = |at_s: u64| Place::new(0, 0, (ORIGIN_US / 1_000_000 + at_s) / 4 - 1);
        let mut metrics = Metrics::default();
        for at_s in [56, 60, 108, 112] {
            let place = published_at(at_s);
            assert_eq!(published_us(&options, place), at_s * 1_000_000);
            metrics.cdn_by_segment.insert(place, at_s);
        }
        let bytes = |options: &Options| {
            let segments = whole_segments(options, &metrics);
            let mut bytes: Vec<u64> = segments.into_iter().map(|(_, bytes)| bytes).collect();
            bytes.sort_unstable();
            bytes
        };
        assert_eq!(bytes(&options), [60, 108]);
        options.minutes = 0.25;
        assert_eq!(bytes(&options), [56, 60, 108, 112], "too short for any");
    }
}

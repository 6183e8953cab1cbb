//! What came of a run, in figures.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    bounds,
    measure::{REASONS, Second, quantile},
    options::Options,
    world::{World, node::Played},
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
    /// Changes of the rendition per viewer.
    pub switches_per_viewer: f64,
    /// Segments left out after long stalls, per viewer.
    pub skipped_per_viewer: f64,
}

/// The result of a run: what `--json` prints. Ratios are shares of 1.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was simulated.
    pub options: Options,
    /// 1 - CDN bytes / CDN bytes of the CDN-only twin, in the measured window.
    pub offload: f64,
    /// The same from the first second on, the arrival of the audience included.
    pub offload_whole_run: f64,
    /// P2P bytes / (P2P + CDN bytes): what others call offload.
    pub p2p_share: f64,
    /// The throughput bound on offload for this audience.
    pub offload_bound: f64,
    /// The bound if groups shared nothing.
    pub offload_bound_groups: f64,
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
    /// Highest CDN rate over five seconds, in Mbit/s: with peers, and the twin's.
    pub cdn_peak_mbps: (f64, f64),
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
    /// Broken invariants. Must be 0.
    pub problems: u64,
    /// The first of them.
    pub problems_first: Vec<String>,
    /// Events simulated, the twin's included.
    pub events: u64,
    /// Wall time in seconds, the twin included.
    pub wall_s: f64,
    /// Hash over all events and actions: the same options give the same on every machine.
    pub event_hash: String,
    /// Seconds of the run, for plots.
    #[serde(skip)]
    pub(crate) seconds: Vec<Second>,
    #[serde(skip)]
    pub(crate) seconds_cdn_only: Vec<Second>,
    /// Start-up times and stall ratios, sorted, of both worlds.
    #[serde(skip)]
    pub(crate) startups: [Vec<u64>; 2],
    #[serde(skip)]
    pub(crate) stall_ratios: [Vec<u64>; 2],
    #[serde(skip)]
    pub(crate) ready_sorted: Vec<u64>,
}

impl Report {
    // tidy: long-fn: one line for each field
    pub(crate) fn new(options: &Options, world: &mut World, twin: &mut World, wall_s: f64) -> Self {
        let (cdn, p2p) = (world.metrics.cdn_bytes, world.metrics.p2p_bytes);
        let only = twin.metrics.cdn_bytes.max(1);
        let quality = quality(world);
        let quality_twin = self::quality(twin);
        let rate_bps = options.bitrate_mbps * 1e6;
        let audience = mean_audience(world);
        let groups = world.groups_mean();
        let upload_bps = world.upload_bps_mean();
        let (core_mean, core_max) = world.core_bytes();
        let copies = copies_per_segment(world);
        let total = |seconds: &[Second]| seconds.iter().map(|s| s.cdn_bytes).sum::<u64>() as f64;
        let wasted = world.metrics.wasted_bytes;
        let ready =
            [0.5, 0.95, 0.99].map(|share| quantile(&mut world.metrics.ready_us, share) / 1000);
        let metrics = &world.metrics;
        let lost = REASONS.iter().zip(metrics.bytes_by_reason);
        let mut problems_first = metrics.problems.clone();
        problems_first.extend(twin.metrics.problems.iter().map(|p| format!("twin: {p}")));
        let piece_s = 65_536.0 * 8.0 / upload_bps.max(1.0) + 0.04;
        let window_s =
            (options.latency_s - options.segment_s - options.playlist_lag_s() / 2.0).max(0.1);
        Self {
            offload: 1.0 - cdn as f64 / only as f64,
            offload_whole_run: 1.0
                - total(&metrics.seconds) / total(&twin.metrics.seconds).max(1.0),
            p2p_share: p2p as f64 / (p2p + cdn).max(1) as f64,
            offload_bound: bounds::throughput(
                audience / f64::from(options.channels),
                upload_bps,
                rate_bps,
            ),
            offload_bound_groups: bounds::groups(audience, groups, upload_bps, rate_bps),
            offload_bound_delay: bounds::frontier(window_s, piece_s, 4).1,
            cdn_copies_per_segment: copies,
            cdn_copies_per_group: copies * f64::from(options.channels.max(1)) / groups.max(1.0),
            cdn_requests_per_viewer_minute: metrics.cdn_requests as f64
                / audience.max(1.0)
                / (metrics.window_s() / 60.0),
            stall_ratio: quality.stall_ratio,
            stall_ratio_cdn_only: quality_twin.stall_ratio,
            startup_ms_p50: quality.startup_ms.0,
            startup_ms_p50_cdn_only: quality_twin.startup_ms.0,
            startup_ms_p95: quality.startup_ms.1,
            startup_ms_p95_cdn_only: quality_twin.startup_ms.1,
            latency_s_p50: quality.latency_s.0,
            latency_s_p50_cdn_only: quality_twin.latency_s.0,
            quality,
            quality_cdn_only: quality_twin,
            bytes_wasted_ratio: wasted as f64 / (p2p + wasted).max(1) as f64,
            bad_pieces_seen: metrics.bad_pieces_seen,
            bad_pieces_played: metrics.bad_pieces_played,
            bytes_cdn: cdn,
            bytes_p2p: p2p,
            bytes_cdn_only: only,
            lost: lost
                .map(|(name, bytes)| (*name, bytes as f64 / only as f64))
                .collect(),
            cdn_peak_mbps: (
                peak_mbps(&metrics.seconds),
                peak_mbps(&twin.metrics.seconds),
            ),
            ready_ms: (ready[0], ready[1], ready[2]),
            upload_ratio: upload_bps / rate_bps,
            groups: (groups, audience / groups.max(1.0)),
            core_bytes_per_viewer: core_mean,
            core_bytes_max: core_max,
            problems: metrics.problem_count + twin.metrics.problem_count,
            problems_first,
            events: world.events() + twin.events(),
            wall_s,
            event_hash: format!("{:016x}", world.hash() ^ twin.hash().rotate_left(1)),
            seconds: metrics.seconds.clone(),
            seconds_cdn_only: twin.metrics.seconds.clone(),
            startups: [startups(world), startups(twin)],
            stall_ratios: [stall_ratios(world), stall_ratios(twin)],
            ready_sorted: sorted(metrics.ready_us.clone()),
            options: options.clone(),
        }
    }
}

fn visits(world: &World) -> impl Iterator<Item = &Played> {
    world.nodes().iter().filter_map(|node| node.played.as_ref())
}

fn quality(world: &mut World) -> Quality {
    let (mut stalled, mut played, mut stalls, mut switches, mut skipped, mut count) =
        (0, 0, 0, 0, 0, 0u64);
    for visit in visits(world) {
        stalled += visit.stalled_us;
        played += visit.played_us;
        stalls += u64::from(visit.stalls);
        switches += u64::from(visit.switches);
        skipped += u64::from(visit.skipped);
        count += 1;
    }
    let count = count.max(1) as f64;
    let mut startups = startups(world);
    let startup = |share, values: &mut [u64]| quantile(values, share);
    let latencies = &mut world.metrics.latency_us;
    Quality {
        stall_ratio: stalled as f64 / (stalled + played).max(1) as f64,
        stalls_per_hour: stalls as f64 / (played as f64 / 3.6e9).max(1e-9),
        startup_ms: (startup(0.5, &mut startups), startup(0.95, &mut startups)),
        latency_s: (
            quantile(latencies, 0.5) as f64 / 1e6,
            quantile(latencies, 0.95) as f64 / 1e6,
        ),
        switches_per_viewer: switches as f64 / count,
        skipped_per_viewer: skipped as f64 / count,
    }
}

/// In milliseconds, of all visits.
fn startups(world: &World) -> Vec<u64> {
    sorted(
        visits(world)
            .filter_map(|visit| visit.startup_us)
            .map(|us| us / 1000)
            .collect(),
    )
}

/// In hundredths of a percent, of all visits that began to play.
fn stall_ratios(world: &World) -> Vec<u64> {
    let started = visits(world).filter(|visit| visit.startup_us.is_some());
    sorted(
        started
            .map(|v| v.stalled_us * 10_000 / (v.stalled_us + v.played_us).max(1))
            .collect(),
    )
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values
}

fn mean_audience(world: &World) -> f64 {
    let from = world.metrics.seconds.len() - world.metrics.window_s() as usize;
    let window = &world.metrics.seconds[from.min(world.metrics.seconds.len() - 1)..];
    window.iter().map(|s| f64::from(s.audience)).sum::<f64>() / window.len().max(1) as f64
}

fn copies_per_segment(world: &World) -> f64 {
    let segments = &world.metrics.cdn_by_segment;
    let (mut bytes, mut lens) = (0u64, 0u64);
    for (place, fetched) in segments {
        bytes += fetched;
        lens += u64::from(world.catalog().len(place.rendition));
    }
    bytes as f64 / lens.max(1) as f64
}

fn peak_mbps(seconds: &[Second]) -> f64 {
    let most = seconds
        .windows(5)
        .map(|w| w.iter().map(|s| s.cdn_bytes).sum::<u64>())
        .max();
    most.unwrap_or(0) as f64 * 8.0 / 5.0 / 1e6
}

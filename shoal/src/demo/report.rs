//! How a demo went.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::audience::Totals;
use super::native::Outcome;

/// Sums over all viewers from their first byte on, start-up included. Medians and stalls are those
/// of the native viewers; browsers add their bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Native viewers that took part, those that left included.
    pub viewers: usize,
    /// Native viewers whose playback never began.
    pub viewers_failed: usize,
    /// Bytes from the CDN.
    pub bytes_cdn: u64,
    /// Verified bytes from other viewers.
    pub bytes_p2p: u64,
    /// The share of bytes that came from other viewers, 0 to 1.
    pub offload: f64,
    /// The same without the first 10 seconds of each native viewer; none if all were shorter.
    pub offload_steady: Option<f64>,
    /// How often the CDN served each segment, on average over native viewers' segments.
    pub cdn_copies_per_segment: f64,
    /// How often playback stood still.
    pub stalls: u64,
    /// Time that playback stood still, as a share of the time since its start.
    pub stall_ratio: f64,
    /// From start to first picture, the median in milliseconds.
    pub startup_ms_p50: Option<u64>,
    /// How far playback was behind the end of the playlist, the median in seconds.
    pub latency_s_p50: Option<f64>,
    /// Pieces from other viewers that failed verification; they are never played.
    pub bad_pieces: u64,
    /// Fetches from the CDN made because a deadline came near.
    pub backstops: u64,
    /// Segments that could not be had, or that were no media.
    pub segments_failed: u64,
}

impl Report {
    pub(super) fn new(outcomes: &[Outcome], browsers: &Totals) -> Self {
        let played: Vec<_> = outcomes
            .iter()
            .filter_map(|one| one.playback.as_ref())
            .collect();
        let native_cdn: u64 = outcomes.iter().map(|one| one.totals.bytes_cdn).sum();
        let native_p2p: u64 = outcomes.iter().map(|one| one.totals.bytes_p2p).sum();
        let bytes_cdn = native_cdn + browsers.bytes_cdn;
        let bytes_p2p = native_p2p + browsers.bytes_p2p;
        let segments: HashMap<&str, u64> = played
            .iter()
            .flat_map(|report| report.segments.iter())
            .map(|segment| (segment.url.as_str(), segment.len))
            .collect();
        let (mut stalled_ms, mut watched_ms) = (0, 0);
        for report in &played {
            stalled_ms += report.stalled_ms;
            watched_ms += report.stalled_ms + report.played_ms;
        }
        let failed = played
            .iter()
            .map(|report| u64::from(report.failed + report.invalid));
        Self {
            viewers: outcomes.len(),
            viewers_failed: outcomes.len()
                - played
                    .iter()
                    .filter(|report| report.startup_ms.is_some())
                    .count(),
            bytes_cdn,
            bytes_p2p,
            offload: ratio(bytes_p2p, bytes_cdn + bytes_p2p),
            offload_steady: steady(outcomes),
            cdn_copies_per_segment: ratio(native_cdn, segments.values().sum()),
            stalls: played
                .iter()
                .map(|report| u64::from(report.stalls))
                .sum::<u64>()
                + browsers.stalls,
            stall_ratio: ratio(stalled_ms, watched_ms),
            startup_ms_p50: median(played.iter().filter_map(|report| report.startup_ms)),
            latency_s_p50: median(played.iter().map(|report| report.latency_ms))
                .map(|ms| ms as f64 / 1000.0),
            bad_pieces: outcomes.iter().map(|one| one.bad_pieces).sum(),
            backstops: played.iter().map(|report| report.backstops).sum(),
            segments_failed: failed.sum(),
        }
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "offload {:.0} % ({:.1} MB from viewers, {:.1} MB from the CDN), {} stalls",
            self.offload * 100.0,
            self.bytes_p2p as f64 / 1e6,
            self.bytes_cdn as f64 / 1e6,
            self.stalls
        )
    }
}

fn steady(outcomes: &[Outcome]) -> Option<f64> {
    let (mut cdn, mut p2p) = (0, 0);
    for (outcome, warm) in outcomes.iter().filter_map(|one| Some((one, one.warm?))) {
        cdn += outcome.totals.bytes_cdn.saturating_sub(warm.bytes_cdn);
        p2p += outcome.totals.bytes_p2p.saturating_sub(warm.bytes_p2p);
    }
    (cdn + p2p > 0).then(|| ratio(p2p, cdn + p2p))
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use peer_agent::playback;

    use super::*;

    fn outcome(bytes_cdn: u64, bytes_p2p: u64, startup_ms: u64) -> Outcome {
        let segment = |n: u32| playback::SegmentReport {
            url: format!("http://cdn/{n}"),
            len: 100,
            ..playback::SegmentReport::default()
        };
        Outcome {
            totals: Totals {
                bytes_cdn,
                bytes_p2p,
                ..Totals::default()
            },
            warm: Some(Totals {
                bytes_cdn: 100,
                ..Totals::default()
            }),
            bad_pieces: 0,
            playback: Some(playback::Report {
                startup_ms: Some(startup_ms),
                segments: vec![segment(1), segment(2)],
                played_ms: 900,
                stalled_ms: 100,
                ..playback::Report::default()
            }),
        }
    }

    #[test]
    fn sums_and_medians() {
        let browsers = Totals {
            bytes_p2p: 100,
            ..Totals::default()
        };
        let outcomes = [
            outcome(200, 0, 5),
            outcome(100, 100, 9),
            outcome(100, 100, 7),
        ];
        let report = Report::new(&outcomes, &browsers);
        assert_eq!((report.viewers, report.viewers_failed), (3, 0));
        assert_eq!((report.bytes_cdn, report.bytes_p2p), (400, 300));
        assert_eq!(report.offload_steady, Some(200.0 / 300.0));
        assert_eq!(report.cdn_copies_per_segment, 2.0);
        assert_eq!(report.startup_ms_p50, Some(7));
        assert!((report.stall_ratio - 0.1).abs() < 1e-9);
        assert_eq!(Report::new(&[], &Totals::default()), Report::default());
    }
}

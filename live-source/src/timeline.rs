//! Which segments exist at a given media position. Pure arithmetic; the clock is an argument.

use crate::cmaf::TrackInfo;

/// The plan of a looped stream: when media time 0 was, how long segments are, how many are listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline {
    /// Unix time in milliseconds of media time 0.
    pub(crate) epoch_unix_ms: u64,
    pub(crate) segment_ms: u64,
    /// Length of a part, of which a segment has a whole number.
    pub(crate) part_ms: u64,
    pub(crate) window_segments: u64,
}

/// The segments published at one moment, by media index (0 is the first of the stream).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    /// The oldest that still can be fetched.
    pub(crate) kept: u64,
    /// The oldest listed.
    pub(crate) oldest: u64,
    /// One past the newest: the first that is not published yet.
    pub(crate) end: u64,
    /// Parts of that one that are published.
    pub(crate) open_parts: u64,
}

impl Timeline {
    pub(crate) fn edge(&self, position_ms: u64) -> Edge {
        let end = position_ms / self.segment_ms;
        Edge {
            kept: end.saturating_sub(2 * self.window_segments),
            oldest: end.saturating_sub(self.window_segments),
            end,
            open_parts: position_ms % self.segment_ms / self.part_ms,
        }
    }

    /// Parts of a segment.
    pub(crate) fn parts(&self) -> u64 {
        self.segment_ms / self.part_ms
    }

    /// How long after `position_ms` the next part, or segment, is published.
    pub(crate) fn next_ms(&self, position_ms: u64) -> u64 {
        self.part_ms - position_ms % self.part_ms
    }

    /// The first sample at or nearest to the start of segment `index`, for samples of a fixed length:
    /// sound frames do not divide a segment, so their boundaries are rounded, and never drift.
    pub(crate) fn first_sample(&self, index: u64, timescale: u32, sample_duration: u32) -> u64 {
        self.first_sample_of_part(index, 0, timescale, sample_duration)
    }

    /// When segment `index` of a track starts, in ticks.
    pub(crate) fn start_ticks(&self, info: &TrackInfo, index: u64) -> u64 {
        let TrackInfo {
            timescale,
            sample_duration,
            ..
        } = *info;
        self.first_sample(index, timescale, sample_duration) * u64::from(sample_duration)
    }

    /// As [`Self::first_sample`], for a part of the segment.
    pub(crate) fn first_sample_of_part(
        &self,
        index: u64,
        part: u64,
        timescale: u32,
        sample_duration: u32,
    ) -> u64 {
        let start_ms =
            u128::from(index) * u128::from(self.segment_ms) + u128::from(part * self.part_ms);
        let ticks = start_ms * u128::from(timescale);
        let unit = 1000 * u128::from(sample_duration);
        ((ticks + unit / 2) / unit) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMELINE: Timeline = Timeline {
        epoch_unix_ms: 0,
        segment_ms: 2000,
        part_ms: 500,
        window_segments: 3,
    };

    #[test]
    fn publishes_a_segment_when_it_is_complete() {
        assert_eq!(
            TIMELINE.edge(1999),
            Edge {
                kept: 0,
                oldest: 0,
                end: 0,
                open_parts: 3
            }
        );
        assert_eq!(
            TIMELINE.edge(2000),
            Edge {
                kept: 0,
                oldest: 0,
                end: 1,
                open_parts: 0
            }
        );
        assert_eq!(
            TIMELINE.edge(20_000),
            Edge {
                kept: 4,
                oldest: 7,
                end: 10,
                open_parts: 0
            }
        );
    }

    #[test]
    fn sample_boundaries_never_drift() {
        for index in [0, 1, 7, 11, 12, 1_000_003, 50_000_000_000] {
            let video = TIMELINE.first_sample(index, 12_800, 512);
            assert_eq!(video, index * 50);
            let sound = TIMELINE.first_sample(index, 48_000, 1024) as f64 * 1024.0 / 48_000.0;
            assert!(
                (sound - index as f64 * 2.0).abs() < 0.0108,
                "{index}: {sound}"
            );
        }
        assert_eq!(TIMELINE.first_sample(12, 48_000, 1024), 1125);
    }
}

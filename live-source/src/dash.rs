//! The DASH manifest of the looped clip: the same segments that HLS lists.
//!
//! By default segments are numbered by a fixed `@duration`, which every player reads well; sound then
//! starts up to half an AAC frame off the grid, within what DASH allows. The `SegmentTimeline` form
//! states every boundary, but ffmpeg and mpv lose it at the first refresh when numbers do not start at 0.

use std::fmt::Write as _;

use crate::clip::{Media, Track};
use crate::hls::{Rendition, rfc3339};
use crate::timeline::{Edge, Timeline};

/// What the manifest is made from.
pub(crate) struct Manifest<'a> {
    pub(crate) video: &'a [Rendition<'a>],
    pub(crate) audio: &'a Rendition<'a>,
    pub(crate) timeline: &'a Timeline,
    pub(crate) edge: Edge,
    /// The media index of the segment that is numbered 0. Past 0, the numbering begins a new Period.
    pub(crate) base: u64,
    /// List every segment.
    pub(crate) explicit: bool,
}

impl Manifest<'_> {
    /// The dynamic MPD.
    pub(crate) fn write(&self) -> String {
        let timeline = self.timeline;
        let segment_s = timeline.segment_ms as f64 / 1000.0;
        let mut out = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011,urn:mpeg:dash:profile:cmaf:2019" type="dynamic" availabilityStartTime="{}" publishTime="{}" minimumUpdatePeriod="PT{segment_s}S" minBufferTime="PT{segment_s}S" timeShiftBufferDepth="PT{}S" suggestedPresentationDelay="PT{}S" maxSegmentDuration="PT{}S">
  <UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="time"/>
  <Period id="{}" start="PT{}S">
"#,
            rfc3339(timeline.epoch_unix_ms),
            rfc3339(timeline.epoch_unix_ms + self.edge.end * timeline.segment_ms),
            // No deeper than the stream is old: players built on ffmpeg else go astray.
            timeline.window_segments.min(self.edge.end) as f64 * segment_s,
            3.0 * segment_s,
            segment_s + 0.1,
            self.base,
            self.base as f64 * segment_s,
        );
        self.adaptation_set(&mut out, "video", self.video);
        self.adaptation_set(&mut out, "audio", std::slice::from_ref(self.audio));
        out.push_str("  </Period>\n</MPD>\n");
        out
    }

    fn adaptation_set(&self, out: &mut String, kind: &str, renditions: &[Rendition<'_>]) {
        let Some(first) = renditions.first() else {
            return;
        };
        let lang = if kind == "audio" { r#" lang="en""# } else { "" };
        _ = write!(
            out,
            r#"    <AdaptationSet contentType="{kind}" mimeType="{kind}/mp4"{lang} segmentAlignment="true" startWithSAP="1">
      <Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"/>
      <SegmentTemplate timescale="{}" initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/seg-$Number$.m4s""#,
            first.track.timescale,
        );
        self.timing(out, first.track);
        for rendition in renditions {
            let Track { id, codec, .. } = rendition.track;
            let bandwidth = rendition.peak_bps;
            _ = match rendition.track.media {
                Media::Video { width, height, fps } => writeln!(
                    out,
                    r#"      <Representation id="{id}" codecs="{codec}" bandwidth="{bandwidth}" width="{width}" height="{height}" frameRate="{fps}" sar="1:1"/>"#
                ),
                Media::Audio {
                    sample_rate,
                    channels,
                } => writeln!(
                    out,
                    r#"      <Representation id="{id}" codecs="{codec}" bandwidth="{bandwidth}" audioSamplingRate="{sample_rate}"><AudioChannelConfiguration schemeIdUri="urn:mpeg:dash:23003:3:audio_channel_configuration:2011" value="{channels}"/></Representation>"#
                ),
            };
        }
        out.push_str("    </AdaptationSet>\n");
    }

    /// The rest of the `SegmentTemplate`.
    fn timing(&self, out: &mut String, track: &Track) {
        let ticks =
            |segments| segments * self.timeline.segment_ms * u64::from(track.timescale) / 1000;
        if self.base > 0 {
            _ = write!(out, r#" presentationTimeOffset="{}""#, ticks(self.base));
        }
        if !self.explicit {
            _ = writeln!(out, r#" startNumber="0" duration="{}"/>"#, ticks(1));
            return;
        }
        let oldest = self.edge.oldest.max(self.base);
        _ = writeln!(
            out,
            r#" startNumber="{}">{INDENT}<SegmentTimeline>"#,
            oldest - self.base
        );
        segment_timeline(out, track, self.timeline, oldest..self.edge.end);
        _ = writeln!(out, "        </SegmentTimeline>\n      </SegmentTemplate>");
    }
}

const INDENT: &str = "\n        ";

/// `S` elements, equal neighbours joined by `@r`.
fn segment_timeline(
    out: &mut String,
    track: &Track,
    timeline: &Timeline,
    segments: std::ops::Range<u64>,
) {
    let tick = |index| {
        timeline.first_sample(index, track.timescale, track.sample_duration)
            * u64::from(track.sample_duration)
    };
    let mut index = segments.start;
    while index < segments.end {
        let duration = tick(index + 1) - tick(index);
        let more = (index + 1..segments.end).take_while(|i| tick(i + 1) - tick(*i) == duration);
        let repeats = more.count() as u64;
        _ = match repeats {
            0 => writeln!(out, r#"          <S t="{}" d="{duration}"/>"#, tick(index)),
            r => writeln!(
                out,
                r#"          <S t="{}" d="{duration}" r="{r}"/>"#,
                tick(index)
            ),
        };
        index += repeats + 1;
    }
}

//! The DASH manifest: the same segments that HLS lists.
//!
//! By default segments are numbered by a fixed `@duration`, which every player reads well; sound then
//! starts up to half an AAC frame off the grid, within what DASH allows. The `SegmentTimeline` form
//! states every boundary, but ffmpeg and mpv lose it at the first refresh when numbers do not start at 0.

use std::fmt::Write as _;
use std::ops::Range;

use crate::Config;
use crate::cmaf::{Media, TrackInfo};
use crate::hls::{Rendition, rfc3339};
use crate::timeline::{Edge, Timeline};

/// How the manifest says what there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// List every segment.
    explicit: bool,
    /// Name segments by their time in place of their number. Only if they are listed.
    by_time: bool,
    /// A new Period begins every so many segments; 0 for one Period.
    period_segments: u64,
    /// Segments can be fetched part by part while they are made.
    low_latency: bool,
}

/// What the manifest is made from.
pub(crate) struct Manifest<'a> {
    pub(crate) video: &'a [Rendition<'a>],
    pub(crate) audio: Option<&'a Rendition<'a>>,
    pub(crate) timeline: &'a Timeline,
    pub(crate) edge: Edge,
    /// The media index of the segment that is numbered 0. Past 0, the numbering begins a new Period.
    pub(crate) base: u64,
    pub(crate) form: Form,
}

/// Low-latency players aim at so many parts behind the edge, which leaves them some to wait for.
const LATENCY_PARTS: u64 = 4;
/// And put up with so many times that.
const LATENCY_MAX: u64 = 3;
const INDENT: &str = "\n        ";

impl Form {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            explicit: config.dash_timeline || config.dash_time,
            by_time: config.dash_time,
            period_segments: config.dash_period_segments,
            low_latency: config.ll_dash,
        }
    }

    /// As for what is not the clip: numbered, in one Period.
    pub(crate) fn numbered(config: &Config) -> Self {
        Self {
            explicit: false,
            by_time: false,
            period_segments: 0,
            low_latency: config.ll_dash,
        }
    }
}

impl Manifest<'_> {
    /// The dynamic MPD.
    pub(crate) fn write(&self) -> String {
        let timeline = self.timeline;
        let segment_s = timeline.segment_ms as f64 / 1000.0;
        let mut out = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011,urn:mpeg:dash:profile:cmaf:2019" type="dynamic" availabilityStartTime="{}" publishTime="{}" minimumUpdatePeriod="PT{segment_s}S" minBufferTime="PT{segment_s}S" timeShiftBufferDepth="PT{}S" suggestedPresentationDelay="PT{}S" maxSegmentDuration="PT{}S">
"#,
            rfc3339(timeline.epoch_unix_ms),
            rfc3339(timeline.epoch_unix_ms + self.edge.end * timeline.segment_ms),
            // No deeper than the stream is old: players built on ffmpeg else go astray.
            timeline.window_segments.min(self.edge.end) as f64 * segment_s,
            3.0 * segment_s,
            segment_s + 0.1,
        );
        if self.form.low_latency {
            let target_ms = LATENCY_PARTS * timeline.part_ms;
            _ = writeln!(
                out,
                r#"  <ServiceDescription id="0"><Latency referenceId="0" target="{target_ms}" max="{}"/><PlaybackRate min="0.96" max="1.04"/></ServiceDescription>"#,
                target_ms * LATENCY_MAX,
            );
        }
        out.push_str(
            "  <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-iso:2014\" value=\"time\"/>\n",
        );
        for period in self.periods() {
            _ = writeln!(
                out,
                r#"  <Period id="{}" start="PT{}S">"#,
                period.start,
                period.start as f64 * segment_s
            );
            self.adaptation_set(&mut out, "video", self.video, &period);
            let audio = self.audio.map(std::slice::from_ref).unwrap_or_default();
            self.adaptation_set(&mut out, "audio", audio, &period);
            out.push_str("  </Period>\n");
        }
        out.push_str("</MPD>\n");
        out
    }

    /// The media indices of every Period that has to be listed; the last has no end.
    fn periods(&self) -> Vec<Range<u64>> {
        let step = self.form.period_segments;
        if step == 0 {
            return std::iter::once(self.base..u64::MAX).collect();
        }
        let oldest = self.edge.oldest.max(self.base);
        let mut start = (oldest - oldest % step).max(self.base);
        let mut periods = Vec::new();
        loop {
            let next = start - start % step + step;
            // A list without segments is no use; what is not listed may be asked for before it is whole.
            let listed_end = self.edge.end + u64::from(!self.form.explicit);
            if next >= listed_end {
                periods.push(start..u64::MAX);
                return periods;
            }
            periods.push(start..next);
            start = next;
        }
    }

    fn adaptation_set(
        &self,
        out: &mut String,
        kind: &str,
        renditions: &[Rendition<'_>],
        period: &Range<u64>,
    ) {
        let Some(first) = renditions.first() else {
            return;
        };
        let lang = if kind == "audio" { r#" lang="en""# } else { "" };
        _ = writeln!(
            out,
            r#"    <AdaptationSet contentType="{kind}" mimeType="{kind}/mp4"{lang} segmentAlignment="true" startWithSAP="1">"#
        );
        let name = if self.form.by_time {
            "time-$Time$"
        } else {
            "seg-$Number$"
        };
        if self.form.low_latency {
            self.reference_time(out, first.track, period);
        }
        _ = write!(
            out,
            r#"      <Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"/>
      <SegmentTemplate timescale="{}" initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/{name}.m4s""#,
            first.track.timescale,
        );
        self.timing(out, first.track, period);
        for rendition in renditions {
            representation(out, rendition);
        }
        out.push_str("    </AdaptationSet>\n");
    }

    /// When what is at the start of the Period was on air.
    fn reference_time(&self, out: &mut String, track: &TrackInfo, period: &Range<u64>) {
        let on_air_ms = self.timeline.epoch_unix_ms + period.start * self.timeline.segment_ms;
        _ = writeln!(
            out,
            r#"      <ProducerReferenceTime id="0" type="encoder" wallClockTime="{}" presentationTime="{}"><UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="time"/></ProducerReferenceTime>"#,
            rfc3339(on_air_ms),
            self.ticks(track, period.start),
        );
    }

    fn ticks(&self, track: &TrackInfo, segments: u64) -> u64 {
        segments * self.timeline.segment_ms * u64::from(track.timescale) / 1000
    }

    /// The rest of the `SegmentTemplate`.
    fn timing(&self, out: &mut String, track: &TrackInfo, period: &Range<u64>) {
        if period.start > 0 {
            let offset = self.ticks(track, period.start);
            _ = write!(out, r#" presentationTimeOffset="{offset}""#);
        }
        if self.form.low_latency {
            let ahead_ms = self.timeline.segment_ms - self.timeline.part_ms;
            _ = write!(
                out,
                r#" availabilityTimeOffset="{}" availabilityTimeComplete="false""#,
                ahead_ms as f64 / 1000.0
            );
        }
        if !self.form.explicit {
            let number = period.start - self.base;
            _ = writeln!(
                out,
                r#" startNumber="{number}" duration="{}"/>"#,
                self.ticks(track, 1)
            );
            return;
        }
        let listed = self.edge.oldest.max(period.start)..self.edge.end.min(period.end);
        _ = writeln!(
            out,
            r#" startNumber="{}">{INDENT}<SegmentTimeline>"#,
            listed.start - self.base
        );
        segment_timeline(out, track, self.timeline, listed);
        _ = writeln!(out, "        </SegmentTimeline>\n      </SegmentTemplate>");
    }
}

fn representation(out: &mut String, rendition: &Rendition<'_>) {
    let TrackInfo { id, codec, .. } = rendition.track;
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

/// `S` elements, equal neighbours joined by `@r`.
fn segment_timeline(
    out: &mut String,
    track: &TrackInfo,
    timeline: &Timeline,
    segments: Range<u64>,
) {
    let tick = |index| timeline.start_ticks(track, index);
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

//! The HLS playlists.

use std::fmt::Write as _;

use crate::cmaf::{Media, TrackInfo};
use crate::object::Lookup;
use crate::reload::{Directives, Edge, Plan};

/// What the multivariant playlist says about one track.
pub(crate) struct Rendition<'a> {
    pub(crate) track: &'a TrackInfo,
    pub(crate) peak_bps: u64,
    pub(crate) average_bps: u64,
}

/// One variant per video track, all with the one audio group if there is sound.
pub(crate) fn multivariant(video: &[Rendition<'_>], audio: Option<&Rendition<'_>>) -> String {
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    if let Some(Rendition { track, .. }) = audio
        && let Media::Audio { channels, .. } = track.media
    {
        _ = writeln!(
            out,
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,\
             AUTOSELECT=YES,CHANNELS=\"{channels}\",URI=\"{}/index.m3u8\"",
            track.id
        );
    }
    let (codec, group) = match audio {
        Some(audio) => (format!(",{}", audio.track.codec), ",AUDIO=\"audio\""),
        None => (String::new(), ""),
    };
    for rendition in video {
        let Media::Video { width, height, fps } = rendition.track.media else {
            continue;
        };
        _ = writeln!(
            out,
            "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{}{codec}\",\
             RESOLUTION={width}x{height},FRAME-RATE={fps}.000{group}\n{}/index.m3u8",
            rendition.peak_bps + audio.map_or(0, |audio| audio.peak_bps),
            rendition.average_bps + audio.map_or(0, |audio| audio.average_bps),
            rendition.track.codec,
            rendition.track.id
        );
    }
    out
}

/// What a media playlist lists.
pub(crate) struct Window {
    /// The number of the oldest segment.
    pub(crate) first_number: u64,
    pub(crate) segments: Vec<Listed>,
    /// The segment that is being made: its parts so far. Its duration is not known.
    pub(crate) open: Option<Listed>,
}

/// A segment.
pub(crate) struct Listed {
    pub(crate) start_unix_ms: u64,
    pub(crate) duration_s: f64,
    pub(crate) parts: Vec<ListedPart>,
}

pub(crate) struct ListedPart {
    pub(crate) duration_s: f64,
    pub(crate) is_independent: bool,
    /// As it is sent, in bytes. Of no account where parts are objects of their own.
    pub(crate) len: u64,
}

/// What a low-latency playlist says besides (draft-pantos-hls-rfc8216bis).
pub(crate) struct LowLatency {
    /// Whether parts are ranges of their segments.
    pub(crate) are_ranges: bool,
    /// No part is longer.
    pub(crate) part_target_s: f64,
    /// Leave out what a player that has an older playlist knows already.
    pub(crate) skip: bool,
    /// The names of the other tracks, and where they are.
    pub(crate) reports: Vec<(String, Edge)>,
}

/// The longest that a part of `part_ms` can be, in seconds: frames do not divide it.
pub(crate) fn part_target_s<'a>(tracks: impl Iterator<Item = &'a TrackInfo>, part_ms: u64) -> f64 {
    let longest = tracks.map(|info| {
        let unit = 1000 * u64::from(info.sample_duration);
        let samples = (part_ms * u64::from(info.timescale)).div_ceil(unit);
        info.seconds(samples * u64::from(info.sample_duration))
    });
    longest.fold(0.0, f64::max)
}

/// The answer to a request for the playlist of `window`.
pub(crate) fn answer(
    window: &Window,
    target_s: u64,
    low_latency: &LowLatency,
    directives: Directives,
) -> Lookup {
    match directives.plan(window.edge(), low_latency.part_target_s) {
        Plan::Answer => Lookup::Found(window.write(target_s, Some(low_latency)).into()),
        Plan::Wait => Lookup::NotYet { next: true },
        Plan::TooFar => Lookup::TooFar,
    }
}

/// Parts are listed for so many target durations from the edge (section 6.2.2 asks for three).
const PARTS_TARGETS: f64 = 3.0;
/// Older segments than so many target durations may be skipped (section 4.4.3.8 asks for six).
const SKIP_TARGETS: u64 = 6;
/// How far players stay from the edge, in parts (appendix B recommends three).
const HOLD_BACK_PARTS: f64 = 3.0;

impl Window {
    /// Where it ends.
    pub(crate) fn edge(&self) -> Edge {
        let parts = self.segments.last().map_or(0, |last| last.parts.len());
        Edge {
            next: self.first_number + self.segments.len() as u64,
            open_parts: self.open.as_ref().map_or(0, |open| open.parts.len() as u64),
            last_parts: parts as u64,
        }
    }

    /// The media playlist.
    pub(crate) fn write(&self, target_s: u64, low_latency: Option<&LowLatency>) -> String {
        let version = if low_latency.is_some() { 9 } else { 7 };
        let mut out =
            format!("#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{target_s}\n");
        if let Some(LowLatency { part_target_s, .. }) = low_latency {
            _ = writeln!(
                out,
                "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={:.5},CAN-SKIP-UNTIL={}.0\n\
                 #EXT-X-PART-INF:PART-TARGET={part_target_s:.5}",
                part_target_s * HOLD_BACK_PARTS,
                target_s * SKIP_TARGETS,
            );
        }
        _ = writeln!(
            out,
            "#EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-INDEPENDENT-SEGMENTS",
            self.first_number
        );
        let skipped = match low_latency {
            Some(LowLatency { skip: true, .. }) => self.skippable(target_s),
            _ => 0,
        };
        if skipped > 0 {
            _ = writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
        out.push_str("#EXT-X-MAP:URI=\"init.mp4\"\n");
        let with_parts = match low_latency {
            Some(_) => self.last_within(target_s as f64 * PARTS_TARGETS),
            None => self.segments.len(),
        };
        let numbered = (self.first_number..)
            .zip(&self.segments)
            .enumerate()
            .skip(skipped);
        for (index, (number, segment)) in numbered {
            let parts = low_latency.filter(|_| index >= with_parts);
            segment.write_head(&mut out, number, parts.map(|low| low.are_ranges));
            _ = writeln!(out, "#EXTINF:{:.6},\nseg-{number}.m4s", segment.duration_s);
        }
        if let Some(low_latency) = low_latency {
            self.write_edge(&mut out, low_latency);
        }
        out
    }

    /// What comes after the last whole segment.
    fn write_edge(&self, out: &mut String, low_latency: &LowLatency) {
        let Edge {
            next, open_parts, ..
        } = self.edge();
        let are_ranges = low_latency.are_ranges;
        let open = self.open.as_ref().filter(|open| !open.parts.is_empty());
        if let Some(open) = open {
            open.write_head(out, next, Some(are_ranges));
        }
        let len: u64 = open.map_or(0, |open| open.parts.iter().map(|part| part.len).sum());
        let place = match are_ranges {
            true => format!("seg-{next}.m4s\",BYTERANGE-START={len}"),
            false => format!("part-{next}.{open_parts}.m4s\""),
        };
        _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{place}");
        for (id, edge) in &low_latency.reports {
            if let Some((segment, part)) = edge.last_part() {
                _ = writeln!(
                    out,
                    "#EXT-X-RENDITION-REPORT:URI=\"../{id}/index.m3u8\",LAST-MSN={segment},LAST-PART={part}"
                );
            }
        }
    }

    /// Segments at the beginning that end before the skip boundary.
    fn skippable(&self, target_s: u64) -> usize {
        self.last_within((target_s * SKIP_TARGETS) as f64)
    }

    /// The index of the first segment that ends less than `seconds` before the edge.
    fn last_within(&self, seconds: f64) -> usize {
        let open = self.open.iter().flat_map(|open| &open.parts);
        let mut after_s: f64 = open.map(|part| part.duration_s).sum();
        let mut index = self.segments.len();
        for segment in self.segments.iter().rev() {
            if after_s >= seconds {
                break;
            }
            after_s += segment.duration_s;
            index -= 1;
        }
        index
    }
}

impl Listed {
    /// `parts` tells whether parts are ranges, if they are listed.
    fn write_head(&self, out: &mut String, number: u64, parts: Option<bool>) {
        _ = writeln!(
            out,
            "#EXT-X-PROGRAM-DATE-TIME:{}",
            rfc3339(self.start_unix_ms)
        );
        let Some(are_ranges) = parts else {
            return;
        };
        let mut first = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let independent = if part.is_independent {
                ",INDEPENDENT=YES"
            } else {
                ""
            };
            let place = match are_ranges {
                true => format!("seg-{number}.m4s\",BYTERANGE=\"{}@{first}\"", part.len),
                false => format!("part-{number}.{index}.m4s\""),
            };
            _ = writeln!(
                out,
                "#EXT-X-PART:DURATION={:.5},URI=\"{place}{independent}",
                part.duration_s
            );
            first += part.len;
        }
    }
}

/// RFC 3339 with milliseconds, in UTC.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    // Past the year 9999 the formatter would fail; a wrong clock must not take the origin down.
    let clamped = std::time::Duration::from_millis(unix_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + clamped).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> ListedPart {
        ListedPart {
            duration_s: 0.5,
            is_independent: false,
            len: 1000,
        }
    }

    fn window(segments: usize, open_parts: usize) -> Window {
        let listed = |parts| Listed {
            start_unix_ms: 0,
            duration_s: 2.0,
            parts: (0..parts).map(|_| part()).collect(),
        };
        Window {
            first_number: 100,
            segments: (0..segments).map(|_| listed(4)).collect(),
            open: Some(listed(open_parts)),
        }
    }

    fn low_latency(skip: bool) -> LowLatency {
        LowLatency {
            are_ranges: false,
            part_target_s: 0.5,
            skip,
            reports: vec![("a".into(), window(10, 0).edge())],
        }
    }

    #[test]
    fn parts_are_listed_near_the_edge_alone() {
        let text = window(10, 2).write(2, Some(&low_latency(false)));
        assert!(!text.contains("part-106."), "{text}");
        let parts = text
            .lines()
            .filter(|line| line.starts_with("#EXT-X-PART:"))
            .count();
        assert_eq!(parts, 3 * 4 + 2);
        assert!(text.contains("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-110.2.m4s\"\n"));
        assert!(
            text.ends_with("URI=\"../a/index.m3u8\",LAST-MSN=109,LAST-PART=3\n"),
            "{text}"
        );
    }

    #[test]
    fn parts_that_are_ranges_say_where_they_are_in_their_segment() {
        let ranges = LowLatency {
            are_ranges: true,
            ..low_latency(false)
        };
        let text = window(10, 2).write(2, Some(&ranges));
        for line in [
            "URI=\"seg-109.m4s\",BYTERANGE=\"1000@3000\"\n",
            "URI=\"seg-110.m4s\",BYTERANGE=\"1000@0\"\n",
            "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"seg-110.m4s\",BYTERANGE-START=2000\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("part-"), "{text}");
        let text = window(10, 0).write(2, Some(&ranges));
        assert!(text.contains("seg-110.m4s\",BYTERANGE-START=0\n"), "{text}");
    }

    #[test]
    fn a_delta_leaves_out_what_is_older_than_the_skip_boundary() {
        // 12 s: an open segment of 1 s, and six that end within.
        let text = window(10, 2).write(2, Some(&low_latency(true)));
        assert!(text.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=4\n"), "{text}");
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:100\n") && !text.contains("seg-103"));
        assert!(text.contains("seg-104"));
        let short = window(5, 2).write(2, Some(&low_latency(true)));
        assert!(!short.contains("SKIP:"), "nothing is old enough");
    }

    #[test]
    fn without_low_latency_nothing_of_it_is_said() {
        let text = window(3, 2).write(2, None);
        for tag in ["PART", "HINT", "SERVER-CONTROL", "REPORT"] {
            assert!(!text.contains(tag), "{text}");
        }
        assert!(text.ends_with("seg-102.m4s\n"));
    }
}

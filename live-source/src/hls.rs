//! The HLS playlists of the looped clip.

use std::fmt::Write as _;

use crate::clip::{Media, Track};
use crate::timeline::{Edge, Timeline};

/// What the multivariant playlist says about one track.
pub(crate) struct Rendition<'a> {
    pub(crate) track: &'a Track,
    pub(crate) peak_bps: u64,
    pub(crate) average_bps: u64,
}

/// One variant per video track, all with the one audio group.
pub(crate) fn multivariant(video: &[Rendition<'_>], audio: &Rendition<'_>) -> String {
    let mut out = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    let channels = match audio.track.media {
        Media::Audio { channels, .. } => channels,
        Media::Video { .. } => 0,
    };
    _ = writeln!(
        out,
        "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,\
         AUTOSELECT=YES,CHANNELS=\"{channels}\",URI=\"{}/index.m3u8\"",
        audio.track.id
    );
    for rendition in video {
        let Media::Video { width, height, fps } = rendition.track.media else {
            continue;
        };
        _ = writeln!(
            out,
            "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{},{}\",\
             RESOLUTION={width}x{height},FRAME-RATE={fps}.000,AUDIO=\"audio\"\n{}/index.m3u8",
            rendition.peak_bps + audio.peak_bps,
            rendition.average_bps + audio.average_bps,
            rendition.track.codec,
            audio.track.codec,
            rendition.track.id
        );
    }
    out
}

/// The media playlist of one track. `base` is the media index of the segment that is numbered 0.
pub(crate) fn media(track: &Track, timeline: &Timeline, edge: Edge, base: u64) -> String {
    let oldest = edge.oldest.max(base);
    let mut out = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n\
         #EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"init.mp4\"\n",
        timeline.segment_ms / 1000,
        oldest - base
    );
    for index in oldest..edge.end {
        let sample = |i| timeline.first_sample(i, track.timescale, track.sample_duration);
        let ticks = |samples: u64| samples as f64 * f64::from(track.sample_duration);
        let seconds = |samples: u64| ticks(samples) / f64::from(track.timescale);
        let (start, end) = (sample(index), sample(index + 1));
        let start_ms = start * u64::from(track.sample_duration) * 1000 / u64::from(track.timescale);
        _ = writeln!(
            out,
            "#EXT-X-PROGRAM-DATE-TIME:{}\n#EXTINF:{:.6},\nseg-{}.m4s",
            rfc3339(timeline.epoch_unix_ms + start_ms),
            seconds(end - start),
            index - base
        );
    }
    out
}

/// RFC 3339 with milliseconds, in UTC.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    // Past the year 9999 the formatter would fail; a wrong clock must not take the origin down.
    let clamped = std::time::Duration::from_millis(unix_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + clamped).to_string()
}

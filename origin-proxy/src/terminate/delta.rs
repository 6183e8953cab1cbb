//! Playlist delta updates (draft-pantos-hls-rfc8216bis section 6.2.5.1), made of whole playlists.

use crate::lowlatency::{attribute, milliseconds};

use super::control::skip_until_ms;

const URI_TAGS: [&str; 13] = [
    "#EXTINF:",
    "#EXT-X-BYTERANGE:",
    "#EXT-X-DISCONTINUITY",
    "#EXT-X-KEY:",
    "#EXT-X-MAP:",
    "#EXT-X-PROGRAM-DATE-TIME:",
    "#EXT-X-GAP",
    "#EXT-X-BITRATE:",
    "#EXT-X-PART:",
    // Ours, and those that packagers put next to segments.
    "#EXT-X-SHOAL-",
    "#EXT-X-CUE",
    "#EXT-OATCLS-SCTE35",
    "#EXT-X-SCTE35",
];

/// `text` with its oldest segments replaced by `EXT-X-SKIP`. What holds for later segments as well (keys,
/// the initialisation section, the bit rate) is said again after it; date ranges and all that is not about
/// segments stay. None if the playlist does not offer delta updates, is one itself, or has nothing old
/// enough.
pub(crate) fn delta(text: &str) -> Option<String> {
    // What lacks segments already cannot say with a second tag that it lacks more.
    if text.lines().any(|line| line.starts_with("#EXT-X-SKIP:")) {
        return None;
    }
    let skipped = plan_skipped(text, skip_until_ms(text)?);
    if skipped == 0 {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut force = InForce::default();
    // Where the tag belongs, and how many segments are left to skip.
    let (mut place, mut left) = (None, skipped);
    for line in text.split_inclusive('\n') {
        if left == 0 {
            out.push_str(line);
            continue;
        }
        if is_of_segment(line) {
            place.get_or_insert(out.len());
            force.note(line);
        } else if !line.starts_with('#') && !line.trim().is_empty() {
            left -= 1;
        } else if line.starts_with("#EXT") || place.is_none() {
            out.push_str(line);
        }
        if left == 0 {
            let at = place.unwrap_or(out.len());
            let end = if line.ends_with("\r\n") { "\r\n" } else { "\n" };
            let tag = format!("#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}{end}");
            out.insert_str(at, &(tag + &force.write()));
        }
    }
    Some(out)
}

/// How many segments end `until_ms` or more before the end of the playlist.
fn plan_skipped(text: &str, until_ms: u64) -> usize {
    let mut segments = Vec::new();
    let (mut segment_ms, mut parts_ms) = (0, 0_u64);
    for line in text.lines() {
        if let Some(inf) = line.strip_prefix("#EXTINF:") {
            let duration = inf.split(',').next().unwrap_or_default();
            segment_ms = milliseconds(duration).unwrap_or(0);
        } else if let Some(part) = line.strip_prefix("#EXT-X-PART:") {
            let duration = attribute(part, "DURATION").and_then(milliseconds);
            parts_ms = parts_ms.saturating_add(duration.unwrap_or(0));
        } else if !line.starts_with('#') && !line.trim().is_empty() {
            segments.push(segment_ms);
            parts_ms = 0;
        }
    }
    let mut after_ms = parts_ms;
    let mut skipped = segments.len();
    for segment_ms in segments.iter().rev() {
        if after_ms >= until_ms {
            break;
        }
        after_ms = after_ms.saturating_add(*segment_ms);
        skipped -= 1;
    }
    skipped
}

fn is_of_segment(line: &str) -> bool {
    let is_of_playlist = line.starts_with("#EXT-X-DISCONTINUITY-SEQUENCE");
    !is_of_playlist && URI_TAGS.iter().any(|tag| line.starts_with(tag))
}

/// Lines that hold until others take their places.
#[derive(Default)]
struct InForce<'a> {
    keys: Vec<&'a str>,
    /// The keys that the initialisation section is encrypted with, and its tag.
    map: Option<(Vec<&'a str>, &'a str)>,
    bitrate: Option<&'a str>,
}

impl<'a> InForce<'a> {
    fn note(&mut self, line: &'a str) {
        if let Some(list) = line.strip_prefix("#EXT-X-KEY:") {
            let list = list.trim_end();
            let format = |list| attribute(list, "KEYFORMAT").unwrap_or("identity");
            let is_none = |list| attribute(list, "METHOD") == Some("NONE");
            let of = |key: &'a str| key.trim_start_matches("#EXT-X-KEY:").trim_end();
            // Those of several formats hold together; NONE ends all.
            self.keys.retain(|key| {
                !is_none(list) && !is_none(of(key)) && format(of(key)) != format(list)
            });
            self.keys.push(line);
        } else if line.starts_with("#EXT-X-MAP:") {
            self.map = Some((self.keys.clone(), line));
        } else if line.starts_with("#EXT-X-BITRATE:") {
            self.bitrate = Some(line);
        }
    }

    fn write(&self) -> String {
        let (before, map) = match &self.map {
            Some((keys, map)) => (keys.as_slice(), *map),
            None => (&[][..], ""),
        };
        let later = self.keys.iter().filter(|key| !before.contains(key));
        let lines = before.iter().copied().chain([map]);
        let lines = lines.chain(later.copied());
        lines.chain(self.bitrate).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-SHOAL:V=1,STREAM=00\n\
        #EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12\n\
        #EXT-X-PART-INF:PART-TARGET=1\n#EXT-X-MEDIA-SEQUENCE:5\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n";
    const KEY: &str = "#EXT-X-KEY:METHOD=AES-128,URI=\"k1\"\n";
    const MAP: &str = "#EXT-X-MAP:URI=\"init.mp4\"\n";
    const RANGE: &str = "#EXT-X-DATERANGE:ID=\"a\",START-DATE=\"2026-01-01T00:00:00Z\"\n";

    fn segments(numbers: std::ops::Range<u64>) -> String {
        numbers
            .map(|number| {
                format!("#EXT-X-SHOAL-SEG:1,2,3,{number}\n#EXTINF:2.000,\nseg-{number}.m4s\n")
            })
            .collect()
    }

    #[test]
    fn old_segments_are_skipped_and_what_holds_on_is_said_again() {
        let edge = "#EXT-X-PART:DURATION=1,URI=\"p\"\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"q\"\n\
            #EXT-X-RENDITION-REPORT:URI=\"../a\",LAST-MSN=14,LAST-PART=0\n";
        let late =
            "#EXT-X-KEY:METHOD=AES-128,URI=\"k2\"\n#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00Z\n";
        let text = format!(
            "{HEAD}{KEY}{MAP}{}{RANGE}#EXT-X-DISCONTINUITY\n{late}{}{edge}",
            segments(5..7),
            segments(7..15)
        );
        // 8 segments after the late key and a part: 12 seconds are the last six but one.
        let k2 = late.lines().next().unwrap();
        let expected = format!(
            "{HEAD}#EXT-X-SKIP:SKIPPED-SEGMENTS=4\n{KEY}{MAP}{k2}\n{RANGE}{}{edge}",
            segments(9..15)
        );
        assert_eq!(delta(&text).as_deref(), Some(expected.as_str()));
    }

    #[test]
    fn nothing_is_skipped_where_nothing_is_old_or_deltas_are_not_offered() {
        let text = format!("{HEAD}{MAP}{}", segments(5..11));
        assert_eq!(delta(&text), None);
        let text = format!("{HEAD}{MAP}{}", segments(5..20));
        assert!(delta(&text).is_some());
        assert_eq!(delta(&text.replace("VERSION:9", "VERSION:7")), None);
        assert_eq!(delta(&text.replace("CAN-SKIP-UNTIL", "CAN-NOT")), None);
        let skip = "#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n";
        assert_eq!(delta(&text.replace(MAP, skip)), None);
    }

    #[test]
    fn keys_of_several_formats_hold_together_until_there_are_none() {
        let other = "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"skd://a\",KEYFORMAT=\"com.apple.streamingkeydelivery\"\n";
        let none = "#EXT-X-KEY:METHOD=NONE\n";
        let last = segments(5..20);
        for (lines, expected) in [
            (format!("{MAP}{KEY}{other}"), format!("{MAP}{KEY}{other}")),
            (format!("{KEY}{other}{KEY}"), format!("{other}{KEY}")),
            (format!("{KEY}{MAP}{none}"), format!("{KEY}{MAP}{none}")),
            (format!("{none}{other}"), other.into()),
        ] {
            let text = format!("{HEAD}{lines}{last}");
            let found = delta(&text).unwrap();
            let from = found.find("#EXT-X-SKIP").unwrap();
            let to = found.find("#EXT-X-SHOAL-SEG").unwrap();
            let after = found[from..to].split_once('\n').unwrap().1;
            assert_eq!(after, expected);
        }
    }

    proptest! {
        #[test]
        fn a_delta_ends_as_its_playlist_and_counts_what_it_lacks(
            tags in prop::collection::vec(0_usize..8, 0..40), end in "\r?\n",
        ) {
            let lines = ["#EXTINF:2,\nseg.m4s\n", KEY, MAP, RANGE, "#EXT-X-DISCONTINUITY\n", "# a word\n", "#EXT-X-GAP\n", "\n"];
            let body: String = tags.iter().map(|tag| lines[*tag]).collect();
            let text = format!("{HEAD}{body}{}", segments(0..8)).replace('\n', &end);
            let count = |text: &str| text.lines().filter(|line| line.ends_with(".m4s")).count();
            if let Some(delta) = delta(&text) {
                let skip = "#EXT-X-SKIP:SKIPPED-SEGMENTS=";
                let skipped = delta.lines().find_map(|line| line.strip_prefix(skip)).unwrap();
                prop_assert_eq!(count(&delta) + skipped.parse::<usize>().unwrap(), count(&text));
                let kept = text.lines().rev().zip(delta.lines().rev()).take(18);
                prop_assert!(kept.into_iter().all(|(a, b)| a == b));
                prop_assert!(delta.starts_with(&HEAD.replace('\n', &end)));
                prop_assert_eq!(delta.matches(RANGE.trim_end()).count(), text.matches(RANGE.trim_end()).count());
            }
        }
    }
}

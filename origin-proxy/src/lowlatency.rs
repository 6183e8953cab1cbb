//! Low-latency HLS (mode A): what blocks and what is a part, as far as an HTTP cache must know.
//!
//! Blocking reloads and hinted parts are ordinary requests that the origin answers late: viewers who
//! ask the same wait for one request. What is special is patience, that parts are sent once they are
//! whole, and that nobody remembers that a hinted part was not there.

use std::{num::ParseIntError, time::Duration};

use moka::sync::Cache;
use swarm_core::{
    id::Name,
    timeline::{Parts as PartList, SegmentInfo, Track},
};
use url::Url;

use crate::{
    live::source_of,
    proxy::Proxy,
    recent,
    records::{Listing, Stream},
    target::{Site, Target},
};

/// What a media playlist says of its low latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LowLatency {
    /// `PART-TARGET`, in milliseconds.
    pub(crate) part_target_ms: u64,
}

/// Keys of parts that playlists list or announce.
pub(crate) struct Parts {
    keys: Cache<String, ()>,
    /// Keys of objects of which parts are ranges, and how far the listed ones reach, in bytes.
    grown: Cache<String, u64>,
}

/// Parts stay fetchable for a few target durations.
const PARTS_TTL: Duration = Duration::from_secs(60);
const PARTS_MAX: u64 = 50_000;
/// More of one playlist are not noted.
pub(crate) const PARTS_PER_PLAYLIST_MAX: usize = 512;

impl Default for Parts {
    fn default() -> Self {
        Self {
            keys: short_lived(),
            grown: short_lived(),
        }
    }
}

fn short_lived<T: Clone + Send + Sync + 'static>() -> Cache<String, T> {
    let builder = recent::builder(PARTS_MAX);
    builder.time_to_live(PARTS_TTL).build()
}

impl Parts {
    /// Whether `key` stands for a part.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// How many bytes the object under `key` has at least, if parts are ranges of it.
    pub(crate) fn grown_to(&self, key: &str) -> Option<u64> {
        self.grown.get(key)
    }

    /// Whether `key` stands for something that may be announced before it is there.
    pub(crate) fn is_awaited(&self, key: &str) -> bool {
        self.has(key) || self.grown.contains_key(key)
    }

    /// Notes the parts of the media playlist `text` that are ranges of an object, which is made while they are
    /// listed. Returns the objects that have grown.
    pub(crate) fn note_grown(
        &self,
        text: &str,
        target: &Target,
        site: &Site,
    ) -> Vec<(Target, u64)> {
        let Ok(base) = Url::parse(&Site::viewer_url(target)) else {
            return Vec::new();
        };
        let mut out: Vec<(Target, u64)> = Vec::new();
        for (uri, end) in ends_of_parts(text) {
            let url = base.join(uri).ok();
            let Some(place) = url.and_then(|url| site.local(url.as_str())) else {
                continue;
            };
            let before = self.grown.get(&place.key);
            if before.is_none_or(|before| before < end) {
                self.grown.insert(place.key.clone(), end);
                out.push((place, end));
            }
        }
        out
    }

    /// Notes the parts of the media playlist `text`; `None` if it has no low latency.
    pub(crate) fn note(&self, text: &str, target: &Target, site: &Site) -> Option<LowLatency> {
        let mut part_target_ms = None;
        let base = Url::parse(&Site::viewer_url(target)).ok()?;
        let mut noted = 0;
        for line in text.lines() {
            if let Some(list) = line.strip_prefix("#EXT-X-PART-INF:") {
                part_target_ms = attribute(list, "PART-TARGET").and_then(milliseconds);
            }
            let hint = line.strip_prefix("#EXT-X-PRELOAD-HINT:");
            let hint = hint.filter(|list| attribute(list, "TYPE") == Some("PART"));
            let part = line.strip_prefix("#EXT-X-PART:").or(hint);
            let Some(list) = part.filter(|_| noted < PARTS_PER_PLAYLIST_MAX) else {
                continue;
            };
            // Those that are ranges of their segment come as it grows: see `note_grown`.
            let is_range = ["BYTERANGE", "BYTERANGE-START"]
                .iter()
                .any(|name| attribute(list, name).is_some());
            let uri = attribute(list, "URI").filter(|_| !is_range);
            let url = uri.and_then(|uri| base.join(uri).ok());
            if let Some(part) = url.and_then(|url| site.local(url.as_str())) {
                noted += 1;
                if !self.has(&part.key) {
                    self.keys.insert(part.key, ());
                }
            }
        }
        let part_target_ms = part_target_ms?;
        Some(LowLatency { part_target_ms })
    }
}

impl Proxy {
    /// Notes how far objects have grown of which parts are ranges. What is shorter in the cache is a beginning,
    /// which must not be taken for the segment.
    pub(crate) fn note_grown(&self, text: &str, target: &Target) {
        let grown = self.parts.note_grown(text, target, self.site_of(target));
        for (place, len) in grown {
            let kept = self.cached(&place).filter(|object| object.is_fresh());
            if kept.is_some_and(|object| object.is_cut(len)) {
                tracing::debug!(path = place.path, "object has grown");
                self.distrust(&place);
            }
        }
    }

    /// Notes the parts of a track, whose playlist viewers wait for if it `is_awaited`. Returns those whose records are
    /// to be made: of what is there, and of the newest one if it is what viewers who play parts wait for. They are about to ask for it, and share it from the
    /// beginning if the playlist that lists it has its tag.
    pub(crate) fn note_parts(
        &self,
        stream: &Stream,
        target: &Target,
        track: &Track,
        is_awaited: bool,
    ) -> Vec<(Name, Target)> {
        let parts = &track.parts;
        let of_segments = source_of(target, track);
        let era = stream.era(of_segments);
        // Parts and segments have the same numbers.
        let source = Name::of(&format!("{of_segments}#parts"));
        if let Some(hinted) = &parts.hinted {
            let SegmentInfo {
                name,
                seq,
                duration_ms,
                ..
            } = hinted.listed.info;
            let listing = Listing {
                seq,
                duration_ms,
                era,
            };
            stream.on_hinted(name, listing);
        }
        let segments = parts.listed.iter().map(|part| &part.listed);
        let (listed, _) = self.note_listed(stream, target, source, era, segments);
        let before_newest = listed.iter().rev().nth(1);
        let are_played = || before_newest.is_some_and(|(_, place)| self.is_there(place));
        let is_played = is_awaited && (ends_within_segment(parts) || are_played());
        let newest = listed.len().saturating_sub(1);
        let is_due = |(index, (name, place)): &(usize, (Name, Target))| {
            let is_fetched_ahead = is_played && *index == newest && !stream.has_failed(*name);
            stream.record_of(*name).is_none() && (is_fetched_ahead || self.is_there(place))
        };
        let due = listed.into_iter().enumerate().filter(is_due);
        due.map(|(_, due)| due).collect()
    }
}

/// Whether the playlist ends with a part after which its segment goes on. Players who want whole segments wait for
/// the last part of each only.
fn ends_within_segment(parts: &PartList) -> bool {
    let (last, hinted) = (parts.listed.last(), &parts.hinted);
    last.zip(hinted.as_ref())
        .is_some_and(|(last, hinted)| last.listed.info.seq == hinted.listed.info.seq)
}

/// The objects of which parts of the media playlist `text` are ranges, and where the last one of each ends. An
/// announced one ends where it begins, as long as it is not there.
fn ends_of_parts(text: &str) -> Vec<(&str, u64)> {
    let mut ends: Vec<(&str, u64)> = Vec::new();
    for line in text.lines() {
        let part = line.strip_prefix("#EXT-X-PART:");
        let range = part.and_then(|list| Some((list, attribute(list, "BYTERANGE")?)));
        let hint = line.strip_prefix("#EXT-X-PRELOAD-HINT:");
        let begin = hint.and_then(|list| Some((list, attribute(list, "BYTERANGE-START")?)));
        let Some((list, range)) = range.or(begin) else {
            continue;
        };
        let Some(uri) = attribute(list, "URI").filter(|uri| !uri.contains("{$")) else {
            continue;
        };
        let before = ends.last().filter(|(last, _)| *last == uri);
        let before = before.map_or(0, |(_, end)| *end);
        // Where the announced one begins; `n@o`, or `n` right after the one before.
        let end = match (part, range.split_once('@')) {
            (None, _) => range.parse().ok(),
            (Some(_), Some((len, first))) => sum(first.parse(), len.parse()),
            (Some(_), None) => sum(Ok(before), range.parse()),
        };
        let Some(end) = end else {
            continue;
        };
        if let Some((_, known)) = ends.last_mut().filter(|(last, _)| *last == uri) {
            *known = end.max(*known);
        } else if ends.len() < PARTS_PER_PLAYLIST_MAX {
            ends.push((uri, end));
        }
    }
    ends
}

fn sum(first: Result<u64, ParseIntError>, len: Result<u64, ParseIntError>) -> Option<u64> {
    first.ok()?.checked_add(len.ok()?)
}

/// The value of `name` in an attribute list (RFC 8216 section 4.2), without its quotes.
pub(crate) fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = list;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.strip_prefix(',').unwrap_or(next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim() == name {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// Decimal seconds as milliseconds.
pub(crate) fn milliseconds(seconds: &str) -> Option<u64> {
    let seconds: f64 = seconds.trim().parse().ok()?;
    let is_sound = seconds.is_finite() && seconds > 0.0 && seconds < 3600.0;
    is_sound.then_some((seconds * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Config, target::sites};

    const TEXT: &str = "#EXTM3U\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
        #EXT-X-PART:DURATION=0.5,URI=\"p,1.m4s?token=a\",INDEPENDENT=YES\n\
        #EXT-X-PART:DURATION=0.5,URI=\"seg.m4s\",BYTERANGE=\"100@0\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=MAP,URI=\"init.mp4\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"/abs/p2.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"http://elsewhere.example/p3.m4s\"\n";

    fn note(text: &str) -> (Parts, Option<LowLatency>) {
        let site = sites(&Config::default()).unwrap().remove(0);
        let target = site.target(&"/live/v/i.m3u8".parse().unwrap()).unwrap();
        let parts = Parts::default();
        let found = parts.note(text, &target, &site);
        (parts, found)
    }

    #[test]
    fn parts_and_hints_are_noted() {
        let (parts, found) = note(TEXT);
        assert_eq!(
            found,
            Some(LowLatency {
                part_target_ms: 500
            })
        );
        for (key, is_part) in [
            ("/live/v/p,1.m4s", true),
            ("/abs/p2.m4s", true),
            ("/live/v/seg.m4s", false),
            ("/live/v/init.mp4", false),
            ("/p3.m4s", false),
        ] {
            assert_eq!(parts.has(key), is_part, "{key}");
        }
        assert_eq!(note("#EXTM3U\n#EXT-X-PART-INF:PART-TARGET=nan\n").1, None);
    }

    #[test]
    fn parts_that_are_ranges_tell_how_long_their_object_is() {
        let text = "#EXT-X-PART:DURATION=1,URI=\"a\",BYTERANGE=\"100@0\"\n\
            #EXT-X-PART:DURATION=1,URI=\"a\",BYTERANGE=\"50\"\n\
            #EXT-X-PART:DURATION=1,URI=\"b\",BYTERANGE=\"7@20\"\n\
            #EXT-X-PART:DURATION=1,URI=\"c.own\"\n\
            #EXT-X-PART:DURATION=1,URI=\"d\",BYTERANGE=\"18446744073709551615@1\"\n\
            #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"b\",BYTERANGE-START=27\n";
        assert_eq!(ends_of_parts(text), [("a", 150), ("b", 27)]);
        let site = sites(&Config::default()).unwrap().remove(0);
        let target = site.target(&"/live/i.m3u8".parse().unwrap()).unwrap();
        let parts = Parts::default();
        assert_eq!(parts.note_grown(text, &target, &site).len(), 2);
        assert_eq!(parts.note_grown(text, &target, &site), []);
        assert_eq!(parts.grown_to("/live/a"), Some(150));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(#EXT-X-PART:|#EXT-X-PART-INF:|URI=|BYTERANGE=|@|\"|,|=|[a-z/:.0-9é]{1,4}|\n){0,20}") {
            note(&text);
            ends_of_parts(&text);
        }
    }
}

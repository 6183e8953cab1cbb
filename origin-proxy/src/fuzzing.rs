//! What of the proxy reads texts of strangers, for fuzzing. Each takes any bytes, and panics where a
//! promise is broken.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use swarm_core::{
    id::{SegmentId, StreamId},
    timeline::{Content, Listed, hls},
};

use crate::{
    CacheConfig, annotate_mpd,
    cmcd::Cmcd,
    conditions,
    freshness::{self, Kind, plan_freshness},
    range::{Ranges, plan_ranges},
    terminate::{
        control, delta,
        reload::{Directives, Edge},
    },
    vary,
};

const URL: &str = "https://edge.example/live/v/i.m3u8";

fn content(_: &Listed) -> Option<Content> {
    Some(Content {
        id: SegmentId(7),
        len: 20_000,
        piece_len: 16_384,
        epoch: 0,
    })
}

/// HLS playlists: whatever the origin sends, all that is not ours goes through.
pub fn playlist_edit(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let is_ours = |line: &&str| line.starts_with("#EXT-X-SHOAL");
    if text.split_inclusive('\n').any(|line| is_ours(&line)) {
        return;
    }
    let tagged = hls::annotate(text, URL, StreamId([5; 16]), content);
    let lines = tagged.split_inclusive('\n');
    let bare: String = lines.filter(|line| !is_ours(line)).collect();
    // A header without a line end gets one.
    assert!(bare == text || bare.strip_suffix('\n') == Some(text));
    let again = hls::annotate(&tagged, URL, StreamId([5; 16]), content);
    assert_eq!(again, tagged);
    let _ = hls::read(&tagged, URL);
}

/// HLS playlists whose low latency is the proxy's to see to: the origin's lines go through, and a delta update
/// lacks what it says it lacks.
pub fn playlist_promise(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let promised = control::announce(text);
    let is_kept = |line: &&str| !line.starts_with("#EXT-X-SERVER-CONTROL:");
    let kept = |text: &str| -> String { text.split_inclusive('\n').filter(is_kept).collect() };
    assert_eq!(kept(&promised), kept(text));
    if let Some(delta) = delta::delta(&promised) {
        let is_uri = |line: &&str| !line.starts_with('#') && !line.trim().is_empty();
        let count = |text: &str| text.lines().filter(is_uri).count();
        let skipped = delta.split("#EXT-X-SKIP:SKIPPED-SEGMENTS=").nth(1).unwrap();
        let skipped: usize = skipped.lines().next().unwrap().parse().unwrap();
        assert_eq!(count(&delta) + skipped, count(text));
    }
    let edge = Edge::read(&promised);
    if let Ok(directives) = Directives::read(Some(text)) {
        let _ = directives.plan(&edge);
    }
}

/// MPDs, likewise.
pub fn manifest_edit(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let stream = StreamId([5; 16]);
    let tagged = annotate_mpd(text, stream);
    if tagged == text {
        return;
    }
    let added = tagged.len() - text.len();
    let common = text
        .bytes()
        .zip(tagged.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let is_insertion = (0..=common)
        .rev()
        .take_while(|at| {
            text.as_bytes()[*at..common] == tagged.as_bytes()[*at + added..common + added]
        })
        .any(|at| text.as_bytes()[at..] == tagged.as_bytes()[at + added..]);
    assert!(is_insertion);
    assert_eq!(annotate_mpd(&tagged, stream), tagged);
}

/// Headers of viewers and origins that decide what is kept and what is sent. A line each: the first byte
/// says which.
pub fn headers(bytes: &[u8]) {
    const NAMES: [HeaderName; 16] = [
        header::RANGE,
        header::CACHE_CONTROL,
        header::VARY,
        header::AGE,
        header::EXPIRES,
        header::DATE,
        header::ETAG,
        header::LAST_MODIFIED,
        header::IF_NONE_MATCH,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::SET_COOKIE,
        header::CONTENT_ENCODING,
        header::AUTHORIZATION,
    ];
    let mut map = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        if let Some((which, value)) = line.split_first()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            map.append(&NAMES[usize::from(*which) % NAMES.len()], value);
        }
    }
    let len = bytes.len() as u64 * 1000;
    let within = |(first, end): &(u64, u64)| first < end && *end <= len;
    match plan_ranges(map.get(header::RANGE), len) {
        Ranges::Whole | Ranges::Unsatisfiable => {}
        Ranges::One(first, end) => assert!(within(&(first, end))),
        Ranges::Many(parts) => assert!(parts.iter().all(within)),
    }
    let kind = Kind::Live {
        target_ms: 4000,
        fresh_ms_max: 2000,
    };
    let status = StatusCode::OK;
    if let Some(plan) = plan_freshness(status, &map, kind, &CacheConfig::default()) {
        assert!(plan.fresh.as_millis() <= 2000, "{map:?}");
    }
    let has_control = |word: &str| {
        let values = map.get_all(header::CACHE_CONTROL).into_iter();
        values
            .map(HeaderValue::as_bytes)
            .any(|value| value == word.as_bytes())
    };
    if has_control("no-store") || has_control("private") || map.contains_key(header::SET_COOKIE) {
        assert!(!freshness::is_shareable(status, &map, false), "{map:?}");
    }
    let _ = freshness::is_only_if_cached(&map);
    let _ = conditions::weigh(&map, &map);
    let _ = conditions::is_range_wanted(&map, &map);
    if let Some(names) = vary::names(&map) {
        let rule = vary::Rule::new(names, 1);
        assert_eq!(rule.key("/a", &map), rule.key("/a", &map));
    }
}

/// What players say of themselves, in a query or in headers.
pub fn cmcd(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    Cmcd::read(Some(text), &HeaderMap::new());
    let mut map = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(text) {
        map.insert("cmcd-request", value);
    }
    if let Some(cmcd) = Cmcd::read(None, &map) {
        let session = cmcd.session.unwrap_or_default();
        assert!(session.len() <= 64 * 4, "{session}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for read in [playlist_edit, playlist_promise, manifest_edit, headers, cmcd] {
                read(&bytes);
            }
        }

        #[test]
        fn no_playlist_breaks_a_promise(
            text in "(#EXTINF:9,\n|s\n|#EXT-X-VERSION:9\n|#EXT-X-SERVER-CONTROL:|CAN-SKIP-UNTIL=9|#EXT-X-PART-INF:PART-TARGET=1\n|#EXT-X-PART:DURATION=1\n|#EXT-X-KEY:|METHOD=NONE|KEYFORMAT=a|#EXT-X-MAP:|#EXT-X-TARGETDURATION:1\n|,|\r?\n){0,40}",
        ) {
            playlist_promise(text.as_bytes());
        }

        #[test]
        fn no_headers_break_a_promise(
            lines in prop::collection::vec(
                "[\u{0}-\u{f}](bytes=|max-age=|no-store|private|s-maxage=|stale-if-error|\\*|[0-9]{1,20}|[-,= \";a-zW/]){0,8}",
                0..8,
            ),
        ) {
            headers(lines.join("\n").as_bytes());
        }
    }
}

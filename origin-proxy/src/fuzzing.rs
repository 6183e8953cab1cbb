//! What of the proxy reads texts of strangers, for fuzzing. Each takes any bytes, and panics where a
//! promise is broken.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use swarm_core::{
    id::{SegmentId, StreamId},
    timeline::{Content, Listed, hls},
};

use crate::{
    CacheConfig, Config, HostConfig, SteeringConfig, annotate_mpd,
    cmcd::Cmcd,
    conditions,
    freshness::{self, Kind, plan_freshness},
    key::public_text,
    keyring::Keyring,
    range::{Ranges, plan_ranges},
    redirects::Step,
    steering::Steering,
    target::{Site, site_of, sites},
    terminate::{
        control, delta,
        reload::{Directives, Edge},
    },
    trace::{TRACEPARENT, Trace, continue_trace},
    vary,
};

pub use crate::{brief::fuzzing::brief, disk::fuzzing::stored};

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
    const NAMES: [HeaderName; 17] = [
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
        HeaderName::from_static(TRACEPARENT),
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
    let trace = Trace::read(&map);
    continue_trace(&mut map);
    assert_eq!(
        Trace::read(&map).map(|trace| trace.id()),
        trace.map(|trace| trace.id())
    );
    assert!(trace.is_some() || !map.contains_key(TRACEPARENT));
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

/// Key files: what is read can be written, and is the same when it is read again.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(ring) = Keyring::read(text) else {
        return;
    };
    let mut written = public_text(&ring.signs.to_bytes());
    written += &format!("\nnames {}\n", public_text(&ring.names));
    for key in &ring.valid {
        written += &format!("valid {}\n", public_text(key));
    }
    assert_eq!(Keyring::read(&written).unwrap(), ring);
    // No key can be spelt in two ways.
    for line in written.lines().filter(|line| !line.starts_with("names")) {
        let key = line.rsplit(' ').next().unwrap();
        assert!(text.contains(key), "{key}");
    }
    assert!((1..=8).contains(&ring.trusted().len()));
    assert_eq!(ring.trusted()[0], public_text(&ring.public()));
}

/// What viewers ask for, behind a line with the host: it is below the path of its own origin, and its key is
/// its own.
pub fn target(bytes: &[u8]) {
    static SITES: LazyLock<Vec<Site>> = LazyLock::new(|| {
        let host = HostConfig {
            names: vec!["b.example".into()],
            origin: "http://b.origin.example".into(),
            origin_backups: Vec::new(),
            streams: Vec::new(),
            cors: None,
            steering: None,
        };
        let config = Config {
            origin: "https://origin.example:8443/below/this/".into(),
            origin_backups: vec!["http://backup.example/v1".into()],
            hosts: vec![host],
            ..Config::default()
        };
        sites(&config).unwrap()
    });
    let Some((host, uri)) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.split_once('\n'))
    else {
        return;
    };
    let site = site_of(&SITES, Some(host));
    let Ok(uri) = uri.parse::<Uri>() else {
        return;
    };
    steering(&uri);
    let Ok(target) = site.target(&uri) else {
        return;
    };
    for base in &site.bases {
        let (root, url) = (base.url_of("/", None), base.url(&target));
        assert_eq!(url.origin(), root.origin());
        assert!(url.path().starts_with(root.path()), "{url}");
        assert!(
            url.username().is_empty() && url.fragment().is_none(),
            "{url}"
        );
        assert_eq!(url.query().is_some(), target.query.is_some(), "{url}");
    }
    assert_eq!(site.path_of(&target.key), Some(&*target.path));
    let plain = site.without_directives(&target);
    assert!(!plain.has_directives() && plain.path == target.path);
    assert_eq!(site.without_directives(&plain), plain);
    assert_eq!(plain.has_state(&target.key), target.has_directives());
    let local = site.local(&Site::viewer_url(&target)).unwrap();
    assert_eq!(local.path, target.path);
}

/// Viewers stay where they are when they ask again as they were told.
fn steering(uri: &Uri) {
    static STEERING: LazyLock<Steering> = LazyLock::new(|| {
        let share_percent = 50.0;
        Steering::new(&SteeringConfig {
            share_percent,
            ..SteeringConfig::default()
        })
    });
    let read = |uri: &Uri| {
        let body = STEERING.answer(uri, false).body_mut().take();
        let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(manifest["VERSION"], 1);
        let place = manifest["RELOAD-URI"].as_str().unwrap().parse::<Uri>();
        (place.unwrap(), manifest["PATHWAY-PRIORITY"].clone())
    };
    let (place, order) = read(uri);
    assert_eq!(read(&place), (place, order));
}

/// Redirects of the origin: two bytes choose what was asked and how it was answered, the rest says where to.
pub fn redirect(bytes: &[u8]) {
    let Some(([method, status], location)) = bytes.split_first_chunk() else {
        return;
    };
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT];
    let secrets = [header::AUTHORIZATION, header::COOKIE];
    let secret = |name: &HeaderName| (name.clone(), HeaderValue::from_static("x"));
    let asked = Step {
        method: methods[usize::from(*method) % methods.len()].clone(),
        url: "http://me:secret@o.example/a/b?token=x".parse().unwrap(),
        headers: secrets.iter().map(secret).collect(),
        body: Bytes::from_static(b"body"),
    };
    let (Ok(location), Ok(status)) = (
        HeaderValue::from_bytes(location),
        StatusCode::from_u16(300 + u16::from(*status)),
    ) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
    let Some(next) = asked.next(status, &headers) else {
        return;
    };
    assert!(
        matches!(next.url.scheme(), "http" | "https"),
        "{}",
        next.url
    );
    assert!(next.url.username().is_empty() && next.url.password().is_none());
    let is_same = next.url.origin() == asked.url.origin();
    assert!(
        secrets
            .iter()
            .all(|name| next.headers.contains_key(name) == is_same)
    );
    assert!(next.method == asked.method || (next.method == Method::GET && next.body.is_empty()));
}

/// Headers, `name: value` a line, up to a line that is none, and what comes behind.
pub(crate) fn lines_of(mut bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = &bytes[..end];
        bytes = &bytes[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            break;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 1..])) {
            headers.append(name, value);
        }
    }
    (headers, bytes)
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
            for read in [brief, stored, keys, target, redirect] {
                read(&bytes);
            }
        }

        #[test]
        fn no_request_breaks_a_promise(
            text in "(a|b.example)\n/(\\.|%2e|/|[a-z;:@]|%5[cC]|%00){0,12}(\\?([a-z]=1|_HLS_msn=2|%5FHLS_part=3|viewer=0123456789abcdef|&){0,9})?",
        ) {
            target(text.as_bytes());
        }

        #[test]
        fn no_redirect_breaks_a_promise(
            method in any::<u8>(),
            status in 0_u8..9,
            location in "(https?:|ftp:)?(//)?(me(:pw)?@)?[a-z/\\\\?#:.]{0,12}",
        ) {
            redirect(&[&[method, status], location.as_bytes()].concat());
        }

        #[test]
        fn no_key_file_breaks_a_promise(
            lines in prop::collection::vec(
                "(valid |names |# )?[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048B]",
                0..5,
            ),
        ) {
            keys(lines.join("\n").as_bytes());
        }

        #[test]
        fn no_file_of_the_cache_breaks_a_promise(
            key in "/[a-z]{0,3}",
            status in 0_u16..1100,
            times in prop::array::uniform4(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)]),
            body_len in prop_oneof![Just(3_u64), any::<u64>()],
            name in "[a-zA-Z:\"\\\\]{0,3}",
        ) {
            let [stored_ms, fresh, revalidate, stale] = times;
            let meta = serde_json::json!({
                "key": key, "status": status, "headers": [[name, [120]]], "stored_unix_ms": stored_ms,
                "fresh_ms": fresh, "revalidate_ms": revalidate, "stale_ms": stale, "body_len": body_len,
            });
            stored(format!("{meta}\nabc").as_bytes());
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

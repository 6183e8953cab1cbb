//! Playlists and manifests as viewers get them, with headers of their own.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use swarm_core::record::RECORD_HEADER;

use crate::{
    freshness::{Freshness, Kind, NOT_FRESH, age_s, plan_freshness},
    gzip::{self, Gzipped},
    object::{Object, Raw},
    playlist::Format,
    proxy::Proxy,
    target::Target,
};

impl Proxy {
    /// A playlist as viewers get it, and whether it may be kept; `head` is the origin's. One that is shared
    /// may be promised to viewers who wait for it.
    pub(crate) async fn release(
        self: &Arc<Self>,
        target: &Target,
        is_shared: bool,
        head: HeaderMap,
        raw: Bytes,
        format: Format,
        arrived: Instant,
    ) -> (Object, bool) {
        let (body, kind) = self.release_playlist(target, is_shared, &raw, format).await;
        let status = StatusCode::OK;
        let plan = plan_freshness(status, &head, kind, &self.config.cache);
        let freshness = plan.unwrap_or(NOT_FRESH);
        let mut headers = head.clone();
        headers.insert(header::ETAG, etag_of(&body));
        headers.remove(RECORD_HEADER);
        let gzipped = Gzipped::of_playlist(self.config.cache.gzip);
        if gzipped.is_possible() {
            gzip::note_forms(&mut headers);
        }
        if let Kind::Live { fresh_ms_max, .. } = kind {
            shorten(&mut headers, fresh_ms_max, freshness);
        }
        let object = Object {
            status,
            headers,
            body,
            origin_etag: head.get(header::ETAG).cloned(),
            raw: Some(Raw {
                headers: head,
                body: raw,
            }),
            stored: arrived,
            freshness,
            records: Default::default(),
            prepared: Default::default(),
            gzipped,
        };
        (object, plan.is_some())
    }
}

/// Has caches between the proxy and viewers keep a live playlist no longer than the proxy does, whatever its
/// origin says: one that is old holds up all who come by them.
fn shorten(headers: &mut HeaderMap, fresh_ms_max: u64, freshness: Freshness) {
    let stale_s_max = freshness.stale.as_secs();
    // They subtract the age.
    let fresh_s_max = age_s(headers).saturating_add(fresh_ms_max / 1000);
    for name in &CONTROLS {
        let lines = headers.get_all(name).into_iter();
        let texts = lines.filter_map(|line| line.to_str().ok());
        let words = texts.flat_map(|text| text.split(',')).map(str::trim);
        let words = words.filter_map(|word| shortened(word, fresh_s_max, stale_s_max));
        let mut words: Vec<String> = words.collect();
        if *name == header::CACHE_CONTROL {
            let is_bound = |word: &String| BOUNDS.iter().any(|bound| word.starts_with(bound));
            if words.is_empty() {
                let fresh_ms = u64::try_from(freshness.fresh.as_millis()).unwrap_or(0);
                words.push(max_age_text(fresh_ms));
            } else if !words.iter().any(is_bound) {
                words.push(format!("max-age={fresh_s_max}"));
            }
        }
        headers.remove(name);
        if let (false, Ok(value)) = (words.is_empty(), HeaderValue::try_from(words.join(", "))) {
            headers.insert(name, value);
        }
    }
    // `Cache-Control` goes before it in any case (RFC 9111 section 5.3).
    headers.remove(header::EXPIRES);
}

/// What caches on the way go by.
static CONTROLS: [HeaderName; 3] = [
    header::CACHE_CONTROL,
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("surrogate-control"),
];
/// What of `Cache-Control` leaves caches no time to guess.
const BOUNDS: [&str; 5] = ["max-age", "s-maxage", "no-cache", "no-store", "private"];

/// One directive; none if it has no place in a live playlist.
fn shortened(word: &str, fresh_s_max: u64, stale_s_max: u64) -> Option<String> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let name = name.trim().to_ascii_lowercase();
    let at_most = |most: u64| {
        // What cannot be read is as good as 0.
        let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
        Some(format!("{name}={}", most.min(seconds)))
    };
    match name.as_str() {
        "" | "immutable" | "stale-while-revalidate" => None,
        "max-age" | "s-maxage" => at_most(fresh_s_max),
        "stale-if-error" => at_most(stale_s_max),
        _ if value.is_empty() => Some(name),
        _ => Some(word.into()),
    }
}

/// The validator of a playlist of ours.
pub(crate) fn etag_of(body: &[u8]) -> HeaderValue {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(body);
    let text = format!("\"{}\"", hex::encode(&digest[..8]));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// `max-age` in whole seconds, of which less than one is none.
pub(crate) fn max_age(ms: u64) -> HeaderValue {
    HeaderValue::try_from(max_age_text(ms)).unwrap_or(HeaderValue::from_static("no-cache"))
}

fn max_age_text(ms: u64) -> String {
    match ms / 1000 {
        0 => "no-cache".into(),
        seconds => format!("max-age={seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_live_playlist_is_kept_no_longer_on_the_way_than_here() {
        let freshness = Freshness {
            fresh: Duration::from_secs(3),
            stale: Duration::from_secs(9),
            ..NOT_FRESH
        };
        for (before, after) in [
            (&[][..], "max-age=3"),
            (&[("cache-control", "max-age=60")][..], "max-age=3"),
            (&[("cache-control", "max-age=1")][..], "max-age=1"),
            (
                &[
                    ("cache-control", "Public, S-MaxAge=\"60\""),
                    ("cache-control", "max-age=2"),
                ][..],
                "public, s-maxage=3, max-age=2",
            ),
            (&[("cache-control", "public")][..], "public, max-age=3"),
            (
                &[(
                    "cache-control",
                    "max-age=many, immutable, stale-while-revalidate=9",
                )][..],
                "max-age=0",
            ),
            (
                &[("cache-control", "max-age=2, stale-if-error=60")][..],
                "max-age=2, stale-if-error=9",
            ),
            (&[("cache-control", "no-cache")][..], "no-cache"),
            (
                &[("cache-control", "max-age=60"), ("age", "40")][..],
                "max-age=43",
            ),
            (
                &[("expires", "Thu, 01 Jan 2099 00:00:00 GMT")][..],
                "max-age=3",
            ),
            (
                &[
                    ("cdn-cache-control", "max-age=60"),
                    ("surrogate-control", "max-age=60+60"),
                ][..],
                "max-age=3 max-age=3 max-age=0",
            ),
        ] {
            let pair = |(name, value): &(&str, &str)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            };
            let mut headers: HeaderMap = before.iter().map(pair).collect();
            shorten(&mut headers, 3000, freshness);
            let values = CONTROLS.iter().filter_map(|name| headers.get(name));
            let texts: Vec<&str> = values.map(|value| value.to_str().unwrap()).collect();
            assert_eq!(texts.join(" "), after, "{before:?}");
            assert!(!headers.contains_key(header::EXPIRES));
        }
    }
}

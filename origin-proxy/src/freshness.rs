//! How long an answer may be repeated: a pure reading of its head (RFC 9111).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::config::CacheConfig;

/// What the kind of an object says of its freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A live playlist or manifest with its target duration.
    Live {
        /// Target duration (HLS), or what stands for it (DASH), in milliseconds.
        target_ms: u64,
    },
    /// A playlist that does not change, or only lists renditions.
    Playlist,
    /// Anything else, with the shortest target duration of its stream, if it is live.
    Object {
        /// In milliseconds.
        stream_target_ms: Option<u64>,
    },
}

/// How long to keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// May be repeated without asking.
    pub(crate) fresh: Duration,
    /// May be repeated after that if the origin fails.
    pub(crate) stale: Duration,
}

/// To be asked for each time.
pub(crate) const NOT_FRESH: Freshness = Freshness {
    fresh: Duration::ZERO,
    stale: Duration::ZERO,
};

/// Playlists without explicit freshness that do not change.
const PLAYLIST_FRESH: Duration = Duration::from_secs(5);
/// No answer is fresh for longer: a year.
const FRESH_MAX_S: u64 = 31_536_000;

/// Directives of `Cache-Control` that matter to a shared cache.
#[derive(Debug, Default, PartialEq, Eq)]
struct CacheControl {
    no_store: bool,
    private: bool,
    no_cache: bool,
    must_revalidate: bool,
    max_age_s: Option<u64>,
    shared_max_age_s: Option<u64>,
}

impl CacheControl {
    fn read(headers: &HeaderMap) -> Self {
        let mut out = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).into_iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for directive in texts.flat_map(|text| text.split(',')) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            // What cannot be read is as good as 0: asking once too often does no harm.
            let seconds = || Some(value.trim().trim_matches('"').parse().unwrap_or(0));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => out.no_store = true,
                "private" => out.private = true,
                "no-cache" => out.no_cache = true,
                "must-revalidate" | "proxy-revalidate" => out.must_revalidate = true,
                "max-age" => out.max_age_s = seconds(),
                "s-maxage" => out.shared_max_age_s = seconds(),
                _ => {}
            }
        }
        out
    }

    fn fresh(&self, age_s: u64) -> Option<Duration> {
        if self.no_cache {
            return Some(Duration::ZERO);
        }
        let seconds = self.shared_max_age_s.or(self.max_age_s)?;
        Some(Duration::from_secs(
            seconds.min(FRESH_MAX_S).saturating_sub(age_s),
        ))
    }
}

/// Whether an answer with this head may be given to more than the one who asked.
pub(crate) fn is_shareable(status: StatusCode, headers: &HeaderMap) -> bool {
    let control = CacheControl::read(headers);
    let varies = headers.get_all(header::VARY).into_iter().any(|value| {
        let names = value.to_str().unwrap_or("*").to_ascii_lowercase();
        let harmless = |name: &str| matches!(name.trim(), "" | "origin" | "accept-encoding");
        !names.split(',').all(harmless)
    });
    let is_encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity");
    let is_for_all = match status {
        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::GONE => true,
        other => other.is_server_error(),
    };
    let is_kept = !control.no_store || status != StatusCode::OK;
    is_for_all
        && is_kept
        && !control.private
        && !varies
        && !is_encoded
        && !headers.contains_key(header::SET_COOKIE)
}

/// How long to keep a shareable answer; `None`, if not at all.
pub(crate) fn plan_freshness(
    status: StatusCode,
    headers: &HeaderMap,
    kind: Kind,
    config: &CacheConfig,
) -> Option<Freshness> {
    let control = CacheControl::read(headers);
    if control.no_store {
        return None;
    }
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Some(negative(&control, kind, config));
    }
    if status != StatusCode::OK {
        return None;
    }
    let told = control.fresh(age_s(headers));
    let stale_max = Duration::from_secs(config.stale_if_error_s);
    let (fresh, stale) = match kind {
        Kind::Live { target_ms } => {
            let half = Duration::from_millis(target_ms / 2);
            let stale = Duration::from_millis(target_ms.saturating_mul(3) / 2);
            (told.map_or(half, |told| told.min(half)), stale)
        }
        Kind::Playlist => (told.unwrap_or(PLAYLIST_FRESH), stale_max),
        Kind::Object { .. } => {
            let default = Duration::from_secs(config.fresh_default_s);
            (told.unwrap_or(default), stale_max)
        }
    };
    let stale = if control.must_revalidate {
        Duration::ZERO
    } else {
        stale.min(stale_max)
    };
    Some(Freshness { fresh, stale })
}

fn negative(control: &CacheControl, kind: Kind, config: &CacheConfig) -> Freshness {
    let mut fresh = Duration::from_millis(config.negative_ttl_ms);
    if let Kind::Object {
        stream_target_ms: Some(target_ms),
    } = kind
    {
        fresh = fresh.min(Duration::from_millis(target_ms / 4));
    }
    if let Some(told) = control.fresh(0) {
        fresh = fresh.min(told);
    }
    Freshness {
        fresh,
        stale: Duration::ZERO,
    }
}

/// The `Age` of an answer, in seconds.
pub(crate) fn age_s(headers: &HeaderMap) -> u64 {
    let value = headers
        .get(header::AGE)
        .and_then(|value| value.to_str().ok());
    value.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn fresh_ms(status: u16, pairs: &[(&str, &str)], kind: Kind) -> Option<u128> {
        let status = StatusCode::from_u16(status).unwrap();
        let plan = plan_freshness(status, &headers(pairs), kind, &CacheConfig::default());
        plan.map(|plan| plan.fresh.as_millis())
    }

    const LIVE: Kind = Kind::Live { target_ms: 2000 };
    const SEGMENT: Kind = Kind::Object {
        stream_target_ms: Some(2000),
    };

    #[test]
    fn live_playlists_are_fresh_for_half_a_target_duration_at_most() {
        assert_eq!(fresh_ms(200, &[], LIVE), Some(1000));
        let long = [("cache-control", "public, max-age=60")];
        assert_eq!(fresh_ms(200, &long, LIVE), Some(1000));
        let short = [("cache-control", "no-cache")];
        assert_eq!(fresh_ms(200, &short, LIVE), Some(0));
        assert_eq!(fresh_ms(200, &[("cache-control", "no-store")], LIVE), None);
    }

    #[test]
    fn not_there_is_forgotten_soon() {
        assert_eq!(fresh_ms(404, &[], SEGMENT), Some(500));
        let vod = Kind::Object {
            stream_target_ms: None,
        };
        assert_eq!(fresh_ms(404, &[], vod), Some(1000));
        assert_eq!(fresh_ms(500, &[], SEGMENT), None);
    }

    #[test]
    fn age_counts_and_shared_age_wins() {
        let told = [("cache-control", "max-age=1, s-maxage=100"), ("age", "40")];
        assert_eq!(fresh_ms(200, &told, SEGMENT), Some(60_000));
        let bad = [("cache-control", "max-age=many")];
        assert_eq!(fresh_ms(200, &bad, SEGMENT), Some(0));
    }

    #[test]
    fn private_answers_are_not_shared() {
        let ok = StatusCode::OK;
        for pairs in [
            ("cache-control", "private"),
            ("cache-control", "no-store"),
            ("set-cookie", "a=b"),
            ("vary", "Cookie"),
            ("vary", "*"),
            ("content-encoding", "gzip"),
        ] {
            assert!(!is_shareable(ok, &headers(&[pairs])), "{pairs:?}");
        }
        assert!(is_shareable(
            ok,
            &headers(&[("vary", "Origin, Accept-Encoding")])
        ));
        assert!(!is_shareable(StatusCode::FORBIDDEN, &HeaderMap::new()));
        assert!(!is_shareable(StatusCode::FOUND, &HeaderMap::new()));
    }
}

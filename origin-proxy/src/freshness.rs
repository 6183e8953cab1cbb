//! How long an answer may be repeated: a pure reading of its head (RFC 9111, RFC 5861).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::{conditions::date, config::CacheConfig, vary};

/// What the kind of an object says of its freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A live playlist or manifest.
    Live {
        /// Target duration (HLS), or what stands for it (DASH), in milliseconds.
        target_ms: u64,
        /// Longest time that it is fresh, in milliseconds.
        fresh_ms_max: u64,
    },
    /// A playlist that does not change, or only lists renditions.
    Playlist,
    /// Anything else.
    Object {
        /// Shortest target duration of its stream, if it is live, in milliseconds.
        stream_target_ms: Option<u64>,
        /// It was announced before it was there: that it is not there will be wrong at any moment.
        is_hinted: bool,
    },
}

/// How long to keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// May be repeated without asking.
    pub(crate) fresh: Duration,
    /// May be repeated for so long after that while the origin is asked.
    pub(crate) revalidate: Duration,
    /// May be repeated for so long after that if the origin fails.
    pub(crate) stale: Duration,
}

/// To be asked for each time.
pub(crate) const NOT_FRESH: Freshness = Freshness {
    fresh: Duration::ZERO,
    revalidate: Duration::ZERO,
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
    public: bool,
    no_cache: bool,
    must_revalidate: bool,
    max_age_s: Option<u64>,
    shared_max_age_s: Option<u64>,
    stale_while_revalidate_s: Option<u64>,
    stale_if_error_s: Option<u64>,
}

impl CacheControl {
    fn read(headers: &HeaderMap) -> Self {
        let mut out = Self::default();
        let values = headers.get_all(header::CACHE_CONTROL).into_iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        for directive in texts.flat_map(|text| text.split(',')) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            // What cannot be read is as good as 0: asking once too often does no harm. Of several the first one counts
            // (section 4.2.1).
            let first = |known: &mut Option<u64>| {
                known.get_or_insert_with(|| value.trim().trim_matches('"').parse().unwrap_or(0));
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => out.no_store = true,
                // With names of fields, too: none of them is left out, so nothing is shared.
                "private" => out.private = true,
                "public" => out.public = true,
                "no-cache" => out.no_cache = true,
                "must-revalidate" | "proxy-revalidate" => out.must_revalidate = true,
                "max-age" => first(&mut out.max_age_s),
                "s-maxage" => first(&mut out.shared_max_age_s),
                "stale-while-revalidate" => first(&mut out.stale_while_revalidate_s),
                "stale-if-error" => first(&mut out.stale_if_error_s),
                _ => {}
            }
        }
        out
    }

    /// What the origin says of freshness when the answer arrives.
    fn fresh(&self, headers: &HeaderMap) -> Option<Duration> {
        if self.no_cache {
            return Some(Duration::ZERO);
        }
        let lifetime = match self.shared_max_age_s.or(self.max_age_s) {
            Some(seconds) => Duration::from_secs(seconds.min(FRESH_MAX_S)),
            None => expires_in(headers)?,
        };
        Some(lifetime.saturating_sub(Duration::from_secs(age_s(headers))))
    }

    /// How long past its freshness an answer may be repeated, by a directive that says so or by the
    /// operator. `s-maxage` forbids it as `proxy-revalidate` does (RFC 9111 section 5.2.2.10), unless
    /// the origin itself says otherwise next to it.
    fn stale(&self, told_s: Option<u64>, default_s: u64) -> Duration {
        let is_forbidden = self.must_revalidate || self.no_cache;
        let default_s = if self.shared_max_age_s.is_some() {
            0
        } else {
            default_s
        };
        let seconds = if is_forbidden {
            0
        } else {
            told_s.unwrap_or(default_s)
        };
        Duration::from_secs(seconds.min(FRESH_MAX_S))
    }
}

/// By `Expires`, which counts from `Date`: the origin's clock need not be right. What is no date has
/// passed (RFC 9111 section 5.3).
fn expires_in(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::EXPIRES)?;
    let sent = date(headers, &header::DATE).unwrap_or_else(SystemTime::now);
    let expires = date(headers, &header::EXPIRES);
    let lifetime = expires.and_then(|expires| expires.duration_since(sent).ok());
    Some(
        lifetime
            .unwrap_or_default()
            .min(Duration::from_secs(FRESH_MAX_S)),
    )
}

/// Whether an answer says that the origin cannot, or will not now: it fails, or wants to be asked later (RFC 9110
/// section 15.5.9, RFC 6585 section 4, RFC 8470 section 5.2). Who asks again at once only makes it worse.
pub(crate) fn is_trouble(status: StatusCode) -> bool {
    let is_later = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    is_later || status.is_server_error()
}

/// Whether an answer with this head may be given to more than the one who asked.
pub(crate) fn is_shareable(status: StatusCode, headers: &HeaderMap, is_authorized: bool) -> bool {
    let control = CacheControl::read(headers);
    let is_encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity");
    let is_for_all = match status {
        StatusCode::OK
        | StatusCode::NON_AUTHORITATIVE_INFORMATION
        | StatusCode::MOVED_PERMANENTLY
        | StatusCode::PERMANENT_REDIRECT
        | StatusCode::NOT_FOUND
        | StatusCode::GONE => true,
        StatusCode::FOUND | StatusCode::TEMPORARY_REDIRECT => control.fresh(headers).is_some(),
        other => is_trouble(other),
    };
    let is_kept = !control.no_store || !(status.is_success() || status.is_redirection());
    is_for_all && is_kept && !is_encoded && is_for_many(&control, headers, is_authorized)
}

/// Why an answer with this head may not be given to more than the one who asked, in a word; none if it may.
pub(crate) fn why_not_shared(
    status: StatusCode,
    headers: &HeaderMap,
    is_authorized: bool,
) -> Option<&'static str> {
    if is_shareable(status, headers, is_authorized) {
        return None;
    }
    let control = CacheControl::read(headers);
    Some(match () {
        () if control.no_store => "no-store",
        () if control.private => "private",
        () if headers.contains_key(header::SET_COOKIE) => "set-cookie",
        () if vary::names(headers).is_none() => "vary",
        () if is_authorized && !allows_authorized(&control) => "authorization",
        () if headers.contains_key(header::CONTENT_ENCODING) => "content-encoding",
        () => "status",
    })
}

/// Whether a redirect with this head lets the answer that it leads to be given to more than the one who asked.
pub(crate) fn lets_share(headers: &HeaderMap, is_authorized: bool) -> bool {
    let control = CacheControl::read(headers);
    !control.no_store && is_for_many(&control, headers, is_authorized)
}

/// How long an answer with this head says that it is fresh: nobody has to guess. None if it says nothing, or that
/// it is not fresh at all.
pub(crate) fn told(headers: &HeaderMap) -> Option<Duration> {
    let fresh = CacheControl::read(headers).fresh(headers);
    fresh.filter(|fresh| !fresh.is_zero())
}

fn is_for_many(control: &CacheControl, headers: &HeaderMap, is_authorized: bool) -> bool {
    !control.private
        && (!is_authorized || allows_authorized(control))
        && vary::names(headers).is_some()
        && !headers.contains_key(header::SET_COOKIE)
}

/// Whether an answer is for all viewers although (or whether or not) they send `Authorization`
/// (RFC 9111 section 3.5).
pub(crate) fn is_for_authorized(headers: &HeaderMap) -> bool {
    allows_authorized(&CacheControl::read(headers))
}

fn allows_authorized(control: &CacheControl) -> bool {
    control.public || control.shared_max_age_s.is_some() || control.must_revalidate
}

/// How long to keep a shareable answer; `None`, if not at all.
pub(crate) fn plan_freshness(
    status: StatusCode,
    headers: &HeaderMap,
    kind: Kind,
    config: &CacheConfig,
) -> Option<Freshness> {
    let control = CacheControl::read(headers);
    if control.no_store || is_trouble(status) {
        return None;
    }
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Some(negative(control.fresh(headers), kind, config));
    }
    let told = control.fresh(headers);
    let revalidate = control.stale(
        control.stale_while_revalidate_s,
        config.stale_while_revalidate_s,
    );
    let stale = control.stale(control.stale_if_error_s, config.stale_if_error_s);
    Some(match kind {
        Kind::Live {
            target_ms,
            fresh_ms_max,
        } => {
            let most = Duration::from_millis(fresh_ms_max);
            let stale_most = Duration::from_millis(target_ms.saturating_mul(3) / 2);
            Freshness {
                fresh: told.map_or(most, |told| told.min(most)),
                // A stale playlist holds up whoever reads it: there is no need to read it twice.
                revalidate: Duration::ZERO,
                stale: stale.min(stale_most),
            }
        }
        Kind::Playlist => Freshness {
            fresh: told.unwrap_or(PLAYLIST_FRESH),
            revalidate,
            stale,
        },
        Kind::Object { .. } => Freshness {
            fresh: told.unwrap_or(Duration::from_secs(config.fresh_default_s)),
            revalidate,
            stale,
        },
    })
}

fn negative(told: Option<Duration>, kind: Kind, config: &CacheConfig) -> Freshness {
    let mut fresh = Duration::from_millis(config.negative_ttl_ms);
    if let Kind::Object {
        stream_target_ms,
        is_hinted,
    } = kind
    {
        if let Some(target_ms) = stream_target_ms {
            fresh = fresh.min(Duration::from_millis(target_ms / 4));
        }
        if is_hinted {
            fresh = Duration::ZERO;
        }
    }
    Freshness {
        fresh: told.map_or(fresh, |told| told.min(fresh)),
        ..NOT_FRESH
    }
}

/// The `Age` of an answer, in seconds. `Date` does not count for it (RFC 9111 section 4.2.3 lets it):
/// the next hop is the origin, and clocks of origins are seldom right.
pub(crate) fn age_s(headers: &HeaderMap) -> u64 {
    let value = headers.get(header::AGE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    match text.trim() {
        "" => 0,
        // More digits than fit are a great age, not none.
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().unwrap_or(AGE_S_MAX).min(AGE_S_MAX)
        }
        _ => 0,
    }
}

/// What stands for any greater age (RFC 9111 section 1.2.2).
const AGE_S_MAX: u64 = 1 << 31;

/// Whether a viewer wants nothing but what is here already (RFC 9111 section 5.2.1.7). The other
/// directives of requests are advice that an edge must not take: any viewer could have all others
/// wait for the origin.
pub(crate) fn is_only_if_cached(viewer: &HeaderMap) -> bool {
    let values = viewer.get_all(header::CACHE_CONTROL).into_iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.any(|text| {
        text.split(',')
            .any(|word| word.trim().eq_ignore_ascii_case("only-if-cached"))
    })
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

    fn plan(status: u16, pairs: &[(&str, &str)], kind: Kind) -> Option<Freshness> {
        let status = StatusCode::from_u16(status).unwrap();
        plan_freshness(status, &headers(pairs), kind, &CacheConfig::default())
    }

    fn fresh_ms(status: u16, pairs: &[(&str, &str)], kind: Kind) -> Option<u128> {
        plan(status, pairs, kind).map(|plan| plan.fresh.as_millis())
    }

    const LIVE: Kind = Kind::Live {
        target_ms: 2000,
        fresh_ms_max: 1000,
    };
    const SEGMENT: Kind = Kind::Object {
        stream_target_ms: Some(2000),
        is_hinted: false,
    };

    #[test]
    fn live_playlists_are_fresh_for_half_a_target_duration_at_most() {
        assert_eq!(fresh_ms(200, &[], LIVE), Some(1000));
        let long = [("cache-control", "public, max-age=60")];
        assert_eq!(fresh_ms(200, &long, LIVE), Some(1000));
        let short = [("cache-control", "no-cache")];
        assert_eq!(fresh_ms(200, &short, LIVE), Some(0));
        assert_eq!(fresh_ms(200, &[("cache-control", "no-store")], LIVE), None);
        let swr = [("cache-control", "max-age=1, stale-while-revalidate=30")];
        assert_eq!(plan(200, &swr, LIVE).unwrap().revalidate, Duration::ZERO);
    }

    #[test]
    fn not_there_is_forgotten_soon() {
        assert_eq!(fresh_ms(404, &[], SEGMENT), Some(500));
        let vod = Kind::Object {
            stream_target_ms: None,
            is_hinted: false,
        };
        let hinted = Kind::Object {
            stream_target_ms: Some(2000),
            is_hinted: true,
        };
        assert_eq!(fresh_ms(404, &[], vod), Some(1000));
        assert_eq!(
            fresh_ms(404, &[("cache-control", "max-age=120")], vod),
            Some(1000)
        );
        assert_eq!(fresh_ms(404, &[], hinted), Some(0));
        assert_eq!(fresh_ms(500, &[], SEGMENT), None);
    }

    #[test]
    fn the_origin_says_how_long() {
        let sent = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (pairs, fresh_s) in [
            (
                &[("cache-control", "max-age=1, s-maxage=100"), ("age", "40")][..],
                60,
            ),
            (&[("cache-control", "max-age=many")][..], 0),
            (
                &[
                    ("cache-control", "max-age=10, s-maxage=20"),
                    ("cache-control", "max-age=600, s-maxage=600"),
                ][..],
                20,
            ),
            (&[("cache-control", "max-age=10"), ("age", "40")][..], 0),
            (
                &[sent, ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")][..],
                60,
            ),
            (
                &[
                    sent,
                    ("expires", "Sun, 06 Nov 1994 08:50:37 GMT"),
                    ("age", "20"),
                ][..],
                40,
            ),
            (&[sent, ("expires", "Sun, 06 Nov 1994 08:40:37 GMT")][..], 0),
            (&[sent, ("expires", "0")][..], 0),
            (
                &[sent, ("expires", "0"), ("cache-control", "max-age=9")][..],
                9,
            ),
            (&[("cache-control", "max-age=9, no-cache")][..], 0),
            (
                &[
                    ("cache-control", "max-age=60"),
                    ("age", "99999999999999999999999"),
                ][..],
                0,
            ),
            (&[("cache-control", "max-age=60"), ("age", "-5")][..], 60),
        ] {
            let fresh = plan(200, pairs, SEGMENT).unwrap().fresh;
            assert_eq!(fresh.as_secs(), fresh_s, "{pairs:?}");
        }
    }

    #[test]
    fn the_origin_says_what_may_be_stale() {
        for (control, revalidate_s, stale_s) in [
            ("max-age=1", 0, 60),
            (
                "max-age=1, stale-while-revalidate=7, stale-if-error=9",
                7,
                9,
            ),
            ("max-age=1, stale-if-error=9, must-revalidate", 0, 0),
            ("s-maxage=1", 0, 0),
            ("s-maxage=1, stale-while-revalidate=7", 7, 0),
            ("no-cache, stale-if-error=9", 0, 0),
        ] {
            let plan = plan(200, &[("cache-control", control)], SEGMENT).unwrap();
            let stale = (plan.revalidate.as_secs(), plan.stale.as_secs());
            assert_eq!(stale, (revalidate_s, stale_s), "{control}");
        }
    }

    #[test]
    fn private_answers_are_not_shared() {
        let ok = StatusCode::OK;
        for pairs in [
            ("cache-control", "private"),
            ("cache-control", "private=\"set-cookie\""),
            ("cache-control", "no-store"),
            ("set-cookie", "a=b"),
            ("vary", "Cookie"),
            ("vary", "*"),
            ("content-encoding", "gzip"),
        ] {
            assert!(!is_shareable(ok, &headers(&[pairs]), false), "{pairs:?}");
        }
        let harmless = headers(&[("vary", "Origin, Accept-Encoding")]);
        assert!(is_shareable(ok, &harmless, false));
        assert!(!is_shareable(
            StatusCode::FORBIDDEN,
            &HeaderMap::new(),
            false
        ));
        assert!(!is_shareable(StatusCode::FOUND, &HeaderMap::new(), false));
        let told = headers(&[("cache-control", "max-age=5")]);
        assert!(is_shareable(StatusCode::FOUND, &told, false));
    }

    #[test]
    fn answers_to_the_authorized_are_shared_if_they_say_so() {
        for (control, is_shared) in [
            ("max-age=5", false),
            ("public", true),
            ("s-maxage=5", true),
            ("must-revalidate", true),
            ("public, private", false),
        ] {
            let headers = headers(&[("cache-control", control)]);
            assert_eq!(
                is_shareable(StatusCode::OK, &headers, true),
                is_shared,
                "{control}"
            );
        }
    }

    #[test]
    fn only_if_cached_is_heard() {
        assert!(is_only_if_cached(&headers(&[(
            "cache-control",
            "max-age=0, Only-If-Cached"
        )])));
        assert!(!is_only_if_cached(&headers(&[(
            "cache-control",
            "no-cache"
        )])));
    }
}

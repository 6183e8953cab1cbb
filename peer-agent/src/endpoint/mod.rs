//! The local HTTP server through which any player plays the stream unchanged: every path is that of
//! the CDN.

mod hls;
mod mpd;
mod respond;
mod urls;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, COOKIE, RANGE, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use url::Url;

use self::urls::Place;
use crate::gateway::{Fetched, Gateway, PlaylistKind, Text};
use crate::media::{self, Options, Part};
use crate::snapshot::Snapshot;

/// Where the agent says how it is doing, as JSON.
const STATUS_PATH: &str = "/.shoal/status";
/// Headers of the player that the CDN sees.
const FORWARDED: [HeaderName; 3] = [AUTHORIZATION, COOKIE, USER_AGENT];

/// What every request needs.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) gateway: Arc<Gateway>,
    /// `scheme://host[:port]` of the CDN.
    pub(crate) cdn: Arc<str>,
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    /// Whether deliveries are paced.
    pub(crate) pace: bool,
    /// Media that players take at a time while a segment arrives; 0: whole segments.
    pub(crate) progressive_ms: u32,
}

/// Serves until `shutdown` resolves.
pub(crate) async fn run(
    listener: TcpListener,
    endpoint: Endpoint,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let app = Router::new().fallback(handle).with_state(endpoint);
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "local endpoint ended");
    }
}

async fn handle(State(endpoint): State<Endpoint>, request: Request<axum::body::Body>) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    match method {
        Method::OPTIONS => respond::options(),
        Method::GET | Method::HEAD if uri.path() == STATUS_PATH => {
            respond::status(&endpoint.snapshots.borrow())
        }
        Method::GET | Method::HEAD => {
            let response = endpoint.get(method, &uri, request.headers()).await;
            tracing::debug!(%uri, status = response.status().as_u16(), "answered");
            response
        }
        _ => respond::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "player: only GET and HEAD are served",
        ),
    }
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Everything: no range, several ranges, or one that is the whole.
    Whole,
    /// First byte and, if it says, the last.
    Part(u64, Option<u64>),
    /// The last bytes.
    Suffix,
}

fn asked(headers: &HeaderMap) -> Asked {
    let text = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let span = text.and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = span.and_then(|span| span.split_once('-')) else {
        return Asked::Whole;
    };
    // No object has such a byte: it is what some say for the end.
    let last = match last.trim() {
        last if last.parse() == Ok(u64::MAX) => "",
        last => last,
    };
    match (first.trim().parse::<u64>(), last) {
        (Ok(0), "") => Asked::Whole,
        (Ok(first), "") => Asked::Part(first, None),
        (Ok(first), last) => match last.parse() {
            Ok(last) if first <= last => Asked::Part(first, Some(last)),
            _ => Asked::Whole,
        },
        (Err(_), last) if first.trim().is_empty() && last.parse::<u64>().is_ok() => Asked::Suffix,
        (Err(_), _) => Asked::Whole,
    }
}

impl Endpoint {
    async fn get(&self, method: Method, uri: &Uri, headers: &HeaderMap) -> Response {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let Some(url) = urls::url_of(&self.gateway, &self.cdn, path) else {
            let why = "player: no playlist has named this host";
            return respond::error(StatusCode::FORBIDDEN, why);
        };
        let mut forwarded = HeaderMap::new();
        for name in &FORWARDED {
            if let Some(value) = headers.get(name) {
                forwarded.insert(name, value.clone());
            }
        }
        let asked = asked(headers);
        if method == Method::GET && asked != Asked::Suffix {
            let segment = self.get_segment(&url, asked, forwarded.clone()).await;
            if let Some(response) = segment {
                return response;
            }
        }
        let is_playlist = is_playlist_path(uri.path());
        let method = if is_playlist { Method::GET } else { method };
        let mut range = None;
        match asked {
            Asked::Part(first, last) if !is_playlist => {
                range = Some((first, last.map_or(0, |last| last - first + 1)));
            }
            Asked::Suffix if !is_playlist => {
                if let Some(value) = headers.get(RANGE) {
                    forwarded.insert(RANGE, value.clone());
                }
            }
            Asked::Whole | Asked::Part(..) | Asked::Suffix => {}
        }
        match self.gateway.fetch(method, &url, range, forwarded).await {
            Ok(Fetched::Playlist(text)) => self.playlist(&url, &text),
            Ok(Fetched::Object(object)) => respond::object(object, uri.path()),
            Err(error) => {
                tracing::warn!(%error, url, "CDN request failed");
                respond::error(error.status(), &error.to_string())
            }
        }
    }

    /// Answers with a segment through the swarm; `None` if the request means none.
    async fn get_segment(&self, url: &str, asked: Asked, headers: HeaderMap) -> Option<Response> {
        let range = match asked {
            Asked::Part(first, Some(last)) => Some((first, last - first + 1)),
            _ => None,
        };
        let (name, located) = self.gateway.segment(url, range).await?;
        // The segment may itself be a range of an object; then that range is the whole segment.
        let (whole, base) = (
            located.range.is_some(),
            located.range.map_or(0, |(first, _)| first),
        );
        let part: Option<Part> = match asked {
            Asked::Part(first, last) if !whole => Some((first, last)),
            _ => None,
        };
        let options = Options {
            part,
            headers,
            pace: self.pace,
            grain_ms: self.progressive_ms,
        };
        let path = Url::parse(url)
            .ok()
            .map(|url| url.path().to_owned())
            .unwrap_or_default();
        Some(
            match media::open(&self.gateway, name, located, options).await {
                Ok(object) if whole => respond::object_within(object, &path, base),
                Ok(object) => respond::object(object, &path),
                Err(error) => {
                    tracing::warn!(%error, url, "CDN request failed");
                    respond::error(error.status(), &error.to_string())
                }
            },
        )
    }

    fn playlist(&self, asked: &str, text: &Text) -> Response {
        let Ok(url) = Url::parse(&text.url) else {
            return respond::error(StatusCode::BAD_GATEWAY, "origin: playlist has no URL");
        };
        let place = Place {
            gateway: &self.gateway,
            cdn: &self.cdn,
            url,
        };
        // After a redirect, relative references mean other objects: let the player follow it.
        if Url::parse(asked).is_ok_and(|asked| asked != place.url)
            && let Some(path) = place.path_of(&text.url)
        {
            return respond::redirect(&path);
        }
        let rewritten = match text.kind {
            PlaylistKind::Hls => hls::rewrite(&text.text, &place),
            PlaylistKind::Dash => match mpd::rewrite(&text.text, &place) {
                Ok(rewritten) => rewritten,
                Err(error) => {
                    tracing::warn!(%error, "manifest passed on as it is");
                    text.text.clone()
                }
            },
        };
        respond::playlist(text.kind, &text.headers, rewritten)
    }
}

fn is_playlist_path(path: &str) -> bool {
    let extension = path
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| matches!(extension.as_str(), "m3u8" | "m3u" | "mpd"))
}

#[cfg(test)]
mod progressive;
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    /// A gateway to nowhere.
    pub(crate) fn gateway() -> Gateway {
        let stream = "http://127.0.0.1:9/main.m3u8".into();
        let config = Config {
            stream,
            ..Config::default()
        };
        crate::agent::test_gateway(&config.checked().unwrap())
    }

    #[test]
    fn ranges_are_read_as_players_mean_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            asked(&headers)
        };
        assert_eq!(asked(&HeaderMap::new()), Asked::Whole);
        assert_eq!(read("bytes=0-"), Asked::Whole);
        assert_eq!(read("bytes=5-"), Asked::Part(5, None));
        assert_eq!(read("bytes=0-99"), Asked::Part(0, Some(99)));
        assert_eq!(read("bytes=-10"), Asked::Suffix);
        let end = u64::MAX;
        assert_eq!(read(&format!("bytes=0-{end}")), Asked::Whole);
        assert_eq!(read(&format!("bytes=7-{end}")), Asked::Part(7, None));
        for odd in [
            "bytes=9-5",
            "bytes=a-b",
            "items=0-5",
            "bytes=",
            "bytes=0-1,5-6",
            "bytes=-",
        ] {
            assert_eq!(read(odd), Asked::Whole, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_player_asks_for_has_a_length(
            text in "(bytes=|bytes|-|,| |0|[0-9]{1,4}|18446744073709551615|18446744073709551614|[+a]){0,6}",
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            if let Asked::Part(first, Some(last)) = asked(&headers) {
                prop_assert!(first <= last && last < u64::MAX);
            }
        }
    }
}

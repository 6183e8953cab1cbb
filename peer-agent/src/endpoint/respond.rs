//! Answers as players and pages expect them.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, AGE, CACHE_CONTROL, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, LOCATION, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use tokio_stream::wrappers::ReceiverStream;

use crate::gateway::PlaylistKind;
use crate::media::Object;
use crate::snapshot::Snapshot;

/// Headers of the CDN that the player sees.
const PASSED: [HeaderName; 8] = [
    AGE,
    CACHE_CONTROL,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    LAST_MODIFIED,
    RETRY_AFTER,
];
/// Keeps Shaka Player from taking the neighbours' speed for the CDN's.
const FROM_CACHE: HeaderName = HeaderName::from_static("x-shaka-from-cache");
const EXPOSED: &str = "age, content-length, content-range, date, x-shaka-from-cache";

/// The answer to a preflight request.
pub(super) fn options() -> Response {
    let mut response = plain(StatusCode::NO_CONTENT, Body::empty());
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    response
}

/// How the agent is doing.
pub(super) fn status(snapshot: &Snapshot) -> Response {
    match serde_json::to_string(snapshot) {
        Ok(json) => {
            let mut response = plain(StatusCode::OK, json.into());
            let mime = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, mime);
            response
        }
        Err(error) => self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// An error with its reason as text.
pub(super) fn error(status: StatusCode, why: &str) -> Response {
    let mut response = plain(status, format!("{why}\n").into());
    let mime = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, mime);
    response
}

/// Sends the player to another path of the endpoint.
pub(super) fn redirect(path: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(path) else {
        return error(
            StatusCode::BAD_GATEWAY,
            "origin: redirect to a path that is no header value",
        );
    };
    let mut response = plain(StatusCode::TEMPORARY_REDIRECT, Body::empty());
    response.headers_mut().insert(LOCATION, location);
    response
}

/// A playlist that was rewritten.
pub(super) fn playlist(kind: PlaylistKind, from: &HeaderMap, text: String) -> Response {
    let mut response = plain(StatusCode::OK, text.into());
    let headers = response.headers_mut();
    for name in [AGE, CACHE_CONTROL, DATE] {
        if let Some(value) = from.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let mime = match kind {
        PlaylistKind::Hls => "application/vnd.apple.mpegurl",
        PlaylistKind::Dash => "application/dash+xml",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(mime));
    response
}

/// Something from the swarm or the CDN.
pub(super) fn object(object: Object, path: &str) -> Response {
    let part = object
        .part
        .map(|(first, last, len)| (first, last, len.to_string()));
    build(object, path, part)
}

/// A segment that is a range, beginning at `base`, of the object that was asked for.
pub(super) fn object_within(mut object: Object, path: &str, base: u64) -> Response {
    let Some(len) = object
        .len
        .filter(|len| *len > 0 && object.status.is_success())
    else {
        return self::object(object, path);
    };
    object.status = StatusCode::PARTIAL_CONTENT;
    object.headers.remove(CONTENT_RANGE);
    build(object, path, Some((base, base + len - 1, "*".into())))
}

fn build(object: Object, path: &str, part: Option<(u64, u64, String)>) -> Response {
    let mut response = plain(
        object.status,
        Body::from_stream(ReceiverStream::new(object.body)),
    );
    let headers = response.headers_mut();
    for name in &PASSED {
        if let Some(value) = object.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(len) = object.len {
        headers.insert(CONTENT_LENGTH, len.into());
    }
    if let Some((first, last, len)) = part {
        let text = match object.status {
            StatusCode::RANGE_NOT_SATISFIABLE => format!("bytes */{len}"),
            _ => format!("bytes {first}-{last}/{len}"),
        };
        headers.extend(HeaderValue::try_from(text).map(|value| (CONTENT_RANGE, value)));
    }
    if object.status.is_success() {
        headers
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(mime_of(path)));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if object.from_peer {
        headers.insert(FROM_CACHE, HeaderValue::from_static("1"));
    }
    response
}

fn plain(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    response
}

/// The type of media by its name, where the CDN was not asked.
fn mime_of(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "m4s" | "mp4" | "m4v" | "cmfv" => "video/mp4",
        "m4a" | "cmfa" => "audio/mp4",
        "ts" => "video/mp2t",
        "aac" => "audio/aac",
        "mp3" => "audio/mpeg",
        "vtt" => "text/vtt",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}

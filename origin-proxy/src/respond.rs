//! From an object and a viewer's request to an answer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use swarm_core::record::RECORD_HEADER;

use crate::{
    error::Failure,
    object::{Flight, Head, Object},
    upstream::VIA,
};

/// What is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, Failure>;

/// What of a request shapes its answer.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

/// What a `Range` header asks of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// All of it: no range, or one that need not be understood.
    Whole,
    /// From the first byte to the second, exclusive.
    Part(u64, u64),
    /// Nothing that is there.
    Unsatisfiable,
}

/// Reads a single byte range of an object of `len` bytes (RFC 9110 section 14).
pub(crate) fn plan_range(value: Option<&HeaderValue>, len: u64) -> Range {
    let spec = value.and_then(|value| value.to_str().ok());
    let Some(spec) = spec.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Range::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Range::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first.trim()), number(last.trim())) {
        (Some(first), Some(last)) if first > last => Range::Whole,
        (Some(first), _) if first >= len && number(last.trim()).is_some() => Range::Unsatisfiable,
        (Some(first), Some(last)) => Range::Part(first, last.saturating_add(1).min(len)),
        (Some(first), None) if last.trim().is_empty() => {
            if first < len {
                Range::Part(first, len)
            } else {
                Range::Unsatisfiable
            }
        }
        (None, Some(suffix)) if first.trim().is_empty() => {
            if suffix > 0 && len > 0 {
                Range::Part(len.saturating_sub(suffix), len)
            } else {
                Range::Unsatisfiable
            }
        }
        _ => Range::Whole,
    }
}

/// The answer with a whole object.
pub(crate) fn whole(object: &Object, asked: &Asked<'_>) -> Response<Body> {
    let mut headers = object.headers.clone();
    headers.insert(header::AGE, object.age_s().into());
    if let Some(signed) = object.record() {
        headers.insert(RECORD_HEADER, signed.header.clone());
    }
    if object.status != StatusCode::OK {
        return with_body(object.status, headers, object.body.clone(), asked);
    }
    if is_unchanged(asked.headers, &object.headers) {
        return with_body(StatusCode::NOT_MODIFIED, headers, Bytes::new(), asked);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let len = object.body.len() as u64;
    match range_of(asked, &object.headers, len) {
        Range::Whole => with_body(StatusCode::OK, headers, object.body.clone(), asked),
        Range::Part(first, end) => {
            headers.insert(header::CONTENT_RANGE, content_range(first, end, len));
            let part = object.body.slice(first as usize..end as usize);
            with_body(StatusCode::PARTIAL_CONTENT, headers, part, asked)
        }
        Range::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, unsatisfied_range(len));
            with_body(
                StatusCode::RANGE_NOT_SATISFIABLE,
                headers,
                Bytes::new(),
                asked,
            )
        }
    }
}

/// The answer with an object that is still coming. `None` if a range of it is asked for and its
/// length is not known yet: wait for its end.
pub(crate) fn growing(
    flight: Arc<Flight>,
    head: &Head,
    asked: &Asked<'_>,
) -> Option<Response<Body>> {
    let mut headers = head.headers.clone();
    let range = match head.len {
        Some(len) => range_of(asked, &head.headers, len),
        None if asked.headers.contains_key(header::RANGE) => return None,
        None => Range::Whole,
    };
    let len = head.len.unwrap_or(0);
    let (status, first, end) = match range {
        Range::Whole => (StatusCode::OK, 0, head.len),
        Range::Part(first, end) => {
            headers.insert(header::CONTENT_RANGE, content_range(first, end, len));
            (StatusCode::PARTIAL_CONTENT, first, Some(end))
        }
        Range::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, unsatisfied_range(len));
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return Some(with_body(status, headers, Bytes::new(), asked));
        }
    };
    if let Some(end) = end {
        headers.insert(header::CONTENT_LENGTH, (end - first).into());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let body = if asked.method == Method::HEAD {
        empty()
    } else {
        streamed(flight.read(first, end))
    };
    Some(assemble(status, headers, body))
}

/// An answer of the origin that is for this viewer alone; `headers` are end-to-end.
pub(crate) fn passed(
    status: StatusCode,
    mut headers: HeaderMap,
    len: Option<u64>,
    body: impl Stream<Item = Result<Bytes, Failure>> + Send + 'static,
    asked: &Asked<'_>,
) -> Response<Body> {
    if let Some(len) = len {
        headers.insert(header::CONTENT_LENGTH, len.into());
    }
    let body = if asked.method == Method::HEAD {
        empty()
    } else {
        streamed(body)
    };
    assemble(status, headers, body)
}

/// An answer of the proxy itself.
pub(crate) fn text(status: StatusCode, media_type: &'static str, text: String) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    assemble(status, headers, full(text.into()))
}

/// The answer when there is none.
pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    text(
        failure.status(),
        "text/plain; charset=utf-8",
        format!("{failure}\n"),
    )
}

/// The answer to a browser that asks whether it may ask.
pub(crate) fn preflight(asked: &Asked<'_>) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, OPTIONS"),
    );
    if let Some(names) = asked.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("86400"),
    );
    assemble(StatusCode::NO_CONTENT, headers, empty())
}

/// Adds what every answer has: leave for pages of `allowed` origins to read it, and our name.
pub(crate) fn finish(response: &mut Response<Body>, asked: &Asked<'_>, allowed: &[String]) {
    let headers = response.headers_mut();
    headers.append(header::VIA, VIA);
    let origin = asked.headers.get(header::ORIGIN);
    let allow = if allowed.iter().any(|origin| origin == "*") {
        Some(HeaderValue::from_static("*"))
    } else {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        origin
            .filter(|origin| allowed.iter().any(|a| a == *origin))
            .cloned()
    };
    let Some(allow) = allow else {
        return;
    };
    headers.insert("timing-allow-origin", allow.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allow);
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("cross-origin"),
    );
}

const EXPOSED: &str = "Shoal-Record, Content-Length, Content-Range, Accept-Ranges, Age, Date, ETag, CMSD-Static, CMSD-Dynamic";

fn range_of(asked: &Asked<'_>, object: &HeaderMap, len: u64) -> Range {
    if let Some(condition) = asked.headers.get(header::IF_RANGE) {
        let etag = object.get(header::ETAG);
        let strong = etag.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        let modified = object.get(header::LAST_MODIFIED);
        if strong != Some(condition) && modified != Some(condition) {
            return Range::Whole;
        }
    }
    plan_range(asked.headers.get(header::RANGE), len)
}

fn is_unchanged(asked: &HeaderMap, object: &HeaderMap) -> bool {
    if let Some(value) = asked.get(header::IF_NONE_MATCH) {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let Some(etag) = object.get(header::ETAG).and_then(|etag| etag.to_str().ok()) else {
            return false;
        };
        let tags = value.to_str().unwrap_or_default();
        return tags.trim() == "*" || tags.split(',').any(|tag| opaque(tag) == opaque(etag));
    }
    let since = asked.get(header::IF_MODIFIED_SINCE);
    since.is_some() && since == object.get(header::LAST_MODIFIED)
}

fn content_range(first: u64, end: u64, len: u64) -> HeaderValue {
    let text = format!("bytes {first}-{}/{len}", end.saturating_sub(1));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("bytes */*"))
}

fn unsatisfied_range(len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{len}")).unwrap_or(HeaderValue::from_static("bytes */*"))
}

fn with_body(
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
    asked: &Asked<'_>,
) -> Response<Body> {
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let body = if asked.method == Method::HEAD {
        empty()
    } else {
        full(body)
    };
    assemble(status, headers, body)
}

fn assemble(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn streamed(stream: impl Stream<Item = Result<Bytes, Failure>> + Send + 'static) -> Body {
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let plan = |text: &str, len| plan_range(Some(&text.parse().unwrap()), len);
        assert_eq!(plan("bytes=0-", 10), Range::Part(0, 10));
        assert_eq!(plan("bytes=2-3", 10), Range::Part(2, 4));
        assert_eq!(plan("bytes=2-300", 10), Range::Part(2, 10));
        assert_eq!(plan("bytes=-3", 10), Range::Part(7, 10));
        assert_eq!(plan("bytes=-30", 10), Range::Part(0, 10));
        assert_eq!(plan("bytes=-0", 10), Range::Unsatisfiable);
        assert_eq!(plan("bytes=10-", 10), Range::Unsatisfiable);
        assert_eq!(plan("bytes=10-12", 10), Range::Unsatisfiable);
        let huge = "bytes=99999999999999999999999-";
        assert_eq!(plan(huge, 10), Range::Unsatisfiable);
        for ignored in [
            "bytes=3-2",
            "bytes=0-1,4-5",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1-x",
        ] {
            assert_eq!(plan(ignored, 10), Range::Whole, "{ignored}");
        }
        assert_eq!(plan("bytes=0-", 0), Range::Unsatisfiable);
    }
}

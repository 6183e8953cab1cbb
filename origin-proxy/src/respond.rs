//! From an object and a viewer's request to an answer.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use swarm_core::record::RECORD_HEADER;

use crate::{
    body::Body,
    conditions::{self, Verdict},
    config::CorsConfig,
    error::Failure,
    object::{Flight, Head, Object, is_whole},
    range::{
        Multipart, Ranges, VERY_FAR, bounded, content_range, content_range_so_far, plan_ranges,
        unsatisfied_range,
    },
    upstream::VIA,
};

/// What of a request shapes its answer.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// See [`added`].
    pub(crate) added: Option<&'a HeaderMap>,
    /// Which pages may read it, where that is not in `added`.
    pub(crate) cors: &'a CorsConfig,
}

/// The answer with a whole object. It has what [`added`] says.
pub(crate) fn whole(object: &Object, asked: &Asked<'_>) -> Response<Body> {
    let mut headers = object.prepare(asked.added);
    if let age_s @ 1.. = object.age_s() {
        headers.insert(header::AGE, age_s.into());
    }
    let records = object.records.load();
    if let Some(signed) = records.as_ref().and_then(|records| records.whole.as_ref()) {
        headers.insert(RECORD_HEADER, signed.header.clone());
    }
    if !is_whole(object.status) {
        return with_body(object.status, headers, object.body.clone(), asked);
    }
    match conditions::weigh(asked.headers, &object.headers) {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            return with_body(StatusCode::NOT_MODIFIED, headers, Bytes::new(), asked);
        }
        Verdict::Failed => return unmet(StatusCode::PRECONDITION_FAILED, headers, asked),
    }
    let len = object.body.len() as u64;
    match ranges_of(asked, &object.headers, len) {
        // Its length is among the headers already.
        Ranges::Whole if asked.method == Method::GET => {
            assemble(object.status, headers, Body::full(object.body.clone()))
        }
        Ranges::Whole => assemble(object.status, headers, Body::empty()),
        Ranges::One(first, end) => {
            headers.insert(header::CONTENT_RANGE, content_range(first, end, len));
            let records = records.as_ref();
            if let Some(signed) = records.and_then(|records| records.of_range(first, end)) {
                headers.insert(RECORD_HEADER, signed.header.clone());
            }
            let part = object.body.slice(first as usize..end as usize);
            with_body(StatusCode::PARTIAL_CONTENT, headers, part, asked)
        }
        Ranges::Many(parts) => multipart(headers, &parts, object, asked),
        Ranges::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, unsatisfied_range(len));
            unmet(StatusCode::RANGE_NOT_SATISFIABLE, headers, asked)
        }
    }
}

/// The answer to a request whose wishes the object does not meet, which says nothing of the next request.
fn unmet(status: StatusCode, mut headers: HeaderMap, asked: &Asked<'_>) -> Response<Body> {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::EXPIRES);
    with_body(status, headers, Bytes::new(), asked)
}

const BYTES: HeaderValue = HeaderValue::from_static("bytes");

fn multipart(
    mut headers: HeaderMap,
    parts: &[(u64, u64)],
    object: &Object,
    asked: &Asked<'_>,
) -> Response<Body> {
    // The media must not contain it, and nobody may be able to make them.
    let mut boundary = [0; 16];
    if getrandom::fill(&mut boundary).is_err() {
        return with_body(StatusCode::OK, headers, object.body.clone(), asked);
    }
    let part_type = headers.get(header::CONTENT_TYPE).cloned();
    let boundary = hex::encode(boundary);
    let multipart = Multipart::of(parts, &object.body, part_type.as_ref(), &boundary);
    headers.insert(header::CONTENT_TYPE, multipart.media_type);
    let len: usize = multipart.chunks.iter().map(Bytes::len).sum();
    headers.insert(header::CONTENT_LENGTH, len.into());
    let body = if asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::chunks(multipart.chunks)
    };
    assemble(StatusCode::PARTIAL_CONTENT, headers, body)
}

/// The byte (exclusive) that an object of unknown length must have come to before `asked` can be answered with
/// a range of it: parts of low-latency HLS are sent at the full speed of the link (draft-pantos-hls-rfc8216bis
/// section 6.2.6). Of one that goes on for as long as the object grows, its first byte is enough (RFC 8673 section
/// 2.2). None if that is another matter.
pub(crate) fn end_to_wait_for(head: &Head, asked: &Asked<'_>) -> Option<u64> {
    let is_open = head.len.is_none() && asked.method == Method::GET;
    let is_wanted = is_open && conditions::is_range_wanted(asked.headers, &head.headers);
    let range = is_wanted.then(|| bounded(asked.headers.get(header::RANGE)));
    let (first, end) = range.flatten()?;
    Some(if end < VERY_FAR { end } else { first + 1 })
}

/// The answer with an object that is still coming. `None` if that takes the whole object: wait for its
/// end.
pub(crate) fn growing(
    flight: Arc<Flight>,
    head: &Head,
    asked: &Asked<'_>,
) -> Option<Response<Body>> {
    let mut headers = head.headers.clone();
    if conditions::weigh(asked.headers, &head.headers) != Verdict::Proceed {
        return None;
    }
    let ranges = match head.len {
        Some(len) => ranges_of(asked, &head.headers, len),
        None => match (
            end_to_wait_for(head, asked),
            asked.headers.get(header::RANGE),
        ) {
            (None, None) => Ranges::Whole,
            (Some(end), range) if end <= flight.len_so_far() => {
                bounded(range).map(|(first, end)| Ranges::One(first, end))?
            }
            _ => return None,
        },
    };
    let (status, first, end) = match ranges {
        Ranges::Whole => (head.status, 0, head.len),
        Ranges::One(first, end) => {
            let content_range = match head.len {
                Some(len) => content_range(first, end, len),
                None => content_range_so_far(first, end),
            };
            headers.insert(header::CONTENT_RANGE, content_range);
            let end = Some(end).filter(|end| *end < VERY_FAR);
            (StatusCode::PARTIAL_CONTENT, first, end)
        }
        Ranges::Many(_) | Ranges::Unsatisfiable => return None,
    };
    if let Some(end) = end {
        headers.insert(header::CONTENT_LENGTH, (end - first).into());
        headers.insert(header::ACCEPT_RANGES, BYTES);
    }
    let body = if asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::stream(flight.read(first, end))
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
    if let Some(len) = len.filter(|_| has_length(status)) {
        headers.insert(header::CONTENT_LENGTH, len.into());
    }
    let body = if asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::stream(body)
    };
    assemble(status, headers, body)
}

/// Whether answers with this status may tell a length (RFC 9110 section 8.6). That of a 304 would be the
/// object's, not that of its own empty body.
fn has_length(status: StatusCode) -> bool {
    let is_without = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    !status.is_informational() && !is_without
}

/// An answer of the proxy itself.
pub(crate) fn text(status: StatusCode, media_type: &'static str, text: String) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    assemble(status, headers, Body::full(text.into()))
}

/// The answer when there is none.
pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    let media_type = "text/plain; charset=utf-8";
    let mut response = text(failure.status(), media_type, format!("{failure}\n"));
    if matches!(failure, Failure::TooOften | Failure::Busy) {
        let soon = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    response
}

/// What viewers may do, if their bodies may be as long as that.
pub(crate) const fn methods(body_bytes_max: usize) -> HeaderValue {
    HeaderValue::from_static(match body_bytes_max {
        0 => "GET, HEAD, OPTIONS",
        _ => "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE",
    })
}

/// The answer to a browser that asks whether it may ask.
pub(crate) fn preflight(asked: &Asked<'_>, methods: HeaderValue) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(names) = asked.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("86400"),
    );
    assemble(StatusCode::NO_CONTENT, headers, Body::empty())
}

/// What every answer has, whoever asks, if pages of all origins may read it: leave to do so, and our
/// name.
pub(crate) fn added(allowed: &[String]) -> Option<HeaderMap> {
    let is_any = allowed.iter().any(|origin| origin == "*");
    is_any.then(|| {
        let mut headers = HeaderMap::new();
        headers.insert(header::VIA, VIA);
        allow(&mut headers, HeaderValue::from_static("*"));
        headers
    })
}

/// Adds to an answer what every answer has.
pub(crate) fn finish(response: &mut Response<Body>, asked: &Asked<'_>) {
    let headers = response.headers_mut();
    if let Some(added) = asked.added {
        return add(headers, added);
    }
    // The origin's word is for its own pages: the list is what counts. A preflight's answer is ours.
    if asked.method != Method::OPTIONS {
        remove_leave(headers);
    }
    headers.append(header::VIA, VIA);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let origin = asked.headers.get(header::ORIGIN);
    if let Some(origin) = origin.filter(|origin| asked.cors.origins.iter().any(|a| a == *origin)) {
        allow(headers, origin.clone());
        if asked.cors.credentials {
            let leave = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, leave);
        }
    }
}

/// Removes what lets pages read an answer.
fn remove_leave(headers: &mut HeaderMap) {
    let is_leave = |name: &&HeaderName| {
        name.as_str().starts_with("access-control-") || *name == "timing-allow-origin"
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_leave).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Adds to `headers` what [`added`] says.
pub(crate) fn add(headers: &mut HeaderMap, added: &HeaderMap) {
    for (name, value) in added {
        // Every hop on the way has its name there.
        if name == header::VIA {
            headers.append(name, value.clone());
        } else {
            headers.insert(name, value.clone());
        }
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert("timing-allow-origin", origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
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

fn ranges_of(asked: &Asked<'_>, object: &HeaderMap, len: u64) -> Ranges {
    // Ranges have no meaning but for GET (RFC 9110 section 14.2).
    if asked.method != Method::GET || !conditions::is_range_wanted(asked.headers, object) {
        return Ranges::Whole;
    }
    plan_ranges(asked.headers.get(header::RANGE), len)
}

fn with_body(
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
    asked: &Asked<'_>,
) -> Response<Body> {
    if status == StatusCode::NOT_MODIFIED {
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_LENGTH);
    } else {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let body = if asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::full(body)
    };
    assemble(status, headers, body)
}

fn assemble(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

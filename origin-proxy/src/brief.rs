//! Requests of HTTP/1.1 that are read, and answers that are written, without hyper.
//!
//! Most of what the viewers of a live stream ask is a GET without a body whose whole answer is in memory,
//! on a connection that has been silent. hyper would build its buffers and its state anew for each, and
//! take them down again. Whatever is not as plain as that is left to it: nothing here says no.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request,
};
use httparse::{EMPTY_HEADER, Status};

use crate::body::Body;

/// More lines than players send.
const LINES_MAX: usize = 32;

/// The head of the request that `bytes` are, if they are one without a body and nothing else, and the
/// connection goes on after it.
pub(crate) fn read(bytes: &Bytes) -> Option<request::Parts> {
    let mut lines = [EMPTY_HEADER; LINES_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let Ok(Status::Complete(len)) = request.parse(bytes) else {
        return None;
    };
    let is_get = request.method == Some("GET") && request.version == Some(1);
    if !is_get || len != bytes.len() {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for line in &*request.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        if concerns_connection(&name, line.value) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?;
        headers.append(name, value);
    }
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = Uri::from_maybe_shared(bytes.slice_ref(request.path?.as_bytes())).ok()?;
    head.headers = headers;
    Some(head)
}

/// Whether a line of a request tells where it ends, or what becomes of the connection.
fn concerns_connection(name: &HeaderName, value: &[u8]) -> bool {
    match *name {
        header::CONNECTION => !value.eq_ignore_ascii_case(b"keep-alive"),
        header::CONTENT_LENGTH
        | header::TRANSFER_ENCODING
        | header::TRAILER
        | header::EXPECT
        | header::UPGRADE => true,
        _ => false,
    }
}

/// Bytes of a head apart from its lines' names and values.
const STATUS_LINE_LEN: usize = 64;
const LINE_EXTRA: usize = 4;

/// The head of an answer to a GET as it is sent, and its body; none if the body is not there as a whole, or
/// the head lacks what hyper would add.
pub(crate) fn write(response: &mut Response<Body>) -> Option<(Bytes, Bytes)> {
    let body_len = response.body().len_at_hand()?;
    let headers = response.headers();
    if !headers.contains_key(header::DATE) || !tells_end(response.status(), headers, body_len) {
        return None;
    }
    let lines = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let len: usize = headers.iter().map(|line| lines(line) + LINE_EXTRA).sum();
    let mut head = Vec::with_capacity(STATUS_LINE_LEN + len);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(response.status().as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(response.status().canonical_reason()?.as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        head.extend_from_slice(name.as_ref());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Some((head.into(), response.body_mut().take()))
}

/// Whether the viewer knows from this head where the body of `len` bytes ends, and nothing else is said of
/// the connection.
fn tells_end(status: StatusCode, headers: &HeaderMap, len: usize) -> bool {
    let is_plain = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TRAILER,
    ]
    .iter()
    .all(|name| !headers.contains_key(name));
    let mut told = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_told = match (told.next(), status) {
        (None, StatusCode::NOT_MODIFIED) => len == 0,
        (None, _) | (Some(_), StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) => false,
        (Some(told), _) => {
            !status.is_informational() && told.to_str().is_ok_and(|told| told.parse() == Ok(len))
        }
    };
    is_plain && is_told && told.next().is_none()
}

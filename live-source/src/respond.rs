//! From an object to an HTTP response: headers, conditions, ranges, and bodies that misbehave.

use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::object::Kind;
use crate::{Fault, Stats};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A `free` box around a 64-bit number.
pub(crate) const GENERATION_BOX_LEN: usize = 16;
/// Bodies are handed over, and counted, in pieces of at most this size.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Time for the bytes before a truncation to leave.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);
/// A slow body moves this often a second.
const SLOW_STEPS_PER_S: u64 = 10;

/// An answer that is an error or has no body worth the name.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let body =
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    add_cors(headers);
    response
}

/// A 404 that caches may keep for `max_age`.
pub(crate) fn not_found(text: &'static str, max_age: Duration) -> Response<Body> {
    let mut response = plain(StatusCode::NOT_FOUND, text);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, cache_control(max_age, false));
    response
}

/// The answer to a CORS preflight.
pub(crate) fn preflight() -> Response<Body> {
    let mut response = plain(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Range, If-Range, If-None-Match, Content-Type, CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    headers.extend(allow.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// Puts the generation into a media segment, behind the leading `styp` if there is one.
pub(crate) fn stamp_generation(segment: &Bytes, generation: u64) -> Bytes {
    let styp_len = match segment.get(..8) {
        Some([a, b, c, d, b's', b't', b'y', b'p']) => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
        _ => 0,
    };
    let (styp, rest) = segment.split_at(styp_len.min(segment.len()));
    let size = (GENERATION_BOX_LEN as u32).to_be_bytes();
    [styp, &size, b"free", &generation.to_be_bytes(), rest]
        .concat()
        .into()
}

/// How long a part of a segment is with that, in bytes.
pub(crate) fn sent_len(part: u64, bytes: &Bytes) -> u64 {
    let stamp = if part == 0 { GENERATION_BOX_LEN } else { 0 };
    (bytes.len() + stamp) as u64
}

/// Puts `?token=` on every URI of a playlist or manifest.
pub(crate) fn add_token(text: &[u8], kind: Kind, token: &str) -> Bytes {
    let text = String::from_utf8_lossy(text);
    if kind == Kind::Manifest {
        let tokenised = |text: &str, attribute: &str| {
            let mut parts = text.split(attribute);
            let mut out = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                out.push_str(attribute);
                out.push_str(&part.replacen('"', &format!("?token={token}\""), 1));
            }
            out
        };
        return tokenised(&tokenised(&text, " media=\""), " initialization=\"").into();
    }
    let line = |line: &str| match line.split_once("URI=\"") {
        Some((before, uri)) => {
            format!(
                "{before}URI=\"{}\n",
                uri.replacen('"', &format!("?token={token}\""), 1)
            )
        }
        None if line.is_empty() || line.starts_with('#') => format!("{line}\n"),
        None => format!("{line}?token={token}\n"),
    };
    text.lines().map(line).collect::<String>().into()
}

/// How and to whom an object is answered.
pub(crate) struct Delivery<'a> {
    pub(crate) method: &'a Method,
    pub(crate) request: &'a HeaderMap,
    pub(crate) kind: Kind,
    pub(crate) max_age: Duration,
    /// For one viewer only: shared caches must not keep it.
    pub(crate) private: bool,
    pub(crate) fault: Option<Fault>,
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) stats: Stats,
    pub(crate) path: &'a str,
}

impl Delivery<'_> {
    /// 200, 206, 304 or 416, with the whole set of headers.
    pub(crate) fn respond(self, object: Bytes) -> Response<Body> {
        let digest = hex::encode(&Sha256::digest(&object)[..8]);
        let etag = HeaderValue::from_str(&format!("\"{digest}\"")).expect("hex is a header value");
        let len = object.len() as u64;
        let (status, range) = self.plan_range(&etag, len);
        let mut response = Response::new(Body::default());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::ETAG, etag);
        headers.insert(
            header::CACHE_CONTROL,
            cache_control(self.max_age, self.private),
        );
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.kind.content_type()),
        );
        add_cors(headers);
        let content_range = match status {
            StatusCode::RANGE_NOT_SATISFIABLE => Some(format!("bytes */{len}")),
            StatusCode::PARTIAL_CONTENT => {
                Some(format!("bytes {}-{}/{len}", range.start, range.end - 1))
            }
            _ => None,
        };
        if let Some(Ok(value)) = content_range.map(HeaderValue::try_from) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        if status == StatusCode::NOT_MODIFIED {
            return response;
        }
        headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
        if self.method != Method::HEAD {
            let bytes = object.slice(range.start as usize..range.end as usize);
            *response.body_mut() = self.body(bytes);
        }
        response
    }

    fn plan_range(&self, etag: &HeaderValue, len: u64) -> (StatusCode, Range<u64>) {
        if let Some(wanted) = self
            .request
            .get(header::IF_NONE_MATCH)
            .and_then(|v| v.to_str().ok())
        {
            let same = |tag: &str| {
                tag == "*" || tag.trim_start_matches("W/").as_bytes() == etag.as_bytes()
            };
            if wanted.split(',').any(|tag| same(tag.trim())) {
                return (StatusCode::NOT_MODIFIED, 0..0);
            }
        }
        let changed = self
            .request
            .get(header::IF_RANGE)
            .is_some_and(|tag| tag != etag);
        let range = self
            .request
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok());
        match range.and_then(|range| parse_range(range, len)) {
            Some(_) if changed => (StatusCode::OK, 0..len),
            Some(Ok(range)) => (StatusCode::PARTIAL_CONTENT, range),
            Some(Err(Unsatisfiable)) => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
            None => (StatusCode::OK, 0..len),
        }
    }

    fn body(self, rest: Bytes) -> Body {
        let path = self.path.to_owned();
        let stats = self.stats.clone();
        let (fault, changes) = (self.fault, self.changes);
        let misbehaving = Misbehaving {
            rest,
            sent: 0,
            fault,
            changes,
        };
        let stream = stream::unfold(misbehaving, Misbehaving::next).map(move |chunk| {
            let chunk = chunk?;
            stats.on_bytes(Some(&path), chunk.len() as u64);
            Ok(Frame::data(chunk))
        });
        BodyExt::boxed(StreamBody::new(stream))
    }
}

/// A body under way, with the fault that it suffers.
struct Misbehaving {
    rest: Bytes,
    sent: u64,
    fault: Option<Fault>,
    changes: watch::Receiver<u64>,
}

impl Misbehaving {
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        let mut room = CHUNK_BYTES_MAX as u64;
        match self.fault {
            Some(Fault::Slow { bytes_per_s }) => {
                room = (bytes_per_s / SLOW_STEPS_PER_S)
                    .clamp(1, room)
                    .min(self.rest.len() as u64);
                tokio::time::sleep(Duration::from_secs_f64(room as f64 / bytes_per_s as f64)).await;
            }
            Some(Fault::Stall { after_bytes }) if self.sent >= after_bytes => {
                self.fault = None;
                // An error means that the source is gone: the connection ends anyway.
                _ = self.changes.changed().await;
            }
            Some(Fault::Truncate { after_bytes }) if self.sent >= after_bytes => {
                self.rest = Bytes::new();
                self.fault = None;
                // An error makes hyper drop what it has not written yet.
                tokio::time::sleep(FLUSH_PAUSE).await;
                return Some((
                    Err(std::io::Error::other("truncated by a fault switch")),
                    self,
                ));
            }
            Some(Fault::Stall { after_bytes } | Fault::Truncate { after_bytes }) => {
                room = room.min(after_bytes - self.sent);
            }
            _ => {}
        }
        if self.rest.is_empty() {
            return None;
        }
        let chunk = self.rest.split_to((room as usize).min(self.rest.len()));
        self.sent += chunk.len() as u64;
        Some((Ok(chunk), self))
    }
}

/// A media object of unknown length, handed on as it comes.
pub(crate) fn growing(
    kind: Kind,
    max_age: Duration,
    parts: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    stats: Stats,
    path: &str,
) -> Response<Body> {
    let path = path.to_owned();
    let frames = parts.map(move |part| {
        let part = part?;
        stats.on_bytes(Some(&path), part.len() as u64);
        Ok(Frame::data(part))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(kind.content_type());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, cache_control(max_age, false));
    add_cors(headers);
    response
}

/// First and last byte of a range that has both.
pub(crate) fn closed_range(request: &HeaderMap) -> Option<(u64, u64)> {
    let range = request.get(header::RANGE)?.to_str().ok()?;
    let range = parse_range(range, u64::MAX)?.ok()?;
    (range.end < u64::MAX).then(|| (range.start, range.end - 1))
}

/// The bytes from `first` on of an object whose length is not known yet.
pub(crate) fn part_of_growing(
    kind: Kind,
    max_age: Duration,
    first: u64,
    bytes: Bytes,
    stats: &Stats,
    path: &str,
) -> Response<Body> {
    let last = first + bytes.len().saturating_sub(1) as u64;
    stats.on_bytes(Some(path), bytes.len() as u64);
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    if let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{last}/*")) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    let content_type = HeaderValue::from_static(kind.content_type());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, cache_control(max_age, false));
    add_cors(headers);
    let body = Full::new(bytes).map_err(|never: Infallible| match never {});
    *response.body_mut() = body.boxed();
    response
}

struct Unsatisfiable;

/// A single range of `len` bytes; `None` for what is not one, which is then ignored as HTTP asks.
fn parse_range(value: &str, len: u64) -> Option<Result<Range<u64>, Unsatisfiable>> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| -> Option<Option<u64>> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
    };
    let range = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(0)) => return Some(Err(Unsatisfiable)),
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), last) => first..last.unwrap_or(u64::MAX).saturating_add(1).min(len),
    };
    Some(if range.start < range.end {
        Ok(range)
    } else {
        Err(Unsatisfiable)
    })
}

fn cache_control(max_age: Duration, private: bool) -> HeaderValue {
    let scope = if private { "private" } else { "public" };
    HeaderValue::from_str(&format!("{scope}, max-age={}", max_age.as_secs()))
        .expect("digits are a header value")
}

fn add_cors(headers: &mut HeaderMap) {
    let open = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "Content-Length, Content-Range, Age, Date, ETag",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "cross-origin",
        ),
        (HeaderName::from_static("timing-allow-origin"), "*"),
    ];
    headers.extend(open.map(|(name, value)| (name, HeaderValue::from_static(value))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let parse = |value| parse_range(value, 100).map(|range| range.map_err(|_| ()));
        assert_eq!(parse("bytes=0-"), Some(Ok(0..100)));
        assert_eq!(parse("bytes=10-19"), Some(Ok(10..20)));
        assert_eq!(parse("bytes=90-500"), Some(Ok(90..100)));
        assert_eq!(parse("bytes=-7"), Some(Ok(93..100)));
        assert_eq!(parse("bytes=-700"), Some(Ok(0..100)));
        assert_eq!(parse("bytes=100-"), Some(Err(())));
        assert_eq!(parse("bytes=99999999999999999999999-"), Some(Err(())));
        assert_eq!(parse("bytes=-0"), Some(Err(())));
        for ignored in [
            "bytes=5-2",
            "bytes=a-b",
            "bytes=0-1,4-5",
            "bytes=-",
            "items=0-1",
            "bytes=+1-2",
        ] {
            assert_eq!(parse(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn tokens_reach_every_uri() {
        let hls = "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:2,\nseg-1.m4s\n";
        let out = add_token(hls.as_bytes(), Kind::Playlist, "t");
        assert_eq!(
            out,
            "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4?token=t\"\n#EXTINF:2,\nseg-1.m4s?token=t\n"
        );
        let dash = r#"<T initialization="i.mp4" media="$Number$.m4s" startNumber="1"/>"#;
        let out = add_token(dash.as_bytes(), Kind::Manifest, "t");
        assert_eq!(
            out,
            r#"<T initialization="i.mp4?token=t" media="$Number$.m4s?token=t" startNumber="1"/>"#
        );
    }

    #[test]
    fn the_generation_changes_bytes_but_not_the_length() {
        let segment = Bytes::from_static(b"\0\0\0\x0cstypcmfs\0\0\0\x08moof");
        let (a, b) = (stamp_generation(&segment, 0), stamp_generation(&segment, 1));
        assert_eq!((a.len(), b.len()), (segment.len() + 16, segment.len() + 16));
        assert_ne!(a, b);
        assert_eq!(&a[12..20], b"\0\0\0\x10free");
        assert_eq!(
            &stamp_generation(&Bytes::from_static(b"\0\0\0\x08moof"), 0)[4..8],
            b"free"
        );
    }
}

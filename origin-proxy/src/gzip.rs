//! Playlists and manifests in the gzip coding (RFC 1952), for viewers who take it (RFC 9110 section 12.5.3).
//!
//! Each version is compressed once, when the first such viewer asks, and is another representation with a
//! validator of its own. Segments are compressed media; records, and ranges, are of objects as they are.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::OnceCell;

use crate::object::Object;

/// An object in the gzip coding, if it may have one.
#[derive(Default)]
pub(crate) struct Gzipped(Option<Box<OnceCell<Option<Arc<Object>>>>>);

/// How hard to try, of 10. More of it brings little for text that repeats itself.
const LEVEL: Compression = Compression::new(6);
/// Longer ones are compressed where nobody waits for the processor, in bytes.
const LEN_MAX_AT_ONCE: usize = 32 * 1024;
/// One network packet has room for as much either way, in bytes.
const LEN_MIN: usize = 512;

impl Gzipped {
    /// For a playlist or manifest, if it may be compressed.
    pub(crate) fn of_playlist(is_allowed: bool) -> Self {
        Self(is_allowed.then(Box::default))
    }

    /// The same for another object that is made of this one.
    pub(crate) fn anew(&self) -> Self {
        Self::of_playlist(self.is_possible())
    }

    pub(crate) fn is_possible(&self) -> bool {
        self.0.is_some()
    }
}

impl Object {
    /// This object in the gzip coding; none if it has none, or gains nothing.
    pub(crate) async fn gzipped(&self) -> Option<Arc<Self>> {
        let cell = self.gzipped.0.as_deref()?;
        let make = async {
            if self.body.len() < LEN_MIN {
                return None;
            }
            let body = if self.body.len() <= LEN_MAX_AT_ONCE {
                compress(&self.body)?
            } else {
                let body = self.body.clone();
                let work = tokio::task::spawn_blocking(move || compress(&body));
                work.await.ok()??
            };
            (body.len() < self.body.len()).then(|| Arc::new(self.coded(body)))
        };
        cell.get_or_init(|| make).await.clone()
    }

    fn coded(&self, body: Vec<u8>) -> Self {
        let mut coded = self.expired();
        coded.freshness = self.freshness;
        coded.raw = None;
        coded.origin_etag = None;
        coded.gzipped = Gzipped::default();
        coded.body = Bytes::from(body);
        let headers = &mut coded.headers;
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(etag) = headers.remove(header::ETAG).and_then(|etag| etag_of(&etag)) {
            headers.insert(header::ETAG, etag);
        }
        coded
    }
}

/// The validator of the compressed form of what has `etag` (RFC 9110 section 8.8.3.3).
fn etag_of(etag: &HeaderValue) -> Option<HeaderValue> {
    let opaque = etag.to_str().ok()?.strip_suffix('"')?;
    HeaderValue::try_from(format!("{opaque}-gzip\"")).ok()
}

/// Has caches on the way tell the two forms apart.
pub(crate) fn note_forms(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::VARY).into_iter();
    let mut names = lines.by_ref().filter_map(|line| line.to_str().ok());
    let is_said = names.any(|line| {
        let mut names = line.split(',').map(str::trim);
        names.any(|name| name == "*" || name.eq_ignore_ascii_case("accept-encoding"))
    });
    if !is_said {
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Whether a viewer with these headers takes gzip, and wants all of an object.
pub(crate) fn is_wanted(asked: &HeaderMap) -> bool {
    if asked.contains_key(header::RANGE) {
        return false;
    }
    let lines = asked.get_all(header::ACCEPT_ENCODING).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let (mut named, mut any) = (None, false);
    for word in lines.flat_map(|line| line.split(',')) {
        let (coding, rest) = word.split_once(';').unwrap_or((word, ""));
        let weight = rest.trim().strip_prefix("q=").unwrap_or("1");
        let is_taken = weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0);
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => named = Some(is_taken),
            "*" => any = is_taken,
            _ => {}
        }
    }
    named.unwrap_or(any)
}

/// None if memory does not suffice.
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), LEVEL);
    out.write_all(body).ok()?;
    out.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_viewers_take_is_read_as_the_rfc_says() {
        for (lines, is_taken) in [
            (&["gzip, deflate, br, zstd"][..], true),
            (&["br", "GZIP;q=0.5"][..], true),
            (&["x-gzip"][..], true),
            (&["*"][..], true),
            (&["*;q=0, gzip"][..], true),
            (&["gzip;q=0, *"][..], false),
            (&["gzip; q=0.000"][..], false),
            (&["gzip;q=much"][..], false),
            (&["identity, br"][..], false),
            (&[""][..], false),
            (&[][..], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(is_wanted(&headers), is_taken, "{lines:?}");
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
            assert!(!is_wanted(&headers));
        }
    }

    #[test]
    fn the_two_forms_are_said_once() {
        for (before, after) in [
            (&[][..], &["Accept-Encoding"][..]),
            (&["Origin"][..], &["Origin", "Accept-Encoding"][..]),
            (&["x, accept-encoding"][..], &["x, accept-encoding"][..]),
            (&["*"][..], &["*"][..]),
        ] {
            let mut headers = HeaderMap::new();
            for line in before {
                headers.append(header::VARY, HeaderValue::from_static(line));
            }
            note_forms(&mut headers);
            let lines: Vec<_> = headers.get_all(header::VARY).into_iter().collect();
            assert_eq!(lines, after);
        }
    }
}

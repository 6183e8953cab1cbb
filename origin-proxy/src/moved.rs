//! Playlists and manifests that the origin has under another path.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::{
    client::Response, freshness::NOT_FRESH, object::Object, playlist::Format, proxy::Proxy,
    target::Target,
};

impl Proxy {
    /// Where viewers must go for `target`, if `response` is a playlist that redirects have led to in another
    /// folder of the origin: what it lists is relative to where it is. Elsewhere viewers cannot be sent
    /// without losing them, and objects are followed: their names lead nowhere else. Nobody may keep the answer:
    /// where to may be for one viewer alone.
    pub(crate) fn moved(&self, target: &Target, response: &Response) -> Option<Object> {
        let is_playlist = Format::of(&target.path, response.headers()) != Format::Other;
        if !is_playlist || response.status() != StatusCode::OK {
            return None;
        }
        let found = response.url();
        let site = self.site_of(target);
        let place = site.local(found.as_str())?;
        if folder(&place.path) == folder(&target.path) {
            return None;
        }
        let location = match &place.query {
            Some(query) => format!("{}?{query}", place.sent_path()),
            None => place.sent_path().into_owned(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(Object {
            status: StatusCode::FOUND,
            headers,
            body: Bytes::new(),
            raw: None,
            origin_etag: None,
            stored: Instant::now(),
            freshness: NOT_FRESH,
            records: Default::default(),
            prepared: Default::default(),
            gzipped: Default::default(),
        })
    }
}

/// A path to its last slash.
fn folder(path: &str) -> &str {
    path.rfind('/').map_or("", |end| &path[..=end])
}

//! Playlists and manifests as viewers get them, with headers of their own.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use swarm_core::record::RECORD_HEADER;

use crate::{
    freshness::{Kind, NOT_FRESH, plan_freshness},
    object::Object,
    playlist::Format,
    proxy::Proxy,
    target::Target,
};

impl Proxy {
    /// A playlist as viewers get it, and whether it may be kept. One that is shared may be promised to
    /// viewers who wait for it.
    pub(crate) async fn release(
        self: &Arc<Self>,
        target: &Target,
        is_shared: bool,
        mut headers: HeaderMap,
        raw: Bytes,
        format: Format,
        arrived: Instant,
    ) -> (Object, bool) {
        let (body, kind) = self.release_playlist(target, is_shared, &raw, format).await;
        let status = StatusCode::OK;
        let origin_etag = headers.remove(header::ETAG);
        headers.insert(header::ETAG, etag_of(&body));
        headers.remove(RECORD_HEADER);
        let plan = plan_freshness(status, &headers, kind, &self.config.cache);
        if let (Kind::Live { fresh_ms_max, .. }, false) =
            (kind, headers.contains_key(header::CACHE_CONTROL))
        {
            headers.insert(header::CACHE_CONTROL, max_age(fresh_ms_max));
        }
        let object = Object {
            status,
            headers,
            body,
            raw: Some(raw),
            origin_etag,
            stored: arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
        };
        (object, plan.is_some())
    }
}

/// The validator of a playlist of ours.
pub(crate) fn etag_of(body: &[u8]) -> HeaderValue {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(body);
    let text = format!("\"{}\"", hex::encode(&digest[..8]));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

/// `max-age` in whole seconds, of which less than one is none.
pub(crate) fn max_age(ms: u64) -> HeaderValue {
    match ms / 1000 {
        0 => HeaderValue::from_static("no-cache"),
        seconds => HeaderValue::try_from(format!("max-age={seconds}"))
            .unwrap_or(HeaderValue::from_static("no-cache")),
    }
}

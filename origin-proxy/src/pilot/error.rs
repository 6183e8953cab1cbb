//! Answers that are no object: not there, elsewhere, failed. What counts of them is their status.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use swarm_core::record::RECORD_HEADER;
use tokio::sync::oneshot;

use super::{Pilot, Told};
use crate::{
    client::Response,
    freshness::{self, NOT_FRESH},
    object::{Landing, Object},
    proxy::Answer,
    release::max_age,
    vary,
};

/// Longest body that is kept of such an answer, in bytes.
const BODY_LEN_MAX: usize = 64 * 1024;

impl Pilot {
    /// An answer of an origin that cannot, or will not now ([`freshness::is_trouble`]), for all who wait: none of
    /// them fares better by asking once more. What it has for one viewer is left out.
    pub(super) async fn land_failure(&self, response: Response, told: Told) -> Landing {
        let status = response.status();
        let is_for_all = told.is_shareable(status, &told.head, self.is_authorized())
            && !self.has_token_in_head(&told.head)
            && vary::names(&told.head).is_some_and(|names| names.is_empty());
        if is_for_all {
            return self.land_error(response, told).await;
        }
        let mut headers = some_of(&told.head, &[header::DATE, header::RETRY_AFTER]);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.keep_error(status, headers, None, &told)
    }

    /// Any other such answer, which may be shared.
    pub(super) async fn land_error(&self, response: Response, told: Told) -> Landing {
        let status = response.status();
        let body = self.read_error(response).await;
        let body = body.filter(|body| !self.has_token_in(body));
        let headers = match body {
            Some(_) => told.head.clone(),
            None => some_of(&told.head, &OF_NO_BODY),
        };
        self.keep_error(status, headers, body, &told)
    }

    /// Where viewers must go instead. For all of them, and as long as they say, if all redirects on the way say how
    /// long; else each viewer may be sent somewhere else, and goes to the origin by itself from here on.
    pub(super) fn land_elsewhere(
        &self,
        mut elsewhere: Object,
        told: &Told,
        to_first: oneshot::Sender<Answer>,
    ) -> Landing {
        let fresh = told.hops.iter().map(freshness::told).min().flatten();
        let has_token = || told.hops.iter().any(|hop| self.has_token_in_head(hop));
        let fresh = fresh.filter(|_| told.may_share_hops(self.is_authorized()) && !has_token());
        let Some(fresh) = fresh else {
            self.proxy.unshared.insert(self.base_key.clone(), ());
            // It is lost if the viewer has left: then nobody wants it.
            let _ = to_first.send(Answer::Whole(Arc::new(elsewhere)));
            return Landing::NotShared;
        };
        for value in told.hops.iter().flat_map(|hop| hop.get_all(header::VARY)) {
            elsewhere.headers.append(header::VARY, value.clone());
        }
        self.note_vary(&elsewhere.headers);
        let ms = u64::try_from(fresh.as_millis()).unwrap_or(u64::MAX);
        elsewhere.headers.insert(header::CACHE_CONTROL, max_age(ms));
        elsewhere.stored = told.arrived;
        elsewhere.freshness.fresh = fresh;
        self.keep((elsewhere, true))
    }

    /// The body of such an answer; none if it is too long or broke off.
    async fn read_error(&self, mut response: Response) -> Option<Bytes> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.proxy.upstream.next(&mut response).await.ok()? {
            self.proxy.on_origin_bytes(&self.target, chunk.len());
            if whole.len() + chunk.len() > BODY_LEN_MAX {
                return None;
            }
            whole.extend_from_slice(&chunk);
        }
        Some(whole.into())
    }

    /// Without `body`, the answer has one that says the status.
    fn keep_error(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        body: Option<Bytes>,
        told: &Told,
    ) -> Landing {
        headers.remove(RECORD_HEADER);
        let body = body.unwrap_or_else(|| {
            let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, media_type);
            format!("origin answered {status}\n").into()
        });
        let plan = self.plan(status, &headers);
        if let Some(plan) = plan.filter(|_| status.is_client_error()) {
            // Caches on the way repeat "not there" for minutes unless told otherwise.
            let ms = u64::try_from(plan.fresh.as_millis()).unwrap_or(0);
            headers.insert(header::CACHE_CONTROL, max_age(ms));
        }
        let object = Object {
            status,
            headers,
            body,
            raw: None,
            origin_etag: None,
            stored: told.arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
            gzipped: Default::default(),
        };
        self.keep((object, plan.is_some()))
    }
}

/// What of a head holds without its body.
const OF_NO_BODY: [HeaderName; 7] = [
    header::AGE,
    header::CACHE_CONTROL,
    header::DATE,
    header::EXPIRES,
    header::LOCATION,
    header::RETRY_AFTER,
    header::VARY,
];

fn some_of(head: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let some = head.iter().filter(|(name, _)| names.contains(name));
    some.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

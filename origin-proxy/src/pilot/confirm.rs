//! Answers that say that what the cache has is still right (RFC 9111 section 4.3.4).

use std::sync::Arc;

use http::{HeaderMap, header};
use swarm_core::record::RECORD_HEADER;
use tokio::sync::oneshot;

use super::{Pilot, Told};
use crate::{
    freshness::NOT_FRESH,
    object::{Landing, Object},
    playlist::Format,
    proxy::Answer,
};

impl Pilot {
    /// Renews `prior`. What the origin does not let be shared any more goes to `to_first` alone, and is
    /// forgotten.
    pub(super) async fn confirm(
        &self,
        prior: &Arc<Object>,
        told: &Told,
        to_first: oneshot::Sender<Answer>,
    ) -> Landing {
        let before = prior
            .raw
            .as_ref()
            .map_or(&prior.headers, |raw| &raw.headers);
        let headers = renewed(before, &told.head);
        if self.is_shareable(prior.status, told, &headers, self.is_authorized()) {
            self.note_vary(&headers);
            let renewed = self.renew(prior, headers, told, self.is_for_all());
            return self.keep(renewed.await);
        }
        if !self.is_shareable(prior.status, told, &headers, false) {
            self.proxy.unshared.insert(self.base_key.clone(), ());
            if self.proxy.is_current(&self.target, &self.flight) {
                self.proxy.evict(&self.target);
            }
        }
        let (object, _) = self.renew(prior, headers, told, false).await;
        let _ = to_first.send(Answer::Whole(Arc::new(object)));
        Landing::NotShared
    }

    /// `prior` with `headers`, and whether it may be kept.
    async fn renew(
        &self,
        prior: &Arc<Object>,
        headers: HeaderMap,
        told: &Told,
        is_shared: bool,
    ) -> (Object, bool) {
        if let Some(raw) = &prior.raw {
            let format = Format::of(&self.target.path, &headers);
            let raw = raw.body.clone();
            let released =
                self.proxy
                    .release(&self.target, is_shared, headers, raw, format, told.arrived);
            return released.await;
        }
        let plan = self.plan(prior.status, &headers);
        let object = Object {
            status: prior.status,
            headers,
            body: prior.body.clone(),
            raw: None,
            origin_etag: prior.origin_etag.clone(),
            stored: told.arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
            gzipped: Default::default(),
        };
        let is_cut = self.is_cut(&object);
        if !is_cut {
            self.sign(&object).await;
        }
        (object, plan.is_some() && !is_cut)
    }
}

/// The head of a kept answer, with all lines of what its confirmation says anew (RFC 9111 section 3.2).
fn renewed(before: &HeaderMap, told: &HeaderMap) -> HeaderMap {
    let mut headers = before.clone();
    headers.remove(header::AGE);
    for name in told.keys() {
        let is_it = |other: &&str| name.as_str().eq_ignore_ascii_case(other);
        if NOT_RENEWED.iter().any(is_it) {
            continue;
        }
        headers.remove(name);
        for value in told.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// What says how the bytes are to be read, which are those from before; and a cookie, which is for the one
/// who happened to ask.
const NOT_RENEWED: [&str; 6] = [
    "content-encoding",
    "content-range",
    "content-type",
    "etag",
    "set-cookie",
    RECORD_HEADER,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_of_a_name_take_the_place_of_all_lines() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut out = HeaderMap::new();
            for (name, value) in pairs {
                out.append(*name, value.parse().unwrap());
            }
            out
        };
        let before = headers(&[
            ("cache-control", "max-age=1"),
            ("content-type", "video/mp4"),
            ("etag", "\"1\""),
            ("age", "7"),
            ("x-kept", "1"),
        ]);
        let told = headers(&[
            ("cache-control", "public"),
            ("cache-control", "max-age=60"),
            ("content-type", "text/html"),
            ("etag", "W/\"1\""),
            ("set-cookie", "who=me"),
            ("shoal-record", "forged"),
        ]);
        let expected = headers(&[
            ("cache-control", "public"),
            ("cache-control", "max-age=60"),
            ("content-type", "video/mp4"),
            ("etag", "\"1\""),
            ("x-kept", "1"),
        ]);
        assert_eq!(renewed(&before, &told), expected);
    }
}

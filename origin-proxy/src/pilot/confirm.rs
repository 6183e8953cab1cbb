//! Answers that say that what the cache has is still right (RFC 9111 section 4.3.4).

use std::sync::Arc;

use http::{HeaderMap, header};
use swarm_core::{id::Name, record::RECORD_HEADER};
use tokio::sync::oneshot;

use super::{Pilot, Told};
use crate::{
    freshness::NOT_FRESH,
    object::{Landing, Object, Records},
    playlist::Format,
    proxy::Answer,
    records::Signed,
    vary,
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
            let disk = self.proxy.disk.as_ref();
            // The same bytes are there: once they are needed, the origin confirms them again.
            return self.keep_if(renewed.await, |key| disk.is_none_or(|disk| !disk.has(key)));
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
        match self.records_still(prior, &object) {
            _ if is_cut => {}
            Some(records) => object.set_records(records),
            None => self.sign(&object).await,
        }
        (object, plan.is_some() && !is_cut)
    }

    /// The records of `prior`, if they are those of `object`, which has the same bytes, as it is listed now: to
    /// hash it again would bring the same.
    fn records_still(&self, prior: &Object, object: &Object) -> Option<Records> {
        let before = prior.records.load_full()?;
        let stream = self.proxy.stream_of(&self.target)?;
        let name = Name::of_url(&self.target.path);
        let is_for_all = vary::names(&object.headers).is_some_and(|names| names.is_empty());
        let is_complete = stream.listing(name).is_some() == before.whole.is_some()
            && stream.ranges(name).len() == before.ranges.len();
        if !is_for_all || !is_complete {
            return None;
        }
        let still = |signed: &Arc<Signed>| {
            let now = stream.record_of(signed.record.name)?;
            (now.record.id() == signed.record.id()).then_some(now)
        };
        let whole = match &before.whole {
            Some(signed) => Some(still(signed)?),
            None => None,
        };
        let ranges = before.ranges.iter();
        let ranges = ranges.map(|(first, end, signed)| Some((*first, *end, still(signed)?)));
        Some(Records {
            whole,
            ranges: ranges.collect::<Option<_>>()?,
        })
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

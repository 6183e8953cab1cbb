//! One request to the origin: from its head to the cache, the signature and all who wait for it.

mod confirm;
mod error;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use swarm_core::record::RECORD_HEADER;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    client::Response,
    error::Failure,
    freshness::{self, Freshness, Kind, NOT_FRESH, plan_freshness},
    object::{Flight, Head, Landing, Object, end_to_end, is_whole},
    playlist::Format,
    proxy::{Answer, Errand, Passed, Proxy},
    target::Target,
    upstream::{has_certain_end, is_beyond_reading},
    vary,
};

/// Flies one flight. Whatever happens to it, passengers learn of the end.
pub(crate) struct Pilot {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) flight: Arc<Flight>,
    pub(crate) target: Target,
    /// Its key, without what of the headers is in it.
    pub(crate) base_key: String,
    /// What the cache has, to be confirmed.
    pub(crate) prior: Option<Arc<Object>>,
    /// What is fetched ahead of viewers counts only if it is a segment.
    pub(crate) errand: Errand,
    /// The headers of the first passenger, as the origin gets to see them.
    pub(crate) viewer: HeaderMap,
}

/// What the origin's answer says besides its body.
struct Told {
    /// End-to-end headers.
    head: HeaderMap,
    /// The heads of the redirects on the way to it.
    hops: Vec<HeaderMap>,
    arrived: Instant,
}

impl Told {
    fn of(response: &Response, asked: Instant) -> Self {
        let hops = response.hops.heads().to_vec();
        let mut head = end_to_end(response.headers());
        // Where the request was sent may differ with what the answer itself does not.
        for value in hops.iter().flat_map(|hop| hop.get_all(header::VARY)) {
            head.append(header::VARY, value.clone());
        }
        Self {
            arrived: arrival(asked, &head),
            head,
            hops,
        }
    }

    /// Whether an answer with `head`, which this one has led to, may be given to more than the one who asked.
    fn is_shareable(&self, status: StatusCode, head: &HeaderMap, is_authorized: bool) -> bool {
        freshness::is_shareable(status, head, is_authorized) && self.may_share_hops(is_authorized)
    }

    /// Whether more than the one who asked may be sent where the redirects on the way to this answer lead.
    fn may_share_hops(&self, is_authorized: bool) -> bool {
        let mut hops = self.hops.iter();
        hops.all(|hop| freshness::lets_share(hop, is_authorized))
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.proxy.on_end(&self.target, &self.flight);
        // Without effect if there was a landing.
        let lost = Failure::Internal("the request to the origin was lost");
        self.flight.on_landing(Landing::Failed(lost));
    }
}

impl Pilot {
    /// Brings the object in. What is not to be shared goes to `to_first`.
    pub(crate) async fn fly(self, to_first: oneshot::Sender<Answer>) {
        let landing = match self.fetch(to_first).await {
            Ok(landing) => landing,
            Err(failure) => Landing::Failed(failure),
        };
        self.proxy.on_end(&self.target, &self.flight);
        self.flight.on_landing(landing);
    }

    async fn fetch(&self, to_first: oneshot::Sender<Answer>) -> Result<Landing, Failure> {
        let proxy = &self.proxy;
        let mut prior = self.prior.clone();
        if prior.is_none() {
            match self.read_disk().await {
                Some(object) if object.is_fresh() => return Ok(Landing::Whole(object)),
                object => prior = object,
            }
        }
        let permit = proxy.permit()?;
        let mut headers = self.viewer.clone();
        if let Some(prior) = &prior {
            add_conditions(&mut headers, prior);
        }
        let asked = Instant::now();
        let body = Bytes::new();
        let response = proxy.ask(&self.target, Method::GET, headers, body).await?;
        let status = response.status();
        let mut told = Told::of(&response, asked);
        for head in std::iter::once(&mut told.head).chain(&mut told.hops) {
            proxy.rules.apply(&self.target.path, head);
        }
        if let (StatusCode::NOT_MODIFIED, Some(prior)) = (status, &prior) {
            return Ok(self.confirm(prior, &told, to_first).await);
        }
        if let Some(elsewhere) = proxy.moved(&self.target, &response) {
            return Ok(self.land_elsewhere(elsewhere, &told, to_first));
        }
        // Caches that keep an answer owe it a date (RFC 9110 section 6.6.1).
        let date = told.head.entry(header::DATE);
        date.or_insert_with(|| now_as_date().unwrap_or(HeaderValue::from_static("")));
        let is_early = self.errand == Errand::Prefetch && status != StatusCode::OK;
        if freshness::is_trouble(status) && !is_early {
            return Ok(self.land_failure(response, told).await);
        }
        let is_too_long = response
            .content_length()
            .is_some_and(|len| is_whole(status) && len > proxy.config.cache.object_bytes_max);
        let is_shareable = self.is_shareable(status, &told, &told.head, self.is_authorized());
        if !is_shareable || is_too_long || is_early {
            // What only those with a name may have alone says nothing of the others.
            let is_for_one = is_too_long || !self.is_shareable(status, &told, &told.head, false);
            if is_whole(status) && is_for_one {
                proxy.unshared.insert(self.base_key.clone(), ());
            }
            let answer = self.hand_over(response, permit, told).await?;
            // It is lost if the viewer has left: then nobody wants it.
            let _ = to_first.send(answer);
            return Ok(Landing::NotShared);
        }
        self.note_vary(&told.head);
        if !is_whole(status) {
            return Ok(self.land_error(response, told).await);
        }
        if Format::of(&self.target.path, &told.head) == Format::Other {
            return self.stream(response, told).await;
        }
        let released = self.playlist(response, self.is_for_all(), told).await?;
        if self.has_token_in(&released.0.body) {
            tracing::debug!(
                path = self.target.path,
                "playlist has its viewer's token in it"
            );
            proxy.unshared.insert(self.base_key.clone(), ());
            let _ = to_first.send(Answer::Whole(Arc::new(released.0)));
            return Ok(Landing::NotShared);
        }
        Ok(self.keep(released))
    }

    /// Whether an answer with `head`, which `told` has led to, may be given to more than the one who asked.
    fn is_shareable(
        &self,
        status: StatusCode,
        told: &Told,
        head: &HeaderMap,
        is_authorized: bool,
    ) -> bool {
        let (path, key) = (&self.target.path, &self.base_key);
        let is_blamed = status.is_client_error() && self.is_token_unknown();
        let is_of_token = is_blamed || self.has_token_in_head(head);
        told.is_shareable(status, head, is_authorized)
            && !is_of_token
            && !self.proxy.is_for_one(path, key, head)
    }

    /// Whether nobody has asked if the token of the first passenger is good: it may be to blame for the answer.
    fn is_token_unknown(&self) -> bool {
        let tokens = &self.proxy.site_of(&self.target).tokens;
        let token = self.target.token.as_ref();
        token.is_some_and(|token| !tokens.is_checked(token))
    }

    /// Whether `head` has the token in it that the first passenger has in its path.
    fn has_token_in_head(&self, head: &HeaderMap) -> bool {
        let token = self.target.token.as_ref();
        token.is_some_and(|token| token.is_in_head(head))
    }

    /// Whether `body` has the token in it that the first passenger has in its path.
    fn has_token_in(&self, body: &[u8]) -> bool {
        let token = self.target.token.as_ref();
        token.is_some_and(|token| token.is_in(body))
    }

    fn is_authorized(&self) -> bool {
        self.viewer.contains_key(header::AUTHORIZATION)
    }

    /// Notes that this answer is for viewers with some headers alone, if so.
    fn note_vary(&self, head: &HeaderMap) {
        let names = vary::names(head).unwrap_or_default();
        if !names.is_empty() {
            let rule = self.proxy.on_vary(&self.base_key, names);
            self.flight.on_key(rule.key(&self.base_key, &self.viewer));
        }
    }

    /// Whether what it brings is the same for all viewers.
    fn is_for_all(&self) -> bool {
        self.flight.is_for(&self.base_key)
    }

    /// The object as it is on disk, which is in memory from here on.
    async fn read_disk(&self) -> Option<Arc<Object>> {
        let proxy = &self.proxy;
        let disk = proxy
            .disk
            .clone()
            .filter(|disk| disk.has(&self.target.key))?;
        let key = self.target.key.clone();
        let loaded = tokio::task::spawn_blocking(move || disk.load(&key)).await;
        match loaded.ok()? {
            Ok(object) => {
                let object = object?;
                if object.is_fresh() {
                    self.sign(&object).await;
                    proxy.metrics.disk_hits.increment(1);
                }
                let object = Arc::new(object);
                proxy.if_current(&self.target, &self.flight, || {
                    proxy.cache.insert(self.target.key.clone(), object.clone());
                });
                Some(object)
            }
            Err(error) => {
                proxy.metrics.disk_failures.increment(1);
                tracing::warn!(path = self.target.path, %error, "object on disk is lost");
                None
            }
        }
    }

    /// Has what is worth it written to disk, unless the disk has enough to do.
    fn write_disk(&self, key: &str, object: &Arc<Object>) {
        let proxy = self.proxy.clone();
        let Some(disk) = proxy.disk.clone().filter(|disk| disk.wants(object)) else {
            return;
        };
        let Ok(permit) = proxy.disk_permits.clone().try_acquire_owned() else {
            return;
        };
        let (object, write) = (object.clone(), disk.begin(key));
        tokio::task::spawn_blocking(move || {
            if let Err(error) = disk.store(&write, &object) {
                proxy.metrics.disk_failures.increment(1);
                tracing::warn!(%error, "object cannot be written to disk");
            }
            drop(permit);
        });
    }

    /// An answer that is for the first passenger alone.
    async fn hand_over(
        &self,
        response: Response,
        permit: OwnedSemaphorePermit,
        told: Told,
    ) -> Result<Answer, Failure> {
        let is_playlist = Format::of(&self.target.path, &told.head) != Format::Other;
        let is_ours = is_playlist && is_whole(response.status());
        if !is_ours || is_beyond_reading(&response) {
            return Ok(Answer::Passed(Box::new(Passed { response, permit })));
        }
        let released = self.playlist(response, false, told);
        Ok(Answer::Whole(Arc::new(released.await?.0)))
    }

    /// A playlist as viewers get it, and whether it may be kept.
    async fn playlist(
        &self,
        mut response: Response,
        is_shared: bool,
        told: Told,
    ) -> Result<(Object, bool), Failure> {
        let proxy = &self.proxy;
        let format = Format::of(&self.target.path, &told.head);
        let len_max = proxy.playlist_len_max();
        let raw = proxy.upstream.collect(&mut response, len_max).await?;
        proxy.on_origin_bytes(&self.target, raw.len());
        let is_shared = is_shared && !self.has_token_in(&raw);
        let Told { head, arrived, .. } = told;
        let released = proxy.release(&self.target, is_shared, head, raw, format, arrived);
        Ok(released.await)
    }

    fn keep(&self, new: (Object, bool)) -> Landing {
        self.keep_if(new, |_| true)
    }

    /// The same; `is_written` tells whether it is written to disk, if it is worth it, by its key.
    fn keep_if(
        &self,
        (object, is_kept): (Object, bool),
        is_written: impl FnOnce(&str) -> bool,
    ) -> Landing {
        let object = Arc::new(object);
        if !is_kept {
            return Landing::Whole(object);
        }
        let proxy = &self.proxy;
        let kept = proxy.if_current(&self.target, &self.flight, || {
            let key = self.flight.key();
            if is_written(&key) {
                self.write_disk(&key, &object);
            }
            proxy.cache.insert(key, object.clone());
        });
        if kept.is_some() && self.is_for_all() {
            proxy.on_playlist(&self.target, &object);
        }
        Landing::Whole(object)
    }

    fn plan(&self, status: StatusCode, headers: &HeaderMap) -> Option<Freshness> {
        let stream = self.proxy.stream_of(&self.target);
        let kind = Kind::Object {
            stream_target_ms: stream.and_then(|stream| stream.target_ms()),
            is_hinted: self.proxy.parts.is_awaited(&self.target.key),
        };
        plan_freshness(status, headers, kind, &self.proxy.config.cache)
    }

    /// Brings a body in, for all to read while it comes.
    async fn stream(&self, mut response: Response, told: Told) -> Result<Landing, Failure> {
        let proxy = &self.proxy;
        let status = response.status();
        let is_certain = has_certain_end(&response);
        let Told {
            mut head, arrived, ..
        } = told;
        head.remove(RECORD_HEADER);
        let len = response.content_length();
        self.flight.on_head(Arc::new(Head {
            status,
            headers: head.clone(),
            len,
        }));
        while let Some(chunk) = proxy
            .upstream
            .next(&mut response)
            .await
            .inspect_err(|failure| {
                proxy.metrics.origin_failures.increment(1);
                tracing::warn!(path = self.target.path, %failure, "origin broke off");
            })?
        {
            proxy.on_origin_bytes(&self.target, chunk.len());
            let so_far = self.flight.on_chunk(chunk);
            if so_far > proxy.config.cache.object_bytes_max {
                proxy.unshared.insert(self.base_key.clone(), ());
                return Err(Failure::Origin(
                    "its answer is longer than an object may be".into(),
                ));
            }
        }
        let plan = self.plan(status, &head).filter(|_| is_certain);
        let object = Object {
            status,
            origin_etag: head.get(header::ETAG).cloned(),
            headers: head,
            body: self.flight.collect(),
            raw: None,
            stored: arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
            gzipped: Default::default(),
        };
        let is_cut = self.is_cut(&object);
        if is_certain && !is_cut {
            self.sign(&object).await;
        }
        Ok(self.keep((object, plan.is_some() && !is_cut)))
    }

    /// Whether playlists list more of `object` than there is: the origin was asked too early.
    fn is_cut(&self, object: &Object) -> bool {
        let grown = self.proxy.parts.grown_to(&self.base_key);
        grown.is_some_and(|len| object.is_cut(len))
    }

    async fn sign(&self, object: &Object) {
        if !self.proxy.is_current(&self.target, &self.flight) {
            return;
        }
        if let Some(stream) = self.proxy.stream_of(&self.target) {
            self.proxy.sign(stream, &self.target, object).await;
        }
    }
}

/// Asks for what is newer than `prior` alone.
fn add_conditions(headers: &mut HeaderMap, prior: &Object) {
    let etag = prior.origin_etag.as_ref();
    let modified = prior.headers.get(header::LAST_MODIFIED);
    etag.map(|etag| headers.insert(header::IF_NONE_MATCH, etag.clone()));
    modified.map(|date| headers.insert(header::IF_MODIFIED_SINCE, date.clone()));
}

/// From when on an answer ages: its arrival, or where other caches had it before, the request (RFC
/// 9111 section 4.2.3). An origin that holds an answer back does not make it old.
fn arrival(asked: Instant, head: &HeaderMap) -> Instant {
    if head.contains_key(header::AGE) {
        asked
    } else {
        Instant::now()
    }
}

fn now_as_date() -> Option<HeaderValue> {
    HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())).ok()
}

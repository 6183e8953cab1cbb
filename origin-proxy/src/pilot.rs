//! One request to the origin: from its head to the cache, the signature and all who wait for it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use swarm_core::{record::RECORD_HEADER, timeline::PLAYLIST_LEN_MAX};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    error::Failure,
    freshness::{self, Freshness, Kind, NOT_FRESH, is_shareable, plan_freshness},
    object::{Flight, Head, Landing, Object, end_to_end},
    playlist::Format,
    proxy::{Answer, Errand, Passed, Proxy},
    release::max_age,
    target::Target,
    upstream::has_certain_end,
    vary,
};

/// Longest body that is kept of an answer that is not 200, in bytes.
const ERROR_BODY_MAX: usize = 64 * 1024;

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
    pub(crate) async fn fly(self, headers: HeaderMap, to_first: oneshot::Sender<Answer>) {
        let landing = match self.fetch(headers, to_first).await {
            Ok(landing) => landing,
            Err(failure) => Landing::Failed(failure),
        };
        self.proxy.on_end(&self.target, &self.flight);
        self.flight.on_landing(landing);
    }

    async fn fetch(
        &self,
        mut headers: HeaderMap,
        to_first: oneshot::Sender<Answer>,
    ) -> Result<Landing, Failure> {
        let proxy = &self.proxy;
        let mut prior = self.prior.clone();
        if prior.is_none() {
            match self.read_disk().await {
                Some(object) if object.is_fresh() => return Ok(Landing::Whole(object)),
                object => prior = object,
            }
        }
        let permit = proxy.permit()?;
        let viewer = headers.clone();
        if let Some(prior) = &prior {
            add_conditions(&mut headers, prior);
        }
        let asked = Instant::now();
        let body = Bytes::new();
        let mut response = proxy.ask(&self.target, Method::GET, headers, body).await?;
        let status = response.status();
        let arrived = arrival(asked, response.headers());
        let format = Format::of(&self.target.path, response.headers());
        if let (StatusCode::NOT_MODIFIED, Some(prior)) = (status, &prior) {
            return Ok(self.confirm(prior, response.headers(), arrived).await);
        }
        if let Some(elsewhere) = proxy.moved(&self.target, &response) {
            // Where to may be for this viewer alone.
            let _ = to_first.send(Answer::Whole(elsewhere));
            return Ok(Landing::NotShared);
        }
        let mut head = end_to_end(response.headers());
        // Caches that keep an answer owe it a date (RFC 9110 section 6.6.1).
        head.entry(header::DATE)
            .or_insert_with(|| now_as_date().unwrap_or(HeaderValue::from_static("")));
        let is_too_long = response
            .content_length()
            .is_some_and(|len| len > proxy.config.cache.object_bytes_max);
        let is_early = self.errand == Errand::Prefetch && status != StatusCode::OK;
        let is_authorized = viewer.contains_key(header::AUTHORIZATION);
        let is_shareable = is_shareable(status, response.headers(), is_authorized);
        if !is_shareable || is_too_long || is_early {
            // What only those with a name may have alone says nothing of the others.
            let is_for_one = is_too_long || !freshness::is_shareable(status, &head, false);
            if status == StatusCode::OK && is_for_one {
                proxy.unshared.insert(self.base_key.clone(), ());
            }
            let answer = self
                .hand_over(response, permit, head, format, arrived)
                .await?;
            // It is lost if the viewer has left: then nobody wants it.
            let _ = to_first.send(answer);
            return Ok(Landing::NotShared);
        }
        self.note_vary(&head, &viewer);
        if status == StatusCode::OK && format != Format::Other {
            let is_shared = self.is_for_all();
            let released = self.playlist(response, is_shared, head, format, arrived);
            return Ok(self.keep(released.await?));
        }
        if status == StatusCode::OK {
            return self.stream(response, head, arrived).await;
        }
        let body = proxy
            .upstream
            .collect(&mut response, ERROR_BODY_MAX)
            .await?;
        Ok(self.keep_error(status, head, body, arrived))
    }

    /// Notes that this answer is for viewers with some headers alone, if so.
    fn note_vary(&self, head: &HeaderMap, viewer: &HeaderMap) {
        let names = vary::names(head).unwrap_or_default();
        if !names.is_empty() {
            let rule = self.proxy.on_vary(&self.base_key, names);
            self.flight.on_key(rule.key(&self.base_key, viewer));
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
        response: reqwest::Response,
        permit: OwnedSemaphorePermit,
        head: HeaderMap,
        format: Format,
        arrived: Instant,
    ) -> Result<Answer, Failure> {
        let status = response.status();
        if format == Format::Other || status != StatusCode::OK {
            return Ok(Answer::Passed(Passed { response, permit }));
        }
        let released = self.playlist(response, false, head, format, arrived);
        Ok(Answer::Whole(Arc::new(released.await?.0)))
    }

    /// A playlist as viewers get it, and whether it may be kept.
    async fn playlist(
        &self,
        mut response: reqwest::Response,
        is_shared: bool,
        head: HeaderMap,
        format: Format,
        arrived: Instant,
    ) -> Result<(Object, bool), Failure> {
        let proxy = &self.proxy;
        let raw = proxy.upstream.collect(&mut response, PLAYLIST_LEN_MAX);
        let raw = raw.await?;
        proxy.on_origin_bytes(&self.target, raw.len());
        let released = proxy.release(&self.target, is_shared, head, raw, format, arrived);
        Ok(released.await)
    }

    fn keep(&self, (object, is_kept): (Object, bool)) -> Landing {
        let object = Arc::new(object);
        if !is_kept {
            return Landing::Whole(object);
        }
        let proxy = &self.proxy;
        let kept = proxy.if_current(&self.target, &self.flight, || {
            let key = self.flight.key();
            self.write_disk(&key, &object);
            proxy.cache.insert(key, object.clone());
        });
        if kept.is_some() && self.is_for_all() {
            proxy.on_playlist(&self.target, &object);
        }
        Landing::Whole(object)
    }

    /// The origin says that what the cache has is still right.
    async fn confirm(&self, prior: &Arc<Object>, head: &HeaderMap, arrived: Instant) -> Landing {
        let mut headers = prior.headers.clone();
        headers.remove(header::AGE);
        for (name, value) in &end_to_end(head) {
            if *name != header::ETAG {
                headers.insert(name, value.clone());
            }
        }
        if let Some(raw) = prior.raw.clone() {
            if let Some(etag) = &prior.origin_etag {
                headers.insert(header::ETAG, etag.clone());
            }
            let format = Format::of(&self.target.path, &prior.headers);
            let is_shared = self.is_for_all();
            let released =
                self.proxy
                    .release(&self.target, is_shared, headers, raw, format, arrived);
            return self.keep(released.await);
        }
        let plan = self.plan(prior.status, &headers);
        let object = Object {
            status: prior.status,
            headers,
            body: prior.body.clone(),
            raw: None,
            origin_etag: prior.origin_etag.clone(),
            stored: arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
        };
        self.sign(&object).await;
        self.keep((object, plan.is_some()))
    }

    fn plan(&self, status: StatusCode, headers: &HeaderMap) -> Option<Freshness> {
        let stream = self.proxy.stream_of(&self.target);
        let kind = Kind::Object {
            stream_target_ms: stream.and_then(|stream| stream.target_ms()),
            is_hinted: self.proxy.parts.has(&self.target.key),
        };
        plan_freshness(status, headers, kind, &self.proxy.config.cache)
    }

    /// Brings a body in, for all to read while it comes.
    async fn stream(
        &self,
        mut response: reqwest::Response,
        mut head: HeaderMap,
        arrived: Instant,
    ) -> Result<Landing, Failure> {
        let proxy = &self.proxy;
        let is_certain = has_certain_end(&response);
        head.remove(RECORD_HEADER);
        let len = response.content_length();
        self.flight.on_head(Arc::new(Head {
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
        let plan = self.plan(StatusCode::OK, &head).filter(|_| is_certain);
        let object = Object {
            status: StatusCode::OK,
            origin_etag: head.get(header::ETAG).cloned(),
            headers: head,
            body: self.flight.collect(),
            raw: None,
            stored: arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
        };
        if is_certain {
            self.sign(&object).await;
        }
        Ok(self.keep((object, plan.is_some())))
    }

    async fn sign(&self, object: &Object) {
        if !self.proxy.is_current(&self.target, &self.flight) {
            return;
        }
        if let Some(stream) = self.proxy.stream_of(&self.target) {
            self.proxy.sign(stream, &self.target, object).await;
        }
    }

    fn keep_error(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        body: Bytes,
        arrived: Instant,
    ) -> Landing {
        headers.remove(RECORD_HEADER);
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
            stored: arrived,
            freshness: plan.unwrap_or(NOT_FRESH),
            records: Default::default(),
            prepared: Default::default(),
        };
        self.keep((object, plan.is_some()))
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

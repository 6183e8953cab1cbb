//! The cache: who asks the origin, who waits with whom, what is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use moka::sync::Cache;
use swarm_core::{id::Name, record::RECORD_HEADER, timeline::PLAYLIST_LEN_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Config, Error,
    error::Failure,
    freshness::{Kind, NOT_FRESH, plan_freshness},
    key,
    metrics::Metrics,
    object::{Flight, Head, Landing, Object, Progress, end_to_end},
    pilot::Pilot,
    playlist::Format,
    records::Stream,
    target::{Origin, Target},
    upstream::{Upstream, headers_for_pass, headers_for_whole},
};

/// Everything that requests share.
pub(crate) struct Proxy {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) streams: Vec<Arc<Stream>>,
    pub(crate) origin: Origin,
    pub(crate) prefetch_permits: Semaphore,
    pub(crate) upstream: Upstream,
    pub(crate) cache: Cache<String, Arc<Object>>,
    /// Keys whose answers are for one viewer each: not worth waiting for one another.
    pub(crate) unshared: Cache<String, ()>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    flight_permits: Arc<Semaphore>,
}

/// What there is to say to a viewer.
pub(crate) enum Answer {
    /// A whole object.
    Whole(Arc<Object>),
    /// An object that is still coming.
    Growing(Arc<Flight>, Arc<Head>),
    /// The origin's answer to this viewer alone.
    Passed(Passed),
}

/// An answer for one viewer, and its place among the requests to the origin.
pub(crate) struct Passed {
    pub(crate) response: reqwest::Response,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// How long a key is remembered as not shared.
const UNSHARED_TTL: Duration = Duration::from_secs(10);
const UNSHARED_MAX: u64 = 10_000;
/// How often a viewer waits for a flight of others before it asks for itself.
const BOARDINGS_MAX: usize = 2;

/// A flight to wait for, and the way by which its first passenger gets what is not shared.
struct Boarding {
    flight: Arc<Flight>,
    unshared: Option<oneshot::Receiver<Answer>>,
}

impl Proxy {
    pub(crate) fn new(config: Config) -> Result<Arc<Self>, Error> {
        config.check()?;
        let key = key::load(&config)?;
        let streams = config.streams.iter().filter_map(|stream| {
            let records_max = config.records.records_max;
            let new = |key| Stream::new(&stream.name, &stream.prefix, key, records_max);
            key.clone().map(new).map(Arc::new)
        });
        Ok(Arc::new(Self {
            streams: streams.collect(),
            metrics: Metrics::new()?,
            origin: Origin::new(&config)?,
            upstream: Upstream::new(&config)?,
            prefetch_permits: Semaphore::new(config.records.prefetch_concurrency),
            cache: Cache::builder()
                .max_capacity(config.cache.bytes_max)
                .weigher(|key: &String, object: &Arc<Object>| {
                    object
                        .weight()
                        .saturating_add(u32::try_from(key.len()).unwrap_or(0))
                })
                .build(),
            unshared: Cache::builder()
                .max_capacity(UNSHARED_MAX)
                .time_to_live(UNSHARED_TTL)
                .build(),
            flights: Mutex::default(),
            flight_permits: Arc::new(Semaphore::new(config.limits.flights_max)),
            config,
        }))
    }

    /// The stream that `path` belongs to.
    pub(crate) fn stream_of(&self, path: &str) -> Option<&Arc<Stream>> {
        let streams = self.streams.iter();
        let below = streams.filter(|stream| path.starts_with(&stream.prefix));
        below.max_by_key(|stream| stream.prefix.len())
    }

    /// The object in the cache, fresh or not.
    pub(crate) fn cached(&self, target: &Target) -> Option<Arc<Object>> {
        self.cache.get(&target.key)
    }

    /// Has the origin asked for `target` again before it is served again: it may have changed, and so
    /// may what is on its way.
    pub(crate) fn distrust(&self, target: &Target) {
        self.lock_flights().remove(&target.key);
        match self.cached(target) {
            // With a validator, asking costs no body.
            Some(object) if object.origin_etag.is_some() => {
                let object = Arc::new(object.expired());
                self.cache.insert(target.key.clone(), object);
            }
            _ => self.cache.invalidate(&target.key),
        }
    }

    /// Whether `flight` is the one that newcomers wait for.
    pub(crate) fn is_current(&self, target: &Target, flight: &Arc<Flight>) -> bool {
        let flights = self.lock_flights();
        let current = flights.get(&target.key);
        current.is_some_and(|current| Arc::ptr_eq(current, flight))
    }

    /// Takes `flight` off the list. Who comes from here on finds the cache, or starts anew.
    pub(crate) fn on_end(&self, target: &Target, flight: &Arc<Flight>) {
        let mut flights = self.lock_flights();
        let current = flights.get(&target.key);
        if current.is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(&target.key);
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn measure(&self) {
        self.cache.run_pending_tasks();
        self.metrics
            .cache_bytes
            .set(self.cache.weighted_size() as f64);
        self.metrics
            .cache_objects
            .set(self.cache.entry_count() as f64);
        self.metrics.flights.set(self.lock_flights().len() as f64);
    }

    /// Finds the best answer for a viewer: from the cache, from a flight under way, or from the
    /// origin.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
    ) -> Result<Answer, Failure> {
        let is_personal = viewer.contains_key(header::AUTHORIZATION);
        if is_personal || self.unshared.contains_key(&target.key) {
            return self.pass(target, viewer).await;
        }
        for _ in 0..BOARDINGS_MAX {
            let Boarding { flight, unshared } = match self.board(target, viewer, false) {
                Ok(boarding) => boarding,
                Err(object) => {
                    self.metrics.hits.increment(1);
                    return Ok(Answer::Whole(object));
                }
            };
            if unshared.is_none() {
                self.metrics.collapsed.increment(1);
            }
            match flight.progress(self.segment_hold(target)).await {
                Progress::Growing(head) => return Ok(Answer::Growing(flight, head)),
                Progress::Landed(Landing::Whole(object)) => {
                    let stale = object.status.is_server_error().then(|| self.stale(target));
                    return Ok(Answer::Whole(stale.flatten().unwrap_or(object)));
                }
                Progress::Landed(Landing::Failed(failure)) => {
                    return self.stale(target).map(Answer::Whole).ok_or(failure);
                }
                Progress::Landed(Landing::NotShared) => {
                    let Some(mine) = unshared else {
                        // It was somebody else's, or nobody's: a fetch ahead of viewers.
                        continue;
                    };
                    return match mine.await {
                        Ok(answer) if !viewer.contains_key(header::RANGE) => Ok(answer),
                        _ => self.pass(target, viewer).await,
                    };
                }
            }
        }
        self.pass(target, viewer).await
    }

    /// What may be served because the origin failed.
    fn stale(&self, target: &Target) -> Option<Arc<Object>> {
        let object = self
            .cached(target)
            .filter(|object| object.is_usable_stale())?;
        self.metrics.stale.increment(1);
        Some(object)
    }

    /// How long the first answer with a listed segment may wait for its record.
    fn segment_hold(&self, target: &Target) -> Option<Duration> {
        let stream = self.stream_of(&target.path)?;
        let name = Name::of_url(&target.path);
        stream.listing(name).or_else(|| {
            stream
                .is_refresh_due()
                .then(|| self.listing_of(stream, name))
                .flatten()
        })?;
        Some(Duration::from_millis(
            self.config.records.segment_hold_ms_max,
        ))
    }

    /// Fetches a segment ahead of viewers, and waits until it is signed or known to fail.
    pub(crate) async fn prefetch(self: &Arc<Self>, target: &Target) -> bool {
        match self.board(target, &HeaderMap::new(), true) {
            Ok(boarding) => {
                let landing = boarding.flight.landing().await;
                matches!(landing, Landing::Whole(object) if object.status == StatusCode::OK)
            }
            Err(object) => object.status == StatusCode::OK,
        }
    }

    fn lock_flights(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight to `target` that is under way, or a new one; as an error the object, if it is
    /// there and fresh.
    fn board(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
        is_prefetch: bool,
    ) -> Result<Boarding, Arc<Object>> {
        let mut flights = self.lock_flights();
        let prior = self.cached(target);
        if let Some(object) = prior.as_ref().filter(|object| object.is_fresh()) {
            return Err(object.clone());
        }
        if let Some(flight) = flights.get(&target.key) {
            let flight = flight.clone();
            return Ok(Boarding {
                flight,
                unshared: None,
            });
        }
        let flight = Flight::new();
        flights.insert(target.key.clone(), flight.clone());
        drop(flights);
        let (to_first, unshared) = oneshot::channel();
        let pilot = Pilot {
            proxy: self.clone(),
            flight: flight.clone(),
            target: target.clone(),
            prior,
            is_prefetch,
        };
        let headers = headers_for_whole(viewer);
        tokio::spawn(async move { pilot.fly(headers, to_first).await });
        Ok(Boarding {
            flight,
            unshared: Some(unshared),
        })
    }

    /// Asks the origin for this viewer alone.
    async fn pass(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
    ) -> Result<Answer, Failure> {
        self.metrics.passed.increment(1);
        let permit = self.permit()?;
        let headers = headers_for_pass(viewer);
        let mut response = self.ask(target, headers).await?;
        let format = Format::of(&target.path, response.headers());
        if format == Format::Other || response.status() != StatusCode::OK {
            return Ok(Answer::Passed(Passed { response, permit }));
        }
        let head = end_to_end(response.headers());
        let raw = self
            .upstream
            .collect(&mut response, PLAYLIST_LEN_MAX)
            .await?;
        let (object, _) = self
            .release(target, StatusCode::OK, head, raw, format)
            .await;
        Ok(Answer::Whole(Arc::new(object)))
    }

    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = self.flight_permits.clone().try_acquire_owned();
        permit.map_err(|_| Failure::Busy)
    }

    pub(crate) async fn ask(
        &self,
        target: &Target,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, Failure> {
        self.metrics.origin_requests.increment(1);
        let url = self.origin.url(target);
        let answer = self.upstream.ask(Method::GET, url, headers).await;
        answer.inspect_err(|failure| {
            self.metrics.origin_failures.increment(1);
            tracing::warn!(path = target.path, %failure, "origin request failed");
        })
    }

    /// The next bytes of a passed answer.
    pub(crate) async fn next_passed(
        &self,
        response: &mut reqwest::Response,
    ) -> Result<Option<bytes::Bytes>, Failure> {
        let chunk = self.upstream.next(response).await?;
        let len = chunk.as_ref().map_or(0, bytes::Bytes::len);
        self.metrics.origin_bytes.increment(len as u64);
        Ok(chunk)
    }

    /// A playlist as viewers get it, and whether it may be kept.
    pub(crate) async fn release(
        self: &Arc<Self>,
        target: &Target,
        status: StatusCode,
        mut headers: HeaderMap,
        raw: bytes::Bytes,
        format: Format,
    ) -> (Object, bool) {
        let (body, kind) = self.release_playlist(target, &raw, format).await;
        let origin_etag = headers.remove(header::ETAG);
        headers.insert(header::ETAG, etag_of(&body));
        headers.remove(RECORD_HEADER);
        let plan = plan_freshness(status, &headers, kind, &self.config.cache);
        if let (Kind::Live { target_ms }, false) =
            (kind, headers.contains_key(header::CACHE_CONTROL))
        {
            headers.insert(header::CACHE_CONTROL, max_age(target_ms / 2));
        }
        let object = Object {
            status,
            headers,
            body,
            raw: Some(raw),
            origin_etag,
            stored: Instant::now(),
            freshness: plan.unwrap_or(NOT_FRESH),
            record: Default::default(),
        };
        (object, plan.is_some())
    }
}

fn etag_of(body: &[u8]) -> HeaderValue {
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

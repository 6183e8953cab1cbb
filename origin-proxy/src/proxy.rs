//! The cache: who asks the origin, who waits with whom, what is kept.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use moka::sync::Cache;
use swarm_core::{id::Name, record::RECORD_HEADER, timeline::PLAYLIST_LEN_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Config, Error,
    access::{AccessLog, Outcome},
    disk::Disk,
    error::Failure,
    freshness::{Kind, NOT_FRESH, is_for_authorized, is_only_if_cached, plan_freshness},
    key,
    lowlatency::Parts,
    metrics::{Metrics, Scope},
    object::{Flight, Head, Landing, Object, Progress, end_to_end},
    pilot::Pilot,
    playlist::Format,
    rates::Rates,
    records::Stream,
    target::{Site, Target, sites},
    upstream::{Ask, Upstream, headers_for_pass, headers_for_whole},
    vary,
};

/// Everything that requests share.
pub(crate) struct Proxy {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) sites: Vec<Site>,
    pub(crate) streams: Vec<Arc<Stream>>,
    /// What belongs to which stream, the longest prefixes first; the last one has all the rest.
    areas: Vec<Area>,
    pub(crate) prefetch_permits: Semaphore,
    pub(crate) upstream: Upstream,
    pub(crate) cache: Cache<String, Arc<Object>>,
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) disk_permits: Arc<Semaphore>,
    /// Keys whose answers are for one viewer each: not worth waiting for one another.
    pub(crate) unshared: Cache<String, ()>,
    /// By what headers the answers of a key differ.
    varies: Cache<String, vary::Rule>,
    has_varies: AtomicBool,
    vary_salts: AtomicU64,
    pub(crate) parts: Parts,
    pub(crate) rates: Rates,
    pub(crate) access: Option<AccessLog>,
    pub(crate) is_draining: AtomicBool,
    pub(crate) admin_token: Option<String>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    flight_permits: Arc<Semaphore>,
}

/// What lies below one path of one site.
struct Area {
    site: usize,
    prefix: String,
    scope: Arc<Scope>,
    stream: Option<Arc<Stream>>,
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
/// Keys whose answers vary.
const VARIES_MAX: u64 = 100_000;
/// How often a viewer waits for a flight of others before it asks for itself.
const BOARDINGS_MAX: usize = 3;
/// Objects that are written to disk at the same time; others stay in memory alone.
const DISK_WRITES_MAX: usize = 8;
/// Parts are sent once they are whole (LL-HLS: at the full speed of the link). Time-outs of the origin
/// end the wait before this does.
const PART_HOLD: Duration = Duration::from_secs(600);

/// A flight to wait for, and the way by which its first passenger gets what is not shared.
struct Boarding {
    flight: Arc<Flight>,
    unshared: Option<oneshot::Receiver<Answer>>,
}

impl Proxy {
    pub(crate) fn new(config: Config) -> Result<Arc<Self>, Error> {
        config.check()?;
        let metrics = Metrics::new()?;
        let areas = areas(&config, &metrics)?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let salt = u64::try_from(started.unwrap_or_default().as_millis()).unwrap_or(0);
        Ok(Arc::new(Self {
            streams: areas
                .iter()
                .filter_map(|area| area.stream.clone())
                .collect(),
            areas,
            sites: sites(&config)?,
            upstream: Upstream::new(&config)?,
            prefetch_permits: Semaphore::new(config.records.prefetch_concurrency),
            cache: Cache::builder()
                .max_capacity(config.cache.bytes_max)
                .weigher(|key: &String, object: &Arc<Object>| {
                    let key_len = u32::try_from(key.len()).unwrap_or(0);
                    object.weight().saturating_add(key_len)
                })
                .build(),
            disk: Disk::open(&config.disk)?.map(Arc::new),
            disk_permits: Arc::new(Semaphore::new(DISK_WRITES_MAX)),
            unshared: Cache::builder()
                .max_capacity(UNSHARED_MAX)
                .time_to_live(UNSHARED_TTL)
                .build(),
            varies: Cache::new(VARIES_MAX),
            has_varies: AtomicBool::new(false),
            // Keys on disk are older than this process.
            vary_salts: AtomicU64::new(salt),
            parts: Parts::default(),
            rates: Rates::new(&config.limits),
            access: AccessLog::open(&config.log, metrics.log_lost.clone())?,
            is_draining: AtomicBool::new(false),
            admin_token: key::admin_token(&config.admin)?,
            flights: Mutex::default(),
            flight_permits: Arc::new(Semaphore::new(config.limits.flights_max)),
            metrics,
            config,
        }))
    }

    pub(crate) fn site_of(&self, target: &Target) -> &Site {
        self.sites.get(target.site).unwrap_or(&self.sites[0])
    }

    /// The stream that `target` belongs to.
    pub(crate) fn stream_of(&self, target: &Target) -> Option<&Arc<Stream>> {
        self.area_of(target).stream.as_ref()
    }

    /// The figures that `target` counts for.
    pub(crate) fn scope_of(&self, target: &Target) -> &Arc<Scope> {
        &self.area_of(target).scope
    }

    /// The figures of what belongs to no stream.
    pub(crate) fn scope_of_rest(&self) -> &Arc<Scope> {
        &self.areas[self.areas.len() - 1].scope
    }

    fn area_of(&self, target: &Target) -> &Area {
        let mut areas = self.areas.iter();
        let is_it =
            |area: &&Area| area.site == target.site && target.path.starts_with(&area.prefix);
        areas
            .find(is_it)
            .unwrap_or(&self.areas[self.areas.len() - 1])
    }

    /// The object in the cache, fresh or not.
    pub(crate) fn cached(&self, target: &Target) -> Option<Arc<Object>> {
        self.cache.get(&target.key)
    }

    /// `target` as a viewer with these headers gets it.
    pub(crate) fn variant<'a>(&self, target: &'a Target, viewer: &HeaderMap) -> Cow<'a, Target> {
        if !self.has_varies.load(Ordering::Relaxed) {
            return Cow::Borrowed(target);
        }
        let Some(rule) = self.varies.get(&target.key) else {
            return Cow::Borrowed(target);
        };
        Cow::Owned(Target {
            key: rule.key(&target.key, viewer),
            ..target.clone()
        })
    }

    /// Notes that answers of `base`, the key without variants, differ by the headers `names`.
    pub(crate) fn on_vary(&self, base: &str, names: Vec<HeaderName>) -> vary::Rule {
        if let Some(rule) = self.varies.get(base).filter(|rule| rule.has(&names)) {
            return rule;
        }
        let salt = self.vary_salts.fetch_add(1, Ordering::Relaxed);
        let rule = vary::Rule::new(names, salt);
        self.varies.insert(base.into(), rule.clone());
        self.has_varies.store(true, Ordering::Relaxed);
        rule
    }

    /// Has the origin asked for `target` again before it is served again: it may have changed, and so
    /// may what is on its way.
    pub(crate) fn distrust(&self, target: &Target) {
        self.lock_flights().remove(&target.key);
        self.varies.invalidate(&target.key);
        self.forget_on_disk(|key| key == target.key);
        match self.cached(target) {
            // With a validator, asking costs no body.
            Some(object) if object.origin_etag.is_some() => {
                let object = Arc::new(object.expired());
                self.cache.insert(target.key.clone(), object);
            }
            _ => self.cache.invalidate(&target.key),
        }
    }

    /// Forgets one object in all its variants, and what is on its way.
    pub(crate) fn purge(&self, target: &Target) -> usize {
        let variants = format!("{}\u{0}", target.key);
        let is_it = |key: &str| key == target.key || key.starts_with(&variants);
        // Without the rule no request leads to a variant in memory any more.
        let had_variants = self.varies.remove(&target.key).is_some();
        let had = self.cache.remove(&target.key).is_some() || had_variants;
        self.lock_flights().retain(|key, _| !is_it(key));
        let on_disk = self.forget_on_disk(is_it);
        usize::from(had).max(on_disk)
    }

    /// Forgets all objects whose keys begin with `prefix`, and what of them is on its way.
    pub(crate) fn purge_below(&self, prefix: &str) -> usize {
        let keys = self.cache.iter().map(|(key, _)| key);
        let keys: Vec<Arc<String>> = keys.filter(|key| key.starts_with(prefix)).collect();
        for key in &keys {
            self.cache.invalidate(key.as_str());
        }
        let rules = self.varies.iter().map(|(key, _)| key);
        let rules: Vec<Arc<String>> = rules.filter(|key| key.starts_with(prefix)).collect();
        for key in &rules {
            self.varies.invalidate(key.as_str());
        }
        self.lock_flights()
            .retain(|key, _| !key.starts_with(prefix));
        keys.len()
            .max(self.forget_on_disk(|key| key.starts_with(prefix)))
    }

    fn forget_on_disk(&self, is_it: impl Fn(&str) -> bool) -> usize {
        self.disk.as_ref().map_or(0, |disk| disk.remove(is_it))
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

    /// Requests to the origin that viewers may join.
    pub(crate) fn flights(&self) -> usize {
        self.lock_flights().len()
    }

    /// Finds the best answer for a viewer: from the cache, from a flight under way, or from the
    /// origin.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
        method: &Method,
    ) -> Result<(Answer, Outcome), Failure> {
        if let Some(found) = self.at_hand(target, viewer) {
            return Ok(found);
        }
        if is_only_if_cached(viewer) {
            return Err(Failure::NotCached);
        }
        let is_authorized = viewer.contains_key(header::AUTHORIZATION);
        for _ in 0..BOARDINGS_MAX {
            if self.unshared.contains_key(&target.key) {
                break;
            }
            let variant = self.variant(target, viewer);
            let Boarding { flight, unshared } = match self.board(target, &variant, viewer, false) {
                Ok(boarding) => boarding,
                Err(object) if is_authorized && !is_for_authorized(&object.headers) => break,
                Err(object) => {
                    self.metrics.hits.increment(1);
                    return Ok((Answer::Whole(object), Outcome::Hit));
                }
            };
            let is_first = unshared.is_some();
            if !is_first {
                self.metrics.collapsed.increment(1);
            }
            let progress = flight.progress(self.hold(target)).await;
            let is_mine = flight.is_for(&self.variant(target, viewer).key);
            if !is_mine && !matches!(progress, Progress::Landed(Landing::Failed(_))) {
                continue;
            }
            let outcome = if is_first {
                Outcome::Miss
            } else {
                Outcome::Collapsed
            };
            let found = match progress {
                Progress::Growing(head) => {
                    if is_authorized && !is_first && !is_for_authorized(&head.headers) {
                        break;
                    }
                    Answer::Growing(flight, head)
                }
                Progress::Landed(Landing::Whole(object)) => {
                    if is_authorized && !is_first && !is_for_authorized(&object.headers) {
                        break;
                    }
                    let is_failure = object.status.is_server_error();
                    match self.stale(&variant).filter(|_| is_failure) {
                        Some(stale) => return Ok((Answer::Whole(stale), Outcome::Stale)),
                        None => Answer::Whole(object),
                    }
                }
                Progress::Landed(Landing::Failed(failure)) => {
                    let stale = self.stale(&variant).ok_or(failure)?;
                    return Ok((Answer::Whole(stale), Outcome::Stale));
                }
                Progress::Landed(Landing::NotShared) => {
                    let Some(mine) = unshared else {
                        // It was somebody else's, or nobody's: a fetch ahead of viewers.
                        continue;
                    };
                    match mine.await {
                        Ok(answer) if !viewer.contains_key(header::RANGE) => answer,
                        _ => break,
                    }
                }
            };
            return Ok((found, outcome));
        }
        let passed = self.pass(target, viewer, method).await?;
        Ok((passed, Outcome::Passed))
    }

    /// What can be said without waiting for anybody.
    fn at_hand(self: &Arc<Self>, target: &Target, viewer: &HeaderMap) -> Option<(Answer, Outcome)> {
        let variant = self.variant(target, viewer);
        let object = self.cached(&variant)?;
        if viewer.contains_key(header::AUTHORIZATION) && !is_for_authorized(&object.headers) {
            return None;
        }
        if object.is_fresh() {
            self.metrics.hits.increment(1);
            return Some((Answer::Whole(object), Outcome::Hit));
        }
        if object.is_usable_meanwhile() {
            // The flight goes on by itself.
            let _ = self.board(target, &variant, viewer, false);
            self.metrics.stale.increment(1);
            return Some((Answer::Whole(object), Outcome::Stale));
        }
        None
    }

    /// What may be served because the origin failed.
    fn stale(&self, target: &Target) -> Option<Arc<Object>> {
        let object = self
            .cached(target)
            .filter(|object| object.is_usable_stale())?;
        self.metrics.stale.increment(1);
        Some(object)
    }

    /// How long the first answer with a part or a listed segment may be held back.
    fn hold(&self, target: &Target) -> Option<Duration> {
        if self.parts.has(&target.key) {
            return Some(PART_HOLD);
        }
        let stream = self.stream_of(target)?;
        let name = Name::of_url(&target.path);
        stream.listing(name).or_else(|| {
            stream
                .is_refresh_due()
                .then(|| self.listing_of(stream, target.site, name))
                .flatten()
        })?;
        Some(Duration::from_millis(
            self.config.records.segment_hold_ms_max,
        ))
    }

    /// Fetches a segment ahead of viewers, and waits until it is signed or known to fail.
    pub(crate) async fn prefetch(self: &Arc<Self>, target: &Target) -> bool {
        match self.board(target, target, &HeaderMap::new(), true) {
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

    /// The flight to `variant` of `base` that is under way, or a new one; as an error the object, if
    /// it is there and fresh.
    fn board(
        self: &Arc<Self>,
        base: &Target,
        variant: &Target,
        viewer: &HeaderMap,
        is_prefetch: bool,
    ) -> Result<Boarding, Arc<Object>> {
        let mut flights = self.lock_flights();
        let prior = self.cached(variant);
        if let Some(object) = prior.as_ref().filter(|object| object.is_fresh()) {
            return Err(object.clone());
        }
        if let Some(flight) = flights.get(&variant.key) {
            let flight = flight.clone();
            return Ok(Boarding {
                flight,
                unshared: None,
            });
        }
        let flight = Flight::new(&variant.key);
        flights.insert(variant.key.clone(), flight.clone());
        drop(flights);
        let (to_first, unshared) = oneshot::channel();
        let pilot = Pilot {
            proxy: self.clone(),
            flight: flight.clone(),
            target: variant.clone(),
            base_key: base.key.clone(),
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
        method: &Method,
    ) -> Result<Answer, Failure> {
        self.metrics.passed.increment(1);
        let permit = self.permit()?;
        let headers = headers_for_pass(viewer);
        let mut response = self
            .ask(target, method.clone(), headers, Bytes::new())
            .await?;
        let format = Format::of(&target.path, response.headers());
        let is_ours = format != Format::Other && response.status() == StatusCode::OK;
        if !is_ours || method == Method::HEAD {
            return Ok(Answer::Passed(Passed { response, permit }));
        }
        let head = end_to_end(response.headers());
        let arrived = Instant::now();
        let raw = self
            .upstream
            .collect(&mut response, PLAYLIST_LEN_MAX)
            .await?;
        let (object, _) = self
            .release(target, StatusCode::OK, head, raw, format, arrived)
            .await;
        Ok(Answer::Whole(Arc::new(object)))
    }

    /// Has the origin do what changes things, and forgets what it changes (RFC 9111 section 4.4).
    pub(crate) async fn change(
        &self,
        target: &Target,
        method: Method,
        viewer: &HeaderMap,
        body: Bytes,
    ) -> Result<Passed, Failure> {
        self.metrics.passed.increment(1);
        let permit = self.permit()?;
        let headers = headers_for_pass(viewer);
        let response = self.ask(target, method, headers, body).await?;
        if response.status().is_success() || response.status().is_redirection() {
            self.purge(target);
            let site = self.site_of(target);
            let base = url::Url::parse(&Site::viewer_url(target)).ok();
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let text = response
                    .headers()
                    .get(name)
                    .and_then(|text| text.to_str().ok());
                let url = text.and_then(|text| base.as_ref()?.join(text).ok());
                // Other hosts' objects are not theirs to change.
                if let Some(other) = url.and_then(|url| site.local(url.as_str())) {
                    self.purge(&other);
                }
            }
        }
        Ok(Passed { response, permit })
    }

    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = self.flight_permits.clone().try_acquire_owned();
        permit.map_err(|_| Failure::Busy)
    }

    pub(crate) async fn ask(
        &self,
        target: &Target,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, Failure> {
        let ask = Ask {
            method,
            target,
            headers,
            body,
            is_blocking: target.is_blocking() || self.parts.has(&target.key),
        };
        let answer = self.upstream.ask(self.site_of(target), ask, &self.metrics);
        answer.await.inspect_err(|failure| {
            tracing::warn!(path = target.path, %failure, "origin request failed");
        })
    }

    pub(crate) fn on_origin_bytes(&self, target: &Target, len: usize) {
        self.metrics.origin_bytes.increment(len as u64);
        self.scope_of(target).origin_bytes.increment(len as u64);
    }

    /// A playlist as viewers get it, and whether it may be kept.
    pub(crate) async fn release(
        self: &Arc<Self>,
        target: &Target,
        status: StatusCode,
        mut headers: HeaderMap,
        raw: Bytes,
        format: Format,
        arrived: Instant,
    ) -> (Object, bool) {
        let (body, kind) = self.release_playlist(target, &raw, format).await;
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
            record: Default::default(),
        };
        (object, plan.is_some())
    }
}

fn areas(config: &Config, metrics: &Metrics) -> Result<Vec<Area>, Error> {
    let key = key::load(config)?;
    let records_max = config.records.records_max;
    let elsewhere = config.hosts.iter().enumerate();
    let elsewhere = elsewhere.flat_map(|(index, host)| {
        let streams = host.streams.iter();
        streams.map(move |stream| (index + 1, stream))
    });
    let here = config.streams.iter().map(|stream| (0, stream));
    let new = |(site, stream): (usize, &crate::StreamConfig)| {
        let signed = |key| Stream::new(&stream.name, &stream.prefix, key, records_max);
        Area {
            site,
            prefix: stream.prefix.clone(),
            scope: Arc::new(metrics.scope(&stream.name)),
            stream: key.clone().map(signed).map(Arc::new),
        }
    };
    let mut areas: Vec<Area> = here.chain(elsewhere).map(new).collect();
    areas.sort_by_key(|area| std::cmp::Reverse(area.prefix.len()));
    areas.push(Area {
        site: 0,
        prefix: String::new(),
        scope: Arc::new(metrics.scope("")),
        stream: None,
    });
    Ok(areas)
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

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

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use moka::sync::Cache;
use swarm_core::{id::Name, timeline::PLAYLIST_LEN_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Config, Error,
    access::{AccessLog, Outcome},
    acme::Challenges,
    areas::{Area, areas},
    client::Response,
    delicate::Delicate,
    disk::Disk,
    entrance::Entrance,
    error::Failure,
    freshness::{is_for_authorized, is_only_if_cached, is_trouble},
    key,
    keyring::{self, Keys},
    lowlatency::Parts,
    metrics::{Metrics, Scope},
    object::{Flight, Head, Hold, Landing, Object, Progress, end_to_end},
    pilot::Pilot,
    playlist::Format,
    playlist_figures::PlaylistFigures,
    rates::Rates,
    recent,
    records::Stream,
    rules::Rules,
    target::{Site, Target, measured, sites},
    terminate::Lives,
    upstream::{Upstream, headers_for_pass, is_beyond_reading},
    vary,
};

/// Everything that requests share.
pub(crate) struct Proxy {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sites: Vec<Site>,
    pub(crate) streams: Vec<Arc<Stream>>,
    /// None if nothing is signed.
    pub(crate) keys: Option<Keys>,
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
    pub(crate) varies: Cache<String, vary::Rule>,
    has_varies: AtomicBool,
    vary_salts: AtomicU64,
    pub(crate) parts: Parts,
    pub(crate) delicate: Delicate,
    pub(crate) playlist_figures: PlaylistFigures,
    pub(crate) rules: Rules,
    pub(crate) lives: Lives,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) entrance: Entrance,
    pub(crate) rates: Rates,
    pub(crate) access: Option<AccessLog>,
    /// It has been told to stop, and is to get no more viewers.
    pub(crate) is_leaving: AtomicBool,
    /// Those that it has are to go as well.
    pub(crate) is_draining: AtomicBool,
    pub(crate) admin_token: Option<String>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    flight_permits: Arc<Semaphore>,
    /// For answers to one viewer each.
    passing_places: Arc<Semaphore>,
}

/// What there is to say to a viewer.
pub(crate) enum Answer {
    /// A whole object.
    Whole(Arc<Object>),
    /// An object that is still coming.
    Growing(Arc<Flight>, Arc<Head>),
    /// The origin's answer to this viewer alone.
    Passed(Box<Passed>),
}

/// An answer for one viewer, and its place among the requests to the origin.
pub(crate) struct Passed {
    pub(crate) response: Response,
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

/// Why the origin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// For a viewer.
    Viewer,
    /// For a segment, ahead of viewers.
    Prefetch,
    /// For what is newer than the cache has, however fresh that is.
    Poll,
}

/// A flight to wait for, and the way by which its first passenger gets what is not shared.
struct Boarding {
    flight: Arc<Flight>,
    unshared: Option<oneshot::Receiver<Answer>>,
}

/// Who waits for a flight, and how.
struct Seat<'a> {
    variant: &'a Target,
    viewer: &'a HeaderMap,
    flight: Arc<Flight>,
    unshared: Option<oneshot::Receiver<Answer>>,
}

/// Where a flight has brought a viewer.
enum Landed {
    With(Answer, Outcome),
    /// The answer was another viewer's: try again.
    Elsewhere,
    /// The origin must be asked for this viewer alone.
    Nowhere,
}

impl Proxy {
    pub(crate) fn new(config: Config) -> Result<Arc<Self>, Error> {
        config.check()?;
        let metrics = Arc::new(Metrics::new()?);
        let keys = keyring::load(&config)?.map(|keyring| Arc::new(ArcSwap::from_pointee(keyring)));
        let areas = areas(&config, &metrics, keys.as_ref());
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let salt = u64::try_from(started.unwrap_or_default().as_millis()).unwrap_or(0);
        Ok(Arc::new(Self {
            streams: areas
                .iter()
                .filter_map(|area| area.stream.clone())
                .collect(),
            areas,
            keys,
            sites: measured(sites(&config)?, &metrics),
            upstream: Upstream::new(&config)?,
            prefetch_permits: Semaphore::new(config.records.prefetch_concurrency),
            cache: recent::builder(config.cache.bytes_max)
                .weigher(|key: &String, object: &Arc<Object>| {
                    let key_len = u32::try_from(key.len()).unwrap_or(0);
                    object.weight().saturating_add(key_len)
                })
                .build(),
            disk: Disk::open(&config.disk)?.map(Arc::new),
            disk_permits: Arc::new(Semaphore::new(DISK_WRITES_MAX)),
            unshared: recent::builder(UNSHARED_MAX)
                .time_to_live(UNSHARED_TTL)
                .build(),
            varies: recent::cache(VARIES_MAX),
            has_varies: AtomicBool::new(false),
            // Keys on disk are older than this process.
            vary_salts: AtomicU64::new(salt),
            parts: Parts::default(),
            delicate: Delicate::default(),
            playlist_figures: PlaylistFigures::default(),
            rules: Rules::read(&config.rules)?,
            lives: Lives::new(&config.low_latency),
            challenges: Arc::default(),
            entrance: Entrance::new(&config),
            rates: Rates::new(&config.limits),
            access: AccessLog::open(&config.log, metrics.log_lost.clone())?,
            is_leaving: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            admin_token: key::admin_token(&config.admin)?,
            flights: Mutex::default(),
            flight_permits: Arc::new(Semaphore::new(config.limits.flights_max)),
            passing_places: Arc::new(Semaphore::new(config.limits.passing_max)),
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
            key: rule.key(&target.key, &self.upstream.headers_for_whole(viewer)),
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

    /// Whether `flight` is the one that newcomers wait for.
    pub(crate) fn is_current(&self, target: &Target, flight: &Arc<Flight>) -> bool {
        let flights = self.lock_flights();
        let current = flights.get(&target.key);
        current.is_some_and(|current| Arc::ptr_eq(current, flight))
    }

    /// Does `keep` if `flight` is the one that newcomers wait for. A purge takes flights off the list before
    /// it looks for what they have brought: what is kept here, it finds.
    pub(crate) fn if_current<T>(
        &self,
        target: &Target,
        flight: &Arc<Flight>,
        keep: impl FnOnce() -> T,
    ) -> Option<T> {
        let flights = self.lock_flights();
        let current = flights.get(&target.key)?;
        Arc::ptr_eq(current, flight).then(keep)
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
        if let Some(held) = self.lives.find(target, self.site_of(target))
            && let Some(found) = Box::pin(self.hold_back(held, target, viewer)).await?
        {
            return Ok(found);
        }
        let found = match self.at_hand(target, viewer) {
            Some(found) => found,
            None if is_only_if_cached(viewer) => return Err(Failure::NotCached),
            // Every connection has room for what answers it: little, as long as the cache has all.
            None => Box::pin(self.seek(target, viewer, method)).await?,
        };
        // It may have told that the origin holds nothing back.
        if target.has_directives()
            && let Some(held) = self.lives.find(target, self.site_of(target))
            && let Some(found) = Box::pin(self.hold_back(held, target, viewer)).await?
        {
            return Ok(found);
        }
        Ok(found)
    }

    /// Finds an answer that the cache does not have.
    async fn seek(
        self: &Arc<Self>,
        target: &Target,
        viewer: &HeaderMap,
        method: &Method,
    ) -> Result<(Answer, Outcome), Failure> {
        let is_authorized = viewer.contains_key(header::AUTHORIZATION);
        for _ in 0..BOARDINGS_MAX {
            if self.unshared.contains_key(&target.key) {
                break;
            }
            let variant = self.variant(target, viewer);
            let Boarding { flight, unshared } =
                match self.board(target, &variant, viewer, Errand::Viewer) {
                    Ok(boarding) => boarding,
                    Err(object) if is_authorized && !is_for_authorized(&object.headers) => break,
                    Err(object) => {
                        self.metrics.hits.increment(1);
                        return Ok((Answer::Whole(object), Outcome::Hit));
                    }
                };
            if unshared.is_none() {
                self.metrics.collapsed.increment(1);
            }
            let hold = self.hold(target);
            let progress = flight.progress(hold).await;
            let is_mine = flight.is_for(&self.variant(target, viewer).key);
            if !is_mine && !matches!(progress, Progress::Landed(Landing::Failed(_))) {
                continue;
            }
            let seat = Seat {
                variant: &variant,
                viewer,
                flight,
                unshared,
            };
            match self.land(seat, progress).await? {
                Landed::With(answer, outcome) => return Ok((answer, outcome)),
                Landed::Elsewhere => continue,
                Landed::Nowhere => break,
            }
        }
        let passed = self.pass(target, viewer, method).await?;
        Ok((passed, Outcome::Passed))
    }

    /// What a viewer gets from the flight that it has waited for.
    async fn land(&self, seat: Seat<'_>, progress: Progress) -> Result<Landed, Failure> {
        let is_authorized = seat.viewer.contains_key(header::AUTHORIZATION);
        let is_first = seat.unshared.is_some();
        let is_barred =
            |headers: &HeaderMap| is_authorized && !is_first && !is_for_authorized(headers);
        let outcome = match is_first {
            true => Outcome::Miss,
            false => Outcome::Collapsed,
        };
        Ok(match progress {
            Progress::Growing(head) if is_barred(&head.headers) => Landed::Nowhere,
            Progress::Growing(head) => Landed::With(Answer::Growing(seat.flight, head), outcome),
            // It is the same for all, and nobody fares better alone.
            Progress::Landed(Landing::Whole(object)) if is_trouble(object.status) => {
                match self.stale(seat.variant) {
                    Some(stale) => Landed::With(Answer::Whole(stale), Outcome::Stale),
                    None => Landed::With(Answer::Whole(object), outcome),
                }
            }
            Progress::Landed(Landing::Whole(object)) if is_barred(&object.headers) => {
                Landed::Nowhere
            }
            Progress::Landed(Landing::Whole(object)) => {
                Landed::With(Answer::Whole(object), outcome)
            }
            Progress::Landed(Landing::Failed(failure)) => {
                let stale = self.stale(seat.variant).ok_or(failure)?;
                Landed::With(Answer::Whole(stale), Outcome::Stale)
            }
            Progress::Landed(Landing::NotShared) => match seat.unshared {
                // It was somebody else's, or nobody's: a fetch ahead of viewers.
                None => Landed::Elsewhere,
                Some(mine) => match mine.await {
                    Ok(answer) if !seat.viewer.contains_key(header::RANGE) => {
                        Landed::With(answer, outcome)
                    }
                    _ => Landed::Nowhere,
                },
            },
        })
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
            let _ = self.board(target, &variant, viewer, Errand::Viewer);
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
    fn hold(&self, target: &Target) -> Option<Hold> {
        if self.parts.has(&target.key) {
            return Some(Hold {
                most: PART_HOLD,
                is_for_growing: true,
            });
        }
        let stream = self.stream_of(target)?;
        let name = Name::of_url(&target.path);
        if stream.ranges(name).is_empty() {
            stream.listing(name).or_else(|| {
                stream
                    .is_refresh_due()
                    .then(|| self.listing_of(stream, target.site, name))
                    .flatten()
            })?;
        }
        Some(Hold {
            most: Duration::from_millis(self.config.records.segment_hold_ms_max),
            is_for_growing: !stream.has_growing_segments(),
        })
    }

    /// Fetches an object for no viewer in particular, and waits until it is here (and signed, if it is a
    /// segment) or known to fail. Returns whether it is there.
    pub(crate) async fn run(
        self: &Arc<Self>,
        errand: Errand,
        target: &Target,
        viewer: &HeaderMap,
    ) -> bool {
        match self.board(target, target, viewer, errand) {
            Ok(boarding) => {
                let landing = boarding.flight.landing().await;
                matches!(landing, Landing::Whole(object) if object.status == StatusCode::OK)
            }
            Err(object) => object.status == StatusCode::OK,
        }
    }

    pub(crate) fn lock_flights(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight to `variant` of `base` that is under way, or a new one; as an error the object, if
    /// it is there and fresh.
    fn board(
        self: &Arc<Self>,
        base: &Target,
        variant: &Target,
        viewer: &HeaderMap,
        errand: Errand,
    ) -> Result<Boarding, Arc<Object>> {
        let mut flights = self.lock_flights();
        let prior = self.cached(variant);
        let fresh = prior.as_ref().filter(|object| object.is_fresh());
        if let Some(object) = fresh.filter(|_| errand != Errand::Poll) {
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
            errand,
            viewer: self.upstream.headers_for_whole(viewer),
        };
        tokio::spawn(async move { pilot.fly(to_first).await });
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
        if let Some(elsewhere) = self.moved(target, &response) {
            return Ok(Answer::Whole(Arc::new(elsewhere)));
        }
        let format = Format::of(&target.path, response.headers());
        let is_ours = format != Format::Other && response.status() == StatusCode::OK;
        if !is_ours || method == Method::HEAD || is_beyond_reading(&response) {
            return Ok(Answer::Passed(Box::new(Passed { response, permit })));
        }
        let head = end_to_end(response.headers());
        let arrived = Instant::now();
        let len_max = self.playlist_len_max();
        let raw = self.upstream.collect(&mut response, len_max).await?;
        let (object, _) = self
            .release(target, false, head, raw, format, arrived)
            .await;
        Ok(Answer::Whole(Arc::new(object)))
    }

    /// Longest playlist that is taken in, in bytes. What cannot be read because of its length is kept as
    /// other objects are.
    pub(crate) fn playlist_len_max(&self) -> usize {
        let object_len_max = usize::try_from(self.config.cache.object_bytes_max);
        PLAYLIST_LEN_MAX.max(object_len_max.unwrap_or(usize::MAX))
    }

    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = self.flight_permits.clone().try_acquire_owned();
        permit.map_err(|_| Failure::Busy)
    }

    /// A place among the answers for one viewer each.
    pub(crate) fn passing_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let place = self.passing_places.clone().try_acquire_owned();
        place.map_err(|_| Failure::Busy)
    }
}

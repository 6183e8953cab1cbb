//! Low-latency HLS before an origin that lists parts and cannot hold requests back (mode B).
//!
//! The proxy does it in the origin's place: it says so in the playlist, asks the origin for the playlist as
//! long as viewers wait, and answers them when it has what they wait for. Blocking reloads, delta updates and
//! hinted parts work as draft-pantos-hls-rfc8216bis section 6.2.5 has it. Requests without directives, and
//! those for parts that are there, are none of this module's business.

pub(crate) mod control;
pub(crate) mod delta;
pub(crate) mod reload;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use swarm_core::timeline::PLAYLIST_LEN_MAX;
use tokio::sync::{Notify, watch};
use url::Url;

use self::reload::{Directives, Edge, Plan};
use crate::{
    access::Outcome,
    config::LowLatencyConfig,
    error::Failure,
    freshness::is_for_authorized,
    object::Object,
    playlist::Format,
    proxy::{Answer, Errand, Proxy},
    release::etag_of,
    target::{Site, Target},
};

/// The playlists whose low latency the proxy sees to.
pub(crate) struct Lives {
    config: LowLatencyConfig,
    table: RwLock<Table>,
    /// Whether there are any: without them no request pays for looking.
    is_any: AtomicBool,
}

/// By keys without directives.
#[derive(Default)]
struct Table {
    playlists: HashMap<String, Arc<Live>>,
    /// Parts that are announced, and the playlists that announce them.
    hints: HashMap<String, Arc<Live>>,
}

/// One playlist.
struct Live {
    key: String,
    versions: watch::Sender<Arc<Version>>,
    /// When the origin last told that the newest version is the newest.
    confirmed: watch::Sender<Instant>,
    askers: Mutex<Askers>,
    /// Somebody waits.
    is_wanted: Notify,
    /// What viewers wait for, and how many of them.
    wishes: Mutex<BTreeMap<Directives, usize>>,
}

/// What one viewer waits for. It is no more when this is dropped.
struct Wish<'l> {
    live: &'l Live,
    directives: Directives,
}

/// What a viewer asked for, without directives, and its headers.
type Asker = Arc<(Target, HeaderMap)>;

/// In whose name the origin is asked.
struct Askers {
    /// Tokens expire, so the newest is the best.
    last: Asker,
    /// The newest one may be wrong: this one had an answer.
    good: Asker,
}

/// The playlist at one moment.
struct Version {
    object: Arc<Object>,
    edge: Edge,
    /// Key of the part that it announces.
    hint: Option<String>,
    delta: OnceLock<Option<Arc<Object>>>,
}

/// What a request has to wait for.
pub(crate) struct Held {
    live: Arc<Live>,
    /// Made while the table is locked: what has watchers is not given up.
    versions: watch::Receiver<Arc<Version>>,
    is_hint: bool,
}

/// Requests are held for so many target durations at most (section 6.2.5.2).
const HOLD_TARGETS: u32 = 3;
/// A playlist that nobody waits for is given up after so many target durations.
const IDLE_TARGETS: u32 = 6;
/// After a change nothing is to be expected for this share of a part: a half.
const REST_SHARE: u64 = 2;
/// Then the origin is asked so many times a part.
const POLLS_PER_PART: u64 = 8;

impl Lives {
    pub(crate) fn new(config: &LowLatencyConfig) -> Self {
        Self {
            config: config.clone(),
            table: RwLock::default(),
            is_any: AtomicBool::new(false),
        }
    }

    /// The playlist `text` with what the proxy does in its origin's place, if it is to do so.
    pub(crate) fn announce(&self, text: &str, target: &Target, site: &Site) -> Option<String> {
        let is_ours = self.config.terminate && control::is_needed(text);
        (is_ours && self.has_room(&site.without_directives(target).key))
            .then(|| control::announce(text))
    }

    fn has_room(&self, key: &str) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.playlists.len() < self.config.playlists_max || table.playlists.contains_key(key)
    }

    /// What `target` has to wait for, if it may have to.
    pub(crate) fn find(&self, target: &Target, site: &Site) -> Option<Held> {
        if !self.is_any.load(Ordering::Relaxed) {
            return None;
        }
        let is_hint = !target.has_directives();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let live = match is_hint {
            true => table.hints.get(&target.key),
            false => table.playlists.get(&site.without_directives(target).key),
        };
        live.map(|live| Held {
            live: live.clone(),
            versions: live.versions.subscribe(),
            is_hint,
        })
    }

    /// Whether anybody is about to get the playlist `text` because it has what they have asked for, by the key of it
    /// without directives.
    pub(crate) fn is_awaited(&self, key: &str, text: &str) -> bool {
        if !self.is_any.load(Ordering::Relaxed) {
            return false;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let live = table.playlists.get(key).cloned();
        drop(table);
        live.is_some_and(|live| live.is_awaited(&Edge::read(text)))
    }

    /// Publishes `version` of the playlist `target`. Returns the playlist, if it is new.
    fn on_version(&self, target: &Target, version: Arc<Version>) -> Option<Arc<Live>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.playlists.get(&target.key).cloned();
        if known.is_none() && table.playlists.len() >= self.config.playlists_max {
            return None;
        }
        let before = known.as_ref().map(|live| live.versions.borrow().clone());
        let live = match &known {
            Some(live) => live.clone(),
            None => Arc::new(Live::new(target, version.clone())),
        };
        if let Some(hint) = before.as_ref().and_then(|before| before.hint.as_ref()) {
            table.hints.remove(hint);
        }
        if let Some(hint) = version.hint.clone() {
            table.hints.insert(hint, live.clone());
        }
        if before.is_some_and(|before| before.object.body != version.object.body) {
            live.versions.send_replace(version);
        }
        live.confirmed.send_replace(Instant::now());
        if known.is_some() {
            return None;
        }
        table.playlists.insert(target.key.clone(), live.clone());
        self.is_any.store(true, Ordering::Relaxed);
        Some(live)
    }

    /// Tells those who wait for `key`, if anybody does, that the origin sees to it from here on.
    fn on_over(&self, key: &str, version: Arc<Version>) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let known = table.playlists.get(key).cloned();
        drop(table);
        if let Some(live) = known {
            live.versions.send_replace(version);
            live.confirmed.send_replace(Instant::now());
            self.forget(&live, |_| true);
        }
    }

    /// Has the origin confirm the playlists whose keys `is_it` picks before they are given out again.
    pub(crate) fn on_purge(&self, is_it: impl Fn(&str) -> bool) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for live in table.playlists.values().filter(|live| is_it(&live.key)) {
            let now = Instant::now();
            let too_long_ago = now.checked_sub(live.target_duration() * HOLD_TARGETS);
            live.confirmed.send_replace(too_long_ago.unwrap_or(now));
        }
    }

    /// Gives `live` up, if `may` lets it. Returns whether it is gone.
    fn forget(&self, live: &Arc<Live>, may: impl Fn(&Live) -> bool) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &Arc<Live>| Arc::ptr_eq(other, live);
        if may(live) {
            table.playlists.retain(|_, other| !is_it(other));
            table.hints.retain(|_, other| !is_it(other));
        }
        let is_any = !table.playlists.is_empty();
        self.is_any.store(is_any, Ordering::Relaxed);
        !table.playlists.get(&live.key).is_some_and(is_it)
    }
}

impl Live {
    fn new(target: &Target, version: Arc<Version>) -> Self {
        let asker = Arc::new((target.clone(), HeaderMap::new()));
        Self {
            key: target.key.clone(),
            versions: watch::Sender::new(version),
            confirmed: watch::Sender::new(Instant::now()),
            askers: Mutex::new(Askers {
                last: asker.clone(),
                good: asker,
            }),
            is_wanted: Notify::new(),
            wishes: Mutex::default(),
        }
    }

    fn edge(&self) -> Edge {
        self.versions.borrow().edge.clone()
    }

    fn target_duration(&self) -> Duration {
        Duration::from_millis(self.versions.borrow().edge.target_ms)
    }

    fn on_asked(&self, target: Target, headers: HeaderMap) {
        self.askers().last = Arc::new((target, headers));
        self.is_wanted.notify_one();
    }

    fn wish(&self, directives: Directives) -> Wish<'_> {
        *self.wishes().entry(directives).or_default() += 1;
        Wish {
            live: self,
            directives,
        }
    }

    fn is_awaited(&self, edge: &Edge) -> bool {
        let wishes = self.wishes();
        wishes.keys().any(|wish| wish.is_met_by(edge))
    }

    fn wishes(&self) -> MutexGuard<'_, BTreeMap<Directives, usize>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn askers(&self) -> MutexGuard<'_, Askers> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the origin was asked for `asker`, after `before` if that one had no answer. Returns whom to
    /// ask for next, if there is anybody.
    fn on_answer(&self, asker: &Asker, is_good: bool, before: Option<&Asker>) -> Option<Asker> {
        let mut askers = self.askers();
        if !is_good {
            let good = askers.good.clone();
            return (!Arc::ptr_eq(&good, asker)).then_some(good);
        }
        askers.good = asker.clone();
        if before.is_some_and(|before| Arc::ptr_eq(&askers.last, before)) {
            // It is the asker's fault, not the origin's.
            askers.last = asker.clone();
        }
        None
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        let mut wishes = self.live.wishes();
        if let Some(count) = wishes.get_mut(&self.directives) {
            *count -= 1;
            if *count == 0 {
                wishes.remove(&self.directives);
            }
        }
    }
}

impl Version {
    fn new(target: &Target, site: &Site, object: Arc<Object>) -> Self {
        let text = std::str::from_utf8(&object.body).unwrap_or_default();
        let edge = Edge::read(text);
        let base = Url::parse(&Site::viewer_url(target)).ok();
        let url = base.and_then(|base| base.join(edge.hint.as_deref()?).ok());
        let hint = url.and_then(|url| site.local(url.as_str()));
        Self {
            hint: hint.map(|hint| hint.key),
            edge,
            object,
            delta: OnceLock::new(),
        }
    }

    /// The whole playlist, or its delta update if there is any.
    fn object(&self, is_delta: bool) -> Arc<Object> {
        let delta = || {
            let text = std::str::from_utf8(&self.object.body).ok()?;
            let body = Bytes::from(delta::delta(text)?);
            let mut object = self.object.expired();
            object.freshness = self.object.freshness;
            object.headers.insert(header::ETAG, etag_of(&body));
            object.body = body;
            object.raw = None;
            Some(Arc::new(object))
        };
        let delta = is_delta.then(|| self.delta.get_or_init(delta).clone());
        delta.flatten().unwrap_or_else(|| self.object.clone())
    }
}

impl Proxy {
    /// Answers a request that may have to wait. None if it is to be answered like others, when there is
    /// nothing more to wait for.
    pub(crate) async fn hold_back(
        self: &Arc<Self>,
        held: Held,
        target: &Target,
        viewer: &HeaderMap,
    ) -> Result<Option<(Answer, Outcome)>, Failure> {
        let Held {
            live,
            mut versions,
            is_hint,
        } = held;
        let patience = live.target_duration() * HOLD_TARGETS;
        if is_hint {
            live.is_wanted.notify_one();
            let is_listed = |version: &Arc<Version>| version.hint.as_ref() != Some(&target.key);
            // What has not come by then is not there: the origin may say so itself.
            let _ = tokio::time::timeout(patience, versions.wait_for(is_listed)).await;
            return Ok(None);
        }
        let directives = Directives::read(target.query.as_deref())?;
        let is_authorized = viewer.contains_key(header::AUTHORIZATION);
        let is_barred = |object: &Object| is_authorized && !is_for_authorized(&object.headers);
        if is_barred(&versions.borrow().object) {
            return Ok(None);
        }
        let playlist = self.site_of(target).without_directives(target);
        live.on_asked(playlist, viewer.clone());
        let found = tokio::time::timeout(patience, wait(&live, &mut versions, directives)).await;
        let (version, has_waited) = found.map_err(|_| Failure::NotPublished)??;
        let object = version.object(directives.is_delta);
        if is_barred(&object) {
            return Ok(None);
        }
        let (count, outcome) = match has_waited {
            true => (&self.metrics.collapsed, Outcome::Collapsed),
            false => (&self.metrics.hits, Outcome::Hit),
        };
        count.increment(1);
        Ok(Some((Answer::Whole(object), outcome)))
    }

    /// Takes note of a playlist that goes into the cache under the key of `target`.
    pub(crate) fn on_playlist(self: &Arc<Self>, target: &Target, object: &Arc<Object>) {
        let Some(raw) = object.raw.as_ref() else {
            return;
        };
        let is_hls = Format::of(&target.path, &object.headers) == Format::Hls;
        let is_short = raw.body.len() <= PLAYLIST_LEN_MAX;
        let text = std::str::from_utf8(&raw.body).ok();
        let text = text.filter(|_| is_hls && is_short);
        let Some(text) = text.filter(|_| self.lives.config.terminate) else {
            return;
        };
        let is_needed = control::is_needed(text);
        if !is_needed && !self.lives.is_any.load(Ordering::Relaxed) {
            return;
        }
        let site = self.site_of(target);
        let target = site.without_directives(target);
        let version = Arc::new(Version::new(&target, site, object.clone()));
        if !is_needed {
            return self.lives.on_over(&target.key, version);
        }
        if let Some(live) = self.lives.on_version(&target, version) {
            tokio::spawn(poll(self.clone(), live));
        }
    }
}

/// The version that has what `directives` want, and whether it took waiting.
async fn wait(
    live: &Live,
    versions: &mut watch::Receiver<Arc<Version>>,
    directives: Directives,
) -> Result<(Arc<Version>, bool), Failure> {
    let _wish = live.wish(directives);
    // While nobody waited, nobody asked the origin.
    let part = Duration::from_millis(live.edge().part_target_ms);
    let mut confirmed = live.confirmed.subscribe();
    let is_current = |confirmed: &Instant| confirmed.elapsed() <= part;
    let mut has_waited = !is_current(&confirmed.borrow());
    // The sender lives as long as `live`.
    let _ = confirmed.wait_for(is_current).await;
    let mut is_first = true;
    loop {
        let version = versions.borrow_and_update().clone();
        match directives.plan(&version.edge) {
            Plan::TooFar if is_first => {
                return Err(reload::refused("a wish for what cannot come soon"));
            }
            Plan::Wait => {}
            // Or numbers have started again: those who wait hear it from the playlist.
            Plan::Answer | Plan::TooFar => return Ok((version, has_waited)),
        }
        (is_first, has_waited) = (false, true);
        let _ = versions.changed().await;
    }
}

/// Asks the origin for a playlist as long as somebody waits.
async fn poll(proxy: Arc<Proxy>, live: Arc<Live>) {
    let poll_ms_min = proxy.lives.config.poll_ms_min;
    while !proxy.is_draining.load(Ordering::Relaxed) {
        let is_idle = |live: &Live| live.versions.receiver_count() == 0;
        if is_idle(&live) {
            let idle = live.target_duration() * IDLE_TARGETS;
            let wanted = tokio::time::timeout(idle, live.is_wanted.notified()).await;
            if wanted.is_err() && proxy.lives.forget(&live, is_idle) {
                return;
            }
            continue;
        }
        let before = live.edge();
        let asked = Instant::now();
        ask(&proxy, &live).await;
        // The playlist may have come to its end, or the origin to its senses.
        if proxy.lives.forget(&live, |_| false) {
            return;
        }
        let has_answered = *live.confirmed.borrow() >= asked;
        let pause_ms = plan_pause(has_answered, live.edge() != before, before.part_target_ms);
        tokio::time::sleep(Duration::from_millis(pause_ms.max(poll_ms_min))).await;
    }
    proxy.lives.forget(&live, |_| true);
}

/// Asks the origin once, and again for another viewer if the newest one may have spoiled it.
async fn ask(proxy: &Arc<Proxy>, live: &Live) {
    let mut before = None;
    let mut next = Some(live.askers().last.clone());
    while let Some(asker) = next {
        let (target, viewer) = &*asker;
        let is_good = proxy.run(Errand::Poll, target, viewer).await;
        next = live.on_answer(&asker, is_good, before.as_ref());
        before = Some(asker);
    }
}

/// How long to leave the origin alone, in milliseconds.
fn plan_pause(has_answered: bool, has_changed: bool, part_ms: u64) -> u64 {
    match (has_answered, has_changed) {
        (false, _) => part_ms,
        (true, true) => part_ms / REST_SHARE,
        (true, false) => part_ms / POLLS_PER_PART,
    }
}

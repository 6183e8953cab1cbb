//! The WebTorrent facade: viewers with p2p-media-loader, webtorrent or bittorrent-tracker's client
//! connect unchanged, and their offers go to the viewers nearest by ISP and place.
//!
//! - `messages` is the JSON that clients speak.
//! - `swarms` decides who is offered to whom, and what may be answered; `swarm` is one of them.
//! - `view` is what operators see of them.
//! - `visit` speaks with one connection; `said` does what it says.
//! - `abroad` brings viewers to swarms that other nodes of a cluster run, and `link` is where words
//!   for a viewer go.
//! - `allowed` is the list of swarms that are served; `addresses` is what viewers of one address may
//!   learn of others.
//!
//! A swarm lives behind a lock in the process, and messages are handled where they are read: an
//! offer goes from the reader's buffer to the receiver's queue without a task between. The wire is
//! specified in `docs/protocol/webtorrent.md`.

mod abroad;
mod addresses;
mod allowed;
mod config;
mod link;
pub(crate) mod messages;
mod metrics;
mod said;
mod swarm;
mod swarms;
mod view;
mod visit;

pub use config::WebTorrentConfig;
pub(crate) use messages::Id20;
pub(crate) use view::{SwarmDetail, SwarmLine};
pub(crate) use visit::Visit;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use abroad::Away;
use addresses::Addresses;
use link::Link;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, cluster::Guests, config::Config, farewell::Farewell, metrics::Counters, names,
    outgoing::Outgoing, reload::Reloader,
};
use allowed::Allowed;
use messages::InfoHash;
use metrics::FacadeCounters;
use swarms::Swarms;

/// Swarms are spread over as many locks.
const SHARDS: usize = 16;
/// How often the load is measured.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// Load measurements between two sweeps.
const SWEEP_EVERY: u64 = 5;
/// So that times before the start can be named.
const START_S: u32 = 1_000;

/// What all WebTorrent viewers share.
#[derive(Debug)]
pub(crate) struct Facade {
    config: WebTorrentConfig,
    fake_networks: bool,
    allowed: Allowed,
    shards: Vec<Mutex<Swarms<Link>>>,
    /// Taken after a shard's lock, never before it.
    addresses: Arc<Mutex<Addresses>>,
    /// The other nodes, where there may be any.
    guests: OnceLock<Arc<Guests>>,
    away: Mutex<Away>,
    counters: FacadeCounters,
    hasher: RandomState,
    started: Instant,
    load_percent: AtomicU32,
    farewell: Mutex<Option<Farewell<Arc<Outgoing>>>>,
    /// The farewell has changed.
    drained: Notify,
}

impl Facade {
    pub(crate) fn new(config: &Config, reloader: &mut Reloader) -> Result<Self, Error> {
        let swarm = &config.swarm;
        let introductions = (swarm.introductions_burst, swarm.introductions_per_hour);
        let addresses = Arc::new(Mutex::new(Addresses::new(
            swarm.address_introductions_burst,
            swarm.address_introductions_per_hour,
            config.webtorrent.pending_per_address_max,
        )));
        let viewers_min = config.privacy.viewers_min;
        let mut seed = [0; 8];
        names::fill(&mut seed)?;
        let seed = u64::from_be_bytes(seed);
        let shard = |number| {
            let config = config.webtorrent.clone();
            Mutex::new(Swarms::new(
                config,
                introductions,
                Arc::clone(&addresses),
                swarm.metro_km,
                viewers_min,
                seed ^ number,
            ))
        };
        Ok(Self {
            config: config.webtorrent.clone(),
            fake_networks: config.fake_networks,
            allowed: allowed::open(&config.webtorrent, reloader)?,
            shards: (0..SHARDS as u64).map(shard).collect(),
            addresses,
            guests: OnceLock::new(),
            away: Mutex::default(),
            counters: FacadeCounters::default(),
            hasher: RandomState::new(),
            started: Instant::now(),
            load_percent: AtomicU32::new(100),
            farewell: Mutex::default(),
            drained: Notify::new(),
        })
    }

    /// Whether clients connect at this path.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        self.config.paths.iter().any(|own| own == path)
    }

    /// Keeps swarms and intervals true until `stopping`; then sends everybody away.
    pub(crate) async fn serve(&self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(LOAD_INTERVAL);
        let (mut count, mut before) = (0_u64, 0);
        loop {
            tokio::select! {
                () = stopping.cancelled() => break,
                () = self.drained.notified() => continue,
                () = self.send_some_away() => continue,
                _ = ticks.tick() => {}
            }
            let announces = self.counters.announces.load(Ordering::Relaxed);
            self.on_load(announces - before);
            before = announces;
            count += 1;
            if count.is_multiple_of(SWEEP_EVERY) {
                self.sweep().await;
                // An announcement may have met a change of owners half way.
                self.settle(|to, conn, words| self.say(to, conn, words));
            }
        }
        self.links().iter().for_each(Outgoing::close);
    }

    /// Connections of this process, in no order; one may be there several times.
    fn links(&self) -> Vec<Arc<Outgoing>> {
        let mut links = self.links_away();
        for shard in 0..SHARDS {
            let swarms = self.lock(shard);
            links.extend(swarms.links().filter_map(Link::here).cloned());
        }
        links
    }

    /// Closes all connections, spread over this time; `None` ends it. These clients connect again by
    /// themselves, after a time of their own, and are refused while the tracker drains.
    pub(crate) fn drain(&self, over: Option<Duration>) {
        let farewell =
            over.map(|over| Farewell::new(self.links(), tokio::time::Instant::now(), over));
        *self.farewell() = farewell;
        self.drained.notify_one();
    }

    /// Waits until somebody is to go, and closes those connections; for ever where nobody is.
    async fn send_some_away(&self) {
        let wakeup_at = self.farewell().as_ref().and_then(Farewell::wakeup_at);
        match wakeup_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        let now = tokio::time::Instant::now();
        let due = self.farewell().as_mut().map(|farewell| farewell.due(now));
        due.iter().flatten().for_each(Outgoing::close);
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Farewell<Arc<Outgoing>>>> {
        self.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn render(&self) -> String {
        let counts = (0..SHARDS).map(|shard| self.lock(shard).count());
        let (swarms, viewers) = counts.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let load = self.load_percent.load(Ordering::Relaxed);
        self.counters.render(swarms, viewers, load)
    }

    async fn sweep(&self) {
        let now_s = self.now_s();
        for shard in 0..SHARDS {
            let removed = self.lock(shard).sweep(now_s);
            Counters::add_many(&self.counters.expired, removed as u64);
            tokio::task::yield_now().await;
        }
        let addresses = self.addresses.lock();
        addresses
            .unwrap_or_else(PoisonError::into_inner)
            .sweep(now_s);
    }

    /// Stretches the intervals where there is too much to do, a little at a time.
    fn on_load(&self, announces: u64) {
        let percent = announces * 100 / u64::from(self.config.announces_per_s);
        let wanted = percent.clamp(100, 400) as u32;
        let old = self.load_percent.load(Ordering::Relaxed);
        self.load_percent
            .store((old * 3 + wanted).div_ceil(4).min(400), Ordering::Relaxed);
    }

    fn now_s(&self) -> u32 {
        START_S + self.started.elapsed().as_secs() as u32
    }

    fn load_percent(&self) -> u32 {
        self.load_percent.load(Ordering::Relaxed)
    }

    /// What viewers with enough partners are told now.
    fn interval_s_longest(&self) -> u32 {
        let stretched = u64::from(self.config.interval_s_max) * u64::from(self.load_percent());
        (stretched / 100) as u32
    }

    /// What an offer is called inside: nobody outside can make two names look the same.
    fn offer_name(&self, offer_id: &[u8]) -> u64 {
        self.hasher.hash_one(offer_id)
    }

    fn swarms(&self, info_hash: InfoHash) -> MutexGuard<'_, Swarms<Link>> {
        self.lock((self.hasher.hash_one(info_hash) % SHARDS as u64) as usize)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Swarms<Link>> {
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

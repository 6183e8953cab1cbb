//! The one loop around the core: everything that happens is told to [`swarm_core::peer::Peer`] here,
//! and everything that it wants is done here. One task owns both; all others talk to it by bounded
//! channels. Nothing in it waits but the loop itself.

mod act;
mod handle;
mod links;
mod servers;
mod tracks;

#[cfg(test)]
mod tests;

pub(crate) use handle::{Answer, Asker, Command, DriverHandle, Next, Released, Request};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use swarm_core::id::{FetchId, RequestId, Slot, StreamId};
use swarm_core::peer::{Environment, FetchOutcome, Input, Outbox, Peer, Policy, Source};
use swarm_core::time::Instant;
use swarm_core::wire::tracker::{Nat, ViewerFlags};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use url::Url;

use self::links::Links;
use self::tracks::Tracks;
use crate::catalog::Catalog;
use crate::config::Checked;
use crate::fault::Saboteur;
use crate::fetch::{Done, FetchEvent, Fetcher};
use crate::rtc::{PeerKey, RtcEvent};
use crate::snapshot::{AgentEvent, Snapshot};
use crate::store::{From, Put, Store};
use crate::tracker_link::{TrackerEvent, TrackerLink};
use crate::trust::Trust;

/// Messages that may wait for the driver, from each side.
const QUEUE_MAX: usize = 64;
/// Inputs that the driver makes itself, handled in one turn of the loop.
const TURN_MAX: usize = 256;
/// How often idle tracks are looked for and a [`Snapshot`] is published.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Failed fetches whose status is remembered.
const FAILURES_MAX: usize = 64;
/// Events that a slow listener may be behind.
const EVENTS_MAX: usize = 1024;
/// How long goodbyes may take to get onto the network.
const GOODBYE: Duration = Duration::from_millis(250);

/// What the driver shares with those that talk to it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Arc<Store>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) bytes_bypassed: Arc<AtomicU64>,
    pub(crate) snapshots: watch::Sender<Snapshot>,
    pub(crate) events: broadcast::Sender<AgentEvent>,
}

impl Shared {
    /// As it is at the beginning.
    pub(crate) fn new(checked: &Checked) -> Self {
        Self {
            catalog: Arc::new(Catalog::default()),
            store: Arc::new(Store::new(checked.config.store_bytes_max)),
            trust: Trust::new(&checked.keys),
            bytes_bypassed: Arc::new(AtomicU64::new(0)),
            snapshots: watch::channel(Snapshot::default()).0,
            events: broadcast::channel(EVENTS_MAX).0,
        }
    }
}

/// The loop's state.
pub(crate) struct Driver {
    peer: Peer,
    outbox: Outbox,
    started: tokio::time::Instant,
    /// Inputs that carrying out actions has led to.
    pending: VecDeque<Pending>,
    shared: Arc<Shared>,
    requests: HashMap<RequestId, Asker>,
    fetcher: Fetcher,
    fetches: HashMap<FetchId, RunningFetch>,
    failures: VecDeque<(FetchId, StatusCode)>,
    links: Links,
    tracks: Tracks,
    tracker_url: Option<Url>,
    /// Where the tracker has sent us.
    tracker_place: Option<Url>,
    tracker: Option<TrackerLink>,
    tracker_up: bool,
    tracker_number: u32,
    tracker_events: mpsc::Sender<TrackerEvent>,
    token: Vec<u8>,
    config: crate::Config,
    environment: Environment,
    consent: Option<bool>,
    /// The stream to join, the one that was joined, and when a playlist last had that in it.
    seen: Option<StreamId>,
    joined: Option<StreamId>,
    joined_seen: tokio::time::Instant,
    player: (u32, u32, bool),
    peer_name: Option<String>,
    /// Nothing is fetched any more.
    is_leaving: bool,
}

/// A fetch that the core may still cancel. Dropping it stops it.
struct RunningFetch {
    task: AbortHandle,
    /// What it has received so far.
    bytes: Arc<AtomicU32>,
}

impl Drop for RunningFetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An input that the driver owes the core.
#[derive(Clone, Copy, Debug)]
enum Pending {
    LinkUp(Slot),
    /// With the connection's key, if there was one: the slot may have been given out again.
    LinkDown(Slot, Option<PeerKey>),
    Sent {
        slot: Slot,
        buffered: u32,
    },
    Misbehaved(Slot),
    TrackerDown,
    FetchDone(Done),
    FetchCancelled {
        fetch: FetchId,
        bytes: u32,
    },
}

/// Where the loop hears from the others.
struct Ears {
    commands: mpsc::Receiver<Command>,
    rtc: mpsc::Receiver<RtcEvent>,
    fetches: mpsc::Receiver<FetchEvent>,
    tracker: mpsc::Receiver<TrackerEvent>,
}

/// Starts the loop; it ends with [`Command::Shutdown`] or when nobody holds a handle any more.
pub(crate) fn spawn(
    checked: &Checked,
    seed: u64,
    origin: crate::origin::Origin,
    shared: Arc<Shared>,
) -> (DriverHandle, tokio::task::JoinHandle<()>) {
    let (handle, driver, ears) = build(checked, seed, origin, shared);
    (handle, tokio::spawn(driver.run(ears)))
}

fn build(
    checked: &Checked,
    seed: u64,
    origin: crate::origin::Origin,
    shared: Arc<Shared>,
) -> (DriverHandle, Driver, Ears) {
    let (commands, hear_commands) = mpsc::channel(QUEUE_MAX);
    let (rtc, hear_rtc) = mpsc::channel(QUEUE_MAX);
    let (fetches, hear_fetches) = mpsc::channel(QUEUE_MAX);
    let (tracker_events, hear_tracker) = mpsc::channel(QUEUE_MAX);
    let config = &checked.config;
    let policy = Policy {
        enabled: config.p2p && checked.tracker.is_some(),
        stripes_max: config.stripes_max.max(1),
        ..Policy::default()
    };
    let fetcher = Fetcher {
        origin,
        trust: shared.trust.clone(),
        store: shared.store.clone(),
        events: fetches,
    };
    let driver = Driver {
        peer: Peer::new(Arc::new(policy), seed, Instant::ORIGIN),
        outbox: Outbox::new(),
        started: tokio::time::Instant::now(),
        pending: VecDeque::new(),
        requests: HashMap::new(),
        fetcher,
        fetches: HashMap::new(),
        failures: VecDeque::new(),
        links: Links::new(config, rtc, Saboteur::new(config.misbehaviour)),
        tracks: Tracks::default(),
        tracker_url: checked.tracker.clone(),
        tracker_place: None,
        tracker: None,
        tracker_up: false,
        tracker_number: 0,
        tracker_events,
        token: config.token.clone().into_bytes(),
        config: config.clone(),
        environment: environment(config),
        consent: config.consent,
        seen: None,
        joined: None,
        joined_seen: tokio::time::Instant::now(),
        player: (0, 0, false),
        peer_name: None,
        is_leaving: false,
        shared: shared.clone(),
    };
    let ears = Ears {
        commands: hear_commands,
        rtc: hear_rtc,
        fetches: hear_fetches,
        tracker: hear_tracker,
    };
    let handle = DriverHandle::new(commands, shared.store.clone());
    (handle, driver, ears)
}

fn environment(config: &crate::Config) -> Environment {
    let upload_bps_max = if config.leech {
        0
    } else {
        config.upload_bps_max
    };
    Environment {
        flags: flags(config, config.consent),
        nat: Nat::Unknown,
        upload_bps_max,
    }
}

fn flags(config: &crate::Config, consent: Option<bool>) -> ViewerFlags {
    let facts = [
        (
            config.leech || config.upload_bps_max == 0,
            ViewerFlags::LEECH,
        ),
        (config.synthetic, ViewerFlags::SYNTHETIC),
        (consent == Some(true), ViewerFlags::CONSENT),
    ];
    let facts = facts.into_iter().filter(|(holds, _)| *holds);
    facts.fold(ViewerFlags::NATIVE, |flags, (_, flag)| flags.with(flag))
}

impl Driver {
    async fn run(mut self, mut ears: Ears) {
        self.handle(Input::Environment(self.environment));
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing = None;
        while closing.is_none() {
            let wakeup = self.next_wakeup();
            tokio::select! {
                () = std::future::ready(()), if !self.pending.is_empty() => {}
                command = ears.commands.recv() => closing = self.handle_command(command),
                Some(event) = ears.rtc.recv() => self.handle_rtc(event),
                Some(event) = ears.fetches.recv() => self.handle_fetch(event),
                Some(event) = ears.tracker.recv() => self.handle_tracker(event),
                () = sleep_until(wakeup) => self.handle(Input::Tick),
                _ = housekeeping.tick() => self.keep_house(),
            }
            self.settle();
        }
        self.leave();
        self.publish();
        tokio::time::sleep(GOODBYE).await;
        if let Some(Closing(Some(done))) = closing {
            let _ = done.send(());
        }
    }

    /// Says goodbye to everybody. The core would go on for the player from the CDN alone, but there is no
    /// player any more.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.fetches.clear();
        self.handle(Input::Leave);
        self.settle();
    }

    /// Tells the core, and does what it wants.
    fn handle(&mut self, input: Input<'_>) {
        let now = self.now();
        let mut outbox = std::mem::take(&mut self.outbox);
        self.peer.handle(now, input, &mut outbox);
        for action in outbox.actions() {
            self.act(action, &outbox);
        }
        outbox.clear();
        self.outbox = outbox;
    }

    /// Tells the core what carrying out its actions has led to.
    fn settle(&mut self) {
        for _ in 0..TURN_MAX {
            let Some(pending) = self.pending.pop_front() else {
                return;
            };
            match pending {
                Pending::LinkUp(slot) => self.handle(Input::LinkUp(slot)),
                Pending::LinkDown(slot, key) => {
                    if self.links.drop_link(slot, key) {
                        self.handle(Input::LinkDown(slot));
                    }
                }
                Pending::Sent { slot, buffered } => self.handle(Input::Sent { slot, buffered }),
                Pending::Misbehaved(slot) => self.handle(Input::Misbehaved(slot)),
                Pending::TrackerDown => self.handle(Input::TrackerDown),
                Pending::FetchDone(done) => self.on_fetch_done(done),
                Pending::FetchCancelled { fetch, bytes } => {
                    let (outcome, ttfb_ms, total_ms) = (FetchOutcome::Failed, 0, 0);
                    self.handle(Input::FetchDone {
                        fetch,
                        outcome,
                        bytes,
                        ttfb_ms,
                        total_ms,
                    });
                }
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.started.elapsed().as_micros() as u64)
    }

    fn next_wakeup(&self) -> Option<tokio::time::Instant> {
        let at = self.peer.next_wakeup()?.at;
        Some(self.started + Duration::from_micros(at.as_micros()))
    }

    /// `Some` when it is time to go.
    fn handle_command(&mut self, command: Option<Command>) -> Option<Closing> {
        match command {
            None => return Some(Closing(None)),
            Some(Command::Shutdown(done)) => return Some(Closing(Some(done))),
            Some(Command::Playlist(tracks)) => self.handle_playlist(&tracks),
            Some(Command::Want {
                request,
                name,
                grain_ms,
                asker,
            }) => {
                self.handle_want(request, name, grain_ms, asker);
            }
            Some(Command::Abandon(request)) => {
                if self.requests.remove(&request).is_some() {
                    self.handle(Input::Abandoned(request));
                }
            }
            Some(Command::Player {
                buffer_ms,
                lag_ms,
                stalled,
            }) => {
                self.player = (buffer_ms, lag_ms, stalled);
                self.handle(Input::Player {
                    buffer_ms,
                    lag_ms,
                    stalled,
                });
            }
            Some(Command::TrackEnded(track)) => {
                if self.tracks.on_ended(track) {
                    self.handle(Input::TrackEnded(track));
                }
            }
            Some(Command::KeysKnown) => self.join(),
            Some(Command::Consent(agreed)) => self.handle_consent(agreed),
        }
        None
    }

    fn handle_fetch(&mut self, event: FetchEvent) {
        match event {
            FetchEvent::Record { fetch, record } if self.fetches.contains_key(&fetch) => {
                self.shared.store.add_record(record.clone());
                self.handle(Input::Record {
                    source: Source::Cdn(fetch),
                    record: &record,
                });
            }
            FetchEvent::Piece {
                fetch,
                record,
                index,
                bytes,
            } if self.fetches.contains_key(&fetch) => {
                let segment = record.id();
                match self
                    .shared
                    .store
                    .put(segment, index.into(), bytes, From::Cdn)
                {
                    Put::Stored => {
                        let source = Source::Cdn(fetch);
                        self.handle(Input::Pieces {
                            source,
                            segment,
                            bits: 1 << index,
                        });
                    }
                    Put::Full => tracing::warn!("local store is full; a piece was dropped"),
                    Put::Duplicate | Put::Unknown => {}
                }
            }
            FetchEvent::Done(done) => {
                if self.fetches.remove(&done.fetch).is_some() {
                    self.on_fetch_done(done);
                }
            }
            // Cancelled meanwhile.
            FetchEvent::Record { .. } | FetchEvent::Piece { .. } => {}
        }
    }

    fn on_fetch_done(&mut self, done: Done) {
        if done.outcome == FetchOutcome::Failed {
            if self.failures.len() >= FAILURES_MAX {
                self.failures.pop_front();
            }
            self.failures.push_back((done.fetch, done.status));
        }
        let Done {
            fetch,
            outcome,
            bytes,
            ttfb_ms,
            total_ms,
            ..
        } = done;
        self.handle(Input::FetchDone {
            fetch,
            outcome,
            bytes,
            ttfb_ms,
            total_ms,
        });
    }

    fn handle_tracker(&mut self, event: TrackerEvent) {
        let current = self.tracker.as_ref().map(|link| link.number);
        match event {
            TrackerEvent::Up(number) if Some(number) == current => {
                self.tracker_up = true;
                self.handle(Input::TrackerUp);
            }
            TrackerEvent::Frame(number, frame) if Some(number) == current => {
                self.handle(Input::TrackerFrame(&frame));
            }
            TrackerEvent::Down(number) if Some(number) == current => {
                self.tracker = None;
                self.tracker_up = false;
                self.handle(Input::TrackerDown);
            }
            // Of a link that was given up.
            TrackerEvent::Up(_) | TrackerEvent::Frame(..) | TrackerEvent::Down(_) => {}
        }
    }

    fn keep_house(&mut self) {
        for track in self.tracks.take_idle(tokio::time::Instant::now()) {
            self.handle(Input::TrackEnded(track));
        }
        let gone: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, asker)| asker.is_gone())
            .collect();
        let gone: Vec<_> = gone.into_iter().map(|(request, _)| *request).collect();
        for request in gone {
            self.requests.remove(&request);
            self.handle(Input::Abandoned(request));
        }
        self.publish();
    }

    fn publish(&self) {
        let stats = *self.peer.stats();
        let bytes_bypassed = self.shared.bytes_bypassed.load(Ordering::Relaxed);
        let (buffer_ms, lag_ms, stalled) = self.player;
        let snapshot = Snapshot {
            stream: self.joined.map(|stream| stream.to_string()),
            peer: self.peer_name.clone(),
            tracker_up: self.tracker_up,
            bytes_p2p: stats.bytes_p2p,
            bytes_cdn: stats.bytes_cdn + bytes_bypassed,
            bytes_bypassed,
            bytes_up: stats.bytes_up,
            bytes_wasted: stats.bytes_wasted,
            bad_pieces: stats.bad_pieces,
            segments: stats.segments,
            backstops: stats.backstops,
            links: stats.links,
            store_bytes: self.shared.store.bytes(),
            buffer_ms,
            lag_ms,
            stalled,
            neighbours: self.links.neighbours(),
        };
        self.shared.snapshots.send_if_modified(|published| {
            let changed = *published != snapshot;
            *published = snapshot;
            changed
        });
    }
}

/// The loop ends; tell whoever waits for that.
struct Closing(Option<oneshot::Sender<()>>);

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

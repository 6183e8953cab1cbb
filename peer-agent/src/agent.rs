//! The agent as a whole: what its users start, ask and stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use swarm_core::id::StreamId;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use url::Url;

use crate::config::{Checked, Config};
use crate::driver::{self, Command, Shared};
use crate::endpoint::{self, Endpoint};
use crate::error::Error;
use crate::gateway::{Gateway, origin_of};
use crate::origin::Origin;
use crate::snapshot::{AgentEvent, Snapshot};
use crate::trust::{STREAMS_LEN_MAX, STREAMS_PATH, Trust, parse_streams};

/// How often the core hears of a player that is not ours.
const OBSERVE: Duration = Duration::from_millis(500);
/// First and longest pause between attempts to get keys from the CDN.
const KEYS_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often the CDN is asked again: a broadcaster names a new key some time before it signs.
const KEYS_RENEWAL: Duration = Duration::from_secs(300);
/// How long open answers may take when the agent ends.
const DRAIN: Duration = Duration::from_secs(2);

/// A running native viewer. Dropping it stops it without goodbyes; prefer [`Agent::shutdown`].
#[derive(Debug)]
pub struct Agent {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    events: broadcast::Sender<AgentEvent>,
    addr: SocketAddr,
    stream: Url,
    cdn: Arc<str>,
    /// Whether a player of ours says how it is doing.
    pub(crate) own_player: Arc<AtomicBool>,
    /// Media that players take at a time while a segment arrives; 0: whole segments.
    pub(crate) progressive_ms: u32,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Starts an agent that listens where the configuration says.
    ///
    /// # Errors
    /// [`Error`], if the configuration is wrong, the address is taken, or the system lacks
    /// something. The network need not be there.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let checked = config.checked()?;
        let addr = config.listen;
        let failed = |source| Error::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        Self::build(checked, listener)
    }

    fn build(checked: Checked, listener: TcpListener) -> Result<Self, Error> {
        let parts = Parts::new(&checked)?;
        let addr = listener.local_addr().map_err(|source| Error::Listen {
            addr: checked.config.listen,
            source,
        })?;
        let cdn: Arc<str> = origin_of(checked.stream.as_str())
            .unwrap_or_default()
            .into();
        let (stop, stopped) = watch::channel(false);
        let own_player = Arc::new(AtomicBool::new(false));
        let snapshots = parts.shared.snapshots.subscribe();
        let endpoint = Endpoint {
            gateway: parts.gateway.clone(),
            cdn: cdn.clone(),
            snapshots: snapshots.clone(),
            pace: checked.config.pace,
            progressive_ms: checked.config.progressive_ms,
        };
        let mut tasks = vec![
            parts.driver,
            tokio::spawn(endpoint::run(listener, endpoint, until(stopped.clone()))),
            tokio::spawn(observe(
                parts.gateway.clone(),
                own_player.clone(),
                stopped.clone(),
            )),
        ];
        if checked.config.trust_cdn && checked.config.p2p && checked.tracker.is_some() {
            let gateway = parts.gateway.clone();
            let keys = fetch_keys(gateway, parts.shared.trust.clone(), cdn.clone());
            tasks.push(tokio::spawn(async move {
                tokio::select! {
                    () = keys => {}
                    () = until(stopped) => {}
                }
            }));
        }
        Ok(Self {
            gateway: parts.gateway,
            snapshots,
            events: parts.shared.events.clone(),
            addr,
            stream: checked.stream,
            cdn,
            own_player,
            progressive_ms: checked.config.progressive_ms,
            stop,
            tasks,
        })
    }

    /// Where a player finds the stream: the configured one with its path and query.
    pub fn endpoint_url(&self) -> String {
        self.endpoint_url_of(self.stream.as_str())
            .unwrap_or_default()
    }

    /// Where a player finds another object of the same CDN, such as the DASH manifest of the same
    /// stream; `None` if it is elsewhere.
    pub fn endpoint_url_of(&self, url: &str) -> Option<String> {
        let path = match url.strip_prefix('/') {
            Some(_) => url,
            None => {
                let same = origin_of(url)? == *self.cdn;
                let path = url.splitn(4, '/').nth(3).unwrap_or_default();
                return same.then(|| format!("http://{}/{path}", self.addr));
            }
        };
        Some(format!("http://{}{path}", self.addr))
    }

    /// Where the endpoint listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How the agent is doing now.
    pub fn stats(&self) -> Snapshot {
        self.snapshots.borrow().clone()
    }

    /// How the agent is doing, as it changes.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.snapshots.clone()
    }

    /// What happens from now on. Who reads slowly misses events.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.events.subscribe()
    }

    /// Says whether the person agrees to peers; the last word counts. Without agreement all
    /// neighbours are left and everything comes from the CDN, until there is one.
    pub async fn set_consent(&self, agreed: bool) {
        self.gateway.driver.tell(Command::Consent(agreed)).await;
    }

    /// The stream that was configured.
    pub fn stream(&self) -> &Url {
        &self.stream
    }

    /// Says goodbye to tracker and neighbours, finishes open answers within two seconds, and ends.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        self.gateway.driver.shutdown().await;
        let tasks = std::mem::take(&mut self.tasks);
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let ended = futures_util::future::join_all(tasks);
        if tokio::time::timeout(DRAIN, ended).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What runs whether or not there is an endpoint.
struct Parts {
    gateway: Arc<Gateway>,
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

impl Parts {
    fn new(checked: &Checked) -> Result<Self, Error> {
        let origin = Origin::new(checked.timeouts)?;
        let shared = Arc::new(Shared::new(checked));
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(Error::Random)?;
        let seed = u64::from_le_bytes(seed);
        let (handle, driver) = driver::spawn(checked, seed, origin.clone(), shared.clone());
        let (catalog, bypassed) = (shared.catalog.clone(), shared.bytes_bypassed.clone());
        let gateway = Arc::new(Gateway::new(handle, origin, catalog, bypassed));
        Ok(Self {
            gateway,
            shared,
            driver,
        })
    }
}

/// Resolves when it is time to stop.
pub(crate) async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the agent is gone: time to stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Tells the core how a player is doing that does not say so itself, and keeps manifests that go
/// by the clock up to date.
async fn observe(
    gateway: Arc<Gateway>,
    own_player: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(OBSERVE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = until(stopped.clone()) => return,
        }
        gateway.reread_manifests().await;
        if own_player.load(Ordering::Relaxed) {
            continue;
        }
        if let Some(player) = gateway.estimate() {
            let crate::buffer::PlayerState {
                buffer_ms,
                lag_ms,
                stalled,
            } = player;
            gateway
                .driver
                .tell(Command::Player {
                    buffer_ms,
                    lag_ms,
                    stalled,
                })
                .await;
        }
    }
}

/// Asks the CDN for the streams' keys until it has some, and now and then for new ones.
async fn fetch_keys(gateway: Arc<Gateway>, trust: Arc<Trust>, cdn: Arc<str>) {
    let url = format!("{cdn}{STREAMS_PATH}");
    let mut pause = KEYS_RETRY.0;
    loop {
        match try_keys(&gateway.origin, &url).await {
            Ok(keys) if !keys.is_empty() => {
                let added = keys
                    .iter()
                    .filter(|(key, stream)| trust.add(key, Some(*stream)));
                if added.count() > 0 {
                    gateway.driver.tell(Command::KeysKnown).await;
                }
                tokio::time::sleep(KEYS_RENEWAL).await;
                continue;
            }
            Ok(_) => tracing::debug!(url, "origin names no streams yet"),
            Err(error) => tracing::debug!(url, error, "no keys from the CDN"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(KEYS_RETRY.1);
    }
}

async fn try_keys(origin: &Origin, url: &str) -> Result<Vec<([u8; 32], StreamId)>, String> {
    let said = |error: crate::origin::OriginError| error.to_string();
    let mut response = origin
        .open(Method::GET, url, None, HeaderMap::new())
        .await
        .map_err(said)?;
    if response.status() != StatusCode::OK {
        return Err(format!("origin answered {}", response.status()));
    }
    let body = origin
        .body(&mut response, STREAMS_LEN_MAX)
        .await
        .map_err(said)?;
    parse_streams(&body).map_err(|error| format!("origin's key list is malformed: {error}"))
}

#[cfg(test)]
pub(crate) fn test_gateway(checked: &Checked) -> Gateway {
    let parts = Parts::new(checked).expect("parts need no network");
    Arc::into_inner(parts.gateway).expect("nobody else has it yet")
}

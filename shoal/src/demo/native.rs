//! One native viewer of the demo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use peer_agent::playback::{self, PlayOptions};
use peer_agent::{Agent, Config, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::audience::{Flow, Totals, Viewer};
use crate::Failure;

/// What a viewer needs to fill its buffer; offload is counted with and without it.
const WARM_UP: Duration = Duration::from_secs(10);

/// A running viewer.
pub(super) struct Native {
    snapshots: watch::Receiver<Snapshot>,
    stalls: Arc<AtomicU64>,
    warm: Arc<watch::Sender<Option<Totals>>>,
    stop: CancellationToken,
    task: JoinHandle<Option<playback::Report>>,
}

/// How one viewer's time went.
pub(super) struct Outcome {
    pub(super) totals: Totals,
    /// Its totals after the warm-up, if it lived that long.
    pub(super) warm: Option<Totals>,
    pub(super) bad_pieces: u64,
    /// Playback, if it began.
    pub(super) playback: Option<playback::Report>,
}

impl Native {
    pub(super) async fn start(config: Config) -> Result<Self, Failure> {
        let agent = Agent::start(config).await?;
        let (snapshots, stalls) = (agent.watch(), Arc::new(AtomicU64::new(0)));
        let (stop, warm) = (CancellationToken::new(), Arc::new(watch::Sender::new(None)));
        tokio::spawn(observe(agent.watch(), stalls.clone(), warm.clone()));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let played = playback::play(&agent, PlayOptions::default(), stopped.cancelled());
            let report = match Box::pin(played).await {
                Ok(report) => Some(report),
                Err(error) => {
                    tracing::error!(%error, "a native viewer cannot play");
                    None
                }
            };
            agent.shutdown().await;
            report
        });
        Ok(Self {
            snapshots,
            stalls,
            warm,
            stop,
            task,
        })
    }

    /// How it is doing.
    pub(super) fn view(&self) -> Viewer {
        let snapshot = self.snapshots.borrow();
        Viewer {
            peer: snapshot.peer.clone(),
            native: true,
            totals: totals(&snapshot, &self.stalls),
            buffer_ms: snapshot.buffer_ms.into(),
            lag_ms: snapshot.lag_ms.into(),
            stalled: snapshot.stalled,
            flows: snapshot
                .neighbours
                .iter()
                .filter(|n| n.up)
                .map(flow)
                .collect(),
        }
    }

    /// The stream that viewers share, once it is known.
    pub(super) fn stream(&self) -> Option<String> {
        self.snapshots.borrow().stream.clone()
    }

    /// Ends it, with goodbyes.
    pub(super) async fn stop(self) -> Outcome {
        self.stop.cancel();
        let playback = self.task.await.unwrap_or_default();
        let snapshot = self.snapshots.borrow().clone();
        let mut totals = totals(&snapshot, &self.stalls);
        if let Some(report) = &playback {
            totals.stalls = report.stalls.into();
        }
        let warm = *self.warm.borrow();
        Outcome {
            totals,
            warm,
            bad_pieces: snapshot.bad_pieces,
            playback,
        }
    }
}

fn totals(snapshot: &Snapshot, stalls: &AtomicU64) -> Totals {
    Totals {
        bytes_cdn: snapshot.bytes_cdn,
        bytes_p2p: snapshot.bytes_p2p,
        bytes_up: snapshot.bytes_up,
        stalls: stalls.load(Ordering::Relaxed),
    }
}

fn flow(neighbour: &peer_agent::Neighbour) -> Flow {
    Flow {
        peer: neighbour.peer.clone(),
        bytes_in: neighbour.bytes_in,
        bytes_out: neighbour.bytes_out,
    }
}

/// Counts stalls as they begin, and notes the totals when the warm-up is over. Ends with the agent.
async fn observe(
    mut snapshots: watch::Receiver<Snapshot>,
    stalls: Arc<AtomicU64>,
    warm: Arc<watch::Sender<Option<Totals>>>,
) {
    let (began, mut was_stalled) = (Instant::now(), false);
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update();
        if snapshot.stalled && !was_stalled {
            stalls.fetch_add(1, Ordering::Relaxed);
        }
        was_stalled = snapshot.stalled;
        if warm.borrow().is_none() && began.elapsed() >= WARM_UP {
            warm.send_replace(Some(totals(&snapshot, &stalls)));
        }
    }
}

//! Everybody who watches the demo: native viewers, and browser tabs as they report themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peer_agent::Config;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::VIEWERS_MAX;
use super::native::{Native, Outcome};
use super::report::Report;
use crate::Failure;

/// A tab that has said nothing for so long is gone.
const TAB_SILENCE_MAX: Duration = Duration::from_secs(10);
const TABS_MAX: usize = 64;
const TAB_ID_LEN_MAX: usize = 64;
const FLOWS_MAX: usize = 64;
/// Samples kept for the page's chart, one a second.
const HISTORY_MAX: usize = 190;

/// Sums since a viewer's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) bytes_cdn: u64,
    pub(super) bytes_p2p: u64,
    pub(super) bytes_up: u64,
    pub(super) stalls: u64,
}

/// What went between a viewer and one neighbour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) peer: String,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// A viewer as the page shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Viewer {
    /// Its name at the tracker, once it has one.
    pub(super) peer: Option<String>,
    #[serde(default)]
    pub(super) native: bool,
    #[serde(flatten)]
    pub(super) totals: Totals,
    pub(super) buffer_ms: u64,
    pub(super) lag_ms: u64,
    pub(super) stalled: bool,
    pub(super) flows: Vec<Flow>,
}

/// What a tab says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct TabReport {
    /// A random name, the same as long as the tab lives.
    id: String,
    /// Whether the tab is being closed.
    #[serde(default)]
    gone: bool,
    #[serde(flatten)]
    viewer: Viewer,
}

/// What the page polls.
#[derive(Debug, Serialize)]
pub(super) struct State {
    stream: Option<String>,
    native: usize,
    viewers_max: u16,
    totals: Totals,
    viewers: Vec<Viewer>,
    /// Seconds since the start, bytes from the CDN, bytes from viewers: cumulative.
    history: Vec<(f64, u64, u64)>,
}

pub(super) struct Audience {
    config: Config,
    began: Instant,
    natives: Mutex<Vec<Native>>,
    /// Viewers that have left.
    outcomes: StdMutex<Vec<Outcome>>,
    tabs: StdMutex<Tabs>,
    history: StdMutex<VecDeque<(f64, u64, u64)>>,
}

#[derive(Default)]
struct Tabs {
    open: HashMap<String, (Instant, Viewer)>,
    closed: Totals,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.bytes_cdn = self.bytes_cdn.saturating_add(other.bytes_cdn);
        self.bytes_p2p = self.bytes_p2p.saturating_add(other.bytes_p2p);
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.stalls = self.stalls.saturating_add(other.stalls);
    }
}

impl Audience {
    /// An empty audience, whose native viewers will have these settings.
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            began: Instant::now(),
            natives: Mutex::default(),
            outcomes: StdMutex::default(),
            tabs: StdMutex::default(),
            history: StdMutex::default(),
        }
    }

    /// Starts one more native viewer, or says why not.
    pub(super) async fn add_native(&self) -> Result<(), Failure> {
        let mut natives = self.natives.lock().await;
        if natives.len() >= VIEWERS_MAX.into() {
            return Err(Failure::misuse(format!(
                "{VIEWERS_MAX} native viewers are the most that a demo may have"
            )));
        }
        natives.push(Native::start(self.config.clone()).await?);
        Ok(())
    }

    /// Stops the youngest native viewer.
    pub(super) async fn remove_native(&self) -> Result<(), Failure> {
        let native = self.natives.lock().await.pop();
        let native = native.ok_or_else(|| Failure::misuse("there is no native viewer left"))?;
        let outcome = native.stop().await;
        lock(&self.outcomes).push(outcome);
        Ok(())
    }

    /// Takes a tab's report.
    pub(super) fn handle_tab(&self, mut report: TabReport) -> Result<(), Failure> {
        let mut tabs = lock(&self.tabs);
        if report.id.is_empty() || report.id.len() > TAB_ID_LEN_MAX {
            return Err(Failure::misuse("tab: its id must have 1 to 64 bytes"));
        }
        report.viewer.flows.truncate(FLOWS_MAX);
        report.viewer.native = false;
        if report.gone {
            tabs.open.remove(&report.id);
            tabs.closed.add(&report.viewer.totals);
            return Ok(());
        }
        if tabs.open.len() >= TABS_MAX && !tabs.open.contains_key(&report.id) {
            return Err(Failure::misuse("the demo counts 64 tabs at most"));
        }
        tabs.open.insert(report.id, (Instant::now(), report.viewer));
        Ok(())
    }

    /// Notes where the totals are, for the chart.
    pub(super) fn sample(&self) {
        lock(&self.tabs).forget_silent();
        // While a viewer is being started or stopped the sample is left out.
        let Ok(natives) = self.natives.try_lock() else {
            return;
        };
        let totals = self.totals(&natives);
        drop(natives);
        let mut history = lock(&self.history);
        if history.len() >= HISTORY_MAX {
            history.pop_front();
        }
        history.push_back((
            self.began.elapsed().as_secs_f64(),
            totals.bytes_cdn,
            totals.bytes_p2p,
        ));
    }

    pub(super) async fn state(&self) -> State {
        let natives = self.natives.lock().await;
        let mut viewers: Vec<Viewer> = natives.iter().map(Native::view).collect();
        viewers.extend(
            lock(&self.tabs)
                .open
                .values()
                .map(|(_, viewer)| viewer.clone()),
        );
        State {
            stream: natives.iter().find_map(Native::stream),
            native: natives.len(),
            viewers_max: VIEWERS_MAX,
            totals: self.totals(&natives),
            viewers,
            history: lock(&self.history).iter().copied().collect(),
        }
    }

    /// Stops all native viewers and sums up.
    pub(super) async fn finish(&self) -> Report {
        let natives = std::mem::take(&mut *self.natives.lock().await);
        let mut stopping = tokio::task::JoinSet::new();
        for native in natives {
            stopping.spawn(native.stop());
        }
        let stopped = stopping.join_all().await;
        let mut outcomes = std::mem::take(&mut *lock(&self.outcomes));
        outcomes.extend(stopped);
        let mut tabs = lock(&self.tabs);
        let mut browsers = tabs.closed;
        tabs.open
            .drain()
            .for_each(|(_, (_, viewer))| browsers.add(&viewer.totals));
        Report::new(&outcomes, &browsers)
    }

    fn totals(&self, natives: &[Native]) -> Totals {
        let tabs = lock(&self.tabs);
        let mut sum = tabs.closed;
        lock(&self.outcomes)
            .iter()
            .for_each(|outcome| sum.add(&outcome.totals));
        natives
            .iter()
            .for_each(|native| sum.add(&native.view().totals));
        tabs.open
            .values()
            .for_each(|(_, viewer)| sum.add(&viewer.totals));
        sum
    }
}

impl Tabs {
    fn forget_silent(&mut self) {
        let closed = &mut self.closed;
        self.open.retain(|_, (heard, viewer)| {
            let stays = heard.elapsed() < TAB_SILENCE_MAX;
            if !stays {
                closed.add(&viewer.totals);
            }
            stays
        });
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tab(id: &str, bytes_p2p: u64, gone: bool) -> TabReport {
        let text = format!(
            r#"{{"id": "{id}", "gone": {gone}, "peer": null, "native": true, "bytes_cdn": 1,
                "bytes_p2p": {bytes_p2p}, "bytes_up": 0, "stalls": 0, "buffer_ms": 0, "lag_ms": 0,
                "stalled": false, "flows": []}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn tabs_count_once_however_they_end() {
        let audience = Audience::new(Config::default());
        audience.handle_tab(tab("a", 5, false)).unwrap();
        audience.handle_tab(tab("a", 7, false)).unwrap();
        audience.handle_tab(tab("b", 10, false)).unwrap();
        let state = audience.state().await;
        assert_eq!((state.totals.bytes_p2p, state.viewers.len()), (17, 2));
        assert!(
            state.viewers.iter().all(|viewer| !viewer.native),
            "tabs are no native viewers"
        );
        audience.handle_tab(tab("a", 8, true)).unwrap();
        audience.sample();
        let state = audience.state().await;
        assert_eq!((state.totals.bytes_p2p, state.viewers.len()), (18, 1));
        assert_eq!(state.history[0].2, 18);
        assert!(audience.handle_tab(tab(&"x".repeat(65), 0, false)).is_err());
    }
}

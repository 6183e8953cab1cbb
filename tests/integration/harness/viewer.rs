//! Native viewers with a virtual player.

use std::{sync::Arc, time::Duration};

use peer_agent::{
    Agent, Config, Snapshot,
    playback::{Level, PlayOptions, Report, play},
};
use sha2::{Digest, Sha256};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::Stack;

/// For what must come true.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// A viewer that plays until it is stopped.
#[derive(Debug)]
pub struct Viewer {
    agent: Arc<Agent>,
    stop: oneshot::Sender<()>,
    playing: JoinHandle<Report>,
}

impl Viewer {
    /// Starts to play the best rendition.
    pub async fn start(config: Config) -> Self {
        Self::start_at(config, Level::Auto).await
    }

    /// Starts to play a given rendition.
    pub async fn start_at(config: Config, level: Level) -> Self {
        let options = PlayOptions {
            level,
            ..PlayOptions::default()
        };
        Self::start_with(config, options).await
    }

    /// Starts to play as the options say.
    pub async fn start_with(config: Config, options: PlayOptions) -> Self {
        let agent = Arc::new(Agent::start(config).await.expect("the agent starts"));
        let (stop, stopped) = oneshot::channel::<()>();
        let player = Arc::clone(&agent);
        let playing = tokio::spawn(async move {
            let stopped = async { _ = stopped.await };
            play(&player, options, stopped)
                .await
                .expect("playback begins")
        });
        Self {
            agent,
            stop,
            playing,
        }
    }

    /// How it is doing.
    pub fn stats(&self) -> Snapshot {
        self.agent.stats()
    }

    /// The person agrees to peers, or does not any more.
    pub async fn set_consent(&self, agreed: bool) {
        self.agent.set_consent(agreed).await;
    }

    /// Ends playback, leaves the swarm, and reports.
    pub async fn stop(self) -> Report {
        _ = self.stop.send(());
        let report = self.playing.await.expect("the player does not panic");
        if let Some(agent) = Arc::into_inner(self.agent) {
            agent.shutdown().await;
        }
        report
    }

    /// Vanishes without a word, as a closed laptop does.
    pub fn kill(self) {
        self.playing.abort();
    }
}

/// Waits for what must come true within a minute, and says what has not.
///
/// # Panics
/// If it has not.
pub async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// The peers' share of the bytes of the segments from the `skip`th on.
pub fn share_of_peers<'a>(reports: impl IntoIterator<Item = &'a Report>, skip: usize) -> f64 {
    let (mut p2p, mut cdn) = (0, 0);
    for report in reports {
        for segment in report.segments.iter().skip(skip) {
            p2p += segment.bytes_p2p;
            cdn += segment.bytes_cdn;
        }
    }
    p2p as f64 / (p2p + cdn).max(1) as f64
}

impl Stack {
    /// Checks that every segment that was delivered has the origin's bytes.
    ///
    /// # Panics
    /// If one differs.
    pub async fn check_bytes(&self, reports: &[Report]) {
        let mut checked = std::collections::BTreeMap::new();
        for segment in reports.iter().flat_map(|report| &report.segments) {
            let known = checked.entry(segment.url.clone()).or_insert(None);
            let expected = match known {
                Some(expected) => expected,
                None => known.insert(self.hash_at_origin(&segment.url).await),
            };
            // Segments that have left the origin's window cannot be compared any more.
            if let Some(expected) = expected {
                assert_eq!(segment.sha256, *expected, "{}", segment.url);
            }
        }
        let compared = checked.values().flatten().flatten().count();
        assert!(
            compared > 5,
            "only {compared} of {} could be compared",
            checked.len()
        );
    }

    async fn hash_at_origin(&self, url: &str) -> Option<String> {
        let response = reqwest::get(self.at_origin(url))
            .await
            .expect("the origin answers");
        if !response.status().is_success() {
            return None;
        }
        let bytes = response.bytes().await.expect("the answer is whole");
        Some(hex::encode(Sha256::digest(&bytes)))
    }
}

//! A tracker that goes away names another one: its viewers go there, and playback goes on.

use integration::{OwnTracker, Stack, StackOptions, Viewer, wait_for};
use peer_agent::Config as AgentConfig;
use tracker::{Config, DrainConfig};

const VIEWERS: u32 = 3;

fn config(places: &[String]) -> Config {
    Config {
        name_key: Some("the same at both trackers".into()),
        fake_networks: true,
        drain: DrainConfig {
            places: places.to_vec(),
        },
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_of_a_draining_tracker_go_to_another_one() {
    let stack = Stack::start(StackOptions::default()).await;
    let second = OwnTracker::start(config(&[])).await;
    // Nobody listens at the first address: viewers go on to the next.
    let places = ["ws://127.0.0.1:1/".to_owned(), second.url()];
    let first = OwnTracker::start(config(&places)).await;
    let agent = AgentConfig {
        tracker: first.url(),
        ..stack.agent_config()
    };
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(Viewer::start(agent.clone()).await);
    }
    let linked = |viewer: &Viewer| viewer.stats().links == VIEWERS - 1;
    wait_for("all are linked", async || viewers.iter().all(linked)).await;
    let names: Vec<_> = viewers.iter().map(|viewer| viewer.stats().peer).collect();
    first.drain(500).await;
    wait_for("all are at the second tracker", async || {
        assert!(viewers.iter().all(linked), "no link is lost on the way");
        second.viewers().await == u64::from(VIEWERS)
    })
    .await;
    // The first one is gone for good; who comes now finds the others at the second.
    first.stop().await;
    let newcomer = AgentConfig {
        tracker: second.url(),
        ..stack.agent_config()
    };
    let late = Viewer::start(newcomer).await;
    wait_for("the newcomer is linked with all", async || {
        late.stats().links == VIEWERS
    })
    .await;
    for (viewer, name) in viewers.into_iter().zip(names) {
        assert_eq!(viewer.stats().peer, name, "names are kept");
        let report = viewer.stop().await;
        assert_eq!(
            (report.stalls, report.failed, report.invalid),
            (0, 0, 0),
            "{report:?}"
        );
    }
    late.stop().await;
    second.stop().await;
    stack.stop().await;
}

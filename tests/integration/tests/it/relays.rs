//! Consent, and relays alone: viewers that never learn each other's addresses share all the same.

use std::time::Duration;

use integration::{
    OwnTracker, Stack, StackOptions, TURN_SECRET, TurnServer, Viewer, share_of_peers, wait_for,
};
use peer_agent::Config as AgentConfig;
use tracker::{Config, NetworkConfig, PrivacyConfig, RelayConfig};

/// How long viewers watch once they are linked, and what two of them share meanwhile at least, in bytes: what
/// their first segments bring depends on when they come.
const WATCHED: Duration = Duration::from_secs(18);
const SHARED_MIN: u64 = 1_500_000;
/// Long enough for a link, were there a way.
const NO_WAY: Duration = Duration::from_secs(4);

fn relays(turn: &TurnServer, secret: &str) -> RelayConfig {
    RelayConfig {
        urls: vec![turn.url()],
        secret: Some(secret.into()),
        ..RelayConfig::default()
    }
}

fn relay_only(relay: RelayConfig) -> Config {
    Config {
        relay,
        privacy: PrivacyConfig {
            relay_only: true,
            consent: true,
            ..PrivacyConfig::default()
        },
        ..Config::default()
    }
}

fn agent(stack: &Stack, tracker: &OwnTracker) -> AgentConfig {
    AgentConfig {
        tracker: tracker.url(),
        consent: Some(true),
        ..stack.agent_config()
    }
}

fn is_linked(viewers: &[Viewer]) -> bool {
    viewers.iter().all(|viewer| viewer.stats().links == 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_viewers_share_through_a_relay_alone() {
    let stack = Stack::start(StackOptions::default()).await;
    let turn = TurnServer::start().await;
    let tracker = OwnTracker::start(relay_only(relays(&turn, TURN_SECRET))).await;
    let config = agent(&stack, &tracker);
    let viewers = [
        Viewer::start(config.clone()).await,
        Viewer::start(config).await,
    ];
    wait_for("both are linked", async || is_linked(&viewers)).await;
    tokio::time::sleep(WATCHED).await;
    let mut reports = Vec::new();
    for viewer in viewers {
        reports.push(viewer.stop().await);
    }
    let relayed: u64 = reports
        .iter()
        .flat_map(|report| &report.segments)
        .map(|segment| segment.bytes_p2p)
        .sum();
    assert!(relayed > SHARED_MIN, "{relayed} bytes came from the other");
    assert!(share_of_peers(&reports, 3) > 0.2, "{reports:?}");
    for report in &reports {
        assert_eq!((report.stalls, report.failed, report.invalid), (0, 0, 0));
    }
    wait_for("the relay tells of what it passed on", async || {
        turn.bytes_relayed() >= relayed
    })
    .await;
    println!(
        "{relayed} bytes of segments, {} relayed",
        turn.bytes_relayed()
    );
    tracker.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_relays_secret_there_is_no_other_way_and_the_cdn_is_enough() {
    let stack = Stack::start(StackOptions::default()).await;
    let turn = TurnServer::start().await;
    let tracker = OwnTracker::start(relay_only(relays(&turn, "another secret"))).await;
    let config = agent(&stack, &tracker);
    let viewers = [
        Viewer::start(config.clone()).await,
        Viewer::start(config).await,
    ];
    let joined = |viewer: &Viewer| viewer.stats().tracker_up && viewer.stats().peer.is_some();
    wait_for("both have joined", async || viewers.iter().all(joined)).await;
    tokio::time::sleep(NO_WAY).await;
    for viewer in viewers {
        assert_eq!(viewer.stats().links, 0);
        let report = viewer.stop().await;
        assert_eq!((report.stalls, report.failed, report.invalid), (0, 0, 0));
        assert!(report.segments.iter().all(|segment| segment.bytes_p2p == 0));
    }
    tracker.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_with_relays_uses_them_only_where_there_is_no_direct_way() {
    let stack = Stack::start(StackOptions::default()).await;
    let turn = TurnServer::start().await;
    let office = NetworkConfig {
        cidrs: vec!["127.0.0.0/8".parse().expect("a network")],
        site: Some("office".into()),
        relay: true,
        ..NetworkConfig::default()
    };
    let tracker = OwnTracker::start(Config {
        relay: relays(&turn, TURN_SECRET),
        networks: vec![office],
        ..Config::default()
    })
    .await;
    let free = AgentConfig {
        consent: None,
        ..agent(&stack, &tracker)
    };
    // It shows its address to nobody, whatever the tracker asks for.
    let shy = AgentConfig {
        relay_only: true,
        ..free.clone()
    };
    let viewers = [Viewer::start(free.clone()).await, Viewer::start(free).await];
    wait_for("both are linked", async || is_linked(&viewers)).await;
    tokio::time::sleep(WATCHED).await;
    for viewer in viewers {
        let report = viewer.stop().await;
        assert_eq!((report.stalls, report.failed, report.invalid), (0, 0, 0));
    }
    let direct = turn.bytes_relayed();
    assert!(direct < 100_000, "{direct} bytes took the relay");
    let viewers = [Viewer::start(shy.clone()).await, Viewer::start(shy).await];
    wait_for("both are linked", async || is_linked(&viewers)).await;
    tokio::time::sleep(WATCHED).await;
    for viewer in viewers {
        viewer.stop().await;
    }
    wait_for("what the shy ones share takes the relay", async || {
        turn.bytes_relayed() > direct + SHARED_MIN
    })
    .await;
    tracker.stop().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_that_comes_later_opens_the_swarm_and_its_end_closes_it() {
    let stack = Stack::start(StackOptions::default()).await;
    let tracker = OwnTracker::start(Config {
        privacy: PrivacyConfig {
            consent: true,
            ..PrivacyConfig::default()
        },
        ..Config::default()
    })
    .await;
    let agreed = Viewer::start(agent(&stack, &tracker)).await;
    let asked = Viewer::start(AgentConfig {
        consent: None,
        ..agent(&stack, &tracker)
    })
    .await;
    let declined = Viewer::start(AgentConfig {
        consent: Some(false),
        ..agent(&stack, &tracker)
    })
    .await;
    wait_for("one has joined", async || agreed.stats().peer.is_some()).await;
    tokio::time::sleep(NO_WAY).await;
    assert_eq!(tracker.viewers().await, 1, "the others are not let in");
    assert_eq!(agreed.stats().links, 0);
    asked.set_consent(true).await;
    declined.set_consent(true).await;
    wait_for("all are linked", async || {
        [&agreed, &asked, &declined]
            .iter()
            .all(|viewer| viewer.stats().links == 2)
    })
    .await;
    declined.set_consent(false).await;
    wait_for("one has left", async || {
        declined.stats().links == 0 && agreed.stats().links == 1 && tracker.viewers().await == 2
    })
    .await;
    for viewer in [agreed, asked, declined] {
        let report = viewer.stop().await;
        assert_eq!((report.stalls, report.failed, report.invalid), (0, 0, 0));
    }
    tracker.stop().await;
    stack.stop().await;
}

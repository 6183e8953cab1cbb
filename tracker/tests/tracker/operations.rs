//! What operators do: look closely, kick, drain.

use super::*;
use serde_json::Value;
use swarm_core::wire::tracker::LinkOutcome;
use tracker::tokens::Claims;

const BEARER: &str = "Authorization: Bearer secret\r\n";

async fn start_with_token(public_api: bool) -> Tracker {
    start(Config {
        public_api,
        admin_token: Some("secret".into()),
        fake_networks: true,
        ..config()
    })
    .await
}

impl Tracker {
    async fn api(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path, BEARER).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn api_metric(&self, name: &str) -> u64 {
        let (_, _, body) = self.get("/metrics", BEARER).await;
        let name = format!("shoal_tracker_{name} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the metric is there").parse().unwrap()
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let (status, _, body) = self.exchange("POST", path, BEARER, body).await;
        (status, body)
    }
}

/// Viewers that are all introduced to each other, and say that their links are up.
async fn linked(tracker: &Tracker, count: usize) -> Vec<(Viewer, PeerId)> {
    let mut viewers = Vec::new();
    for _ in 0..count {
        let (viewer, name, _) = tracker.join().await;
        viewers.push((viewer, name));
    }
    for (viewer, _) in &mut viewers {
        for _ in 1..count {
            let peer = viewer.introduction().await.peer;
            let outcome = LinkOutcome::Up;
            let rtt_ms = 9;
            let up = ViewerMsg::Link {
                peer,
                outcome,
                rtt_ms,
            };
            viewer.send(&up).await;
        }
        viewer
            .status(Status {
                track: TrackId(1),
                buffer_ms: 5_000,
                lag_ms: 7_000,
                bytes_p2p: 300_000,
                bytes_cdn: 100_000,
                ..Status::default()
            })
            .await;
    }
    // A connection's messages are handled in order: an answer to the last one of each comes last.
    for index in 0..count {
        let to = viewers[(index + 1) % count].1;
        let payload = &b"done"[..];
        viewers[index]
            .0
            .send(&ViewerMsg::Signal { to, payload })
            .await;
    }
    for (viewer, _) in &mut viewers {
        viewer.next().await.expect("the signal");
    }
    viewers
}

#[tokio::test]
async fn a_stream_is_seen_from_afar_and_closer() {
    let tracker = start_with_token(false).await;
    let viewers = linked(&tracker, 4).await;
    let stream = tracker.api(&format!("/api/streams/{STREAM}")).await;
    assert_eq!(stream["viewers"], 4);
    assert_eq!(stream["native"], 4);
    assert_eq!(stream["links_up"], 6);
    assert_eq!(stream["offload"], 0.75);
    assert!(stream["p2p_kbps"].as_u64().unwrap() > 0);
    let sum = |list: &Value| -> u64 {
        let list = list.as_array().unwrap().iter();
        list.map(|share| share["viewers"].as_u64().unwrap()).sum()
    };
    for shares in ["countries", "isps", "tracks"] {
        assert_eq!(sum(&stream[shares]), 4, "{shares}");
    }
    for (name, class) in [("buffer_ms", 3), ("lag_ms", 3)] {
        assert_eq!(stream[name]["counts"][class], 4, "{name}: {stream}");
    }
    let groups = tracker.api(&format!("/api/streams/{STREAM}/groups")).await;
    let group = &groups["groups"][0];
    assert_eq!(
        (&group["viewers"], &group["links_up"]),
        (&4.into(), &6.into())
    );
    assert_eq!(groups["truncated"], false);
    let path = format!("/api/streams/{STREAM}/mesh?group={}", group["group"]);
    let mesh = tracker.api(&path).await;
    assert_eq!(mesh["links_up"].as_array().unwrap().len(), 6);
    let other = tracker
        .api(&format!("/api/streams/{STREAM}/mesh?group=77"))
        .await;
    assert_eq!(other["viewers"].as_array().unwrap().len(), 0);
    let (_, name) = &viewers[0];
    let around = tracker.api(&format!("/api/viewers/{name}")).await;
    assert_eq!(around["viewer"]["id"], name.to_string());
    let neighbours = around["neighbours"].as_array().unwrap();
    assert!(neighbours.len() == 3 && neighbours.iter().all(|n| n["up"] == true));
    let nodes = tracker.api("/api/nodes").await;
    assert_eq!(nodes.as_array().unwrap().len(), 1);
    assert_eq!(
        (&nodes[0]["viewers"], &nodes[0]["connections"]),
        (&4.into(), &4.into())
    );
    for path in [
        "/api/viewers/12",
        "/api/viewers/00000000000000zz",
        "/api/streams/xyz",
        "/api/nothing",
    ] {
        assert_eq!(tracker.get(path, BEARER).await.0, 404, "{path}");
    }
    let wrong = format!("/api/streams/{STREAM}/mesh?group=x");
    assert_eq!(tracker.get(&wrong, BEARER).await.0, 400);
    tracker.stop().await;
}

#[tokio::test]
async fn a_kicked_viewer_is_refused_and_gone() {
    let tracker = start_with_token(true).await;
    let mut viewers = linked(&tracker, 2).await;
    let path = format!("/api/viewers/{}/kick", viewers[0].1);
    let (status, ..) = tracker.exchange("POST", &path, "", "").await;
    assert_eq!(status, 401, "a public API lets nobody change anything");
    assert_eq!(tracker.post(&path, "").await.0, 200);
    viewers[0].0.expect_refusal(RefusalCode::NotServed).await;
    let bytes = viewers[1].0.next().await.unwrap();
    let peer = viewers[0].1;
    assert_eq!(TrackerMsg::decode(&bytes), Ok(TrackerMsg::Gone { peer }));
    assert_eq!(tracker.post(&path, "").await.0, 404);
    tracker.stop().await;
}

#[tokio::test]
async fn a_kicked_viewer_does_not_come_back_under_another_name() {
    let tracker = start(Config {
        admin_token: Some("secret".into()),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let at = async |address| {
        let header = [("X-Forwarded-For", address)];
        tracker.connect_with(&header).await.unwrap()
    };
    let mut viewer = at("198.51.100.1").await;
    let (peer, secret, _) = viewer.join(&join()).await;
    let path = format!("/api/viewers/{peer}/kick");
    assert_eq!(tracker.post(&path, "").await.0, 200);
    viewer.expect_refusal(RefusalCode::NotServed).await;
    let resume = Some((peer, secret));
    for (address, resume) in [("198.51.100.1", None), ("198.51.100.2", resume)] {
        let mut again = at(address).await;
        let joins = Join { resume, ..join() };
        again.send(&ViewerMsg::Join(joins)).await;
        again.expect_refusal(RefusalCode::NotServed).await;
    }
    at("198.51.100.2").await.join(&join()).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_viewer_that_lost_its_connection_and_may_come_back_is_kicked_too() {
    let (folder, mint) = admission::issuer();
    let tracker = start(Config {
        admin_token: Some("secret".into()),
        ..admission::with_tokens(&folder)
    })
    .await;
    let (tokens, mut viewers) = ([1, 2].map(|n| mint_for(&mint, n)), Vec::new());
    for token in &tokens {
        let (token, mut viewer) = (token.as_bytes(), tracker.connect().await);
        let (name, secret, _) = viewer.join(&Join { token, ..join() }).await;
        viewers.push((viewer, name, secret));
    }
    let (mut other, ..) = viewers.pop().unwrap();
    let (viewer, name, secret) = viewers.pop().unwrap();
    assert_eq!(other.introduction().await.peer, name);
    drop(viewer);
    let path = format!("/api/viewers/{name}");
    let away = async { while tracker.api(&path).await["viewer"]["connected"] == true {} };
    timeout(PATIENCE, away).await.expect("it is missed");
    let path = format!("{path}/kick");
    assert_eq!(tracker.post(&path, "").await.0, 200);
    let bytes = other.next().await.unwrap();
    assert_eq!(
        TrackerMsg::decode(&bytes),
        Ok(TrackerMsg::Gone { peer: name })
    );
    assert_eq!(tracker.post(&path, "").await.0, 404);
    // Neither under its name nor by its token.
    let resume = Some((name, secret));
    for (token, resume) in [(&tokens[1], resume), (&tokens[0], None)] {
        let (token, mut again) = (token.as_bytes(), tracker.connect().await);
        let joins = Join {
            token,
            resume,
            ..join()
        };
        again.send(&ViewerMsg::Join(joins)).await;
        again.expect_refusal(RefusalCode::NotServed).await;
    }
    let mut third = tracker.connect().await;
    let token = mint_for(&mint, 3);
    let token = token.as_bytes();
    third.join(&Join { token, ..join() }).await;
    tracker.stop().await;
}

/// A token of somebody's.
fn mint_for(mint: &impl Fn(Claims) -> String, number: u8) -> String {
    mint(Claims {
        sub: Some(format!("viewer {number}")),
        ..admission::claims()
    })
}

#[tokio::test]
async fn what_a_viewer_says_to_have_received_is_no_more_than_it_can_have() {
    let tracker = start_with_token(false).await;
    let (mut viewer, peer, _) = tracker.join().await;
    let started = std::time::Instant::now();
    for _ in 0..20 {
        viewer
            .status(Status {
                track: TrackId(1),
                bytes_p2p: u32::MAX,
                ..Status::default()
            })
            .await;
    }
    // Its own signal to itself is refused, and counted behind all that.
    let payload = &b"x"[..];
    viewer.send(&ViewerMsg::Signal { to: peer, payload }).await;
    let counted = async { while tracker.api_metric("signals_refused_total").await == 0 {} };
    timeout(PATIENCE, counted).await.expect("all is counted");
    let stream = tracker.api(&format!("/api/streams/{STREAM}")).await;
    let bytes = stream["bytes_p2p"].as_u64().unwrap();
    let possible = 4_000_000_000 + 250_000_000 * (started.elapsed().as_secs() + 1);
    assert!((1_000_000_000..=possible).contains(&bytes), "{bytes}");
    tracker.stop().await;
}

#[tokio::test]
async fn who_came_in_just_before_a_drain_is_sent_elsewhere_instead_of_let_in() {
    let place = "wss://elsewhere.example/".to_owned();
    let tracker = start(Config {
        admin_token: Some("secret".into()),
        drain: tracker::DrainConfig {
            places: vec![place.clone()],
        },
        ..config()
    })
    .await;
    let mut late = tracker.connect().await;
    let (status, _) = tracker.post("/api/drain", "{\"over_ms\": 60000}").await;
    assert_eq!(status, 200);
    late.send(&ViewerMsg::Join(join())).await;
    let bytes = late.next().await.expect("where to go");
    match TrackerMsg::decode(&bytes).unwrap() {
        TrackerMsg::Reconnect { places, .. } => assert_eq!(places, [place.as_str()]),
        other => panic!("{other:?}"),
    }
    assert_eq!(late.next().await, None);
    tracker.stop().await;
}

#[tokio::test]
async fn a_drain_sends_viewers_away_and_lets_none_in_until_it_ends() {
    let tracker = start_with_token(false).await;
    let mut viewers = linked(&tracker, 3).await;
    let (status, _) = tracker.post("/api/drain", "{\"over\": 3}").await;
    assert_eq!(status, 400);
    let (status, _) = tracker.post("/api/drain", "{\"over_ms\": 300}").await;
    assert_eq!(status, 200);
    assert_eq!(tracker.get("/readyz", "").await.0, 503);
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    assert!(tracker.connect_with(&[]).await.is_err(), "nobody comes in");
    for (viewer, _) in &mut viewers {
        let bytes = viewer.next().await.unwrap();
        match TrackerMsg::decode(&bytes).unwrap() {
            TrackerMsg::Reconnect { after_ms, .. } => assert!((500..=4_500).contains(&after_ms)),
            other => panic!("{other:?}"),
        }
        // Nobody is said to be gone: whoever has links keeps them.
        assert_eq!(viewer.next().await, None);
    }
    let (status, ..) = tracker.exchange("DELETE", "/api/drain", BEARER, "").await;
    assert_eq!(status, 200);
    assert_eq!(tracker.get("/readyz", "").await.0, 200);
    let (_, head, body) = tracker.get("/metrics", BEARER).await;
    assert!(head.contains("text/plain") && body.contains("\nshoal_tracker_draining 0\n"));
    tracker.join().await;
    tracker.stop().await;
}

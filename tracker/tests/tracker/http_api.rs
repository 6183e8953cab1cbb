//! What operators and dashboards see.

use std::collections::BTreeSet;

use super::*;
use swarm_core::wire::tracker::LinkOutcome;

#[tokio::test]
async fn the_mesh_shows_viewers_links_and_sums() {
    let tracker = start(Config {
        fake_networks: true,
        ..config()
    })
    .await;
    let ((mut a, a_name), (mut b, b_name)) = tracker.join_pair().await;
    a.send(&ViewerMsg::Link {
        peer: b_name,
        outcome: LinkOutcome::Up,
        rtt_ms: 12,
    })
    .await;
    let status = Status {
        track: TrackId(1),
        buffer_ms: 9_000,
        links: 1,
        bytes_p2p: 3_000_000,
        bytes_cdn: 1_000_000,
        bytes_up: 500,
        stalls: 1,
        stalled_ms: 250,
        ..Status::default()
    };
    a.status(status).await;
    a.send(&ViewerMsg::Signal {
        to: b_name,
        payload: b"done",
    })
    .await;
    b.next().await.expect("everything before it was handled");
    let mesh = tracker.mesh().await;
    let viewers = mesh["viewers"].as_array().unwrap();
    assert_eq!(viewers.len(), 2);
    let me = viewers
        .iter()
        .find(|v| v["id"] == a_name.to_string())
        .unwrap();
    assert_eq!(me["buffer_ms"], 9_000);
    assert_eq!(me["native"], true);
    assert_eq!(me["bytes_p2p"], 3_000_000);
    assert!(me["asn"].as_u64().unwrap() >= 64_512, "an invented ISP");
    assert!(!me["isp"].as_str().unwrap().is_empty());
    assert_eq!(me["country"].as_str().unwrap().len(), 2);
    assert!(me["p2p_kbps"].as_u64().unwrap() > 0);
    let link = &mesh["links_up"][0];
    let ends = [link["a"].as_str().unwrap(), link["b"].as_str().unwrap()];
    assert!(
        ends.contains(&a_name.to_string().as_str()) && ends.contains(&b_name.to_string().as_str())
    );
    assert_eq!(link["rtt_ms"], 12);
    assert_eq!(mesh["totals"]["offload"], 0.75);
    assert_eq!(mesh["totals"]["stalls"], 1);
    let (status, head, body) = tracker
        .get("/api/streams", "Origin: https://x.example\r\n")
        .await;
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: *"));
    let streams: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(streams["streams"][0]["stream"], STREAM.to_string());
    assert_eq!(streams["streams"][0]["viewers"], 2);
    tracker.stop().await;
}

/// What stands in backticks in the first cells of the table with this head.
fn named_in_table<'a>(page: &'a str, head: &str) -> BTreeSet<&'a str> {
    let (_, table) = page.split_once(head).expect("the table is there");
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.filter_map(|name| name.split('{').next()).collect()
}

#[tokio::test]
async fn the_manuals_name_the_metrics_that_there_are() {
    let tracker = start(config()).await;
    let (_, _, body) = tracker.get("/metrics", "").await;
    let lines = || {
        body.lines()
            .filter_map(|line| line.strip_prefix("shoal_tracker_"))
    };
    let there: BTreeSet<&str> = lines()
        .filter_map(|line| line.split([' ', '{']).next())
        .collect();
    let reasons = lines().filter_map(|line| line.strip_prefix("refusals_total{why=\""));
    let reasons: BTreeSet<&str> = reasons.filter_map(|rest| rest.split('"').next()).collect();

    let manuals = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating");
    let read = |page: &str| std::fs::read_to_string(format!("{manuals}/{page}")).unwrap();
    let (watching, webtorrent) = (read("watching.md"), read("webtorrent.md"));
    let of_webtorrent = named_in_table(&webtorrent, "| metric | says |");
    let of_webtorrent = of_webtorrent
        .iter()
        .map(|name| format!("webtorrent_{name}"));
    let all = named_in_table(&watching, "| metric | says |");
    let all: BTreeSet<String> = all
        .into_iter()
        .map(str::to_owned)
        .chain(of_webtorrent)
        .collect();
    let known: BTreeSet<String> = there.iter().copied().map(str::to_owned).collect();
    let differ: Vec<_> = all.symmetric_difference(&known).collect();
    assert!(
        differ.is_empty(),
        "named or there, and not both: {differ:?}"
    );
    assert_eq!(
        named_in_table(&watching, "| `why` | refused are |"),
        reasons
    );

    // In alerts, and wherever else a manual asks for one.
    let mut asked_for = 0;
    for page in std::fs::read_dir(manuals).unwrap() {
        let text = std::fs::read_to_string(page.unwrap().path()).unwrap();
        for rest in text.split("shoal_tracker_").skip(1) {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let name = rest.split(|c| !is_name(c)).next().unwrap_or_default();
            // What all names of a kind begin with.
            if !name.is_empty() && !name.ends_with('_') {
                assert!(there.contains(name), "{name}");
                asked_for += 1;
            }
        }
    }
    assert!(asked_for > 10, "{asked_for}");
    tracker.stop().await;
}

#[tokio::test]
async fn the_api_and_the_metrics_ask_for_the_admin_token() {
    let tracker = start(Config {
        public_api: false,
        admin_token: Some("secret".into()),
        ..config()
    })
    .await;
    for path in ["/api/streams", "/metrics"] {
        assert_eq!(tracker.get(path, "").await.0, 401);
        assert_eq!(
            tracker.get(path, "Authorization: Bearer wrong\r\n").await.0,
            401
        );
        let (status, head, _) = tracker.get(path, "Authorization: Bearer secret\r\n").await;
        assert_eq!(status, 200);
        assert!(!head.contains("access-control"));
    }
    let (_, _, body) = tracker
        .get("/metrics", "Authorization: Bearer secret\r\n")
        .await;
    assert!(
        body.contains("\nshoal_tracker_admin_refused_total 4\n"),
        "{body}"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn health_metrics_and_unknown_streams() {
    let tracker = start(config()).await;
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    assert_eq!(tracker.get("/readyz", "").await.0, 200);
    assert_eq!(
        tracker
            .get(&format!("/api/streams/{STREAM}/mesh"), "")
            .await
            .0,
        404
    );
    assert_eq!(tracker.get("/api/streams/xyz/mesh", "").await.0, 404);
    let (_a, ..) = tracker.join().await;
    assert_eq!(tracker.metric("joins_total").await, 1);
    assert_eq!(tracker.metric("viewers").await, 1);
    assert_eq!(tracker.metric("connections").await, 1);
    tracker.stop().await;
}

#[tokio::test]
async fn what_viewers_reported_stays_counted_when_their_stream_is_over() {
    let tracker = start(config()).await;
    let (mut viewer, ..) = tracker.join().await;
    viewer
        .status(Status {
            track: TrackId(1),
            bytes_p2p: 3_000,
            bytes_cdn: 1_000,
            bytes_up: 500,
            stalls: 2,
            stalled_ms: 250,
            ..Status::default()
        })
        .await;
    viewer.send(&ViewerMsg::Leave).await;
    assert_eq!(viewer.next().await, None);
    let over = async { while tracker.metric("streams").await > 0 {} };
    timeout(PATIENCE, over).await.expect("the stream is over");
    for (name, expected) in [
        ("stream_bytes_p2p", 0),
        ("bytes_p2p_total", 3_000),
        ("bytes_cdn_total", 1_000),
        ("bytes_up_total", 500),
        ("stalls_total", 2),
        ("stalled_ms_total", 250),
    ] {
        assert_eq!(tracker.metric(name).await, expected, "{name}");
    }
    assert!(tracker.metric("resident_bytes").await > 1_000_000);
    let (_, _, body) = tracker.get("/metrics", "").await;
    assert!(body.contains("\nshoal_tracker_build_info{version=\""));
    tracker.stop().await;
}

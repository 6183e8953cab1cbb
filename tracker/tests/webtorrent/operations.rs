//! What operators see of WebTorrent viewers, and do to them.

use super::*;

const TOKEN: &str = "secret";

fn operated() -> Config {
    Config {
        admin_token: Some(TOKEN.into()),
        ..config()
    }
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

impl Tracker {
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

#[tokio::test]
async fn swarms_and_their_viewers_are_listed_and_counted() {
    let tracker = start(operated()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.announced("b").await;
    b.send(&announce("b", &["o"])).await;
    b.next().await;
    a.expect_offer("b", "o").await;
    a.send(&answer("a", "b", "o")).await;
    b.next().await;
    let (status, swarms) = tracker.ask("GET", "/api/swarms", "").await;
    assert_eq!(status, 200);
    let line = json!({"swarm": hex_of(HASH), "viewers": 2, "complete": 0, "pairs": 1});
    assert_eq!(swarms, json!({"swarms": [line], "count": 1}));
    let path = format!("/api/swarms/{}", hex_of(HASH));
    let (status, swarm) = tracker.ask("GET", &path, "").await;
    assert_eq!((status, &swarm["viewers"]), (200, &json!(2)));
    let list = swarm["list"].as_array().unwrap();
    assert!(list.iter().any(|v| v["id"] == hex_of(&peer("a"))));
    assert!(list.iter().all(|v| v["partners"] == 1 && v["node"] != ""));
    let (_, nodes) = tracker.ask("GET", "/api/nodes", "").await;
    assert_eq!(nodes[0]["webtorrent_viewers"], 2);
    for path in [
        "/api/swarms/00",
        "/api/swarms/zz",
        &format!("/api/swarms/{}", "0".repeat(40)),
    ] {
        assert_eq!(tracker.ask("GET", path, "").await.0, 404, "{path}");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn who_is_in_a_swarm_that_is_not_listed_any_more_is_put_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hashes");
    std::fs::write(&path, format!("{HASH}\n")).unwrap();
    let listed = WebTorrentConfig {
        info_hashes_file: Some(path.clone()),
        ..WebTorrentConfig::default()
    };
    let tracker = start(with(listed)).await;
    let mut viewer = tracker.announced("a").await;
    std::fs::write(&path, "bbbbbbbbbbbbbbbbbbbb\n").unwrap();
    let put_out = async {
        loop {
            viewer.send(&announce("a", &[])).await;
            if let Some(why) = viewer.next().await["failure reason"].as_str() {
                return why.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let why = timeout(PATIENCE, put_out).await.expect("it is put out");
    assert!(why.contains("not served"), "{why}");
    assert_eq!(tracker.metric("webtorrent_viewers").await, 0);
    tracker.stop().await;
}

#[tokio::test]
async fn a_kicked_viewer_is_closed_and_its_id_refused() {
    let tracker = start(operated()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.announced("b").await;
    let swarm = format!("/api/swarms/{}", hex_of(HASH));
    let path = format!("{swarm}/viewers/{}/kick", hex_of(&peer("a")));
    assert_eq!(tracker.ask("POST", &path, "").await.0, 200);
    let heard = a.next().await;
    assert!(heard["failure reason"].is_string(), "{heard}");
    a.expect_close(CloseCode::Policy).await;
    assert_eq!(tracker.ask("POST", &path, "").await.0, 404);
    let mut again = tracker.connect().await;
    again.send(&announce("a", &[])).await;
    let heard = again.next().await;
    assert!(heard["failure reason"].is_string(), "{heard}");
    // Others are not concerned.
    b.send(&announce("b", &["o"])).await;
    assert_eq!(b.next().await["complete"], 0);
    let (_, seen) = tracker.ask("GET", &swarm, "").await;
    assert_eq!(seen["viewers"], 1);
    // It was a mistake.
    assert_eq!(tracker.ask("DELETE", &path, "").await.0, 200);
    assert_eq!(tracker.ask("DELETE", &path, "").await.0, 404);
    tracker.announced("a").await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_drain_closes_viewers_one_after_the_other_and_lets_none_in() {
    let tracker = start(operated()).await;
    let mut viewers = Vec::new();
    for number in 0..6 {
        viewers.push(tracker.announced(&number.to_string()).await);
    }
    let mut idle = tracker.connect().await;
    let drain = "{\"over_ms\": 600}";
    assert_eq!(tracker.ask("POST", "/api/drain", drain).await.0, 200);
    let (_, left) = tracker.ask("GET", "/api/nodes", "").await;
    assert!(
        left[0]["webtorrent_viewers"].as_u64() > Some(0),
        "not all at once"
    );
    assert!(tracker.connect_at("/announce", "192.0.2.1").await.is_err());
    idle.send(&announce("late", &[])).await;
    let heard = idle.next().await;
    assert!(heard["failure reason"].is_string(), "{heard}");
    for viewer in &mut viewers {
        viewer.expect_close(CloseCode::Away).await;
    }
    assert_eq!(tracker.ask("DELETE", "/api/drain", "").await.0, 200);
    tracker.announced("back").await;
    tracker.stop().await;
}

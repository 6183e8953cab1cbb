//! Who is refused, and what operators learn of it.

use super::*;
use tracker::{TlsConfig, TokensConfig, tokens};

async fn refused_for(tracker: &Tracker, why: &str) -> u64 {
    let name = format!("refusals_total{{why=\"{why}\"}}");
    tracker.metric(&name).await
}

/// Each of them once, and nothing else.
async fn expect_reasons(tracker: &Tracker, expected: &[&str]) {
    let (_, _, body) = tracker.get("/metrics", "").await;
    let lines = body.lines();
    let reasons = lines.filter_map(|line| line.strip_prefix("shoal_tracker_refusals_total{why=\""));
    let mut counted: Vec<&str> = reasons
        .filter_map(|line| line.strip_suffix("\"} 1"))
        .collect();
    counted.sort_unstable();
    assert_eq!(counted, expected);
}

#[tokio::test]
async fn what_is_refused_before_the_handshake_is_counted_by_its_reason() {
    let tracker = start(Config {
        origins: vec!["https://good.example".into()],
        limits: LimitsConfig {
            connections_max: 1,
            connections_per_address_max: 2,
            ..limits()
        },
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let at = |address| [("X-Forwarded-For", address)];
    let bad = ("Origin", "https://bad.example");
    assert!(
        tracker
            .connect_with(&[at("192.0.2.1")[0], bad])
            .await
            .is_err()
    );
    assert_eq!(tracker.get("/shoal", "").await.0, 426);
    let _only = tracker.connect_with(&at("192.0.2.2")).await.unwrap();
    assert!(tracker.connect_with(&at("192.0.2.3")).await.is_err());
    expect_reasons(&tracker, &["full", "handshake", "origin"]).await;
    tracker.stop().await;
    let few = LimitsConfig {
        connections_per_address_max: 1,
        ..limits()
    };
    let tracker = start(Config {
        limits: few,
        admin_token: Some("secret".into()),
        ..config()
    })
    .await;
    let _only = tracker.connect().await;
    assert!(tracker.connect_with(&[]).await.is_err());
    let bearer = "Authorization: Bearer secret\r\n";
    let (status, ..) = tracker.exchange("POST", "/api/drain", bearer, "").await;
    assert_eq!(status, 200);
    assert!(tracker.connect_with(&[]).await.is_err());
    let (_, _, body) = tracker.get("/metrics", bearer).await;
    for why in ["address", "draining"] {
        let line = format!("refusals_total{{why=\"{why}\"}} 1\n");
        assert!(body.contains(&line), "{body}");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn connections_that_fail_below_http_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(
        folder.path().join("key.pem"),
        pair.signing_key.serialize_pem(),
    )
    .unwrap();
    std::fs::write(folder.path().join("cert.pem"), pair.cert.pem()).unwrap();
    let tracker = start(Config {
        tls: TlsConfig {
            certificate: Some(folder.path().join("cert.pem")),
            key: Some(folder.path().join("key.pem")),
        },
        // Plain connections of proxies are answered.
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..config()
    })
    .await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = socket.connect(tracker.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let counted = async { while refused_for(&tracker, "entrance").await == 0 {} };
    timeout(PATIENCE, counted).await.expect("it is counted");
    let year_3000_s = 32_503_680_000;
    let end_s = tracker.metric("tls_certificate_end_s").await;
    assert!(
        (4_000_000_000..=200 * year_3000_s).contains(&end_s),
        "{end_s}"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn viewers_that_may_not_join_are_counted_by_what_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let pair = tokens::new_key_pair(tokens::KeyKind::Ed25519).unwrap();
    std::fs::write(folder.path().join("k.pem"), pair.public_pem).unwrap();
    let tracker = start(Config {
        streams: vec![STREAM.to_string()],
        tokens: TokensConfig {
            keys: Some(folder.path().into()),
            ..TokensConfig::default()
        },
        limits: LimitsConfig {
            joins_burst: 2,
            joins_per_s: 0,
            ..limits()
        },
        ..config()
    })
    .await;
    let stranger = Join {
        stream: StreamId([4; 16]),
        ..join()
    };
    for (join, code) in [
        (join(), RefusalCode::BadToken),
        (stranger, RefusalCode::NotServed),
        (join(), RefusalCode::Quota),
    ] {
        let mut viewer = tracker.connect().await;
        viewer.send(&ViewerMsg::Join(join)).await;
        viewer.expect_refusal(code).await;
    }
    let mut rude = tracker.connect().await;
    rude.socket.send(Message::Text("{}".into())).await.unwrap();
    rude.expect_refusal(RefusalCode::BadMessage).await;
    expect_reasons(&tracker, &["bad_message", "not_served", "quota", "token"]).await;
    tracker.stop().await;
}

#[tokio::test]
async fn only_listed_streams_are_served_and_operators_see_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams");
    std::fs::write(&path, format!("# ours\n{} The second\n", StreamId([4; 16]))).unwrap();
    let tracker = start(Config {
        streams: vec![format!("{STREAM} Main hall")],
        streams_file: Some(path.clone()),
        reload_ms: 20,
        ..config()
    })
    .await;
    let (_viewer, ..) = tracker.join().await;
    let of = |stream: u8| Join {
        stream: StreamId([stream; 16]),
        ..join()
    };
    tracker.connect().await.join(&of(4)).await;
    let mut stranger = tracker.connect().await;
    stranger.send(&ViewerMsg::Join(of(5))).await;
    stranger.expect_refusal(RefusalCode::NotServed).await;
    let (_, _, body) = tracker.get("/api/streams", "").await;
    let streams: serde_json::Value = serde_json::from_str(&body).unwrap();
    let streams = streams["streams"].as_array().unwrap();
    let mut names: Vec<&str> = streams
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["Main hall", "The second"]);
    let (_, _, body) = tracker.get(&format!("/api/streams/{STREAM}"), "").await;
    let stream: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(stream["name"], "Main hall");
    // A list that cannot be read is told, and changes nothing.
    std::fs::write(&path, "no stream\n").unwrap();
    let told = async { while tracker.metric("files_outdated").await == 0 {} };
    timeout(PATIENCE, told).await.expect("it is told");
    tracker.connect().await.join(&of(4)).await;
    tracker.stop().await;
}

#[tokio::test]
async fn proxies_that_do_not_fit_the_settings_are_noticed() {
    let tracker = start(Config {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..config()
    })
    .await;
    let xff = [("X-Forwarded-For", "198.51.100.1")];
    tracker.connect_with(&xff).await.unwrap();
    assert_eq!(tracker.metric("address_unnamed_total").await, 0);
    tracker
        .connect_with(&[("Forwarded", "for=198.51.100.1")])
        .await
        .unwrap();
    assert_eq!(tracker.metric("address_unnamed_total").await, 1);
    tracker.stop().await;
    let tracker = start(config()).await;
    tracker.connect().await;
    assert_eq!(tracker.metric("address_header_ignored_total").await, 0);
    tracker.connect_with(&xff).await.unwrap();
    assert_eq!(tracker.metric("address_header_ignored_total").await, 1);
    tracker.stop().await;
}

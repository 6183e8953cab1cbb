//! What clients that do not behave get.

use tokio_tungstenite::tungstenite::Bytes;

use super::*;

#[tokio::test]
async fn what_is_malformed_is_said_and_ten_times_is_enough() {
    let tracker = start(config()).await;
    let mut client = tracker.connect().await;
    for text in [
        "{",
        "[]",
        "{\"action\":\"steal\"}",
        "{\"action\":\"announce\"}",
    ] {
        client.send_text(text.into()).await;
        let heard = client.next().await;
        assert_eq!(
            heard["action"], "announce",
            "or clients drop the connection"
        );
        assert!(heard["failure reason"].is_string(), "{heard}");
    }
    client.send(&announce("a", &[])).await;
    assert!(client.next().await["interval"].is_u64());
    for _ in 0..6 {
        client.send_text("{\"action\":\"scrape\"}".into()).await;
    }
    client.expect_close(CloseCode::Policy).await;
    assert_eq!(tracker.metric("webtorrent_malformed_total").await, 10);
    tracker.stop().await;
}

#[tokio::test]
async fn binary_frames_of_old_clients_are_understood_and_answered_with_text() {
    let tracker = start(config()).await;
    let mut client = tracker.connect().await;
    let text = announce("a", &[]).to_string();
    client
        .socket
        .send(Message::Binary(text.into_bytes().into()))
        .await
        .unwrap();
    assert!(client.next().await["interval"].is_u64());
    client
        .socket
        .send(Message::Binary(Bytes::from_static(&[0xff; 9])))
        .await
        .unwrap();
    assert!(client.next().await["failure reason"].is_string());
    tracker.stop().await;
}

#[tokio::test]
async fn what_is_too_large_closes_and_giant_descriptions_below_it_pass() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.connect().await;
    let giant = "x".repeat(30_000);
    let mut message = announce("b", &["o"]);
    message["offers"][0]["offer"]["sdp"] = json!(giant);
    b.send(&message).await;
    b.next().await;
    assert_eq!(a.next().await["offer"]["sdp"], giant);
    message["offers"][0]["offer"]["sdp"] = json!("x".repeat(70_000));
    b.send(&message).await;
    b.expect_close(CloseCode::Size).await;
    a.expect_silence().await;
    tracker.stop().await;
}

#[tokio::test]
async fn floods_are_cut() {
    let limits = LimitsConfig {
        messages_burst: 10,
        messages_per_s: 1,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut client = tracker.connect().await;
    for number in 0..20 {
        let _ = match number % 2 {
            0 => {
                client
                    .socket
                    .send(Message::Text(announce("a", &["o"]).to_string().into()))
                    .await
            }
            _ => client.socket.send(Message::Ping(Bytes::new())).await,
        };
    }
    client.expect_close(CloseCode::Policy).await;
    assert_eq!(tracker.metric("over_quota_total").await, 1);
    tracker.stop().await;
}

#[tokio::test]
async fn one_connection_joins_a_bounded_number_of_swarms() {
    let few = WebTorrentConfig {
        swarms_per_connection_max: 2,
        ..WebTorrentConfig::default()
    };
    let tracker = start(with(few)).await;
    let mut client = tracker.connect().await;
    for (letter, allowed) in [("a", true), ("b", true), ("c", false), ("a", true)] {
        let mut message = announce("me", &[]);
        message["info_hash"] = json!(letter.repeat(20));
        client.send(&message).await;
        let heard = client.next().await;
        assert_eq!(heard.get("failure reason").is_none(), allowed, "{heard}");
    }
    client
        .send(&{
            let mut message = announce("other name", &[]);
            message["info_hash"] = json!("a".repeat(20));
            message
        })
        .await;
    assert!(
        client.next().await["failure reason"].is_string(),
        "names count too"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn join_storms_of_one_address_are_refused() {
    let limits = LimitsConfig {
        joins_burst: 3,
        joins_per_s: 0,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut refused = 0;
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut client = tracker.connect().await;
        client.send(&announce(&number.to_string(), &[])).await;
        refused += u32::from(client.next().await.get("failure reason").is_some());
        clients.push(client);
    }
    assert_eq!(refused, 2);
    let mut elsewhere = tracker.connect_from("192.0.2.99").await;
    elsewhere.send(&announce("else", &[])).await;
    assert!(elsewhere.next().await["interval"].is_u64());
    tracker.stop().await;
}

#[tokio::test]
async fn a_name_moves_within_a_household_and_nobody_else_can_take_it() {
    let tracker = start(config()).await;
    let mut owner = tracker.announced("a").await;
    let mut thief = tracker.connect_from("203.0.113.66").await;
    thief.send(&announce("a", &[])).await;
    let refused = thief.next().await;
    assert!(
        refused["failure reason"]
            .as_str()
            .unwrap()
            .contains("in use"),
        "{refused}"
    );
    let mut b = tracker.connect_from("192.0.2.2").await;
    b.send(&announce("b", &["o1"])).await;
    b.next().await;
    owner.expect_offer("b", "o1").await;
    // The page is loaded anew behind the same address, while its old connection is still open.
    let mut again = tracker.connect().await;
    again.send(&announce("a", &[])).await;
    assert!(again.next().await["interval"].is_u64());
    owner.send(&answer("a", "b", "o1")).await;
    owner.expect_silence().await;
    b.expect_silence().await;
    let mut c = tracker.connect_from("192.0.2.3").await;
    c.send(&announce("c", &["o2", "o3"])).await;
    c.next().await;
    assert_eq!(again.next().await["peer_id"], peer("c"));
    drop(owner);
    assert_eq!(tracker.metric("webtorrent_ids_taken_total").await, 1);
    tracker.stop().await;
}

#[tokio::test]
async fn the_name_of_a_dead_connection_is_free_once_its_ping_stays_unanswered() {
    let tracker = start(config()).await;
    // It is open, but nobody reads or answers there.
    let dead = tracker.announced("a").await;
    let mut other = tracker.connect_from("203.0.113.66").await;
    let mut tries = 0;
    let free = async {
        loop {
            other.send(&announce("a", &[])).await;
            if other.next().await.get("failure reason").is_none() {
                return;
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, free)
        .await
        .expect("the name becomes free");
    assert!(tries > 0, "not at once");
    drop(dead);
    tracker.stop().await;
}

#[tokio::test]
async fn slow_readers_lose_offers_and_hold_nobody_up() {
    let limits = LimitsConfig {
        queue_bytes_max: 64 * 1024,
        messages_burst: 1_000_000,
        ..limits()
    };
    let swarm = tracker::SwarmConfig {
        introductions_burst: 60_000,
        ..tracker::SwarmConfig::default()
    };
    let webtorrent = WebTorrentConfig {
        met_s: 0,
        partners_max: 255,
        pending_max: 255,
        ..WebTorrentConfig::default()
    };
    let tracker = start(Config {
        limits,
        swarm,
        webtorrent,
        ..config()
    })
    .await;
    let slow = tracker.announced("slow").await;
    let mut round = 0;
    while tracker.metric("webtorrent_offers_dropped_total").await == 0 {
        let mut fast = tracker.connect().await;
        for number in 0..10 {
            let name = format!("f{round}x{number}");
            let mut message = announce(&name, &["o"]);
            message["offers"][0]["offer"]["sdp"] = json!("x".repeat(40_000));
            fast.send(&message).await;
            fast.next().await;
            message["event"] = json!("stopped");
            fast.send(&message).await;
        }
        round += 1;
        assert!(round < 100, "the queue is not bounded");
    }
    let mut other = tracker.announced("other").await;
    other.expect_silence().await;
    drop(slow);
    tracker.stop().await;
}

/// A connection on which `bytes` were sent behind the handshake.
async fn upgraded(tracker: &Tracker, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(tracker.address).await.unwrap();
    let head = "GET /announce HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    // In one piece: what comes with the handshake counts too.
    let all = [head.as_bytes(), bytes].concat();
    stream.write_all(&all).await.unwrap();
    stream
}

/// Sends raw bytes over an upgraded connection; the close code that comes back.
async fn close_code_after(tracker: &Tracker, bytes: &[u8]) -> Option<u16> {
    let mut stream = upgraded(tracker, bytes).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the connection ends").unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let frames = &answer[end..];
    let close = frames
        .windows(4)
        .rev()
        .find(|w| w[0] == 0x88 && w[1] == 2)?;
    Some(u16::from_be_bytes([close[2], close[3]]))
}

#[tokio::test]
async fn the_rules_of_websockets_are_kept() {
    let tracker = start(config()).await;
    let masked = |first: u8, payload: &[u8]| {
        let mut bytes = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        bytes
    };
    for (what, bytes, code) in [
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", masked(0xc1, b"{}"), 1002),
        ("a reserved opcode", masked(0x83, b"{}"), 1002),
        ("a fragmented ping", masked(0x09, b""), 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        (
            "a close code that may not be sent",
            masked(0x88, &[0x03, 0xed]),
            1002,
        ),
        ("no UTF-8", masked(0x81, &[0xff, 0xfe]), 1007),
        (
            "a length of 2^63",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            1009,
        ),
        ("a close", masked(0x88, &[0x03, 0xe8]), 1000),
    ] {
        assert_eq!(
            close_code_after(&tracker, &bytes).await,
            Some(code),
            "{what}"
        );
    }
    tracker.stop().await;
}

#[tokio::test]
async fn fragments_with_pings_between_are_one_message() {
    let tracker = start(config()).await;
    let text = announce("a", &[]).to_string();
    let frame = |first: u8, payload: &[u8]| {
        let len = (payload.len() as u16).to_be_bytes();
        let mut bytes = vec![first];
        match payload.len() {
            0..126 => bytes.push(0x80 | len[1]),
            _ => bytes.extend_from_slice(&[0xfe, len[0], len[1]]),
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    };
    let bytes = [
        frame(0x01, &text.as_bytes()[..50]),
        frame(0x89, b"here"),
        frame(0x80, &text.as_bytes()[50..]),
    ];
    let mut stream = upgraded(&tracker, &bytes.concat()).await;
    let wanted = [b"\x8a\x04here".as_slice(), b"\"interval\":"];
    let holds = |answer: &[u8], wanted: &[u8]| answer.windows(wanted.len()).any(|w| w == wanted);
    let mut answer = Vec::new();
    while !wanted.iter().all(|wanted| holds(&answer, wanted)) {
        let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        assert!(read.expect("an answer").unwrap() > 0, "closed instead");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn who_leaves_swarms_without_a_word_may_go_on_to_others_with_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let pair = tokens::new_key_pair(KeyKind::P256).unwrap();
    std::fs::write(folder.path().join("k1.pem"), pair.public_pem).unwrap();
    let claims = tokens::Claims {
        stream: tokens::Values::One("*".into()),
        ..tokens::claims_lasting(Duration::from_secs(3600))
    };
    let token = tokens::mint(&pair.private_pem, Some("k1"), &claims).unwrap();
    let soon = WebTorrentConfig {
        swarms_per_connection_max: 4,
        interval_s_min: 1,
        interval_s_max: 1,
        ..WebTorrentConfig::default()
    };
    let tracker = start(Config {
        tokens: TokensConfig {
            keys: Some(folder.path().into()),
            ..TokensConfig::default()
        },
        limits: LimitsConfig {
            connections_per_token_max: 1,
            joins_per_token_max: 1,
            ..limits()
        },
        ..with(soon)
    })
    .await;
    let path = format!("/announce?token={token}");
    let mut client = tracker.connect_at(&path, "192.0.2.1").await.unwrap();
    let mut refused = 0;
    for number in 0..20 {
        let mut message = announce("me", &[]);
        message["info_hash"] = json!(format!("{number:020}"));
        let welcome = async {
            loop {
                client.send(&message).await;
                let heard = client.next().await;
                let Some(why) = heard["failure reason"].as_str() else {
                    return;
                };
                assert!(why.contains("too many swarms"), "{why}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let welcomed = timeout(PATIENCE, welcome).await;
        welcomed.expect("room for another swarm");
    }
    assert!(refused > 0, "those that it has just left count");
    tracker.stop().await;
}

#[tokio::test]
async fn who_is_in_no_swarm_does_not_stay() {
    let limits = LimitsConfig {
        join_ms: 250,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut member = tracker.announced("a").await;
    let (mut silent, mut asking) = (tracker.connect().await, tracker.connect().await);
    asking.send(&scrape()).await;
    silent.expect_close(CloseCode::Policy).await;
    asking.expect_close(CloseCode::Policy).await;
    assert_eq!(tracker.metric("webtorrent_idle_total").await, 2);
    assert_eq!(tracker.metric("webtorrent_connections").await, 1);
    // One that changes the quality is in none for a moment.
    let mut leave = announce("a", &[]);
    leave["event"] = json!("stopped");
    member.send(&leave).await;
    let mut other = announce("a", &[]);
    other["info_hash"] = json!("b".repeat(20));
    member.send(&other).await;
    assert!(member.next().await["interval"].is_u64());
    tracker.stop().await;
}

#[tokio::test]
async fn strangers_that_ask_again_and_again_are_closed() {
    let listed = WebTorrentConfig {
        info_hashes: vec![HASH.into()],
        ..WebTorrentConfig::default()
    };
    let tracker = start(with(listed)).await;
    let mut other = announce("a", &[]);
    other["info_hash"] = json!("x".repeat(20));
    let mut stranger = tracker.connect().await;
    let mut member = tracker.announced("b").await;
    for _ in 0..3 {
        for client in [&mut stranger, &mut member] {
            client.send(&other).await;
            assert!(client.next().await["failure reason"].is_string());
        }
    }
    stranger.expect_close(CloseCode::Policy).await;
    member.expect_silence().await;
    assert_eq!(tracker.metric("webtorrent_idle_total").await, 1);
    let refused = tracker.metric("refusals_total{why=\"not_served\"}").await;
    assert_eq!(refused, 6);
    tracker.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_for_too_long_is_closed() {
    let limits = LimitsConfig {
        messages_burst: 1_000_000,
        bytes_burst: u32::MAX,
        bytes_per_address_burst: u32::MAX,
        queue_bytes_max: 16 * 1024,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut slow = tracker.announced("slow").await;
    let hashes: Vec<String> = (0..16).map(|number| format!("{number:0>20}")).collect();
    let question = json!({"action": "scrape", "info_hash": hashes}).to_string();
    let mut asked = 0;
    while tracker.metric("slow_readers_total").await == 0 {
        for _ in 0..500 {
            // It may be closed by then.
            let _ = slow
                .socket
                .send(Message::Text(question.as_str().into()))
                .await;
        }
        asked += 500;
        assert!(asked < 50_000, "it is never given up");
    }
    let mut b = tracker.announced("b").await;
    b.expect_silence().await;
    tracker.stop().await;
}

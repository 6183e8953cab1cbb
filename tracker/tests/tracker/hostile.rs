//! What breaks the rules below Shoal's messages: frames, heads, storms.

use super::*;

/// A connection after its handshake, to write frames of any kind on.
async fn upgraded(tracker: &Tracker) -> TcpStream {
    let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
    let head = format!(
        "GET /shoal HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, tcp.read_u8()).await.unwrap().unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    tcp
}

/// A masked frame (with a mask of zeros) that claims to have `len` bytes.
fn frame(first: u8, len: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(0x80 | len as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// All that the tracker sends until it ends the connection.
async fn rest(mut tcp: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end like any other.
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut bytes))
        .await
        .expect("an end");
    bytes
}

fn join_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    ViewerMsg::Join(join()).encode(&mut bytes);
    bytes
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_and_nothing_else() {
    let tracker = start(config()).await;
    let (mut witness, ..) = tracker.join().await;
    let joins = join_bytes();
    let unmasked = [&[0x82, joins.len() as u8][..], &joins].concat();
    let broken = [
        ("unmasked", unmasked),
        ("reserved bit", frame(0xc2, joins.len() as u64, &joins)),
        ("reserved opcode", frame(0x83, 1, b"x")),
        ("reserved control opcode", frame(0x8b, 0, b"")),
        ("continuation of nothing", frame(0x80, 1, b"x")),
        ("control frame in parts", frame(0x09, 1, b"x")),
        ("large control frame", frame(0x89, 200, &[0; 200])),
        (
            "another message inside one",
            [frame(0x02, 1, b"x"), frame(0x82, 1, b"x")].concat(),
        ),
        ("a length of 2^63", frame(0x82, 1 << 63, b"")),
        ("a length of 2^64 - 1", frame(0x82, u64::MAX, b"")),
        ("a length of a gigabyte", frame(0x82, 1 << 30, &[0; 9000])),
        ("text that is none", frame(0x81, 2, b"\xff\xfe")),
        (
            "a message too large in parts",
            [frame(0x02, 8000, &[0; 8000]), frame(0x80, 8000, &[0; 8000])].concat(),
        ),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ];
    // At the same time: those that are wrong get a moment to take leave.
    futures_util::future::join_all(broken.map(async |(what, bytes)| {
        let mut tcp = upgraded(&tracker).await;
        // It may be cut while it still writes.
        let _ = tcp.write_all(&bytes).await;
        let answer = rest(tcp).await;
        assert!(answer.len() < 1000, "{what}: {} bytes", answer.len());
        let welcome = answer.get(2) == Some(&0x81);
        assert!(!welcome, "{what}: {answer:?}");
    }))
    .await;
    tracker.join().await;
    witness.introduction().await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_join_in_many_frames_and_packets_is_a_join() {
    let tracker = start(config()).await;
    let mut tcp = upgraded(&tracker).await;
    let joins = join_bytes();
    let mut frames = frame(0x02, 1, &joins[..1]);
    for byte in &joins[1..joins.len() - 1] {
        frames.extend(frame(0x00, 1, &[*byte]));
    }
    frames.extend(frame(0x80, 1, &joins[joins.len() - 1..]));
    for byte in frames {
        tcp.write_all(&[byte]).await.unwrap();
    }
    let mut head = [0; 3];
    timeout(PATIENCE, tcp.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((head[0], head[2]), (0x82, 0x81), "a welcome");
    tracker.stop().await;
}

#[tokio::test]
async fn parts_of_messages_are_counted_like_messages() {
    let limits = LimitsConfig {
        messages_burst: 20,
        messages_per_s: 1,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let joins = join_bytes();
    let empty = [frame(0x02, 0, b""), frame(0x00, 0, b"").repeat(40)].concat();
    for first in [Vec::new(), frame(0x82, joins.len() as u64, &joins)] {
        let mut tcp = upgraded(&tracker).await;
        // It may be cut while it still writes.
        let _ = tcp.write_all(&[first, empty.clone()].concat()).await;
        let answer = rest(tcp).await;
        let mut expected = Vec::new();
        let code = RefusalCode::Quota;
        let text = "a quota of the viewer or its address is used up";
        TrackerMsg::Refused { code, text }.encode(&mut expected);
        let refused = answer.windows(expected.len()).any(|part| part == expected);
        assert!(refused, "{answer:?}");
    }
    assert_eq!(tracker.metric("over_quota_total").await, 2);
    tracker.stop().await;
}

/// A connection from one of loopback's other addresses.
async fn from_address(tracker: &Tracker, address: [u8; 4]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    socket.connect(tracker.address).await.unwrap()
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let limits = LimitsConfig {
        requests_max: 4,
        requests_per_address_max: 2,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut taken = Vec::new();
    for _ in 0..10 {
        taken.push(from_address(&tracker, [127, 0, 0, 2]).await);
    }
    // All but two are closed without a word; which ones is seen at the end.
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    let mut closed = 0;
    for mut tcp in taken.split_off(2) {
        closed += u32::from(matches!(
            timeout(PATIENCE, tcp.read(&mut [0])).await,
            Ok(Ok(0) | Err(_))
        ));
    }
    assert_eq!(closed, 8);
    // A viewer's connection is no request any more.
    drop(taken);
    let mut viewers = Vec::new();
    for _ in 0..6 {
        viewers.push(tracker.join().await);
    }
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    tracker.stop().await;
}

#[tokio::test]
async fn a_full_tracker_says_so_and_answers_health_checks() {
    let limits = LimitsConfig {
        connections_max: 1,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let (mut viewer, ..) = tracker.join().await;
    let more = tracker.connect_with(&[]).await;
    assert!(more.is_err_and(|error| error.to_string().contains("503")));
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    viewer.send(&ViewerMsg::Leave).await;
    while viewer.next().await.is_some() {}
    let welcome = async {
        while tracker.connect_with(&[]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, welcome).await.expect("room again");
    tracker.stop().await;
}

#[tokio::test]
async fn who_only_asks_and_asks_is_ended() {
    let limits = LimitsConfig {
        request_ms: 300,
        request_head_ms: 2_000,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let (mut viewer, ..) = tracker.join().await;
    let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
    let mut answers = Vec::new();
    let asking = async {
        loop {
            let asked = tcp
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                .await;
            let mut answer = [0; 1024];
            match tcp.read(&mut answer).await {
                Ok(len) if len > 0 && asked.is_ok() => answers.extend_from_slice(&answer[..len]),
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("it is ended");
    assert!(answers.starts_with(b"HTTP/1.1 200"));
    // Viewers stay.
    let (_other, name, _) = tracker.join().await;
    assert_eq!(viewer.introduction().await.peer, name);
    tracker.stop().await;
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let limits = LimitsConfig {
        request_head_ms: 300,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let many = (0..1000)
        .map(|i| format!("X-{i}: {i}\r\n"))
        .collect::<String>();
    for (what, head) in [
        (
            "a large header",
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
        ),
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n")),
        (
            "a large target",
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
        ),
        ("no end", "GET / HTTP/1.1\r\nX: x".into()),
        ("nothing", String::new()),
        ("rubbish", "\0\0\0\r\n\r\n".into()),
    ] {
        let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
        let _ = tcp.write_all(head.as_bytes()).await;
        let answer = rest(tcp).await;
        let text = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty() || text.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {text}");
    }
    assert_eq!(tracker.get("/healthz", "").await.0, 200);
    tracker.stop().await;
}

#[tokio::test]
async fn a_storm_of_joins_gets_each_address_its_share() {
    let limits = LimitsConfig {
        joins_burst: 3,
        joins_per_s: 0,
        ..limits()
    };
    let tracker = start(Config {
        limits,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let mut storm = tokio::task::JoinSet::new();
    for i in 0..200 {
        // Forty households; of IPv6 addresses the /64 counts.
        let address = match i % 40 {
            n @ 0..20 => format!("198.51.100.{n}"),
            n => format!("2001:db8:{n}::{i:x}"),
        };
        let request = tracker
            .request("/shoal", &[("X-Forwarded-For", &address)])
            .unwrap();
        storm.spawn(async move {
            let (socket, _) = connect_async(request).await.unwrap();
            let mut viewer = Viewer { socket };
            viewer.send(&ViewerMsg::Join(join())).await;
            let bytes = viewer.next().await.unwrap();
            match TrackerMsg::decode(&bytes).unwrap() {
                TrackerMsg::Welcome(_) => (address, Some(viewer)),
                TrackerMsg::Refused { code, .. } => {
                    assert_eq!(code, RefusalCode::Quota);
                    (address, None)
                }
                other => panic!("{other:?}"),
            }
        });
    }
    let outcomes = timeout(PATIENCE, storm.join_all())
        .await
        .expect("the storm passes");
    let welcome = outcomes
        .iter()
        .filter(|(_, viewer)| viewer.is_some())
        .count();
    assert_eq!(welcome, 120, "three of each household");
    assert_eq!(tracker.metric("over_quota_total").await, 80);
    assert_eq!(tracker.metric("viewers").await, 120);
    tracker.stop().await;
}

#[tokio::test]
async fn a_giant_description_is_refused_and_does_not_reach_anybody() {
    let tracker = start(config()).await;
    for len in [2049, 8000, 70_000] {
        let ((mut a, _), (mut b, b_name)) = tracker.join_pair().await;
        let sdp = vec![b'v'; len];
        let mut bytes = vec![0x03];
        bytes.extend_from_slice(&b_name.0.to_be_bytes());
        bytes.extend_from_slice(&(len as u16).to_be_bytes());
        bytes.extend_from_slice(&sdp);
        let _ = a.socket.send(Message::Binary(bytes.into())).await;
        a.expect_refusal(RefusalCode::BadMessage).await;
        // What the other hears next is that the sender has left.
        let next = b.next().await.unwrap();
        assert!(matches!(
            TrackerMsg::decode(&next),
            Ok(TrackerMsg::Gone { .. })
        ));
        b.send(&ViewerMsg::Leave).await;
        assert_eq!(b.next().await, None);
    }
    tracker.stop().await;
}

#[tokio::test]
async fn a_token_over_the_limit_is_a_malformed_message() {
    let tracker = start(config()).await;
    let mut viewer = tracker.connect().await;
    let token = &[b'x'; 2049][..];
    viewer
        .send(&ViewerMsg::Join(Join { token, ..join() }))
        .await;
    viewer.expect_refusal(RefusalCode::BadMessage).await;
    let long = format!("/shoal?token={}", "x".repeat(3000));
    tracker.connect_at(&long).await.unwrap().join(&join()).await;
    tracker.stop().await;
}

#[tokio::test]
async fn viewers_cannot_speak_for_others_or_of_strangers() {
    let tracker = start(config()).await;
    let ((mut a, a_name), (mut b, b_name)) = tracker.join_pair().await;
    let stranger = PeerId(4711);
    for peer in [a_name, stranger] {
        for outcome in [
            swarm_core::wire::tracker::LinkOutcome::Up,
            swarm_core::wire::tracker::LinkOutcome::Misbehaved,
        ] {
            a.send(&ViewerMsg::Link {
                peer,
                outcome,
                rtt_ms: 1,
            })
            .await;
        }
        let payload = &b"to myself, or nobody"[..];
        a.send(&ViewerMsg::Signal { to: peer, payload }).await;
    }
    let payload = &b"after all that"[..];
    a.send(&ViewerMsg::Signal {
        to: b_name,
        payload,
    })
    .await;
    let bytes = b.next().await.unwrap();
    let expected = TrackerMsg::Signal {
        from: a_name,
        payload,
    };
    assert_eq!(
        TrackerMsg::decode(&bytes),
        Ok(expected),
        "the first thing that arrives"
    );
    assert_eq!(tracker.metric("signals_refused_total").await, 2);
    tracker.stop().await;
}

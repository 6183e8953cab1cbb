//! What viewers that do not behave get.

use super::*;

async fn refused_after(first: &[Message], expected: RefusalCode) {
    let tracker = start(config()).await;
    let mut viewer = tracker.connect().await;
    for message in first {
        // The tracker may close while a large message is still on its way.
        let _ = viewer.socket.send(message.clone()).await;
    }
    viewer.expect_refusal(expected).await;
    let (_ok, ..) = tracker.join().await;
    tracker.stop().await;
}

fn encoded(message: &ViewerMsg<'_>) -> Message {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    Message::Binary(bytes.into())
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    for bytes in [vec![], vec![0x7f], vec![1, 1, 2], vec![0xff; 500]] {
        refused_after(&[Message::Binary(bytes.into())], RefusalCode::BadMessage).await;
    }
    let bad_after_join = [
        encoded(&ViewerMsg::Join(join())),
        Message::Binary(vec![3, 0].into()),
    ];
    refused_after(&bad_after_join, RefusalCode::BadMessage).await;
}

#[tokio::test]
async fn text_is_refused() {
    refused_after(&[Message::Text("{}".into())], RefusalCode::BadMessage).await;
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_unread() {
    for len in [8 * 1024 + 1, 1024 * 1024] {
        refused_after(
            &[Message::Binary(vec![1; len].into())],
            RefusalCode::BadMessage,
        )
        .await;
    }
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let status = encoded(&ViewerMsg::Status(Status::default()));
    refused_after(&[status], RefusalCode::BadMessage).await;
    let join = encoded(&ViewerMsg::Join(join()));
    refused_after(&[join.clone(), join], RefusalCode::BadMessage).await;
}

#[tokio::test]
async fn a_viewer_that_never_joins_is_refused() {
    let limits = LimitsConfig {
        join_ms: 100,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let mut viewer = tracker.connect().await;
    viewer.expect_refusal(RefusalCode::BadMessage).await;
    tracker.stop().await;
}

#[tokio::test]
async fn floods_of_messages_and_signals_are_refused() {
    let limits = LimitsConfig {
        messages_burst: 10,
        messages_per_s: 1,
        signals_burst: 10,
        signals_per_s: 1,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let floods = [
        ViewerMsg::Status(Status {
            track: TrackId(1),
            ..Status::default()
        }),
        ViewerMsg::Signal {
            to: PeerId(1),
            payload: b"x",
        },
    ];
    for message in floods {
        let (mut viewer, ..) = tracker.join().await;
        for _ in 0..20 {
            let _ = viewer.socket.send(encoded(&message)).await;
        }
        viewer.expect_refusal(RefusalCode::Quota).await;
    }
    let (mut viewer, ..) = tracker.join().await;
    for _ in 0..20 {
        let _ = viewer.socket.send(Message::Ping(Bytes::new())).await;
    }
    viewer.expect_refusal(RefusalCode::Quota).await;
    assert_eq!(tracker.metric("over_quota_total").await, 3);
    tracker.stop().await;
}

#[tokio::test]
async fn what_one_connection_and_one_address_may_send_is_bounded_in_bytes() {
    let payload = &[0; 2000][..];
    for (own, address, refused) in [
        (20_000, u32::MAX, [true, true]),
        (u32::MAX, 32_000, [false, true]),
    ] {
        let limits = LimitsConfig {
            bytes_burst: own,
            bytes_per_s: 0,
            bytes_per_address_burst: address,
            bytes_per_address_per_s: 0,
            ..limits()
        };
        let webtorrent = tracker::WebTorrentConfig {
            message_bytes_max: 8 * 1024,
            ..tracker::WebTorrentConfig::default()
        };
        let tracker = start(Config {
            limits,
            webtorrent,
            ..config()
        })
        .await;
        let ((mut first, first_name), (mut second, second_name)) = tracker.join_pair().await;
        for (to, refused) in [(second_name, refused[0]), (first_name, refused[1])] {
            let (speaker, hearer) = match to == second_name {
                true => (&mut first, &mut second),
                false => (&mut second, &mut first),
            };
            for _ in 0..11 {
                // Refused before the last of them, it may be closed already.
                let signal = ViewerMsg::Signal { to, payload };
                let _ = speaker.socket.send(encoded(&signal)).await;
            }
            if refused {
                speaker.expect_refusal(RefusalCode::Quota).await;
                continue;
            }
            for _ in 0..11 {
                let heard = hearer.next().await.expect("what the other one said");
                let signal = TrackerMsg::decode(&heard);
                assert!(matches!(signal, Ok(TrackerMsg::Signal { .. })));
            }
        }
        tracker.stop().await;
    }
}

#[tokio::test]
async fn one_address_has_a_quota_of_joins_and_connections() {
    let limits = LimitsConfig {
        joins_burst: 2,
        joins_per_s: 0,
        connections_per_address_max: 3,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let (_a, _b) = (tracker.join().await, tracker.join().await);
    let mut third = tracker.connect().await;
    let fourth = tracker.connect_with(&[]).await;
    assert!(fourth.is_err_and(|error| error.to_string().contains("429")));
    third.send(&ViewerMsg::Join(join())).await;
    third.expect_refusal(RefusalCode::Quota).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_slow_reader_loses_signals_and_nobody_else_is_held_up() {
    let limits = LimitsConfig {
        signals_burst: 1_000_000,
        signals_per_s: 1_000_000,
        bytes_burst: u32::MAX,
        bytes_per_address_burst: u32::MAX,
        queue_bytes_max: 16 * 1024,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let ((mut a, a_name), (slow, slow_name)) = tracker.join_pair().await;
    let payload = &[0; 2048][..];
    let mut sent = 0;
    while tracker.metric("signals_dropped_total").await == 0 {
        for _ in 0..500 {
            a.send(&ViewerMsg::Signal {
                to: slow_name,
                payload,
            })
            .await;
        }
        sent += 500;
        assert!(sent < 50_000, "the queue is not bounded");
    }
    let (mut b, ..) = tracker.join().await;
    let met = [b.introduction().await.peer, b.introduction().await.peer];
    assert!(met.contains(&a_name) && met.contains(&slow_name));
    drop(slow);
    tracker.stop().await;
}

#[tokio::test]
async fn only_listed_origins_may_connect() {
    let tracker = start(Config {
        origins: vec!["https://good.example".into()],
        ..config()
    })
    .await;
    let bad = tracker
        .connect_with(&[("Origin", "https://bad.example")])
        .await;
    assert!(bad.is_err_and(|error| error.to_string().contains("403")));
    let good = tracker
        .connect_with(&[("Origin", "https://good.example")])
        .await;
    assert!(good.is_ok() && tracker.connect_with(&[]).await.is_ok());
    tracker.stop().await;
}

#[tokio::test]
async fn what_is_no_websocket_of_ours_is_told_so() {
    let tracker = start(config()).await;
    assert_eq!(tracker.get("/shoal", "").await.0, 426);
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    assert_eq!(tracker.get("/shoal", upgrade).await.0, 400);
    assert_eq!(tracker.get("/nothing", "").await.0, 404);
    tracker.stop().await;
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let listener = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let wrong = Config {
        name_key: Some("short".into()),
        ..config()
    };
    let error = tracker::run(listener().await, wrong, async {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("name_key"), "{error}");
    let missing = Config {
        databases: vec!["missing.mmdb".into()],
        ..config()
    };
    let error = tracker::run(listener().await, missing, async {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("missing.mmdb"), "{error}");
}

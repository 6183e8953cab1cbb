//! What viewers that behave see.

use super::*;
use swarm_core::wire::tracker::LinkOutcome;
use tokio::net::UdpSocket;
use tracker::SwarmConfig;

#[tokio::test]
async fn viewers_are_introduced_pairwise_and_their_signals_pass_both_ways() {
    let tracker = start(config()).await;
    let (mut a, a_name, _) = tracker.join().await;
    let (mut b, b_name, _) = tracker.join().await;
    let (to_a, to_b) = (a.introduction().await, b.introduction().await);
    assert_eq!((to_a.peer, to_b.peer), (b_name, a_name));
    assert_ne!(to_a.offer, to_b.offer, "exactly one offers");
    for (payload, to) in [(&b"offer"[..], b_name), (&[7; 2048][..], b_name)] {
        a.send(&ViewerMsg::Signal { to, payload }).await;
        let bytes = b.next().await.unwrap();
        let expected = TrackerMsg::Signal {
            from: a_name,
            payload,
        };
        assert_eq!(TrackerMsg::decode(&bytes), Ok(expected));
    }
    let payload = &b"answer"[..];
    b.send(&ViewerMsg::Signal {
        to: a_name,
        payload,
    })
    .await;
    let bytes = a.next().await.unwrap();
    let expected = TrackerMsg::Signal {
        from: b_name,
        payload,
    };
    assert_eq!(TrackerMsg::decode(&bytes), Ok(expected));
    tracker.stop().await;
}

#[tokio::test]
async fn fifteen_viewers_become_one_full_mesh() {
    let tracker = start(config()).await;
    let mut viewers = Vec::new();
    for _ in 0..15 {
        viewers.push(tracker.join().await);
    }
    for (viewer, ..) in &mut viewers {
        for _ in 0..14 {
            viewer.introduction().await;
        }
    }
    tracker.stop().await;
}

#[tokio::test]
async fn signals_between_strangers_are_not_passed_on() {
    let tracker = start(config()).await;
    let (mut a, _, _) = tracker.join().await;
    let mut stranger = tracker.connect().await;
    let elsewhere = Join {
        stream: StreamId([4; 16]),
        ..join()
    };
    let (stranger_name, ..) = stranger.join(&elsewhere).await;
    let payload = &b"hello"[..];
    for to in [stranger_name, PeerId(1)] {
        a.send(&ViewerMsg::Signal { to, payload }).await;
    }
    // Messages of one connection are handled in order: a third viewer's introduction comes after.
    let (_b, b_name, _) = tracker.join().await;
    assert_eq!(a.introduction().await.peer, b_name);
    assert_eq!(tracker.metric("signals_refused_total").await, 2);
    assert_eq!(tracker.metric("signals_total").await, 0);
    tracker.stop().await;
}

#[tokio::test]
async fn goodbyes_and_silence_are_told_to_the_others() {
    let swarm = SwarmConfig {
        status_interval_ms: 200,
        silence_ms_max: 600,
        linger_ms: 300,
        ..SwarmConfig::default()
    };
    let tracker = start(Config { swarm, ..config() }).await;
    let (mut a, _, _) = tracker.join().await;
    let (mut polite, polite_name, _) = tracker.join().await;
    let (silent, silent_name, _) = tracker.join().await;
    let (broken, broken_name, _) = tracker.join().await;
    for _ in 0..3 {
        a.introduction().await;
    }
    polite.send(&ViewerMsg::Leave).await;
    drop(broken);
    let mut gone = Vec::new();
    while gone.len() < 3 {
        a.status(Status {
            track: TrackId(1),
            ..Status::default()
        })
        .await;
        let soon = timeout(Duration::from_millis(100), a.socket.next()).await;
        let Ok(Some(Ok(Message::Binary(bytes)))) = soon else {
            continue;
        };
        match TrackerMsg::decode(&bytes).unwrap() {
            TrackerMsg::Gone { peer } => gone.push(peer),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gone[0], polite_name);
    assert!(gone.contains(&silent_name) && gone.contains(&broken_name));
    drop(silent);
    tracker.stop().await;
}

#[tokio::test]
async fn a_viewer_that_comes_back_keeps_its_name_and_links() {
    let tracker = start(config()).await;
    let (a, a_name, a_secret) = tracker.join().await;
    let (mut b, b_name, _) = tracker.join().await;
    assert_eq!(b.introduction().await.peer, a_name);
    for peer in [a_name] {
        b.send(&ViewerMsg::Link {
            peer,
            outcome: LinkOutcome::Up,
            rtt_ms: 9,
        })
        .await;
    }
    drop(a);
    let mut again = tracker.connect().await;
    let resume = Some((a_name, a_secret));
    let (name, secret, _) = again.join(&Join { resume, ..join() }).await;
    assert_eq!((name, secret), (a_name, a_secret));
    let payload = &b"still there"[..];
    again
        .send(&ViewerMsg::Signal {
            to: b_name,
            payload,
        })
        .await;
    let bytes = b.next().await.unwrap();
    assert_eq!(
        TrackerMsg::decode(&bytes),
        Ok(TrackerMsg::Signal {
            from: a_name,
            payload
        })
    );
    tracker.stop().await;
}

#[tokio::test]
async fn a_name_with_a_wrong_secret_is_not_taken_over() {
    let tracker = start(config()).await;
    let (_a, a_name, a_secret) = tracker.join().await;
    let mut thief = tracker.connect().await;
    let resume = Some((a_name, a_secret ^ 1));
    let (name, ..) = thief.join(&Join { resume, ..join() }).await;
    assert_ne!(name, a_name);
    assert_eq!(thief.introduction().await.peer, a_name);
    tracker.stop().await;
}

#[tokio::test]
async fn names_survive_a_restart_under_the_same_key() {
    let config = Config {
        name_key: Some("a long secret of the operator".into()),
        ..config()
    };
    let first = start(config.clone()).await;
    let (_a, a_name, a_secret) = first.join().await;
    first.stop().await;
    let second = start(config).await;
    let mut again = second.connect().await;
    let resume = Some((a_name, a_secret));
    let (name, ..) = again.join(&Join { resume, ..join() }).await;
    assert_eq!(name, a_name);
    second.stop().await;
}

#[tokio::test]
async fn a_shutdown_tells_viewers_when_to_come_back() {
    let limits = LimitsConfig {
        reconnect_after_ms: 700,
        reconnect_jitter_ms: 300,
        ..limits()
    };
    let tracker = start(Config { limits, ..config() }).await;
    let (mut a, _, _) = tracker.join().await;
    let stopping = tokio::spawn(tracker.stop());
    let bytes = a.next().await.unwrap();
    match TrackerMsg::decode(&bytes).unwrap() {
        TrackerMsg::Reconnect { after_ms, .. } => assert!((700..=1000).contains(&after_ms)),
        other => panic!("{other:?}"),
    }
    assert_eq!(a.next().await, None);
    drop(a);
    stopping.await.unwrap();
}

#[tokio::test]
async fn the_welcome_names_two_stun_servers_that_answer() {
    let tracker = start(config()).await;
    let mut viewer = tracker.connect().await;
    let (_, _, stun) = viewer.join(&join()).await;
    let servers: Vec<SocketAddr> = stun.iter().map(|server| server.parse().unwrap()).collect();
    assert!(
        matches!(servers[..], [one, two] if one.port() != two.port()),
        "{servers:?}"
    );
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend_from_slice(&[5; 12]);
    for server in servers {
        let own_host = tracker.address.ip();
        assert_eq!(server.ip(), own_host, "the host that the viewer used");
        socket.send_to(&request, server).await.unwrap();
        let mut reply = [0; 100];
        let (len, _) = timeout(PATIENCE, socket.recv_from(&mut reply))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((len, &reply[..2]), (32, &[1, 1][..]));
        let port = u16::from_be_bytes([reply[26], reply[27]]) ^ 0x2112;
        assert_eq!(port, socket.local_addr().unwrap().port());
    }
    tracker.stop().await;
}

#[tokio::test]
async fn without_the_join_token_nobody_joins() {
    let tracker = start(Config {
        join_token: Some("sesame".into()),
        ..config()
    })
    .await;
    let mut stranger = tracker.connect().await;
    stranger
        .send(&ViewerMsg::Join(Join {
            token: b"guess",
            ..join()
        }))
        .await;
    stranger.expect_refusal(RefusalCode::BadToken).await;
    let mut viewer = tracker.connect().await;
    viewer
        .join(&Join {
            token: b"sesame",
            ..join()
        })
        .await;
    tracker.stop().await;
}

//! What clients that behave can rely on.

use super::*;
use futures_util::future::select_all;

#[tokio::test]
async fn offers_and_answers_go_to_whom_they_are_for() {
    let tracker = start(config()).await;
    let mut a = tracker.connect().await;
    a.send(&announce("a", &["o1", "o2"])).await;
    let reply = a.next().await;
    assert_eq!(reply["action"], "announce");
    assert_eq!(
        (&reply["complete"], &reply["incomplete"]),
        (&json!(0), &json!(1))
    );
    assert!(
        (20..=120).contains(&reply["interval"].as_u64().unwrap()),
        "{reply}"
    );
    let mut b = tracker.connect().await;
    b.send(&announce("b", &["o3", "o4"])).await;
    assert_eq!(b.next().await["incomplete"], 2);
    a.expect_offer("b", "o3").await;
    a.send(&answer("a", "b", "o3")).await;
    let heard = b.next().await;
    let expected = json!({
        "action": "announce", "info_hash": HASH, "peer_id": peer("a"), "offer_id": "o3",
        "answer": {"type": "answer", "sdp": SDP},
    });
    assert_eq!(heard, expected);
    // An answer has no reply, and nobody was there for the other offers.
    a.expect_silence().await;
    b.expect_silence().await;
    for (name, value) in [
        ("webtorrent_offers_total", 1),
        ("webtorrent_offers_spare_total", 3),
        ("webtorrent_answers_total", 1),
        ("webtorrent_viewers", 2),
        ("webtorrent_swarms", 1),
    ] {
        assert_eq!(tracker.metric(name).await, value, "{name}");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn ids_are_compared_by_what_they_mean() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.connect().await;
    // Twenty bytes above 0x7f, of which two characters are spelt as escapes.
    let name = "\u{e4}".repeat(20);
    let text = announce("b", &["\u{e4}\u{15}"]).to_string();
    b.send_text(text.replace(&peer("b"), &name)).await;
    b.next().await;
    assert_eq!(a.next().await["peer_id"], name);
    let escaped = "\\u00E4".repeat(20);
    let reply = answer("a", "b", "OFFER").to_string();
    let reply = reply
        .replace(&peer("b"), &escaped)
        .replace("OFFER", "\\u00e4\\u0015");
    a.send_text(reply).await;
    assert_eq!(b.next().await["offer_id"], "\u{e4}\u{15}");
    tracker.stop().await;
}

#[tokio::test]
async fn answers_to_nothing_go_nowhere() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.connect().await;
    b.send(&announce("b", &["o"])).await;
    b.next().await;
    a.expect_offer("b", "o").await;
    let mut stranger = tracker.connect().await;
    for wrong in [
        answer("a", "b", "another"),
        answer("a", "nobody", "o"),
        answer("b", "a", "o"),
        answer("unheard", "b", "o"),
    ] {
        a.send(&wrong).await;
    }
    stranger.send(&answer("a", "b", "o")).await;
    stranger.expect_silence().await;
    a.expect_silence().await;
    b.expect_silence().await;
    a.send(&answer("a", "b", "o")).await;
    assert_eq!(b.next().await["peer_id"], peer("a"));
    a.send(&answer("a", "b", "o")).await;
    a.expect_silence().await;
    b.expect_silence().await;
    assert_eq!(tracker.metric("webtorrent_answers_refused_total").await, 6);
    tracker.stop().await;
}

#[tokio::test]
async fn offers_of_one_address_wait_for_answers_up_to_a_number() {
    let tracker = start(with(WebTorrentConfig {
        pending_per_address_max: 2,
        ..WebTorrentConfig::default()
    }))
    .await;
    let mut others = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let mut other = tracker.connect_from("198.51.100.9").await;
        other.send(&announce(name, &[])).await;
        other.next().await;
        others.push((name, other));
    }
    let mut first = tracker.connect_from("198.51.100.1").await;
    first.send(&announce("x", &["o1", "o2", "o3"])).await;
    first.next().await;
    let mut second = tracker.connect_from("198.51.100.1").await;
    second.send(&announce("y", &["o4"])).await;
    second.next().await;
    let passed_on = async || tracker.metric("webtorrent_offers_total").await;
    assert_eq!(passed_on().await, 2);
    // Where one is answered there is room for another.
    let heard = others.iter_mut().map(|(_, other)| Box::pin(other.next()));
    let (offer, at, _) = select_all(heard).await;
    let (name, other) = &mut others[at];
    let id = offer["offer_id"].as_str().unwrap();
    other.send(&answer(name, "x", id)).await;
    assert_eq!(first.next().await["peer_id"], peer(name));
    second.send(&announce("y", &["o5", "o6"])).await;
    second.next().await;
    assert_eq!(passed_on().await, 3);
    let mut elsewhere = tracker.connect_from("198.51.100.2").await;
    elsewhere.send(&announce("z", &["o7", "o8"])).await;
    elsewhere.next().await;
    assert_eq!(passed_on().await, 5, "others are not concerned");
    tracker.stop().await;
}

#[tokio::test]
async fn pairs_that_met_are_not_brought_together_again() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.connect().await;
    b.send(&announce("b", &["o1"])).await;
    b.next().await;
    a.expect_offer("b", "o1").await;
    a.send(&answer("a", "b", "o1")).await;
    b.next().await;
    b.send(&announce("b", &["o2"])).await;
    b.next().await;
    a.send(&announce("a", &["o3"])).await;
    a.next().await;
    a.expect_silence().await;
    b.expect_silence().await;
    tracker.stop().await;
}

#[tokio::test]
async fn nothing_stays_of_a_page_that_was_closed() {
    let tracker = start(config()).await;
    let mut page = tracker.connect().await;
    // p2p-media-loader: a swarm for video, one for audio, each under a name of its own.
    for (name, hash) in [
        ("video", "vvvvvvvvvvvvvvvvvvvv"),
        ("audio", "aaaaaaaaaaaaaaaaaaaa"),
    ] {
        let mut message = announce(name, &[]);
        message["info_hash"] = json!(hash);
        page.send(&message).await;
        assert_eq!(page.next().await["info_hash"], hash);
    }
    assert_eq!(tracker.metric("webtorrent_viewers").await, 2);
    page.socket.close(None).await.unwrap();
    page.expect_close(CloseCode::Normal).await;
    let mut other = tracker.announced("other").await;
    let gone = async {
        while tracker.metric("webtorrent_viewers").await > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("both are gone");
    other
        .send(&json!({"action": "scrape", "info_hash": ["vvvvvvvvvvvvvvvvvvvv", HASH]}))
        .await;
    let files = other.next().await["files"].clone();
    assert_eq!(files["vvvvvvvvvvvvvvvvvvvv"]["incomplete"], 0);
    assert_eq!(files[HASH]["incomplete"], 1);
    tracker.stop().await;
}

#[tokio::test]
async fn viewers_of_both_families_meet() {
    let tracker = start(config()).await;
    let mut four = tracker.connect_from("192.0.2.7").await;
    four.send(&announce("four", &[])).await;
    four.next().await;
    let mut six = tracker.connect_from("2001:db8::7").await;
    six.send(&announce("six", &["o"])).await;
    assert_eq!(six.next().await["incomplete"], 2);
    four.expect_offer("six", "o").await;
    tracker.stop().await;
}

#[tokio::test]
async fn stopping_leaves_and_is_not_replied_to() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut stop = announce("a", &[]);
    stop["event"] = json!("stopped");
    a.send(&stop).await;
    a.expect_silence().await;
    assert_eq!(tracker.metric("webtorrent_viewers").await, 0);
    let mut done = announce("a", &[]);
    done["event"] = json!("completed");
    a.send(&done).await;
    let reply = a.next().await;
    assert_eq!(
        (&reply["complete"], &reply["incomplete"]),
        (&json!(1), &json!(0))
    );
    a.send(&scrape()).await;
    let expected = json!({HASH: {"complete": 1, "incomplete": 0, "downloaded": 1}});
    assert_eq!(
        a.next().await,
        json!({"action": "scrape", "files": expected})
    );
    tracker.stop().await;
}

#[tokio::test]
async fn viewers_of_one_isp_are_offered_to_each_other() {
    let networks = "[[networks]]\ncidrs = [\"10.1.0.0/16\"]\nasn = 1\ncountry = \"DE\"\n\
        [[networks]]\ncidrs = [\"10.2.0.0/16\"]\nasn = 2\ncountry = \"FR\"\n";
    let networks = Config::from_toml(networks).unwrap().networks;
    let tracker = start(Config {
        networks,
        ..config()
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..40 {
        let isp = number % 2 + 1;
        let mut client = tracker.connect_from(&format!("10.{isp}.0.{number}")).await;
        client.send(&announce(&number.to_string(), &[])).await;
        client.next().await;
        clients.push(client);
    }
    let mut newcomer = tracker.connect_from("10.1.0.200").await;
    let offers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let offers: Vec<&str> = offers.iter().map(String::as_str).collect();
    newcomer.send(&announce("new", &offers)).await;
    newcomer.next().await;
    let mut by_isp = [0, 0];
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&scrape()).await;
        if client.next().await.get("offer").is_some() {
            by_isp[number % 2] += 1;
        }
    }
    assert_eq!(by_isp[0] + by_isp[1], 10);
    assert!(by_isp[0] >= 6, "{by_isp:?}: one in ten may go anywhere");
    tracker.stop().await;
}

#[tokio::test]
async fn networks_where_peers_are_off_are_refused() {
    let networks = "[[networks]]\ncidrs = [\"10.0.0.0/8\"]\np2p = \"off\"\n";
    let networks = Config::from_toml(networks).unwrap().networks;
    let tracker = start(Config {
        networks,
        ..config()
    })
    .await;
    let mut client = tracker.connect_from("10.0.0.1").await;
    client.send(&announce("a", &[])).await;
    let heard = client.next().await;
    assert!(
        heard["failure reason"]
            .as_str()
            .unwrap()
            .contains("switched off")
    );
    assert_eq!(
        (&heard["action"], &heard["info_hash"]),
        (&json!("announce"), &json!(HASH))
    );
    tracker.stop().await;
}

#[tokio::test]
async fn who_may_not_be_shown_to_others_is_refused() {
    for privacy in [
        PrivacyConfig {
            relay_only: true,
            ..PrivacyConfig::default()
        },
        // These clients have no way to say that somebody agreed.
        PrivacyConfig {
            consent: true,
            ..PrivacyConfig::default()
        },
        PrivacyConfig {
            countries: vec!["DE".into()],
            ..PrivacyConfig::default()
        },
    ] {
        let tracker = start(Config {
            privacy,
            ..config()
        })
        .await;
        let mut client = tracker.connect().await;
        client.send(&announce("a", &["o"])).await;
        let heard = client.next().await;
        let why = heard["failure reason"].as_str().unwrap();
        assert!(why.contains("switched off"), "{why}");
        assert_eq!(tracker.metric("webtorrent_viewers").await, 0);
        tracker.stop().await;
    }
}

#[tokio::test]
async fn below_as_many_viewers_nobody_is_offered_to_anybody() {
    let tracker = start(Config {
        privacy: PrivacyConfig {
            viewers_min: 3,
            ..PrivacyConfig::default()
        },
        ..config()
    })
    .await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.announced("b").await;
    b.send(&announce("b", &["o1"])).await;
    assert_eq!(b.next().await["incomplete"], 2);
    a.expect_silence().await;
    let _c = tracker.announced("c").await;
    b.send(&announce("b", &["o2", "o3"])).await;
    assert_eq!(b.next().await["incomplete"], 3);
    assert_eq!(a.next().await["peer_id"], peer("b"));
    tracker.stop().await;
}

#[tokio::test]
async fn only_listed_swarms_are_served() {
    let listed = WebTorrentConfig {
        info_hashes: vec![HASH.into()],
        ..WebTorrentConfig::default()
    };
    let tracker = start(with(listed)).await;
    let mut client = tracker.announced("a").await;
    let mut other = announce("a", &[]);
    other["info_hash"] = json!("xxxxxxxxxxxxxxxxxxxx");
    client.send(&other).await;
    assert!(
        client.next().await["failure reason"]
            .as_str()
            .unwrap()
            .contains("not served")
    );
    client
        .send(&json!({"action": "scrape", "info_hash": [HASH, "xxxxxxxxxxxxxxxxxxxx"]}))
        .await;
    assert_eq!(client.next().await["files"].as_object().unwrap().len(), 1);
    tracker.stop().await;
}

#[tokio::test]
async fn a_token_in_the_query_admits() {
    let tracker = start(Config {
        join_token: Some("secret".into()),
        ..config()
    })
    .await;
    for (path, admitted) in [
        ("/announce", false),
        ("/announce?token=wrong", false),
        ("/announce?x=1&token=secret", true),
    ] {
        let mut client = tracker.connect_at(path, "192.0.2.1").await.unwrap();
        client.send(&announce("a", &[])).await;
        let heard = client.next().await;
        assert_eq!(
            heard.get("failure reason").is_none(),
            admitted,
            "{path}: {heard}"
        );
    }
    tracker.stop().await;
}

#[tokio::test]
async fn the_path_is_the_operators_and_may_be_none() {
    let at = |paths: &[&str]| {
        with(WebTorrentConfig {
            paths: paths.iter().map(ToString::to_string).collect(),
            ..WebTorrentConfig::default()
        })
    };
    let tracker = start(at(&["/swarm"])).await;
    assert!(tracker.connect_at("/swarm", "192.0.2.1").await.is_ok());
    assert!(tracker.connect_at("/announce", "192.0.2.1").await.is_err());
    tracker.stop().await;
    let tracker = start(at(&[])).await;
    assert!(tracker.connect_at("/announce", "192.0.2.1").await.is_err());
    tracker.stop().await;
}

#[tokio::test]
async fn both_protocols_may_have_the_same_path() {
    let tracker = start(with(WebTorrentConfig {
        paths: vec!["/".into()],
        ..WebTorrentConfig::default()
    }))
    .await;
    let mut client = tracker.connect_at("/", "192.0.2.1").await.unwrap();
    client.send(&announce("a", &[])).await;
    assert!(client.next().await["interval"].is_u64());
    let mut request = format!("ws://{}/", tracker.address)
        .into_client_request()
        .unwrap();
    let ours = "shoal.v1".parse().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", ours);
    let (_, response) = connect_async(request).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "shoal.v1");
    tracker.stop().await;
}

#[tokio::test]
async fn where_tokens_are_needed_who_is_in_a_swarm_alone_learns_its_size() {
    let tracker = start(Config {
        join_token: Some("secret".into()),
        ..config()
    })
    .await;
    let path = "/announce?token=secret";
    let mut member = tracker.connect_at(path, "192.0.2.1").await.unwrap();
    member.send(&announce("a", &[])).await;
    assert!(member.next().await["interval"].is_u64());
    let mut stranger = tracker.connect().await;
    for (client, known) in [(&mut member, 1), (&mut stranger, 0)] {
        client.send(&scrape()).await;
        let files = client.next().await["files"].as_object().unwrap().len();
        assert_eq!(files, known);
    }
    tracker.stop().await;
}

#[tokio::test]
async fn one_connection_is_in_several_swarms_under_several_names() {
    let tracker = start(config()).await;
    let mut a = tracker.announced("a").await;
    let mut b = tracker.connect().await;
    for (name, offer) in [("b", "o1"), ("c", "o2")] {
        b.send(&announce(name, &[offer])).await;
        b.next().await;
        a.expect_offer(name, offer).await;
    }
    b.send(&announce("b", &["o3"])).await;
    b.next().await;
    b.expect_silence().await;
    a.expect_silence().await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_shutdown_closes_with_a_word() {
    let tracker = start(config()).await;
    let mut client = tracker.announced("a").await;
    let stopping = tokio::spawn(tracker.stop());
    client.expect_close(CloseCode::Away).await;
    stopping.await.unwrap();
}

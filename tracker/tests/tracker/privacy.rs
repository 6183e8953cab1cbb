//! What viewers are shown of each other.

use super::*;
use swarm_core::wire::signal::Signal;
use tracker::{NetworkConfig, PrivacyConfig, RelayConfig};

fn private(privacy: PrivacyConfig) -> Config {
    Config {
        privacy,
        ..config()
    }
}

#[tokio::test]
async fn peers_begin_when_the_stream_has_enough_viewers() {
    let tracker = start(private(PrivacyConfig {
        viewers_min: 3,
        ..PrivacyConfig::default()
    }))
    .await;
    let (mut a, a_name, _) = tracker.join().await;
    let (mut b, ..) = tracker.join().await;
    // Messages of one connection are handled in order, so nothing was said before this signal.
    a.send(&ViewerMsg::Leave).await;
    assert_eq!(a.next().await, None, "no introduction");
    let (mut c, ..) = tracker.join().await;
    let (mut d, ..) = tracker.join().await;
    for viewer in [&mut b, &mut c, &mut d] {
        let met = [
            viewer.introduction().await.peer,
            viewer.introduction().await.peer,
        ];
        assert!(!met.contains(&a_name));
    }
    tracker.stop().await;
}

#[tokio::test]
async fn only_viewers_of_listed_countries_use_peers() {
    let mut config = private(PrivacyConfig {
        countries: vec!["DE".into()],
        ..PrivacyConfig::default()
    });
    config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.networks = ["DE", "US"]
        .iter()
        .zip(["198.51.100.0/24", "203.0.113.0/24"])
        .map(|(country, cidr)| NetworkConfig {
            cidrs: vec![cidr.parse().unwrap()],
            country: Some((*country).into()),
            ..NetworkConfig::default()
        })
        .collect();
    let tracker = start(config).await;
    let from = |address: &'static str| {
        let tracker = &tracker;
        async move {
            tracker
                .connect_with(&[("X-Forwarded-For", address)])
                .await
                .unwrap()
        }
    };
    from("198.51.100.1").await.join(&join()).await;
    for address in ["203.0.113.1", "192.0.2.1"] {
        let mut abroad = from(address).await;
        abroad.send(&ViewerMsg::Join(join())).await;
        abroad.expect_refusal(RefusalCode::NotServed).await;
    }
    tracker.stop().await;
}

#[tokio::test]
async fn viewers_that_have_not_agreed_are_not_served() {
    let tracker = start(private(PrivacyConfig {
        consent: true,
        ..PrivacyConfig::default()
    }))
    .await;
    let mut silent = tracker.connect().await;
    silent.send(&ViewerMsg::Join(join())).await;
    silent.expect_refusal(RefusalCode::NotServed).await;
    let agreed = Join {
        flags: ViewerFlags::NATIVE.with(ViewerFlags::CONSENT),
        ..join()
    };
    let (mut a, mut b) = (tracker.connect().await, tracker.connect().await);
    a.join(&agreed).await;
    b.join(&agreed).await;
    let introduction = b.introduction().await;
    assert_eq!(
        introduction.flags,
        ViewerFlags::NATIVE,
        "nobody else's business"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn with_relays_only_no_other_address_passes() {
    let tracker = start(private(PrivacyConfig {
        relay_only: true,
        ..PrivacyConfig::default()
    }))
    .await;
    let ((mut a, a_name), (mut b, b_name)) = tracker.join_pair().await;
    let candidates = [
        "1 1 udp 2130706431 192.0.2.1 40000 typ host",
        "2 1 udp 1694498815 198.51.100.1 40000 typ srflx raddr 192.0.2.1 rport 40000",
        "3 1 udp 16777215 203.0.113.9 50000 typ relay",
    ];
    for line in candidates {
        let mut payload = Vec::new();
        Signal::Candidate(line).encode(&mut payload);
        let payload = &payload[..];
        a.send(&ViewerMsg::Signal {
            to: b_name,
            payload,
        })
        .await;
    }
    let bytes = b.next().await.unwrap();
    let Ok(TrackerMsg::Signal { from, payload }) = TrackerMsg::decode(&bytes) else {
        panic!("{bytes:?}");
    };
    assert_eq!(from, a_name);
    assert_eq!(
        Signal::decode(payload),
        Ok(Signal::Candidate(candidates[2]))
    );
    tracker.stop().await;
}

/// Joins, and returns the relays that come before the welcome, if any: whether they alone are to be
/// used, user name, credential and addresses.
async fn relays_of(
    viewer: &mut Viewer,
    join: &Join<'_>,
) -> Option<(bool, [String; 2], Vec<String>)> {
    viewer.send(&ViewerMsg::Join(join.clone())).await;
    let bytes = viewer.next().await.expect("an answer");
    let TrackerMsg::Relays(relays) = TrackerMsg::decode(&bytes).unwrap() else {
        return None;
    };
    let credential = [relays.username, relays.credential].map(str::to_owned);
    let urls = relays.urls.iter().map(ToString::to_string).collect();
    Some((relays.only, credential, urls))
}

#[tokio::test]
async fn relays_are_told_to_their_networks_alone_or_to_all_where_nothing_else_is_used() {
    let relay = RelayConfig {
        urls: vec!["turn:relay.example:3478".into()],
        secret: Some("shared".into()),
        ..RelayConfig::default()
    };
    let office = NetworkConfig {
        cidrs: vec!["198.51.100.0/24".parse().unwrap()],
        relay: true,
        ..NetworkConfig::default()
    };
    let tracker = start(Config {
        relay: relay.clone(),
        networks: vec![office],
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..config()
    })
    .await;
    for (address, told) in [("198.51.100.7", true), ("203.0.113.7", false)] {
        let mut viewer = tracker
            .connect_with(&[("X-Forwarded-For", address)])
            .await
            .unwrap();
        let relays = relays_of(&mut viewer, &join()).await;
        assert_eq!(relays.is_some(), told, "{address}");
        if let Some((only, [username, credential], urls)) = relays {
            assert!(!only && urls == relay.urls && credential.len() == 28);
            let until: u64 = username.split(':').next().unwrap().parse().unwrap();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let left = until - now.unwrap().as_secs();
            assert!((3_500..=3_600).contains(&left), "{left} s");
        }
    }
    tracker.stop().await;
    let tracker = start(private(PrivacyConfig {
        relay_only: true,
        consent: true,
        ..PrivacyConfig::default()
    }))
    .await;
    let agreed = Join {
        flags: ViewerFlags::CONSENT,
        ..join()
    };
    let relays = relays_of(&mut tracker.connect().await, &agreed).await;
    let (only, _, urls) = relays.expect("it is told that nothing else is used");
    assert!(only && urls.is_empty());
    let refused = relays_of(&mut tracker.connect().await, &join()).await;
    assert_eq!(refused, None, "who may not use peers needs no relay");
    tracker.stop().await;
}

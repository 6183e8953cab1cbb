//! How a viewer's address decides whom it meets.

use super::*;
use mmdb::Value;
use std::{io::Write, net::Ipv4Addr};
use swarm_core::wire::tracker::Distance;
use tempfile::NamedTempFile;
use tracker::{NetworkConfig, P2pMode};

fn file(networks: &[(Ipv4Addr, u8, Value)]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&mmdb::write(networks)).unwrap();
    file
}

fn isp(number: u32, name: &'static str) -> Value {
    Value::Map(vec![
        ("autonomous_system_number", Value::Number(number)),
        ("autonomous_system_organization", Value::Text(name)),
    ])
}

fn city(country: &'static str, latitude: f64, longitude: f64) -> Value {
    Value::Map(vec![
        (
            "country",
            Value::Map(vec![("iso_code", Value::Text(country))]),
        ),
        (
            "location",
            Value::Map(vec![
                ("latitude", Value::Double(latitude)),
                ("longitude", Value::Double(longitude)),
            ]),
        ),
    ])
}

/// How far the tracker says that the second of two viewers is from the first.
async fn distance(tracker: &Tracker, stream: u8, first: &str, second: &str) -> Distance {
    let join = Join {
        stream: StreamId([stream; 16]),
        ..join()
    };
    let mut a = tracker
        .connect_with(&[("X-Forwarded-For", first)])
        .await
        .unwrap();
    a.join(&join).await;
    let mut b = tracker
        .connect_with(&[("X-Forwarded-For", second)])
        .await
        .unwrap();
    b.join(&join).await;
    b.introduction().await.distance
}

#[tokio::test]
async fn databases_and_rules_decide_distances() {
    let asn = file(&[
        (Ipv4Addr::new(198, 51, 100, 0), 24, isp(3320, "Telekom")),
        (Ipv4Addr::new(203, 0, 113, 0), 24, isp(6805, "Other")),
    ]);
    let geo = file(&[
        (Ipv4Addr::new(198, 51, 100, 0), 25, city("DE", 52.5, 13.4)),
        (Ipv4Addr::new(198, 51, 100, 128), 25, city("DE", 48.1, 11.6)),
        (Ipv4Addr::new(203, 0, 113, 0), 25, city("DE", 52.5, 13.4)),
        (Ipv4Addr::new(203, 0, 113, 128), 25, city("FR", 48.9, 2.4)),
    ]);
    let office = NetworkConfig {
        cidrs: vec![
            "203.0.113.7/32".parse().unwrap(),
            "198.51.100.7/32".parse().unwrap(),
        ],
        site: Some("office".into()),
        ..NetworkConfig::default()
    };
    let tracker = start(Config {
        asn_database: Some(asn.path().into()),
        geo_database: Some(geo.path().into()),
        networks: vec![office],
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    for (stream, first, second, expected) in [
        (10, "198.51.100.1", "198.51.100.1", Distance::Household),
        (11, "198.51.100.7", "203.0.113.7", Distance::Site),
        (12, "198.51.100.1", "198.51.100.2", Distance::Metro),
        (13, "198.51.100.1", "198.51.100.200", Distance::Isp),
        (14, "198.51.100.1", "203.0.113.1", Distance::Country),
        (15, "198.51.100.1", "203.0.113.200", Distance::Far),
        (16, "198.51.100.1", "192.0.2.1", Distance::Far),
        (17, "2001:db8::1", "2001:db8::2", Distance::Household),
        (18, "192.0.2.1", "6.6.6.6, 192.0.2.1", Distance::Household),
    ] {
        let got = distance(&tracker, stream, first, second).await;
        assert_eq!(got, expected, "{first} {second}");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn headers_of_others_than_trusted_proxies_count_for_nothing() {
    let tracker = start(config()).await;
    let got = distance(&tracker, 10, "198.51.100.1", "192.0.2.1").await;
    assert_eq!(got, Distance::Household, "both come from 127.0.0.1");
    tracker.stop().await;
}

#[tokio::test]
async fn rules_switch_peers_off_or_one_way() {
    let rule = |cidr: &str, p2p| NetworkConfig {
        cidrs: vec![cidr.parse().unwrap()],
        p2p,
        ..NetworkConfig::default()
    };
    let tracker = start(Config {
        networks: vec![
            rule("10.0.0.0/8", P2pMode::Off),
            rule("10.1.0.0/16", P2pMode::Leech),
        ],
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..config()
    })
    .await;
    let mut off = tracker
        .connect_with(&[("X-Forwarded-For", "10.2.0.1")])
        .await
        .unwrap();
    off.send(&ViewerMsg::Join(join())).await;
    off.expect_refusal(RefusalCode::NotServed).await;
    let mut leech = tracker
        .connect_with(&[("X-Forwarded-For", "10.1.0.1")])
        .await
        .unwrap();
    leech.join(&join()).await;
    let (mut giver, ..) = tracker.join().await;
    assert!(giver.introduction().await.flags.has(ViewerFlags::LEECH));
    tracker.stop().await;
}

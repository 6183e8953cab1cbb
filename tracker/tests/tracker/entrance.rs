//! Who a viewer is, behind proxies.

use super::*;
use swarm_core::wire::tracker::Distance;

const V2_OF_198_51_100_7: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x30\x39\x01\xbb";

/// A viewer that begins its connection with `header`.
async fn behind(
    tracker: &Tracker,
    header: &[u8],
    lines: &[(&'static str, &str)],
) -> Option<Viewer> {
    let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
    tcp.write_all(header).await.unwrap();
    let request = tracker.request("/shoal", lines).unwrap();
    let connected = tokio_tungstenite::client_async(request, MaybeTlsStream::Plain(tcp));
    let (socket, _) = timeout(PATIENCE, connected).await.unwrap().ok()?;
    Some(Viewer { socket })
}

fn config_for(trusted: &str) -> Config {
    Config {
        proxy_protocol: true,
        trusted_proxies: vec![trusted.parse().unwrap()],
        ..config()
    }
}

/// How far the second is from the first; both are alone in their stream.
async fn distance(mut a: Viewer, mut b: Viewer, stream: u8) -> Distance {
    let join = Join {
        stream: StreamId([stream; 16]),
        ..join()
    };
    a.join(&join).await;
    b.join(&join).await;
    b.introduction().await.distance
}

#[tokio::test]
async fn the_proxys_header_names_the_viewer() {
    let tracker = start(config_for("127.0.0.0/8")).await;
    let v1 = b"PROXY TCP4 198.51.100.7 10.0.0.1 1 443\r\n".as_slice();
    let other = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n".as_slice();
    for (stream, first, second, expected) in [
        (10, v1, V2_OF_198_51_100_7, Distance::Household),
        (11, v1, other, Distance::Far),
        (
            12,
            b"PROXY UNKNOWN\r\n",
            b"PROXY UNKNOWN\r\n",
            Distance::Household,
        ),
    ] {
        let a = behind(&tracker, first, &[]).await.unwrap();
        let b = behind(&tracker, second, &[]).await.unwrap();
        assert_eq!(distance(a, b, stream).await, expected);
    }
    tracker.stop().await;
}

#[tokio::test]
async fn a_viewer_behind_the_proxy_cannot_name_another_address() {
    let tracker = start(config_for("127.0.0.0/8")).await;
    let me = b"PROXY TCP4 198.51.100.7 10.0.0.1 1 443\r\n";
    let forged = [
        ("X-Forwarded-For", "203.0.113.1"),
        ("Forwarded", "for=203.0.113.1"),
    ];
    let honest = behind(&tracker, me, &[]).await.unwrap();
    let liar = behind(&tracker, me, &forged).await.unwrap();
    assert_eq!(distance(honest, liar, 10).await, Distance::Household);
    // A second header is no header any more.
    let twice = [me.as_slice(), b"PROXY TCP4 203.0.113.1 10.0.0.1 1 443\r\n"].concat();
    assert!(behind(&tracker, &twice, &[]).await.is_none());
    tracker.stop().await;
}

#[tokio::test]
async fn where_the_proxy_does_not_know_the_viewer_the_viewer_cannot_say_who_it_is() {
    let mut config = config_for("127.0.0.0/8");
    config.limits.connections_per_address_max = 1;
    let tracker = start(config).await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".as_slice();
    let forged = |address| [("X-Forwarded-For", address)];
    let first = behind(&tracker, b"PROXY UNKNOWN\r\n", &forged("203.0.113.1")).await;
    assert!(first.is_some());
    for header in [b"PROXY UNKNOWN\r\n", local] {
        let second = behind(&tracker, header, &forged("203.0.113.2")).await;
        assert!(second.is_none(), "it is the same address, the proxy's");
    }
    tracker.stop().await;
}

#[tokio::test]
async fn a_chain_of_trusted_proxies_is_followed_to_its_end() {
    let mut config = config_for("127.0.0.0/8");
    config.trusted_proxies.push("10.0.0.0/8".parse().unwrap());
    let tracker = start(config).await;
    let balancer = b"PROXY TCP4 10.0.0.5 10.0.0.1 1 443\r\n";
    let a = behind(
        &tracker,
        balancer,
        &[("X-Forwarded-For", "6.6.6.6, 198.51.100.7, 10.0.0.9")],
    );
    let b = behind(&tracker, V2_OF_198_51_100_7, &[]);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    assert_eq!(distance(a, b, 10).await, Distance::Household);
    tracker.stop().await;
}

#[tokio::test]
async fn who_is_no_trusted_proxy_is_taken_as_it_is() {
    let tracker = start(config_for("10.0.0.0/8")).await;
    let forged = behind(&tracker, b"PROXY TCP4 198.51.100.7 10.0.0.1 1 443\r\n", &[]).await;
    assert!(forged.is_none(), "no HTTP");
    tracker.join().await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_proxy_without_its_header_and_one_that_rambles_are_cut() {
    let mut config = config_for("127.0.0.0/8");
    config.limits.request_head_ms = 500;
    let tracker = start(config).await;
    assert!(behind(&tracker, b"", &[]).await.is_none());
    let endless = [V2_OF_198_51_100_7[..14].to_vec(), vec![0xff; 4000]].concat();
    for bytes in [b"PROXY TCP4 198.51".as_slice(), &endless] {
        let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.unwrap();
        assert!(ended.is_err() || rest.is_empty());
    }
    tracker.stop().await;
}

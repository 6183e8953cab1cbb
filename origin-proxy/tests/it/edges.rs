//! Connections that begin and end: proofs of address, tickets, and the last moments of an edge.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    support::header,
    versions::{Edge, ask_http3, connect_http3, http3_get},
};

const LONG: Duration = Duration::from_secs(20);

/// The connection ids of a long header (RFC 8999 section 5.1): where it goes, and where it is from.
fn ids(packet: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (to_len, rest) = packet[5..].split_first().unwrap();
    let (to, rest) = rest.split_at(usize::from(*to_len));
    let (from_len, rest) = rest.split_first().unwrap();
    (to.to_vec(), rest[..usize::from(*from_len)].to_vec())
}

/// The first packets of `count` connections, which nobody has answered.
async fn first_packets(edge: &Edge, count: usize) -> Vec<Vec<u8>> {
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tls = edge.tls_config(b"h3");
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = deaf.local_addr().unwrap();
    let (mut packets, mut connecting) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    while packets.len() < count {
        let next = endpoint.connect_with(config.clone(), address, "localhost");
        // One that is given up says so instead.
        connecting.push(next.unwrap());
        let mut packet = vec![0; 2000];
        let len = deaf.recv(&mut packet).await.unwrap();
        packet.truncate(len);
        if packet.len() >= 1200 && seen.insert(ids(&packet).1) {
            packets.push(packet);
        }
    }
    packets
}

/// Sends `packets` and waits until each is answered, which is not heard.
async fn pretend(address: SocketAddr, packets: &[Vec<u8>]) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut unanswered: HashSet<Vec<u8>> = packets.iter().map(|packet| ids(packet).1).collect();
    for packet in packets {
        socket.send_to(packet, address).await.unwrap();
        let mut answer = [0; 2000];
        while unanswered.contains(&ids(packet).1) {
            socket.recv(&mut answer).await.unwrap();
            unanswered.remove(&ids(&answer).0);
        }
    }
    socket
}

#[tokio::test]
async fn who_does_not_prove_its_address_takes_nobodys_place() {
    let edge = Edge::start(|config| config.limits.connections_max = 20).await;
    edge.origin.put("/vod/a", &[], "a");
    let packets = first_packets(&edge, 100).await;
    let _silent = tokio::time::timeout(LONG, pretend(edge.address, &packets))
        .await
        .unwrap();
    let served = async {
        let over_tcp = edge.client().build().unwrap().get(edge.url("/vod/a"));
        assert_eq!(over_tcp.send().await.unwrap().text().await.unwrap(), "a");
        let (mut requests, _driven) = connect_http3(&edge).await;
        let over_quic = http3_get(&edge, "/vod/a").body(()).unwrap();
        assert_eq!(ask_http3(&mut requests, over_quic).await.1, b"a");
    };
    tokio::time::timeout(LONG, served).await.unwrap();
}

#[tokio::test]
async fn beyond_its_connections_http3_viewers_are_sent_away() {
    // One is for the next connection of TCP.
    let edge = Edge::start(|config| config.limits.connections_max = 2).await;
    edge.origin.put("/vod/a", &[], "a");
    let (mut first, _driven) = connect_http3(&edge).await;
    let request = || http3_get(&edge, "/vod/a").body(()).unwrap();
    assert_eq!(ask_http3(&mut first, request()).await.1, b"a");
    let transport = quinn::TransportConfig::default();
    let (_endpoint, second) = crate::versions::connect_quic(&edge, transport).await;
    let end = tokio::time::timeout(LONG, second.closed()).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = end else {
        panic!("{end}");
    };
    // H3_EXCESSIVE_LOAD.
    assert_eq!(close.error_code, quinn::VarInt::from_u32(0x107));
    assert_eq!(ask_http3(&mut first, request()).await.1, b"a");
}

#[tokio::test]
async fn a_viewer_of_http3_who_asks_for_nothing_does_not_hold_up_the_end() {
    let mut edge = Edge::start(|config| config.timeouts.drain_ms = 3_600_000).await;
    edge.origin.put("/vod/a", &[], vec![7; 300_000]);
    let (mut requests, _driven) = connect_http3(&edge).await;
    let request = http3_get(&edge, "/vod/a").body(()).unwrap();
    assert_eq!(ask_http3(&mut requests, request).await.1.len(), 300_000);
    edge.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LONG, edge.running)
        .await
        .expect("nobody is served")
        .unwrap();
}

#[tokio::test]
async fn an_edge_that_is_to_stop_says_so_before_it_refuses_anybody() {
    let mut edge = Edge::start(|config| config.timeouts.lame_duck_ms = 3_600_000).await;
    edge.origin.put("/vod/a", &[], "a");
    let stop = edge.stop.take().unwrap();
    let get = async |path: &str| {
        // A connection of its own.
        let client = edge.client().build().unwrap();
        client.get(edge.url(path)).send().await.unwrap()
    };
    assert_eq!(get("/readyz").await.status(), 200);
    stop.send(()).unwrap();
    let noticed = async {
        while get("/readyz").await.status() != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, noticed).await.unwrap();
    assert_eq!(
        get("/readyz").await.text().await.unwrap(),
        "proxy is stopping\n"
    );
    assert_eq!(get("/vod/a").await.text().await.unwrap(), "a");
    assert!(!edge.running.is_finished());
    let mut brief = Edge::start(|config| config.timeouts.lame_duck_ms = 10).await;
    brief.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LONG, brief.running)
        .await
        .unwrap()
        .unwrap();
}

async fn connect(edge: &Edge, config: &Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(edge.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(config.clone());
    connector.connect(name, socket).await.unwrap()
}

/// Asks for something, and reads all that comes: tickets come before the answer.
async fn ask(mut socket: TlsStream<TcpStream>) {
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"ok\n"));
}

#[tokio::test]
async fn however_many_viewers_come_each_comes_back_by_its_ticket() {
    let edge = Edge::start(|_| {}).await;
    let viewer = Arc::new(edge.tls_config(b"http/1.1"));
    let first = connect(&edge, &viewer).await;
    assert_eq!(
        first.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Full)
    );
    ask(first).await;
    for _ in 0..150 {
        connect(&edge, &Arc::new(edge.tls_config(b"http/1.1"))).await;
    }
    let again = connect(&edge, &viewer).await;
    let kind = again.get_ref().1.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    ask(again).await;
}

#[tokio::test]
async fn the_port_by_which_viewers_come_is_advertised() {
    let edge = Edge::start(|config| config.tls.http3_advertised_port = 443).await;
    let client = edge.client().build().unwrap();
    let answer = client.get(edge.url("/healthz")).send().await.unwrap();
    assert_eq!(header(&answer, "alt-svc"), "h3=\":443\"; ma=86400");
}

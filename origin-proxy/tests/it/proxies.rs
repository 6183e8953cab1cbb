//! Who a viewer is, behind balancers and proxies.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use origin_proxy::{AddressHeader, Config};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    support::{Origin, Proxy},
    versions::Edge,
};

const LONG: Duration = Duration::from_secs(20);
const V1: &[u8] = b"PROXY TCP4 198.51.100.7 10.0.0.1 1 443\r\n";
/// Of 198.51.100.8.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x08\x0a\x00\x00\x01\x30\x39\x01\xbb";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const REQUEST: &str = "GET /vod/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";

fn behind(config: &mut Config, trusted: &str) {
    config.trusted_proxies = vec![trusted.parse().unwrap()];
    config.proxy_protocol = true;
}

/// A proxy that has `/vod/a`, and the file of its access log.
async fn logging(change: impl FnOnce(&mut Config)) -> (Proxy, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.json");
    let path = file.clone();
    let origin = Origin::default();
    origin.put("/vod/a", &[("cache-control", "max-age=60")], "a");
    let proxy = Proxy::start_with(origin, |config| {
        config.log.access_file = Some(path);
        change(config);
    })
    .await;
    (proxy, folder, file)
}

/// Sends `pieces`, each after the one before has had time to arrive, and returns all that is answered.
async fn exchange(proxy: &Proxy, pieces: &[&[u8]]) -> String {
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for piece in pieces {
        if socket.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    read_all(&mut socket).await
}

/// What comes until the other side ends or resets the connection.
async fn read_all(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(LONG, socket.read_to_end(&mut all)).await;
    let _ = read.expect("an end");
    String::from_utf8(all).unwrap()
}

/// The first `count` clients of the access log.
async fn clients(file: &PathBuf, count: usize) -> Vec<String> {
    let lines = async {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines = text.lines().map(serde_json::from_str::<Value>);
            let lines: Vec<Value> = lines.filter_map(Result::ok).collect();
            if lines.len() >= count {
                let client = |line: &Value| line["client"].as_str().unwrap().to_owned();
                return lines.iter().map(client).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, lines).await.expect("lines")
}

#[tokio::test]
async fn a_balancers_header_names_the_viewer_however_it_arrives() {
    let (proxy, _folder, file) = logging(|config| behind(config, "127.0.0.0/8")).await;
    let request = format!("{REQUEST}\r\n");
    let at_once = [V1, request.as_bytes()].concat();
    let bytes: Vec<&[u8]> = V2.chunks(1).chain([request.as_bytes()]).collect();
    for (pieces, client) in [
        (vec![at_once.as_slice()], "198.51.100.7"),
        (bytes, "198.51.100.8"),
        (vec![V1_UNKNOWN, request.as_bytes()], "127.0.0.1"),
    ] {
        let answer = exchange(&proxy, &pieces).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{client}: {answer}");
        assert!(answer.ends_with("\r\n\r\na"), "{client}: {answer}");
    }
    let expected = ["198.51.100.7", "198.51.100.8", "127.0.0.1"];
    assert_eq!(clients(&file, 3).await, expected);
}

#[tokio::test]
async fn behind_a_balancer_tls_and_http2_begin_after_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.json");
    let edge = Edge::start(|config| {
        config.log.access_file = Some(file.clone());
        behind(config, "127.0.0.1/32");
    })
    .await;
    edge.origin.put("/vod/a", &[], "a");
    for (header, protocol) in [(V1, b"h2".as_slice()), (V2, b"http/1.1")] {
        let mut socket = TcpStream::connect(edge.address).await.unwrap();
        socket.write_all(header).await.unwrap();
        let connector = TlsConnector::from(Arc::new(edge.tls_config(protocol)));
        let name = ServerName::try_from("localhost").unwrap();
        let mut socket = connector.connect(name, socket).await.unwrap();
        if protocol == b"h2" {
            assert_eq!(get_http2(socket).await, 200);
        } else {
            let request = format!("{REQUEST}\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            assert!(read_all(&mut socket).await.starts_with("HTTP/1.1 200"));
        }
    }
    let expected = ["198.51.100.7", "198.51.100.8"];
    assert_eq!(clients(&file, 2).await, expected);
}

async fn get_http2(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> u16 {
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = shaken.await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/vod/a");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    sender
        .send_request(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test]
async fn who_is_behind_a_balancer_cannot_name_another_address() {
    let (proxy, _folder, file) = logging(|config| behind(config, "127.0.0.0/8")).await;
    let forged = format!("{REQUEST}X-Forwarded-For: 203.0.113.1\r\n\r\n");
    for header in [V1, V1_UNKNOWN] {
        let answer = exchange(&proxy, &[header, forged.as_bytes()]).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(clients(&file, 2).await, ["198.51.100.7", "127.0.0.1"]);
    // A second header is no header any more.
    let twice = [
        V1,
        b"PROXY TCP4 203.0.113.1 10.0.0.1 1 443\r\n",
        forged.as_bytes(),
    ]
    .concat();
    let answer = exchange(&proxy, &[&twice]).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn nobody_but_trusted_proxies_is_believed() {
    let (proxy, _folder, file) = logging(|config| behind(config, "10.0.0.0/8")).await;
    let request = format!("{REQUEST}X-Forwarded-For: 203.0.113.1\r\n\r\n");
    let preface = [V1, request.as_bytes()].concat();
    let answer = exchange(&proxy, &[&preface]).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = exchange(&proxy, &[request.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(clients(&file, 1).await, ["127.0.0.1"]);
    let ignored = "shoal_proxy_address_header_ignored_total";
    assert_eq!(proxy.metric(ignored).await, 1.0);
}

#[tokio::test]
async fn a_balancer_without_its_header_is_cut_and_counted() {
    let (proxy, _folder, _file) = logging(|config| {
        behind(config, "127.0.0.0/8");
        config.timeouts.request_head_ms = 200;
    })
    .await;
    let endless = [&V2[..14], &[0xff; 4000]].concat();
    let request = format!("{REQUEST}\r\n");
    let half = b"PROXY TCP4 198.51".as_slice();
    for bytes in [request.as_bytes(), half, &endless] {
        assert_eq!(exchange(&proxy, &[bytes]).await, "");
    }
    // A balancer that looks whether the port is open is no trouble.
    drop(TcpStream::connect(proxy.address).await.unwrap());
    let metrics = exchange(
        &proxy,
        &[
            V1,
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ],
    );
    let metrics = metrics.await;
    let line = "shoal_proxy_announcements_failed_total 3\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn limits_are_those_of_the_address_that_a_balancer_names() {
    let (proxy, _folder, _file) = logging(|config| {
        behind(config, "127.0.0.0/8");
        config.limits.connections_per_address_max = 1;
    })
    .await;
    let request = format!("{REQUEST}\r\n");
    let mut first = TcpStream::connect(proxy.address).await.unwrap();
    let open = [V1, b"GET /vod/a HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    first.write_all(&open).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'H');
    let second = exchange(&proxy, &[V1, request.as_bytes()]).await;
    assert_eq!(second, "", "it has the one connection that it may have");
    let other = exchange(&proxy, &[V2, request.as_bytes()]).await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
}

#[tokio::test]
async fn a_proxy_that_names_viewers_in_its_requests_has_connections_for_all_of_them() {
    for (written, name, me, other) in [
        (
            AddressHeader::XForwardedFor,
            "x-forwarded-for",
            "6.6.6.6, 198.51.100.7",
            "6.6.6.6, 2001:db8::1",
        ),
        (
            AddressHeader::Forwarded,
            "forwarded",
            "for=198.51.100.7;proto=https",
            "for=\"[2001:db8::1]:4711\"",
        ),
    ] {
        let (proxy, _folder, file) = logging(|config| {
            config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
            config.address_header = written;
            config.limits.connections_per_address_max = 1;
            config.limits.requests_per_s_per_address_max = 1;
        })
        .await;
        let mut refused = 0;
        for _ in 0..20 {
            // Each has a connection of its own.
            let answer = proxy.get_with("/vod/a", &[(name, me)]).await;
            refused += usize::from(answer.status() == 429);
        }
        assert!(refused > 0, "one viewer asks too often");
        let answer = proxy.get_with("/vod/a", &[(name, other)]).await;
        assert_eq!(answer.status(), 200, "another one does not");
        let mut expected = vec!["198.51.100.7"; 20];
        expected.push("2001:db8::1");
        assert_eq!(clients(&file, 21).await, expected);
        let unnamed = "shoal_proxy_address_unnamed_total";
        assert_eq!(proxy.metric(unnamed).await, 0.0, "it looks after itself");
        proxy.get("/vod/a").await;
        assert_eq!(proxy.metric(unnamed).await, 1.0);
    }
}

//! The versions of HTTP, TLS, and how connections end.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use origin_proxy::{CertificateConfig, Config, Listeners};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use crate::support::{Origin, header, respond, segment};

/// A proxy with TLS and HTTP/3 on one port.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    certificate: Vec<u8>,
    folder: tempfile::TempDir,
    pub(crate) origin: Origin,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) running: JoinHandle<()>,
}

/// Writes a new certificate for `localhost`, and returns it.
fn certify(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).unwrap();
    made.cert.der().to_vec()
}

impl Edge {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_before(Origin::default(), change).await
    }

    pub(crate) async fn start_before(origin: Origin, change: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let certificate = certify(folder.path());
        let mut config = Config {
            origin: format!("http://{}", origin.clone().serve().await),
            ..Config::default()
        };
        config.tls.certificate_file = Some(folder.path().join("certificate.pem"));
        config.tls.key_file = Some(folder.path().join("key.pem"));
        change(&mut config);
        let (tls, quic) = same_port().await;
        let address = tls.local_addr().unwrap();
        let listeners = Listeners {
            plain: None,
            tls: Some(tls),
            quic: Some(quic),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let running = tokio::spawn(async move {
            origin_proxy::run_on(listeners, config, shutdown)
                .await
                .unwrap();
        });
        Self {
            address,
            certificate,
            folder,
            origin,
            stop: Some(stop),
            running,
        }
    }

    pub(crate) fn client(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_der(&self.certificate).unwrap();
        reqwest::Client::builder()
            .tls_certs_only([certificate])
            .resolve("localhost", self.address)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub(crate) fn tls_config(&self, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(self.certificate.clone()))
            .unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        config
    }
}

/// A TCP and a UDP socket with the same number.
async fn same_port() -> (TcpListener, UdpSocket) {
    for _ in 0..50 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (tcp, udp);
        }
    }
    panic!("no number is free for both");
}

#[tokio::test]
async fn tls_viewers_choose_their_version_and_learn_of_http3() {
    let edge = Edge::start(|_| {}).await;
    let body = segment(1, 300_000);
    edge.origin.put("/vod/a", &[], body.clone());
    let newest = edge.client().build().unwrap();
    let oldest = edge.client().http1_only().build().unwrap();
    for (client, version) in [
        (newest, reqwest::Version::HTTP_2),
        (oldest, reqwest::Version::HTTP_11),
    ] {
        let answer = client.get(edge.url("/vod/a")).send().await.unwrap();
        assert_eq!(answer.version(), version);
        let expected = format!("h3=\":{}\"; ma=86400", edge.address.port());
        assert_eq!(header(&answer, "alt-svc"), expected);
        assert_eq!(answer.bytes().await.unwrap(), body);
    }
    assert_eq!(edge.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn a_silent_viewer_of_tls_goes_on_where_it_was() {
    let edge = Edge::start(|_| {}).await;
    edge.origin.put("/vod/a", &[], "a");
    let viewer = edge.client().http1_only().build().unwrap();
    let watcher = edge.client().build().unwrap();
    for _ in 0..3 {
        let answer = viewer.get(edge.url("/vod/a")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "a");
        loop {
            let metrics = watcher.get(edge.url("/metrics")).send().await.unwrap();
            let metrics = metrics.text().await.unwrap();
            assert!(
                metrics.contains("\nshoal_proxy_connections 2\n"),
                "{metrics}"
            );
            if metrics.contains("\nshoal_proxy_connections_idle 1\n") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn http2_without_tls_begins_with_its_preface() {
    let proxy = crate::support::Proxy::start().await;
    proxy.origin.put("/vod/a", &[], "a");
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let answer = client.get(proxy.url("/vod/a")).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "a");
}

pub(crate) type Http3 = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

pub(crate) async fn connect_http3(edge: &Edge) -> (Http3, JoinHandle<h3::error::ConnectionError>) {
    connect_http3_with(edge, quinn::TransportConfig::default()).await
}

pub(crate) async fn connect_http3_with(
    edge: &Edge,
    transport: quinn::TransportConfig,
) -> (Http3, JoinHandle<h3::error::ConnectionError>) {
    let (endpoint, connection) = connect_quic(edge, transport).await;
    let connection = h3_quinn::Connection::new(connection);
    let (mut driver, requests) = h3::client::new(connection).await.unwrap();
    let driven = tokio::spawn(async move {
        let _keep = endpoint;
        std::future::poll_fn(|context| driver.poll_close(context)).await
    });
    (requests, driven)
}

/// Connects without saying anything of HTTP/3.
pub(crate) async fn connect_quic(
    edge: &Edge,
    transport: quinn::TransportConfig,
) -> (quinn::Endpoint, quinn::Connection) {
    let tls = edge.tls_config(b"h3");
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(edge.address, "localhost").unwrap();
    let connection = connecting.await.unwrap();
    (endpoint, connection)
}

pub(crate) async fn ask_http3(
    requests: &mut Http3,
    request: http::Request<()>,
) -> (http::Response<()>, Vec<u8>) {
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let answer = stream.recv_response().await.unwrap();
    let mut body = Vec::new();
    while let Some(mut chunk) = stream.recv_data().await.unwrap() {
        let len = chunk.remaining();
        body.extend_from_slice(&chunk.copy_to_bytes(len));
    }
    (answer, body)
}

pub(crate) fn http3_get(edge: &Edge, path: &str) -> http::request::Builder {
    let url = format!("https://localhost:{}{path}", edge.address.port());
    http::Request::get(url)
}

#[tokio::test]
async fn http3_viewers_get_the_same() {
    let edge = Edge::start(|_| {}).await;
    let body = segment(2, 700_000);
    edge.origin
        .put("/vod/a", &[("etag", "\"e\"")], body.clone());
    let (mut requests, _driven) = connect_http3(&edge).await;
    let plain = http3_get(&edge, "/vod/a").body(()).unwrap();
    let (answer, whole) = ask_http3(&mut requests, plain).await;
    assert_eq!((answer.status().as_u16(), whole == body), (200, true));
    let ranged = http3_get(&edge, "/vod/a").header("range", "bytes=5-9");
    let (answer, part) = ask_http3(&mut requests, ranged.body(()).unwrap()).await;
    assert_eq!((answer.status().as_u16(), &part[..]), (206, &body[5..10]));
    let known = http3_get(&edge, "/vod/a").header("if-none-match", "\"e\"");
    let (answer, none) = ask_http3(&mut requests, known.body(()).unwrap()).await;
    assert_eq!((answer.status().as_u16(), none.len()), (304, 0));
    let missing = http3_get(&edge, "/vod/b").body(()).unwrap();
    let (answer, _) = ask_http3(&mut requests, missing).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(edge.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn a_changed_certificate_is_used_from_then_on() {
    let mut edge = Edge::start(|config| config.tls.reload_ms = 20).await;
    edge.origin.put("/vod/a", &[], "a");
    let old = edge.client().build().unwrap();
    assert_eq!(
        old.get(edge.url("/vod/a")).send().await.unwrap().status(),
        200
    );
    edge.certificate = certify(edge.folder.path());
    let connector = TlsConnector::from(Arc::new(edge.tls_config(b"h2")));
    let changed = async {
        loop {
            let socket = TcpStream::connect(edge.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            if connector.connect(name, socket).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed)
        .await
        .unwrap();
    // The connection that was open goes on.
    assert_eq!(
        old.get(edge.url("/vod/a")).send().await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn open_requests_of_every_version_end_before_the_proxy_does() {
    let mut edge = Edge::start(|_| {}).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    edge.origin.on("/vod/slow", move |_| {
        let held = held.clone();
        async move {
            let _ = held.acquire().await;
            respond::<&str>(200, &[], "done")
        }
    });
    let (mut requests, _driven) = connect_http3(&edge).await;
    let over_quic = http3_get(&edge, "/vod/slow").body(()).unwrap();
    let over_quic = tokio::spawn(async move { ask_http3(&mut requests, over_quic).await });
    let newest = edge.client().build().unwrap().get(edge.url("/vod/slow"));
    let oldest = edge.client().http1_only().build().unwrap();
    let oldest = oldest.get(edge.url("/vod/slow"));
    let over_tcp = [newest, oldest].map(|request| tokio::spawn(request.send()));
    while edge.origin.count("/vod/slow") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    edge.stop.take().unwrap().send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!edge.running.is_finished(), "requests are open");
    let late = TcpStream::connect(edge.address).await;
    assert!(late.is_err(), "nobody new is let in");
    gate.add_permits(1);
    for request in over_tcp {
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.text().await.unwrap(), "done");
    }
    let (answer, body) = over_quic.await.unwrap();
    assert_eq!((answer.status().as_u16(), &body[..]), (200, &b"done"[..]));
    tokio::time::timeout(Duration::from_secs(10), edge.running)
        .await
        .unwrap()
        .unwrap();
}

/// Writes a certificate for `names` into `folder`, and returns it.
fn certify_further(folder: &Path, names: &[&str]) -> (CertificateConfig, Vec<u8>) {
    let named = names
        .iter()
        .map(|name| (*name).into())
        .collect::<Vec<String>>();
    let mut params = rcgen::CertificateParams::new(named).unwrap();
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let [certificate_file, key_file] = ["pem", "key"].map(|end| folder.join(names[0]).join(end));
    std::fs::create_dir(folder.join(names[0])).unwrap();
    std::fs::write(&certificate_file, made.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let config = CertificateConfig {
        certificate_file,
        key_file,
    };
    (config, made.der().to_vec())
}

#[tokio::test]
async fn viewers_get_the_certificate_of_the_name_that_they_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let (exact, exact_der) = certify_further(folder.path(), &["a.example", "b.example"]);
    let (wild, wild_der) = certify_further(folder.path(), &["*.sports.example"]);
    let edge = Edge::start(|config| config.tls.certificates = vec![exact, wild]).await;
    let mut roots = RootCertStore::empty();
    for der in [&exact_der, &wild_der, &edge.certificate] {
        roots.add(CertificateDer::from(der.clone())).unwrap();
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for (name, der) in [
        ("a.example", Some(&exact_der)),
        ("B.example", Some(&exact_der)),
        ("x.sports.example", Some(&wild_der)),
        ("localhost", Some(&edge.certificate)),
        // They get that of localhost, which is not theirs.
        ("x.y.sports.example", None),
        ("sports.example", None),
    ] {
        let socket = TcpStream::connect(edge.address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        let socket = connector.connect(name.clone(), socket).await;
        let found = socket.ok().map(|socket| {
            let (_, connection) = socket.get_ref();
            connection.peer_certificates().unwrap()[0].to_vec()
        });
        assert_eq!(found.as_ref(), der, "{name:?}");
    }
    let viewer = edge.client().build().unwrap();
    let metrics = viewer.get(edge.url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let first_to_end = "shoal_proxy_certificate_expiry_timestamp_seconds 4070908800\n";
    assert!(metrics.contains(first_to_end), "{metrics}");
}

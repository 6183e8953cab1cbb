//! TLS of the tracker's own.

use std::{fs, path::Path, sync::Arc};

use super::*;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpSocket,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracker::{SwarmConfig, TlsConfig};

/// A new certificate for `localhost` in the folder; what clients trust.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

fn secured() -> (TempDir, CertificateDer<'static>, Config) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let config = config_of(folder.path());
    (folder, certificate, config)
}

/// Settings with the certificate in the folder.
fn config_of(folder: &Path) -> Config {
    Config {
        tls: TlsConfig {
            certificate: Some(folder.join("cert.pem")),
            key: Some(folder.join("key.pem")),
        },
        reload_ms: 20,
        ..config()
    }
}

async fn tls(
    tracker: &Tracker,
    certificate: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect(tracker.address, certificate, versions).await
}

/// A connection with TLS of one of the versions.
async fn connect(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = rustls::crypto::ring::default_provider();
    connect_with(address, certificate, provider, versions).await
}

async fn connect_with(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(certificate, provider, versions);
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    timeout(PATIENCE, connected)
        .await
        .expect("a handshake in time")
}

fn client_config(
    certificate: &CertificateDer<'static>,
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn join_by<S>(tracker: &Tracker, stream: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = tracker.request("/shoal", &[]).unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    ViewerMsg::Join(join()).encode(&mut bytes);
    socket.send(Message::Binary(bytes.into())).await.unwrap();
    let welcome = next(&mut socket).await;
    assert!(matches!(
        TrackerMsg::decode(&welcome),
        Ok(TrackerMsg::Welcome(_))
    ));
    socket
}

async fn next<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Bytes {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.unwrap();
        if let Message::Binary(bytes) = message.unwrap().unwrap() {
            return bytes;
        }
    }
}

#[tokio::test]
async fn viewers_meet_and_signal_over_both_versions_of_tls() {
    let (_folder, certificate, config) = secured();
    let tracker = start(config).await;
    let new = tls(&tracker, &certificate, &[&rustls::version::TLS13])
        .await
        .unwrap();
    let old = tls(&tracker, &certificate, &[&rustls::version::TLS12])
        .await
        .unwrap();
    let mut a = join_by(&tracker, new).await;
    let mut b = join_by(&tracker, old).await;
    let to = match TrackerMsg::decode(&next(&mut a).await).unwrap() {
        TrackerMsg::Introduce(introduction) => introduction.peer,
        other => panic!("{other:?}"),
    };
    next(&mut b).await;
    for round in 0..50_usize {
        let payload = &vec![round as u8; 1 + round * 40][..];
        let mut bytes = Vec::new();
        ViewerMsg::Signal { to, payload }.encode(&mut bytes);
        a.send(Message::Binary(bytes.into())).await.unwrap();
        let got = next(&mut b).await;
        match TrackerMsg::decode(&got).unwrap() {
            TrackerMsg::Signal { payload: got, .. } => assert_eq!(got, payload),
            other => panic!("{other:?}"),
        }
    }
    a.close(None).await.unwrap();
    while let Some(Ok(_)) = timeout(PATIENCE, a.next()).await.unwrap() {}
    tracker.stop().await;
}

/// Signals to a viewer until the network takes no more of them, then neighbours that come and go, of whom
/// it must hear: that is more than its queue takes.
async fn flood(tracker: &Tracker, from: &mut Viewer, to: PeerId) {
    let payload = &[0; 2048][..];
    let signal = ViewerMsg::Signal { to, payload };
    let counts = async || {
        let passed = tracker.metric("signals_total").await;
        (passed, tracker.metric("signals_dropped_total").await)
    };
    let ((mut passed, mut lost), mut rounds_lost) = (counts().await, 0);
    for _ in 0..10_000 {
        for _ in 0..16 {
            from.send(&signal).await;
        }
        let all = passed + lost + 16;
        let before = passed;
        while passed + lost < all {
            (passed, lost) = counts().await;
        }
        rounds_lost = if passed == before { rounds_lost + 1 } else { 0 };
        if rounds_lost == 10 {
            break;
        }
    }
    assert_eq!(rounds_lost, 10, "the queue is not bounded");
    let mut neighbours = 0;
    while tracker.metric("slow_readers_total").await == 0 {
        for _ in 0..50 {
            let (mut other, ..) = tracker.join().await;
            other.send(&ViewerMsg::Leave).await;
        }
        neighbours += 50;
        assert!(neighbours < 5_000, "it is never given up");
    }
}

/// A connection of somebody who does not read comes to be closed, and others are served.
async fn is_given_up<S: AsyncRead + AsyncWrite + Unpin>(
    config: Config,
    secure: impl AsyncFn(TcpStream) -> S,
) {
    let tracker = start(config).await;
    let (mut a, ..) = tracker.join().await;
    let tcp = TcpSocket::new_v4().unwrap();
    // As little as the system lets wait.
    tcp.set_recv_buffer_size(4096).unwrap();
    let tcp = tcp.connect(tracker.address).await.unwrap();
    let slow = join_by(&tracker, secure(tcp).await).await;
    let name = a.introduction().await.peer;
    flood(&tracker, &mut a, name).await;
    let (mut b, ..) = tracker.join().await;
    b.introduction().await;
    drop(slow);
    tracker.stop().await;
}

#[tokio::test]
async fn who_does_not_read_is_closed_with_tls_as_without() {
    let (_folder, certificate, config) = secured();
    let limits = LimitsConfig {
        signals_burst: 1_000_000,
        signals_per_s: 1_000_000,
        joins_burst: 1_000_000,
        bytes_burst: u32::MAX,
        bytes_per_address_burst: u32::MAX,
        queue_bytes_max: 16 * 1024,
        ..limits()
    };
    let swarm = SwarmConfig {
        introductions_burst: u16::MAX,
        ..config.swarm.clone()
    };
    let config = Config {
        limits,
        swarm,
        // The others come without TLS.
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..config
    };
    Box::pin(is_given_up(config.clone(), async |tcp| tcp)).await;
    let provider = rustls::crypto::ring::default_provider();
    let client = client_config(&certificate, provider, &[&rustls::version::TLS13]);
    let client = Arc::new(client);
    let secure = async |tcp| {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(&client));
        connector.connect(name, tcp).await.unwrap()
    };
    Box::pin(is_given_up(config, secure)).await;
}

#[tokio::test]
async fn who_closes_hears_the_answer_and_that_nothing_was_cut_off() {
    let (_folder, certificate, config) = secured();
    let tracker = start(config).await;
    let mut leave = Vec::new();
    ViewerMsg::Leave.encode(&mut leave);
    let frame = |first: u8, payload: &[u8]| {
        let head = [first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        [&head[..], payload].concat()
    };
    let close = frame(0x88, &1000_u16.to_be_bytes());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for bytes in [close.clone(), [frame(0x82, &leave), close.clone()].concat()] {
            let stream = tls(&tracker, &certificate, &[version]).await.unwrap();
            let mut socket = join_by(&tracker, stream).await;
            let stream = socket.get_mut();
            stream.write_all(&bytes).await.unwrap();
            let mut heard = Vec::new();
            let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
            ended.expect("it ends").expect("as TLS has it");
            assert_eq!(heard, [0x88, 2, 3, 0xe8]);
        }
    }
    tracker.stop().await;
}

#[tokio::test]
async fn who_comes_again_resumes_but_says_nothing_before_the_handshake_is_done() {
    let (_folder, certificate, config) = secured();
    let tracker = start(config).await;
    let provider = rustls::crypto::ring::default_provider();
    let mut client = client_config(&certificate, provider, &[&rustls::version::TLS13]);
    // What is said earlier could be said again by somebody else.
    client.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(client));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let tcp = TcpStream::connect(tracker.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = connector.connect_with(name, tcp, |session| {
            assert!(session.early_data().is_none(), "none is allowed");
        });
        let stream = timeout(PATIENCE, connected).await.unwrap().unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
        // The ticket comes before the welcome.
        join_by(&tracker, stream).await;
    }
    tracker.stop().await;
}

#[tokio::test]
async fn keys_are_updated_while_viewers_speak_with_every_cipher() {
    use rustls::crypto::ring::cipher_suite;

    let (_folder, certificate, config) = secured();
    let tracker = start(config).await;
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![suite],
            ..rustls::crypto::ring::default_provider()
        };
        let versions = &[&rustls::version::TLS13];
        let stream = connect_with(tracker.address, &certificate, provider, versions).await;
        let mut a = join_by(&tracker, stream.unwrap()).await;
        let stream = tls(&tracker, &certificate, &[&rustls::version::TLS13]).await;
        let mut b = join_by(&tracker, stream.unwrap()).await;
        let to = match TrackerMsg::decode(&next(&mut b).await).unwrap() {
            TrackerMsg::Introduce(introduction) => introduction.peer,
            other => panic!("{other:?}"),
        };
        next(&mut a).await;
        for round in 0..20_u8 {
            // Asks the tracker to take new keys too.
            let session = a.get_mut().get_mut().1;
            session.refresh_traffic_keys().unwrap();
            let payload = &vec![round; 1 + usize::from(round) * 40][..];
            let mut bytes = Vec::new();
            ViewerMsg::Signal { to, payload }.encode(&mut bytes);
            b.send(Message::Binary(bytes.into())).await.unwrap();
            let got = next(&mut a).await;
            assert!(matches!(
                TrackerMsg::decode(&got),
                Ok(TrackerMsg::Signal { payload: got, .. }) if got == payload
            ));
            // What is said takes the request along.
            a.send(Message::Ping(vec![round].into())).await.unwrap();
        }
        for socket in [&mut a, &mut b] {
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = timeout(PATIENCE, socket.next()).await.unwrap() {}
        }
    }
    tracker.stop().await;
}

#[tokio::test]
async fn a_record_that_was_changed_on_the_way_ends_the_connection() {
    let (_folder, certificate, config) = secured();
    let tracker = start(config).await;
    for record in [
        // Application data that nobody has encrypted, more than fits, and a handshake in the clear.
        [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(),
        vec![23, 3, 3, 0xff, 0xff],
        vec![22, 3, 3, 0, 1, 0],
    ] {
        let stream = tls(&tracker, &certificate, &[&rustls::version::TLS13]).await;
        let (mut tcp, mut session) = stream.unwrap().into_inner();
        tcp.write_all(&record).await.unwrap();
        let mut heard = Vec::new();
        let ended = timeout(PATIENCE, tcp.read_to_end(&mut heard)).await;
        ended.expect("it ends").unwrap();
        let (mut heard, mut told) = (&heard[..], false);
        while !heard.is_empty() {
            session.read_tls(&mut heard).unwrap();
            let read = session.process_new_packets();
            told |= matches!(read, Err(rustls::Error::AlertReceived(_)));
        }
        assert!(told, "why it ends is said");
    }
    let stream = tls(&tracker, &certificate, &[&rustls::version::TLS13]).await;
    join_by(&tracker, stream.unwrap()).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_new_certificate_counts_without_a_restart_and_a_bad_one_does_not() {
    let (folder, first, config) = secured();
    let tracker = start(config).await;
    let version = &[&rustls::version::TLS13];
    let old = tls(&tracker, &first, version).await.unwrap();
    let _stays = join_by(&tracker, old).await;
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    fs::write(folder.path().join("key.pem"), other_key).unwrap();
    // The tracker looks every 20 ms; whenever it does, the old certificate stays in force.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(tls(&tracker, &first, version).await.is_ok());
    }
    let second = certify(folder.path());
    let patience = tokio::time::Instant::now() + PATIENCE;
    while tls(&tracker, &second, version).await.is_err() {
        assert!(tokio::time::Instant::now() < patience, "not read again");
    }
    assert!(tls(&tracker, &first, version).await.is_err());
    tracker.stop().await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_ws_still_works_beside_wss() {
    let (_folder, certificate, mut config) = secured();
    config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.proxy_protocol = true;
    let tracker = start(config).await;
    let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
    tcp.write_all(
        b"PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    assert!(
        tls(&tracker, &certificate, &[&rustls::version::TLS13])
            .await
            .is_err(),
        "no header"
    );
    tracker.stop().await;
}

#[tokio::test]
async fn what_is_no_tls_is_cut_and_the_tracker_goes_on() {
    let (_folder, certificate, mut config) = secured();
    config.limits.request_head_ms = 500;
    let tracker = start(config).await;
    let hello_then_rubbish = [b"\x16\x03\x01\x02\x00".as_slice(), &[7; 600]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"\x16\x03\x01\xff\xff",
        b"\x16",
        &hello_then_rubbish,
    ] {
        let mut tcp = TcpStream::connect(tracker.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.unwrap();
        assert!(ended.is_err() || rest.len() < 100, "an alert at most");
    }
    let stream = tls(&tracker, &certificate, &[&rustls::version::TLS13])
        .await
        .unwrap();
    join_by(&tracker, stream).await;
    tracker.stop().await;
}

#[tokio::test]
async fn wrong_files_are_named_at_the_start() {
    let (folder, _, good) = secured();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    let path = |name: &str| Some(folder.path().join(name));
    for (certificate, key, named) in [
        (path("missing.pem"), path("key.pem"), "missing.pem"),
        (path("empty.pem"), path("key.pem"), "empty.pem"),
        (path("cert.pem"), path("cert.pem"), "cert.pem"),
        (path("cert.pem"), None, "neither"),
    ] {
        let config = Config {
            tls: TlsConfig { certificate, key },
            ..good.clone()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = tracker::run(listener, config, async {}).await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

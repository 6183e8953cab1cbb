//! What a connected viewer costs, plain and with TLS. Run by hand: the numbers are for documentation.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use super::{tls, *};

/// Viewers of each kind.
const VIEWERS: usize = 1000;
/// Tells the child process where the certificate is.
const FOLDER: &str = "SHOAL_MEASURE_FOLDER";

/// The tracker in a process of its own, whose memory is the tracker's alone.
#[tokio::test]
#[ignore = "the other half of memory_of_idle_connections"]
async fn serve_for_measurement() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let mut config = tls::config_of(folder.as_ref());
    config.limits.connections_per_address_max = 10_000;
    config.limits.joins_burst = 10_000;
    // Plain connections beside those with TLS.
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let tracker = start(config).await;
    println!("\nlistening {}", tracker.address);
    std::io::stdout().flush().unwrap();
    let until_closed = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(until_closed)
        .await
        .unwrap()
        .unwrap();
}

fn rss_kib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A viewer alone in its stream that has joined and reported thrice.
async fn settle<S>(socket: &mut WebSocketStream<S>, index: usize)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let stream = StreamId(u128::to_be_bytes(index as u128 + 1));
    let mut bytes = Vec::new();
    ViewerMsg::Join(Join { stream, ..join() }).encode(&mut bytes);
    socket.send(Message::Binary(bytes.into())).await.unwrap();
    socket.next().await.unwrap().unwrap();
    for _ in 0..3 {
        let mut bytes = Vec::new();
        ViewerMsg::Status(Status {
            track: TrackId(1),
            ..Status::default()
        })
        .encode(&mut bytes);
        socket.send(Message::Binary(bytes.into())).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "a measurement, not a test"]
async fn memory_of_idle_connections() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = tls::certify(folder.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "memory::serve_for_measurement",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .find_map(|line| line.unwrap().strip_prefix("listening ").map(str::to_owned))
        .unwrap();
    let tracker = At(address.parse().unwrap());
    let (mut plain, mut secured) = (Vec::new(), Vec::new());
    // The first ones pay for what all share.
    for round in 0..2 {
        let count = if round == 0 { 50 } else { VIEWERS };
        let before = rss_kib(&child);
        for _ in 0..count {
            let (mut socket, _) = connect_async(tracker.request()).await.unwrap();
            settle(&mut socket, plain.len()).await;
            plain.push(socket);
        }
        let with_plain = rss_kib(&child);
        for _ in 0..count {
            let stream = tls::connect(tracker.0, &certificate, &[&rustls::version::TLS13])
                .await
                .unwrap();
            let request = tracker.request();
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
                .await
                .unwrap();
            settle(&mut socket, 1_000_000 + secured.len()).await;
            secured.push(socket);
        }
        let with_both = rss_kib(&child);
        let each = |kib: u64| kib as f64 / count as f64;
        println!(
            "{count} viewers of each kind: plain {:.1} KiB, TLS {:.1} KiB each",
            each(with_plain - before),
            each(with_both - with_plain)
        );
    }
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// A tracker elsewhere.
struct At(SocketAddr);

impl At {
    fn request(&self) -> Request {
        let mut request = format!("ws://{}/shoal", self.0)
            .into_client_request()
            .unwrap();
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        request
    }
}

//! Connections that are silent between requests: they keep no buffers, and nobody notices.

use std::{net::SocketAddr, time::Duration};

use origin_proxy::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::support::{Origin, Proxy};

const LONG: Duration = Duration::from_secs(20);
const KEPT: [(&str, &str); 1] = [("cache-control", "max-age=600")];

/// A proxy of `/a`, `/b` and `/c`, which say their names.
async fn start(change: impl FnOnce(&mut Config)) -> Proxy {
    let proxy = Proxy::start_with(Origin::default(), change).await;
    for name in ["/a", "/b", "/c"] {
        proxy.origin.put(name, &KEPT, name);
    }
    proxy
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Reads one answer, and returns its body.
async fn read_answer(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(socket.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(bytes).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (_, len) = head.split_once("content-length: ").expect("a length");
    let len = len.split('\r').next().unwrap().parse().unwrap();
    let mut body = vec![0; len];
    socket.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

/// Waits until so many connections are at rest, those that ask for this figure apart.
async fn idle(address: SocketAddr, count: usize) {
    gauge(address, "connections_idle", count).await;
}

/// Waits until there are so many, the one that asks for this figure among them.
async fn open(address: SocketAddr, count: usize) {
    gauge(address, "connections", count).await;
}

async fn gauge(address: SocketAddr, name: &str, count: usize) {
    let start = format!("shoal_proxy_{name} ");
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    loop {
        let metrics = client
            .get(format!("http://{address}/metrics"))
            .send()
            .await
            .unwrap();
        let metrics = metrics.text().await.unwrap();
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
        if found.expect("a gauge").parse() == Ok(count as f64) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads until the proxy hangs up.
async fn read_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LONG, socket.read_to_end(&mut rest)).await;
    // A reset is an end, too: bytes of ours may be on their way.
    let _ = read.expect("the proxy hangs up");
    rest
}

/// More than the buffers of two sockets hold.
const LARGE_LEN: usize = 24 << 20;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_takes_nothing_loses_its_place() {
    let proxy = start(|config| config.timeouts.send_ms = 500).await;
    proxy.origin.put("/large", &KEPT, vec![7; LARGE_LEN]);
    let ask = async || {
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.write_all(get("/large").as_bytes()).await.unwrap();
        socket
    };
    // While it arrives from the origin, and from memory.
    for _ in 0..2 {
        let mut idler = ask().await;
        idler.readable().await.unwrap();
        let cut_off = tokio::time::timeout(LONG, open(proxy.address, 1));
        cut_off.await.expect("its place is free");
        assert!(read_end(&mut idler).await.len() < LARGE_LEN);
        // Whoever takes its time may have it all.
        let mut slow = ask().await;
        slow.readable().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(read_answer(&mut slow).await.len(), LARGE_LEN);
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_a_rest() {
    let proxy = start(|_| {}).await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    for path in ["/a", "/b"] {
        socket.write_all(get(path).as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut socket).await, path);
        idle(proxy.address, 1).await;
    }
    // Several at once, in pieces that have nothing to do with their ends.
    let many = [get("/a"), get("/b"), get("/c"), get("/a")].concat();
    let (first, second) = many.as_bytes().split_at(10);
    socket.write_all(first).await.unwrap();
    idle(proxy.address, 0).await;
    socket.write_all(second).await.unwrap();
    for path in ["/a", "/b", "/c", "/a"] {
        assert_eq!(read_answer(&mut socket).await, path);
    }
    idle(proxy.address, 1).await;
    drop(socket);
    idle(proxy.address, 0).await;
}

#[tokio::test]
async fn a_request_that_begins_with_the_last_one_is_not_lost() {
    let proxy = start(|_| {}).await;
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let two = [get("/a"), get("/b")].concat();
    // Whether the proxy has put its buffers away or not, and wherever the cut is.
    for pause_ms in [0, 10, 20, 30, 60, 100] {
        for cut in [get("/a").len() + 1, two.len() - 1] {
            let (first, second) = two.as_bytes().split_at(cut);
            socket.write_all(first).await.unwrap();
            assert_eq!(read_answer(&mut socket).await, "/a");
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            socket.write_all(second).await.unwrap();
            assert_eq!(read_answer(&mut socket).await, "/b");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_the_socket_comes_whole() {
    const LEN: usize = 16 << 20;
    let proxy = start(|_| {}).await;
    let body: Vec<u8> = (0..LEN).map(|index| (index / 7) as u8).collect();
    proxy.origin.put("/long", &KEPT, body.clone());
    // From the origin, and from the cache.
    for _ in 0..2 {
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        for path in ["/long", "/a"] {
            socket.write_all(get(path).as_bytes()).await.unwrap();
            if path == "/a" {
                assert_eq!(read_answer(&mut socket).await, path);
                continue;
            }
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                bytes.push(socket.read_u8().await.unwrap());
            }
            // What the socket holds is full by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut came = vec![0; LEN];
            socket.read_exact(&mut came).await.unwrap();
            assert!(came == body, "other bytes");
        }
    }
    assert_eq!(proxy.origin.count("/long"), 1);
}

/// What the kernel holds for the viewer at `client` that the viewer has not acknowledged, in bytes, when it takes no
/// more.
#[cfg(target_os = "linux")]
async fn held_for(client: SocketAddr) -> usize {
    let look = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_client = |field: &str| field.ends_with(&format!(":{:04X}", client.port()));
        let queue = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            is_client(fields[2]).then(|| fields[4].split(':').next().unwrap().to_owned())
        });
        queue.map_or(0, |queue| usize::from_str_radix(&queue, 16).unwrap())
    };
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = look();
        if now > 0 && now == before {
            return now;
        }
        before = now;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_holds_little_for_a_viewer_who_is_slow() {
    const LEN: usize = 16 << 20;
    const BUFFER: usize = 128 << 10;
    let mut held = Vec::new();
    for unsent_bytes_max in [BUFFER as u32, 0] {
        let proxy = start(|config| config.limits.unsent_bytes_max = unsent_bytes_max).await;
        proxy.origin.put("/long", &KEPT, vec![7; LEN]);
        proxy.get("/long").await.bytes().await.unwrap();
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        let address = socket.local_addr().unwrap();
        socket.write_all(get("/long").as_bytes()).await.unwrap();
        held.push(held_for(address).await);
        let mut body = Vec::new();
        while body.len() < LEN {
            assert!(socket.read_buf(&mut body).await.unwrap() > 0);
        }
    }
    assert!(held[0] <= 2 * BUFFER && held[1] > 2 * BUFFER, "{held:?}");
}

#[tokio::test]
async fn connections_end_as_viewers_want() {
    let proxy = start(|_| {}).await;
    for last in [
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.write_all(get("/a").as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut socket).await, "/a");
        idle(proxy.address, 1).await;
        socket.write_all(last.as_bytes()).await.unwrap();
        let end = String::from_utf8(read_end(&mut socket).await).unwrap();
        assert!(end.ends_with("\r\n\r\n/a"), "{end}");
    }
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.write_all(get("/a").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await, "/a");
    idle(proxy.address, 1).await;
    socket.write_all(b"\0 nonsense\r\n\r\n").await.unwrap();
    let end = String::from_utf8(read_end(&mut socket).await).unwrap();
    assert!(end.starts_with("HTTP/1.1 400"), "{end}");
}

#[tokio::test]
async fn silence_and_slowness_end_a_connection() {
    let proxy = start(|config| config.timeouts.request_head_ms = 400).await;
    // Nothing ever, a part of a request, and a part of what could be HTTP/2.
    for first in [
        "",
        "GET /a HT",
        "PRI * HT",
        &get("/a"),
        "POST / HTTP/1.1\r\n",
    ] {
        let mut socket = TcpStream::connect(proxy.address).await.unwrap();
        socket.write_all(first.as_bytes()).await.unwrap();
        read_end(&mut socket).await;
    }
    // The same after a rest.
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.write_all(get("/a").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await, "/a");
    idle(proxy.address, 1).await;
    socket.write_all(b"GET /b").await.unwrap();
    assert_eq!(read_end(&mut socket).await, b"");
    // After the beginning of another request, whose answer is there.
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    let half = [&get("/a"), "GET /b"].concat();
    socket.write_all(half.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await, "/a");
    assert_eq!(read_end(&mut socket).await, b"");
    // A byte now and then is no request.
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.write_all(get("/a").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut socket).await, "/a");
    let (mut reader, mut writer) = socket.into_split();
    let trickle = tokio::spawn(async move {
        let _ = writer.write_all(b"GET /b HTTP/1.1\r\nX: ").await;
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LONG, reader.read_to_end(&mut rest)).await;
    let _ = read.expect("the proxy hangs up");
    assert_eq!(rest, b"");
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_hold_up_the_end() {
    const VIEWERS: usize = 1000;
    let origin = Origin::default();
    origin.put("/a", &KEPT, "/a");
    let mut config = Config {
        origin: format!("http://{}", origin.clone().serve().await),
        ..Config::default()
    };
    config.timeouts.drain_ms = 3_600_000;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(origin_proxy::run(listener, config, async {
        let _ = stopped.await;
    }));
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let mut viewer = TcpStream::connect(address).await.unwrap();
        viewer.write_all(get("/a").as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut viewer).await, "/a");
        viewers.push(viewer);
    }
    idle(address, VIEWERS).await;
    // One is in the midst of a request, and gets its answer.
    let mut late = viewers.pop().unwrap();
    let request = get("/a");
    let (first, second) = request.split_at(10);
    late.write_all(first.as_bytes()).await.unwrap();
    idle(address, VIEWERS - 1).await;
    stop.send(()).unwrap();
    for viewer in &mut viewers {
        assert_eq!(read_end(viewer).await, b"");
    }
    assert!(!running.is_finished(), "a request is open");
    late.write_all(second.as_bytes()).await.unwrap();
    let answer = String::from_utf8(read_end(&mut late).await).unwrap();
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n/a"), "{answer}");
    let end = tokio::time::timeout(LONG, running).await;
    end.expect("it ends").unwrap().unwrap();
}

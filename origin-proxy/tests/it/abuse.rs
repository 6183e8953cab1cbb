//! Viewers who send slowly, take nothing, or say two things at once, in every version of HTTP.

use std::time::Duration;

use bytes::Bytes;
use origin_proxy::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    raw2::{DATA, END_STREAM, End, Raw2},
    support::{Origin, Proxy, respond},
    versions::{Edge, ask_http3, connect_http3, connect_http3_with, connect_quic, http3_get},
};

const LONG: Duration = Duration::from_secs(20);
const SMUGGLED: &str = "GET /vod/secret HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends `request` and then nothing, and reads until the proxy hangs up.
async fn send(proxy: &Proxy, request: &str) -> String {
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LONG, socket.read_to_end(&mut answer)).await;
    let _ = read.expect("the proxy hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn start(change: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::start_with(Origin::default(), change).await
}

#[tokio::test]
async fn bodies_of_strangers_are_not_waited_for() {
    let hour = 3_600_000;
    let proxy = start(|config| {
        config.admin.token = Some("secret".into());
        config.timeouts.request_body_ms = hour;
    })
    .await;
    let closed = start(|config| config.timeouts.request_body_ms = hour).await;
    let head = "Host: a\r\nContent-Length: 1000\r\n";
    for (proxy, path, token, status) in [
        (&closed, "purge", "", "401"),
        (&proxy, "purge", "wrong", "401"),
        (&proxy, "nonsense", "secret", "404"),
        (&proxy, "status", "secret", "404"),
    ] {
        let request = format!(
            "POST /.shoal/admin/{path} HTTP/1.1\r\n{head}Authorization: Bearer {token}\r\n\r\n"
        );
        let answer = send(proxy, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_its_request() {
    let patience = |config: &mut Config| {
        config.admin.token = Some("secret".into());
        config.limits.body_bytes_max = 1000;
        config.timeouts.request_body_ms = 300;
    };
    let proxy = start(patience).await;
    for head in [
        "POST /vod/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        "POST /vod/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST /.shoal/admin/purge HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\
         Authorization: Bearer secret\r\n\r\n{",
    ] {
        let answer = send(&proxy, head).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{head}\n{answer}");
    }
    let mut raw = Raw2::connect(proxy.address, 65_535).await;
    let post = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/vod/a"),
    ];
    raw.ask(1, 0, &post).await;
    raw.send(DATA, 0, 1, b"abc").await;
    assert_eq!(raw.answer(1).await, End::Otherwise);
    assert_eq!(proxy.origin.asked(), Vec::<String>::new());
    let edge = Edge::start(patience).await;
    let (mut requests, _driven) = connect_http3(&edge).await;
    let post = http3_get(&edge, "/vod/a").method("POST").body(()).unwrap();
    let mut stream = requests.send_request(post).await.unwrap();
    stream.send_data(Bytes::from_static(b"abc")).await.unwrap();
    let answer = tokio::time::timeout(LONG, stream.recv_response()).await;
    assert_eq!(answer.expect("an answer").unwrap().status(), 408);
    assert_eq!(edge.origin.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_of_http3_without_an_end_ends() {
    let edge = Edge::start(|config| config.timeouts.request_head_ms = 300).await;
    edge.origin.put("/vod/a", &[], "a");
    let (mut requests, _driven) = connect_http3(&edge).await;
    let get = http3_get(&edge, "/vod/a").body(()).unwrap();
    let mut stream = requests.send_request(get).await.unwrap();
    let answer = tokio::time::timeout(LONG, stream.recv_response()).await;
    assert!(answer.expect("an end").is_err());
    assert_eq!(edge.origin.asked(), Vec::<String>::new());
}

/// An origin whose `/vod/private` is for each viewer alone, and longer than one piece.
fn private() -> Origin {
    let origin = Origin::default();
    let headers = [("cache-control", "private")];
    origin.put("/vod/private", &headers, vec![7; 300_000]);
    origin.put(
        "/vod/all",
        &[("cache-control", "max-age=60")],
        vec![7; 300_000],
    );
    origin.put("/vod/other", &[], "other");
    origin
}

/// Waits until there is a place for an answer to one viewer alone.
async fn until_there_is_room(get: impl AsyncFn() -> u16) {
    let room = async {
        while get().await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, room).await.expect("room");
}

#[tokio::test]
async fn who_opens_no_window_takes_no_place_from_others_and_loses_its_own() {
    const PLACES: usize = 6;
    // Nothing at all, and a byte of the first piece.
    for window in [0, 1] {
        let proxy = Proxy::start_with(private(), |config| {
            config.limits.flights_max = 2;
            config.limits.passing_max = PLACES;
            config.timeouts.send_ms = 600;
        })
        .await;
        let mut raw = Raw2::connect(proxy.address, window).await;
        for stream in (0..PLACES as u32).map(|number| 2 * number + 1) {
            raw.get(stream, "/vod/private").await;
            assert_eq!(raw.answer(stream).await, End::Ok);
        }
        assert_eq!(proxy.text("/vod/other").await, "other");
        raw.end().await;
        until_there_is_room(async || proxy.get("/vod/private").await.status().as_u16()).await;
        // The same with what the cache has.
        let mut raw = Raw2::connect(proxy.address, window).await;
        raw.get(1, "/vod/all").await;
        assert_eq!(raw.answer(1).await, End::Ok);
        raw.end().await;
    }
}

#[tokio::test]
async fn a_place_is_one_of_so_many() {
    let proxy = Proxy::start_with(private(), |config| config.limits.passing_max = 1).await;
    let mut raw = Raw2::connect(proxy.address, 0).await;
    raw.get(1, "/vod/private").await;
    assert_eq!(raw.answer(1).await, End::Ok);
    let refused = proxy.get("/vod/private").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(crate::support::header(&refused, "retry-after"), "1");
}

#[tokio::test]
async fn a_stream_of_http3_that_is_not_read_ends() {
    let edge = Edge::start_before(private(), |config| {
        config.limits.passing_max = 1;
        config.timeouts.send_ms = 300;
    })
    .await;
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(1000_u32.into());
    let (mut idler, _driven) = connect_http3_with(&edge, transport).await;
    let get = http3_get(&edge, "/vod/private").body(()).unwrap();
    let mut stream = idler.send_request(get).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let client = edge.client().build().unwrap();
    let get = async || {
        let answer = client.get(edge.url("/vod/private")).send().await.unwrap();
        let status = answer.status().as_u16();
        let _ = answer.bytes().await;
        status
    };
    until_there_is_room(get).await;
    let is_whole = loop {
        match stream.recv_data().await {
            Ok(Some(_)) => {}
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert!(!is_whole, "a part is not the whole");
}

#[tokio::test]
async fn connections_that_ask_for_nothing_end() {
    let proxy = start(|config| config.timeouts.request_head_ms = 300).await;
    proxy.origin.put("/vod/a", &[], "a");
    Raw2::connect(proxy.address, 65_535).await.end().await;
    let mut raw = Raw2::connect(proxy.address, 65_535).await;
    raw.get(1, "/vod/a").await;
    assert_eq!(raw.answer(1).await, End::Ok);
    raw.end().await;
    // Who waits for an answer does ask for something.
    proxy.origin.on("/vod/slow", |_| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        respond::<&str>(200, &[], "slow")
    });
    let mut raw = Raw2::connect(proxy.address, 65_535).await;
    raw.get(1, "/vod/slow").await;
    assert_eq!(raw.answer(1).await, End::Ok);
    let edge = Edge::start(|config| config.timeouts.request_head_ms = 300).await;
    let (_requests, driven) = connect_http3(&edge).await;
    let end = tokio::time::timeout(LONG, driven).await;
    assert!(end.expect("an end").unwrap().is_h3_no_error());
    // The same if the proxy may not open its own streams, whatever is done to keep the connection alive.
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_uni_streams(0_u32.into())
        .keep_alive_interval(Some(Duration::from_millis(100)))
        .max_idle_timeout(None);
    let (_endpoint, connection) = connect_quic(&edge, transport).await;
    let end = tokio::time::timeout(LONG, connection.closed()).await;
    let error = end.expect("an end");
    assert!(
        matches!(error, quinn::ConnectionError::ApplicationClosed(_)),
        "{error}"
    );
}

#[tokio::test]
async fn http2_cannot_smuggle() {
    let proxy = start(|config| config.limits.body_bytes_max = 1000).await;
    proxy.origin.put("/vod/a", &[], "a");
    let path = format!("/vod/a HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}");
    let value = format!("1\r\n\r\n{SMUGGLED}");
    let base = |method, path| {
        vec![
            (":method", method),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
        ]
    };
    let with = |method, name, value| [base(method, "/vod/a"), vec![(name, value)]].concat();
    for (fields, body) in [
        (base("GET", "/vod/a"), SMUGGLED),
        (with("GET", "content-length", "38"), SMUGGLED),
        (with("GET", "transfer-encoding", "chunked"), SMUGGLED),
        (with("POST", "transfer-encoding", "chunked"), SMUGGLED),
        (with("POST", "content-length", "3"), SMUGGLED),
        (with("POST", "content-length", "300"), SMUGGLED),
        (with("GET", "connection", "x"), ""),
        (with("GET", "x", &value), ""),
        (with("GET", "x\r\ny", "1"), ""),
        (with("GET", "X-Upper", "1"), ""),
        (with("GET", "x y", "1"), ""),
        (with("GET", ":path", "/vod/secret"), ""),
        (with("GET", ":method", "POST"), ""),
        (base("GET", &path), ""),
        (base("GET /vod/secret HTTP/1.1\r\nx:", "/vod/a"), ""),
        (base("GET", "vod/a"), ""),
        (base("CONNECT", "/vod/a"), ""),
    ] {
        let mut raw = Raw2::connect(proxy.address, 65_535).await;
        let flags = if body.is_empty() { END_STREAM } else { 0 };
        raw.ask(1, flags, &fields).await;
        if !body.is_empty() {
            raw.send(DATA, END_STREAM, 1, body.as_bytes()).await;
        }
        assert_ne!(raw.answer(1).await, End::Ok, "{fields:?}");
    }
    assert_eq!(proxy.origin.asked(), Vec::<String>::new());
}

/// Has the origin say what was posted to it.
fn echo() -> Origin {
    let origin = Origin::default();
    origin.on("/vod/a", |request| async move {
        let body = axum::body::to_bytes(request.into_body(), 10_000).await;
        respond::<&str>(200, &[], body.unwrap())
    });
    origin
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused_and_others_go_on() {
    let edge = Edge::start(|config| config.limits.header_bytes_max = 16_384).await;
    edge.origin.put("/vod/a", &[], "a");
    let big = "x".repeat(20_000);
    let client = edge.client().build().unwrap();
    let asked = client.get(edge.url("/vod/a"));
    let answer = asked.try_clone().unwrap().header("x", &big).send().await;
    let answer = answer.unwrap();
    assert_eq!(
        (answer.version(), answer.status().as_u16()),
        (http::Version::HTTP_2, 431)
    );
    assert_eq!(asked.send().await.unwrap().status(), 200);
    let (mut requests, _driven) = connect_http3(&edge).await;
    let large = http3_get(&edge, "/vod/b").header("x", &big);
    // A client that knows the bound already does not even send it.
    if let Ok(mut stream) = requests.send_request(large.body(()).unwrap()).await {
        let _ = stream.finish().await;
        let answer = tokio::time::timeout(LONG, stream.recv_response()).await;
        if let Ok(answer) = answer.expect("an answer or an end") {
            assert_eq!(answer.status(), 431);
        }
    }
    let plain = http3_get(&edge, "/vod/a").body(()).unwrap();
    assert_eq!(ask_http3(&mut requests, plain).await.0.status(), 200);
    assert_eq!(edge.origin.asked(), ["/vod/a"]);
}

#[tokio::test]
async fn http3_cannot_smuggle() {
    let edge = Edge::start_before(echo(), |config| config.limits.body_bytes_max = 1000).await;
    for (method, len) in [("GET", "38"), ("POST", "3"), ("POST", "300"), ("POST", "0")] {
        // A connection each: the proxy may well give one up.
        let (mut requests, _driven) = connect_http3(&edge).await;
        let request = http3_get(&edge, "/vod/a").method(method);
        let request = request.header("content-length", len).body(()).unwrap();
        let mut stream = requests.send_request(request).await.unwrap();
        let _ = stream.send_data(SMUGGLED.into()).await;
        let _ = stream.finish().await;
        let answer = tokio::time::timeout(LONG, stream.recv_response()).await;
        if let Ok(answer) = answer.expect("an answer or an end") {
            assert_eq!(answer.status(), 400, "{method} {len}");
        }
    }
    assert_eq!(edge.origin.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn bodies_reach_an_origin_of_http1_as_bodies() {
    let change = |config: &mut Config| config.limits.body_bytes_max = 1000;
    let edge = Edge::start_before(echo(), change).await;
    let newest = edge.client().build().unwrap();
    let oldest = edge.client().http1_only().build().unwrap();
    for client in [newest, oldest] {
        // With a length and in chunks.
        let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(SMUGGLED)]);
        for body in [SMUGGLED.into(), reqwest::Body::wrap_stream(chunks)] {
            let answer = client.post(edge.url("/vod/a")).body(body).send().await;
            assert_eq!(answer.unwrap().text().await.unwrap(), SMUGGLED);
        }
    }
    let (mut requests, _driven) = connect_http3(&edge).await;
    let post = http3_get(&edge, "/vod/a").method("POST").body(()).unwrap();
    let mut stream = requests.send_request(post).await.unwrap();
    stream.send_data(SMUGGLED.into()).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    // Requests after them are their own.
    let get = http3_get(&edge, "/vod/b").body(()).unwrap();
    assert_eq!(ask_http3(&mut requests, get).await.0.status(), 404);
    assert_eq!(edge.origin.count("/vod/a"), 5);
    assert_eq!(edge.origin.count("/vod/secret"), 0);
}

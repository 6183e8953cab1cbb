//! Viewers and origins that misbehave.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{HLS, Origin, Proxy};

/// Sends `request` as it is and reads until the connection ends.
async fn raw(proxy: &Proxy, request: &str) -> String {
    let mut socket = TcpStream::connect(proxy.address).await.unwrap();
    // The proxy may well hang up in the middle of it.
    let _ = socket.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn requests_that_could_smuggle_are_refused() {
    let proxy = Proxy::start().await;
    let smuggled = "GET /live/secret HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        "GET /live/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 43\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ] {
        let answer = raw(&proxy, &format!("{head}{smuggled}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}\n{answer}");
    }
    assert!(proxy.origin.asked().iter().all(|asked| asked != "/live/a"));
    assert_eq!(proxy.origin.count("/live/secret"), 0);
}

#[tokio::test]
async fn oversized_and_odd_requests_are_refused() {
    let proxy = Proxy::start().await;
    let big = "x".repeat(100_000);
    let answer = raw(
        &proxy,
        &format!("GET / HTTP/1.1\r\nHost: a\r\nX: {big}\r\n\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = "y".repeat(10_000);
    let answer = proxy.get(&format!("/{long}")).await;
    assert_eq!(answer.status(), 414);
    let answer = raw(
        &proxy,
        "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("client sent a path"), "{answer}");
    let posted = reqwest::Client::new()
        .post(proxy.url("/live/a"))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(proxy.origin.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn connection_headers_do_not_travel() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/live/a", |request| async move {
        let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        let answer = [
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("shoal-record", "forged"),
        ];
        crate::support::respond(200, &answer, names.join(","))
    });
    let sent = "GET /live/a HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n\r\n";
    let answer = raw(&proxy, sent).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        !head.contains("x-secret") && !head.contains("forged"),
        "{head}"
    );
    assert!(!body.contains("x-hop") && !body.contains("te,"), "{body}");
    assert!(body.contains("via"), "{body}");
}

#[tokio::test]
async fn senseless_playlists_are_passed_on() {
    let proxy = Proxy::start().await;
    for text in [
        "",
        "#EXTM3U",
        "<html>",
        "#EXTM3U\n#EXTINF:nan,\n\n#EXTINF:2,\nhttp://[bad\n",
    ] {
        proxy
            .origin
            .put("/live/x.m3u8", &[HLS, ("cache-control", "no-cache")], text);
        assert_eq!(proxy.text("/live/x.m3u8").await, text);
    }
    let binary = vec![0xff, 0xfe, 0x00];
    proxy.origin.put("/live/x.mpd", &[], binary.clone());
    assert_eq!(
        proxy.get("/live/x.mpd").await.bytes().await.unwrap(),
        binary
    );
}

#[tokio::test]
async fn an_origin_that_is_away_or_silent_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let short = |config: &mut origin_proxy::Config| config.timeouts.first_byte_ms = 200;
    let proxy = Proxy::before(Origin::default(), &url, short).await;
    let silent = proxy.get("/live/a").await;
    assert_eq!(silent.status(), 504);
    assert!(
        silent
            .text()
            .await
            .unwrap()
            .starts_with("origin did not answer")
    );
    drop(listener);
    let away = proxy.get("/live/b").await;
    assert_eq!(away.status(), 502);
    assert!(away.text().await.unwrap().starts_with("origin failed"));
}

#[tokio::test]
async fn an_origin_whose_heads_are_too_long_is_told_so_and_another_steps_in() {
    let origin = Origin::default();
    let value = |len: usize| "x".repeat(len);
    origin.put("/vod/fine", &[("x-long", &value(15_000))], "fine");
    origin.put("/vod/long", &[("x-long", &value(17_000))], "long");
    let lines: Vec<(String, String)> = (0..101).map(|n| (format!("x-{n}"), "1".into())).collect();
    origin.on("/vod/lines", move |_| {
        let answer = crate::support::respond(200, &lines, "lines");
        async move { answer }
    });
    let proxy = Proxy::start_with(origin, |_| {}).await;
    assert_eq!(proxy.text("/vod/fine").await, "fine");
    for path in ["/vod/long", "/vod/lines"] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status(), 502);
        let text = answer.text().await.unwrap();
        let expected =
            "origin failed: the head of its answer is too long (16 KB and 100 lines at most)\n";
        assert_eq!(text, expected);
    }
    let backup = Origin::default();
    backup.put("/vod/long", &[], "backup");
    let backup_url = format!("http://{}", backup.serve().await);
    let url = format!("http://{}", proxy.origin.clone().serve().await);
    let proxy = Proxy::before(Origin::default(), &url, |config| {
        config.origin_backups = vec![backup_url];
    });
    assert_eq!(proxy.await.text("/vod/long").await, "backup");
}

#[tokio::test]
async fn an_answer_without_a_certain_end_is_not_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (counted, mut count) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.send(()).unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nto the end").await;
        }
    });
    let proxy = Proxy::before(Origin::default(), &url, |_| {}).await;
    for _ in 0..2 {
        assert_eq!(proxy.text("/live/a").await, "to the end");
        assert_eq!(count.recv().await, Some(()));
    }
}

#[tokio::test]
async fn heads_that_mean_two_things_are_refused() {
    let proxy = Proxy::start().await;
    for head in [
        "GET /live/a HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\n Folded: line\r\n\r\n",
        "GET /live/a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /live/a\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /live/a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /live/a HTTP/3.7\r\nHost: a\r\n\r\n",
        "POST /live/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        let answer = raw(&proxy, head).await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(
            ["400", "405", "431"].contains(&status),
            "{head:?}\n{answer}"
        );
    }
    assert_eq!(proxy.origin.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn line_breaks_reach_neither_the_origin_nor_the_answer() {
    let proxy = Proxy::start().await;
    let echo = "/live/%0d%0aX-Evil:%201";
    proxy.origin.on(echo, |request| async move {
        let path = request.uri().path().to_owned();
        crate::support::respond(200, &[("x-path", path.as_str())], "fine")
    });
    let answer = raw(
        &proxy,
        &format!(
            "GET {echo}?a=%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: a%0d%0ab\r\nConnection: close\r\n\r\n"
        ),
    )
    .await;
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let is_evil = |line: &str| line.to_ascii_lowercase().starts_with("x-evil");
    assert!(!head.lines().any(is_evil), "{head}");
    assert_eq!(proxy.origin.count(echo), 1);
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let proxy = Proxy::start().await;
    proxy.origin.put("/live/1", &[], "one");
    proxy.origin.put("/live/2", &[], "two");
    let answer = raw(
        &proxy,
        "GET /live/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /live/2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    let (first, second) = (answer.find("\r\n\r\none"), answer.find("\r\n\r\ntwo"));
    assert!(first.is_some() && first < second, "{answer}");
}

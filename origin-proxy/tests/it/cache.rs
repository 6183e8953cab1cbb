//! The proxy as an HTTP cache.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{future::join_all, stream};
use tokio::sync::{Semaphore, mpsc};

use crate::support::{HLS, Origin, Proxy, header, playlist, respond, segment};

const BIG: &str = "/live/big.m4s";

/// What a thousand viewers get who want `path?query` at once, before the origin answers with `body`. `clients` is how
/// many connections they have, or more, and `ask` what each asks by.
async fn thousand(
    (path, query): (&str, &str),
    body: Vec<u8>,
    clients: Vec<reqwest::ClientBuilder>,
    ask: impl Fn(reqwest::RequestBuilder, usize) -> reqwest::RequestBuilder,
) -> Vec<Bytes> {
    let proxy = Proxy::start().await;
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| client.build().unwrap())
        .collect();
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let kind = match path.ends_with(".m3u8") {
        true => HLS.1,
        false => "video/mp4",
    };
    proxy.origin.on(path, move |_| {
        let (held, bytes) = (held.clone(), body.clone());
        async move {
            let _ = held.acquire().await;
            let headers = [("cache-control", "max-age=60"), ("content-type", kind)];
            respond(200, &headers, bytes)
        }
    });
    let url = proxy.url(path);
    let fetch = |index: usize| {
        let client = &clients[index % clients.len()];
        let request = ask(client.get(format!("{url}?{query}&token={index}")), index);
        async move { request.send().await.unwrap().bytes().await.unwrap() }
    };
    let all = join_all((0..1000).map(fetch));
    let open = async {
        while waiting(&proxy).await < 999 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(all, open);
    assert_eq!(proxy.origin.count(path), 1);
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_make_one_request() {
    let body = segment(1, 100_000);
    let clients = vec![reqwest::Client::builder()];
    let answers = thousand((BIG, ""), body.clone(), clients, |request, _| request).await;
    assert!(answers.iter().all(|answer| *answer == body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_of_http2_make_one_request() {
    let body = segment(1, 100_000);
    // One connection has no room for so many requests.
    let clients = (0..20)
        .map(|_| reqwest::Client::builder().http2_prior_knowledge())
        .collect();
    let answers = thousand((BIG, ""), body.clone(), clients, |request, _| request).await;
    assert!(answers.iter().all(|answer| *answer == body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_for_ranges_make_one_request() {
    let body = segment(1, 100_000);
    let range = |index: usize| (index * 90, index * 100);
    let ask = |request: reqwest::RequestBuilder, index| {
        let (first, last) = range(index);
        request.header("range", format!("bytes={first}-{last}"))
    };
    let clients = vec![reqwest::Client::builder()];
    let answers = thousand((BIG, ""), body.clone(), clients, ask).await;
    for (index, answer) in answers.iter().enumerate() {
        let (first, last) = range(index);
        assert_eq!(*answer, body[first..=last], "{index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_for_a_reload_make_one_request() {
    let clients = vec![reqwest::Client::builder()];
    let text = playlist(1, 0).into_bytes();
    let wanted = ("/live/v/i.m3u8", "_HLS_msn=7");
    let answers = thousand(wanted, text, clients, |request, _| request).await;
    let first = std::str::from_utf8(&answers[0]).unwrap();
    assert!(first.contains("#EXT-X-MEDIA-SEQUENCE:1\n"), "{first}");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

async fn waiting(proxy: &Proxy) -> u64 {
    let metrics = proxy.text("/metrics").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("shoal_proxy_collapsed_total "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn ranges_come_from_one_whole() {
    let proxy = Proxy::start().await;
    let body = segment(2, 50_000);
    proxy
        .origin
        .put("/live/a.bin", &[("etag", "\"x\"")], body.clone());
    let cold = proxy
        .get_with("/live/a.bin", &[("range", "bytes=100-199")])
        .await;
    assert_eq!(cold.status(), 206);
    assert_eq!(header(&cold, "content-range"), "bytes 100-199/50000");
    assert_eq!(cold.bytes().await.unwrap(), body[100..200]);
    for (range, status, part) in [
        ("bytes=0-", 206, 0..50_000),
        ("bytes=-10", 206, 49_990..50_000),
        ("bytes=49999-60000", 206, 49_999..50_000),
        ("bytes=50000-", 416, 0..0),
        ("bytes=5-1", 200, 0..50_000),
        ("bytes=0-1,60000-", 206, 0..2),
    ] {
        let warm = proxy.get_with("/live/a.bin", &[("range", range)]).await;
        assert_eq!(warm.status(), status, "{range}");
        assert_eq!(warm.bytes().await.unwrap(), body[part], "{range}");
    }
    let changed = [("range", "bytes=0-1"), ("if-range", "\"y\"")];
    assert_eq!(proxy.get_with("/live/a.bin", &changed).await.status(), 200);
    let same = [("range", "bytes=0-1"), ("if-range", "\"x\"")];
    assert_eq!(proxy.get_with("/live/a.bin", &same).await.status(), 206);
    let known = proxy
        .get_with("/live/a.bin", &[("if-none-match", "W/\"x\"")])
        .await;
    assert_eq!(known.status(), 304);
    let head = reqwest::Client::new()
        .head(proxy.url("/live/a.bin"))
        .send()
        .await
        .unwrap();
    assert_eq!(header(&head, "content-length"), "50000");
    assert_eq!(proxy.origin.count("/live/a.bin"), 1);
}

#[tokio::test]
async fn not_there_is_collapsed_and_soon_forgotten() {
    let proxy = Proxy::start().await;
    proxy.origin.put("/live/v/i.m3u8", &[HLS], playlist(1, 1));
    proxy.origin.put("/live/v/seg-1.m4s", &[], segment(1, 1000));
    proxy.get("/live/v/i.m3u8").await;
    let early = join_all((0..50).map(|_| proxy.get("/live/v/seg-2.m4s"))).await;
    assert!(early.iter().all(|answer| answer.status() == 404));
    assert_eq!(header(&early[0], "cache-control"), "no-cache");
    assert!(proxy.origin.count("/live/v/seg-2.m4s") <= 2);
    proxy.origin.put("/live/v/seg-2.m4s", &[], segment(2, 1000));
    // At most a quarter of the target duration of two seconds.
    tokio::time::sleep(Duration::from_millis(520)).await;
    assert_eq!(proxy.get("/live/v/seg-2.m4s").await.status(), 200);
}

#[tokio::test]
async fn a_slow_body_streams_through_to_all() {
    let proxy = Proxy::start().await;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    proxy.origin.on("/live/slow.m4s", move |_| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let body = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        async move { respond(200, &[("content-length", "6")], Body::from_stream(body)) }
    });
    sender.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
    let mut first = proxy.get("/live/slow.m4s").await;
    assert_eq!(first.chunk().await.unwrap().unwrap(), "abc");
    let mut part = proxy
        .get_with("/live/slow.m4s", &[("range", "bytes=1-4")])
        .await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.chunk().await.unwrap().unwrap(), "bc");
    // The first viewer leaves; the others get the rest all the same.
    drop(first);
    sender.send(Ok(Bytes::from_static(b"def"))).await.unwrap();
    assert_eq!(part.chunk().await.unwrap().unwrap(), "de");
    drop(sender);
    assert_eq!(proxy.text("/live/slow.m4s").await, "abcdef");
    assert_eq!(proxy.origin.count("/live/slow.m4s"), 1);
}

#[tokio::test]
async fn private_answers_are_for_one() {
    let proxy = Proxy::start().await;
    for (path, name, value) in [
        ("/live/private", "cache-control", "private, max-age=60"),
        ("/live/no-store", "cache-control", "no-store"),
        ("/live/cookie", "set-cookie", "who=me"),
        ("/live/vary", "vary", "cookie"),
    ] {
        proxy.origin.put(path, &[(name, value)], "for you");
        for asked in 1..=3 {
            assert_eq!(proxy.text(path).await, "for you");
            assert_eq!(proxy.origin.count(path), asked, "{path}");
        }
    }
    proxy.origin.put("/live/plain", &[], "for all");
    for _ in 0..2 {
        proxy
            .get_with("/live/plain", &[("authorization", "Bearer x")])
            .await;
    }
    assert_eq!(proxy.origin.count("/live/plain"), 2);
    let ranged = proxy
        .get_with("/live/private", &[("range", "bytes=0-2")])
        .await;
    assert_eq!(ranged.status(), 200, "the origin ignores ranges");
}

#[tokio::test]
async fn tokens_reach_the_origin_but_split_nothing() {
    let proxy = Proxy::start().await;
    proxy.origin.put("/live/s.m4s", &[], "bytes");
    assert_eq!(proxy.text("/live/s.m4s?token=a&CMCD=x").await, "bytes");
    assert_eq!(proxy.text("/live/s.m4s?token=b").await, "bytes");
    proxy.text("/live/s.m4s?v=2&token=c").await;
    let expected = ["/live/s.m4s?token=a&CMCD=x", "/live/s.m4s?v=2&token=c"];
    assert_eq!(proxy.origin.asked(), expected);
}

#[tokio::test]
async fn a_refused_token_refuses_nobody_else() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/live/s.m4s", |request| async move {
        let allowed = request.uri().query() == Some("token=good");
        tokio::time::sleep(Duration::from_millis(50)).await;
        respond::<&str>(if allowed { 200 } else { 403 }, &[], "body")
    });
    let (bad, good) = tokio::join!(proxy.get("/live/s.m4s?token=bad"), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.get("/live/s.m4s?token=good").await
    });
    assert_eq!((bad.status().as_u16(), good.status().as_u16()), (403, 200));
}

#[tokio::test]
async fn a_live_playlist_is_fresh_for_half_a_target_duration() {
    let proxy = Proxy::start().await;
    proxy.origin.put(
        "/live/i.m3u8",
        &[HLS, ("cache-control", "max-age=60")],
        playlist(1, 0),
    );
    proxy.text("/live/i.m3u8").await;
    proxy.text("/live/i.m3u8").await;
    assert_eq!(proxy.origin.count("/live/i.m3u8"), 1);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    proxy.text("/live/i.m3u8").await;
    assert_eq!(proxy.origin.count("/live/i.m3u8"), 2);
}

#[tokio::test]
async fn a_failing_origin_leaves_a_stale_playlist_for_a_while() {
    let proxy = Proxy::start().await;
    let one_second = playlist(1, 0).replace("TARGETDURATION:2", "TARGETDURATION:1");
    proxy.origin.put("/live/i.m3u8", &[HLS], one_second);
    let text = proxy.text("/live/i.m3u8").await;
    proxy.origin.on("/live/i.m3u8", |_| async {
        respond::<&str>(503, &[], "busy")
    });
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(proxy.text("/live/i.m3u8").await, text);
    assert_eq!(proxy.origin.count("/live/i.m3u8"), 2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(proxy.get("/live/i.m3u8").await.status(), 503);
}

#[tokio::test]
async fn stale_objects_are_confirmed_not_fetched() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/live/s.bin", |request| async move {
        let known = request
            .headers()
            .get("if-none-match")
            .is_some_and(|etag| etag == "\"e\"");
        let headers = [("etag", "\"e\""), ("cache-control", "no-cache")];
        respond(
            if known { 304 } else { 200 },
            &headers,
            if known { "" } else { "body" },
        )
    });
    for _ in 0..3 {
        assert_eq!(proxy.text("/live/s.bin").await, "body");
    }
    let metrics = proxy.text("/metrics").await;
    assert!(
        metrics.contains("shoal_proxy_origin_bytes_total 4\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read() {
    let proxy = Proxy::start().await;
    proxy.origin.put(
        "/live/a",
        &[("access-control-allow-origin", "https://old.example")],
        "a",
    );
    let answer = proxy
        .get_with("/live/a", &[("origin", "https://page.example")])
        .await;
    assert_eq!(header(&answer, "access-control-allow-origin"), "*");
    assert_eq!(header(&answer, "timing-allow-origin"), "*");
    assert!(header(&answer, "access-control-expose-headers").contains("Shoal-Record"));
    assert_eq!(header(&answer, "age"), "0");
    assert_eq!(header(&answer, "via"), "1.1 shoal");
    let preflight = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, proxy.url("/live/a"))
        .header("origin", "https://page.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "range")
        .send()
        .await
        .unwrap();
    assert_eq!(preflight.status(), 204);
    assert_eq!(header(&preflight, "access-control-allow-headers"), "range");
    let strict = Proxy::start_with(Origin::default(), |config| {
        config.cors.origins = vec!["https://page.example".into()];
    })
    .await;
    // Whatever the origin says of it, also of what is for one viewer alone.
    let leave = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("timing-allow-origin", "*"),
        ("cache-control", "max-age=60"),
    ];
    strict.origin.put("/x", &leave, "x");
    let private = [&leave[..3], &[("cache-control", "private")]].concat();
    strict.origin.put("/private", &private, "x");
    for path in ["/x", "/x", "/private"] {
        for (page, given) in [
            ("https://evil.example", ""),
            ("https://page.example", "https://page.example"),
        ] {
            let answer = strict.get_with(path, &[("origin", page)]).await;
            assert_eq!(header(&answer, "access-control-allow-origin"), given);
            assert_eq!(header(&answer, "timing-allow-origin"), given);
            assert_eq!(header(&answer, "access-control-allow-credentials"), "");
        }
    }
    let answer = strict
        .get_with("/x", &[("origin", "https://evil.example")])
        .await;
    assert_eq!(header(&answer, "access-control-allow-origin"), "");
    let answer = strict
        .get_with("/x", &[("origin", "https://page.example")])
        .await;
    assert_eq!(
        header(&answer, "access-control-allow-origin"),
        "https://page.example"
    );
}

#[tokio::test]
async fn named_pages_may_send_cookies_if_the_operator_lets_them() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.cors.origins = vec!["https://page.example".into()];
        config.cors.credentials = true;
    })
    .await;
    proxy
        .origin
        .put("/x", &[("cache-control", "max-age=60")], "x");
    proxy
        .origin
        .put("/private", &[("cache-control", "private")], "x");
    let client = reqwest::Client::new();
    for (page, given) in [
        ("https://evil.example", ""),
        ("https://page.example", "true"),
    ] {
        for path in ["/x", "/x", "/private", "/missing"] {
            let ask = client.get(proxy.url(path)).header("origin", page);
            let answer = ask.send().await.unwrap();
            assert_eq!(header(&answer, "access-control-allow-credentials"), given);
        }
        let ask = client.request(reqwest::Method::OPTIONS, proxy.url("/x"));
        let answer = ask.header("origin", page).send().await.unwrap();
        assert_eq!(header(&answer, "access-control-allow-credentials"), given);
    }
}

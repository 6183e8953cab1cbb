//! The rules of RFC 9110 and 9111, one test each, over real sockets.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::support::{Origin, Proxy, header, respond, segment};

/// An answer of the origin, how often it is asked for within two requests, and why.
struct Kept {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    asked: usize,
}

const fn kept(status: u16, headers: &'static [(&'static str, &'static str)], asked: usize) -> Kept {
    Kept {
        status,
        headers,
        asked,
    }
}

const KEPT: [Kept; 27] = [
    kept(200, &[], 1),
    kept(200, &[("cache-control", "max-age=60")], 1),
    kept(200, &[("cache-control", "max-age=0")], 2),
    kept(200, &[("cache-control", "max-age=60"), ("age", "60")], 2),
    kept(200, &[("cache-control", "max-age=0, s-maxage=60")], 1),
    kept(200, &[("cache-control", "no-cache")], 2),
    kept(200, &[("cache-control", "No-Store")], 2),
    kept(200, &[("cache-control", "private")], 2),
    kept(
        200,
        &[("cache-control", "public"), ("set-cookie", "a=b")],
        2,
    ),
    kept(200, &[("expires", "0")], 2),
    kept(200, &[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")], 2),
    kept(200, &[("expires", "Thu, 01 Jan 2099 00:00:00 GMT")], 1),
    kept(200, &[("vary", "*")], 2),
    kept(200, &[("vary", "Cookie")], 2),
    kept(200, &[("vary", "Accept-Encoding, Origin")], 1),
    kept(200, &[("content-encoding", "br")], 2),
    kept(
        200,
        &[
            ("cache-control", "max-age=60"),
            ("age", "99999999999999999999999"),
        ],
        2,
    ),
    kept(203, &[], 1),
    kept(404, &[], 1),
    kept(404, &[("cache-control", "no-cache")], 2),
    kept(410, &[], 1),
    kept(403, &[], 2),
    kept(
        301,
        &[("location", "/x"), ("cache-control", "max-age=9")],
        1,
    ),
    kept(302, &[("location", "/x")], 2),
    kept(
        302,
        &[("location", "/x"), ("cache-control", "max-age=9")],
        1,
    ),
    kept(500, &[], 2),
    kept(503, &[("cache-control", "max-age=60")], 2),
];

#[tokio::test]
async fn what_is_kept_and_what_is_not() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| config.follow_redirects = false).await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    for (index, case) in KEPT.iter().enumerate() {
        let path = format!("/vod/{index}");
        let (status, headers) = (case.status, case.headers);
        proxy.origin.on(
            &path,
            move |_| async move { respond(status, headers, "body") },
        );
        for _ in 0..2 {
            let answer = client.get(proxy.url(&path)).send().await.unwrap();
            assert_eq!(answer.status(), status, "{headers:?}");
            assert_eq!(answer.text().await.unwrap(), "body");
        }
        let asked = proxy.origin.count(&path);
        assert_eq!(asked, case.asked, "{status} {headers:?}");
    }
}

#[tokio::test]
async fn conditions_of_viewers_are_weighed() {
    let proxy = Proxy::start().await;
    let modified = "Mon, 07 Nov 1994 08:49:37 GMT";
    let validators = [("etag", "\"e\""), ("last-modified", modified)];
    proxy.origin.put("/vod/a", &validators, "0123456789");
    let (before, after) = (
        "Mon, 07 Nov 1994 08:49:36 GMT",
        "Mon, 07 Nov 1994 08:49:38 GMT",
    );
    for (asked, status, body) in [
        (&[("if-none-match", "\"e\"")][..], 304, ""),
        (&[("if-none-match", "W/\"e\", \"f\"")][..], 304, ""),
        (&[("if-none-match", "\"f\"")][..], 200, "0123456789"),
        (&[("if-modified-since", after)][..], 304, ""),
        (&[("if-modified-since", before)][..], 200, "0123456789"),
        (&[("if-match", "\"f\"")][..], 412, ""),
        (&[("if-match", "\"e\"")][..], 200, "0123456789"),
        (&[("if-unmodified-since", before)][..], 412, ""),
        (
            &[("range", "bytes=2-3"), ("if-range", "\"e\"")][..],
            206,
            "23",
        ),
        (
            &[("range", "bytes=2-3"), ("if-range", "W/\"e\"")][..],
            200,
            "0123456789",
        ),
        (
            &[("range", "bytes=2-3"), ("if-range", modified)][..],
            206,
            "23",
        ),
        (
            &[("range", "bytes=2-3"), ("if-range", after)][..],
            200,
            "0123456789",
        ),
        (
            &[("range", "bytes=2-3"), ("if-none-match", "\"e\"")][..],
            304,
            "",
        ),
    ] {
        let answer = proxy.get_with("/vod/a", asked).await;
        assert_eq!(answer.status(), status, "{asked:?}");
        if status == 304 {
            assert_eq!(header(&answer, "etag"), "\"e\"", "{asked:?}");
        }
        assert_eq!(answer.text().await.unwrap(), body, "{asked:?}");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn several_ranges_come_as_parts_of_one_answer() {
    let proxy = Proxy::start().await;
    let body = segment(3, 1000);
    let media = [("content-type", "video/iso.segment")];
    proxy.origin.put("/vod/a", &media, body.clone());
    for _ in 0..2 {
        let answer = proxy
            .get_with("/vod/a", &[("range", "bytes=0-9, 500-519, -5, 5000-")])
            .await;
        assert_eq!(answer.status(), 206);
        let media_type = header(&answer, "content-type").to_owned();
        let boundary = media_type
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap()
            .to_owned();
        let told: usize = header(&answer, "content-length").parse().unwrap();
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len(), told);
        let mut expected = Vec::new();
        for (first, end) in [(0, 10), (500, 520), (995, 1000)] {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: video/iso.segment\r\nContent-Range: bytes {first}-{}/1000\r\n\r\n",
                end - 1
            );
            expected.extend_from_slice(head.as_bytes());
            expected.extend_from_slice(&body[first..end]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert_eq!(bytes, expected[2..], "the first line break is left out");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn a_stripe_of_a_cold_object_fetches_it_once() {
    let proxy = Proxy::start().await;
    let body = segment(4, 400_000);
    proxy.origin.put("/live/cold.m4s", &[], body.clone());
    let stripe = |index: usize| {
        let proxy = &proxy;
        async move {
            let range = format!("bytes={}-{}", index * 10_000, index * 10_000 + 9_999);
            let answer = proxy.get_with("/live/cold.m4s", &[("range", &range)]).await;
            assert_eq!(answer.status(), 206);
            answer.bytes().await.unwrap()
        }
    };
    let stripes = join_all((0..40).map(stripe)).await.concat();
    assert_eq!(stripes, body);
    assert_eq!(proxy.origin.count("/live/cold.m4s"), 1);
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/vod/v", |request| async move {
        let language = request.headers().get("accept-language");
        let text = language.map_or("none", |value| value.to_str().unwrap());
        respond(200, &[("vary", "Accept-Language")], text.to_owned())
    });
    for _ in 0..3 {
        for language in ["de", "fr", "en"] {
            let answer = proxy
                .get_with("/vod/v", &[("accept-language", language)])
                .await;
            assert_eq!(answer.text().await.unwrap(), language);
        }
        assert_eq!(proxy.text("/vod/v").await, "none");
    }
    assert_eq!(proxy.origin.count("/vod/v"), 4);
}

#[tokio::test]
async fn waiters_for_another_variant_do_not_get_the_first() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/vod/v", |request| async move {
        let language = request.headers()["accept-language"]
            .to_str()
            .unwrap()
            .to_owned();
        tokio::time::sleep(Duration::from_millis(50)).await;
        respond(200, &[("vary", "accept-language")], language)
    });
    let fetch = |index: usize| {
        let (proxy, language) = (&proxy, ["de", "fr"][index % 2]);
        async move {
            let answer = proxy
                .get_with("/vod/v", &[("accept-language", language)])
                .await;
            assert_eq!(answer.text().await.unwrap(), language);
        }
    };
    join_all((0..40).map(fetch)).await;
    assert!(proxy.origin.count("/vod/v") <= 3);
}

#[tokio::test]
async fn age_and_date_tell_how_old_an_answer_is() {
    let proxy = Proxy::start().await;
    let aged = [("age", "7"), ("cache-control", "max-age=60")];
    proxy.origin.put("/vod/a", &aged, "a");
    let first = proxy.get("/vod/a").await;
    let date = header(&first, "date").to_owned();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = proxy.get("/vod/a").await;
    assert_eq!(header(&second, "age"), "8");
    assert_eq!(header(&second, "date"), date, "that of the origin's answer");
    assert!(httpdate::parse_http_date(&date).unwrap() <= SystemTime::now());
}

#[tokio::test]
async fn a_stale_object_is_served_while_it_is_confirmed() {
    let proxy = Proxy::start().await;
    let control = [("cache-control", "max-age=0, stale-while-revalidate=60")];
    proxy.origin.put("/vod/a", &control, "old");
    assert_eq!(proxy.text("/vod/a").await, "old");
    proxy.origin.put("/vod/a", &control, "new");
    // The first one to come sets the new one off.
    assert_eq!(proxy.text("/vod/a").await, "old");
    let changed = async {
        while proxy.text("/vod/a").await != "new" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stale_object_is_served_if_the_origin_fails_and_may_be() {
    let proxy = Proxy::start().await;
    for (path, control, status) in [
        ("/vod/a", "max-age=0", 200),
        ("/vod/b", "max-age=0, stale-if-error=60", 200),
        ("/vod/c", "max-age=0, stale-if-error=0", 503),
        ("/vod/d", "max-age=0, must-revalidate", 503),
        ("/vod/e", "no-cache", 503),
    ] {
        proxy.origin.put(path, &[("cache-control", control)], "old");
        assert_eq!(proxy.text(path).await, "old");
        proxy
            .origin
            .on(path, |_| async { respond::<&str>(503, &[], "down") });
        assert_eq!(proxy.get(path).await.status(), status, "{control}");
    }
}

#[tokio::test]
async fn those_with_a_name_share_what_says_so() {
    let proxy = Proxy::start().await;
    let name = [("authorization", "Bearer x")];
    for (path, control, named_then_named, then_anyone) in [
        ("/vod/a", "max-age=60", 2, 3),
        ("/vod/b", "public, max-age=60", 1, 1),
        ("/vod/c", "s-maxage=60", 1, 1),
        ("/vod/d", "max-age=60, must-revalidate", 1, 1),
    ] {
        proxy.origin.put(path, &[("cache-control", control)], "x");
        for _ in 0..2 {
            assert_eq!(proxy.get_with(path, &name).await.status(), 200);
        }
        assert_eq!(proxy.origin.count(path), named_then_named, "{control}");
        for _ in 0..2 {
            proxy.text(path).await;
        }
        assert_eq!(proxy.origin.count(path), then_anyone, "{control}");
        // Kept for anyone, but not for those with a name unless it says so.
        proxy.get_with(path, &name).await;
        let is_shared = usize::from(named_then_named == 2);
        assert_eq!(
            proxy.origin.count(path),
            then_anyone + is_shared,
            "{control}"
        );
    }
}

#[tokio::test]
async fn confirmations_renew_and_changes_replace() {
    let proxy = Proxy::start().await;
    let modified = "Mon, 07 Nov 1994 08:49:37 GMT";
    proxy.origin.on("/vod/a", move |request| async move {
        let asked = request.headers();
        let is_known = asked.get("if-none-match").is_some_and(|tag| tag == "\"1\"")
            && asked
                .get("if-modified-since")
                .is_some_and(|date| date == modified);
        let headers = [
            ("etag", "\"1\""),
            ("last-modified", modified),
            (
                "cache-control",
                if is_known { "max-age=60" } else { "max-age=0" },
            ),
            ("x-state", if is_known { "confirmed" } else { "new" }),
        ];
        let status = if is_known { 304 } else { 200 };
        respond(status, &headers, if is_known { "" } else { "body" })
    });
    let first = proxy.get("/vod/a").await;
    assert_eq!(header(&first, "x-state"), "new");
    for _ in 0..2 {
        let confirmed = proxy.get("/vod/a").await;
        assert_eq!(header(&confirmed, "x-state"), "confirmed");
        assert_eq!(confirmed.text().await.unwrap(), "body");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 2);
}

#[tokio::test]
async fn head_has_the_head_alone() {
    let proxy = Proxy::start().await;
    proxy
        .origin
        .put("/vod/a", &[("etag", "\"e\"")], "0123456789");
    let private = [("cache-control", "private")];
    proxy.origin.put("/vod/p", &private, "0123456789");
    let client = reqwest::Client::new();
    for path in ["/vod/a", "/vod/a", "/vod/p", "/vod/p"] {
        let answer = client.head(proxy.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "content-length"), "10", "{path}");
        assert_eq!(answer.bytes().await.unwrap(), "");
    }
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn only_if_cached_asks_nobody() {
    let proxy = Proxy::start().await;
    proxy.origin.put("/vod/a", &[], "a");
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(proxy.get_with("/vod/a", &only).await.status(), 504);
    proxy.text("/vod/a").await;
    assert_eq!(proxy.get_with("/vod/a", &only).await.status(), 200);
    assert_eq!(proxy.origin.count("/vod/a"), 1);
}

#[tokio::test]
async fn changes_make_the_cache_forget() {
    let origin = Origin::default();
    let proxy = Proxy::start_with(origin, |config| config.limits.body_bytes_max = 1000).await;
    let client = reqwest::Client::new();
    for path in ["/vod/a", "/vod/b", "/vod/c", "/vod/d"] {
        proxy.origin.put(path, &[], "old");
        assert_eq!(proxy.text(path).await, "old");
    }
    for path in ["/vod/a", "/vod/b", "/vod/c", "/vod/d"] {
        proxy.origin.on(path, |request| async move {
            let is_post = request.method() == "POST";
            let headers = [
                ("location", "/vod/b"),
                ("content-location", "http://other.example/vod/d"),
            ];
            let status = if request.uri().query() == Some("fail") {
                409
            } else {
                200
            };
            respond(if is_post { status } else { 200 }, &headers, "new")
        });
    }
    let post = |path: &'static str| client.post(proxy.url(path)).body("x".repeat(1000)).send();
    assert_eq!(post("/vod/c?fail").await.unwrap().status(), 409);
    assert_eq!(post("/vod/a").await.unwrap().text().await.unwrap(), "new");
    for (path, text) in [
        ("/vod/a", "new"),
        ("/vod/b", "new"),
        ("/vod/c", "old"),
        ("/vod/d", "old"),
    ] {
        assert_eq!(proxy.text(path).await, text, "{path}");
    }
    let long = client.put(proxy.url("/vod/a")).body("x".repeat(1001));
    assert_eq!(long.send().await.unwrap().status(), 413);
}

#[tokio::test]
async fn what_a_viewer_may_do_is_what_it_is_told() {
    for (body_bytes_max, expected) in [
        (0, "GET, HEAD, OPTIONS"),
        (100, "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"),
    ] {
        let change = |config: &mut origin_proxy::Config| {
            config.limits.body_bytes_max = body_bytes_max;
        };
        let proxy = Proxy::start_with(Origin::default(), change).await;
        let client = reqwest::Client::new();
        for (method, name) in [
            (reqwest::Method::OPTIONS, "access-control-allow-methods"),
            (reqwest::Method::TRACE, "allow"),
        ] {
            let asked = client.request(method, proxy.url("/vod/a"));
            let asked = asked.header("origin", "https://page.example");
            let answer = asked.send().await.unwrap();
            assert_eq!(header(&answer, name), expected);
        }
    }
}

#[tokio::test]
async fn that_a_wish_is_not_met_is_nothing_to_remember() {
    let proxy = Proxy::start().await;
    let long = [("cache-control", "max-age=31536000"), ("etag", "\"e\"")];
    proxy.origin.put("/vod/a", &long, "body");
    for (wish, status) in [
        (("if-match", "\"other\""), 412),
        (("range", "bytes=100-"), 416),
    ] {
        let answer = proxy.get_with("/vod/a", &[wish]).await;
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "cache-control"), "no-store");
    }
    let answer = proxy.get("/vod/a").await;
    assert_eq!(header(&answer, "cache-control"), "max-age=31536000");
}

//! Answers that say that what the cache has is still right.

use crate::support::{HLS, Proxy, header, playlist, respond};

/// Puts an object of which the first answer must be confirmed each time, and of whose confirmations each has
/// `headers`.
fn put(proxy: &Proxy, path: &str, headers: &'static [(&'static str, &'static str)]) {
    let is_playlist = path.ends_with(".m3u8");
    proxy.origin.on(path, move |request| async move {
        let known = request.headers().get("if-none-match");
        if known.is_some_and(|etag| etag == "\"1\"") {
            return respond::<&str>(304, headers, "");
        }
        let mut first = vec![("etag", "\"1\""), ("cache-control", "no-cache")];
        if is_playlist {
            first.push(HLS);
            return respond(200, &first, playlist(1, 0));
        }
        respond(200, &first, "body")
    });
}

const OBJECTS: [&str; 2] = ["/live/a.bin", "/live/i.m3u8"];

#[tokio::test]
async fn the_cookie_of_a_confirmation_is_for_nobody_else() {
    let proxy = Proxy::start().await;
    for path in OBJECTS {
        put(
            &proxy,
            path,
            &[("set-cookie", "who=first"), ("cache-control", "max-age=60")],
        );
        let body = proxy.text(path).await;
        for _ in 0..3 {
            let answer = proxy.get(path).await;
            assert_eq!(header(&answer, "set-cookie"), "", "{path}");
            assert_eq!(answer.text().await.unwrap(), body, "{path}");
        }
        assert_eq!(proxy.origin.count(path), 2, "{path}");
    }
}

#[tokio::test]
async fn what_a_confirmation_makes_private_is_shared_no_more() {
    let proxy = Proxy::start().await;
    let controls: [&[(&str, &str)]; 3] = [
        &[("cache-control", "private, max-age=60")],
        &[
            ("cache-control", "no-store"),
            ("cache-control", "max-age=60"),
        ],
        &[("vary", "cookie"), ("cache-control", "max-age=60")],
    ];
    for (index, control) in controls.into_iter().enumerate() {
        for path in OBJECTS {
            let path = path.replace("/live/", &format!("/live/{index}/"));
            put(&proxy, &path, control);
            let body = proxy.text(&path).await;
            for asked in 2..=4 {
                assert_eq!(proxy.text(&path).await, body);
                assert_eq!(proxy.origin.count(&path), asked, "{path} {control:?}");
            }
        }
    }
}

#[tokio::test]
async fn all_lines_of_a_confirmation_count() {
    let proxy = Proxy::start().await;
    let lines = &[("cache-control", "max-age=0"), ("cache-control", "public")];
    for path in OBJECTS {
        put(&proxy, path, lines);
        for asked in 1..=3 {
            let answer = proxy.get(path).await;
            assert_eq!(proxy.origin.count(path), asked, "{path}");
            let said = answer.headers().get_all("cache-control").into_iter();
            let said: Vec<&str> = said.map(|line| line.to_str().unwrap()).collect();
            let is_whole = said.join(", ") == "max-age=0, public";
            assert!(is_whole || asked == 1, "{path} {said:?}");
        }
    }
}

#[tokio::test]
async fn a_confirmation_may_say_that_answers_vary() {
    let proxy = Proxy::start().await;
    put(
        &proxy,
        "/vod/a",
        &[("vary", "x-a"), ("cache-control", "max-age=60")],
    );
    proxy.get("/vod/a").await;
    for (value, asked) in [("1", 2), ("1", 2), ("2", 3)] {
        proxy.get_with("/vod/a", &[("x-a", value)]).await;
        assert_eq!(proxy.origin.count("/vod/a"), asked, "{value}");
    }
}

#[tokio::test]
async fn what_is_confirmed_keeps_its_records() {
    let proxy = Proxy::start().await;
    let index = "/live/v/i.m3u8";
    proxy.origin.put(index, &[HLS], playlist(1, 1));
    let segments = ["/live/v/seg-1.m4s", "/live/v/ranges.m4s"];
    for path in segments {
        put(&proxy, path, &[("cache-control", "no-cache")]);
    }
    let ranged = playlist(1, 0)
        + "#EXTINF:2.0,\n#EXT-X-BYTERANGE:2@0\nranges.m4s\n"
        + "#EXTINF:2.0,\n#EXT-X-BYTERANGE:2@2\nranges.m4s\n";
    proxy.origin.put("/live/v/r.m3u8", &[HLS], ranged);
    for playlist in [index, "/live/v/r.m3u8"] {
        let text = proxy.text(playlist).await;
        assert!(text.contains("#EXT-X-SHOAL-SEG"), "{text}");
    }
    for path in segments {
        let parts = [("range", "bytes=0-1")];
        let record = header(&proxy.get_with(path, &parts).await, "shoal-record").to_owned();
        assert_ne!(record, "");
        for _ in 0..20 {
            let answer = proxy.get_with(path, &parts).await;
            assert_eq!(header(&answer, "shoal-record"), record);
        }
        assert!(proxy.origin.count(path) > 20, "it is confirmed each time");
    }
    let signed = proxy.metric("shoal_proxy_records_signed_total").await;
    assert_eq!(signed, 3.0, "one segment, and two that are ranges");
}

#[tokio::test]
async fn our_own_validator_never_reaches_the_origin() {
    let proxy = Proxy::start().await;
    let modified = "Mon, 07 Nov 1994 08:49:37 GMT";
    proxy.origin.on("/live/i.m3u8", move |request| async move {
        let headers = [
            HLS,
            ("last-modified", modified),
            ("cache-control", "no-cache"),
        ];
        let asked = request.headers();
        assert!(!asked.contains_key("if-none-match"), "{asked:?}");
        match asked.get("if-modified-since") {
            Some(_) => respond(304, &headers, ""),
            None => respond(200, &headers, playlist(1, 0)),
        }
    });
    let first = proxy.text("/live/i.m3u8").await;
    for _ in 0..3 {
        let answer = proxy.get("/live/i.m3u8").await;
        assert_eq!(answer.status(), 200);
        assert_ne!(header(&answer, "etag"), "");
        assert_eq!(answer.text().await.unwrap(), first);
    }
    assert_eq!(proxy.origin.count("/live/i.m3u8"), 4);
}

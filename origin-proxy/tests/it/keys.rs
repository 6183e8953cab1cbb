//! Which requests have one answer, and which ones must not.

use std::time::Duration;

use serde_json::json;

use crate::support::{HLS, Origin, Proxy, header, playlist, respond};

/// Answers with what the request has as `name`, and says that it matters.
fn echo(proxy: &Proxy, path: &str, name: &'static str, vary: &'static [(&str, &str)]) {
    proxy.origin.on(path, move |request| async move {
        let value = request.headers().get(name);
        let text = value.map_or("none".into(), |value| value.as_bytes().to_vec());
        respond(200, vary, text)
    });
}

#[tokio::test]
async fn headers_that_the_origin_does_not_see_tell_nothing_apart() {
    let proxy = Proxy::start().await;
    for (path, vary) in [
        ("/vod/host", &[("vary", "Host")][..]),
        ("/vod/te", &[("vary", "TE, Connection, Expect")][..]),
        ("/vod/via", &[("vary", "Via")][..]),
    ] {
        echo(&proxy, path, "x-none", vary);
        for _ in 0..3 {
            let viewer = [("te", "trailers"), ("via", "1.1 viewer")];
            let answer = proxy.get_with(path, &viewer).await;
            assert_eq!(answer.text().await.unwrap(), "none");
        }
        assert_eq!(proxy.origin.count(path), 1, "{path}");
    }
    proxy.get_with("/vod/via", &[("via", "1.1 other")]).await;
    assert_eq!(proxy.origin.count("/vod/via"), 2);
}

#[tokio::test]
async fn long_and_odd_values_are_not_taken_for_one_another() {
    let proxy = Proxy::start().await;
    echo(&proxy, "/vod/a", "x-a", &[("vary", "x-a")]);
    let long = "x".repeat(3000);
    for value in [format!("{long}a"), format!("{long}b")] {
        let answer = proxy.get_with("/vod/a", &[("x-a", &value)]).await;
        assert_eq!(answer.text().await.unwrap(), value);
    }
    let client = reqwest::Client::new();
    for byte in [0xe4, 0xf6] {
        let value = reqwest::header::HeaderValue::from_bytes(&[byte]).unwrap();
        let request = client.get(proxy.url("/vod/a")).header("x-a", value);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.bytes().await.unwrap(), [byte][..]);
    }
}

#[tokio::test]
async fn a_header_for_one_connection_is_in_no_key() {
    let proxy = Proxy::start().await;
    echo(&proxy, "/vod/a", "x-a", &[("vary", "x-a")]);
    let hidden = [("connection", "x-a"), ("x-a", "1")];
    let answer = proxy.get_with("/vod/a", &hidden).await;
    assert_eq!(answer.text().await.unwrap(), "none");
    for (headers, text) in [(&[("x-a", "1")][..], "1"), (&[][..], "none")] {
        let answer = proxy.get_with("/vod/a", headers).await;
        assert_eq!(answer.text().await.unwrap(), text);
    }
}

#[tokio::test]
async fn what_is_in_no_key_cannot_change_what_all_get() {
    let proxy = Proxy::start().await;
    for (name, path) in [
        ("x-forwarded-host", "/vod/a"),
        ("x-original-url", "/vod/b"),
        ("x-http-method-override", "/vod/c"),
    ] {
        echo(&proxy, path, name, &[]);
        let answer = proxy.get_with(path, &[(name, "evil")]).await;
        assert_eq!(answer.text().await.unwrap(), "none", "{name}");
    }
    let origin = Origin::default();
    let trusting = Proxy::start_with(origin, |config| {
        config.upstream.headers_drop = vec!["Cookie".into()];
    });
    let trusting = trusting.await;
    for (name, path, text) in [
        ("x-forwarded-host", "/vod/a", "set"),
        ("cookie", "/vod/b", "none"),
    ] {
        echo(&trusting, path, name, &[]);
        let answer = trusting.get_with(path, &[(name, "set")]).await;
        assert_eq!(answer.text().await.unwrap(), text, "{name}");
    }
}

#[tokio::test]
async fn names_in_queries_count_in_every_spelling() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.query_keep = vec!["v".into()];
    })
    .await;
    proxy.origin.on("/vod/a", |request| async move {
        let query = request.uri().query().unwrap_or("none").to_owned();
        respond::<&str>(200, &[], query)
    });
    for query in ["%5FHLS_skip=YES", "%76=2", "v=1&v=2", "v=2&v=1"] {
        let found = proxy.text(&format!("/vod/a?{query}")).await;
        assert_eq!(found, query);
    }
    assert_eq!(proxy.text("/vod/a?x=1").await, "x=1");
    assert_eq!(
        proxy.text("/vod/a?x=2").await,
        "x=1",
        "is no part of the key"
    );
}

async fn purge(proxy: &Proxy, url: &str) {
    let order = reqwest::Client::new()
        .post(proxy.url("/.shoal/admin/purge"))
        .bearer_auth("secret")
        .body(json!({ "urls": [url] }).to_string());
    assert_eq!(order.send().await.unwrap().status(), 200);
}

async fn operated() -> Proxy {
    Proxy::start_with(Origin::default(), |config| {
        config.admin.token = Some("secret".into());
    })
    .await
}

#[tokio::test]
async fn the_purge_of_a_playlist_reaches_all_states_of_it() {
    let proxy = operated().await;
    let paths = ["/live/i.m3u8", "/live/j.m3u8"];
    for path in paths {
        proxy.origin.put(path, &[HLS], playlist(1, 0));
        for _ in 0..2 {
            proxy.text(&format!("{path}?_HLS_msn=1&token=x")).await;
        }
        assert_eq!(proxy.origin.count(path), 1);
    }
    purge(&proxy, "/live/i.m3u8").await;
    for path in paths {
        proxy.text(&format!("{path}?_HLS_msn=1")).await;
    }
    assert_eq!(paths.map(|path| proxy.origin.count(path)), [2, 1]);
}

#[tokio::test]
async fn a_purged_playlist_is_not_given_to_those_who_wait_for_parts_either() {
    let proxy = operated().await;
    let text = |title: &str| {
        format!(
            "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:60\n\
             #EXT-X-PART-INF:PART-TARGET=60\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:60,{title}\ns.m4s\n"
        )
    };
    let path = "/live/i.m3u8";
    proxy.origin.put("/live/s.m4s", &[], "bytes");
    proxy.origin.put(path, &[HLS], text("old"));
    proxy.text(path).await;
    let reload = format!("{path}?_HLS_msn=0");
    assert!(proxy.text(&reload).await.contains("old"));
    proxy.origin.put(path, &[HLS], text("new"));
    assert!(proxy.text(&reload).await.contains("old"), "it is fresh");
    purge(&proxy, path).await;
    let new = tokio::time::timeout(Duration::from_secs(20), proxy.text(&reload));
    assert!(new.await.unwrap().contains("new"));
}

#[tokio::test]
async fn playlists_too_long_to_read_are_passed_on_as_they_are() {
    let proxy = Proxy::start().await;
    let comment = format!("#{}\n", "x".repeat(999));
    let long = playlist(1, 3) + &comment.repeat(5000);
    let ended = long.clone() + "#EXT-X-ENDLIST\n";
    let control = ("cache-control", "max-age=600");
    for (path, text, kept) in [
        ("/live/i.m3u8", &long, "max-age=1"),
        ("/live/v.m3u8", &ended, "max-age=600"),
    ] {
        proxy.origin.put(path, &[HLS, control], text.clone());
        let answer = proxy.get(path).await;
        assert_eq!(header(&answer, "cache-control"), kept);
        assert!(answer.text().await.unwrap() == *text, "{path}");
    }
    assert!(proxy.text("/live/v.m3u8").await == ended);
    assert_eq!(proxy.origin.count("/live/v.m3u8"), 1);
    let private = [HLS, ("cache-control", "private")];
    proxy.origin.put("/live/p.m3u8", &private, long.clone());
    for _ in 0..2 {
        assert!(proxy.text("/live/p.m3u8").await == long);
    }
    let small = Proxy::start_with(proxy.origin.clone(), |config| {
        config.cache.object_bytes_max = 1000;
    });
    let small = small.await;
    for _ in 0..2 {
        assert!(small.text("/live/i.m3u8").await == long);
    }
}

#[tokio::test]
async fn no_cache_on_the_way_keeps_a_live_playlist_for_long() {
    let proxy = Proxy::start().await;
    let headers = [
        HLS,
        ("cache-control", "public, max-age=60, s-maxage=600"),
        ("expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("alt-svc", "h3=\":443\""),
    ];
    proxy.origin.put("/live/i.m3u8", &headers, playlist(1, 0));
    let answer = proxy.get("/live/i.m3u8").await;
    assert_eq!(
        header(&answer, "cache-control"),
        "public, max-age=1, s-maxage=1"
    );
    assert_eq!(header(&answer, "expires"), "");
    assert_eq!(header(&answer, "alt-svc"), "", "is the origin's own");
    let ended = playlist(1, 0) + "#EXT-X-ENDLIST\n";
    proxy.origin.put("/live/v.m3u8", &headers, ended);
    let answer = proxy.get("/live/v.m3u8").await;
    assert_eq!(header(&answer, "cache-control"), headers[1].1);
}

#[tokio::test]
async fn what_redirects_lead_to_is_shared_if_all_of_them_let_it() {
    let proxy = Proxy::start().await;
    proxy.origin.on("/real", |request| async move {
        let referer = request.headers().get("referer");
        let text = referer.map_or("nobody".into(), |value| value.as_bytes().to_vec());
        respond(200, &[("cache-control", "public, max-age=60")], text)
    });
    for (path, line, asked) in [
        ("/vod/plain", ("x-plain", "1"), 1),
        ("/vod/private", ("cache-control", "private"), 3),
        ("/vod/no-store", ("cache-control", "no-store"), 3),
        ("/vod/cookie", ("set-cookie", "who=me"), 3),
        ("/vod/vary", ("vary", "cookie"), 3),
    ] {
        proxy.origin.on(path, move |_| async move {
            respond(302, &[("location", "/hop"), line], "")
        });
        proxy.origin.on("/hop", |_| async {
            respond(307, &[("location", "/real")], "")
        });
        for _ in 0..3 {
            assert_eq!(proxy.text(&format!("{path}?token=x")).await, "nobody");
        }
        assert_eq!(proxy.origin.count(path), asked, "{path}");
    }
    proxy.origin.on("/vod/v", |request| async move {
        let to = request.headers().get("x-a").map_or("/none", |_| "/some");
        respond(302, &[("location", to), ("vary", "x-a")], "")
    });
    proxy.origin.put("/none", &[], "none");
    proxy.origin.put("/some", &[], "some");
    for _ in 0..2 {
        assert_eq!(proxy.text("/vod/v").await, "none");
        let answer = proxy.get_with("/vod/v", &[("x-a", "1")]).await;
        assert_eq!(answer.text().await.unwrap(), "some");
    }
    assert_eq!(proxy.origin.count("/vod/v"), 2);
}

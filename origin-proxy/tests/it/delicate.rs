//! Keys, the time and patches of manifests: what the origin says of them holds, and nothing is guessed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::join_all;

use crate::support::{HLS, Proxy, header, respond};

const INDEX: &str = "/live/v/i.m3u8";
const MPD: &str = "/live/main.mpd";
const MPD_TYPE: (&str, &str) = ("content-type", "application/dash+xml");

/// An encrypted playlist; the key is for those with a token.
async fn encrypted(control: &'static [(&'static str, &'static str)]) -> Proxy {
    let proxy = Proxy::start().await;
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n\
        #EXT-X-KEY:METHOD=AES-128,URI=\"../keys/1\"\n#EXTINF:2.0,\nseg-1.m4s\n";
    proxy.origin.put(INDEX, &[HLS], text);
    proxy.origin.on("/live/keys/1", move |request| async move {
        match request.uri().query() {
            Some("token=good") => respond(200, control, "0123456789abcdef"),
            _ => respond(403, &[("cache-control", "no-store")], "no token"),
        }
    });
    proxy
}

#[tokio::test]
async fn a_key_is_for_those_whom_the_origin_gives_it() {
    for control in [&[][..], &[("cache-control", "no-cache")]] {
        let proxy = encrypted(control).await;
        proxy.text(INDEX).await;
        for _ in 0..2 {
            let answer = proxy.get("/live/keys/1?token=good").await;
            assert_eq!(answer.text().await.unwrap(), "0123456789abcdef");
            assert_eq!(proxy.get("/live/keys/1").await.status(), 403);
        }
        assert_eq!(proxy.origin.count("/live/keys/1"), 4);
    }
}

#[tokio::test]
async fn a_key_that_comes_before_its_playlist_is_forgotten_with_it() {
    let proxy = encrypted(&[]).await;
    assert_eq!(proxy.get("/live/keys/1?token=good").await.status(), 200);
    proxy.text(INDEX).await;
    assert_eq!(proxy.get("/live/keys/1").await.status(), 403);
    // The commonest name needs no playlist.
    proxy.origin.put("/vod/a.key", &[], "0123456789abcdef");
    for _ in 0..2 {
        proxy.text("/vod/a.key").await;
    }
    assert_eq!(proxy.origin.count("/vod/a.key"), 2);
}

#[tokio::test]
async fn a_key_whose_origin_says_for_how_long_is_asked_for_once() {
    let proxy = encrypted(&[("cache-control", "public, max-age=60")]).await;
    proxy.text(INDEX).await;
    let ask = |_| proxy.text("/live/keys/1?token=good");
    join_all((0..10).map(ask)).await;
    assert_eq!(proxy.origin.count("/live/keys/1"), 1);
}

#[tokio::test]
async fn no_two_viewers_share_one_key_that_is_on_its_way() {
    let proxy = encrypted(&[]).await;
    proxy.text(INDEX).await;
    let ask = |viewer: usize| {
        let query = if viewer.is_multiple_of(2) {
            "?token=good"
        } else {
            ""
        };
        let path = format!("/live/keys/1{query}");
        let proxy = &proxy;
        async move { proxy.get(&path).await.status().as_u16() }
    };
    let found = join_all((0..10).map(ask)).await;
    assert_eq!(found, [200, 403].repeat(5));
}

#[tokio::test]
async fn the_time_and_patches_are_the_origins_of_this_moment() {
    let proxy = Proxy::start().await;
    let text = "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\" id=\"a\" \
        publishTime=\"2026-01-01T00:00:00Z\" minimumUpdatePeriod=\"PT2S\" profiles=\"x\" \
        availabilityStartTime=\"2026-01-01T00:00:00Z\" minBufferTime=\"PT2S\">\
        <PatchLocation ttl=\"60\">patch?t=1</PatchLocation><Period id=\"0\" start=\"PT0S\"/>\
        <UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:http-head:2014\" value=\"time\"/></MPD>";
    proxy.origin.put(MPD, &[MPD_TYPE], text);
    let clock = Arc::new(AtomicU64::new(0));
    for path in ["/live/time", "/live/patch"] {
        let clock = clock.clone();
        proxy.origin.on(path, move |_| {
            let now = clock.fetch_add(1, Ordering::Relaxed).to_string();
            async move { respond(200, &[("x-now", now.as_str())], now.clone()) }
        });
    }
    proxy.text(MPD).await;
    for now in 0..3 {
        assert_eq!(proxy.text("/live/time").await, now.to_string());
    }
    let client = reqwest::Client::new();
    for now in 3..5 {
        let request = client.head(proxy.url("/live/time"));
        let answer = request.send().await.unwrap();
        assert_eq!(header(&answer, "x-now"), now.to_string());
    }
    for now in 5..8 {
        assert_eq!(proxy.text("/live/patch?t=1").await, now.to_string());
    }
    // A patch that no manifest has named yet tells by its type.
    let patch = ("content-type", "application/dash-patch+xml");
    proxy.origin.put("/live/other", &[patch], "<Patch/>");
    for _ in 0..2 {
        proxy.text("/live/other").await;
    }
    assert_eq!(proxy.origin.count("/live/other"), 2);
}

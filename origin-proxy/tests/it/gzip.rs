//! Playlists and manifests for viewers who take gzip.

use std::{io::Read, sync::Arc, time::Duration};

use flate2::read::GzDecoder;
use tokio::sync::watch;

use crate::support::{HLS, Origin, Proxy, header, playlist, respond};

const INDEX: &str = "/live/v/i.m3u8";
const MPD_TYPE: (&str, &str) = ("content-type", "application/dash+xml");
const TAKES: (&str, &str) = ("accept-encoding", "gzip, deflate, br");

/// What comes of a body in the gzip coding.
fn unzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[tokio::test]
async fn a_playlist_is_compressed_for_those_who_take_it() {
    let proxy = Proxy::start().await;
    let fresh = ("cache-control", "max-age=60");
    proxy
        .origin
        .put("/live/v/i.m3u8", &[HLS, fresh], playlist(1, 60));
    let mpd = format!("<MPD><!-- {} --></MPD>", "x".repeat(60_000));
    proxy.origin.put("/vod/i.mpd", &[MPD_TYPE, fresh], mpd);
    for path in [INDEX, "/vod/i.mpd"] {
        let plain = proxy.get(path).await;
        assert_eq!(header(&plain, "content-encoding"), "");
        assert!(header(&plain, "vary").contains("Accept-Encoding"));
        let etag = header(&plain, "etag").to_owned();
        let text = plain.bytes().await.unwrap();
        let coded = proxy.get_with(path, &[TAKES]).await;
        assert_eq!(header(&coded, "content-encoding"), "gzip");
        assert!(header(&coded, "vary").contains("Accept-Encoding"));
        let coded_etag = header(&coded, "etag").to_owned();
        assert_ne!(coded_etag, etag);
        let told: usize = header(&coded, "content-length").parse().unwrap();
        let bytes = coded.bytes().await.unwrap();
        assert!(bytes.len() == told && told < text.len() / 4, "{told}");
        assert_eq!(unzip(&bytes), text);
        for (tag, status) in [(&coded_etag, 304), (&etag, 200)] {
            let known = [TAKES, ("if-none-match", tag.as_str())];
            assert_eq!(proxy.get_with(path, &known).await.status(), status);
        }
        // A range is one of the playlist as it is.
        let part = proxy.get_with(path, &[TAKES, ("range", "bytes=0-9")]).await;
        assert_eq!(
            (part.status().as_u16(), header(&part, "content-encoding")),
            (206, "")
        );
        assert_eq!(part.bytes().await.unwrap(), text[..10]);
    }
}

#[tokio::test]
async fn what_is_no_playlist_or_refused_stays_as_it_is() {
    let proxy = Proxy::start().await;
    let text = "a".repeat(10_000);
    proxy
        .origin
        .put("/live/v/a.vtt", &[("content-type", "text/vtt")], text);
    proxy.origin.put("/live/v/short.m3u8", &[HLS], "#EXTM3U\n");
    proxy.origin.put(INDEX, &[HLS], playlist(1, 60));
    let refuses = ("accept-encoding", "gzip;q=0, *");
    for (path, takes) in [
        ("/live/v/a.vtt", TAKES),
        ("/live/v/short.m3u8", TAKES),
        (INDEX, refuses),
    ] {
        let answer = proxy.get_with(path, &[takes]).await;
        assert_eq!(header(&answer, "content-encoding"), "", "{path}");
    }
    let off = Proxy::start_with(Origin::default(), |config| config.cache.gzip = false).await;
    off.origin.put(INDEX, &[HLS], playlist(1, 60));
    let answer = off.get_with(INDEX, &[TAKES]).await;
    let found = (header(&answer, "content-encoding"), header(&answer, "vary"));
    assert_eq!(found, ("", ""));
}

#[tokio::test]
async fn a_playlist_for_one_viewer_and_one_that_is_waited_for_are_compressed_too() {
    let proxy = Proxy::start().await;
    let private = [HLS, ("cache-control", "private")];
    proxy.origin.put("/live/p.m3u8", &private, playlist(1, 60));
    for _ in 0..2 {
        let answer = proxy.get_with("/live/p.m3u8", &[TAKES]).await;
        let bytes = answer.bytes().await.unwrap();
        let text = String::from_utf8(unzip(&bytes)).unwrap();
        assert!(text.contains("seg-60.m4s"));
    }
    // Low latency in the origin's place: whole playlists and delta updates.
    let folder = "folder".repeat(12) + "/seg-";
    let mut text = playlist(1, 60).replace("seg-", &folder);
    text = text.replace("VERSION:7", "VERSION:9");
    text += "#EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-PART:DURATION=0.5,URI=\"p.m4s\"\n";
    proxy.origin.put(INDEX, &[HLS], text);
    proxy.text(INDEX).await;
    for query in ["_HLS_msn=60", "_HLS_msn=60&_HLS_skip=YES"] {
        let answer = proxy.get_with(&format!("{INDEX}?{query}"), &[TAKES]).await;
        let etag = header(&answer, "etag").to_owned();
        let bytes = answer.bytes().await.unwrap();
        let text = String::from_utf8(unzip(&bytes)).unwrap();
        assert_eq!(
            text.contains("EXT-X-SKIP"),
            query.contains("skip"),
            "{text}"
        );
        assert!(etag.ends_with("-gzip\""), "{etag}");
    }
}

#[tokio::test]
async fn answers_say_what_the_cache_has_done() {
    let proxy = Proxy::start().await;
    let behind = ("cache-status", "shield; hit");
    proxy
        .origin
        .put("/live/a", &[behind, ("cache-control", "max-age=60")], "a");
    proxy.origin.put("/live/b", &[("set-cookie", "a=b")], "b");
    proxy
        .origin
        .put("/live/c", &[("cache-control", "private")], "c");
    let private = [HLS, ("cache-control", "private")];
    proxy.origin.put("/live/p.m3u8", &private, playlist(1, 0));
    let go = Arc::new(watch::Sender::new(false));
    let held = go.clone();
    proxy.origin.on("/live/d", move |_| {
        let mut go = held.subscribe();
        async move {
            go.wait_for(|go| *go).await.unwrap();
            respond::<&str>(200, &[], "d")
        }
    });
    for (path, expected) in [
        ("/live/a", "shield; hit|shoal; fwd=miss"),
        ("/live/a", "shield; hit|shoal; hit"),
        ("/live/b", "shoal; fwd=bypass; detail=set-cookie"),
        ("/live/c", "shoal; fwd=bypass; detail=private"),
        ("/live/p.m3u8", "shoal; fwd=miss; detail=private"),
        ("/live/p.m3u8", "shoal; fwd=bypass; detail=private"),
        ("/healthz", ""),
    ] {
        let answer = proxy.get_with(path, &[TAKES]).await;
        let lines = answer.headers().get_all("cache-status").into_iter();
        let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines.join("|"), expected, "{path}");
    }
    let together = async {
        while proxy.metric("shoal_proxy_collapsed_total").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        go.send_replace(true);
    };
    let (first, second, ()) = tokio::join!(proxy.get("/live/d"), proxy.get("/live/d"), together);
    let mut said = [&first, &second].map(|answer| header(answer, "cache-status"));
    said.sort_unstable();
    assert_eq!(said, ["shoal; fwd=miss", "shoal; fwd=miss; collapsed"]);
    // The body is asked for once, too.
    assert_eq!(proxy.origin.count("/live/d"), 1);
}

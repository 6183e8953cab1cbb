//! What goes when there is no more room.

use crate::support::{HLS, Origin, Proxy, playlist, segment};

#[tokio::test]
async fn the_newest_is_always_kept() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.cache.bytes_max = 1_000_000;
    })
    .await;
    let client = reqwest::Client::new();
    for step in 0..15 {
        let mut paths = vec![(format!("/live/{step}/video"), 300_000)];
        paths.extend((0..10).map(|part| (format!("/live/{step}/part-{part}"), 10_000)));
        for (path, len) in paths.into_iter().rev() {
            let body = segment(step, len);
            proxy.origin.put(&path, &[], body.clone());
            for _ in 0..3 {
                let answer = client.get(proxy.url(&path)).send().await.unwrap();
                assert_eq!(answer.bytes().await.unwrap(), body);
            }
            assert_eq!(proxy.origin.count(&path), 1, "{path}");
        }
    }
}

#[tokio::test]
async fn fewer_records_than_segments_are_those_of_the_newest() {
    const WINDOW: u64 = 30;
    const STEPS: u64 = 40;
    let proxy = Proxy::start_with(Origin::default(), |config| {
        config.records.records_max = 20;
        config.records.record_hold_ms_max = 60_000;
    })
    .await;
    for number in 1..=STEPS + WINDOW {
        let path = format!("/live/v/seg-{number}.m4s");
        proxy.origin.put(&path, &[], segment(number, 2000));
    }
    let index = "/live/v/i.m3u8";
    for first in 1..=STEPS {
        let text = playlist(first, first + WINDOW - 1);
        proxy
            .origin
            .put(index, &[HLS, ("cache-control", "no-cache")], text);
        let text = proxy.text(index).await;
        for number in first + WINDOW - 6..first + WINDOW {
            let name = format!("seg-{number}.m4s");
            let lines: Vec<&str> = text.lines().collect();
            let at = lines.iter().position(|line| *line == name).unwrap();
            assert!(
                lines[at - 2].starts_with("#EXT-X-SHOAL-SEG"),
                "{name}: {text}"
            );
        }
    }
    // Six with the first playlist, then one with each: none again and again.
    let signed = proxy.metric("shoal_proxy_records_signed_total").await;
    assert_eq!(signed, (6 + STEPS - 1) as f64);
}

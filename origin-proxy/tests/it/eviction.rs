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
async fn what_has_no_room_for_a_record_is_not_signed_again_and_again() {
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
        let last = text.lines().next_back().unwrap();
        assert_eq!(last, format!("seg-{}.m4s", first + WINDOW - 1));
        let tag = text.lines().rev().nth(2).unwrap();
        assert!(tag.starts_with("#EXT-X-SHOAL-SEG"), "{text}");
    }
    // Six with the first playlist, one with each, and some that had to go: not ten with each.
    let signed = proxy.metric("shoal_proxy_records_signed_total").await;
    assert!(signed < (2 * (6 + STEPS)) as f64, "{signed}");
}

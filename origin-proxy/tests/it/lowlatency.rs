//! Low-latency HLS through the proxy.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{future::join_all, stream};
use swarm_core::timeline::tags;
use tokio::sync::watch;

use crate::support::{HLS, Proxy, header, respond, segment};

const INDEX: &str = "/live/v/i.m3u8";

/// The playlist when `parts` parts of half a second are there, two to a segment.
fn low_latency(parts: u64) -> String {
    let mut text = String::from(
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5,CAN-SKIP-UNTIL=6.0\n\
         #EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-MEDIA-SEQUENCE:0\n",
    );
    text += &list(parts);
    text + "#EXT-X-RENDITION-REPORT:URI=\"../a/i.m3u8\",LAST-MSN=2,LAST-PART=1\n"
}

/// So many parts of half a second, two to a segment, and the next one announced.
pub(crate) fn list(parts: u64) -> String {
    let mut text = String::new();
    for part in 0..parts {
        let (segment, index) = (part / 2, part % 2);
        text += &format!("#EXT-X-PART:DURATION=0.5,URI=\"part-{segment}.{index}.m4s\"\n");
        if index == 1 {
            text += &format!("#EXTINF:1.0,\nseg-{segment}.m4s\n");
        }
    }
    let (segment, index) = (parts / 2, parts % 2);
    text + &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-{segment}.{index}.m4s\"\n")
}

fn number(query: &str, name: &str) -> Option<u64> {
    let mut words = query.split('&');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// An origin with blocking reload, and how many parts it has.
async fn live(parts: u64) -> (Proxy, Arc<watch::Sender<u64>>) {
    live_as(parts, low_latency).await
}

/// The same with playlists of another kind.
async fn live_as(parts: u64, playlist: fn(u64) -> String) -> (Proxy, Arc<watch::Sender<u64>>) {
    let proxy = Proxy::start().await;
    let edge = Arc::new(watch::Sender::new(parts));
    let held = edge.clone();
    proxy.origin.on(INDEX, move |request| {
        let mut edge = held.subscribe();
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let wanted = number(&query, "_HLS_msn").map(|segment| {
                let part = number(&query, "_HLS_part").unwrap_or(1);
                segment * 2 + part + 1
            });
            let there = edge.wait_for(|parts| wanted.is_none_or(|wanted| *parts >= wanted));
            let parts = *there.await.unwrap();
            respond(200, &[HLS], playlist(parts))
        }
    });
    for number in 0..8 {
        let path = format!("/live/v/seg-{number}.m4s");
        proxy.origin.put(&path, &[], segment(number, 20_000));
    }
    (proxy, edge)
}

/// `text` without our tags.
pub(crate) fn bare(text: &str) -> String {
    text.split_inclusive('\n')
        .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_reloads_are_one_request_for_each_key() {
    let (proxy, edge) = live(4).await;
    proxy.text(INDEX).await;
    let ask = |viewer: usize| {
        // Two keys: a part and, for half of the viewers, one more argument's worth of delta.
        let skip = if viewer.is_multiple_of(2) {
            ""
        } else {
            "&_HLS_skip=YES"
        };
        let path = format!("{INDEX}?_HLS_part=0&token={viewer}&_HLS_msn=2{skip}");
        let proxy = &proxy;
        async move { proxy.text(&path).await }
    };
    let publish = async {
        while proxy.origin.count(INDEX) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        edge.send_replace(5);
    };
    let (answers, ()) = tokio::join!(join_all((0..60).map(ask)), publish);
    for answer in &answers {
        assert_eq!(
            bare(answer),
            low_latency(5),
            "all that is not ours is as it was"
        );
    }
    // One that comes later gets the same without asking.
    ask(0).await;
    assert_eq!(proxy.origin.count(INDEX), 3);
}

/// The parts that `text` has tags of.
pub(crate) fn tagged(text: &str) -> Vec<&str> {
    let lines = text.lines().zip(text.lines().skip(1));
    let tagged = lines.filter(|(line, _)| line.starts_with(tags::PART_TAG));
    tagged
        .filter_map(|(_, part)| part.split('"').nth(1))
        .collect()
}

#[tokio::test]
async fn the_newest_part_has_its_tag_when_those_who_play_parts_hear_of_it() {
    // A playlist may be held for a quarter of a part: this one until all is there.
    let patient = |parts| low_latency(parts).replace("PART-TARGET=0.5", "PART-TARGET=60");
    let (proxy, edge) = live_as(5, patient).await;
    for part in 0..8 {
        let path = format!("/live/v/part-{}.{}.m4s", part / 2, part % 2);
        proxy.origin.put(&path, &[], segment(part, 20_000));
    }
    let count = |part: &str| proxy.origin.count(&format!("/live/v/part-{part}.m4s"));
    // Who wants whole segments waits for the last part of each.
    proxy.text(INDEX).await;
    edge.send_replace(6);
    let text = proxy.text(&format!("{INDEX}?_HLS_msn=2&_HLS_part=1")).await;
    assert_eq!((tagged(&text), count("2.1")), (vec![], 0));
    edge.send_replace(7);
    let text = proxy.text(&format!("{INDEX}?_HLS_msn=3&_HLS_part=0")).await;
    assert_eq!(tagged(&text), ["part-3.0.m4s"]);
    edge.send_replace(8);
    let text = proxy.text(&format!("{INDEX}?_HLS_msn=3&_HLS_part=1")).await;
    assert_eq!(tagged(&text), ["part-3.0.m4s", "part-3.1.m4s"]);
    proxy.get("/live/v/part-3.1.m4s").await;
    assert_eq!((count("2.1"), count("3.0"), count("3.1")), (0, 1, 1));
}

#[tokio::test]
async fn what_has_no_directives_is_fresh_for_half_a_part() {
    let (proxy, edge) = live(4).await;
    assert_eq!(bare(&proxy.text(INDEX).await), low_latency(4));
    edge.send_replace(5);
    tokio::time::sleep(Duration::from_millis(260)).await;
    assert_eq!(bare(&proxy.text(INDEX).await), low_latency(5));
}

#[tokio::test]
async fn an_older_answer_does_not_look_like_a_restart() {
    let (proxy, edge) = live(4).await;
    proxy.text(INDEX).await;
    for number in 0..2 {
        proxy.get(&format!("/live/v/seg-{number}.m4s")).await;
    }
    edge.send_replace(6);
    let newer = proxy.text(&format!("{INDEX}?_HLS_msn=2&_HLS_part=1")).await;
    assert!(newer.contains("#EXT-X-SHOAL-SEG"));
    edge.send_replace(4);
    tokio::time::sleep(Duration::from_millis(260)).await;
    proxy.text(INDEX).await;
    proxy.get("/live/v/seg-0.m4s").await;
    assert_eq!(proxy.origin.count("/live/v/seg-0.m4s"), 1);
}

#[tokio::test]
async fn hinted_parts_block_and_come_whole() {
    let (proxy, _edge) = live(4).await;
    proxy.text(INDEX).await;
    let part = segment(9, 30_000);
    let (go, gone) = watch::channel(0_usize);
    let (bytes, seen) = (part.clone(), Arc::new(Mutex::new(0)));
    let asked = seen.clone();
    proxy.origin.on("/live/v/part-2.0.m4s", move |_| {
        *asked.lock().unwrap() += 1;
        let (bytes, mut gone) = (bytes.clone(), gone.clone());
        async move {
            let _ = gone.wait_for(|steps| *steps > 0).await;
            let halves = [(1, bytes[..15_000].to_vec()), (2, bytes[15_000..].to_vec())];
            let state = (halves.into_iter(), gone);
            let body = stream::unfold(state, |(mut halves, mut gone)| async move {
                let (step, half) = halves.next()?;
                let _ = gone.wait_for(|steps| *steps >= step).await;
                Some((Ok::<_, std::io::Error>(Bytes::from(half)), (halves, gone)))
            });
            respond(200, &[("content-length", "30000")], Body::from_stream(body))
        }
    });
    let viewers = (0..20).map(|_| proxy.get("/live/v/part-2.0.m4s"));
    let mut viewers = std::pin::pin!(join_all(viewers));
    let half = async {
        while *seen.lock().unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        go.send_replace(1);
        // The first half is on its way; nobody gets any of it.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        _ = &mut viewers => panic!("a head before the part is whole"),
        () = half => {}
    }
    go.send_replace(2);
    for answer in viewers.await {
        assert_eq!(header(&answer, "content-length"), "30000");
        assert_eq!(answer.bytes().await.unwrap(), part);
    }
    assert_eq!(*seen.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_hinted_part_that_was_not_there_is_asked_for_again() {
    let (proxy, _edge) = live(4).await;
    proxy.text(INDEX).await;
    assert_eq!(proxy.get("/live/v/part-2.0.m4s").await.status(), 404);
    proxy.origin.put("/live/v/part-2.0.m4s", &[], "part");
    assert_eq!(proxy.text("/live/v/part-2.0.m4s").await, "part");
}

//! The proxy before Shoal's own live source, with its clip and its faults.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use live_source::{Faults, LiveSource};
use swarm_core::timeline::{Track, dash, hls};
use tokio::net::TcpListener;

use crate::{
    records::{read, verify},
    support::{Origin, Proxy, header},
};

async fn start() -> (Proxy, Faults) {
    let source = LiveSource::new(live_source::Config::default()).unwrap();
    let faults = source.faults();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(source.run(listener, std::future::pending()));
    let proxy = Proxy::before(Origin::default(), &url, |_| {}).await;
    (proxy, faults)
}

fn path_of(url: &str) -> String {
    let path = url.strip_prefix("https://any.example").unwrap();
    path.to_owned()
}

/// Paths of the media playlists of the first variant and the first audio rendition.
async fn media_paths(proxy: &Proxy) -> Vec<String> {
    let text = proxy.text("/live/main.m3u8").await;
    let list = hls::read(&text, "https://any.example/live/main.m3u8").unwrap();
    let hls::HlsPlaylist::Multivariant(list) = list else {
        panic!("{text}");
    };
    let audio = list
        .renditions
        .iter()
        .find_map(|rendition| rendition.url.clone());
    let video = list.variants[0].url.clone();
    [Some(video), audio]
        .into_iter()
        .flatten()
        .map(|url| path_of(&url))
        .collect()
}

async fn track(proxy: &Proxy, path: &str) -> Track {
    let text = proxy.text(path).await;
    match hls::read(&text, &format!("https://any.example{path}")) {
        Ok(hls::HlsPlaylist::Media(track)) => track,
        other => panic!("{other:?}\n{text}"),
    }
}

/// Fetches the newest segments and checks them against their records and tags.
async fn check_newest(proxy: &Proxy, track: &Track, count: usize) {
    for segment in track.segments.iter().rev().take(count) {
        let answer = proxy.get(&path_of(&segment.url)).await;
        assert_eq!(answer.status(), 200, "{}", segment.url);
        let text = header(&answer, "shoal-record").to_owned();
        let record = verify(proxy, &text, &answer.bytes().await.unwrap());
        let content = segment
            .info
            .content
            .expect("the newest segments are signed in time");
        assert_eq!((record.id(), record.epoch), (content.id, content.epoch));
        assert_eq!(record.name, segment.info.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hls_and_dash_agree_and_every_new_segment_is_signed() {
    let (proxy, _) = start().await;
    let paths = media_paths(&proxy).await;
    assert_eq!(paths.len(), 2);
    let mut tracks = Vec::new();
    for _ in 0..3 {
        for path in &paths {
            let track = track(&proxy, path).await;
            check_newest(&proxy, &track, 3).await;
            tracks.push(track.track);
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let text = proxy.text("/live/main.mpd").await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let manifest = dash::read(&text, "https://any.example/live/main.mpd", now).unwrap();
    assert!(manifest.stream.is_some());
    let of_dash: Vec<_> = manifest
        .representations
        .iter()
        .map(|r| r.track.track)
        .collect();
    assert!(
        tracks.iter().all(|track| of_dash.contains(track)),
        "{tracks:?} {of_dash:?}"
    );
    for representation in &manifest.representations {
        let newest = representation.track.segments.last().unwrap();
        let answer = proxy.get(&path_of(&newest.url)).await;
        assert_eq!(answer.status(), 200, "{}", newest.url);
        let text = header(&answer, "shoal-record").to_owned();
        verify(&proxy, &text, &answer.bytes().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_reset_is_followed() {
    let (proxy, faults) = start().await;
    let path = media_paths(&proxy).await.remove(0);
    let first = track(&proxy, &path).await.segments[0].info.seq;
    let before = eventually(&proxy, &path, |now| now.segments[0].info.seq >= first + 2).await;
    check_newest(&proxy, &before, 3).await;
    faults.reset_sequence();
    let back = |now: &Track| now.segments[0].info.seq < before.segments[0].info.seq;
    let after = eventually(&proxy, &path, back).await;
    check_newest(&proxy, &after, 3).await;
    let (last, renamed) = (after.segments.last().unwrap(), before.segments.iter());
    let old = renamed
        .map(|old| old.info)
        .find(|old| old.name == last.info.name)
        .unwrap();
    let (old, new) = (old.content.unwrap(), last.info.content.unwrap());
    assert!(
        new.id != old.id && new.epoch > old.epoch,
        "same name, other bytes"
    );
    // Names that are listed again only later have old bytes in the cache, too.
    let newest = before.segments.last().unwrap().info;
    let is_listed = |now: &Track| now.segments.last().unwrap().info.seq >= newest.seq;
    let later = eventually(&proxy, &path, is_listed).await;
    check_newest(&proxy, &later, 3).await;
    let again = later
        .segments
        .iter()
        .find(|s| s.info.name == newest.name)
        .unwrap();
    assert_ne!(again.info.content.unwrap().id, newest.content.unwrap().id);
}

async fn eventually(proxy: &Proxy, path: &str, is_it: impl Fn(&Track) -> bool) -> Track {
    let polled = async {
        loop {
            let now = track(proxy, path).await;
            if is_it(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polled)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_with_tokens_share_segments() {
    let (proxy, faults) = start().await;
    faults.require_tokens(true);
    let path = media_paths(&proxy).await.remove(0);
    let path = path.split('?').next().unwrap();
    let (a, b) = (proxy.text(path).await, proxy.text(path).await);
    assert_ne!(a, b, "each viewer has its token");
    let (a, b) = (read(&a), read(&b));
    assert_eq!(
        a.segments.last().unwrap().info,
        b.segments.last().unwrap().info
    );
    let url = a
        .segments
        .last()
        .unwrap()
        .url
        .replace("/live/v/", path.rsplit_once('/').unwrap().0);
    assert!(url.contains("token="));
    assert!(a.segments.last().unwrap().info.content.is_some());
}

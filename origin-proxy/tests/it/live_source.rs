//! The proxy before Shoal's own live source, with its clip and its faults.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use live_source::{Faults, LiveSource, Stats};
use swarm_core::timeline::{Track, dash, hls};
use tokio::net::TcpListener;

use crate::{
    records::{read, verify},
    support::{Origin, Proxy, header},
};

async fn start() -> (Proxy, Faults) {
    let (proxy, faults, _) = start_with(live_source::Config::default()).await;
    (proxy, faults)
}

async fn start_with(config: live_source::Config) -> (Proxy, Faults, Stats) {
    let source = LiveSource::new(config).unwrap();
    let (faults, stats) = (source.faults(), source.stats());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(source.run(listener, std::future::pending()));
    let proxy = Proxy::before(Origin::default(), &url, |_| {}).await;
    (proxy, faults, stats)
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

/// The range of part `part` of `segment`, first byte and length, if the playlist lists it.
fn range_of(text: &str, segment: &str, part: usize) -> Option<(usize, usize)> {
    let start = format!("URI=\"{segment}\",BYTERANGE=\"");
    let parts = text.lines().filter(|line| line.starts_with("#EXT-X-PART:"));
    let mut ranges = parts.filter_map(|line| line.split_once(&start)?.1.split('"').next());
    let (len, first) = ranges.nth(part)?.split_once('@')?;
    Some((first.parse().unwrap(), len.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_ranges_of_a_growing_segment_come_while_it_is_made_and_it_is_signed() {
    let (proxy, _, stats) = start_with(live_source::Config {
        ll_hls: true,
        part_byteranges: true,
        ..live_source::Config::default()
    })
    .await;
    let index = "/live/360p/index.m3u8";
    // The segment after the one that is being made: it is followed from its first part on.
    let number = track(&proxy, index).await.segments.last().unwrap().info.seq + 2;
    let segment = format!("seg-{number}.m4s");
    let path = format!("/live/360p/{segment}");
    let mut so_far = Vec::new();
    for part in 0..4 {
        let text = proxy
            .text(&format!("{index}?_HLS_msn={number}&_HLS_part={part}"))
            .await;
        let (first, len) = range_of(&text, &segment, part).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(first, so_far.len(), "{text}");
        let last = first + len - 1;
        let range = format!("bytes={first}-{last}");
        let answer = proxy.get_with(&path, &[("range", &range)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        let told = header(&answer, "content-range");
        let expected = format!("bytes {first}-{last}/");
        assert!(told.starts_with(&expected), "{told}");
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len(), len, "{range}");
        so_far.extend_from_slice(&bytes);
    }
    // The next one is listed when this one is whole.
    let next = format!("{index}?_HLS_msn={}&_HLS_part=0", number + 1);
    let now = read(&proxy.text(&next).await);
    let listed = now.segments.iter().find(|s| s.info.seq == number).unwrap();
    let answer = proxy.get(&path).await;
    let record = header(&answer, "shoal-record").to_owned();
    let whole = answer.bytes().await.unwrap();
    assert!(whole == so_far, "{} and {}", whole.len(), so_far.len());
    let record = verify(&proxy, &record, &whole);
    assert_eq!(
        listed.info.content.map(|content| content.id),
        Some(record.id())
    );
    assert_eq!(stats.path(&path).requests, 1, "one request brings them all");
}

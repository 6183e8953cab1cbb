//! What the proxy signs, and how it tells.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use origin_proxy::Config;
use swarm_core::{
    id::{Name, StreamId},
    record::Record,
    timeline::{Listed, Track, dash, hls},
};
use tokio::sync::watch;

use crate::support::{HLS, Origin, Proxy, header, playlist, respond, segment};

const INDEX: &str = "/live/v/i.m3u8";

async fn live(first: u64, last: u64) -> Proxy {
    let proxy = Proxy::start().await;
    publish(&proxy.origin, first, last);
    proxy
}

fn publish(origin: &Origin, first: u64, last: u64) {
    origin.put(
        INDEX,
        &[HLS, ("cache-control", "no-cache")],
        playlist(first, last),
    );
    for number in first..=last {
        let body = segment(number, 40_000);
        origin.put(
            &format!("/live/v/seg-{number}.m4s"),
            &[("cache-control", "max-age=60")],
            body,
        );
    }
}

pub(crate) fn verify(proxy: &Proxy, text: &str, body: &[u8]) -> Record {
    let record = Record::from_header(text).unwrap();
    let key = URL_SAFE_NO_PAD.decode(&proxy.public_key).unwrap();
    let key: [u8; 32] = key.try_into().unwrap();
    assert_eq!(record.stream, StreamId::of(&key, "main"));
    let key = VerifyingKey::from_bytes(&key).unwrap();
    let signature = Signature::from_bytes(&record.signature);
    key.verify_strict(&record.signed_bytes(), &signature)
        .unwrap();
    assert_eq!(record.len as usize, body.len());
    for (index, piece) in body.chunks(record.piece_len as usize).enumerate() {
        assert!(record.verify_piece(index as u32, piece));
    }
    record
}

pub(crate) fn read(text: &str) -> Track {
    match hls::read(text, "https://any.example/live/v/i.m3u8").unwrap() {
        hls::HlsPlaylist::Media(track) => track,
        hls::HlsPlaylist::Multivariant(_) => panic!("{text}"),
    }
}

#[tokio::test]
async fn playlists_carry_tags_and_are_otherwise_as_they_were() {
    let proxy = live(5, 8).await;
    let text = proxy.text(INDEX).await;
    let track = read(&text);
    assert!(track.stream.is_some());
    assert!(
        track
            .segments
            .iter()
            .all(|segment| segment.info.content.is_some()),
        "{text}"
    );
    let bare: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
        .collect();
    assert_eq!(bare, playlist(5, 8));
    let (_, second) = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap();
    assert_eq!((second.media_sequence, second.segments.len()), (5, 4));
}

#[tokio::test]
async fn whole_and_ranged_answers_carry_a_record_that_verifies() {
    let proxy = live(1, 3).await;
    let track = read(&proxy.text(INDEX).await);
    let body = segment(2, 40_000);
    for range in ["bytes=0-", "bytes=16384-32767"] {
        let answer = proxy
            .get_with("/live/v/seg-2.m4s", &[("range", range)])
            .await;
        assert_eq!(answer.status(), 206);
        let record = verify(&proxy, header(&answer, "shoal-record"), &body);
        assert_eq!((record.seq, record.duration_ms, record.epoch), (2, 2000, 0));
        assert_eq!(record.name, Name::of("/live/v/seg-2.m4s"));
        assert_eq!(track.segments[1].info.content.unwrap().id, record.id());
    }
    assert_eq!(proxy.origin.count("/live/v/seg-2.m4s"), 1);
}

#[tokio::test]
async fn only_listed_segments_are_signed() {
    let proxy = live(1, 1).await;
    proxy.origin.put("/live/v/init.mp4", &[], "init");
    proxy.origin.put("/live/v/key.bin", &[], "key");
    proxy.text(INDEX).await;
    for path in ["/live/v/init.mp4", "/live/v/key.bin", INDEX] {
        let answer = proxy.get(path).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "shoal-record")),
            (200, ""),
            "{path}"
        );
    }
}

#[tokio::test]
async fn encrypted_segments_are_signed_as_they_are_and_their_keys_are_not() {
    let proxy = live(1, 2).await;
    for method in ["AES-128", "SAMPLE-AES"] {
        let key = format!("#EXT-X-KEY:METHOD={method},URI=\"key.bin\",IV=0x1\n");
        let session = "#EXT-X-DEFINE:NAME=\"a\",VALUE=\"b\"\n";
        let text = playlist(1, 2).replace("#EXT-X-MAP", &format!("{key}{session}#EXT-X-MAP"));
        let path = format!("/live/v/{method}.m3u8");
        proxy.origin.put(&path, &[HLS], text.clone());
        proxy.origin.put("/live/v/key.bin", &[], "0123456789abcdef");
        let tagged = proxy.text(&path).await;
        let bare: String = tagged
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
            .collect();
        assert_eq!(bare, text);
        assert_eq!(tagged.matches("#EXT-X-SHOAL-SEG").count(), 2, "{tagged}");
        let answer = proxy.get("/live/v/seg-1.m4s").await;
        verify(&proxy, header(&answer, "shoal-record"), &segment(1, 40_000));
        let key = proxy.get("/live/v/key.bin").await;
        assert_eq!(header(&key, "shoal-record"), "");
    }
}

#[tokio::test]
async fn a_playlist_is_held_no_longer_than_its_bound() {
    let proxy = live(1, 2).await;
    proxy.origin.on("/live/v/seg-2.m4s", |_| async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        respond::<&str>(200, &[], segment(2, 1000))
    });
    let started = Instant::now();
    let track = read(&proxy.text(INDEX).await);
    let held = started.elapsed();
    assert!((400..900).contains(&held.as_millis()), "{held:?}");
    assert!(track.segments[0].info.content.is_some());
    assert!(track.segments[1].info.content.is_none());
    // The record follows.
    let answer = proxy.get("/live/v/seg-2.m4s").await;
    answer.bytes().await.unwrap();
    let track = read(&proxy.text(INDEX).await);
    assert!(track.segments[1].info.content.is_some());
    assert_eq!(proxy.origin.count("/live/v/seg-2.m4s"), 1);
}

/// Has the segments 1 to `last` come when told so.
fn gate(origin: &Origin, last: u64) -> Arc<watch::Sender<bool>> {
    let gate = Arc::new(watch::Sender::new(false));
    for number in 1..=last {
        let gate = gate.clone();
        origin.on(&format!("/live/v/seg-{number}.m4s"), move |_| {
            let mut open = gate.subscribe();
            async move {
                open.wait_for(|is_open| *is_open).await.unwrap();
                respond::<&str>(200, &[], segment(number, 40_000))
            }
        });
    }
    gate
}

#[tokio::test]
async fn hashing_before_release_adds_no_more_than_the_fetch() {
    // What ends the hold is the last segment, long before the bound.
    let patient = |config: &mut Config| config.records.record_hold_ms_max = 600_000;
    let proxy = Proxy::start_with(Origin::default(), patient).await;
    publish(&proxy.origin, 1, 3);
    let gate = gate(&proxy.origin, 3);
    let fetched = async {
        while (1..=3).any(|n| proxy.origin.count(&format!("/live/v/seg-{n}.m4s")) == 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            proxy.origin.count(INDEX) == 1,
            "segments are fetched for a playlist"
        );
        gate.send_replace(true);
    };
    let (text, ()) = tokio::join!(proxy.text(INDEX), fetched);
    let track = read(&text);
    let has_content = |listed: &Listed| listed.info.content.is_some();
    assert!(track.segments.iter().all(has_content), "{text}");
    assert_eq!(proxy.metric("shoal_proxy_hold_seconds_count").await, 1.0);
    assert_eq!(proxy.metric("shoal_proxy_tags_missing_total").await, 0.0);
}

#[tokio::test]
async fn an_origin_that_never_answers_does_not_keep_playlists() {
    // Fewer places than segments: the wait for a place counts, too.
    let narrow = |config: &mut Config| config.records.prefetch_concurrency = 1;
    let proxy = Proxy::start_with(Origin::default(), narrow).await;
    publish(&proxy.origin, 1, 6);
    let _shut = gate(&proxy.origin, 6);
    for round in 1..=3 {
        let text = proxy.text(INDEX).await;
        let (_, parsed) = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap();
        assert_eq!(parsed.segments.len(), 6);
        assert_eq!(text.matches("#EXT-X-SHOAL-SEG").count(), 0);
        let missing = proxy.metric("shoal_proxy_tags_missing_total").await;
        assert_eq!(missing, f64::from(6 * round));
    }
}

#[tokio::test]
async fn what_records_cost_is_counted() {
    let proxy = live(1, 2).await;
    let text = proxy.text(INDEX).await;
    let added = text.len() - playlist(1, 2).len();
    let answer = proxy.get("/live/v/seg-1.m4s").await;
    let line = "shoal-record: \r\n".len() + header(&answer, "shoal-record").len();
    let record_bytes = "shoal_proxy_stream_record_bytes_total{stream=\"main\"}";
    assert_eq!(proxy.metric(record_bytes).await, line as f64);
    assert_eq!(
        proxy.metric("shoal_proxy_tag_bytes_total").await,
        added as f64
    );
    assert_eq!(proxy.metric("shoal_proxy_records_signed_total").await, 2.0);
    assert!(
        proxy
            .metric("shoal_proxy_sign_cpu_microseconds_total")
            .await
            > 0.0
    );
}

#[tokio::test]
async fn a_broken_body_is_neither_kept_nor_signed() {
    let proxy = live(1, 1).await;
    proxy.origin.on("/live/v/seg-1.m4s", |_| async {
        let parts = [
            Ok(bytes::Bytes::from_static(b"half")),
            Err(std::io::Error::other("gone")),
        ];
        let body = axum::body::Body::from_stream(futures_util::stream::iter(parts));
        respond(200, &[("content-length", "8")], body)
    });
    let track = read(&proxy.text(INDEX).await);
    assert!(track.segments[0].info.content.is_none());
    let asked = proxy.origin.count("/live/v/seg-1.m4s");
    let broken = reqwest::get(proxy.url("/live/v/seg-1.m4s")).await;
    let body = match broken {
        Ok(answer) => answer.bytes().await.ok(),
        Err(_) => None,
    };
    assert!(
        body.is_none_or(|body| body != "half"),
        "a part was given for the whole"
    );
    // Asked for again; once more if the connection broke before the head.
    let again = proxy.origin.count("/live/v/seg-1.m4s") - asked;
    assert!((1..=2).contains(&again), "{again}");
    proxy.origin.put("/live/v/seg-1.m4s", &[], "complete");
    assert_eq!(proxy.text("/live/v/seg-1.m4s").await, "complete");
}

#[tokio::test]
async fn a_name_with_other_bytes_gets_a_higher_epoch() {
    let proxy = live(1, 2).await;
    let first = read(&proxy.text(INDEX).await).segments[0].info;
    // Numbers start again: the same name now stands for another number and other bytes.
    let text = playlist(1, 2).replace("MEDIA-SEQUENCE:1", "MEDIA-SEQUENCE:100");
    proxy
        .origin
        .put(INDEX, &[HLS, ("cache-control", "no-cache")], text);
    for number in 1..=2 {
        proxy.origin.put(
            &format!("/live/v/seg-{number}.m4s"),
            &[],
            segment(number + 50, 40_000),
        );
    }
    let second = read(&proxy.text(INDEX).await).segments[0].info;
    assert_eq!((first.name, second.seq), (second.name, 100));
    let (first, second) = (first.content.unwrap(), second.content.unwrap());
    assert!(second.epoch > first.epoch && second.id != first.id);
    let answer = proxy.get("/live/v/seg-1.m4s").await;
    let header = header(&answer, "shoal-record").to_owned();
    assert_eq!(answer.bytes().await.unwrap(), segment(51, 40_000));
    assert_eq!(
        verify(&proxy, &header, &segment(51, 40_000)).epoch,
        second.epoch
    );
}

#[tokio::test]
async fn a_restarted_proxy_gives_the_same_bytes_the_same_id() {
    let (secret, _) = origin_proxy::keygen().unwrap();
    let origin = Origin::default();
    publish(&origin, 1, 3);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let proxy = Proxy::start_with(origin.clone(), |config| {
            config.signing_key = Some(secret.clone());
        })
        .await;
        seen.push(read(&proxy.text(INDEX).await));
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].segments[2].info.content.is_some());
}

#[tokio::test]
async fn per_viewer_playlists_are_tagged_too_and_share_segments() {
    let proxy = live(1, 2).await;
    proxy.origin.on(INDEX, |request| async move {
        let viewer = request.uri().query().unwrap_or_default().to_owned();
        let text = playlist(1, 2).replace(".m4s", &format!(".m4s?token={viewer}"));
        respond(200, &[HLS, ("cache-control", "private")], text)
    });
    let a = proxy.text(&format!("{INDEX}?a")).await;
    let b = proxy.text(&format!("{INDEX}?b")).await;
    assert!(a.contains("?token=a") && b.contains("?token=b"));
    let ids = |text| {
        read(text)
            .segments
            .iter()
            .map(|s| s.info.content.unwrap().id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&a), ids(&b));
    assert_eq!(proxy.origin.count("/live/v/seg-1.m4s"), 1);
}

#[tokio::test]
async fn dash_segments_have_records_in_their_first_answer() {
    // However busy the machine is, the answer waits for its record.
    let patient = |config: &mut Config| config.records.segment_hold_ms_max = 10_000;
    let proxy = Proxy::start_with(Origin::default(), patient).await;
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let newest = now_s / 2 - 1;
    let mpd = "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\" \
        availabilityStartTime=\"1970-01-01T00:00:00Z\" timeShiftBufferDepth=\"PT6S\" \
        minimumUpdatePeriod=\"PT2S\"><Period start=\"PT0S\"><AdaptationSet mimeType=\"video/mp4\">\
        <SegmentTemplate timescale=\"1\" duration=\"2\" startNumber=\"0\" media=\"$RepresentationID$-$Number$.m4s\" \
        initialization=\"init.mp4\"/><Representation id=\"v\" bandwidth=\"1\"/></AdaptationSet></Period></MPD>";
    proxy.origin.put(
        "/live/m.mpd",
        &[("content-type", "application/dash+xml")],
        mpd,
    );
    for number in newest - 4..newest + 3 {
        proxy.origin.put(
            &format!("/live/v-{number}.m4s"),
            &[],
            segment(number, 20_000),
        );
    }
    let text = proxy.text("/live/m.mpd").await;
    let manifest = dash::read(&text, "https://a.example/live/m.mpd", 0).unwrap();
    assert!(manifest.stream.is_some());
    for number in [newest, newest + 1] {
        // The manifest does not change; the next segment is known by the clock.
        let available = UNIX_EPOCH + Duration::from_secs((number + 1) * 2);
        let wait = available
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        tokio::time::sleep(wait).await;
        let answer = proxy.get(&format!("/live/v-{number}.m4s")).await;
        let header = header(&answer, "shoal-record").to_owned();
        let record = verify(&proxy, &header, &answer.bytes().await.unwrap());
        assert_eq!((record.seq, record.duration_ms), (number, 2000));
    }
}

#[tokio::test]
async fn the_trust_anchor_can_be_asked_for() {
    let proxy = Proxy::start().await;
    let streams: serde_json::Value =
        serde_json::from_str(&proxy.text("/.shoal/streams").await).unwrap();
    assert_eq!(streams[0]["name"], "main");
    assert_eq!(streams[0]["public_key"], proxy.public_key.as_str());
    assert_eq!(streams[0]["stream"].as_str().unwrap().len(), 32);
    assert_eq!(proxy.text("/healthz").await, "ok\n");
}

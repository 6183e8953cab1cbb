//! DASH through the proxy: every way to address segments, and those that are sent while they are made.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use live_source::LiveSource;
use origin_proxy::Config;
use swarm_core::timeline::dash;
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    records::verify,
    support::{Origin, Proxy, header, respond, segment},
};

const MPD: &str = "/live/main.mpd";
const MPD_TYPE: (&str, &str) = ("content-type", "application/dash+xml");

/// However busy the machine is, answers wait for their records.
fn patient(config: &mut Config) {
    config.records.segment_hold_ms_max = 60_000;
}

async fn before_source(config: live_source::Config) -> Proxy {
    let source = LiveSource::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(source.run(listener, std::future::pending()));
    Proxy::before(Origin::default(), &url, patient).await
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

fn path_of(url: &str) -> &str {
    url.strip_prefix("https://any.example").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_every_kind_of_manifest_have_records() {
    let default = live_source::Config::default;
    let kinds = [
        (default(), &["$Number$", "duration="][..]),
        (
            live_source::Config {
                dash_timeline: true,
                ..default()
            },
            &["$Number$", "<SegmentTimeline"][..],
        ),
        (
            live_source::Config {
                dash_time: true,
                ..default()
            },
            &["$Time$", "<SegmentTimeline"][..],
        ),
        (
            live_source::Config {
                dash_period_segments: 3,
                ..default()
            },
            &["$Number$", "id=\"1\""][..],
        ),
    ];
    for (config, signs) in kinds {
        let has_periods = config.dash_period_segments > 0;
        let proxy = before_source(config).await;
        let text = proxy.text(MPD).await;
        for sign in signs.iter().filter(|_| !has_periods) {
            assert!(text.contains(sign), "{sign} in {text}");
        }
        assert_eq!(text.matches("<Period").count() > 1, has_periods, "{text}");
        let url = format!("https://any.example{MPD}");
        let manifest = dash::read(&text, &url, now_unix_ms()).unwrap();
        assert!(manifest.stream.is_some());
        let mut periods = Vec::new();
        for representation in &manifest.representations {
            // Of each period, its last two.
            for listed in representation.track.segments.iter().rev().take(2) {
                let answer = proxy.get(path_of(&listed.url)).await;
                assert_eq!(answer.status(), 200, "{}", listed.url);
                let record = header(&answer, "shoal-record").to_owned();
                let record = verify(&proxy, &record, &answer.bytes().await.unwrap());
                assert_eq!(
                    (record.name, record.seq),
                    (listed.info.name, listed.info.seq)
                );
                periods.push(representation.period);
            }
            for init in &representation.track.inits {
                let answer = proxy.get(path_of(&init.url)).await;
                assert_eq!(
                    (answer.status().as_u16(), header(&answer, "shoal-record")),
                    (200, "")
                );
            }
        }
        periods.dedup();
        assert_eq!(periods.len() > 1, has_periods, "{periods:?}");
    }
}

/// A manifest whose newest segment can be had while it is made.
fn growing_manifest() -> &'static str {
    "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"dynamic\" \
     availabilityStartTime=\"1970-01-01T00:00:00Z\" timeShiftBufferDepth=\"PT300S\" \
     minimumUpdatePeriod=\"PT500S\"><Period start=\"PT0S\"><AdaptationSet mimeType=\"video/mp4\">\
     <SegmentTemplate timescale=\"1\" duration=\"100\" startNumber=\"0\" media=\"v-$Number$.m4s\" \
     initialization=\"init.mp4\" availabilityTimeOffset=\"99.5\" availabilityTimeComplete=\"false\"/>\
     <Representation id=\"v\" bandwidth=\"1\"/></AdaptationSet></Period></MPD>"
}

#[tokio::test]
async fn chunks_of_a_growing_segment_go_through_one_by_one_and_the_record_follows() {
    let proxy = Proxy::start_with(Origin::default(), patient).await;
    proxy
        .origin
        .put("/live/m.mpd", &[MPD_TYPE], growing_manifest());
    // The segment that is being made when it is asked for.
    let number = now_unix_ms() / 100_000;
    let path = format!("/live/v-{number}.m4s");
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    proxy.origin.on(&path, move |_| {
        let receiver = receiver.lock().unwrap().take().expect("asked for once");
        let body = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        async move { respond::<&str>(200, &[], Body::from_stream(body)) }
    });
    proxy.text("/live/m.mpd").await;
    let chunks = [0_u64, 1, 2].map(|index| Bytes::from(segment(index, 9000)));
    // Each chunk leaves the origin only after the one before has reached the viewers.
    sender.send(Ok(chunks[0].clone())).await.unwrap();
    let mut viewers = [proxy.get(&path).await, proxy.get(&path).await];
    for (index, chunk) in chunks.iter().enumerate() {
        if index > 0 {
            sender.send(Ok(chunk.clone())).await.unwrap();
        }
        for viewer in &mut viewers {
            assert_eq!(header(viewer, "content-length"), "");
            let mut found = Vec::new();
            while found.len() < chunk.len() {
                found.extend_from_slice(&viewer.chunk().await.unwrap().unwrap());
            }
            assert_eq!(&found[..], &chunk[..], "chunk {index}");
        }
    }
    drop(sender);
    for mut viewer in viewers {
        assert_eq!(viewer.chunk().await.unwrap(), None);
    }
    let later = proxy.get(&path).await;
    let record = header(&later, "shoal-record").to_owned();
    let record = verify(&proxy, &record, &later.bytes().await.unwrap());
    assert_eq!((record.seq, record.len), (number, 27_000));
    assert_eq!(proxy.origin.count(&path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn low_latency_segments_of_a_live_source_are_whole_and_signed_in_the_end() {
    let proxy = before_source(live_source::Config {
        ll_dash: true,
        ..live_source::Config::default()
    })
    .await;
    let text = proxy.text(MPD).await;
    assert!(
        text.contains("availabilityTimeComplete=\"false\""),
        "{text}"
    );
    let url = format!("https://any.example{MPD}");
    let manifest = dash::read(&text, &url, now_unix_ms()).unwrap();
    for representation in &manifest.representations {
        let newest = representation.track.segments.last().unwrap();
        let path = path_of(&newest.url);
        let body = proxy.get(path).await.bytes().await.unwrap();
        let later = proxy.get(path).await;
        let record = header(&later, "shoal-record").to_owned();
        assert_eq!(later.bytes().await.unwrap(), body);
        assert_eq!(verify(&proxy, &record, &body).name, newest.info.name);
    }
}

#[tokio::test]
async fn protected_segments_are_signed_as_they_are_and_licences_are_not() {
    let proxy = Proxy::start_with(Origin::default(), |config| {
        patient(config);
        config.limits.body_bytes_max = 1000;
    })
    .await;
    let mpd = "<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" xmlns:cenc=\"urn:mpeg:cenc:2013\" \
        type=\"static\" mediaPresentationDuration=\"PT4S\"><Period><AdaptationSet mimeType=\"video/mp4\">\
        <ContentProtection schemeIdUri=\"urn:mpeg:dash:mp4protection:2011\" value=\"cenc\" \
        cenc:default_KID=\"01234567-89ab-cdef-0123-456789abcdef\"/>\
        <ContentProtection schemeIdUri=\"urn:uuid:edef8ba9-79d6-4ace-a3c8-27dcd51d21ed\">\
        <cenc:pssh>AAAA</cenc:pssh><dashif:Laurl xmlns:dashif=\"https://dashif.org/CPS\">licence</dashif:Laurl>\
        </ContentProtection><SegmentTemplate timescale=\"1\" duration=\"2\" startNumber=\"1\" \
        media=\"enc-$Number$.m4s\"/><Representation id=\"v\" bandwidth=\"1\"/></AdaptationSet></Period></MPD>";
    proxy.origin.put("/live/m.mpd", &[MPD_TYPE], mpd);
    proxy.origin.put("/live/licence", &[], "a key");
    for number in 1..=2 {
        let path = format!("/live/enc-{number}.m4s");
        proxy.origin.put(&path, &[], segment(number, 20_000));
    }
    let text = proxy.text("/live/m.mpd").await;
    let (before, after) = text.split_once("<SupplementalProperty").unwrap();
    let after = after.split_once("/>").unwrap().1;
    assert_eq!(format!("{before}{after}"), mpd);
    for number in 1..=2 {
        let answer = proxy.get(&format!("/live/enc-{number}.m4s")).await;
        let record = header(&answer, "shoal-record").to_owned();
        assert_eq!(
            verify(&proxy, &record, &segment(number, 20_000)).seq,
            number
        );
    }
    let licence = proxy.get("/live/licence").await;
    assert_eq!(header(&licence, "shoal-record"), "");
    let asked = reqwest::Client::new().post(proxy.url("/live/licence"));
    let licence = asked.body("a challenge").send().await.unwrap();
    assert_eq!(header(&licence, "shoal-record"), "");
    assert_eq!(licence.text().await.unwrap(), "a key");
}

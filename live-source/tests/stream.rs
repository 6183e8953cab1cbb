//! The looped clip over a real socket, read by independent parsers.

mod common;

use common::Running;
use http::{Method, StatusCode};
use live_source::Config;
use mp4_atom::{Any, Decode as _, Free, Mdat, Moof, Moov};

const TRACKS: [&str; 4] = ["360p", "240p", "144p", "audio"];

/// A stream whose list reaches over the end of the clip's second loop.
fn across_the_seam() -> Config {
    Config {
        already_run_ms: Some(56_500),
        window_segments: 20,
        ..Config::default()
    }
}

fn boxes(bytes: &[u8]) -> Vec<Any> {
    let mut rest = bytes;
    let mut out = Vec::new();
    while !rest.is_empty() {
        out.push(Any::decode(&mut rest).unwrap());
    }
    out
}

struct Segment {
    sequence: u32,
    start: u64,
    samples: u64,
    mdat: Vec<u8>,
}

fn parse_segment(bytes: &[u8]) -> Segment {
    let mut found: (Option<Moof>, Option<Mdat>) = (None, None);
    for any in boxes(bytes) {
        match any {
            Any::Moof(moof) => found.0 = Some(moof),
            Any::Mdat(mdat) => found.1 = Some(mdat),
            Any::Styp(_) | Any::Free(_) => {}
            other => panic!("unexpected box {}", other.kind()),
        }
    }
    let (moof, mdat) = (found.0.unwrap(), found.1.unwrap().data);
    let [traf] = &moof.traf[..] else {
        panic!("one track")
    };
    let [trun] = &traf.trun[..] else {
        panic!("one run")
    };
    let size: u64 = trun
        .samples
        .iter()
        .map(|s| u64::from(s.size.unwrap()))
        .sum();
    assert_eq!(size, mdat.len() as u64);
    let position = bytes.windows(4).position(|w| w == b"moof").unwrap() - 4;
    let data = position + trun.data_offset.unwrap() as usize;
    assert_eq!(bytes.get(data - 4..data).unwrap(), b"mdat");
    Segment {
        sequence: moof.mfhd.sequence_number,
        start: traf.tfdt.as_ref().unwrap().base_media_decode_time,
        samples: trun.samples.len() as u64,
        mdat,
    }
}

#[tokio::test]
async fn decode_times_run_on_across_loops_in_every_track() {
    for segment_ms in [2000, 4000, 10_000] {
        let (already_run_ms, window_segments) = (Some(400_500), 120_000 / segment_ms);
        let config = Config {
            already_run_ms,
            window_segments,
            segment_ms,
            ..Config::default()
        };
        let source = Running::start(config).await;
        for track in TRACKS {
            let timescale = if track == "audio" { 48_000 } else { 12_800 };
            let sample_ticks = if track == "audio" { 1024 } else { 512 };
            let playlist = source.playlist(&format!("/live/{track}/index.m3u8")).await;
            let mut expected: Option<u64> = None;
            let mut first = None;
            for (i, entry) in playlist.segments.iter().enumerate() {
                let segment =
                    parse_segment(&source.body(&format!("/live/{track}/{}", entry.uri)).await);
                let number = playlist.media_sequence + i as u64;
                assert_eq!(entry.uri, format!("seg-{number}.m4s"));
                assert_eq!(u64::from(segment.sequence), number);
                if let Some(expected) = expected {
                    assert_eq!(
                        segment.start, expected,
                        "{track} {number}: a gap or an overlap"
                    );
                }
                let planned = number * segment_ms * timescale / 1000;
                assert!(
                    segment.start.abs_diff(planned) <= sample_ticks / 2,
                    "{track}: drifted"
                );
                let ticks = segment.samples * sample_ticks;
                assert!((f64::from(entry.duration) - ticks as f64 / timescale as f64).abs() < 1e-5);
                expected = Some(segment.start + ticks);
                // The same place in another loop has the same media.
                let (mdat, at) = first.get_or_insert((segment.mdat.clone(), number));
                if ((number - *at) * segment_ms).is_multiple_of(24_000) {
                    assert_eq!(*mdat, segment.mdat);
                }
            }
        }
        source.stop().await.unwrap();
    }
}

#[tokio::test]
async fn playlists_are_continuous_and_true() {
    let source = Running::start(across_the_seam()).await;
    let master = source.body("/live/main.m3u8").await;
    let master = m3u8_rs::parse_master_playlist_res(&master).expect("a multivariant playlist");
    assert_eq!(master.variants.len(), 3);
    assert_eq!(
        master.alternatives[0].uri.as_deref(),
        Some("audio/index.m3u8")
    );
    assert!(master.independent_segments);
    let mut audio_peak = 0.0_f64;
    for track in ["audio", "360p", "240p", "144p"] {
        let playlist = source.playlist(&format!("/live/{track}/index.m3u8")).await;
        assert_eq!(playlist.segments.len(), 20);
        assert!(!playlist.end_list);
        let mut peak = 0.0_f64;
        for pair in playlist.segments.windows(2) {
            let dates =
                [&pair[0], &pair[1]].map(|s| s.program_date_time.unwrap().timestamp_millis());
            let length_ms = f64::from(pair[0].duration) * 1000.0;
            assert!(
                ((dates[1] - dates[0]) as f64 - length_ms).abs() <= 1.0,
                "{track}: {dates:?}"
            );
            assert!(pair[0].duration.round() as u64 <= playlist.target_duration);
            let len = source
                .body(&format!("/live/{track}/{}", pair[0].uri))
                .await
                .len();
            peak = peak.max(len as f64 * 8.0 / f64::from(pair[0].duration));
        }
        let init = source.body(&format!("/live/{track}/init.mp4")).await;
        assert!(
            boxes(&init)
                .iter()
                .any(|any| matches!(any, Any::Moov(Moov { .. })))
        );
        match master.variants.iter().find(|v| v.uri.starts_with(track)) {
            None => audio_peak = peak,
            Some(variant) => {
                let bandwidth = variant.bandwidth as f64;
                assert!(
                    bandwidth >= peak + audio_peak - 10.0,
                    "{track}: understated"
                );
                assert!(bandwidth < (peak + audio_peak) * 1.1, "{track}: overstated");
                assert!(variant.average_bandwidth.unwrap() <= variant.bandwidth);
                assert!(variant.codecs.as_ref().unwrap().starts_with("avc1.4d"));
                assert!(variant.codecs.as_ref().unwrap().ends_with(",mp4a.40.2"));
            }
        }
    }
    source.stop().await.unwrap();
}

#[tokio::test]
async fn the_dash_manifest_names_the_segments_that_hls_lists() {
    let config = Config {
        dash_timeline: true,
        ..across_the_seam()
    };
    let source = Running::start(config).await;
    // Read one after the other, the two may straddle a publication; the manifest may then be behind.
    let text = source.text("/live/main.mpd").await;
    let mpd = dash_mpd_core::parse(&text).expect("an MPD");
    assert_eq!(mpd.mpdtype.as_deref(), Some("dynamic"));
    assert!(
        mpd.UTCTiming
            .iter()
            .any(|timing| timing.value.as_deref() == Some("time"))
    );
    let time = source.text("/live/time").await;
    assert!(
        humantime::parse_rfc3339(&time)
            .unwrap()
            .elapsed()
            .unwrap()
            .as_secs()
            < 5
    );
    let mut seen = vec![];
    for set in &mpd.periods[0].adaptations {
        let template = set.SegmentTemplate.as_ref().unwrap();
        let timescale = template.timescale.unwrap();
        let first = template.startNumber.unwrap();
        for representation in &set.representations {
            let id = representation.id.as_deref().unwrap();
            seen.push(id.to_owned());
            assert!(representation.bandwidth.unwrap() > 0 && representation.codecs.is_some());
            let playlist = source.playlist(&format!("/live/{id}/index.m3u8")).await;
            let mut number = first;
            for s in &template.SegmentTimeline.as_ref().unwrap().segments {
                for repeat in 0..=s.r.unwrap_or(0) as u64 {
                    let path = template
                        .media
                        .as_ref()
                        .unwrap()
                        .replace("$RepresentationID$", id);
                    let path = path.replace("$Number$", &number.to_string());
                    let segment = parse_segment(&source.body(&format!("/live/{path}")).await);
                    assert_eq!(
                        segment.start,
                        s.t.unwrap() + repeat * s.d,
                        "{path} of {timescale}"
                    );
                    if let Some(i) = number.checked_sub(playlist.media_sequence) {
                        assert_eq!(format!("{id}/{}", playlist.segments[i as usize].uri), path);
                    }
                    number += 1;
                }
            }
            assert_eq!(number - first, 20);
        }
    }
    assert_eq!(seen, TRACKS);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn segments_named_by_their_time_are_those_of_that_time() {
    let config = Config {
        dash_time: true,
        ..across_the_seam()
    };
    let source = Running::start(config).await;
    let mpd = dash_mpd_core::parse(&source.text("/live/main.mpd").await).expect("an MPD");
    for set in &mpd.periods[0].adaptations {
        let template = set.SegmentTemplate.as_ref().unwrap();
        assert!(
            template
                .media
                .as_ref()
                .unwrap()
                .ends_with("/time-$Time$.m4s")
        );
        let id = set.representations[0].id.as_deref().unwrap();
        let last = template.SegmentTimeline.as_ref().unwrap().segments.last();
        let start = last.unwrap().t.unwrap();
        let path = |ticks| format!("/live/{id}/time-{ticks}.m4s");
        let segment = parse_segment(&source.body(&path(start)).await);
        assert_eq!(segment.start, start, "{id}");
        let between = source.get(&path(start + 1)).await;
        assert_eq!(between.status, StatusCode::NOT_FOUND);
    }
    source.stop().await.unwrap();
}

#[tokio::test]
async fn periods_follow_one_another_without_a_gap() {
    let config = Config {
        dash_period_segments: 4,
        window_segments: 10,
        dash_timeline: true,
        ..Config::default()
    };
    let source = Running::start(config).await;
    let mpd = dash_mpd_core::parse(&source.text("/live/main.mpd").await).expect("an MPD");
    assert!(
        (3..=4).contains(&mpd.periods.len()),
        "{}",
        mpd.periods.len()
    );
    let mut listed = 0;
    let mut next: Option<u64> = None;
    for period in &mpd.periods {
        let set = &period.adaptations[0];
        let template = set.SegmentTemplate.as_ref().unwrap();
        let timescale = template.timescale.unwrap();
        let offset = template.presentationTimeOffset.unwrap_or(0);
        let start_s = period.start.unwrap().as_secs();
        assert_eq!(
            offset,
            start_s * timescale,
            "media time is the time of the presentation"
        );
        let first = template.startNumber.unwrap();
        assert_eq!(next.unwrap_or(first), first);
        let timeline = &template.SegmentTimeline.as_ref().unwrap().segments;
        let count: u64 = timeline.iter().map(|s| s.r.unwrap_or(0) as u64 + 1).sum();
        next = Some(first + count);
        listed += count;
    }
    assert!(listed >= 10, "{listed}");
    source.stop().await.unwrap();
}

#[tokio::test]
async fn equal_starts_give_equal_bytes_and_padding_is_filler() {
    let config = Config {
        start_unix_ms: Some(1_000),
        padding_bytes: 5000,
        ..Config::default()
    };
    let (a, b) = (
        Running::start(config.clone()).await,
        Running::start(config).await,
    );
    let playlist = a.playlist("/live/240p/index.m3u8").await;
    for entry in &playlist.segments[1..] {
        let path = format!("/live/240p/{}", entry.uri);
        let bytes = a.body(&path).await;
        assert_eq!(bytes, b.body(&path).await);
        let filler: usize = boxes(&bytes)
            .iter()
            .map(|any| {
                if let Any::Free(Free { zeroed }) = any {
                    zeroed.size
                } else {
                    0
                }
            })
            .sum();
        assert_eq!(filler, 5008);
    }
    // 1970 to now: far beyond 32 bits of ticks.
    let uri = &playlist.segments[5].uri;
    let start = parse_segment(&a.body(&format!("/live/240p/{uri}")).await).start;
    assert!(start > u64::from(u32::MAX), "{start}");
    a.stop().await.unwrap();
    b.stop().await.unwrap();
}

#[tokio::test]
async fn ranges_and_conditions() {
    let source = Running::start(Config::default()).await;
    let whole = source.get("/live/360p/seg-5.m4s").await;
    assert_eq!(whole.status, StatusCode::OK);
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("cache-control"), "public, max-age=60");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("access-control-allow-origin"), "*");
    assert!(
        whole
            .header("access-control-expose-headers")
            .contains("Content-Range")
    );
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    let (len, etag) = (whole.body.len(), whole.header("etag").to_owned());

    let part = source
        .get_with("/live/360p/seg-5.m4s", &[("range", "bytes=100-299")])
        .await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.header("content-range"), format!("bytes 100-299/{len}"));
    assert_eq!(part.body, whole.body.slice(100..300));
    let other = [("range", "bytes=0-9"), ("if-range", "\"other\"")];
    assert_eq!(
        source.get_with("/live/360p/seg-5.m4s", &other).await.status,
        StatusCode::OK
    );
    let beyond = source
        .get_with("/live/360p/seg-5.m4s", &[("range", "bytes=99999999-")])
        .await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), format!("bytes */{len}"));
    let same = source
        .get_with("/live/360p/seg-5.m4s", &[("if-none-match", &etag)])
        .await;
    assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    let counts = source.stats.path("/live/360p/seg-5.m4s");
    assert_eq!((counts.requests, counts.bytes), (5, 2 * len as u64 + 200));
    source.stop().await.unwrap();
}

#[tokio::test]
async fn media_types_and_methods() {
    let source = Running::start(Config::default()).await;
    let len = source.get("/live/360p/seg-5.m4s").await.body.len();
    let playlist = source.get("/live/main.m3u8").await;
    assert_eq!(
        playlist.header("content-type"),
        "application/vnd.apple.mpegurl"
    );
    let playlist = source.get("/live/360p/index.m3u8").await;
    assert_eq!(playlist.header("cache-control"), "public, max-age=1");
    assert_eq!(
        source.get("/live/main.mpd").await.header("content-type"),
        "application/dash+xml"
    );
    assert_eq!(
        source
            .get("/live/audio/init.mp4")
            .await
            .header("content-type"),
        "audio/mp4"
    );

    let head = source
        .send(Method::HEAD, "/live/360p/seg-5.m4s", &[], "")
        .await;
    assert_eq!(head.headers()["content-length"], len.to_string().as_str());
    let preflight = source
        .send(Method::OPTIONS, "/live/360p/seg-5.m4s", &[], "")
        .await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    let post = source.send(Method::POST, "/live/main.m3u8", &[], "x").await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    for path in [
        "/",
        "/live/../x",
        "/live/9p/init.mp4",
        "/live/360p/seg-01.m4s",
        "/admin/stats",
    ] {
        assert_eq!(
            source.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let counts = source.stats.path("/live/360p/seg-5.m4s");
    assert_eq!((counts.requests, counts.bytes), (3, len as u64));
    assert_eq!(source.stats.path("/live/9p/init.mp4").requests, 0);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn segments_appear_when_complete_and_expire() {
    let config = Config {
        already_run_ms: Some(60_000),
        window_segments: 3,
        ..Config::default()
    };
    let source = Running::start(config).await;
    let early = source.get("/live/144p/seg-40.m4s").await;
    assert_eq!(early.status, StatusCode::NOT_FOUND);
    assert_eq!(early.header("cache-control"), "public, max-age=0");
    let expired = source.get("/live/144p/seg-3.m4s").await;
    assert_eq!(
        (expired.status, &expired.body[..]),
        (StatusCode::NOT_FOUND, &b"expired\n"[..])
    );
    assert_eq!(expired.header("cache-control"), "public, max-age=2");
    let next = source
        .playlist("/live/144p/index.m3u8")
        .await
        .media_sequence
        + 3;
    // The next one is held until it is there.
    source.body(&format!("/live/144p/seg-{next}.m4s")).await;
    source.stop().await.unwrap();

    let config = Config {
        hold_next: false,
        already_run_ms: Some(60_000),
        ..Config::default()
    };
    let source = Running::start(config).await;
    assert_eq!(
        source.get("/live/144p/seg-30.m4s").await.status,
        StatusCode::NOT_FOUND
    );
    source.stop().await.unwrap();
}

#[tokio::test]
async fn the_default_manifest_numbers_by_duration_from_its_start() {
    let source = Running::start(across_the_seam()).await;
    let mpd = dash_mpd_core::parse(&source.text("/live/main.mpd").await).expect("an MPD");
    let playlist = source.playlist("/live/360p/index.m3u8").await;
    let start = mpd.availabilityStartTime.unwrap();
    for set in &mpd.periods[0].adaptations {
        let template = set.SegmentTemplate.as_ref().unwrap();
        assert_eq!(template.startNumber, Some(0));
        assert_eq!(
            template.duration.unwrap() / template.timescale.unwrap() as f64,
            2.0
        );
    }
    let date = playlist.segments[0].program_date_time.unwrap();
    let expected_ms = playlist.media_sequence as i64 * 2000;
    assert_eq!(
        date.timestamp_millis() - start.timestamp_millis(),
        expected_ms
    );
    source.stop().await.unwrap();
}

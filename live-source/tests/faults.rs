//! Every fault switch, over a real socket.

mod common;

use std::time::{Duration, Instant};

use common::Running;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use live_source::{Config, Fault, FaultPlan, Rule, Target};

const VIDEO: &str = "/live/360p/seg-5.m4s";
const AUDIO: &str = "/live/audio/seg-5.m4s";

#[tokio::test]
async fn slow_hits_what_it_targets() {
    let source = Running::start(Config::default()).await;
    let whole = source.body(AUDIO).await;
    source
        .faults
        .hit(
            Target::Audio,
            Fault::Slow {
                bytes_per_s: 20_000,
            },
        )
        .unwrap();
    let started = Instant::now();
    let slow = source.get(AUDIO).await;
    let at_least = Duration::from_secs_f64(whole.len() as f64 / 20_000.0 * 0.9);
    assert!(
        started.elapsed() >= at_least,
        "{:?} < {at_least:?}",
        started.elapsed()
    );
    assert_eq!(slow.body, whole);
    let started = Instant::now();
    source.body(VIDEO).await;
    assert!(started.elapsed() < at_least);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_stall_lasts_until_the_faults_change() {
    let source = Running::start(Config::default()).await;
    let whole = source.body(VIDEO).await;
    source
        .faults
        .hit(Target::Video, Fault::Stall { after_bytes: 1000 })
        .unwrap();
    let mut body = source.send(Method::GET, VIDEO, &[], "").await.into_body();
    let mut got = 0;
    while got < 1000 {
        got += body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
    }
    assert_eq!(got, 1000);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), body.frame())
            .await
            .is_err()
    );
    source.faults.clear();
    assert_eq!(
        got + body.collect().await.unwrap().to_bytes().len(),
        whole.len()
    );

    source
        .faults
        .hit(Target::Video, Fault::Stall { after_bytes: 0 })
        .unwrap();
    let response = source.send(Method::GET, VIDEO, &[], "").await;
    assert_eq!(response.status(), StatusCode::OK);
    source
        .stop()
        .await
        .expect("a stalled viewer does not hold up the shutdown");
}

#[tokio::test]
async fn a_truncated_body_breaks_the_connection() {
    let source = Running::start(Config::default()).await;
    let len = source.body(VIDEO).await.len();
    source
        .faults
        .hit(
            Target::Segment,
            Fault::Truncate {
                after_bytes: 70_000,
            },
        )
        .unwrap();
    let before = source.stats.path(VIDEO).bytes;
    let response = source.send(Method::GET, VIDEO, &[], "").await;
    assert_eq!(
        response.headers()["content-length"],
        len.to_string().as_str()
    );
    assert!(response.into_body().collect().await.is_err());
    let sent = source.stats.path(VIDEO).bytes - before;
    assert!(sent <= 70_000 && sent < len as u64, "{sent}");
    source.stop().await.unwrap();
}

#[tokio::test]
async fn missing_and_failing_objects_come_in_bursts() {
    let source = Running::start(Config::default()).await;
    let rule = |fault, times| Rule {
        target: Target::Any,
        path_contains: Some("/360p/seg-".into()),
        skip: 0,
        times: Some(times),
        fault,
    };
    source.faults.add(rule(Fault::NotFound, 1)).unwrap();
    source
        .faults
        .add(rule(Fault::Status { code: 503 }, 2))
        .unwrap();
    let mut seen = vec![];
    for _ in 0..4 {
        let answer = source.get(VIDEO).await;
        seen.push((
            answer.status.as_u16(),
            answer.header("cache-control").to_owned(),
        ));
    }
    let expected = [
        (404, "public, max-age=0"),
        (503, "no-store"),
        (503, "no-store"),
        (200, "public, max-age=60"),
    ];
    assert_eq!(
        seen,
        expected.map(|(status, cache)| (status, cache.to_owned()))
    );
    assert_eq!(source.stats.path(VIDEO).errors, 3);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_sequence_reset_reuses_names_for_other_segments() {
    let config = Config {
        already_run_ms: Some(100_500),
        ..Config::default()
    };
    let source = Running::start(config).await;
    let before = source.playlist("/live/240p/index.m3u8").await;
    assert_eq!(before.media_sequence, 40);
    let old = source
        .body(&format!("/live/240p/{}", before.segments[9].uri))
        .await;
    source.faults.reset_sequence();
    let after = source.playlist("/live/240p/index.m3u8").await;
    assert_eq!(after.media_sequence, 0);
    // A publication in between shifts the list by one.
    let dates = |i: usize| before.segments[i].program_date_time.unwrap();
    let first = after.segments[0].program_date_time.unwrap();
    let shift = (0..2)
        .find(|i| (dates(*i) - first).num_milliseconds().abs() <= 1)
        .unwrap();
    let renamed = format!("/live/240p/{}", after.segments[9 - shift].uri);
    assert_eq!(
        source.body(&renamed).await,
        old,
        "media goes on under new names"
    );
    let gone = format!("/live/240p/{}", before.segments[9].uri);
    assert_eq!(source.get(&gone).await.status, StatusCode::NOT_FOUND);
    let mpd = source.text("/live/main.mpd").await;
    assert!(mpd.contains(r#"startNumber="0""#), "{mpd}");
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_generation_gives_old_names_other_bytes() {
    let source = Running::start(Config::default()).await;
    let (first, init) = (
        source.get(VIDEO).await,
        source.body("/live/360p/init.mp4").await,
    );
    source.faults.set_generation(7);
    let second = source.get(VIDEO).await;
    assert_ne!(first.body, second.body);
    assert_ne!(first.header("etag"), second.header("etag"));
    assert_eq!(first.body.len(), second.body.len());
    assert_eq!(source.body("/live/360p/init.mp4").await, init);
    source.faults.set_generation(0);
    assert_eq!(source.body(VIDEO).await, first.body);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn tokens_differ_per_viewer_and_guard_segments() {
    let faults = FaultPlan {
        tokens: true,
        ..FaultPlan::default()
    };
    let source = Running::start(Config {
        faults,
        ..Config::default()
    })
    .await;
    let first = source.playlist("/live/360p/index.m3u8").await;
    let second = source.playlist("/live/360p/index.m3u8").await;
    let (a, b) = (&first.segments[3].uri, &second.segments[3].uri);
    assert!(a.contains("?token=") && a != b, "{a} {b}");
    let (a, b) = (
        source.body(&format!("/live/360p/{a}")).await,
        source.body(&format!("/live/360p/{b}")).await,
    );
    assert!(!a.is_empty() && !b.is_empty());
    let map = first.segments[0].map.as_ref().unwrap().uri.clone();
    source.body(&format!("/live/360p/{map}")).await;
    assert!(
        source
            .text("/live/main.m3u8")
            .await
            .contains("index.m3u8?token=")
    );
    let mpd = source.text("/live/main.mpd").await;
    assert!(
        mpd.contains("seg-$Number$.m4s?token=") && mpd.contains("init.mp4?token="),
        "{mpd}"
    );
    for path in [
        VIDEO,
        "/live/360p/init.mp4",
        "/live/360p/seg-5.m4s?token=guess",
    ] {
        assert_eq!(
            source.get(path).await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    let answer = source.get("/live/360p/index.m3u8").await;
    assert_eq!(answer.header("cache-control"), "private, max-age=1");
    source.stop().await.unwrap();
}

#[tokio::test]
async fn frozen_playlists_stay_stale_until_thawed() {
    // 100 ms before a publication.
    let config = Config {
        already_run_ms: Some(41_900),
        ..Config::default()
    };
    let source = Running::start(config).await;
    source.faults.freeze_playlists(true);
    let (stale, mpd) = (
        source.text("/live/240p/index.m3u8").await,
        source.text("/live/main.mpd").await,
    );
    let next = "/live/240p/seg-21.m4s";
    tokio::time::timeout(Duration::from_secs(5), async {
        while source.get(next).await.status != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("segments go on");
    assert_eq!(source.text("/live/240p/index.m3u8").await, stale);
    assert_eq!(source.text("/live/main.mpd").await, mpd);
    source.faults.freeze_playlists(false);
    assert_ne!(source.text("/live/240p/index.m3u8").await, stale);
    source.stop().await.unwrap();
}

#[tokio::test]
async fn the_admin_face_sets_faults_and_shows_counts() {
    let source = Running::start(Config {
        admin: true,
        ..Config::default()
    })
    .await;
    let plan = r#"{"rules":[{"target":"video","fault":{"status":{"code":500}}}]}"#;
    let put = source.send(Method::PUT, "/admin/faults", &[], plan).await;
    assert_eq!(put.status(), StatusCode::OK);
    assert_eq!(
        source.get(VIDEO).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let long = " ".repeat(65 << 10);
    for bad in [
        "{",
        r#"{"nonsense":1}"#,
        r#"{"rules":[{"fault":{"status":{"code":1}}}]}"#,
        &long,
    ] {
        let put = source.send(Method::PUT, "/admin/faults", &[], bad).await;
        assert_eq!(put.status(), StatusCode::BAD_REQUEST, "{bad}");
    }
    assert_eq!(
        source.faults.plan().rules.len(),
        1,
        "a refused plan changes nothing"
    );
    let stats: serde_json::Value =
        serde_json::from_str(&source.text("/admin/stats").await).unwrap();
    assert_eq!(stats["paths"][VIDEO]["errors"], 1);
    let reset = source
        .send(Method::POST, "/admin/reset-sequence", &[], "")
        .await;
    assert_eq!(reset.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        source.get("/admin/nothing").await.status,
        StatusCode::NOT_FOUND
    );
    source.stop().await.unwrap();
}

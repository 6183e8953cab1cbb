//! The virtual player on a live stream.

use std::time::Duration;

use live_source::{Fault, Rule, Target};
use peer_agent::playback::{Level, PlayOptions, Report, play};
use sha2::{Digest, Sha256};

use crate::bench::{Source, agent, client};

/// Plays for so long.
async fn watch(source: &Source, options: PlayOptions, seconds: u64) -> Report {
    let agent = agent(source).await;
    let stop = tokio::time::sleep(Duration::from_secs(seconds));
    let report = play(&agent, options, stop).await.unwrap();
    agent.shutdown().await;
    report
}

#[tokio::test]
async fn plays_in_real_time_what_the_origin_has() {
    let source = Source::start().await;
    let report = watch(&source, PlayOptions::default(), 8).await;
    assert_eq!(
        (report.stalls, report.failed, report.invalid, report.jumps),
        (0, 0, 0, 0)
    );
    let startup_ms = report.startup_ms.unwrap();
    assert!(startup_ms < 2000, "{startup_ms}");
    assert!((5_500..=8_500).contains(&report.played_ms), "{report:?}");
    assert!((2_000..=8_000).contains(&report.latency_ms), "{report:?}");
    assert!(
        report
            .segments
            .iter()
            .any(|segment| segment.level.is_none()),
        "no sound"
    );
    assert!(
        report.switches > 0,
        "loopback is fast enough for a better rendition"
    );
    let http = client();
    for segment in &report.segments {
        let body = http
            .get(&segment.url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(&body)),
            segment.sha256,
            "{}",
            segment.url
        );
    }
}

#[tokio::test]
async fn counts_what_a_viewer_would_notice() {
    let source = Source::start().await;
    let rule = Rule {
        target: Target::Video,
        path_contains: None,
        skip: 2,
        times: Some(1),
        fault: Fault::Slow { bytes_per_s: 2_000 },
    };
    source.faults.add(rule).unwrap();
    let options = PlayOptions {
        level: Level::Fixed(0),
        ..PlayOptions::default()
    };
    let report = watch(&source, options, 14).await;
    assert!(report.startup_ms.is_some());
    assert!(report.stalls >= 1 && report.stalled_ms > 200, "{report:?}");
    assert_eq!(report.invalid, 0);
}

#[tokio::test]
async fn lives_through_errors_of_the_cdn() {
    let source = Source::start().await;
    for (target, fault) in [
        (Target::Video, Fault::Truncate { after_bytes: 1000 }),
        (Target::Segment, Fault::Status { code: 500 }),
        (Target::Playlist, Fault::Status { code: 503 }),
    ] {
        let rule = Rule {
            target,
            path_contains: None,
            skip: 2,
            times: Some(1),
            fault,
        };
        source.faults.add(rule).unwrap();
    }
    let report = watch(&source, PlayOptions::default(), 8).await;
    assert_eq!((report.failed, report.invalid), (0, 0), "{report:?}");
    assert!(report.played_ms > 4_000, "{report:?}");
}

#[tokio::test]
async fn says_why_it_cannot_begin() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let url = Some(source.url(live_source::DASH_PATH));
    let options = PlayOptions {
        url,
        ..PlayOptions::default()
    };
    let error = play(&agent, options, std::future::pending())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not HLS"), "{error}");
    agent.shutdown().await;
}

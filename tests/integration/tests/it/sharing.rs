//! Viewers share what they watch, and play nothing but the origin's bytes.

use std::time::Duration;

use integration::{Stack, StackOptions, Viewer, share_of_peers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_native_viewers_share_a_live_stream() {
    let stack = Stack::start(StackOptions::default()).await;
    let mut viewers = Vec::new();
    for _ in 0..5 {
        viewers.push(Viewer::start(stack.agent_config()).await);
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    for viewer in &viewers {
        let stats = viewer.stats();
        assert_eq!(
            stats.links, 4,
            "everybody is linked with everybody: {stats:?}"
        );
        assert!(stats.bytes_up > 0, "everybody gives: {stats:?}");
    }
    let streams = stack.tracker_api("/api/streams").await;
    assert!(streams.to_string().contains("viewers"), "{streams}");
    let mut reports = Vec::new();
    for viewer in viewers {
        reports.push(viewer.stop().await);
    }
    stack.check_bytes(&reports).await;
    for report in &reports {
        assert_eq!(report.stalls, 0, "{report:?}");
        assert_eq!(
            (report.failed, report.invalid, report.bad_pieces),
            (0, 0, 0)
        );
        assert!(
            report.played_ms > 35_000,
            "plays at full speed: {}",
            report.played_ms
        );
    }
    // Video and audio, so about two segments in two seconds: skip the first twelve.
    let share = share_of_peers(&reports, 24);
    assert!(
        share > 0.65,
        "five viewers can share 0.8 of their bytes, not {share}"
    );
    let level = |report: &peer_agent::playback::Report| {
        report
            .segments
            .iter()
            .filter_map(|segment| segment.level)
            .max()
    };
    let best = level(&reports[0]);
    assert!(
        reports.iter().all(|report| level(report) == best),
        "the same quality for all"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_is_asked_once_however_many_watch() {
    let stack = Stack::start(StackOptions::default()).await;
    let mut viewers = Vec::new();
    for _ in 0..4 {
        viewers.push(Viewer::start(stack.agent_config()).await);
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    for viewer in viewers {
        viewer.stop().await;
    }
    let paths = stack.origin_stats.paths();
    let segments: Vec<_> = paths
        .iter()
        .filter(|(path, _)| path.contains("/seg-"))
        .collect();
    assert!(segments.len() > 8, "{paths:?}");
    for (path, counts) in segments {
        assert_eq!(counts.requests - counts.errors, 1, "{path}");
    }
    stack.stop().await;
}

//! Players near the live edge that play segments while they arrive.

use std::time::Duration;

use integration::{Stack, StackOptions, Viewer, share_of_peers, wait_for};
use peer_agent::{
    Agent, Config,
    playback::{Level, PlayOptions, Report},
};

use crate::clients;

/// As the usual six seconds of latency are to segments of four: a whole segment is due a quarter of this
/// after its publication.
const SEGMENT_MS: u64 = 2000;
const LATENCY_MS: u64 = 3000;
const GRAIN_MS: u32 = 500;
const VIEWERS: usize = 6;
const PLAY: Duration = Duration::from_secs(40);
/// Video and audio of the first twelve seconds, in which viewers find each other.
const SEGMENTS_OF_START: usize = 12;

/// What ffmpeg plays.
const PLAYED_S: u64 = 16;

/// The playlist of one rendition as the origin has it.
async fn playlist(stack: &Stack) -> String {
    let url = stack.at_origin("/live/360p/index.m3u8");
    let (out, _) = clients::run("curl", &["--silent", "--fail", &url])
        .await
        .expect("the origin answers");
    String::from_utf8(out).expect("a playlist is text")
}

/// Six viewers at this latency, each with the same rendition.
async fn six_viewers(progressive_ms: u32) -> Vec<Report> {
    let stack = Stack::start(StackOptions {
        segment_ms: SEGMENT_MS,
        ..StackOptions::default()
    })
    .await;
    let first = playlist(&stack).await;
    wait_for("a new segment", async || playlist(&stack).await != first).await;
    // Who begins with the newest segment so long after its publication has the latency from then on.
    tokio::time::sleep(Duration::from_millis(LATENCY_MS - SEGMENT_MS)).await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let config = Config {
            progressive_ms,
            ..stack.agent_config()
        };
        let options = PlayOptions {
            level: Level::Fixed(1),
            hold_back_targets: 1,
            ..PlayOptions::default()
        };
        viewers.push(Viewer::start_with(config, options).await);
    }
    tokio::time::sleep(PLAY).await;
    let mut reports = Vec::new();
    for viewer in viewers {
        reports.push(viewer.stop().await);
    }
    stack.check_bytes(&reports).await;
    stack.stop().await;
    for report in &reports {
        println!(
            "stalls {} for {} ms, latency {} ms, startup {:?} ms, backstops {}, p2p {} cdn {}",
            report.stalls,
            report.stalled_ms,
            report.latency_ms,
            report.startup_ms,
            report.backstops,
            report.bytes_p2p,
            report.bytes_cdn
        );
    }
    reports
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_viewers_share_at_three_seconds_of_latency() {
    let reports = six_viewers(GRAIN_MS).await;
    for report in &reports {
        assert_eq!(report.stalls, 0, "{report:?}");
        let faults = (report.failed, report.invalid, report.bad_pieces);
        assert_eq!(faults, (0, 0, 0));
        assert!(report.latency_ms <= LATENCY_MS, "{}", report.latency_ms);
    }
    let share = share_of_peers(&reports, SEGMENTS_OF_START);
    let most = 1.0 - 1.0 / VIEWERS as f64;
    println!("share of peers {share:.3} of at most {most:.3}");
    assert!(share > most / 2.0, "{share} of at most {most}");
}

/// That one stream of what `ffmpeg -f framecrc` printed reaches the end without a gap. Of DASH, ffmpeg begins each
/// stream with the segment that is due when it opens that stream, so that one may begin a segment after another.
fn assert_whole(framecrc: &str, stream: &str, ticks_per_s: u64) {
    let begun_max = SEGMENT_MS * ticks_per_s / 1000;
    let mut next = None;
    for line in framecrc.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [of, _, at, lasts, ..] = fields[..] else {
            panic!("{line}");
        };
        if of != stream {
            continue;
        }
        let (at, lasts): (u64, u64) = (at.parse().expect(line), lasts.parse().expect(line));
        assert!(
            next.map_or(at <= begun_max, |next| at == next),
            "{next:?}: {line}"
        );
        next = Some(at + lasts);
    }
    assert!(
        next >= Some(PLAYED_S * ticks_per_s),
        "it ends at {next:?}: {framecrc}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_segments_while_they_arrive() {
    let stack = Stack::start(StackOptions::default()).await;
    let config = Config {
        progressive_ms: GRAIN_MS,
        ..stack.agent_config()
    };
    let neighbour = Viewer::start(config.clone()).await;
    wait_for("the neighbour plays", async || {
        neighbour.stats().segments > 4
    })
    .await;
    for stream in [stack.hls_url(), stack.dash_url()] {
        let config = Config {
            stream,
            ..config.clone()
        };
        let agent = Agent::start(config).await.expect("the agent starts");
        let url = agent.endpoint_url();
        let arguments = [
            "-v",
            "error",
            "-xerror",
            "-readrate",
            "1",
            "-i",
            &url,
            "-t",
            &PLAYED_S.to_string(),
            "-f",
            "framecrc",
            "-",
        ];
        let (out, complaints) = clients::run("ffmpeg", &arguments)
            .await
            .unwrap_or_else(|complaints| panic!("{url}: {complaints}"));
        assert!(complaints.trim().is_empty(), "{url}: {complaints}");
        let text = String::from_utf8_lossy(&out);
        // Pictures at 25 a second, and sound at 48 kHz.
        assert_whole(&text, "0", 25);
        assert_whole(&text, "1", 48_000);
        let stats = agent.stats();
        println!(
            "{url}: {} of peers, {} for peers, {} of the CDN",
            stats.bytes_p2p, stats.bytes_up, stats.bytes_cdn
        );
        // Of two, either may be the one that brings a segment.
        assert!(
            stats.bytes_p2p + stats.bytes_up > stats.bytes_cdn / 4,
            "the two do not share: {stats:?}"
        );
        agent.shutdown().await;
    }
    neighbour.stop().await;
    stack.stop().await;
}

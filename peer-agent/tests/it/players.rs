//! Players that people use, on the endpoint.

use std::process::Stdio;
use std::time::Duration;

use live_source::{DASH_PATH, HLS_PATH};
use tokio::process::Command;
use tokio::time::timeout;

use crate::bench::{Source, agent};

/// Runs a player to its end and gives what it wrote to standard error.
async fn run(program: &str, arguments: &[&str]) -> String {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    let output = timeout(Duration::from_secs(60), child.wait_with_output());
    let output = output
        .await
        .unwrap_or_else(|_| panic!("{program} did not end"))
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} failed: {text}");
    text
}

/// Decodes six seconds and gives how many frames that were.
async fn decode(url: &str) -> u64 {
    let arguments = [
        "-hide_banner",
        "-nostdin",
        "-loglevel",
        "error",
        "-xerror",
        "-stats",
        "-i",
        url,
        "-t",
        "6",
        "-map",
        "0:v:0",
        "-map",
        "0:a:0?",
        "-f",
        "null",
        "-",
    ];
    let text = run("ffmpeg", &arguments).await;
    let frames = text.rsplit("frame=").next().unwrap().trim_start();
    frames
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test]
async fn ffmpeg_plays_hls() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let frames = decode(&agent.endpoint_url()).await;
    assert!(frames >= 100, "{frames}");
    assert!(source.stats.path(HLS_PATH).requests > 0);
    let player = agent.stats();
    assert!(player.bytes_bypassed > 0, "{player:?}");
    agent.shutdown().await;
}

#[tokio::test]
async fn ffmpeg_plays_dash() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    let frames = decode(&agent.endpoint_url_of(&source.url(DASH_PATH)).unwrap()).await;
    assert!(frames >= 100, "{frames}");
    agent.shutdown().await;
}

#[tokio::test]
async fn mpv_plays_hls_and_dash() {
    let source = Source::start().await;
    let agent = agent(&source).await;
    for path in [HLS_PATH, DASH_PATH] {
        let url = agent.endpoint_url_of(path).unwrap();
        let text = run(
            "mpv",
            &["--vo=null", "--ao=null", "--length=3", "--no-config", &url],
        )
        .await;
        assert!(!text.contains("Failed"), "{text}");
    }
    agent.shutdown().await;
}

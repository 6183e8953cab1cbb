//! Real players, unchanged, behind the agent: ffmpeg, mpv and VLC, HLS and DASH.

use std::{process::Stdio, time::Duration};

use integration::{Stack, StackOptions, Viewer};
use peer_agent::Agent;
use tokio::process::Command;

/// The user without rights, by Debian's numbering.
const NOBODY: u32 = 65_534;

/// Runs a player to its end and returns what it printed.
async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if program == "cvlc" && is_root() {
        // VLC refuses to run as root.
        command.uid(NOBODY).env("HOME", std::env::temp_dir());
    }
    let child = command.output();
    let output = tokio::time::timeout(Duration::from_secs(60), child)
        .await
        .unwrap_or_else(|_| panic!("{program} does not end"))
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{program}: {text}");
    text
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("procfs")) == 0
}

/// Plays eight seconds with `player` while another viewer shares the stream.
async fn plays(program: &str, arguments: impl Fn(&str) -> Vec<String>, dash: bool) {
    let stack = Stack::start(StackOptions::default()).await;
    let neighbour = Viewer::start(stack.agent_config()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let stream = if dash {
        stack.dash_url()
    } else {
        stack.hls_url()
    };
    let config = peer_agent::Config {
        stream,
        ..stack.agent_config()
    };
    let agent = Agent::start(config).await.expect("the agent starts");
    let arguments = arguments(&agent.endpoint_url());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = run(program, &arguments).await;
    for complaint in [
        "Invalid data",
        "corrupt",
        "Failed to open",
        "error while decoding",
        "VLC is unable to open",
        "buffer deadlock prevented",
    ] {
        assert!(!printed.contains(complaint), "{program}: {printed}");
    }
    let stats = agent.stats();
    assert!(stats.bytes_cdn + stats.bytes_p2p > 100_000, "{stats:?}");
    assert_eq!(stats.bad_pieces, 0);
    agent.shutdown().await;
    neighbour.stop().await;
    stack.stop().await;
}

fn ffmpeg(url: &str) -> Vec<String> {
    [
        "-hide_banner",
        "-loglevel",
        "warning",
        "-re",
        "-i",
        url,
        "-t",
        "8",
        "-f",
        "null",
        "-",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn mpv(url: &str) -> Vec<String> {
    let mut arguments = ["--no-config", "--vo=null", "--ao=null", "--length=8"]
        .map(str::to_owned)
        .to_vec();
    arguments.push(url.to_owned());
    arguments
}

fn vlc(url: &str) -> Vec<String> {
    let mut arguments = [
        "--ignore-config",
        "--vout=dummy",
        "--aout=dummy",
        "--run-time=8",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend([url.to_owned(), "vlc://quit".to_owned()]);
    arguments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_hls() {
    plays("ffmpeg", ffmpeg, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_dash() {
    plays("ffmpeg", ffmpeg, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mpv_plays_hls() {
    plays("mpv", mpv, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mpv_plays_dash() {
    plays("mpv", mpv, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vlc_plays_hls() {
    plays("cvlc", vlc, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vlc_plays_dash() {
    plays("cvlc", vlc, true).await;
}

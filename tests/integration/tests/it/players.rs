//! Real players, unchanged, behind the agent: ffmpeg, mpv and VLC, HLS and DASH.

use std::{process::Stdio, time::Duration};

use integration::{Stack, StackOptions, Viewer};
use peer_agent::Agent;
use tokio::process::{Child, Command};

/// The user without rights, by Debian's numbering.
const NOBODY: u32 = 65_534;
const VLC: &str = "cvlc";
/// What eight seconds take at least: segments of two seconds, pictures and sound.
const SEGMENTS_MIN: u64 = 8;
/// What a player cannot have got from the first look at the playlist alone.
const SEGMENTS_PLAYED: u64 = 16;

/// Starts a player.
fn start(program: &str, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if program == VLC && is_root() {
        // VLC refuses to run as root.
        command.uid(NOBODY).env("HOME", std::env::temp_dir());
    }
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

/// Waits until a player has ended, or until it has been given enough if it plays for ever; returns
/// what it printed.
async fn finish(program: &str, mut child: Child, agent: &Agent) -> String {
    if program == VLC {
        while agent.stats().segments < SEGMENTS_PLAYED {
            let ended = child.try_wait().expect("the state of a child");
            assert!(ended.is_none(), "{program} gave up: {ended:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        child.start_kill().expect("a running child");
    }
    let output = child.wait_with_output().await.expect("the child's output");
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        program == VLC || output.status.success(),
        "{program}: {text}"
    );
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
    let child = start(program, &arguments(&agent.endpoint_url()));
    let printed = tokio::time::timeout(Duration::from_secs(60), finish(program, child, &agent))
        .await
        .unwrap_or_else(|_| panic!("{program} does not end: {:?}", agent.stats()));
    for complaint in [
        "Invalid data",
        "corrupt",
        "Failed to open",
        "error while decoding",
        "VLC is unable to open",
    ] {
        assert!(!printed.contains(complaint), "{program}: {printed}");
    }
    let stats = agent.stats();
    assert!(stats.segments >= SEGMENTS_MIN, "{stats:?}");
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
        "--intf=dummy",
        "--vout=dummy",
        "--aout=dummy",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(url.to_owned());
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
    plays(VLC, vlc, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vlc_plays_dash() {
    plays(VLC, vlc, true).await;
}

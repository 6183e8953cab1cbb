//! Programs that speak HTTP, unchanged, at the origin-proxy: curl, h2load and ffmpeg.

use std::{process::Stdio, time::Duration};

use integration::Edge;
use live_source::{Config, DASH_PATH, HLS_PATH};
use tokio::process::Command;

const CLIENT_TIME_MAX: Duration = Duration::from_secs(60);
const INIT: &str = "/live/360p/init.mp4";
const REQUESTS: usize = 400;

/// Runs a client, which must be installed, until it ends; what it printed, if it was content.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<(Vec<u8>, String), String> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(CLIENT_TIME_MAX, child)
        .await
        .unwrap_or_else(|_| panic!("{program} {arguments:?} does not end"))
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok((output.stdout, complaints))
    } else {
        Err(complaints)
    }
}

pub(crate) async fn curl(arguments: &[&str]) -> Vec<u8> {
    let base = ["--silent", "--show-error", "--fail", "--max-time", "20"];
    let arguments = [&base, arguments].concat();
    let (out, _) = run("curl", &arguments).await.expect("curl succeeds");
    out
}

/// The versions of HTTP that this curl speaks, as its arguments and as it names them afterwards.
async fn versions_of_curl() -> Vec<(&'static str, &'static str)> {
    let text = String::from_utf8(curl(&["--version"]).await).expect("curl prints text");
    let mut versions = vec![("--http1.1", "1.1")];
    for (feature, version) in [
        ("HTTP2", ("--http2", "2")),
        ("HTTP3", ("--http3-only", "3")),
    ] {
        if text.split_whitespace().any(|word| word == feature) {
            versions.push(version);
        } else {
            println!("this curl has no {feature}");
        }
    }
    versions
}

/// The newest segment that a media playlist lists.
async fn newest_segment(edge: &Edge, track: &str) -> String {
    newest_in(&edge.plain(&playlist_of(track)), track).await
}

pub(crate) fn playlist_of(track: &str) -> String {
    format!("/live/{track}/index.m3u8")
}

/// The newest segment of the media playlist at `url`.
pub(crate) async fn newest_in(url: &str, track: &str) -> String {
    let playlist = curl(&[url]).await;
    let text = String::from_utf8(playlist).expect("a playlist is text");
    let last = text
        .lines()
        .rfind(|line| !line.starts_with('#') && !line.is_empty());
    format!("/live/{track}/{}", last.expect("it lists segments"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_the_same_by_every_version() {
    let edge = Edge::start(Config::default()).await;
    let certificate = edge.certificate();
    let path = newest_segment(&edge, "360p").await;
    let expected = curl(&[&edge.at_origin(&path)]).await;
    for (argument, version) in versions_of_curl().await {
        let (url, save) = (edge.secure(&path), ["--output", "-"]);
        let known = ["--cacert", &certificate, argument];
        let whole = curl(&[&known[..], &save, &[&url]].concat()).await;
        assert!(whole == expected, "{version}: other bytes");
        let part = curl(&[&known[..], &save, &["--range", "100-299", &url]].concat()).await;
        assert!(part == expected[100..300], "{version}: other bytes");
        let format = "%{http_version} %{response_code} %header{shoal-record} %header{alt-svc}";
        let show = ["--output", "/dev/null", "--write-out", format];
        let head = curl(&[&known[..], &show, &["--range", "100-299", &url]].concat()).await;
        let head = String::from_utf8(head).expect("text");
        let words: Vec<&str> = head.split_whitespace().collect();
        assert_eq!(words[..2], [version, "206"], "{head}");
        assert!(
            words[2].len() > 100 && words[3].starts_with("h3="),
            "{head}"
        );
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_revalidates_resumes_and_begins_with_http2() {
    let edge = Edge::start(Config::default()).await;
    let url = edge.plain(INIT);
    let show = ["--output", "/dev/null", "--write-out"];
    let whole = curl(&[&url]).await;
    let etag = curl(&[&show[..], &["%header{etag}", &url]].concat()).await;
    let condition = format!(
        "If-None-Match: {}",
        String::from_utf8(etag).expect("an ETag is text")
    );
    let again = ["%{response_code}", "--header", &condition, &url];
    assert_eq!(curl(&[&show[..], &again].concat()).await, b"304");
    let resumed = curl(&["--continue-at", "10", &url]).await;
    assert!(resumed == whole[10..]);
    let prior = ["%{http_version}", "--http2-prior-knowledge", &url];
    assert_eq!(curl(&[&show[..], &prior].concat()).await, b"2");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_finds_no_failure() {
    let edge = Edge::start(Config::default()).await;
    let path = newest_segment(&edge, "144p").await;
    let count = REQUESTS.to_string();
    for (url, arguments) in [
        (edge.secure(&path), &["-c", "4", "-m", "20"][..]),
        (edge.plain(&path), &["-c", "4", "-m", "20"]),
        (edge.plain(&path), &["-c", "8", "--h1"]),
    ] {
        let arguments = [&["-n", &count], arguments, &[&url]].concat();
        let (out, _) = run("h2load", &arguments).await.expect("h2load succeeds");
        let text = String::from_utf8_lossy(&out);
        for said in [
            format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"),
            format!("status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx"),
        ] {
            assert!(text.contains(&said), "{url}: {text}");
        }
    }
    edge.stop().await;
}

/// ffmpeg decodes four seconds of pictures and sound, and complains of nothing.
async fn ffmpeg_plays(config: Config, paths: &[&str]) {
    let edge = Edge::start(config).await;
    for path in paths {
        let url = edge.plain(path);
        let base = ["-v", "error", "-xerror", "-i", &url, "-t", "4"];
        let (out, complaints) = run("ffmpeg", &[&base[..], &["-f", "framecrc", "-"]].concat())
            .await
            .unwrap_or_else(|complaints| panic!("{url}: {complaints}"));
        assert!(complaints.trim().is_empty(), "{url}: {complaints}");
        let text = String::from_utf8_lossy(&out);
        let frames = |stream: &str| text.lines().filter(|line| line.starts_with(stream)).count();
        // 25 pictures a second, and blocks of 1024 at 48 kHz.
        assert!(frames("0,") >= 100 && frames("1,") >= 187, "{url}: {text}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_hls_and_dash() {
    ffmpeg_plays(Config::default(), &[HLS_PATH, DASH_PATH]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_streams_of_low_latency() {
    let config = Config {
        ll_hls: true,
        ll_dash: true,
        ..Config::default()
    };
    ffmpeg_plays(config, &[HLS_PATH, DASH_PATH]).await;
}

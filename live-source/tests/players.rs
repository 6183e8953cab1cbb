//! ffmpeg plays what we publish, and feeds what we publish.

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::{Running, decode_both, small_ladder, tool};
use http::StatusCode;
use live_source::{Config, Error, Input, LiveSource};

/// Decodes 10 s of pictures and of sound, at once: nothing is complained of, time runs on, and the
/// seam is inside.
async fn play(url: &str) {
    tokio::join!(
        play_stream(url, "0:v:0", 25, 1),
        play_stream(url, "0:a:0", 48_000, 1024)
    );
}

async fn play_stream(url: &str, stream: &str, rate: i64, step: i64) {
    let frames = (10 * rate / step).to_string();
    let args = [
        "-hide_banner",
        "-v",
        "error",
        "-xerror",
        "-copyts",
        "-i",
        url,
        "-map",
        stream,
    ];
    let args = [&args[..], &["-frames", &frames, "-f", "framecrc", "-"]].concat();
    let (ok, out, err) = tool("ffmpeg", &args).await;
    assert!(ok && err.trim().is_empty(), "{url} {stream}: {err}");
    let times: Vec<i64> = out
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').nth(1).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(times.len().to_string(), frames, "{url} {stream}");
    for pair in times.windows(2) {
        assert_eq!(
            pair[1] - pair[0],
            step,
            "{url} {stream}: a jump at {}",
            pair[0]
        );
    }
    let (first, seam) = (times[0], 48 * rate);
    assert!(
        first < seam - rate && first + 9 * rate > seam,
        "{url} {stream}: starts at {first}"
    );
}

/// ffmpeg starts three segments from the edge, which is short of 48 s.
fn before_the_seam() -> Config {
    Config {
        already_run_ms: Some(51_000),
        window_segments: 5,
        ..Config::default()
    }
}

#[tokio::test]
async fn ffmpeg_decodes_hls_across_the_seam() {
    let source = Running::start(before_the_seam()).await;
    play(&source.url("/live/main.m3u8")).await;
    source.stop().await.unwrap();
}

#[tokio::test]
async fn ffmpeg_decodes_dash_across_the_seam() {
    let source = Running::start(before_the_seam()).await;
    play(&source.url("/live/main.mpd")).await;
    source.stop().await.unwrap();
}

#[tokio::test]
async fn ffprobe_reads_what_the_playlist_claims() {
    let source = Running::start(Config {
        segment_ms: 4000,
        ..Config::default()
    })
    .await;
    let entries = "stream=codec_name,width,height,avg_frame_rate,sample_rate";
    let url = source.url("/live/main.m3u8");
    let args = [
        "-v",
        "error",
        "-show_entries",
        entries,
        "-of",
        "csv=p=0",
        &url,
    ];
    let (ok, out, err) = tool("ffprobe", &args).await;
    assert!(ok && err.trim().is_empty(), "{err}");
    for claim in ["h264,640,360", "h264,426,240", "h264,256,144", "aac,48000"] {
        assert!(out.contains(claim), "{claim} is not in {out}");
    }
    source.stop().await.unwrap();
}

/// The playlist at `path` as soon as it lists two segments.
async fn wait_for_segments(source: &Running, path: &str) -> m3u8_rs::MediaPlaylist {
    tokio::time::timeout(Duration::from_secs(40), async {
        loop {
            let answer = source.once_published(path).await;
            let playlist = m3u8_rs::parse_media_playlist_res(&answer.body).unwrap();
            if playlist.segments.len() >= 2 {
                return playlist;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("two segments are made in time")
}

#[tokio::test]
async fn a_media_file_is_packaged_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a show.mp4");
    let make =
        "-v error -f lavfi -i testsrc2=s=320x180:r=25:d=3 -f lavfi -i sine=d=3 -pix_fmt yuv420p";
    let path = file.to_str().unwrap();
    let args: Vec<&str> = make.split(' ').chain([path]).collect();
    let (ok, _, err) = tool("ffmpeg", &args).await;
    assert!(ok, "{err}");
    let config = Config {
        input: Input::File(file),
        ladder: small_ladder(),
        ..Config::default()
    };
    let source = Running::start(config).await;
    let playlist = wait_for_segments(&source, "/live/media_0.m3u8").await;
    let segment = source
        .get(&format!("/live/{}", playlist.segments[0].uri))
        .await;
    assert_eq!(segment.header("content-type"), "video/mp4");
    assert_eq!(segment.status, StatusCode::OK);
    let master = m3u8_rs::parse_master_playlist_res(&source.body("/live/main.m3u8").await).unwrap();
    assert_eq!(master.variants.len(), 2);
    let mpd = dash_mpd_core::parse(&source.text("/live/main.mpd").await).unwrap();
    assert_eq!(mpd.mpdtype.as_deref(), Some("dynamic"));
    assert_eq!(mpd.periods[0].adaptations.len(), 2);
    decode_both(&source).await;
    for path in [
        "/live/..%2fx",
        "/live/main.m3u8.tmp",
        "/live/seg-0-1.m4s.tmp",
    ] {
        assert_eq!(
            source.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    source.stop().await.unwrap();
}

#[tokio::test]
async fn an_ffmpeg_input_without_sound_restarts_on_reset() {
    let input = "-re -f lavfi -i testsrc2=s=320x180:r=25"
        .split(' ')
        .map(str::to_owned)
        .collect();
    let config = Config {
        input: Input::Ffmpeg(input),
        ladder: small_ladder(),
        ..Config::default()
    };
    let source = Running::start(config).await;
    let first = wait_for_segments(&source, "/live/media_1.m3u8").await;
    assert_eq!(first.media_sequence, 1);
    source.faults.reset_sequence();
    source.once_gone("/live/media_1.m3u8").await;
    wait_for_segments(&source, "/live/media_1.m3u8").await;
    source.stop().await.unwrap();
}

async fn run_error(config: Config) -> Error {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let run = live_source::run(listener, config, std::future::pending());
    tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .expect("ends by itself")
        .unwrap_err()
}

#[tokio::test]
async fn ffmpeg_trouble_is_told_clearly() {
    let ffmpeg = |args: &str| Input::Ffmpeg(args.split(' ').map(str::to_owned).collect());
    let missing = Config {
        input: ffmpeg("-i x"),
        ffmpeg: PathBuf::from("no-such-ffmpeg"),
        ..Config::default()
    };
    let error = run_error(missing).await;
    assert!(matches!(error, Error::FfmpegStart { .. }), "{error}");
    assert!(error.to_string().contains("is ffmpeg installed"), "{error}");

    let error = run_error(Config {
        input: ffmpeg("-i no-such-file.mp4"),
        ..Config::default()
    })
    .await;
    assert!(error.to_string().contains("No such file"), "{error}");

    let ends = ffmpeg("-f lavfi -i testsrc2=s=64x64:d=1");
    let error = run_error(Config {
        input: ends,
        ladder: small_ladder(),
        ..Config::default()
    })
    .await;
    let Error::FfmpegExit { status, .. } = &error else {
        panic!("{error}")
    };
    assert!(status.success(), "{error}");

    let input = Input::File("no-such-file.mp4".into());
    let error = LiveSource::new(Config {
        input,
        ..Config::default()
    })
    .err()
    .unwrap();
    assert!(matches!(error, Error::Input { .. }), "{error}");
}

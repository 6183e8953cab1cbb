//! Clients that are programs, while the origin behind the proxy fails in every way that it can: curl, which says
//! whether all has come, and ffmpeg.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use integration::Edge;
use live_source::{Config, Fault, HLS_PATH, Rule, Target};

use crate::clients::{curl, newest_in, playlist_of, run};

/// The proxy waits so long for more of an answer.
const STALL_MS: u64 = 500;
const TRACK: &str = "360p";
/// Requests that a fault hits. The proxy itself tries a request twice where it can.
const HITS: u32 = 4;
/// So often a client may ask for one object, with a pause, as long as the origin fails and for the second for which
/// the proxy remembers that it did.
const ATTEMPTS: usize = 40;
const PAUSE: Duration = Duration::from_millis(100);

const FAULTS: [(&str, Fault); 5] = [
    (
        "slow",
        Fault::Slow {
            bytes_per_s: 200_000,
        },
    ),
    ("stalls", Fault::Stall { after_bytes: 1000 }),
    ("cuts short", Fault::Truncate { after_bytes: 1000 }),
    ("breaks connections", Fault::Truncate { after_bytes: 0 }),
    ("answers 503", Fault::Status { code: 503 }),
];

async fn edge() -> Edge {
    let change = |config: &mut origin_proxy::Config| {
        config.timeouts.stall_ms = STALL_MS;
        // ffmpeg 5.1 leaves out what it does not get, and plays what breaks off as far as it came.
        config.records.segment_hold_ms_max = 4 * STALL_MS;
    };
    Edge::start_with(Config::default(), change).await
}

fn hit(edge: &Edge, path_contains: Option<&str>, fault: &Fault) {
    let rule = Rule {
        target: Target::Segment,
        path_contains: path_contains.map(str::to_owned),
        skip: 0,
        times: Some(HITS),
        fault: fault.clone(),
    };
    edge.faults().add(rule).expect("the rule is sound");
}

/// Whether all that a fault was to hit was hit.
fn is_over(edge: &Edge) -> bool {
    let rules = edge.faults().plan().rules;
    rules.iter().all(|rule| rule.times == Some(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_has_the_whole_of_an_object_or_hears_that_it_has_not() {
    join_all(FAULTS.map(curl_gets_through)).await;
}

async fn curl_gets_through((what, fault): (&str, Fault)) {
    let edge = edge().await;
    let playlist = edge.at_origin(&playlist_of(TRACK));
    let path = newest_in(&playlist, TRACK).await;
    let expected = curl(&[&edge.at_origin(&path)]).await;
    hit(&edge, Some(&path), &fault);
    let certificate = edge.certificate();
    let versions = [
        (edge.plain(&path), "--http1.1"),
        (edge.secure(&path), "--http2"),
    ];
    let mut attempts = versions.iter().cycle().take(ATTEMPTS);
    loop {
        let (url, version) = attempts.next().expect("it gets through");
        let base = ["--silent", "--show-error", "--fail", "--max-time", "20"];
        let more = ["--output", "-", "--cacert", &certificate, version, url];
        match run("curl", &[&base[..], &more].concat()).await {
            Ok((bytes, _)) => {
                assert!(bytes == expected, "{what}, {version}: other bytes");
                break;
            }
            Err(error) => assert!(!error.contains("timed out"), "{what}, {version}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Nothing of what came before is left, for nobody.
    for (url, version) in &versions {
        let bytes = curl(&["--output", "-", "--cacert", &certificate, version, url]).await;
        assert!(bytes == expected, "{what}, {version}: other bytes");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_plays_the_origins_bytes() {
    join_all(FAULTS.map(ffmpeg_plays)).await;
}

/// What it does not get it leaves out, and plays on; what it plays is the origin's.
async fn ffmpeg_plays((what, fault): (&str, Fault)) {
    let edge = edge().await;
    hit(&edge, None, &fault);
    let played = packets(&edge.plain(HLS_PATH), "-3", PLAYED_S, what).await;
    assert!(is_over(&edge), "{what}: {:?}", edge.faults().plan());
    let known = packets(&edge.at_origin(HLS_PATH), "-6", KNOWN_S, what).await;
    // Pictures and sound.
    for stream in ["0", "1"] {
        let played = played.iter().filter(|(packet, _)| packet.0 == stream);
        let compared = played.filter_map(|(packet, sum)| Some((packet, sum, known.get(packet)?)));
        let count = compared
            .inspect(|(packet, sum, known)| assert_eq!(sum, known, "{what}: {packet:?}"))
            .count();
        // The window may have moved meanwhile.
        let packets_min = PLAYED_S * PICTURES_PER_S / 2;
        assert!(count >= packets_min, "{what}: {count} of stream {stream}");
    }
    edge.stop().await;
}

/// Seconds that ffmpeg plays while the origin fails, and afterwards from further back at the origin, in segments of two
/// seconds.
const PLAYED_S: usize = 4;
const KNOWN_S: usize = 10;
const PICTURES_PER_S: usize = 25;
/// Blocks of 1024 at 48 kHz.
const SOUNDS_PER_S: usize = 46;

/// The packets of so many seconds that ffmpeg reads from the segment `first` on, counted from the end: by stream and
/// time, what they are.
async fn packets(
    url: &str,
    first: &str,
    seconds: usize,
    what: &str,
) -> HashMap<(String, String), String> {
    let (pictures, sounds) = (seconds * PICTURES_PER_S, seconds * SOUNDS_PER_S);
    let (pictures, sounds) = (pictures.to_string(), sounds.to_string());
    let base = [
        "-v",
        "error",
        "-live_start_index",
        first,
        "-copyts",
        "-i",
        url,
    ];
    let copy = ["-map", "0:v:0", "-map", "0:a:0", "-c", "copy"];
    let ends = [
        "-frames:v",
        &pictures,
        "-frames:a",
        &sounds,
        "-f",
        "framecrc",
        "-",
    ];
    let arguments = [&base[..], &copy, &ends].concat();
    let (out, _) = run("ffmpeg", &arguments)
        .await
        .unwrap_or_else(|complaints| panic!("{what}, {url}: {complaints}"));
    let text = String::from_utf8_lossy(&out);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let packet = |line: &str| {
        let mut words = line.split(',').map(|word| word.trim().to_owned());
        let (stream, time) = (words.next()?, words.next()?);
        Some(((stream, time), words.collect::<Vec<_>>().join(",")))
    };
    lines.filter_map(packet).collect()
}

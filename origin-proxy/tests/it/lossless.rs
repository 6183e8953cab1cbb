//! All that is not ours goes through byte for byte: over a corpus with every tag, and texts made of it.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::{
    prelude::*,
    test_runner::{Config as RunnerConfig, TestRunner},
};
use swarm_core::timeline::tags::DASH_SCHEME;

use crate::support::{HLS, Origin, Proxy, respond};

const MPD: (&str, &str) = ("content-type", "application/dash+xml");

/// The tags of draft-pantos-hls-rfc8216bis, without `#`.
const TAGS: [&str; 33] = [
    "EXTM3U",
    "EXT-X-VERSION",
    "EXT-X-INDEPENDENT-SEGMENTS",
    "EXT-X-START",
    "EXT-X-DEFINE",
    "EXT-X-TARGETDURATION",
    "EXT-X-MEDIA-SEQUENCE",
    "EXT-X-DISCONTINUITY-SEQUENCE",
    "EXT-X-ENDLIST",
    "EXT-X-PLAYLIST-TYPE",
    "EXT-X-I-FRAMES-ONLY",
    "EXT-X-PART-INF",
    "EXT-X-SERVER-CONTROL",
    "EXTINF",
    "EXT-X-BYTERANGE",
    "EXT-X-DISCONTINUITY",
    "EXT-X-KEY",
    "EXT-X-MAP",
    "EXT-X-PROGRAM-DATE-TIME",
    "EXT-X-GAP",
    "EXT-X-BITRATE",
    "EXT-X-PART",
    "EXT-X-DATERANGE",
    "EXT-X-SKIP",
    "EXT-X-PRELOAD-HINT",
    "EXT-X-RENDITION-REPORT",
    "EXT-X-MEDIA",
    "EXT-X-STREAM-INF",
    "EXT-X-I-FRAME-STREAM-INF",
    "EXT-X-SESSION-DATA",
    "EXT-X-SESSION-KEY",
    "EXT-X-CONTENT-STEERING",
    "EXT-X-ALLOW-CACHE",
];

/// Names and texts of all files of the corpus that end in `suffix`.
fn corpus(suffix: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == suffix)
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A proxy before an origin that has every segment.
async fn start() -> Proxy {
    let origin = Origin::default();
    origin.on("*", |_| async {
        respond(200, &[("cache-control", "max-age=60")], vec![7; 1000])
    });
    Proxy::start_with(origin, |_| {}).await
}

/// `text` as the proxy gives it to viewers.
async fn through(proxy: &Proxy, path: &str, kind: (&str, &str), text: &str) -> String {
    let headers = [kind, ("cache-control", "no-cache")];
    proxy.origin.put(path, &headers, text);
    proxy.text(path).await
}

fn without_tags(text: &str) -> String {
    let is_ours = |line: &&str| line.starts_with("#EXT-X-SHOAL");
    text.split_inclusive('\n')
        .filter(|line| !is_ours(line))
        .collect()
}

/// The same without what the proxy promises in the place of an origin that cannot: one line, or what comes
/// after that origin's own words in the first one of its kind.
fn without_promise(given: &str, text: &str) -> String {
    let given = without_tags(given);
    let tag = "#EXT-X-SERVER-CONTROL:";
    let promise = "CAN-BLOCK-RELOAD=YES";
    let first = |text: &str| {
        text.lines()
            .find(|line| line.starts_with(tag))
            .map(String::from)
    };
    match (first(text), first(&given)) {
        (None, Some(added)) => {
            let at = given.find(&added).unwrap();
            let rest = given[at + added.len()..].trim_start_matches(['\r', '\n']);
            assert!(
                added.contains(promise) && rest.starts_with("#EXT-X-PART-INF:"),
                "{given}"
            );
            format!("{}{rest}", &given[..at])
        }
        (Some(own), Some(longer)) if own != longer => {
            assert!(longer.starts_with(&format!("{own},{promise}")), "{longer}");
            given.replacen(&longer, &own, 1)
        }
        _ => given,
    }
}

fn without_property(text: &str) -> String {
    let Some(scheme) = text.find(DASH_SCHEME) else {
        return text.into();
    };
    let first = text[..scheme].rfind('<').unwrap();
    let end = first + text[first..].find('>').unwrap() + 1;
    format!("{}{}", &text[..first], &text[end..])
}

#[test]
fn the_corpus_has_every_tag() {
    let files = corpus("m3u8");
    let lines = files.iter().flat_map(|(_, text)| text.lines());
    let tags: BTreeSet<&str> = lines
        .filter_map(|line| line.trim_start_matches('\u{feff}').strip_prefix('#'))
        .map(|line| line.split(':').next().unwrap_or_default().trim_end())
        .collect();
    for tag in TAGS {
        assert!(tags.contains(tag), "{tag}");
    }
}

#[tokio::test]
async fn playlists_of_every_kind_go_through_byte_for_byte() {
    let proxy = start().await;
    for (name, text) in corpus("m3u8") {
        let path = format!("/live/v/{name}");
        // Ended playlists are not fetched ahead of viewers.
        through(&proxy, &path, HLS, &text).await;
        for path in [
            "/live/v/seg-0.m4s",
            "/live/v/all.mp4",
            "/live/v/part-42.0.m4s",
        ] {
            proxy.get(path).await.bytes().await.unwrap();
        }
        let tagged = through(&proxy, &path, HLS, &text).await;
        assert_eq!(without_tags(&tagged), text, "{name}");
        let is_tagged = !["multivariant.m3u8", "i-frames.m3u8"].contains(&name.as_str());
        assert_eq!(tagged.contains("#EXT-X-SHOAL:"), is_tagged, "{name}");
        assert_eq!(tagged.contains("#EXT-X-SHOAL-SEG:"), is_tagged, "{name}");
        assert_eq!(
            tagged.contains("#EXT-X-SHOAL-PART:"),
            name == "low-latency.m3u8",
            "{name}"
        );
    }
}

#[tokio::test]
async fn manifests_of_every_kind_go_through_byte_for_byte() {
    let proxy = start().await;
    let mut untagged = Vec::new();
    for (name, text) in corpus("mpd") {
        let tagged = through(&proxy, &format!("/live/{name}"), MPD, &text).await;
        assert_eq!(without_property(&tagged), text, "{name}");
        if !tagged.contains(DASH_SCHEME) {
            untagged.push(name);
        }
    }
    assert_eq!(untagged, [""; 0]);
}

/// Texts made of lines of the corpus: some kept, some gone, some twice, with other line ends.
fn mixed(suffix: &'static str) -> impl Strategy<Value = String> {
    let all: Vec<String> = corpus(suffix)
        .iter()
        .flat_map(|(_, text)| {
            text.split_inclusive('\n')
                .map(String::from)
                .collect::<Vec<_>>()
        })
        .collect();
    let whole = prop::sample::select(corpus(suffix)).prop_map(|(_, text)| text);
    let edit = (
        0..3_u8,
        any::<prop::sample::Index>(),
        prop::sample::select(all),
    );
    (whole, prop::collection::vec(edit, 0..12), any::<bool>()).prop_map(
        |(whole, edits, has_returns)| {
            let mut lines: Vec<String> = whole.split_inclusive('\n').map(String::from).collect();
            for (what, place, line) in edits {
                let at = place.index(lines.len().max(1)).min(lines.len());
                match what {
                    0 => lines.insert(at, line),
                    1 if at < lines.len() => drop(lines.remove(at)),
                    _ => lines.truncate(lines.len().max(at)),
                }
            }
            let text = lines.concat();
            if has_returns {
                text.replace('\n', "\r\n")
            } else {
                text
            }
        },
    )
}

/// Runs `check` over texts of `texts`, each through one and the same proxy.
fn hold(
    texts: impl Strategy<Value = String>,
    kind: (&'static str, &'static str),
    suffix: &str,
    bare: fn(&str, &str) -> String,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let proxy = runtime.block_on(start());
    let count = AtomicUsize::new(0);
    let config = RunnerConfig {
        cases: 200,
        failure_persistence: None,
        ..RunnerConfig::default()
    };
    TestRunner::new(config)
        .run(&texts, |text| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let path = format!("/live/m/{number}.{suffix}");
            let given = runtime.block_on(through(&proxy, &path, kind, &text));
            prop_assert_eq!(bare(&given, &text), text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn mixed_playlists_go_through_byte_for_byte() {
    hold(mixed("m3u8"), HLS, "m3u8", without_promise);
}

#[test]
fn mixed_manifests_go_through_byte_for_byte() {
    hold(mixed("mpd"), MPD, "mpd", |given, _| without_property(given));
}

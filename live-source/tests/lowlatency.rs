//! Low-latency HLS and DASH over a real socket: what is listed, what waits, and what comes in pieces.

mod common;

use common::{Running, decode_both, small_ladder, tool};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use live_source::{Config, Input};
use quick_m3u8::config::ParsingOptions;
use quick_m3u8::tag::{KnownTag, hls::Tag};
use quick_m3u8::{HlsLine, Reader};

const TRACKS: [&str; 4] = ["360p", "240p", "144p", "audio"];

fn low_latency() -> Config {
    Config {
        ll_hls: true,
        ll_dash: true,
        ..Config::default()
    }
}

/// What an independent reader makes of a low-latency playlist.
#[derive(Debug, Default)]
struct Playlist {
    sequence: u64,
    skipped: u64,
    target_s: u64,
    part_target_s: f64,
    hold_back_s: f64,
    skip_until_s: f64,
    blocks: bool,
    maps: usize,
    dates: usize,
    segments: Vec<(f64, String)>,
    /// URI, duration, and whether it is independent; in order.
    parts: Vec<(String, f64, bool)>,
    /// How many of the parts belong to whole segments.
    closed_parts: usize,
    hint: String,
    /// URI, last segment, last part.
    reports: Vec<(String, u64, u64)>,
}

fn read(text: &str) -> Playlist {
    let mut reader = Reader::from_str(text, ParsingOptions::default());
    let mut out = Playlist::default();
    let mut duration_s = 0.0;
    while let Some(line) = reader.read_line().expect("readable") {
        match line {
            HlsLine::KnownTag(KnownTag::Hls(tag)) => match tag {
                Tag::MediaSequence(tag) => out.sequence = tag.media_sequence(),
                Tag::Skip(tag) => out.skipped = tag.skipped_segments(),
                Tag::Targetduration(tag) => out.target_s = tag.target_duration(),
                Tag::PartInf(tag) => out.part_target_s = tag.part_target(),
                Tag::ServerControl(tag) => {
                    out.blocks = tag.can_block_reload();
                    out.hold_back_s = tag.part_hold_back().unwrap();
                    out.skip_until_s = tag.can_skip_until().unwrap();
                }
                Tag::Map(_) => out.maps += 1,
                Tag::ProgramDateTime(_) => out.dates += 1,
                Tag::Part(tag) => {
                    let part = (tag.uri().to_owned(), tag.duration(), tag.independent());
                    out.parts.push(part);
                }
                Tag::PreloadHint(tag) => out.hint = tag.uri().to_owned(),
                Tag::RenditionReport(tag) => {
                    let uri = tag.uri().to_owned();
                    out.reports
                        .push((uri, tag.last_msn(), tag.last_part().unwrap()));
                }
                Tag::Inf(tag) => duration_s = tag.duration(),
                _ => {}
            },
            HlsLine::Uri(uri) => {
                out.segments.push((duration_s, uri.to_string()));
                out.closed_parts = out.parts.len();
            }
            HlsLine::UnknownTag(tag) => panic!("{tag:?}"),
            _ => {}
        }
    }
    out
}

impl Playlist {
    /// The number of the segment that is being made.
    fn next(&self) -> u64 {
        self.sequence + self.skipped + self.segments.len() as u64
    }

    fn open_parts(&self) -> u64 {
        (self.parts.len() - self.closed_parts) as u64
    }
}

fn index(track: &str) -> String {
    format!("/live/{track}/index.m3u8")
}

async fn playlist(source: &Running, track: &str, query: &str) -> Playlist {
    let answer = source.get(&format!("{}{query}", index(track))).await;
    assert_eq!(answer.status, StatusCode::OK, "{track} {query}");
    read(std::str::from_utf8(&answer.body).unwrap())
}

#[tokio::test]
async fn parts_make_up_their_segments_byte_by_byte() {
    for part_ms in [200, 500, 1000] {
        let config = Config {
            part_ms,
            padding_bytes: 5000,
            ..low_latency()
        };
        let source = Running::start(config).await;
        for track in TRACKS {
            let list = playlist(&source, track, "").await;
            let parts_per_segment = 2000 / part_ms;
            assert!(list.blocks && list.maps == 1 && list.target_s == 2);
            assert!(list.hold_back_s >= 3.0 * list.part_target_s - 1e-4);
            assert!(list.skip_until_s >= 6.0 * list.target_s as f64);
            assert!(list.parts.len() as u64 >= 3 * parts_per_segment, "{track}");
            for (uri, duration_s, is_independent) in &list.parts {
                assert!(*duration_s <= list.part_target_s + 1e-5, "{track} {uri}");
                assert!(
                    *duration_s >= 0.85 * list.part_target_s,
                    "{track} {uri}: {duration_s}"
                );
                assert_eq!(
                    *is_independent,
                    track == "audio" || uri.ends_with(".0.m4s"),
                    "{uri}"
                );
            }
            let (duration_s, segment) = list.segments.last().unwrap();
            let last = list.next() - 1;
            assert_eq!(*segment, format!("seg-{last}.m4s"));
            let of_last = list
                .parts
                .iter()
                .filter(|(uri, ..)| uri.starts_with(&format!("part-{last}.")));
            let (mut joined, mut sum_s) = (Vec::new(), 0.0);
            for (uri, duration_s, _) in of_last {
                joined.extend(source.body(&format!("/live/{track}/{uri}")).await);
                sum_s += duration_s;
            }
            assert!(
                (sum_s - duration_s).abs() < 1e-3,
                "{track}: {sum_s} {duration_s}"
            );
            let whole = source.body(&format!("/live/{track}/{segment}")).await;
            assert!(joined == whole, "{track}: parts are not their segment");
        }
        source.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_blocking_reload_waits_for_its_part_and_the_hint_is_that_part() {
    let source = Running::start(low_latency()).await;
    let now = playlist(&source, "360p", "").await;
    let (segment, part) = (now.next(), now.open_parts());
    assert_eq!(now.hint, format!("part-{segment}.{part}.m4s"));
    let (path, query) = (
        format!("/live/360p/{}", now.hint),
        format!("?_HLS_msn={segment}&_HLS_part={part}"),
    );
    let (hinted, later) = tokio::join!(source.get(&path), playlist(&source, "360p", &query));
    assert_eq!(
        hinted.status,
        StatusCode::OK,
        "the hinted part blocks, and comes"
    );
    assert_eq!(hinted.header("content-type"), "video/mp4");
    let has = |list: &Playlist| list.parts.iter().any(|(uri, ..)| *uri == now.hint);
    assert!(!has(&now) && has(&later));
    // All renditions are as far as the reports say.
    assert_eq!(later.reports.len(), 3);
    for (uri, last_segment, last_part) in &later.reports {
        let track = uri
            .strip_prefix("../")
            .unwrap()
            .strip_suffix("/index.m3u8")
            .unwrap();
        let part = source
            .get(&format!(
                "/live/{track}/part-{last_segment}.{last_part}.m4s"
            ))
            .await;
        assert_eq!(part.status, StatusCode::OK);
        assert!((*last_segment, *last_part) >= (segment, part_before(part_of(&now))));
    }
    // A whole segment, and a part past the end of its segment.
    let whole = playlist(&source, "audio", &format!("?_HLS_msn={}", later.next())).await;
    assert!(whole.next() > later.next());
    let past = playlist(
        &source,
        "audio",
        &format!("?_HLS_msn={}&_HLS_part=9", whole.next() - 1),
    )
    .await;
    assert!(past.next() > whole.next() - 1 && past.open_parts() > 0 || past.next() > whole.next());
    source.stop().await.unwrap();
}

fn part_of(list: &Playlist) -> u64 {
    list.open_parts()
}

fn part_before(part: u64) -> u64 {
    part.saturating_sub(1)
}

#[tokio::test]
async fn what_cannot_come_soon_is_refused_at_once() {
    let source = Running::start(low_latency()).await;
    let now = playlist(&source, "240p", "").await;
    let far = now.next() + 5;
    for query in [
        "?_HLS_part=1".to_owned(),
        "?_HLS_msn=x".to_owned(),
        format!("?_HLS_msn={far}"),
        format!("?_HLS_msn={}&_HLS_part=40", now.next()),
    ] {
        let answer = source.get(&format!("{}{query}", index("240p"))).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
    let part = |number, part| format!("/live/240p/part-{number}.{part}.m4s");
    for path in [
        part(far, 0),
        part(now.next() + 1, 3),
        part(now.next() - 2, 4),
    ] {
        assert_eq!(
            source.get(&path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    source.stop().await.unwrap();
}

#[tokio::test]
async fn a_delta_and_what_came_before_make_up_the_whole() {
    let source = Running::start(low_latency()).await;
    let full = source.text(&index("144p")).await;
    let delta = source
        .text(&format!("{}?_HLS_skip=YES", index("144p")))
        .await;
    let (whole, news) = (read(&full), read(&delta));
    assert!(news.skipped > 0, "{delta}");
    let merged = merge(&full, &delta, news.skipped as usize);
    let again = source.text(&index("144p")).await;
    // They may straddle the publication of a part.
    assert!(merged == full || merged == again, "{merged}");
    assert_eq!(
        news.sequence + news.skipped + news.segments.len() as u64,
        news.next()
    );
    assert!(news.segments.len() < whole.segments.len());
    let answer = source.get(&format!("{}?_HLS_msn=0", index("144p"))).await;
    assert_eq!(answer.header("cache-control"), "public, max-age=12");
    source.stop().await.unwrap();
}

/// `delta` with the segments that it skips taken from `full`.
fn merge(full: &str, delta: &str, skipped: usize) -> String {
    let (head, news) = delta.split_once("#EXT-X-SKIP:").unwrap();
    let news = news.split_once('\n').unwrap().1;
    let (map, news) = news.split_once('\n').unwrap();
    let (_, old) = full.split_once(map).unwrap();
    let lines = old.trim_start().split_inclusive('\n');
    let mut segments = 0;
    let old = lines.take_while(|line| {
        let is_old = segments < skipped;
        segments += usize::from(!line.starts_with('#'));
        is_old
    });
    format!("{head}{map}\n{}{news}", old.collect::<String>())
}

#[tokio::test]
async fn old_readers_play_it_as_ordinary_hls() {
    let source = Running::start(low_latency()).await;
    let list = source.playlist(&index("360p")).await;
    assert_eq!((list.version, list.segments.len()), (Some(9), 10));
    for url in ["/live/main.m3u8", "/live/main.mpd"] {
        let url = source.url(url);
        let args = [
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name",
            "-of",
            "csv=p=0",
            &url,
        ];
        let (ok, out, err) = tool("ffprobe", &args).await;
        assert!(ok && err.trim().is_empty(), "{url}: {err}");
        assert!(out.contains("h264") && out.contains("aac"), "{out}");
    }
    source.stop().await.unwrap();
}

/// The pieces of an answer, which must be chunked.
async fn pieces(source: &Running, path: &str) -> Vec<usize> {
    let response = source.send(Method::GET, path, &[], "").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(
        !response.headers().contains_key("content-length"),
        "{path} is whole already"
    );
    let mut body = response.into_body();
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame.unwrap().into_data().unwrap().len());
    }
    pieces
}

#[tokio::test]
async fn a_segment_can_be_fetched_while_it_is_made() {
    let source = Running::start(low_latency()).await;
    let text = source.text("/live/main.mpd").await;
    assert!(text.contains(r#"availabilityTimeOffset="1.5" availabilityTimeComplete="false""#));
    let mpd = dash_mpd_core::parse(&text).expect("an MPD");
    assert_eq!(mpd.ServiceDescription.len(), 1);
    // Just begun: all parts are still to come.
    let now = playlist(&source, "360p", "").await;
    let number = now.next();
    playlist(&source, "360p", &format!("?_HLS_msn={number}&_HLS_part=0")).await;
    let path = |number| format!("/live/360p/seg-{number}.m4s");
    // The one after it is held until it is begun, too.
    let (now, next) = (path(number), path(number + 1));
    let (first, second) = tokio::join!(pieces(&source, &now), pieces(&source, &next));
    for (path, pieces) in [(now, first), (next, second)] {
        assert!(pieces.len() > 1, "{pieces:?}");
        let whole = source.body(&path).await;
        assert_eq!(pieces.iter().sum::<usize>(), whole.len());
    }
    let later = source.get(&path(number + 9)).await;
    assert_eq!(later.status, StatusCode::NOT_FOUND);
    source.stop().await.unwrap();
}

fn ffmpeg_input(input: &str) -> Config {
    Config {
        input: Input::Ffmpeg(input.split(' ').map(str::to_owned).collect()),
        ladder: small_ladder(),
        ..low_latency()
    }
}

#[tokio::test]
async fn any_input_of_ffmpeg_has_parts_too() {
    let input = "-re -f lavfi -i testsrc2=s=320x180:r=30000/1001 -re -f lavfi -i sine";
    let source = Running::start(ffmpeg_input(input)).await;
    source.once_published("/live/main.m3u8").await;
    for track in ["v0", "v1", "audio"] {
        let now = playlist(&source, track, "").await;
        let query = format!("?_HLS_msn={}&_HLS_part=1", now.next() + 1);
        let later = playlist(&source, track, &query).await;
        assert!(later.next() > now.next() && later.reports.len() == 2);
        for (uri, duration_s, is_independent) in &later.parts {
            assert!(
                *duration_s <= later.part_target_s + 1e-5,
                "{track} {uri} {duration_s}"
            );
            assert!(
                *is_independent || track != "audio" && !uri.ends_with(".0.m4s"),
                "{track} {uri}"
            );
        }
        let (_, segment) = later.segments.last().unwrap();
        let last = format!("part-{}.", later.next() - 1);
        let mut joined = Vec::new();
        for (uri, ..) in later
            .parts
            .iter()
            .filter(|(uri, ..)| uri.starts_with(&last))
        {
            joined.extend(source.body(&format!("/live/{track}/{uri}")).await);
        }
        assert!(
            joined == source.body(&format!("/live/{track}/{segment}")).await,
            "{track}"
        );
    }
    let audio = playlist(&source, "audio", "").await;
    pieces(&source, &format!("/live/v0/seg-{}.m4s", audio.next())).await;
    decode_both(&source).await;
    source.faults.reset_sequence();
    source.once_gone("/live/main.m3u8").await;
    source.once_published("/live/main.m3u8").await;
    source.stop().await.unwrap();
}

#[tokio::test]
async fn pictures_without_sound_have_no_audio_rendition() {
    let input = "-re -f lavfi -i testsrc2=s=320x180:r=25";
    let source = Running::start(ffmpeg_input(input)).await;
    let text = source.once_published("/live/main.m3u8").await.body;
    let list = m3u8_rs::parse_master_playlist_res(&text).unwrap();
    assert_eq!((list.variants.len(), list.alternatives.len()), (2, 0));
    assert_eq!(
        source.get(&index("audio")).await.status,
        StatusCode::NOT_FOUND
    );
    source.stop().await.unwrap();
}

/// URI, first byte and length.
type Place = (String, usize, usize);

/// The parts that a playlist lists as ranges, and the one that it announces, which has no length.
fn ranges(text: &str) -> (Vec<Place>, Place) {
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        let value = rest.strip_prefix('"').unwrap_or(rest);
        let end = value.find(['"', ',']).unwrap_or(value.len());
        Some(value[..end].to_owned())
    };
    let part = |line: &str| {
        let (len, first) = attribute(line, "BYTERANGE")?
            .split_once('@')
            .map(|(len, first)| (len.parse().unwrap(), first.parse().unwrap()))?;
        Some((attribute(line, "URI")?, first, len))
    };
    let parts = text.lines().filter(|line| line.starts_with("#EXT-X-PART:"));
    let hint = text
        .lines()
        .find(|line| line.starts_with("#EXT-X-PRELOAD-HINT:"));
    let hint = hint.unwrap();
    let start = attribute(hint, "BYTERANGE-START").unwrap().parse().unwrap();
    let parts = parts.map(|line| part(line).expect("a range")).collect();
    (parts, (attribute(hint, "URI").unwrap(), start, 0))
}

#[tokio::test]
async fn parts_that_are_ranges_come_while_their_segment_is_made() {
    let config = Config {
        ll_hls: true,
        part_byteranges: true,
        padding_bytes: 20_000,
        ..Config::default()
    };
    let source = Running::start(config).await;
    source.faults.set_generation(7);
    // Of a segment that has been begun and is not whole.
    let (parts, (open, start, _)) = loop {
        let answer = source.get(&index("360p")).await;
        let (parts, hint) = ranges(std::str::from_utf8(&answer.body).unwrap());
        if hint.1 > 0 {
            break (parts, hint);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let path = |uri: &str| format!("/live/360p/{uri}");
    let mut ends = std::collections::BTreeMap::<&str, usize>::new();
    let mut so_far = Vec::new();
    for (uri, first, len) in &parts {
        let end = ends.entry(uri).or_default();
        assert_eq!(first, end, "{uri}: no gaps");
        *end += len;
        let range = format!("bytes={first}-{}", first + len - 1);
        let answer = source.get_with(&path(uri), &[("range", &range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{uri} {range}");
        assert_eq!(answer.body.len(), *len, "{uri} {range}");
        if *uri == open {
            so_far.extend_from_slice(&answer.body);
        }
    }
    assert_eq!(so_far.len(), start);
    // The next part, before it is there; then all.
    let range = format!("bytes={start}-{}", start + 99);
    let next = source.get_with(&path(&open), &[("range", &range)]).await;
    assert_eq!(next.status, StatusCode::PARTIAL_CONTENT);
    let whole = source.get(&path(&open)).await;
    assert_eq!(whole.body[..start], so_far);
    assert_eq!(whole.body[start..start + 100], next.body);
    for (uri, end) in ends.into_iter().filter(|(uri, _)| *uri != open) {
        assert_eq!(source.get(&path(uri)).await.body.len(), end, "{uri}");
    }
}

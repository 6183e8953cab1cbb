use proptest::prelude::*;

use super::*;
use crate::{
    id::Name,
    timeline::{SEGMENTS_LIVE_MAX, track_of},
};

const URL: &str = "https://cdn.example/live/main/manifest.mpd?token=1";
/// 2026-01-01T00:01:40Z, 100 s after the start of the stream.
const NOW_MS: u64 = 1_767_225_600_000 + 100_000;

fn live(periods: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic" availabilityStartTime="2026-01-01T00:00:00Z"
 minimumUpdatePeriod="PT2S" timeShiftBufferDepth="PT10S" profiles="urn:mpeg:dash:profile:isoff-live:2011">
{periods}
<SupplementalProperty schemeIdUri="urn:shoal:stream:2026" value="0909090909090909090909090909090909"/>
</MPD>"#
    )
    .replace("0909090909090909090909090909090909", &"09".repeat(16))
}

const NUMBER: &str = r#"<Period id="p0" start="PT0S"><AdaptationSet mimeType="video/mp4">
<SegmentTemplate timescale="1000" duration="2000" startNumber="5" media="v$RepresentationID$/seg-$Number%05d$.m4s" initialization="v$RepresentationID$/init.mp4"/>
<Representation id="360" bandwidth="800000" width="640" height="360" codecs="avc1.4d401e"/>
<Representation id="720" bandwidth="2800000" width="1280" height="720"/>
</AdaptationSet></Period>"#;

fn numbers(rep: &Representation) -> Vec<u64> {
    rep.track.segments.iter().map(|s| s.info.seq).collect()
}

#[test]
fn number_templates_follow_the_clock() {
    let manifest = read(&live(NUMBER), URL, NOW_MS).unwrap();
    assert!(manifest.is_live);
    assert_eq!(manifest.refresh_ms, Some(2000));
    assert_eq!(manifest.stream, Some(StreamId([9; 16])));
    let rep = &manifest.representations[0];
    assert_eq!(rep.resolution, Some((640, 360)));
    // 50 segments were complete, the window is 5 of them.
    assert_eq!(numbers(rep), [50, 51, 52, 53, 54]);
    let last = rep.track.segments.last().unwrap();
    assert_eq!(last.url, "https://cdn.example/live/main/v360/seg-00054.m4s");
    assert_eq!(last.info.name, Name::of("/live/main/v360/seg-00054.m4s"));
    assert_eq!(last.info.duration_ms, 2000);
    assert_eq!(rep.track.track, track_of("/live/main/v360/seg-00001.m4s"));
    assert_eq!(
        rep.track.inits[0].url,
        "https://cdn.example/live/main/v360/init.mp4"
    );
    let later = read(&live(NUMBER), URL, NOW_MS + 2000).unwrap();
    assert_eq!(numbers(&later.representations[1]), [51, 52, 53, 54, 55]);
    let before = read(&live(NUMBER), URL, 0).unwrap();
    assert!(before.representations[0].track.segments.is_empty());
}

#[test]
fn timelines_are_expanded_with_open_repeats() {
    let periods = r#"<Period><BaseURL>a/</BaseURL><AdaptationSet mimeType="audio/mp4">
<BaseURL>https://other.example/b/</BaseURL>
<Representation id="aac" bandwidth="64000"><BaseURL>c/</BaseURL>
<SegmentTemplate timescale="10" presentationTimeOffset="900" media="$Time$-$Bandwidth$.m4s"><SegmentTimeline>
<S t="1800" d="20" r="1"/><S d="10"/><S d="20" r="-1"/></SegmentTimeline></SegmentTemplate>
</Representation></AdaptationSet></Period>"#;
    let manifest = read(&live(periods), URL, NOW_MS).unwrap();
    let rep = &manifest.representations[0];
    let urls: Vec<_> = rep.track.segments.iter().map(|s| s.url.as_str()).collect();
    assert_eq!(urls[0], "https://other.example/b/c/1800-64000.m4s");
    // Media time 1900 is 100 s into the period: now.
    assert_eq!(
        urls.last(),
        Some(&"https://other.example/b/c/1870-64000.m4s")
    );
    assert_eq!(urls.len(), 5);
    assert!(numbers(rep).is_sorted_by(|a, b| a < b));
}

#[test]
fn time_numbers_do_not_depend_on_the_window() {
    let window = |first: u64| {
        let periods = format!(
            r#"<Period><AdaptationSet><SegmentTemplate timescale="48000" media="a-$Time$.m4s">
<SegmentTimeline><S t="{}" d="96256"/><S d="95232"/><S d="96256" r="3"/></SegmentTimeline>
</SegmentTemplate><Representation id="a" bandwidth="1"/></AdaptationSet></Period>"#,
            first * 96_000
        );
        let manifest = read(&live(&periods), URL, NOW_MS).unwrap();
        numbers(&manifest.representations[0])
    };
    assert_eq!(window(1000)[1..], window(1001)[..5]);
}

#[test]
fn numbers_rise_or_the_manifest_is_refused() {
    let of = |media: &str, first: &str| {
        let periods = format!(
            r#"<Period><AdaptationSet><SegmentTemplate media="{media}"><SegmentTimeline><S {first}/>
<S d="2"/></SegmentTimeline></SegmentTemplate><Representation id="a"/></AdaptationSet></Period>"#
        );
        let read = read(&live(&periods), URL, NOW_MS);
        read.map(|manifest| numbers(&manifest.representations[0]))
    };
    let number = "$Number$.m4s";
    assert_eq!(of(number, r#"n="7" t="0" d="2""#), Ok(vec![7, 8]));
    let last = r#"n="18446744073709551614" t="0" d="2""#;
    assert!(matches!(of(number, last), Err(TimelineError::Malformed(_))));
    let back = r#"n="7" t="0" d="2"/><S n="7" d="2""#;
    assert!(matches!(of(number, back), Err(TimelineError::Malformed(_))));
    // The last time that is not past the end of all milliseconds.
    let late = of("$Time$.m4s", r#"t="18446744073709551" d="2""#).unwrap();
    assert_eq!(late[1], late[0] + 1);
}

#[test]
fn periods_end_where_the_next_begins() {
    let second = NUMBER
        .replace("p0", "p1")
        .replace("PT0S", "PT96S")
        .replace("seg-", "next-");
    let manifest = read(&live(&(NUMBER.to_owned() + &second)), URL, NOW_MS).unwrap();
    assert_eq!(manifest.representations.len(), 4);
    // 48 segments in the first period, of which those of the last 10 s are still there.
    assert_eq!(numbers(&manifest.representations[0]), [50, 51, 52]);
    assert_eq!(numbers(&manifest.representations[2]), [5, 6]);
    assert_eq!(manifest.representations[2].period, 1);
}

#[test]
fn static_manifests_list_everything() {
    let text = live(NUMBER)
        .replace("dynamic", "static")
        .replace("minimumUpdatePeriod", "mediaPresentationDuration")
        .replace("PT2S", "PT9S");
    let manifest = read(&text, URL, NOW_MS).unwrap();
    assert!(manifest.representations[0].track.ended);
    assert_eq!(numbers(&manifest.representations[0]), [5, 6, 7, 8, 9]);
}

#[test]
fn hostile_counts_are_bounded() {
    let periods = r#"<Period><AdaptationSet><SegmentTemplate timescale="1000" media="a-$Time$.m4s">
<SegmentTimeline><S t="0" d="1" r="9223372036854775807"/><S d="1" r="9223372036854775807"/></SegmentTimeline>
</SegmentTemplate><Representation id="a" bandwidth="1"/></AdaptationSet></Period>"#;
    let manifest = read(&live(periods), URL, NOW_MS).unwrap();
    assert_eq!(
        manifest.representations[0].track.segments.len(),
        SEGMENTS_LIVE_MAX
    );
    let old = live(NUMBER)
        .replace("timeShiftBufferDepth=\"PT10S\"", "")
        .replace("2026-01", "1990-01");
    let manifest = read(&old, URL, NOW_MS).unwrap();
    assert_eq!(
        manifest.representations[0].track.segments.len(),
        SEGMENTS_LIVE_MAX
    );
}

#[test]
fn errors_name_who_is_at_fault() {
    for (text, fault) in [
        ("<html>", "origin sent"),
        ("<MPD><Period></MPD>", "origin sent"),
        (
            &live(&NUMBER.replace("timescale=\"1000\"", "timescale=\"0\"")),
            "origin sent",
        ),
        (
            &live(&NUMBER.replace("$Number%05d$", "$Number%99999d$")),
            "origin sent",
        ),
    ] {
        let error = read(text, URL, NOW_MS).unwrap_err().to_string();
        assert!(error.starts_with(fault), "{error}");
    }
    let error = read(&live(NUMBER), "manifest.mpd", NOW_MS).unwrap_err();
    assert!(matches!(error, TimelineError::Base(_)));
}

proptest! {
    #[test]
    fn reading_never_panics(
        cut in 0_usize..1500,
        insert in "[-0-9.PTSHMeE$%\"<>/ a-z]{0,20}",
        remove in 0_usize..30,
        now in any::<u64>(),
        number in prop::sample::select(vec!["0", "1", "-1", "18446744073709551615", "1e308", "9223372036854775807"]),
    ) {
        let text = live(NUMBER);
        let cut = cut.min(text.len());
        let end = (cut + remove).min(text.len());
        let mutated = format!("{}{insert}{}", &text[..cut], &text[end..]);
        let _ = read(&mutated, URL, now);
        for attribute in ["1000", "2000", "\"5\"", "2026", "PT10S", "PT2S"] {
            let quoted = format!("\"{number}\"");
            let with = if attribute.starts_with('"') { &quoted } else { number };
            let _ = read(&text.replace(attribute, with), URL, now);
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::{
    id::{Name, SegmentId},
    limits::PIECE_LEN_MIN,
    timeline::{PARTS_MAX, Part, track_of},
};

const URL: &str = "https://cdn.example/live/v360/index.m3u8?token=1";

const MEDIA: &str = "#EXTM3U\r
#EXT-X-VERSION:9
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.2
#EXT-X-PART-INF:PART-TARGET=0.4
#EXT-X-MEDIA-SEQUENCE:41
#EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"
#EXT-X-MAP:URI=\"init.mp4\"
# a comment
#EXTINF:2.0,title
seg-41.m4s?token=x
#EXT-X-GAP
#EXTINF:1.96,
seg-42.m4s
#EXT-X-BYTERANGE:1000@500
#EXTINF:2,
all.mp4
#EXTINF:2,
#EXT-X-BYTERANGE:300
all.mp4
#EXT-X-PART:DURATION=0.4,URI=\"seg-45.0.m4s\"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"seg-45.1.m4s\"
";

fn media(text: &str) -> Track {
    match read(text, URL) {
        Ok(HlsPlaylist::Media(track)) => track,
        other => panic!("{other:?}"),
    }
}

fn content(len: u32) -> Content {
    Content {
        id: SegmentId(u64::from(len)),
        len,
        piece_len: PIECE_LEN_MIN,
        epoch: 0,
    }
}

#[test]
fn media_playlists_are_read() {
    let track = media(MEDIA);
    assert_eq!(track.target_ms, 2000);
    assert!(!track.ended);
    assert_eq!(track.stream, None);
    assert_eq!(track.inits[0].url, "https://cdn.example/live/v360/init.mp4");
    let seqs: Vec<_> = track.segments.iter().map(|s| s.info.seq).collect();
    assert_eq!(seqs, [41, 43, 44]);
    assert_eq!(
        track.segments[0].url,
        "https://cdn.example/live/v360/seg-41.m4s?token=x"
    );
    assert_eq!(
        track.segments[0].info.name,
        Name::of("/live/v360/seg-41.m4s")
    );
    assert_eq!(track.segments[1].range, Some((500, 1000)));
    assert_eq!(track.segments[2].range, Some((1500, 300)));
    let ranged = Name::of_range("/live/v360/all.mp4", 1500, 300);
    assert_eq!(track.segments[2].info.name, ranged);
}

#[test]
fn a_track_is_named_by_its_segments_if_they_agree() {
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ns-1.ts\n#EXTINF:2,\ns-2.ts\n";
    assert_eq!(media(text).track, track_of("/live/v360/s-77.ts"));
    let mixed = text.replace("s-2.ts", "advert.ts");
    let by_path = TrackId((Name::of("/live/v360/index.m3u8").0 >> 32) as u32);
    assert_eq!(media(&mixed).track, by_path);
}

#[test]
fn multivariant_playlists_are_read() {
    let text = "#EXTM3U
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,URI=\"../a/i.m3u8\"
#EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=640x360,CODECS=\"avc1.4d401e,mp4a.40.2\",AUDIO=\"aac\"
v360.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS=\"mp4a.40.2\"
audio.m3u8
";
    let Ok(HlsPlaylist::Multivariant(list)) = read(text, URL) else {
        panic!();
    };
    assert_eq!(list.variants.len(), 2);
    assert_eq!(list.variants[0].bandwidth_bps, 800_000);
    assert_eq!(list.variants[0].resolution, Some((640, 360)));
    assert_eq!(list.variants[0].audio_group.as_deref(), Some("aac"));
    assert!(!list.variants[0].is_audio && list.variants[1].is_audio);
    assert_eq!(
        list.renditions[0].url.as_deref(),
        Some("https://cdn.example/live/a/i.m3u8")
    );
    assert_eq!(list.renditions[0].kind, RenditionKind::Audio);
    assert_eq!(annotate(text, URL, StreamId([0; 16]), |_| None), text);
}

#[test]
fn live_playlists_keep_the_newest_and_ended_ones_the_first() {
    let mut text = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n");
    for number in 1..=5000 {
        text += &format!("#EXTINF:2,\ns-{number}.ts\n");
    }
    let live = media(&text);
    assert_eq!(live.segments.len(), SEGMENTS_LIVE_MAX);
    assert_eq!(live.segments.last().unwrap().info.seq, 5000);
    let ended = media(&(text + "#EXT-X-ENDLIST\n"));
    assert!(ended.ended);
    assert_eq!(ended.segments.len(), SEGMENTS_ENDED_MAX);
    assert_eq!(ended.segments[0].info.seq, 1);
}

#[test]
fn errors_name_who_is_at_fault() {
    let error = read("<html>", URL).unwrap_err();
    assert!(error.to_string().starts_with("origin sent"), "{error}");
    let error = read(MEDIA, "index.m3u8").unwrap_err();
    assert!(error.to_string().starts_with("caller gave"), "{error}");
    let bad_range = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-BYTERANGE:5\n#EXTINF:2,\na.ts\n";
    assert!(read(bad_range, URL).is_err());
    let huge = "#".repeat(super::super::PLAYLIST_LEN_MAX + 1);
    assert_eq!(read(&huge, URL), Err(TimelineError::TooLarge("bytes")));
}

#[test]
fn numbers_and_ranges_end_where_sums_of_them_still_fit() {
    let of = |head: &str, first: u64| {
        let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n{head}{first}\n#EXTINF:2,\na.ts\n");
        read(&text, URL).is_ok()
    };
    assert!(of("#EXT-X-MEDIA-SEQUENCE:", u64::MAX - 1));
    assert!(!of("#EXT-X-MEDIA-SEQUENCE:", u64::MAX));
    assert!(!of(
        "#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:2,\nb.ts\n#EXT-X-MEDIA-SEQUENCE:",
        7
    ));
    assert!(of("#EXT-X-BYTERANGE:1@", (1 << 53) - 1));
    for first in [1 << 53, u64::MAX] {
        assert!(!of("#EXT-X-BYTERANGE:1@", first));
        let map = format!("#EXT-X-MAP:URI=\"i.mp4\",BYTERANGE=\"1@{first}\"\n#EXT-X-VERSION:");
        assert!(!of(&map, 6));
    }
}

#[test]
fn tags_go_in_and_come_back() {
    let stream = StreamId([9; 16]);
    let tagged = annotate(MEDIA, URL, stream, |listed| {
        (listed.info.seq != 43).then(|| content(listed.info.seq as u32))
    });
    let track = media(&tagged);
    assert_eq!(track.stream, Some(stream));
    let lens: Vec<_> = track.segments.iter().map(|s| s.info.content).collect();
    assert_eq!(lens, [Some(content(41)), None, Some(content(44))]);
    assert!(tagged.starts_with("#EXTM3U\r\n#EXT-X-SHOAL:"));
    let again = annotate(&tagged, URL, stream, |listed| listed.info.content);
    assert_eq!(again, tagged);
}

const PARTS: &str = "#EXTM3U\r
#EXT-X-SHOAL:V=1,STREAM=09090909090909090909090909090909\r
#EXT-X-TARGETDURATION:2\r
#EXT-X-PART-INF:PART-TARGET=0.75\r
#EXT-X-MEDIA-SEQUENCE:7\r
#EXT-X-SKIP:SKIPPED-SEGMENTS=3\r
#EXT-X-PART:DURATION=0.5,URI=\"p10.0.m4s?token=a\"\r
#EXT-X-SHOAL-PART:20000,16384,0000000000000001,0\r
#EXT-X-PART:DURATION=0.25,URI=\"/p,10.1.m4s\"\r
#EXTINF:0.75,\r
seg-10.m4s\r
#EXT-X-PART:DURATION=0.5,URI=\"seg-11.m4s\",BYTERANGE=\"100@0\"\r
#EXT-X-PART:DURATION=0.5,URI=\"gone.m4s\",GAP=YES\r
#EXT-X-PART:DURATION=0.5,URI=\"{$base}p.m4s\"\r
#EXT-X-PART:DURATION=0.5,URI=\"p11.3.m4s\"\r
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p11.4.m4s\"\r
";

#[test]
fn parts_have_the_numbers_of_their_segments() {
    let parts = media(PARTS).parts;
    assert_eq!(parts.target_ms, 750);
    let facts = |Part { listed, index }: &Part| {
        let SegmentInfo {
            name,
            seq,
            duration_ms,
            content,
        } = listed.info;
        (name, seq, *index, duration_ms, content.map(|of| of.len))
    };
    let expected = [
        (Name::of("/live/v360/p10.0.m4s"), 10, 0, 500, None),
        (Name::of("/p,10.1.m4s"), 10, 1, 250, Some(20_000)),
        (Name::of("/live/v360/p11.3.m4s"), 11, 3, 500, None),
    ];
    assert_eq!(parts.listed.iter().map(facts).collect::<Vec<_>>(), expected);
    let hint = (Name::of("/live/v360/p11.4.m4s"), 11, 4, 750, None);
    assert_eq!(parts.hinted.as_ref().map(facts), Some(hint));
    let within = PARTS.replace("\"p11.4.m4s\"", "\"seg-11.m4s\",BYTERANGE-START=0");
    assert_eq!(media(&within).parts.hinted, None);
}

#[test]
fn parts_make_a_track_of_their_own_once_one_has_its_tag() {
    let whole = media(PARTS);
    let track = whole.of_parts().unwrap();
    assert_ne!(track.track, whole.track);
    assert_eq!((track.target_ms, track.stream), (750, whole.stream));
    // Three parts of 0.75 s to 2 s.
    let seqs: Vec<_> = track.segments.iter().map(|s| s.info.seq).collect();
    assert_eq!(seqs, [30, 31, 36]);
    assert_eq!(track.segments[1].info.content.unwrap().len, 20_000);
    let lines = PARTS.split_inclusive('\n');
    let untagged: String = lines
        .filter(|line| !line.starts_with("#EXT-X-SHOAL-"))
        .collect();
    assert_eq!(media(&untagged).of_parts(), None);
    let elsewhere = PARTS.replace("#EXT-X-SHOAL:", "#EXT-X-OTHER:");
    assert_eq!(media(&elsewhere).of_parts(), None);
}

#[test]
fn only_the_newest_parts_are_kept() {
    let mut text = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:2\n");
    for part in 0..=PARTS_MAX {
        text += &format!("#EXT-X-PART:DURATION=0.1,URI=\"p{part}.m4s\"\n");
    }
    let parts = media(&text).parts;
    assert_eq!(parts.listed.len(), PARTS_MAX);
    assert_eq!(parts.listed[0].index, 1);
}

#[test]
fn a_parts_tag_goes_before_it_and_takes_the_place_of_another() {
    let stream = StreamId([9; 16]);
    let of_first = |listed: &Listed| listed.url.contains("p10.0").then(|| content(20_000));
    let tagged = annotate(PARTS, URL, stream, of_first);
    let tag = "#EXT-X-SHOAL-PART:20000,16384,0000000000004e20,0\r\n";
    let old = "#EXT-X-SHOAL-PART:20000,16384,0000000000000001,0\r\n";
    let first = PARTS.find("#EXT-X-PART:").unwrap();
    let expected = format!(
        "{}{tag}{}",
        &PARTS[..first],
        PARTS[first..].replace(old, "")
    );
    assert_eq!(tagged, expected);
    let again = annotate(&tagged, URL, stream, |listed| listed.info.content);
    assert_eq!(again, tagged);
}

/// Whole lines of playlists, good and bad, in any order.
fn any_playlist() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        prop::sample::select(
            MEDIA
                .lines()
                .chain(PARTS.lines())
                .map(String::from)
                .collect::<Vec<_>>()
        ),
        "[#A-Z0-9:,=@\"{$./-]{0,40}",
        Just("#EXT-X-SHOAL:V=1,STREAM=00".into()),
        Just("#EXT-X-SKIP:SKIPPED-SEGMENTS=18446744073709551615".into()),
        Just("#EXT-X-BYTERANGE:18446744073709551615@18446744073709551615".into()),
        Just("#EXTINF:nan,".into()),
        "#EXT[-A-Z:]{0,12}\\PC{0,30}",
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n")];
    prop::collection::vec((line, end), 0..40).prop_map(|lines| {
        let head = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:2\n");
        let lines = lines.into_iter();
        lines.fold(head, |text, (line, end)| text + &line + end)
    })
}

proptest! {
    #[test]
    fn reading_never_panics(
        text in any_playlist(),
        cut in 0_usize..2000,
        noise in any::<Vec<u8>>(),
    ) {
        let _ = read(&text, URL);
        let _ = read(&String::from_utf8_lossy(&text.as_bytes()[..cut.min(text.len())]), URL);
        let _ = read(&String::from_utf8_lossy(&noise), URL);
    }

    #[test]
    fn annotating_is_lossless(text in any_playlist()) {
        let bare: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
            .collect();
        let tagged = annotate(&bare, URL, StreamId([3; 16]), |_| Some(content(5)));
        let stripped: String = tagged
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
            .collect();
        prop_assert_eq!(stripped, bare);
    }
}

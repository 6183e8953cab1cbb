//! Segments that are ranges of a larger object, and parts of segments.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use swarm_core::{id::Name, timeline::tags};

use crate::{
    records::{read, verify},
    support::{HLS, Origin, Proxy, header, respond, segment},
};

const INDEX: &str = "/live/v/i.m3u8";
const FILE: &str = "/live/v/all.mp4";
const LEN: usize = 20_000;

/// The segments `first` to `last` of one file.
fn ranged(first: usize, last: usize) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"1000@0\"\n"
    );
    for number in first..=last {
        // Only the first needs to say where it begins.
        let offset = if number == first {
            format!("@{}", 1000 + number * LEN)
        } else {
            String::new()
        };
        text += &format!("#EXTINF:2.000,\n#EXT-X-BYTERANGE:{LEN}{offset}\nall.mp4\n");
    }
    text
}

fn publish(origin: &Origin, first: usize, last: usize) {
    origin.put(
        INDEX,
        &[HLS, ("cache-control", "no-cache")],
        ranged(first, last),
    );
    origin.put(FILE, &[("cache-control", "max-age=600")], file(last));
}

/// Initialisation, then the segments 0 to `last`.
fn file(last: usize) -> Vec<u8> {
    segment(7, 1000 + (last + 1) * LEN)
}

fn range(number: usize) -> std::ops::Range<usize> {
    1000 + number * LEN..1000 + (number + 1) * LEN
}

async fn ask(proxy: &Proxy, range: std::ops::Range<usize>) -> reqwest::Response {
    let value = format!("bytes={}-{}", range.start, range.end - 1);
    let answer = proxy.get_with(FILE, &[("range", &value)]).await;
    assert_eq!(answer.status(), 206);
    answer
}

#[tokio::test]
async fn ranges_that_are_segments_have_records_of_their_own() {
    let proxy = Proxy::start().await;
    publish(&proxy.origin, 0, 3);
    let text = proxy.text(INDEX).await;
    let track = read(&text);
    let bare: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
        .collect();
    assert_eq!(bare, ranged(0, 3));
    let all = file(3);
    for (number, listed) in track.segments.iter().enumerate() {
        let whole = range(number);
        // All of it, and a stripe.
        for asked in [whole.clone(), whole.start + 16_384..whole.end] {
            let answer = ask(&proxy, asked.clone()).await;
            let record = verify(&proxy, header(&answer, "shoal-record"), &all[whole.clone()]);
            assert_eq!(
                record.name,
                Name::of_range(FILE, whole.start as u64, LEN as u64)
            );
            assert_eq!((record.name, record.seq), (listed.info.name, number as u64));
            assert_eq!(listed.info.content.unwrap().id, record.id());
            assert_eq!(answer.bytes().await.unwrap(), &all[asked]);
        }
    }
    // What is no segment has none: the initialisation, two segments at once, the whole file.
    for other in [0..1000, range(0).start..range(1).end, 500..1500] {
        let answer = ask(&proxy, other).await;
        assert_eq!(header(&answer, "shoal-record"), "");
    }
    assert_eq!(header(&proxy.get(FILE).await, "shoal-record"), "");
    assert_eq!(proxy.origin.count(FILE), 1);
}

#[tokio::test]
async fn an_object_that_grows_is_fetched_again_when_more_of_it_is_listed() {
    let proxy = Proxy::start().await;
    publish(&proxy.origin, 0, 1);
    let before = read(&proxy.text(INDEX).await);
    publish(&proxy.origin, 1, 3);
    let after = read(&proxy.text(INDEX).await);
    assert_eq!(after.segments[0].info, before.segments[1].info);
    assert!(after.segments[2].info.content.is_some());
    let answer = ask(&proxy, range(3)).await;
    verify(&proxy, header(&answer, "shoal-record"), &file(3)[range(3)]);
    assert_eq!(proxy.origin.count(FILE), 2);
}

#[tokio::test]
async fn ranges_of_pictures_for_winding_are_not_signed() {
    let proxy = Proxy::start().await;
    publish(&proxy.origin, 0, 1);
    let text = ranged(0, 1).replace("#EXT-X-MAP", "#EXT-X-I-FRAMES-ONLY\n#EXT-X-MAP");
    proxy.origin.put(INDEX, &[HLS], text.clone());
    assert_eq!(proxy.text(INDEX).await, text);
    assert_eq!(header(&ask(&proxy, range(0)).await, "shoal-record"), "");
}

/// A live edge with two parts of the segment 4, and a third announced.
fn low_latency() -> String {
    String::from(
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5\n\
         #EXT-X-PART-INF:PART-TARGET=60\n#EXT-X-MEDIA-SEQUENCE:3\n\
         #EXTINF:1.0,\nseg-3.m4s\n\
         #EXT-X-PART:DURATION=0.5,URI=\"part-4.0.m4s\"\n\
         #EXT-X-PART:DURATION=0.5,URI=\"part-4.1.m4s\",INDEPENDENT=YES\n\
         #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-4.2.m4s\"\n",
    )
}

#[tokio::test]
async fn parts_have_records_from_their_first_answer_on() {
    let proxy = Proxy::start().await;
    proxy
        .origin
        .put(INDEX, &[HLS, ("cache-control", "no-cache")], low_latency());
    proxy.origin.put("/live/v/seg-3.m4s", &[], segment(3, LEN));
    for part in 0..3 {
        let path = format!("/live/v/part-4.{part}.m4s");
        proxy.origin.put(&path, &[], segment(40 + part, LEN));
    }
    // Parts are not fetched ahead: who plays whole segments needs none.
    let text = proxy.text(INDEX).await;
    assert_eq!(text.matches("#EXT-X-SHOAL-PART").count(), 0, "{text}");
    assert_eq!(proxy.origin.count("/live/v/part-4.0.m4s"), 0);
    // The announced one, too, has its record at once.
    for part in [1, 2] {
        let answer = proxy.get(&format!("/live/v/part-4.{part}.m4s")).await;
        let record = verify(
            &proxy,
            header(&answer, "shoal-record"),
            &segment(40 + part, LEN),
        );
        assert_eq!(record.name, Name::of(&format!("/live/v/part-4.{part}.m4s")));
        assert_eq!(record.seq, 4, "the number of the segment");
    }
    let text = proxy.text(INDEX).await;
    let bare: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
        .collect();
    assert_eq!(bare, low_latency());
    let lines: Vec<&str> = text.lines().collect();
    let place = lines
        .iter()
        .position(|line| line.contains("part-4.1.m4s"))
        .unwrap();
    let tag = lines[place - 1].replace("#EXT-X-SHOAL-PART:", tags::SEGMENT_TAG);
    assert_eq!(tags::read_segment(&tag).unwrap().len as usize, LEN);
    assert_eq!(text.matches("#EXT-X-SHOAL-PART").count(), 1, "{text}");
    // Readers that know nothing of them read the segments as ever.
    let track = read(&text);
    assert_eq!((track.segments.len(), track.segments[0].info.seq), (1, 3));
    assert!(track.segments[0].info.content.is_some());
    let (_, second) = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap();
    assert_eq!(second.segments.len(), 1);
}

#[tokio::test]
async fn a_part_under_a_name_that_is_used_again_has_other_bytes_and_a_higher_epoch() {
    let proxy = Proxy::start().await;
    proxy
        .origin
        .put(INDEX, &[HLS, ("cache-control", "no-cache")], low_latency());
    let path = "/live/v/part-4.1.m4s";
    proxy.origin.on("/live/v/seg-3.m4s", |_| async {
        respond::<&str>(200, &[], "seg")
    });
    proxy
        .origin
        .put(path, &[("cache-control", "max-age=600")], segment(1, LEN));
    proxy.text(INDEX).await;
    let answer = proxy.get(path).await;
    let first = verify(&proxy, header(&answer, "shoal-record"), &segment(1, LEN));
    let text = low_latency().replace("SEQUENCE:3", "SEQUENCE:70");
    proxy
        .origin
        .put(INDEX, &[HLS, ("cache-control", "no-cache")], text);
    proxy
        .origin
        .put(path, &[("cache-control", "max-age=600")], segment(2, LEN));
    proxy.text(INDEX).await;
    let answer = proxy.get(path).await;
    let second = verify(&proxy, header(&answer, "shoal-record"), &segment(2, LEN));
    assert!(second.epoch > first.epoch && second.seq == 71);
}

/// The segment 4, of which `parts` parts are there; it is listed as a whole with the fourth.
fn with_ranged_parts(parts: usize) -> String {
    let mut text = String::from(
        "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
         #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5\n\
         #EXT-X-PART-INF:PART-TARGET=60\n#EXT-X-MEDIA-SEQUENCE:3\n\
         #EXTINF:2.0,\nseg-3.m4s\n",
    );
    for part in 0..parts {
        let first = part * LEN;
        text +=
            &format!("#EXT-X-PART:DURATION=0.5,URI=\"seg-4.m4s\",BYTERANGE=\"{LEN}@{first}\"\n");
    }
    match parts {
        4 => text + "#EXTINF:2.0,\nseg-4.m4s\n",
        _ => {
            let first = parts * LEN;
            text + &format!(
                "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"seg-4.m4s\",BYTERANGE-START={first}\n"
            )
        }
    }
}

const SEGMENT: &str = "/live/v/seg-4.m4s";

async fn ask_part(proxy: &Proxy, part: usize) -> reqwest::Response {
    let value = format!("bytes={}-{}", part * LEN, (part + 1) * LEN - 1);
    proxy.get_with(SEGMENT, &[("range", &value)]).await
}

/// A proxy whose origin sends the segment as it is given to it, without a length.
async fn growing() -> (Proxy, tokio::sync::mpsc::Sender<Bytes>) {
    let proxy = Proxy::start().await;
    let (parts, queue) = tokio::sync::mpsc::channel(4);
    let queue = Arc::new(Mutex::new(Some(queue)));
    proxy.origin.on(SEGMENT, move |_| {
        let queue = queue.lock().unwrap().take().unwrap();
        let chunks = stream::unfold(queue, |mut queue| async {
            let chunk: Bytes = queue.recv().await?;
            Some((Ok::<_, std::io::Error>(chunk), queue))
        });
        async move { respond::<&str>(200, &[], Body::from_stream(chunks)) }
    });
    (proxy, parts)
}

#[tokio::test]
async fn a_range_that_goes_on_for_ever_comes_as_its_segment_grows() {
    let (proxy, parts) = growing().await;
    let whole = segment(4, 3 * LEN);
    let chunk = |part: usize| Bytes::from(whole[part * LEN..(part + 1) * LEN].to_vec());
    proxy.origin.put(INDEX, &[HLS], with_ranged_parts(1));
    proxy.text(INDEX).await;
    parts.send(chunk(0)).await.unwrap();
    // So Shaka asks for the part that is announced.
    let value = format!("bytes={LEN}-9007199254740991");
    let ranged = [("range", value.as_str())];
    let asked = proxy.get_with(SEGMENT, &ranged);
    let (mut answer, sent) = tokio::join!(asked, parts.send(chunk(1)));
    sent.unwrap();
    assert_eq!(answer.status(), 206);
    let expected = format!("bytes {LEN}-9007199254740991/*");
    assert_eq!(header(&answer, "content-range"), expected);
    assert_eq!(header(&answer, "content-length"), "");
    let mut next = async || {
        let mut part = Vec::new();
        while part.len() < LEN {
            part.extend_from_slice(&answer.chunk().await.unwrap().unwrap());
        }
        part
    };
    assert_eq!(next().await, chunk(1));
    parts.send(chunk(2)).await.unwrap();
    assert_eq!(next().await, chunk(2));
    drop(parts);
    assert_eq!(answer.chunk().await.unwrap(), None);
    // From here on its length is known.
    proxy.get(SEGMENT).await.bytes().await.unwrap();
    let answer = proxy.get_with(SEGMENT, &ranged).await;
    let expected = format!("bytes {LEN}-{}/{}", 3 * LEN - 1, 3 * LEN);
    assert_eq!(header(&answer, "content-range"), expected);
    assert_eq!(answer.bytes().await.unwrap(), &whole[LEN..]);
    assert_eq!(proxy.origin.count(SEGMENT), 1);
}

#[tokio::test]
async fn parts_that_are_ranges_come_while_their_segment_is_made() {
    let (proxy, parts) = growing().await;
    let whole = segment(4, 4 * LEN);
    for part in 0..3 {
        let range = part * LEN..(part + 1) * LEN;
        parts
            .send(whole[range.clone()].to_vec().into())
            .await
            .unwrap();
        let text = with_ranged_parts(part + 1);
        proxy
            .origin
            .put(INDEX, &[HLS, ("cache-control", "no-cache")], text);
        proxy.text(INDEX).await;
        // The segment is not at its end, and nobody knows how long it will be.
        let answer = ask_part(&proxy, part).await;
        assert_eq!(answer.status(), 206);
        let expected = format!("bytes {}-{}/*", range.start, range.end - 1);
        assert_eq!(header(&answer, "content-range"), expected);
        assert_eq!(answer.bytes().await.unwrap(), &whole[range]);
    }
    // The last one is asked for before it is there.
    let asked = ask_part(&proxy, 3);
    let made = async {
        parts.send(whole[3 * LEN..].to_vec().into()).await.unwrap();
        drop(parts);
    };
    let (answer, ()) = tokio::join!(asked, made);
    assert_eq!(answer.bytes().await.unwrap(), &whole[3 * LEN..]);
    proxy.origin.put(
        INDEX,
        &[HLS, ("cache-control", "no-cache")],
        with_ranged_parts(4),
    );
    proxy.text(INDEX).await;
    let answer = proxy.get(SEGMENT).await;
    verify(&proxy, header(&answer, "shoal-record"), &whole);
    assert_eq!(proxy.origin.count(SEGMENT), 1, "one request for all of it");
}

#[tokio::test]
async fn a_beginning_of_a_segment_is_never_taken_for_it() {
    let proxy = Proxy::start().await;
    let whole = segment(4, 4 * LEN);
    let fresh = [("cache-control", "max-age=600")];
    for parts in 1..=4 {
        // An origin that sends what there is, as if it were all.
        let so_far = &whole[..parts * LEN];
        proxy.origin.put(SEGMENT, &fresh, so_far);
        let text = with_ranged_parts(parts);
        proxy
            .origin
            .put(INDEX, &[HLS, ("cache-control", "no-cache")], text);
        proxy.text(INDEX).await;
        let answer = ask_part(&proxy, parts - 1).await;
        assert_eq!(answer.status(), 206, "part {parts}");
        assert_eq!(answer.bytes().await.unwrap(), &so_far[(parts - 1) * LEN..]);
    }
    let answer = proxy.get(SEGMENT).await;
    verify(&proxy, header(&answer, "shoal-record"), &whole);
    assert_eq!(answer.bytes().await.unwrap(), whole);
}

#[tokio::test]
async fn a_segment_that_comes_short_is_neither_signed_nor_kept() {
    let proxy = Proxy::start().await;
    let whole = segment(4, 4 * LEN);
    let fresh = [("cache-control", "max-age=600")];
    proxy.origin.put(SEGMENT, &fresh, &whole[..LEN]);
    proxy.origin.put(
        INDEX,
        &[HLS, ("cache-control", "no-cache")],
        with_ranged_parts(4),
    );
    proxy.text(INDEX).await;
    let answer = proxy.get(SEGMENT).await;
    assert_eq!(header(&answer, "shoal-record"), "");
    proxy.origin.put(SEGMENT, &fresh, whole.clone());
    let answer = proxy.get(SEGMENT).await;
    verify(&proxy, header(&answer, "shoal-record"), &whole);
}

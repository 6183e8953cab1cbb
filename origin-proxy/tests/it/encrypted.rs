//! HLS with SAMPLE-AES, as Shaka Packager 3.4 writes it for three systems of rights (cbcs, one rendition of the
//! built-in clip): media is signed as it is, and nothing else is.

use crate::{
    records::verify,
    support::{HLS, Origin, Proxy, header, segment},
};

const PLAYLIST: &str = include_str!("sample_aes.m3u8");
const SEGMENTS: u64 = 12;
const INDEX: &str = "/live/v/i.m3u8";
const KEY: &str = "/live/keys/1";

async fn packaged(text: &str) -> Proxy {
    let origin = Origin::default();
    origin.put(INDEX, &[HLS], text);
    origin.put("/live/v/init.mp4", &[], "init");
    origin.put(KEY, &[], "0123456789abcdef");
    for number in 1..=SEGMENTS {
        let bytes = segment(number, 40_000);
        origin.put(&format!("/live/v/{number}.m4s"), &[], bytes);
    }
    Proxy::start_with(origin, |config| {
        config.records.prefetch_segments_max = SEGMENTS as usize;
        // Twelve are hashed on a machine that may be busy.
        config.records.record_hold_ms_max = 20_000;
    })
    .await
}

#[tokio::test]
async fn sample_aes_for_systems_of_rights_is_signed_as_it_is() {
    let identity = "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"../keys/1\",KEYFORMAT=\"identity\"\n#EXTINF";
    for text in [
        PLAYLIST.to_owned(),
        PLAYLIST.replacen("#EXTINF", identity, 1),
    ] {
        let proxy = packaged(&text).await;
        let tagged = proxy.text(INDEX).await;
        let ours = tagged.matches("#EXT-X-SHOAL-SEG:").count() as u64;
        assert_eq!(ours, SEGMENTS, "{tagged}");
        let bare: String = tagged
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("#EXT-X-SHOAL"))
            .collect();
        assert_eq!(bare, text);
        for number in [1, SEGMENTS] {
            let answer = proxy.get(&format!("/live/v/{number}.m4s")).await;
            let record = header(&answer, "shoal-record").to_owned();
            let bytes = answer.bytes().await.unwrap();
            assert_eq!(bytes, segment(number, 40_000));
            verify(&proxy, &record, &bytes);
        }
        let init = proxy.get("/live/v/init.mp4").await;
        assert_eq!(
            (init.status().as_u16(), header(&init, "shoal-record")),
            (200, "")
        );
    }
}

#[tokio::test]
async fn a_key_of_sample_aes_is_neither_signed_nor_given_to_another_viewer() {
    let session = "#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI=\"/live/keys/1\"\n#EXTINF";
    let key = "#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"../keys/1\",KEYFORMAT=\"identity\"\n#EXTINF";
    for line in [session, key] {
        let proxy = packaged(&PLAYLIST.replacen("#EXTINF", line, 1)).await;
        proxy.text(INDEX).await;
        for asked in 1..=2 {
            let answer = proxy.get(KEY).await;
            assert_eq!(header(&answer, "shoal-record"), "");
            assert!(header(&answer, "cache-status").contains("no-freshness"));
            assert_eq!(answer.text().await.unwrap(), "0123456789abcdef");
            assert_eq!(proxy.origin.count(KEY), asked);
        }
    }
}

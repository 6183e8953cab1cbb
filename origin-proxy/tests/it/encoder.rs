//! Encoders that start again under the names that they have used before.

use crate::support::{HLS, Origin, Proxy, playlist, segment};

const INDEX: &str = "/live/v/i.m3u8";
const BESIDE: [&str; 3] = ["/live/v/init.mp4", "/live/v/key.bin", "/live/v/other.bin"];

/// Publishes the playlist `text` and, as its `generation`, what goes with it.
fn publish(origin: &Origin, text: String, generation: u64) {
    let key = "#EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"\n#EXT-X-MAP";
    let text = text.replace("#EXT-X-MAP", key);
    origin.put(INDEX, &[HLS, ("cache-control", "no-cache")], text);
    for number in 1..=4 {
        let bytes = segment(number + 50 * generation, 4000);
        origin.put(&format!("/live/v/seg-{number}.m4s"), &[], bytes);
    }
    let long = [("cache-control", "max-age=600")];
    for path in BESIDE {
        origin.put(path, &long, generation.to_string());
    }
}

async fn all(proxy: &Proxy) -> [String; 3] {
    proxy.text(INDEX).await;
    let [init, key, other] = BESIDE;
    [
        proxy.text(init).await,
        proxy.text(key).await,
        proxy.text(other).await,
    ]
}

#[tokio::test]
async fn a_new_beginning_has_an_initialisation_and_keys_of_its_own() {
    for again in [
        // The names that are listed have other numbers.
        playlist(1, 4).replace("MEDIA-SEQUENCE:1", "MEDIA-SEQUENCE:100"),
        // The numbers are lower than before, and the names are new.
        playlist(5, 8).replace("MEDIA-SEQUENCE:5", "MEDIA-SEQUENCE:0"),
        // They go on after a break.
        playlist(2, 5).replace(
            "#EXTINF:2.000,\nseg-5",
            "#EXT-X-DISCONTINUITY\n#EXTINF:2.000,\nseg-5",
        ),
    ] {
        let proxy = Proxy::start().await;
        let first = playlist(1, 4);
        let first = match again.contains("SEQUENCE:0\n") {
            true => first.replace("MEDIA-SEQUENCE:1", "MEDIA-SEQUENCE:100"),
            false => first,
        };
        publish(&proxy.origin, first, 1);
        assert_eq!(all(&proxy).await, ["1", "1", "1"]);
        publish(&proxy.origin, again.clone(), 2);
        assert_eq!(all(&proxy).await, ["2", "2", "1"], "{again}");
        // And is kept from then on.
        all(&proxy).await;
        assert_eq!(BESIDE.map(|path| proxy.origin.count(path)), [2, 2, 1]);
    }
}

#[tokio::test]
async fn a_stream_that_goes_on_keeps_its_initialisation() {
    let proxy = Proxy::start().await;
    for step in 1..=6 {
        let before = format!("#EXT-X-DISCONTINUITY-SEQUENCE:{}\n#EXT-X-MAP", step / 4);
        let mut text = playlist(step, step + 3).replace("#EXT-X-MAP", &before);
        if step < 4 {
            // It leaves the window with its segment, and is counted from then on.
            let seam = "#EXT-X-DISCONTINUITY\n#EXTINF:2.000,\nseg-4.m4s";
            text = text.replace("#EXTINF:2.000,\nseg-4.m4s", seam);
        }
        publish(&proxy.origin, text, 1);
        assert_eq!(all(&proxy).await, ["1", "1", "1"]);
    }
    assert_eq!(BESIDE.map(|path| proxy.origin.count(path)), [1, 1, 1]);
}

#[tokio::test]
async fn names_of_before_a_new_beginning_are_not_believed_though_they_are_not_listed_again_yet() {
    let proxy = Proxy::start().await;
    let (no_cache, long) = (
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=600"),
    );
    let late = "/live/v/seg-24.m4s";
    let beside = "/live/v/extra.m4s";
    let publish = |first: u64, last: u64, bytes: &str| {
        let origin = &proxy.origin;
        origin.put(INDEX, &[HLS, no_cache], playlist(first, last));
        for path in [late, beside] {
            origin.put(path, &[long], bytes.to_owned());
        }
    };
    publish(20, 24, "old");
    proxy.text(INDEX).await;
    assert_eq!(
        [proxy.text(late).await, proxy.text(beside).await],
        ["old", "old"]
    );
    publish(1, 5, "new");
    proxy.text(INDEX).await;
    // Nothing has listed the other one: it is as good as its origin has said.
    assert_eq!(
        [proxy.text(late).await, proxy.text(beside).await],
        ["new", "old"]
    );
    assert_eq!(proxy.text(late).await, "new");
    assert_eq!(
        proxy.origin.count(late),
        2,
        "once more, and then it is kept"
    );
}

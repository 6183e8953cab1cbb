//! Low latency before origins that list parts and cannot hold requests back.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use live_source::LiveSource;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    lowlatency::{bare, list, tagged},
    support::{HLS, Origin, Proxy, header, respond, segment},
};

const INDEX: &str = "/live/v/i.m3u8";
/// What the proxy puts into the playlists of this origin.
const CONTROL: &str =
    "#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5,CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.000\n";

/// The playlist when `parts` parts are there.
fn low_latency(parts: u64) -> String {
    let head = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
        #EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
        #EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"init.mp4\"\n";
    head.to_owned() + &list(parts)
}

/// The same as viewers get it, without the tags of records.
fn promised(parts: u64) -> String {
    low_latency(parts).replace("#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5\n", CONTROL)
}

/// An origin that answers at once, whatever it is asked to wait for, and what it says.
async fn live(parts: u64) -> (Proxy, Arc<watch::Sender<String>>) {
    let proxy = Proxy::start().await;
    let edge = Arc::new(watch::Sender::new(low_latency(parts)));
    let said = edge.clone();
    proxy.origin.on(INDEX, move |_| {
        let text = said.borrow().clone();
        async move { respond(200, &[HLS], text) }
    });
    for number in 0..40 {
        let path = format!("/live/v/seg-{number}.m4s");
        proxy.origin.put(&path, &[], segment(number, 2000));
    }
    (proxy, edge)
}

/// Until the origin has been asked for the playlist so many times more: somebody waits for something.
async fn polled(proxy: &Proxy, times: usize) {
    let before = proxy.origin.count(INDEX);
    let asked = async {
        while proxy.origin.count(INDEX) < before + times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_wait_at_the_proxy_and_the_origin_hears_of_no_directive() {
    let (proxy, edge) = live(4).await;
    assert_eq!(bare(&proxy.text(INDEX).await), promised(4));
    let ask = |viewer: usize| {
        let path = format!("{INDEX}?_HLS_part=0&token={viewer}&_HLS_msn=2");
        let proxy = &proxy;
        async move { proxy.text(&path).await }
    };
    let publish = async {
        polled(&proxy, 3).await;
        edge.send_replace(low_latency(5));
    };
    let (answers, ()) = tokio::join!(join_all((0..60).map(ask)), publish);
    for answer in &answers {
        assert_eq!(
            bare(answer),
            promised(5),
            "all that is not ours is as it was"
        );
    }
    // What is there is there at once, and whoever asks without directives gets the newest as well.
    assert_eq!(bare(&ask(0).await), promised(5));
    let part = proxy.text(&format!("{INDEX}?_HLS_msn=1&_HLS_part=7")).await;
    assert_eq!(bare(&part), promised(5), "part 7 of 1 is part 0 of 2");
    let asked = proxy.origin.asked();
    assert!(!asked.iter().any(|url| url.contains("_HLS_")), "{asked:?}");
    // Tokens reach the origin: those of the viewers who wait.
    assert!(asked.iter().any(|url| url.contains("token=")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_with_a_wrong_token_keeps_nobody_waiting() {
    let (proxy, edge) = live(4).await;
    let said = edge.clone();
    proxy.origin.on(INDEX, move |request| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let text = said.borrow().clone();
        async move {
            match query.contains("token=good") {
                true => respond(200, &[HLS], text),
                false => respond::<&str>(403, &[], "no"),
            }
        }
    });
    proxy.text(&format!("{INDEX}?token=good")).await;
    let wait = |token: &'static str, part: u64| {
        let path = format!("{INDEX}?_HLS_msn=2&_HLS_part={part}&token={token}");
        let proxy = &proxy;
        async move { proxy.get(&path).await }
    };
    let is_bad = |url: &String| url.contains("token=bad");
    let bad_polls = || {
        proxy
            .origin
            .asked()
            .iter()
            .filter(|url| is_bad(url))
            .count()
    };
    for part in 0..3 {
        let good = wait("good", part);
        let bad = async {
            polled(&proxy, 1).await;
            let before = bad_polls();
            let publish = async {
                while bad_polls() == before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                edge.send_replace(low_latency(5 + part));
            };
            tokio::join!(wait("bad", part), publish).0
        };
        let (good, _) = tokio::join!(good, bad);
        assert_eq!(good.status(), 200, "part {part}");
        assert_eq!(bare(&good.text().await.unwrap()), promised(5 + part));
    }
}

#[tokio::test]
async fn one_who_comes_first_waits_as_well() {
    let (proxy, edge) = live(4).await;
    let path = format!("{INDEX}?_HLS_msn=2&_HLS_part=0");
    let publish = async {
        polled(&proxy, 3).await;
        edge.send_replace(low_latency(5));
    };
    let (answer, ()) = tokio::join!(proxy.text(&path), publish);
    assert_eq!(bare(&answer), promised(5));
}

#[tokio::test]
async fn deltas_leave_out_what_is_old() {
    let (proxy, _edge) = live(41).await;
    let whole = proxy
        .text(&format!("{INDEX}?_HLS_msn=20&_HLS_part=0"))
        .await;
    let delta = proxy
        .get(&format!("{INDEX}?_HLS_msn=20&_HLS_part=0&_HLS_skip=YES"))
        .await;
    let etag = header(&delta, "etag").to_owned();
    let delta = delta.text().await.unwrap();
    // 20 segments and a part, of which six seconds stay.
    let skip = "#EXT-X-SKIP:SKIPPED-SEGMENTS=14\n#EXT-X-MAP:URI=\"init.mp4\"\n";
    let (head, tail) = delta.split_once(skip).unwrap();
    assert!(whole.starts_with(head) && whole.ends_with(tail));
    let lines = |text: &str| text.lines().filter(|line| line.ends_with(".m4s")).count();
    assert_eq!((lines(&whole), lines(tail), lines(head)), (20, 6, 0));
    let other = proxy.get(&format!("{INDEX}?_HLS_msn=20&_HLS_part=0")).await;
    assert_ne!(header(&other, "etag"), etag);
    // Without anything old enough, the whole playlist is the answer.
    let (proxy, _edge) = live(6).await;
    assert_eq!(
        bare(&proxy.text(&format!("{INDEX}?_HLS_skip=v2")).await),
        promised(6)
    );
}

#[tokio::test]
async fn what_makes_no_sense_or_never_comes_has_an_end() {
    let (proxy, edge) = live(4).await;
    proxy.text(INDEX).await;
    for (query, status) in [
        ("_HLS_part=1", 400),
        ("_HLS_msn=x", 400),
        ("_HLS_msn=4", 400),
        ("_HLS_msn=2&_HLS_part=6", 400),
        ("_HLS_msn=18446744073709551615", 400),
        // Three target durations later.
        ("_HLS_msn=3", 503),
    ] {
        let answer = proxy.get(&format!("{INDEX}?{query}")).await;
        assert_eq!(answer.status(), status, "{query}");
    }
    // Whoever waits when the stream ends learns of it, and later directives do not matter.
    let end = low_latency(4) + "#EXT-X-ENDLIST\n";
    let publish = async {
        polled(&proxy, 3).await;
        edge.send_replace(end.clone());
    };
    let path = format!("{INDEX}?_HLS_msn=2&_HLS_part=1");
    let (answer, ()) = tokio::join!(proxy.text(&path), publish);
    assert_eq!(bare(&answer), end);
    assert_eq!(bare(&proxy.text(&format!("{INDEX}?_HLS_msn=9")).await), end);
}

#[tokio::test]
async fn an_announced_part_is_asked_for_once_it_is_listed() {
    let (proxy, edge) = live(4).await;
    proxy.text(INDEX).await;
    let path = "/live/v/part-2.0.m4s";
    let publish = async {
        polled(&proxy, 3).await;
        assert_eq!(
            proxy.origin.count(path),
            0,
            "it would say that it is not there"
        );
        proxy.origin.put(path, &[], segment(9, 3000));
        edge.send_replace(low_latency(5));
    };
    let viewers = join_all((0..20).map(|_| proxy.get(path)));
    let (answers, ()) = tokio::join!(viewers, publish);
    for answer in answers {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.unwrap(), segment(9, 3000));
    }
    assert_eq!(proxy.origin.count(path), 1);
}

#[tokio::test]
async fn the_newest_part_has_its_tag_when_those_who_wait_here_hear_of_it() {
    // A playlist is held for a quarter of a part, which is as long as playlists are held at most; and half of one
    // goes by after a change before the origin is asked again.
    let patient = |parts| low_latency(parts).replace("PART-TARGET=0.5", "PART-TARGET=1.6");
    let (proxy, edge) = live(5).await;
    edge.send_replace(patient(5));
    for part in 5..7 {
        let path = format!("/live/v/part-{}.{}.m4s", part / 2, part % 2);
        proxy.origin.put(&path, &[], segment(part, 20_000));
    }
    let count = |part: &str| proxy.origin.count(&format!("/live/v/part-{part}.m4s"));
    let wait = async |parts: u64, wanted: &str| {
        let path = format!("{INDEX}?{wanted}");
        let publish = async {
            polled(&proxy, 1).await;
            edge.send_replace(patient(parts));
        };
        tokio::join!(proxy.text(&path), publish).0
    };
    proxy.text(INDEX).await;
    // Who wants whole segments waits for the last part of each.
    let text = wait(6, "_HLS_msn=2&_HLS_part=1").await;
    assert_eq!((tagged(&text), count("2.1")), (vec![], 0));
    let text = wait(7, "_HLS_msn=3&_HLS_part=0").await;
    assert_eq!(tagged(&text), ["part-3.0.m4s"]);
    proxy.get("/live/v/part-3.0.m4s").await;
    assert_eq!((count("2.1"), count("3.0")), (0, 1));
}

#[tokio::test]
async fn waiting_goes_on_through_failures_and_ends_when_numbers_start_again() {
    let (proxy, edge) = live(12).await;
    proxy.text(INDEX).await;
    let said = edge.clone();
    let fail = |count: usize| {
        let (said, left) = (said.clone(), Arc::new(Mutex::new(count)));
        proxy.origin.on(INDEX, move |_| {
            let mut left = left.lock().unwrap();
            *left = left.saturating_sub(1);
            let (status, text) = if *left > 0 {
                (500, String::new())
            } else {
                (200, said.borrow().clone())
            };
            async move { respond(status, &[HLS], text) }
        });
    };
    fail(2);
    edge.send_replace(low_latency(13));
    let path = format!("{INDEX}?_HLS_msn=6&_HLS_part=0");
    assert_eq!(bare(&proxy.text(&path).await), promised(13));
    let restart = async {
        polled(&proxy, 3).await;
        edge.send_replace(low_latency(3));
    };
    let path = format!("{INDEX}?_HLS_msn=7&_HLS_part=0");
    let (answer, ()) = tokio::join!(proxy.text(&path), restart);
    assert_eq!(bare(&answer), promised(3));
}

#[tokio::test]
async fn what_is_for_one_viewer_or_not_wanted_stays_as_it_is() {
    let (proxy, _edge) = live(4).await;
    proxy.origin.on(INDEX, |_| async {
        let private = ("cache-control", "private");
        respond(200, &[HLS, private], low_latency(4))
    });
    assert_eq!(bare(&proxy.text(INDEX).await), low_latency(4));
    let answer = proxy.text(&format!("{INDEX}?_HLS_msn=2&_HLS_part=0")).await;
    assert_eq!(bare(&answer), low_latency(4));
    for change in [
        |config: &mut origin_proxy::Config| config.low_latency.terminate = false,
        |config: &mut origin_proxy::Config| config.low_latency.playlists_max = 0,
    ] {
        let proxy = Proxy::start_with(Origin::default(), change).await;
        proxy.origin.put(INDEX, &[HLS], low_latency(4));
        assert_eq!(bare(&proxy.text(INDEX).await), low_latency(4));
    }
}

/// A low-latency source behind something that knows nothing of it: no directives, no attributes that
/// speak of them, and "not there" for parts that are not listed.
async fn plain_origin() -> Proxy {
    let config = live_source::Config {
        ll_hls: true,
        ..live_source::Config::default()
    };
    let source = LiveSource::new(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(source.run(listener, std::future::pending()));
    let origin = Origin::default();
    let listed = Arc::new(Mutex::new(HashSet::new()));
    origin.on("*", move |request| {
        let (url, listed) = (format!("{url}{}", request.uri().path()), listed.clone());
        async move {
            let is_part = url.contains("/part-");
            let name = url.rsplit('/').next().unwrap().to_owned();
            if is_part && !listed.lock().unwrap().contains(&name) {
                return respond::<&str>(404, &[], "not yet");
            }
            let answer = reqwest::get(&url).await.unwrap();
            let kind = header(&answer, "content-type").to_owned();
            let status = answer.status().as_u16();
            let mut body = answer.bytes().await.unwrap().to_vec();
            if url.ends_with(".m3u8") {
                let text = String::from_utf8(body).unwrap();
                let parts = text.split("URI=\"").skip(1);
                let names = parts.map(|rest| rest.split('"').next().unwrap().to_owned());
                let hint = text.split("TYPE=PART,URI=\"").nth(1).unwrap_or_default();
                let hint = hint.split('"').next().unwrap();
                let there = names.filter(|name| name != hint);
                listed.lock().unwrap().extend(there);
                let text = text.replace("CAN-BLOCK-RELOAD=YES,", "");
                let (head, tail) = text.split_once(",CAN-SKIP-UNTIL=").unwrap_or((&text, ""));
                let tail = tail.split_once('\n').map_or("", |(_, tail)| tail);
                body = format!("{head}\n{tail}").into_bytes();
            }
            respond(status, &[("content-type", kind.as_str())], body)
        }
    });
    Proxy::start_with(origin, |_| {}).await
}

/// Number of the segment that is being made, and of its next part.
fn position(text: &str) -> (u64, u64) {
    let hint = text.split("TYPE=PART,URI=\"part-").nth(1).unwrap();
    let (segment, part) = hint.split(".m4s").next().unwrap().split_once('.').unwrap();
    (segment.parse().unwrap(), part.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_follows_a_stream_part_by_part() {
    let proxy = plain_origin().await;
    let main = proxy.text("/live/main.m3u8").await;
    let path = main.lines().find(|line| line.ends_with(".m3u8")).unwrap();
    let index = format!("/live/{path}");
    let folder = index.rsplit_once('/').unwrap().0;
    let mut next = position(&proxy.text(&index).await);
    for round in 0..12 {
        let (segment, part) = next;
        let skip = if round % 2 == 0 { "" } else { "&_HLS_skip=YES" };
        let reload = format!("{index}?_HLS_msn={segment}&_HLS_part={part}{skip}");
        let hinted = format!("{folder}/part-{segment}.{part}.m4s");
        let (reload, hinted) = tokio::join!(proxy.get(&reload), proxy.get(&hinted));
        assert!(reload.status() == 200 && hinted.status() == 200, "{next:?}");
        assert!(!hinted.bytes().await.unwrap().is_empty());
        let text = reload.text().await.unwrap();
        assert!(
            text.contains(",CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL="),
            "{text}"
        );
        assert_eq!(text.contains("#EXT-X-SKIP:"), round % 2 == 1);
        let now = position(&text);
        assert!(now > next, "{now:?} after {next:?}");
        next = now;
    }
    let asked = proxy.origin.asked();
    assert!(!asked.iter().any(|url| url.contains("_HLS_")), "{asked:?}");
    let polls = asked.iter().filter(|url| url.starts_with(&index)).count();
    assert!(polls <= 12 * 9, "{polls} requests for 12 parts");
    let mut parts: Vec<_> = asked.iter().filter(|url| url.contains("/part-")).collect();
    let count = parts.len();
    parts.sort_unstable();
    parts.dedup();
    assert_eq!(parts.len(), count, "each part is asked for once");
}

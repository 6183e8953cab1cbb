//! Origins that send elsewhere, lag behind, or stand still.

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use futures_util::future::join_all;
use http::{HeaderMap, header};

use crate::{
    records::verify,
    support::{HLS, Origin, Proxy, header as value, playlist, respond, segment},
};

const INDEX: &str = "/live/v/i.m3u8";

fn redirect(origin: &Origin, path: &str, to: String) {
    origin.on(path, move |_| {
        let response = respond(302, &[("location", to.as_str())], "");
        async move { response }
    });
}

fn unfollowing() -> reqwest::Client {
    let policy = reqwest::redirect::Policy::none();
    reqwest::Client::builder().redirect(policy).build().unwrap()
}

#[tokio::test]
async fn objects_behind_redirects_are_kept_and_signed_under_their_own_names() {
    let (origin, store) = (Origin::default(), Origin::default());
    let heard = Arc::new(Mutex::new(HeaderMap::new()));
    let hears = heard.clone();
    store.on("/bucket/17", move |request: Request| {
        *hears.lock().unwrap() = request.headers().clone();
        async { respond::<&str>(200, &[], segment(1, 20_000)) }
    });
    let address = store.clone().serve().await;
    origin.put(INDEX, &[HLS], playlist(1, 1));
    redirect(
        &origin,
        "/live/v/seg-1.m4s",
        format!("http://{address}/bucket/17?signature=x"),
    );
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.records.prefetch_segments_max = 0;
        config.records.segment_hold_ms_max = 60_000;
    })
    .await;
    proxy.text(INDEX).await;
    let secrets = [("authorization", "Bearer x"), ("cookie", "a=b")];
    let answer = proxy.get_with("/live/v/seg-1.m4s?token=y", &secrets).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await.unwrap(), segment(1, 20_000));
    let heard = heard.lock().unwrap().clone();
    for secret in [header::AUTHORIZATION, header::COOKIE] {
        assert!(
            !heard.contains_key(&secret),
            "another host hears of {secret}"
        );
    }
    for _ in 0..2 {
        let answer = proxy.get("/live/v/seg-1.m4s").await;
        let record = value(&answer, "shoal-record").to_owned();
        verify(&proxy, &record, &answer.bytes().await.unwrap());
    }
    // With a name of the viewer it was not to be shared; then once for all others.
    assert_eq!(
        (origin.count("/live/v/seg-1.m4s"), store.count("/bucket/17")),
        (2, 2)
    );
}

#[tokio::test]
async fn a_playlist_elsewhere_is_where_its_relative_names_lead_somewhere() {
    let origin = Origin::default();
    redirect(&origin, INDEX, "/live/session-7/i.m3u8?s=1".into());
    origin.put("/live/session-7/i.m3u8", &[HLS], playlist(1, 1));
    origin.put("/live/session-7/seg-1.m4s", &[], segment(1, 20_000));
    // In the same folder names lead to the same: nobody needs to know.
    redirect(&origin, "/live/v/other.m3u8", "/live/v/real.m3u8".into());
    origin.put("/live/v/real.m3u8", &[HLS], playlist(2, 2));
    origin.put("/live/v/seg-2.m4s", &[], segment(2, 20_000));
    let proxy = Proxy::start_with(origin.clone(), |_| {}).await;
    for _ in 0..2 {
        let answer = unfollowing().get(proxy.url(INDEX)).send().await.unwrap();
        let found = (answer.status().as_u16(), value(&answer, "location"));
        assert_eq!(found, (302, "/live/session-7/i.m3u8?s=1"));
        assert_eq!(value(&answer, "cache-control"), "no-store");
    }
    let answer = proxy.get(INDEX).await;
    assert_eq!(answer.url().path(), "/live/session-7/i.m3u8");
    assert!(answer.text().await.unwrap().contains("#EXT-X-SHOAL-SEG"));
    let answer = proxy.get("/live/v/other.m3u8").await;
    assert_eq!(answer.url().path(), "/live/v/other.m3u8");
    assert!(answer.text().await.unwrap().contains("#EXT-X-SHOAL-SEG"));
}

#[tokio::test]
async fn a_redirect_that_says_for_how_long_is_asked_for_once() {
    let origin = Origin::default();
    for (path, control, asked) in [
        ("/live/v/kept.m3u8", "max-age=600", 1),
        ("/live/v/private.m3u8", "private, max-age=600", 40),
        ("/live/v/stale.m3u8", "max-age=0", 40),
    ] {
        origin.on(path, move |_| async move {
            let to = ("location", "/live/w/i.m3u8");
            respond(302, &[to, ("cache-control", control)], "")
        });
        origin.put("/live/w/i.m3u8", &[HLS], playlist(1, 0));
        let proxy = Proxy::start_with(origin.clone(), |_| {}).await;
        let client = unfollowing();
        for _ in 0..2 {
            let ask = || client.get(proxy.url(path)).send();
            for answer in join_all((0..20).map(|_| ask())).await {
                let answer = answer.unwrap();
                let found = (answer.status().as_u16(), value(&answer, "location"));
                assert_eq!(found, (302, "/live/w/i.m3u8"));
                let is_kept = value(&answer, "cache-control").starts_with("max-age=");
                assert_eq!(is_kept, asked == 1, "{path}");
            }
        }
        assert_eq!(origin.count(path), asked, "{path}");
    }
}

#[tokio::test]
async fn redirects_without_end_are_given_up() {
    let origin = Origin::default();
    redirect(&origin, "/live/a", "/live/b".into());
    redirect(&origin, "/live/b", "/live/a".into());
    let proxy = Proxy::start_with(origin.clone(), |config| config.upstream.retries_max = 0).await;
    assert_eq!(proxy.get("/live/a").await.status(), 502);
    let asked = origin.count("/live/a") + origin.count("/live/b");
    assert!((2..=6).contains(&asked), "{asked} requests");
}

#[tokio::test]
async fn an_origin_that_lags_behind_or_stands_still_is_no_new_beginning() {
    for lag in [1, 3] {
        look_at_an_origin_that_lags(lag).await;
    }
}

/// `lag` is in segments.
async fn look_at_an_origin_that_lags(lag: u64) {
    let origin = Origin::default();
    let turn = Arc::new(Mutex::new(0_u64));
    let turns = turn.clone();
    // Two origins behind one name, one of them behind; each stands still for two requests.
    origin.on(INDEX, move |_| {
        let mut turn = turns.lock().unwrap();
        *turn += 1;
        let last = 8 + *turn / 4 - lag * u64::from(*turn % 2 == 1);
        let text = playlist(last - 4, last);
        async move { respond(200, &[HLS, ("cache-control", "no-cache")], text) }
    });
    for number in 1..=15 {
        let path = format!("/live/v/seg-{number}.m4s");
        let bytes = segment(number, 4000);
        origin.put(
            &path,
            &[("etag", "\"e\""), ("cache-control", "max-age=600")],
            bytes,
        );
    }
    let proxy = Proxy::start_with(origin.clone(), |config| {
        config.records.record_hold_ms_max = 60_000;
    })
    .await;
    for _ in 0..20 {
        let text = proxy.text(INDEX).await;
        assert_eq!(text.matches("#EXT-X-SHOAL-SEG").count(), 5, "{text}");
        let epochs = text
            .lines()
            .filter(|line| line.starts_with("#EXT-X-SHOAL-SEG"));
        assert!(
            epochs.into_iter().all(|line| line.ends_with(",0")),
            "{text}"
        );
    }
    for number in 1..=12 {
        let path = format!("/live/v/seg-{number}.m4s");
        // Of a lag that has not been seen yet nobody can tell that it is one.
        let most = if lag == 1 { 1 } else { 2 };
        assert!(origin.count(&path) <= most, "{path}: {:?}", origin.asked());
    }
}

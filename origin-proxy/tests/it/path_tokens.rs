//! Tokens of viewers in the paths of their requests.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::extract::Request;
use origin_proxy::{Config, PathTokenConfig};
use swarm_core::{
    record::Record,
    timeline::hls::{self, HlsPlaylist},
};

use crate::support::{HLS, Origin, Proxy, header, playlist, respond, segment};

const KEPT: (&str, &str) = ("cache-control", "max-age=60");

/// An origin that lets in whoever has one of `tokens` as the first word below `/live/`.
#[derive(Clone)]
struct Guarded {
    tokens: Arc<Mutex<Vec<&'static str>>>,
    is_ill: Arc<AtomicBool>,
    /// What it has answered, with the method and what it was asked for.
    answered: Arc<Mutex<Vec<(String, u16)>>>,
}

impl Guarded {
    fn with(tokens: &[&'static str]) -> (Self, Origin) {
        let guarded = Self {
            tokens: Arc::new(Mutex::new(tokens.to_vec())),
            is_ill: Arc::default(),
            answered: Arc::default(),
        };
        let origin = Origin::default();
        let answers = guarded.clone();
        origin.on("*", move |request| {
            let response = answers.answer(&request);
            async move { response }
        });
        (guarded, origin)
    }

    fn answer(&self, request: &Request) -> axum::response::Response {
        let path = request.uri().path().to_owned();
        let response = self.look_up(&path);
        let line = format!("{} {path}", request.method());
        let status = response.status().as_u16();
        self.answered.lock().unwrap().push((line, status));
        response
    }

    fn look_up(&self, path: &str) -> axum::response::Response {
        if self.is_ill.load(Ordering::Relaxed) {
            return respond::<&str>(503, &[], "ill");
        }
        let below = path.strip_prefix("/live/").unwrap_or_default();
        let (token, rest) = below.split_once('/').unwrap_or_default();
        if !self.tokens.lock().unwrap().contains(&token) {
            return respond::<&str>(403, &[], "no");
        }
        match rest {
            "v/i.m3u8" => respond(200, &[HLS], playlist(1, 3)),
            "v/own.m3u8" => {
                let own = playlist(1, 1).replace("seg-", &format!("/live/{token}/v/seg-"));
                respond(200, &[HLS, KEPT], own)
            }
            "v/gone.m4s" => respond(404, &[KEPT], format!("no {path}")),
            "v/moved.m4s" => respond(
                301,
                &[KEPT, ("location", &format!("/live/{token}/v/x"))],
                "",
            ),
            _ => match rest
                .strip_prefix("v/seg-")
                .and_then(|rest| rest.split_once('.'))
            {
                Some((number, "m4s")) => {
                    respond(200, &[KEPT], segment(number.parse().unwrap(), 50_000))
                }
                _ => respond(200, &[KEPT], "other"),
            },
        }
    }

    /// How often it was asked for `line`, a method and a path.
    fn count(&self, line: &str) -> usize {
        let answered = self.answered.lock().unwrap();
        answered.iter().filter(|(asked, _)| asked == line).count()
    }

    fn requests(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

fn below_live(config: &mut Config) {
    config.path_tokens = vec![PathTokenConfig {
        prefix: "/live/".into(),
        ..PathTokenConfig::default()
    }];
}

#[tokio::test]
async fn viewers_with_tokens_in_their_paths_agree_on_names_and_have_records() {
    let (_, origin) = Guarded::with(&["ann", "ben"]);
    let proxy = Proxy::start_with(origin, below_live).await;
    let mut seen = Vec::new();
    for viewer in ["ann", "ben"] {
        let path = format!("/live/{viewer}/v/i.m3u8");
        let text = proxy.text(&path).await;
        assert!(text.contains(",TOKEN=2\n"), "{text}");
        let url = format!("https://cdn.example{path}");
        let Ok(HlsPlaylist::Media(track)) = hls::read(&text, &url) else {
            panic!("{text}");
        };
        let newest = track.segments.last().unwrap();
        assert!(newest.info.content.is_some(), "{text}");
        let own = newest.url.strip_prefix("https://cdn.example").unwrap();
        assert!(own.starts_with(&format!("/live/{viewer}/")), "{own}");
        let answer = proxy.get(own).await;
        let record = Record::from_header(header(&answer, "shoal-record")).unwrap();
        assert_eq!(record.name, newest.info.name);
        seen.push((track.track, record.name));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn viewers_with_tokens_in_their_paths_share_what_the_origin_lets_each_of_them_have() {
    let (guarded, origin) = Guarded::with(&["ann", "ben"]);
    let proxy = Proxy::start_with(origin, below_live).await;
    let bytes = segment(1, 50_000);
    for viewer in ["ann", "ben", "ann", "ben"] {
        let answer = proxy.get(&format!("/live/{viewer}/v/seg-1.m4s")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.unwrap(), bytes);
    }
    // One body for all, with the token of who came first; one question for each viewer.
    assert_eq!(guarded.count("GET /live/ann/v/seg-1.m4s"), 1);
    assert_eq!(guarded.count("HEAD /live/ann/v/seg-1.m4s"), 1);
    assert_eq!(guarded.count("HEAD /live/ben/v/seg-1.m4s"), 1);
    assert_eq!(guarded.requests(), 3);
    // Who has no good token gets nothing, whatever is kept; nor does one without, or with what stands for one.
    for path in [
        "/live/eve/v/seg-1.m4s",
        "/live/~/v/seg-1.m4s",
        "/live/v/seg-1.m4s",
    ] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status(), 403, "{path}");
        assert_eq!(header(&answer, "cache-control"), "no-store", "{path}");
    }
}

#[tokio::test]
async fn a_token_counts_for_its_folder_alone() {
    let (guarded, origin) = Guarded::with(&["ann"]);
    let proxy = Proxy::start_with(origin, below_live).await;
    for path in ["v/seg-1.m4s", "v/seg-2.m4s", "other/x", "v/seg-3.m4s"] {
        assert_eq!(proxy.get(&format!("/live/ann/{path}")).await.status(), 200);
    }
    let heads = ["v/seg-1.m4s", "v/seg-2.m4s", "other/x", "v/seg-3.m4s"];
    let heads = heads.map(|path| guarded.count(&format!("HEAD /live/ann/{path}")));
    assert_eq!(heads, [1, 0, 1, 0]);
}

#[tokio::test]
async fn a_token_is_asked_for_again_and_counts_on_while_the_origin_fails() {
    let (guarded, origin) = Guarded::with(&["ann", "ben"]);
    let proxy = Proxy::start_with(origin, |config| {
        below_live(config);
        config.path_tokens[0].accepted_s = 0;
    })
    .await;
    let status = async |viewer: &str| {
        let path = format!("/live/{viewer}/v/seg-1.m4s");
        proxy.get(&path).await.status().as_u16()
    };
    assert_eq!(status("ann").await, 200);
    guarded.is_ill.store(true, Ordering::Relaxed);
    assert_eq!(status("ann").await, 200, "it was good");
    assert_eq!(status("ben").await, 502, "nobody knows");
    guarded.is_ill.store(false, Ordering::Relaxed);
    guarded
        .tokens
        .lock()
        .unwrap()
        .retain(|token| *token != "ann");
    assert_eq!(status("ann").await, 403, "it is not good any more");
    assert_eq!(status("ben").await, 200);
    assert_eq!(guarded.count("GET /live/ann/v/seg-1.m4s"), 1);
}

#[tokio::test]
async fn segments_are_fetched_with_the_token_of_who_asked_for_the_playlist_and_named_without() {
    let (guarded, origin) = Guarded::with(&["ann", "ben"]);
    let proxy = Proxy::start_with(origin, below_live).await;
    let tagged = proxy.text("/live/ann/v/i.m3u8").await;
    assert_eq!(tagged.matches("#EXT-X-SHOAL-SEG:").count(), 3, "{tagged}");
    for number in 1..=3 {
        let line = format!("GET /live/ann/v/seg-{number}.m4s");
        assert_eq!(guarded.count(&line), 1, "{line}");
    }
    assert!(
        !guarded
            .answered
            .lock()
            .unwrap()
            .iter()
            .any(|(line, _)| line.contains('~'))
    );
    let record = async |viewer: &str| {
        let answer = proxy.get(&format!("/live/{viewer}/v/seg-1.m4s")).await;
        header(&answer, "shoal-record").to_owned()
    };
    let (of_ann, of_ben) = (record("ann").await, record("ben").await);
    assert!(!of_ann.is_empty());
    assert_eq!(of_ann, of_ben);
}

#[tokio::test]
async fn what_has_a_token_in_it_is_for_its_viewer_alone() {
    let (guarded, origin) = Guarded::with(&["ann", "ben"]);
    let proxy = Proxy::start_with(origin, |config| {
        below_live(config);
        config.follow_redirects = false;
    })
    .await;
    for viewer in ["ann", "ben", "ann"] {
        let other = if viewer == "ann" { "ben" } else { "ann" };
        let text = proxy.text(&format!("/live/{viewer}/v/own.m3u8")).await;
        assert!(
            text.contains(&format!("/live/{viewer}/v/seg-1.m4s")),
            "{text}"
        );
        assert!(!text.contains(other), "{text}");
        let text = proxy.text(&format!("/live/{viewer}/v/gone.m4s")).await;
        assert!(!text.contains(other), "{text}");
    }
    assert_eq!(guarded.count("GET /live/ben/v/own.m3u8"), 1);
    let client = reqwest::Client::builder();
    let client = client.redirect(reqwest::redirect::Policy::none()).build();
    let client = client.unwrap();
    for viewer in ["ann", "ben"] {
        let request = client.get(proxy.url(&format!("/live/{viewer}/v/moved.m4s")));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 301);
        assert_eq!(header(&answer, "location"), format!("/live/{viewer}/v/x"));
    }
}

#[tokio::test]
async fn a_redirect_is_no_word_on_a_token() {
    let (_guarded, origin) = Guarded::with(&["ann"]);
    origin.on("/live/eve/v/seg-1.m4s", |_| async {
        respond(302, &[("location", "/login")], "")
    });
    origin.put("/login", &[KEPT], "who are you?");
    let proxy = Proxy::start_with(origin, below_live).await;
    assert_eq!(proxy.get("/live/ann/v/seg-1.m4s").await.status(), 200);
    assert_eq!(proxy.get("/live/eve/v/seg-1.m4s").await.status(), 403);
}

#[tokio::test]
async fn an_encoded_slash_lets_nobody_put_other_objects_in_their_place() {
    let (guarded, origin) = Guarded::with(&["ann"]);
    // It reads the slash as one.
    origin.put("/live/ann%2Fother/v/seg-1.m4s", &[KEPT], "another object");
    let proxy = Proxy::start_with(origin, below_live).await;
    let other = proxy.text("/live/ann%2Fother/v/seg-1.m4s").await;
    assert_eq!(other, "another object");
    let answer = proxy.get("/live/ann/v/seg-1.m4s").await;
    assert_eq!(answer.bytes().await.unwrap(), segment(1, 50_000));
    assert_eq!(guarded.count("GET /live/ann/v/seg-1.m4s"), 1);
}

#[tokio::test]
async fn without_checks_everybody_gets_what_is_kept_and_errors_are_for_one() {
    let (guarded, origin) = Guarded::with(&["ann"]);
    let proxy = Proxy::start_with(origin, |config| {
        below_live(config);
        config.path_tokens[0].check = false;
    })
    .await;
    for (path, status) in [
        ("/live/eve/v/seg-1.m4s", 403),
        ("/live/ann/v/seg-1.m4s", 200),
        ("/live/eve/v/seg-1.m4s", 200),
        ("/live/ann/v/gone.m4s", 404),
        ("/live/ann/v/gone.m4s", 404),
    ] {
        assert_eq!(proxy.get(path).await.status(), status, "{path}");
    }
    assert_eq!(guarded.count("GET /live/ann/v/gone.m4s"), 2);
    assert_eq!(guarded.requests(), 4);
}

#[tokio::test]
async fn tokens_are_in_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.json");
    let path = file.clone();
    let (_guarded, origin) = Guarded::with(&["ann"]);
    let proxy = Proxy::start_with(origin, |config| {
        below_live(config);
        config.log.access_file = Some(path);
    })
    .await;
    proxy.get("/live/ann/v/seg-1.m4s").await;
    let written = async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if text.contains('\n') {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(20), written).await;
    let text = text.expect("a line");
    assert!(text.contains("\"/live/~/v/seg-1.m4s\""), "{text}");
    assert!(!text.contains("ann"), "{text}");
}

//! Who may join.

use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tracker::{
    OnFailure, PermissionConfig, StreamName, TokensConfig,
    tokens::{self, Claims, KeyKind},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A folder with a public key, and what signs with its private half.
pub(super) fn issuer() -> (TempDir, impl Fn(Claims) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let pair = tokens::new_key_pair(KeyKind::P256).unwrap();
    fs::write(folder.path().join("k1.pem"), pair.public_pem).unwrap();
    let mint = move |claims| tokens::mint(&pair.private_pem, Some("k1"), &claims).unwrap();
    (folder, mint)
}

pub(super) fn with_tokens(folder: &TempDir) -> Config {
    Config {
        tokens: TokensConfig {
            keys: Some(folder.path().into()),
            ..TokensConfig::default()
        },
        ..config()
    }
}

pub(super) fn claims() -> Claims {
    tokens::claims_for(StreamName::Shoal(STREAM), HOUR)
}

async fn joins_with(tracker: &Tracker, token: &str) -> Viewer {
    let mut viewer = tracker.connect().await;
    let token = token.as_bytes();
    viewer.join(&Join { token, ..join() }).await;
    viewer
}

async fn refused_with(tracker: &Tracker, token: &[u8], code: RefusalCode) {
    let mut viewer = tracker.connect().await;
    viewer
        .send(&ViewerMsg::Join(Join { token, ..join() }))
        .await;
    viewer.expect_refusal(code).await;
}

#[tokio::test]
async fn viewers_with_a_signed_token_join_and_others_do_not() {
    let (folder, mint) = issuer();
    let tracker = start(with_tokens(&folder)).await;
    let good = mint(claims());
    joins_with(&tracker, &good).await;
    let elsewhere = StreamName::Shoal(StreamId([9; 16]));
    let other = mint(tokens::claims_for(elsewhere, HOUR));
    for token in [b"".as_slice(), b"\xff\xff", &[b'x'; 2048], other.as_bytes()] {
        refused_with(&tracker, token, RefusalCode::BadToken).await;
    }
    let in_address = tracker
        .connect_at(&format!("/shoal?x=1&token={good}"))
        .await;
    in_address.unwrap().join(&join()).await;
    let mut both = tracker
        .connect_at(&format!("/shoal?token={good}"))
        .await
        .unwrap();
    let token = b"wrong";
    both.send(&ViewerMsg::Join(Join { token, ..join() })).await;
    both.expect_refusal(RefusalCode::BadToken).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_token_may_make_a_viewer_a_leech() {
    let (folder, mint) = issuer();
    let tracker = start(with_tokens(&folder)).await;
    let leech = mint(Claims {
        p2p: Some("leech".into()),
        ..claims()
    });
    let _leech = joins_with(&tracker, &leech).await;
    let mut giver = joins_with(&tracker, &mint(claims())).await;
    assert!(giver.introduction().await.flags.has(ViewerFlags::LEECH));
    tracker.stop().await;
}

#[tokio::test]
async fn a_token_that_is_passed_on_is_of_little_use() {
    let (folder, mint) = issuer();
    let limits = LimitsConfig {
        connections_per_token_max: 2,
        joins_per_token_max: 3,
        ..limits()
    };
    let tracker = start(Config {
        limits,
        ..with_tokens(&folder)
    })
    .await;
    let token = mint(claims());
    let (mut first, _second) = (
        joins_with(&tracker, &token).await,
        joins_with(&tracker, &token).await,
    );
    refused_with(&tracker, token.as_bytes(), RefusalCode::Quota).await;
    first.send(&ViewerMsg::Leave).await;
    while first.next().await.is_some() {}
    let mut third = tracker.connect().await;
    let again = Join {
        token: token.as_bytes(),
        ..join()
    };
    third.join(&again).await;
    drop(third);
    refused_with(&tracker, token.as_bytes(), RefusalCode::Quota).await;
    let own = mint(Claims {
        sub: Some("somebody else".into()),
        ..claims()
    });
    joins_with(&tracker, &own).await;
    tracker.stop().await;
}

#[tokio::test]
async fn all_connections_of_a_token_say_no_more_than_one_may() {
    let (folder, mint) = issuer();
    let limits = LimitsConfig {
        messages_per_token_burst: 20,
        messages_per_token_per_s: 0,
        ..limits()
    };
    let tracker = start(Config {
        limits,
        ..with_tokens(&folder)
    })
    .await;
    let token = mint(claims());
    let own = mint(Claims {
        sub: Some("somebody else".into()),
        ..claims()
    });
    let mut first = joins_with(&tracker, &token).await;
    let mut second = joins_with(&tracker, &token).await;
    let mut other = joins_with(&tracker, &own).await;
    for _ in 0..12 {
        other.status(Status::default()).await;
        first.status(Status::default()).await;
    }
    first.send(&ViewerMsg::Leave).await;
    while first.next().await.is_some() {}
    // What the first one has left is too little.
    for _ in 0..12 {
        second.status(Status::default()).await;
    }
    second.expect_refusal(RefusalCode::Quota).await;
    for _ in 0..6 {
        other.status(Status::default()).await;
    }
    other.send(&ViewerMsg::Leave).await;
    while let Some(bytes) = other.next().await {
        let heard = TrackerMsg::decode(&bytes).unwrap();
        assert!(!matches!(heard, TrackerMsg::Refused { .. }), "{heard:?}");
    }
    assert_eq!(tracker.metric("over_quota_total").await, 1);
    tracker.stop().await;
}

#[tokio::test]
async fn a_viewer_that_is_in_stays_when_its_token_ends_and_needs_another_to_come_back() {
    let (folder, mint) = issuer();
    let tokens = TokensConfig {
        skew_s: 0,
        ..with_tokens(&folder).tokens
    };
    let tracker = start(Config {
        tokens,
        ..with_tokens(&folder)
    })
    .await;
    let short = mint(tokens::claims_for(
        StreamName::Shoal(STREAM),
        Duration::from_secs(2),
    ));
    let mut viewer = tracker.connect().await;
    let token = short.as_bytes();
    let (peer, secret, _) = viewer.join(&Join { token, ..join() }).await;
    // The clock of tokens is the machine's: the end has to come.
    loop {
        let mut late = tracker.connect().await;
        late.send(&ViewerMsg::Join(Join { token, ..join() })).await;
        let answer = late.next().await.unwrap();
        if matches!(TrackerMsg::decode(&answer), Ok(TrackerMsg::Refused { .. })) {
            break;
        }
        late.send(&ViewerMsg::Leave).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let long = mint(claims());
    let mut other = joins_with(&tracker, &long).await;
    assert_eq!(other.introduction().await.peer, peer, "it is still there");
    drop(viewer);
    let resume = Some((peer, secret));
    let mut back = tracker.connect().await;
    back.send(&ViewerMsg::Join(Join {
        token,
        resume,
        ..join()
    }))
    .await;
    back.expect_refusal(RefusalCode::BadToken).await;
    let mut back = tracker.connect().await;
    let token = long.as_bytes();
    let (again, ..) = back
        .join(&Join {
            token,
            resume,
            ..join()
        })
        .await;
    assert_eq!(again, peer, "with a new token it is the same viewer");
    tracker.stop().await;
}

/// The code block of a language in the operator's manual.
fn from_the_manual(language: &str) -> String {
    let manual = include_str!("../../../docs/operating/tokens.md");
    let begin = format!("```{language}\n");
    let (_, rest) = manual.split_once(&begin).expect("the block is there");
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_manuals_back_end_in_node_mints_tokens_that_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    let pair = tokens::new_key_pair(KeyKind::Ed25519).unwrap();
    fs::write(folder.path().join("2026-11.key"), pair.private_pem).unwrap();
    fs::write(keys.path().join("2026-11.pem"), pair.public_pem).unwrap();
    let print = format!("console.log(tokenFor(\"{STREAM}\", \"anna\"));\n");
    fs::write(
        folder.path().join("mint.mjs"),
        from_the_manual("js") + &print,
    )
    .unwrap();
    let run = std::process::Command::new("node")
        .arg("mint.mjs")
        .current_dir(folder.path())
        .output()
        .expect("Node.js is installed");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let token = String::from_utf8(run.stdout).unwrap();
    let tracker = start(with_tokens(&keys)).await;
    joins_with(&tracker, token.trim()).await;
    tracker.stop().await;
}

/// An operator's back end: answers by the token, and counts.
struct BackEnd {
    url: String,
    asked: Arc<AtomicUsize>,
    /// Answers that may go out.
    gate: Arc<Semaphore>,
}

async fn back_end(gate: usize) -> BackEnd {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/may-join", listener.local_addr().unwrap());
    let (asked, gate) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Semaphore::new(gate)),
    );
    let (count, open) = (Arc::clone(&asked), Arc::clone(&gate));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (count, open) = (Arc::clone(&count), Arc::clone(&open));
            let service = service_fn(move |request| {
                count.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                async move {
                    let _open = open.acquire().await;
                    Ok::<_, Infallible>(decide(request).await)
                }
            });
            let serve = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::spawn(serve);
        }
    });
    BackEnd { url, asked, gate }
}

async fn decide(request: Request<Incoming>) -> Response<Full<Bytes>> {
    assert_eq!(request.headers()["authorization"], "Bearer our secret");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(asked["stream"], STREAM.to_string());
    assert_eq!(asked["address"], "127.0.0.1");
    let (status, body) = match asked["token"].as_str().unwrap() {
        "good" => (
            200,
            r#"{"decision":"allow","ttl_s":60,"more":1}"#.to_owned(),
        ),
        "once" => (200, r#"{"decision":"allow","ttl_s":0}"#.to_owned()),
        "leech" => (200, r#"{"decision":"leech"}"#.to_owned()),
        "bad" => (200, r#"{"decision":"deny"}"#.to_owned()),
        "error" => (500, String::new()),
        "endless" => (200, " ".repeat(1_000_000)),
        _ => (200, "rubbish".to_owned()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status.try_into().unwrap();
    answer
}

fn asking(back_end: &BackEnd) -> Config {
    Config {
        permission: PermissionConfig {
            url: Some(back_end.url.clone()),
            bearer: Some("our secret".into()),
            timeout_ms: 10_000,
            failure_ttl_ms: 60_000,
            ..PermissionConfig::default()
        },
        ..config()
    }
}

#[tokio::test]
async fn the_back_end_decides_and_its_answers_are_remembered() {
    let back_end = back_end(1000).await;
    let tracker = start(asking(&back_end)).await;
    let asked = || back_end.asked.load(Ordering::SeqCst);
    joins_with(&tracker, "good").await;
    joins_with(&tracker, "good").await;
    assert_eq!(asked(), 1, "remembered");
    refused_with(&tracker, b"bad", RefusalCode::BadToken).await;
    refused_with(&tracker, b"bad", RefusalCode::BadToken).await;
    assert_eq!(asked(), 2);
    joins_with(&tracker, "once").await;
    joins_with(&tracker, "once").await;
    assert_eq!(asked(), 4, "an answer may forbid it");
    for token in [b"error".as_slice(), b"endless", b"rubbish"] {
        refused_with(&tracker, token, RefusalCode::Unavailable).await;
    }
    assert_eq!(tracker.metric("permission_asked_total").await, 7);
    assert_eq!(tracker.metric("permission_failed_total").await, 3);
    let _leech = joins_with(&tracker, "leech").await;
    let mut giver = joins_with(&tracker, "good").await;
    let mut flags = Vec::new();
    while !flags.contains(&true) {
        flags.push(giver.introduction().await.flags.has(ViewerFlags::LEECH));
    }
    tracker.stop().await;
}

#[tokio::test]
async fn joins_that_ask_the_same_share_one_request() {
    let back_end = back_end(0).await;
    let tracker = start(asking(&back_end)).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut viewer = tracker.connect().await;
        let token = b"good";
        viewer
            .send(&ViewerMsg::Join(Join { token, ..join() }))
            .await;
        waiting.push(viewer);
    }
    back_end.gate.add_permits(1000);
    for viewer in &mut waiting {
        let bytes = viewer.next().await.unwrap();
        assert!(matches!(
            TrackerMsg::decode(&bytes),
            Ok(TrackerMsg::Welcome(_))
        ));
    }
    assert_eq!(back_end.asked.load(Ordering::SeqCst), 1);
    tracker.stop().await;
}

#[tokio::test]
async fn without_an_answer_the_policy_counts() {
    let silent = back_end(0).await;
    let gone = BackEnd {
        url: "http://127.0.0.1:1/".into(),
        ..back_end(0).await
    };
    for back_end in [silent, gone] {
        for on_failure in [OnFailure::Closed, OnFailure::Open] {
            let mut config = asking(&back_end);
            config.permission.timeout_ms = 200;
            config.permission.on_failure = on_failure;
            let tracker = start(config).await;
            match on_failure {
                OnFailure::Open => drop(joins_with(&tracker, "x").await),
                OnFailure::Closed => {
                    refused_with(&tracker, b"x", RefusalCode::Unavailable).await;
                    refused_with(&tracker, b"x", RefusalCode::Unavailable).await;
                }
            }
            tracker.stop().await;
        }
    }
}

#[tokio::test]
async fn whom_a_busy_tracker_cannot_ask_for_does_not_count_as_a_failure_of_the_back_end() {
    let silent = back_end(0).await;
    let mut config = asking(&silent);
    config.permission.timeout_ms = 1_000;
    config.permission.on_failure = OnFailure::Open;
    config.permission.requests_per_address_max = 1;
    let tracker = start(config).await;
    let mut waiting = Vec::new();
    for number in 0..6 {
        let mut viewer = tracker.connect().await;
        let token = format!("junk {number}");
        let token = token.as_bytes();
        viewer
            .send(&ViewerMsg::Join(Join { token, ..join() }))
            .await;
        waiting.push(viewer);
    }
    let mut refused = 0;
    for viewer in &mut waiting {
        let bytes = viewer.next().await.unwrap();
        refused += match TrackerMsg::decode(&bytes).unwrap() {
            TrackerMsg::Refused { code, .. } => {
                assert_eq!(code, RefusalCode::Unavailable);
                1
            }
            _ => 0,
        };
    }
    // The first one's failure is the back end's, and the next has its turn then.
    assert!((4..6).contains(&refused), "{refused}");
    assert_eq!(tracker.metric("permission_busy_total").await, refused);
    let late = tracker.metric("permission_late_total").await;
    assert_eq!(late, tracker.metric("permission_failed_total").await);
    tracker.stop().await;
}

#[tokio::test]
async fn tokens_that_the_back_end_accepts_have_quotas_too() {
    let back_end = back_end(1000).await;
    let mut config = asking(&back_end);
    config.limits.connections_per_token_max = 2;
    let tracker = start(config).await;
    let _viewers = (
        joins_with(&tracker, "good").await,
        joins_with(&tracker, "good").await,
    );
    refused_with(&tracker, b"good", RefusalCode::Quota).await;
    joins_with(&tracker, "once").await;
    tracker.stop().await;
}

#[tokio::test]
async fn the_back_end_is_asked_for_the_token_that_was_put_into_the_address() {
    let back_end = back_end(1000).await;
    let tracker = start(asking(&back_end)).await;
    let mut viewer = tracker.connect_at("/shoal?token=%67oo%64").await.unwrap();
    viewer.join(&join()).await;
    tracker.stop().await;
}

#[tokio::test]
async fn a_kicked_viewer_is_known_by_its_token_and_its_neighbours_stay() {
    let (folder, mint) = issuer();
    let mut config = with_tokens(&folder);
    config.admin_token = Some("secret".into());
    let tracker = start(config).await;
    let token_of = |sub: &str| {
        mint(Claims {
            sub: Some(sub.into()),
            ..claims()
        })
    };
    let mut viewer = tracker.connect().await;
    let anna = token_of("anna");
    let joins = Join {
        token: anna.as_bytes(),
        ..join()
    };
    let (peer, ..) = viewer.join(&joins).await;
    let path = format!("/api/viewers/{peer}/kick");
    let bearer = "Authorization: Bearer secret\r\n";
    assert_eq!(tracker.exchange("POST", &path, bearer, "").await.0, 200);
    viewer.expect_refusal(RefusalCode::NotServed).await;
    refused_with(&tracker, anna.as_bytes(), RefusalCode::NotServed).await;
    joins_with(&tracker, &token_of("bert")).await;
    tracker.stop().await;
}

#[tokio::test]
async fn pages_below_a_host_may_connect_and_who_hides_its_origin_may_not() {
    let tracker = start(Config {
        origins: vec!["https://*.good.example".into()],
        origin_needed: true,
        ..config()
    })
    .await;
    for (headers, allowed) in [
        (vec![("Origin", "https://www.good.example")], true),
        (vec![("Origin", "https://good.example.evil.example")], false),
        (vec![("Origin", "https://good.example")], false),
        (vec![], false),
    ] {
        let connected = tracker.connect_with(&headers).await;
        assert_eq!(connected.is_ok(), allowed, "{headers:?}");
        if let Err(error) = connected {
            assert!(error.to_string().contains("403"), "{error}");
        }
    }
    tracker.stop().await;
}

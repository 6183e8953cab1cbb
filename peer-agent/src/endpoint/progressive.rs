//! What a player gets that plays segments while they arrive, from an origin that takes its time.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use axum::routing::get;
use swarm_core::record::{RECORD_HEADER, Record};

use super::*;
use crate::testing::{key, signed, stream};
use crate::{Agent, Config};

const LEN: usize = 60_000;
/// What the origin sends at once: two pieces, and a part of one.
const AT_ONCE: usize = 40_000;

/// An origin of one segment that holds back its end, and an agent before it.
struct Case {
    agent: Agent,
    url: String,
    http: reqwest::Client,
    go_on: watch::Sender<bool>,
    body: Vec<u8>,
}

impl Case {
    /// `change` makes what the origin sends from what it has signed.
    async fn start(change: impl Fn(&mut [u8])) -> Self {
        let body: Vec<u8> = (0..LEN as u32).map(|i| (i / 3) as u8).collect();
        let record = signed("/seg-1.m4s", &body);
        let mut sent = body.clone();
        change(&mut sent);
        let (go_on, may_go_on) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cdn = format!("http://{}", listener.local_addr().unwrap());
        let playlist = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n\
             #EXT-X-SHOAL:V=1,STREAM={}\n#EXTINF:2,\nseg-1.m4s\n",
            stream()
        );
        let origin = Router::new()
            .route("/main.m3u8", get(async move || playlist))
            .route(
                "/seg-1.m4s",
                get(async move || slow(&record, sent, may_go_on)),
            );
        tokio::spawn(async move { axum::serve(listener, origin).await });
        let config = Config {
            stream: format!("{cdn}/main.m3u8"),
            tracker: "ws://127.0.0.1:9/".into(),
            listen: ([127, 0, 0, 1], 0).into(),
            public_keys: vec![hex::encode(key().verifying_key().to_bytes())],
            trust_cdn: false,
            progressive_ms: 500,
            ..Config::default()
        };
        let agent = Agent::start(config).await.unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::new();
        http.get(agent.endpoint_url()).send().await.unwrap();
        Self {
            url: agent.endpoint_url_of("/seg-1.m4s").unwrap(),
            agent,
            http,
            go_on,
            body,
        }
    }

    /// Asks for the segment and takes what there is of it while the origin holds back the rest.
    async fn begin(&self) -> (reqwest::Response, Vec<u8>) {
        let mut response = self.http.get(&self.url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.content_length(), Some(LEN as u64));
        let mut bytes = Vec::new();
        while bytes.len() < AT_ONCE / 2 {
            bytes.extend_from_slice(&response.chunk().await.unwrap().unwrap());
        }
        (response, bytes)
    }
}

fn slow(record: &Record, mut body: Vec<u8>, mut go_on: watch::Receiver<bool>) -> Response {
    let rest = body.split_off(AT_ONCE);
    let first = futures_util::stream::once(async move { Ok::<_, Infallible>(Bytes::from(body)) });
    let rest = futures_util::stream::once(async move {
        let _ = go_on.wait_for(|go_on| *go_on).await;
        Ok(Bytes::from(rest))
    });
    let stream = futures_util::StreamExt::chain(first, rest);
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, LEN.into());
    headers.insert(RECORD_HEADER, record.to_header().parse().unwrap());
    response
}

#[tokio::test]
async fn bytes_come_before_the_segment_is_whole_and_are_the_origins() {
    let case = Case::start(|_| {}).await;
    let (mut response, mut bytes) = case.begin().await;
    assert!(bytes.len() <= AT_ONCE, "the origin has sent no more");
    let head = case.http.head(&case.url).send().await.unwrap();
    assert_eq!(head.headers()[CONTENT_LENGTH], LEN.to_string().as_str());
    case.go_on.send_replace(true);
    while let Some(chunk) = response.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, case.body);
    let part = case.http.get(&case.url).header(RANGE, "bytes=100-40099");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    let said = format!("bytes 100-40099/{LEN}");
    assert_eq!(part.headers()[CONTENT_RANGE], said.as_str());
    assert_eq!(part.bytes().await.unwrap(), case.body[100..40_100]);
    assert_eq!(case.agent.stats().bytes_bypassed, 0);
    case.agent.shutdown().await;
}

#[tokio::test]
async fn a_content_that_changes_on_the_way_breaks_off() {
    let case = Case::start(|sent| sent[LEN - 1] ^= 1).await;
    let (mut response, mut bytes) = case.begin().await;
    case.go_on.send_replace(true);
    let broken = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken, "the player must notice");
    assert!(bytes.len() < LEN);
    assert_eq!(bytes, case.body[..bytes.len()]);
    case.agent.shutdown().await;
}

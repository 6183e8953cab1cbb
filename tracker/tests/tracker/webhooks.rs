//! A real receiver of webhooks.

use super::*;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::{io::AsyncBufReadExt, io::BufReader, sync::mpsc};
use tracker::WebhooksConfig;

pub(super) const SECRET: &str = "what both sides know";

/// One request as the receiver saw it.
pub(super) struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        let line = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }

    pub(super) fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn assert_signed(&self) {
        let timestamp = self.header("shoal-timestamp");
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(format!("{timestamp}.{}", self.body).as_bytes());
        let expected = hex::encode(mac.finalize().into_bytes());
        assert_eq!(self.header("shoal-signature"), format!("v1={expected}"));
        assert!(timestamp.parse::<u64>().unwrap() > 1_700_000_000);
    }
}

/// Takes requests and answers them with these status codes, the last one for all that follow.
pub(super) async fn receiver(
    statuses: &'static [u16],
) -> (String, mpsc::UnboundedReceiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut statuses = statuses.iter();
        let mut status = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).await.unwrap() > 0);
            }
            let head = head.replace("\r\n", "\n");
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            status = *statuses.next().unwrap_or(&status);
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let body = String::from_utf8(body).unwrap();
            if sender.send(Request { head, body }).is_err() {
                return;
            }
        }
    });
    (url, requests)
}

pub(super) async fn next(requests: &mut mpsc::UnboundedReceiver<Request>) -> Request {
    timeout(PATIENCE, requests.recv()).await.unwrap().unwrap()
}

async fn start_telling(url: String) -> Tracker {
    start(Config {
        webhooks: WebhooksConfig {
            urls: vec![url],
            secret: Some(SECRET.into()),
            end_after_ms: 200,
            retry_after_ms: 10,
            attempts_max: 3,
            ..WebhooksConfig::default()
        },
        ..config()
    })
    .await
}

#[tokio::test]
async fn starts_and_ends_are_told_signed_and_again_until_they_are_taken() {
    let (url, mut requests) = receiver(&[500, 429, 204]).await;
    let tracker = start_telling(url).await;
    let (mut viewer, ..) = tracker.join().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = next(&mut requests).await;
        request.assert_signed();
        let event = request.event();
        assert_eq!(event["event"], "stream.start");
        assert_eq!(event["stream"], STREAM.to_string());
        assert!(event["started_at_ms"].as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!(event["id"], request.header("shoal-delivery"));
        ids.push(event["id"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same event");
    let status = Status {
        track: TrackId(1),
        bytes_p2p: 300,
        bytes_cdn: 100,
        ..Status::default()
    };
    viewer.status(status).await;
    let told = async || tracker.metric("stream_bytes_p2p").await == 300;
    while !told().await {
        tokio::task::yield_now().await;
    }
    // The look that finds another stream has seen this one's sums.
    let mut elsewhere = tracker.connect().await;
    let stream = StreamId([4; 16]);
    elsewhere.join(&Join { stream, ..join() }).await;
    assert_eq!(
        next(&mut requests).await.event()["stream"],
        stream.to_string()
    );
    viewer.send(&ViewerMsg::Leave).await;
    let request = next(&mut requests).await;
    request.assert_signed();
    let event = request.event();
    assert_eq!(event["event"], "stream.end");
    assert_eq!(event["viewers_max"], 1);
    assert_eq!(
        (&event["bytes_p2p"], &event["offload"]),
        (&300.into(), &0.75.into())
    );
    assert!(event["ended_at_ms"].as_u64() > event["started_at_ms"].as_u64());
    while tracker.metric("webhooks_sent_total").await < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tracker.metric("webhooks_failed_total").await, 2);
    assert_eq!(tracker.metric("webhooks_dropped_total").await, 0);
    tracker.stop().await;
}

#[tokio::test]
async fn what_is_refused_or_fails_too_often_is_given_up() {
    for (statuses, attempts) in [(&[403][..], 1), (&[503], 3)] {
        let (url, mut requests) = receiver(statuses).await;
        let tracker = start_telling(url).await;
        let (_viewer, ..) = tracker.join().await;
        for _ in 0..attempts {
            next(&mut requests).await;
        }
        while tracker.metric("webhooks_dropped_total").await == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tracker.metric("webhooks_failed_total").await, attempts);
        assert!(requests.try_recv().is_err(), "no more attempts");
        tracker.stop().await;
    }
}

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use swarm_core::id::{SegmentId, TrackId};
use tokio::net::TcpListener;

use super::*;
use crate::config::Timeouts;
use crate::testing::{key, signed, stream};

const PATH: &str = "/live/seg-1.m4s";
const FETCH: FetchId = FetchId(7);

/// Serves every request with `answer` and gives the origin's URL.
async fn serve(answer: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    let app = axum::Router::new().fallback(move |request: Request<Body>| {
        let answer = answer.clone();
        async move { answer(request) }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// Everything that a fetch leads to.
struct Fetched {
    done: Done,
    records: usize,
    pieces: Vec<u8>,
    store: Arc<Store>,
}

async fn fetch(origin: &str, range: Option<(u32, u32)>) -> Fetched {
    fetch_with(origin, range, Store::new(64 << 20)).await
}

async fn fetch_with(origin: &str, range: Option<(u32, u32)>, store: Store) -> Fetched {
    let millis = Duration::from_millis;
    let timeouts = Timeouts {
        connect: millis(300),
        first_byte: millis(300),
        stall: millis(300),
    };
    let trust = Trust::new(&[key().verifying_key().to_bytes()]);
    trust.set_stream(stream());
    let store = Arc::new(store);
    let (events, mut heard) = mpsc::channel(1024);
    let origin_client = Origin::new(timeouts).unwrap();
    let fetcher = Fetcher {
        origin: origin_client,
        trust,
        store: store.clone(),
        events,
    };
    let located = Located {
        url: format!("{origin}{PATH}?token=1"),
        range: None,
        track: TrackId(1),
        seq: 1,
        duration_ms: 2000,
    };
    let (name, bytes) = (Name::of(PATH), Arc::default());
    fetcher
        .run(Job {
            fetch: FETCH,
            name,
            located,
            range,
            bytes,
        })
        .await;
    let (mut records, mut pieces) = (0, vec![]);
    loop {
        match heard.recv().await.unwrap() {
            FetchEvent::Record { .. } => records += 1,
            FetchEvent::Piece {
                record,
                index,
                bytes,
                ..
            } => {
                assert!(records > 0 && record.verify_piece(index.into(), &bytes));
                pieces.push(index);
            }
            FetchEvent::Done(done) => {
                return Fetched {
                    done,
                    records,
                    pieces,
                    store,
                };
            }
        }
    }
}

fn body() -> Vec<u8> {
    (0..50_000u32).map(|i| (i * 7 % 251) as u8).collect()
}

fn ok(record: Option<&Record>, body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder();
    let response = match record {
        Some(record) => response.header(RECORD_HEADER, record.to_header()),
        None => response,
    };
    response.body(body.into()).unwrap()
}

/// An origin that knows ranges.
fn ranged(request: &Request<Body>, record: &Record) -> Response<Body> {
    let body = body();
    let text = request.headers().get("range").unwrap().to_str().unwrap();
    let (first, last) = text
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse::<usize>().unwrap().min(body.len() - 1);
    let mut response = ok(Some(record), body[first..=last].to_vec());
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let range = format!("bytes {first}-{last}/{}", body.len())
        .parse()
        .unwrap();
    response.headers_mut().insert("content-range", range);
    response
}

#[tokio::test]
async fn a_signed_segment_arrives_as_verified_pieces() {
    let origin = serve(|_| ok(Some(&signed(PATH, &body())), body())).await;
    let fetched = fetch(&origin, None).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Verified);
    assert_eq!((fetched.records, fetched.pieces), (1, vec![0, 1, 2, 3]));
    assert_eq!(fetched.done.bytes, 50_000);
    assert!(fetched.done.ttfb_ms <= fetched.done.total_ms);
}

#[tokio::test]
async fn ranges_bring_their_pieces_whether_or_not_the_cdn_knows_ranges() {
    let record = signed(PATH, &body());
    let origin = serve(move |request| ranged(&request, &record)).await;
    let fetched = fetch(&origin, Some((16_384, 16_384))).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Verified);
    assert_eq!((fetched.pieces, fetched.done.bytes), (vec![1], 16_384));
    let fetched = fetch(&origin, Some((32_768, 1_000_000))).await;
    assert_eq!(
        (fetched.done.outcome, fetched.pieces),
        (FetchOutcome::Verified, vec![2, 3])
    );
    let fetched = fetch(&origin, Some((10, 16_384))).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Unverified);

    let origin = serve(|_| ok(Some(&signed(PATH, &body())), body())).await;
    let fetched = fetch(&origin, Some((16_384, 16_384))).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Verified);
    assert_eq!(
        fetched.pieces[..2],
        [0, 1],
        "what comes before the range is of use as well"
    );
}

#[tokio::test]
async fn a_range_of_other_bytes_than_asked_for_is_a_failure() {
    let record = signed(PATH, &body());
    let origin = serve(move |_| {
        let mut response = ok(Some(&record), body()[..16_384].to_vec());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = "bytes 0-16383/50000".parse().unwrap();
        response.headers_mut().insert("content-range", range);
        response
    });
    let fetched = fetch(&origin.await, Some((16_384, 16_384))).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Failed);
    assert!(fetched.pieces.is_empty());
}

#[tokio::test]
async fn without_a_valid_record_the_body_is_kept_apart() {
    let mut forged = signed(PATH, &body());
    forged.signature[0] ^= 1;
    let other_name = signed("/live/seg-2.m4s", &body());
    let other_length = signed(PATH, &body()[1..]);
    for record in [None, Some(forged), Some(other_name), Some(other_length)] {
        let origin = serve(move |_| ok(record.as_ref(), body())).await;
        let fetched = fetch(&origin, None).await;
        assert_eq!(fetched.done.outcome, FetchOutcome::Unverified);
        assert_eq!((fetched.records, fetched.pieces.len()), (0, 0));
        assert_eq!(fetched.store.body(FETCH).unwrap().chunks.concat(), body());
    }
}

#[tokio::test]
async fn bytes_that_differ_from_the_record_may_be_played_but_are_never_verified() {
    let mut wrong = body();
    wrong[20_000] ^= 1;
    let sent = wrong.clone();
    let origin = serve(move |_| ok(Some(&signed(PATH, &body())), sent.clone())).await;
    let fetched = fetch(&origin, None).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Unverified);
    assert_eq!(fetched.pieces, [0]);
    assert_eq!(fetched.store.body(FETCH).unwrap().chunks.concat(), wrong);
    assert!(fetched.store.whole(SegmentId(0)).is_none());
}

#[tokio::test]
async fn a_record_known_from_elsewhere_verifies_an_answer_without_one() {
    let store = Store::new(64 << 20);
    store.add_record(Arc::new(signed(PATH, &body())));
    let origin = serve(|_| ok(None, body())).await;
    let fetched = fetch_with(&origin, None, store).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Verified);
}

#[tokio::test]
async fn errors_say_what_the_cdn_said() {
    let origin = serve(|_| {
        let mut response = ok(None, "not yet");
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    });
    let fetched = fetch(&origin.await, None).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Failed);
    assert_eq!(fetched.done.status, StatusCode::NOT_FOUND);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let fetched = fetch(&nobody, None).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Failed);
    assert_eq!(fetched.done.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_stands_still_fails_in_time() {
    for stalls in [false, true] {
        let origin = serve(move |_| {
            let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(4);
            sender
                .try_send(Ok(body()[..20_000].to_vec().into()))
                .unwrap();
            if stalls {
                tokio::spawn(async move { sender.closed().await });
            } else {
                // Not before the first bytes have left.
                let broken = Err(std::io::Error::other("broken"));
                let later = tokio::time::sleep(Duration::from_millis(100));
                tokio::spawn(async move {
                    later.await;
                    let _ = sender.send(broken).await;
                });
            }
            let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
            ok(Some(&signed(PATH, &self::body())), body)
        });
        let fetched = fetch(&origin.await, None).await;
        assert_eq!(fetched.done.outcome, FetchOutcome::Failed);
        assert_eq!(fetched.pieces, [0], "what was whole is of use");
        assert!(fetched.done.total_ms < 3000);
    }
}

#[tokio::test]
async fn a_silent_origin_fails_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let fetched = fetch(&origin, None).await;
    assert_eq!(fetched.done.outcome, FetchOutcome::Failed);
    assert_eq!(fetched.done.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let redirect = |to: String| {
        let response = Response::builder().status(302).header("location", to);
        response.body(Body::empty()).unwrap()
    };
    let origin = serve(move |request| match request.uri().path() {
        PATH => redirect("/elsewhere".into()),
        _ => ok(Some(&signed(PATH, &body())), body()),
    });
    assert_eq!(
        fetch(&origin.await, None).await.done.outcome,
        FetchOutcome::Verified
    );
    let origin = serve(move |_| redirect(PATH.into()));
    assert_eq!(
        fetch(&origin.await, None).await.done.outcome,
        FetchOutcome::Failed
    );
}

#[test]
fn the_cutter_finds_whole_pieces_wherever_the_body_begins() {
    let body = body();
    let record = Arc::new(signed("/a.m4s", &body));
    for (skip, at) in [(0, 0), (0, 16_384), (0, 20_000), (7, 0)] {
        let extent = Extent {
            skip,
            at,
            end: None,
            whole: false,
        };
        let mut cutter = Cutter::new(record.clone(), extent);
        let sent: Vec<u8> = [&vec![0; skip as usize][..], &body[at as usize..], b"more"].concat();
        let mut found = vec![];
        for chunk in sent.chunks(1000) {
            for (index, bytes) in cutter.push(chunk) {
                assert!(record.verify_piece(index.into(), &bytes));
                found.push(index);
            }
        }
        let first = at.div_ceil(16_384) as u8;
        assert_eq!(found, (first..4).collect::<Vec<_>>(), "{skip} {at}");
    }
}

#[test]
fn only_ranges_of_whole_pieces_can_be_verified() {
    let record = signed("/a.m4s", &vec![1; 50_000]);
    assert_eq!(wanted_pieces(None, &record), Some(0b1111));
    assert_eq!(wanted_pieces(Some((16_384, 32_768)), &record), Some(0b110));
    assert_eq!(
        wanted_pieces(Some((32_768, 100_000)), &record),
        Some(0b1100)
    );
    assert_eq!(wanted_pieces(Some((1, 16_384)), &record), None);
    assert_eq!(wanted_pieces(Some((0, 100)), &record), None);
    assert_eq!(wanted_pieces(Some((65_536, 1)), &record), None);
}

//! The driver with the real core, told what the world would tell it.

use bytes::Bytes;
use swarm_core::id::{Name, SegmentId, TrackId};
use swarm_core::peer::{Action, Payload};
use swarm_core::record::Record;
use swarm_core::timeline::{Listed, Parts, SegmentInfo, Track};

use super::*;
use crate::origin::Origin;
use crate::testing::{key, signed, stream};

const PATH: &str = "/seg-1.m4s";
const REQUEST: RequestId = RequestId(1);

/// A driver that does not run by itself, whose player has asked for a segment.
struct Case {
    driver: Driver,
    request: Request,
    record: Arc<Record>,
    body: Vec<u8>,
    /// Fetches that the core makes find somebody who listens.
    _ears: Ears,
}

impl Case {
    fn wanted(grain_ms: u32) -> Self {
        let config = crate::Config {
            stream: "http://127.0.0.1:9/main.m3u8".into(),
            tracker: "ws://127.0.0.1:9/".into(),
            public_keys: vec![hex::encode(key().verifying_key().to_bytes())],
            ..crate::Config::default()
        };
        let checked = config.checked().unwrap();
        let shared = Arc::new(Shared::new(&checked));
        let origin = Origin::new(checked.timeouts).unwrap();
        let (handle, mut driver, ears) = build(&checked, 1, origin, shared.clone());
        let track = track();
        shared.catalog.add(track.track, &track.segments);
        driver.handle_playlist(&[track]);
        let (asker, request) = Request::new(REQUEST, handle.commands());
        driver.handle_want(REQUEST, Name::of_url(PATH), grain_ms, asker);
        let body: Vec<u8> = (0..60_000u32).map(|i| (i / 5) as u8).collect();
        Self {
            driver,
            request,
            record: Arc::new(signed(PATH, &body)),
            body,
            _ears: ears,
        }
    }

    /// The fetch of the segment that the core has made says whose it is, and brings these pieces.
    fn bring(&mut self, indices: impl IntoIterator<Item = u8>) {
        let fetch = *self.driver.fetches.keys().next().expect("the core fetches");
        let record = self.record.clone();
        self.driver.handle_fetch(FetchEvent::Record {
            fetch,
            record: record.clone(),
        });
        for index in indices {
            let pieces: Vec<_> = self.body.chunks(record.piece_len as usize).collect();
            self.driver.handle_fetch(FetchEvent::Piece {
                fetch,
                record: record.clone(),
                index,
                bytes: Bytes::copy_from_slice(pieces[usize::from(index)]),
            });
        }
    }

    fn released(&self, pieces: u8) -> Released {
        let segment = self.record.id();
        Released { segment, pieces }
    }
}

fn track() -> Track {
    let info = SegmentInfo {
        name: Name::of_url(PATH),
        seq: 1,
        duration_ms: 2000,
        content: None,
    };
    Track {
        track: TrackId(1),
        stream: Some(stream()),
        target_ms: 2000,
        ended: false,
        inits: vec![],
        segments: vec![Listed {
            info,
            url: format!("http://127.0.0.1:9{PATH}"),
            range: None,
        }],
        parts: Parts::default(),
    }
}

/// What it hears next; it is there already.
async fn heard(request: &mut Request) -> Next {
    tokio::time::timeout(Duration::from_secs(5), request.next())
        .await
        .expect("there is something to hear")
}

#[tokio::test]
async fn pieces_are_released_in_order_and_the_whole_is_delivered() {
    let mut case = Case::wanted(500);
    case.bring([0, 2]);
    let Next::Released(first) = heard(&mut case.request).await else {
        panic!("nothing is whole yet");
    };
    assert_eq!(first, case.released(1), "what comes after a gap waits");
    case.bring([1]);
    let Next::Released(more) = heard(&mut case.request).await else {
        panic!("nothing is whole yet");
    };
    assert_eq!(more, case.released(3));
    let prefix = case.driver.shared.store.released(more, 0);
    let end = 3 * case.record.piece_len as usize;
    assert_eq!(prefix.chunks.concat(), case.body[..end]);
    case.bring([3]);
    let Next::Answer(Answer::Deliver { payload, media, .. }) = heard(&mut case.request).await
    else {
        panic!("it is whole");
    };
    assert_eq!(payload, Payload::Segment(case.record.id()));
    assert_eq!(media.chunks.concat(), case.body);
}

#[tokio::test]
async fn who_takes_whole_segments_hears_of_nothing_less() {
    let mut case = Case::wanted(0);
    case.bring([0, 1]);
    let early = tokio::time::timeout(Duration::from_millis(1), case.request.next()).await;
    assert!(early.is_err());
    case.bring([2, 3]);
    let last = heard(&mut case.request).await;
    assert!(matches!(last, Next::Answer(Answer::Deliver { .. })));
}

#[tokio::test]
async fn an_answer_after_a_release_comes_first() {
    let mut case = Case::wanted(500);
    case.bring([0]);
    let outbox = Outbox::new();
    case.driver.act(&Action::Bypass(REQUEST), &outbox);
    let next = heard(&mut case.request).await;
    assert!(matches!(next, Next::Answer(Answer::Bypass)));
}

#[tokio::test]
async fn nothing_is_released_to_who_has_gone() {
    let mut case = Case::wanted(500);
    case.bring([0]);
    assert!(
        case.driver
            .handle_command(Some(Command::Abandon(REQUEST)))
            .is_none()
    );
    assert!(case.driver.requests.is_empty());
    let release = Action::Release {
        request: REQUEST,
        segment: SegmentId(1),
        pieces: 2,
    };
    case.driver.act(&release, &Outbox::new());
    let Next::Answer(Answer::Bypass) = heard(&mut case.request).await else {
        panic!("the request is over");
    };
}

#[tokio::test]
async fn who_leaves_fetches_nothing_more() {
    let mut case = Case::wanted(0);
    case.bring([1]);
    assert!(!case.driver.fetches.is_empty());
    case.driver.leave();
    let fetch = Action::FetchCdn {
        fetch: FetchId(7),
        name: Name::of_url(PATH),
        range: Some((0, 10)),
    };
    case.driver.act(&fetch, &Outbox::new());
    assert!(case.driver.fetches.is_empty());
}

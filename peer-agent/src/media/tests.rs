//! Bodies, whoever decides what comes into them.

use swarm_core::id::{RequestId, SegmentId, TrackId};
use swarm_core::peer::Payload;
use swarm_core::record::Record;

use super::*;
use crate::driver::{Asker, Command};
use crate::store::From;
use crate::testing::signed;

const DURATION_MS: u32 = 4000;
const PIECES: u8 = 4;

#[test]
fn cutting_keeps_exactly_the_span() {
    let chunks = || {
        vec![
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"defg"),
        ]
    };
    assert_eq!(cut(chunks(), 0, 7).concat(), b"abcdefg");
    assert_eq!(cut(chunks(), 2, 4).concat(), b"cd");
    assert_eq!(cut(chunks(), 3, 100).concat(), b"defg");
    assert!(cut(chunks(), 7, 9).is_empty());
}

#[test]
fn media_is_counted_in_whole_grains() {
    assert_eq!(media_ms(4000, (0, 100), 500), 0);
    assert_eq!(media_ms(4000, (24, 100), 500), 500);
    assert_eq!(media_ms(4000, (25, 100), 500), 1000);
    assert_eq!(media_ms(3999, (99, 100), 500), 3500);
    assert_eq!(media_ms(3999, (100, 100), 500), 3999);
    assert_eq!(media_ms(4000, (0, 0), 500), 4000, "an empty one is whole");
    assert_eq!(media_ms(4000, (24, 100), 0), 960);
}

/// A player that has asked for a segment, and the driver's end of that.
struct Case {
    gateway: Arc<Gateway>,
    asker: Option<Asker>,
    commands: mpsc::Receiver<Command>,
    record: Arc<Record>,
    body: Vec<u8>,
}

impl Case {
    /// Asks, and has the first piece released.
    async fn begin() -> (Self, Object) {
        let gateway = Arc::new(crate::endpoint::tests::gateway());
        let body: Vec<u8> = (0..60_000u32).map(|i| (i / 7) as u8).collect();
        let record = Arc::new(signed("/seg-1.m4s", &body));
        assert_eq!(record.piece_hashes.len(), usize::from(PIECES));
        let (send, commands) = mpsc::channel(4);
        let (asker, request) = Request::new(RequestId(1), send);
        let waiting = Waiting {
            name: record.name,
            located: Located {
                url: "http://127.0.0.1:9/seg-1.m4s".into(),
                range: None,
                track: TrackId(1),
                seq: 1,
                duration_ms: DURATION_MS,
            },
            request,
            changes: gateway.driver.store().changes(),
            asked: Instant::now(),
            grain_ms: 500,
            options: Options::default(),
            gateway: gateway.clone(),
        };
        gateway.on_asked(TrackId(1));
        gateway.driver.store().add_record(record.clone());
        let case = Self {
            gateway,
            asker: Some(asker),
            commands,
            record,
            body,
        };
        case.release(0);
        let object = waiting.open().await.expect("nothing is asked of the CDN");
        assert_eq!((object.status, object.len), (StatusCode::OK, Some(60_000)));
        (case, object)
    }

    fn piece(&self, index: u8) -> Bytes {
        let pieces: Vec<_> = self.body.chunks(self.record.piece_len as usize).collect();
        Bytes::copy_from_slice(pieces[usize::from(index)])
    }

    fn store(&self, index: u8) {
        let (store, piece) = (self.gateway.driver.store(), self.piece(index));
        store.put(self.record.id(), index.into(), piece, From::Peer);
    }

    /// Stores a piece and says that all up to it may be played.
    fn release(&self, index: u8) {
        self.store(index);
        let asker = self.asker.as_ref().expect("it was not answered yet");
        asker.release(Released {
            segment: self.record.id(),
            pieces: index + 1,
        });
    }

    fn answer(&mut self, answer: Answer) {
        self.asker.take().expect("only once").answer(answer);
    }

    fn deliver(&mut self) {
        let segment = self.record.id();
        let media = self
            .gateway
            .driver
            .store()
            .whole(segment)
            .expect("it is whole");
        self.answer(Answer::Deliver {
            payload: Payload::Segment(segment),
            media,
            reported_bps: 7,
        });
    }

    fn buffer_ms(&self) -> u32 {
        self.gateway.estimate().map_or(0, |player| player.buffer_ms)
    }
}

/// What comes until the body ends, and whether it ends well.
async fn read(object: &mut Object) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(chunk) = object.body.recv().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

#[tokio::test]
async fn what_is_released_comes_in_order_and_then_the_rest() {
    let (mut case, mut object) = Case::begin().await;
    assert!(object.from_peer);
    assert_eq!(object.body.recv().await.unwrap().unwrap(), case.piece(0));
    // What is here, but beyond a gap, is not released.
    case.store(2);
    case.release(1);
    assert_eq!(object.body.recv().await.unwrap().unwrap(), case.piece(1));
    assert!(object.body.try_recv().is_err());
    let half_ms = case.buffer_ms();
    assert!(
        half_ms > 0 && half_ms < DURATION_MS,
        "what was released is counted: {half_ms}"
    );
    case.store(3);
    case.deliver();
    let (rest, well) = read(&mut object).await;
    assert!(well);
    assert_eq!(rest, case.body[2 * case.record.piece_len as usize..]);
    let report = object.report.await.unwrap();
    assert_eq!((report.bytes_p2p, report.reported_bps), (60_000, 7));
    assert!(case.buffer_ms() > half_ms);
}

#[tokio::test]
async fn pieces_are_references_to_the_stores() {
    let (case, mut object) = Case::begin().await;
    let sent = object.body.recv().await.unwrap().unwrap();
    let stored = case.gateway.driver.store().piece(case.record.id(), 0);
    assert_eq!(sent.as_ptr(), stored.unwrap().as_ptr());
}

#[tokio::test]
async fn no_two_contents_are_mixed() {
    let other = Answer::Deliver {
        payload: Payload::Segment(SegmentId(77)),
        media: Media {
            chunks: vec![Bytes::from(vec![9; 60_000])],
            ..Media::default()
        },
        reported_bps: 0,
    };
    let status = StatusCode::NOT_FOUND;
    for answer in [Answer::Bypass, Answer::Fail { status }, other] {
        let (mut case, mut object) = Case::begin().await;
        case.answer(answer);
        let (bytes, well) = read(&mut object).await;
        assert!(!well, "the player must notice");
        assert_eq!(bytes, case.piece(0));
        assert!(object.report.await.is_err());
    }
    let (case, mut object) = Case::begin().await;
    let (segment, pieces) = (SegmentId(77), 2);
    case.asker
        .as_ref()
        .unwrap()
        .release(Released { segment, pieces });
    assert!(!read(&mut object).await.1);
}

#[tokio::test]
async fn a_player_that_goes_away_abandons_at_once() {
    let (mut case, mut object) = Case::begin().await;
    object.body.recv().await.unwrap().unwrap();
    drop(object);
    let told = case.commands.recv().await;
    assert!(matches!(told, Some(Command::Abandon(RequestId(1)))));
    assert!(case.asker.unwrap().is_gone());
}

#[tokio::test]
async fn a_player_that_reads_slowly_holds_up_nobody_and_misses_nothing() {
    let (mut case, mut object) = Case::begin().await;
    for index in 1..PIECES {
        case.release(index);
    }
    case.deliver();
    assert!(object.body.len() <= QUEUE_MAX);
    let (bytes, well) = read(&mut object).await;
    assert!(well && bytes == case.body);
}

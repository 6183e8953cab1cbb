//! A scripted visit, whose every word must be the same natively and as WebAssembly: this test
//! compares with `golden/trace.jsonl`, and `js/test/wasm.test.ts` replays that file in the module.
//! `SHOAL_UPDATE=1` writes it anew.

use player_shim::Shim;
use serde_json::{Value, json};
use swarm_core::{
    id::{Name, PeerId, StreamId},
    record::{Record, piece_hash},
    timeline::{Content, tags},
    wire::{
        peer::{PeerMsg, PeerStatus, Pieces},
        tracker::{Distance, Introduction, TrackerMsg, ViewerFlags, Welcome},
    },
};

const URL: &str = "https://cdn.example/live/v360/index.m3u8";
const STREAM: StreamId = StreamId([7; 16]);
const LEN: u32 = 300_000;
const PIECE_LEN: u32 = 16_384;

#[test]
fn the_trace_is_as_recorded() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/trace.jsonl");
    let trace = play();
    if std::env::var_os("SHOAL_UPDATE").is_some() {
        std::fs::write(path, &trace).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    for (line, (found, expected)) in trace.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "line {}", line + 1);
    }
    assert_eq!(trace.lines().count(), golden.lines().count());
}

fn play() -> String {
    let mut trace = Trace::new();
    let bits = (1u64 << LEN.div_ceil(PIECE_LEN)) - 1;
    trace.step(1000, "environment", json!([0, 10_000_000]));
    trace.step(1010, "read_playlist", json!([playlist(1..6), URL]));
    let track = trace.track;
    trace.step(1010, "join", json!([STREAM.to_string(), bytes(b"token")]));
    trace.step(1011, "timeline", json!([track]));
    trace.step(1020, "tracker_up", json!([]));
    trace.step(1060, "tracker_frame", json!([bytes(&tracker(&welcome()))]));
    trace.step(
        1070,
        "tracker_frame",
        json!([bytes(&tracker(&introduce()))]),
    );
    trace.step(1300, "link_up", json!([0]));
    trace.step(1340, "frame", json!([0, bytes(&peer(&hello()))]));
    trace.step(1400, "player", json!([8000, 10_000, false]));
    trace.step(1500, "wanted", json!([1, name(5).to_string(), 0]));
    trace.step(1600, "tick", json!([]));
    trace.step(
        1700,
        "record",
        json!([false, 1, bytes(&record(5).encode())]),
    );
    let low = bits as u32;
    trace.step(
        1710,
        "pieces",
        json!([false, 1, record(5).id().to_string(), low, 0]),
    );
    trace.step(1720, "fetch_done", json!([1, 0, LEN, 20, 220]));
    trace.step(1730, "sent", json!([0, 0]));
    trace.step(3000, "read_playlist", json!([playlist(2..7), URL]));
    trace.step(3001, "timeline", json!([track]));
    let have = Pieces {
        segment: record(6).id(),
        bits,
    };
    trace.step(
        3050,
        "frame",
        json!([0, bytes(&peer(&PeerMsg::Have(vec![have])))]),
    );
    trace.step(3100, "wanted", json!([2, name(6).to_string(), 500]));
    trace.step(3200, "record", json!([true, 0, bytes(&record(6).encode())]));
    trace.step(
        3205,
        "pieces",
        json!([true, 0, record(6).id().to_string(), 7, 0]),
    );
    trace.step(
        3210,
        "pieces",
        json!([true, 0, record(6).id().to_string(), low & !7, 0]),
    );
    trace.step(3300, "wanted", json!([3, "0000000000000000", 0]));
    trace.step(3400, "tick", json!([]));
    trace.step(60_000, "tick", json!([]));
    trace.step(60_100, "track_ended", json!([track]));
    trace.step(60_200, "leave", json!([]));
    trace.lines
}

/// Calls methods by name and writes down what they return.
struct Trace {
    shim: Shim,
    track: u32,
    lines: String,
}

impl Trace {
    fn new() -> Self {
        let shim = Shim::new("have_batch_ms=50", 1, 2, 1000.0).unwrap();
        Self {
            shim,
            track: 0,
            lines: String::new(),
        }
    }

    fn step(&mut self, now: u32, method: &str, args: Value) {
        let words = self.call(f64::from(now), method, &args);
        let line = json!({
            "now": now,
            "call": method,
            "args": args,
            "words": words,
            "arena": hex::encode(self.shim.arena()),
            "wakeup": self.shim.next_wakeup_ms(),
            "stats": self.shim.stats(),
        });
        self.lines.push_str(&line.to_string());
        self.lines.push('\n');
    }

    fn call(&mut self, now: f64, method: &str, args: &Value) -> Vec<u32> {
        let shim = &mut self.shim;
        let number = |at: usize| args[at].as_u64().unwrap_or_default() as u32;
        let text = |at: usize| args[at].as_str().unwrap_or_default();
        let flag = |at: usize| args[at].as_bool().unwrap_or_default();
        let blob = |at: usize| hex::decode(args[at]["hex"].as_str().unwrap()).unwrap();
        match method {
            "environment" => shim.environment(now, number(0) as u8, number(1).into()),
            "read_playlist" => {
                let window = shim.read_playlist(text(0), text(1)).unwrap().unwrap();
                self.track = window.track();
                vec![window.track(), window.target_ms()]
            }
            "join" => shim.join(now, text(0), &blob(1)).unwrap(),
            "timeline" => shim.timeline(now, number(0)),
            "track_ended" => shim.track_ended(now, number(0)),
            "tracker_up" => shim.tracker_up(now),
            "tracker_frame" => shim.tracker_frame(now, &blob(0)),
            "link_up" => shim.link_up(now, number(0) as u8),
            "frame" => shim.frame(now, number(0) as u8, &blob(1)),
            "player" => shim.player(now, number(0), number(1), flag(2)),
            "wanted" => shim.wanted(now, number(0), text(1), number(2)),
            "record" => shim.record(now, flag(0), number(1), &blob(2)).unwrap(),
            "pieces" => shim.pieces(now, flag(0), number(1), text(2), number(3), number(4)),
            "fetch_done" => {
                let outcome = number(1) as u8;
                shim.fetch_done(now, number(0), outcome, number(2), number(3), number(4))
            }
            "sent" => shim.sent(now, number(0) as u8, number(1)),
            "leave" => shim.leave(now),
            "tick" => shim.tick(now),
            _ => unreachable!("{method}"),
        }
    }
}

fn bytes(bytes: &[u8]) -> Value {
    json!({ "hex": hex::encode(bytes) })
}

fn segment_url(seq: u64) -> String {
    format!("https://cdn.example/live/v360/seg-{seq}.m4s")
}

fn name(seq: u64) -> Name {
    Name::of_url(&segment_url(seq))
}

fn record(seq: u64) -> Record {
    let hash = piece_hash(&seq.to_be_bytes());
    Record {
        stream: STREAM,
        name: name(seq),
        epoch: 0,
        seq,
        duration_ms: 2000,
        len: LEN,
        piece_len: PIECE_LEN,
        piece_hashes: vec![hash; LEN.div_ceil(PIECE_LEN) as usize],
        signature: [0; 64],
    }
}

fn playlist(window: std::ops::Range<u64>) -> String {
    let stream = tags::write_stream(&STREAM.into());
    let first = window.start;
    let mut text =
        format!("#EXTM3U\n{stream}\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for seq in window {
        let record = record(seq);
        let content = Content {
            id: record.id(),
            len: LEN,
            piece_len: PIECE_LEN,
            epoch: 0,
        };
        let tag = tags::write_segment(&content);
        text.push_str(&format!("{tag}\n#EXTINF:2.0,\nseg-{seq}.m4s\n"));
    }
    text
}

fn welcome() -> TrackerMsg<'static> {
    TrackerMsg::Welcome(Welcome {
        peer: PeerId(11),
        secret: 12,
        status_interval_ms: 5000,
        links_target: 8,
        stun: vec!["192.0.2.1:3478"],
    })
}

fn introduce() -> TrackerMsg<'static> {
    TrackerMsg::Introduce(Introduction {
        peer: PeerId(22),
        offer: true,
        flags: ViewerFlags::NATIVE,
        distance: Distance::Metro,
    })
}

fn hello() -> PeerMsg {
    PeerMsg::Hello {
        peer: PeerId(22),
        status: PeerStatus::default(),
    }
}

fn tracker(message: &TrackerMsg<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(&mut frame);
    frame
}

fn peer(message: &PeerMsg) -> Vec<u8> {
    let mut frame = Vec::new();
    message.encode(&mut frame);
    frame
}

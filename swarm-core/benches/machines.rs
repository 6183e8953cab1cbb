//! What the machines' hot inputs cost: `cargo bench -p swarm-core`, or `cargo xtask bench sim`.
//!
//! A viewer with fifteen neighbours lives through one segment after the other: it is listed, the
//! neighbours say what they hold, pieces arrive and are asked for, timers go off. Only the inputs of
//! one kind are timed at a time. The tracker has ten thousand viewers.

#![expect(clippy::disallowed_types, reason = "to measure takes a clock")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use criterion::{Criterion, criterion_group, criterion_main};
use swarm_core::{
    directory::{self, ConnId, Directory, Joined, Network},
    id::{Name, PeerId, RequestId, Slot, StreamId, TrackId},
    peer::{Environment, Input, Outbox, Peer, Policy, Source},
    record::Record,
    rng::mix,
    time::Instant,
    timeline::{Content, SegmentInfo},
    wire::{
        peer::{PeerMsg, PeerStatus, Pieces},
        tracker::{Distance, Introduction, Nat, Status, TrackerMsg, ViewerFlags, Welcome},
    },
};

const STREAM: StreamId = StreamId([7; 16]);
const TRACK: TrackId = TrackId(5);
const NEIGHBOURS: u8 = 15;
/// Four seconds at 5 Mbit/s.
const LEN: u32 = 2_500_000;
const PIECE_LEN: u32 = 65_536;
const PIECES: u32 = LEN.div_ceil(PIECE_LEN);
const SEGMENT_MS: u64 = 4000;
const LISTED: u64 = 10;
const VIEWERS: u64 = 10_000;

/// Kinds of inputs that are timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Have,
    Piece,
    Request,
    Wanted,
    Timer,
}

/// A viewer in the middle of its swarm.
struct Rig {
    peer: Peer,
    out: Outbox,
    now: Instant,
    seq: u64,
    requests: u32,
    timed: Kind,
    spent: Duration,
    count: u64,
}

impl Rig {
    fn new(timed: Kind) -> Self {
        let now = Instant::from_millis(1_000_000);
        let mut rig = Self {
            peer: Peer::new(Arc::new(Policy::default()), 1, now),
            out: Outbox::new(),
            now,
            seq: LISTED,
            requests: 0,
            timed,
            spent: Duration::ZERO,
            count: 0,
        };
        rig.join();
        for _ in 0..4 {
            rig.live_through_a_segment();
        }
        (rig.spent, rig.count) = (Duration::ZERO, 0);
        rig
    }

    fn join(&mut self) {
        let environment = Environment {
            flags: ViewerFlags::NATIVE,
            nat: Nat::Cone,
            upload_bps_max: 10_000_000,
        };
        self.handle(Input::Environment(environment));
        let (stream, token) = (STREAM, &b""[..]);
        self.handle(Input::Join { stream, token });
        self.list();
        self.handle(Input::TrackerUp);
        self.hear(&TrackerMsg::Welcome(Welcome {
            peer: PeerId(1),
            secret: 1,
            status_interval_ms: 5000,
            links_target: NEIGHBOURS,
            stun: Vec::new(),
        }));
        for slot in 0..NEIGHBOURS {
            let peer = PeerId(100 + u64::from(slot));
            self.hear(&TrackerMsg::Introduce(Introduction {
                peer,
                offer: true,
                flags: ViewerFlags::NATIVE,
                distance: Distance::Metro,
            }));
            self.handle(Input::LinkUp(Slot(slot)));
            let status = PeerStatus {
                weight: 100,
                buffer_ms: 6000,
                tracks: vec![TRACK],
            };
            self.say(slot, &PeerMsg::Hello { peer, status });
        }
    }

    fn hear(&mut self, message: &TrackerMsg<'_>) {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        self.handle(Input::TrackerFrame(&frame));
    }

    fn say(&mut self, slot: u8, message: &PeerMsg) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let slot = Slot(slot);
        let bytes = &bytes;
        self.handle(Input::Frame { slot, bytes });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.peer.handle(self.now, input, &mut self.out);
        black_box(self.out.actions());
        self.out.clear();
    }

    /// Does something that counts as so many inputs of a kind.
    fn time(&mut self, kind: Kind, count: u64, act: impl FnOnce(&mut Self)) {
        if kind != self.timed {
            return act(self);
        }
        let began = Clock::now();
        act(self);
        self.spent += began.elapsed();
        self.count += count;
    }

    fn list(&mut self) {
        let segments: Vec<SegmentInfo> = (self.seq - LISTED..=self.seq)
            .map(|seq| SegmentInfo {
                name: Name(mix(seq)),
                seq,
                duration_ms: SEGMENT_MS as u32,
                content: Some(content(seq)),
            })
            .collect();
        let (track, segments) = (TRACK, &segments);
        self.handle(Input::Timeline { track, segments });
    }

    fn live_through_a_segment(&mut self) {
        self.seq += 1;
        let seq = self.seq;
        self.list();
        self.requests += 1;
        let (buffer_ms, lag_ms, stalled) = (5000, 6000, false);
        self.handle(Input::Player {
            buffer_ms,
            lag_ms,
            stalled,
        });
        let request = RequestId(self.requests);
        let name = Name(mix(seq));
        self.time(Kind::Wanted, 1, |rig| {
            rig.handle(Input::Wanted {
                request,
                name,
                grain_ms: 0,
            })
        });
        let record = record(seq);
        let segment = record.id();
        let step_ms = SEGMENT_MS / u64::from(PIECES);
        for piece in 0..PIECES {
            let slot = (piece % u32::from(NEIGHBOURS)) as u8;
            if piece < u32::from(NEIGHBOURS) {
                self.handle(Input::Record {
                    source: Source::Peer(Slot(slot)),
                    record: &record,
                });
            }
            let frames: Vec<Vec<u8>> = (0..NEIGHBOURS)
                .map(|slot| frame(&PeerMsg::Have(vec![held(seq, piece, slot)])))
                .collect();
            self.time(Kind::Have, u64::from(NEIGHBOURS), |rig| {
                for (slot, bytes) in frames.iter().enumerate() {
                    let slot = Slot(slot as u8);
                    rig.handle(Input::Frame { slot, bytes });
                }
            });
            let pieces = Input::Pieces {
                source: Source::Peer(Slot(slot)),
                segment,
                bits: 1 << piece,
            };
            self.time(Kind::Piece, 1, |rig| rig.handle(pieces));
            let want = frame(&PeerMsg::Want(Pieces {
                segment,
                bits: 1 << piece,
            }));
            let bytes = &want;
            self.time(Kind::Request, 1, |rig| {
                let slot = Slot((slot + 1) % NEIGHBOURS);
                rig.handle(Input::Frame { slot, bytes });
            });
            self.now = self.now.plus_ms(step_ms);
            self.time(Kind::Timer, 1, |rig| rig.handle(Input::Tick));
            let (slot, buffered) = (Slot(slot), 0);
            self.handle(Input::Sent { slot, buffered });
        }
    }
}

/// What a neighbour holds by the time that this viewer has so many pieces.
fn held(seq: u64, pieces: u32, slot: u8) -> Pieces {
    let ahead = pieces + u32::from(slot % 4);
    Pieces {
        segment: content(seq).id,
        bits: ((1u64 << ahead.min(PIECES)) - 1) & !(1 << (pieces % 7)),
    }
}

fn frame(message: &PeerMsg) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn record(seq: u64) -> Record {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&mix(seq).to_be_bytes());
    Record {
        stream: STREAM,
        name: Name(mix(seq)),
        epoch: 0,
        seq,
        duration_ms: SEGMENT_MS as u32,
        len: LEN,
        piece_len: PIECE_LEN,
        piece_hashes: vec![hash; PIECES as usize],
        signature: [0; 64],
    }
}

fn content(seq: u64) -> Content {
    Content {
        id: record(seq).id(),
        len: LEN,
        piece_len: PIECE_LEN,
        epoch: 0,
    }
}

fn peer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peer");
    for (name, kind) in [
        ("have", Kind::Have),
        ("piece", Kind::Piece),
        ("request", Kind::Request),
        ("wanted", Kind::Wanted),
        ("timer", Kind::Timer),
    ] {
        group.bench_function(name, |bencher| {
            let mut rig = Rig::new(kind);
            bencher.iter_custom(|iterations| {
                (rig.spent, rig.count) = (Duration::ZERO, 0);
                while rig.count < iterations {
                    rig.live_through_a_segment();
                }
                rig.spent.mul_f64(iterations as f64 / rig.count as f64)
            });
        });
    }
}

fn joined(number: u64) -> Joined {
    Joined {
        conn: ConnId(number),
        peer: PeerId(number),
        resumed: false,
        stream: STREAM,
        track: TRACK,
        flags: ViewerFlags::NATIVE,
        nat: Nat::Cone,
        upload_kbps: 8_000,
        network: Network {
            address: u128::from(number),
            asn: 1000 + (mix(number) % 5) as u32,
            country: *b"DE",
            ..Network::default()
        },
    }
}

fn directory(criterion: &mut Criterion) {
    let mut now = Instant::from_millis(1_000_000);
    let mut out = directory::Outbox::new();
    let mut machine = Directory::new(Arc::new(directory::Policy::default()), 1, now);
    let mut handle = |input: directory::Input<'_>| {
        now = now.plus_us(500);
        machine.handle(now, input, &mut out);
        black_box(out.actions());
        out.clear();
    };
    for number in 1..=VIEWERS {
        handle(directory::Input::Joined(&joined(number)));
    }
    let mut group = criterion.benchmark_group("directory");
    let mut next = VIEWERS;
    group.bench_function("join and leave", |bencher| {
        bencher.iter(|| {
            next += 1;
            handle(directory::Input::Joined(&joined(next)));
            handle(directory::Input::Left(ConnId(next)));
        });
    });
    let status = Status {
        track: TRACK,
        buffer_ms: 6000,
        links: 14,
        bytes_p2p: 3_000_000,
        upload_kbps: 8_000,
        ..Status::default()
    };
    let mut turn = 0;
    group.bench_function("status", |bencher| {
        bencher.iter(|| {
            turn = turn % VIEWERS + 1;
            let (conn, status) = (ConnId(turn), &status);
            handle(directory::Input::Status { conn, status });
        });
    });
}

criterion_group!(benches, peer, directory);
criterion_main!(benches);

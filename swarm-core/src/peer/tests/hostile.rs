//! Whatever comes in, in whatever order: no panic, bounded memory and work, time goes on.

use alloc::{sync::Arc, vec::Vec};

use proptest::prelude::*;

use crate::{
    id::{FetchId, Name, PeerId, RequestId, SegmentId, Slot, StreamId, TrackId},
    limits::{FETCHES_MAX, NEIGHBOURS_MAX, SEGMENTS_MAX},
    peer::{Action, Environment, FetchOutcome, Input, Outbox, Peer, Policy, Source},
    record::Record,
    time::Instant,
    timeline::{Content, SegmentInfo},
    wire::{
        peer::{Division, PeerMsg, PeerStatus, Pieces},
        tracker::{Distance, Introduction, Nat, TrackerMsg, ViewerFlags, Welcome},
    },
};

/// One input, built from few small numbers so that they hit each other.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    a: u8,
    b: u64,
    wait_ms: u16,
    raw: Vec<u8>,
}

fn step() -> impl Strategy<Value = Step> {
    let raw = prop::collection::vec(any::<u8>(), 0..40);
    (0..26u8, 0..6u8, any::<u64>(), 0..3000u16, raw).prop_map(|(kind, a, b, wait_ms, raw)| Step {
        kind,
        a,
        b,
        wait_ms,
        raw,
    })
}

fn record(a: u8, b: u64) -> Record {
    Record {
        stream: StreamId([1; 16]),
        name: Name(u64::from(a)),
        epoch: (b % 3) as u32,
        seq: u64::from(a),
        duration_ms: 2000,
        len: 40_000,
        piece_len: 16_384,
        piece_hashes: [[a; 16], [(b % 2) as u8; 16], [0; 16]].to_vec(),
        signature: [0; 64],
    }
}

fn apply(peer: &mut Peer, now: Instant, step: &Step, out: &mut Outbox) {
    let slot = Slot(step.a);
    let infos = listed(step);
    let record = record(step.a, step.b);
    let input = if let Some(frame) = from_tracker(step) {
        return peer.handle(now, Input::TrackerFrame(&frame), out);
    } else if let Some(bytes) = from_neighbour(step) {
        let bytes = &bytes;
        return peer.handle(now, Input::Frame { slot, bytes }, out);
    } else {
        other_input(step, &infos, &record)
    };
    peer.handle(now, input, out);
}

fn listed(step: &Step) -> Vec<SegmentInfo> {
    let (a, b) = (step.a, step.b);
    let content = |i| Content {
        id: SegmentId(i),
        len: (b >> 8) as u32,
        piece_len: (b >> 16) as u32 % 100_000,
        epoch: (b % 4) as u32,
    };
    let info = |i: u64| SegmentInfo {
        name: Name(i),
        seq: i.wrapping_add(b % 5),
        duration_ms: 2000,
        content: (b & 1 == 0).then(|| content(i)),
    };
    (0..u64::from(a)).map(info).collect()
}

/// Well-formed messages of a tracker that says anything.
fn from_tracker(step: &Step) -> Option<Vec<u8>> {
    let (a, b) = (step.a, step.b);
    let peer = PeerId(b % 40);
    let message = match step.kind {
        9 | 10 => TrackerMsg::Introduce(Introduction {
            peer,
            offer: a % 2 == 0,
            flags: ViewerFlags::NATIVE,
            distance: Distance::Far,
        }),
        11 => TrackerMsg::Welcome(Welcome {
            peer: PeerId(b % 9),
            secret: b,
            status_interval_ms: b as u32,
            links_target: a,
            stun: Vec::new(),
        }),
        23 => TrackerMsg::Shun { peer },
        _ => return None,
    };
    let mut frame = Vec::new();
    message.encode(&mut frame);
    Some(frame)
}

/// Well-formed messages of neighbours that say anything.
fn from_neighbour(step: &Step) -> Option<Vec<u8>> {
    let (a, b) = (step.a, step.b);
    let pieces = Pieces {
        segment: record(a, b).id(),
        bits: b,
    };
    let message = match step.kind {
        15 => PeerMsg::Hello {
            peer: PeerId(b % 40),
            status: PeerStatus {
                weight: b as u16,
                buffer_ms: 0,
                tracks: [TrackId(0), TrackId(1)].to_vec(),
            },
        },
        16 => PeerMsg::Have([pieces].to_vec()),
        17 => PeerMsg::Want(pieces),
        18 => PeerMsg::Claim {
            name: Name(u64::from(a)),
            stripes: b as u8,
            stripe_count: (b >> 8) as u8,
            division: Division {
                bits: b & 0b111,
                passers: alloc::vec![a.into(); (b & 0b111).count_ones() as usize],
            },
        },
        24 => PeerMsg::Skip(pieces),
        _ => return None,
    };
    let mut frame = Vec::new();
    message.encode(&mut frame);
    Some(frame)
}

fn other_input<'a>(step: &'a Step, infos: &'a [SegmentInfo], record: &'a Record) -> Input<'a> {
    let (a, b) = (step.a, step.b);
    let (slot, track) = (Slot(a), TrackId(u32::from(a % 2)));
    let request = RequestId(b as u32 % 8);
    let outcomes = [
        FetchOutcome::Verified,
        FetchOutcome::Unverified,
        FetchOutcome::Failed,
    ];
    match step.kind {
        0 => Input::Join {
            stream: StreamId([a; 16]),
            token: &step.raw,
        },
        1 => Input::Timeline {
            track,
            segments: infos,
        },
        2 => Input::TrackEnded(track),
        3 => Input::Wanted {
            request,
            name: Name(u64::from(a)),
            grain_ms: (b % 3) as u32 * 250,
        },
        4 => Input::Abandoned(request),
        5 => Input::Player {
            buffer_ms: b as u32,
            lag_ms: 0,
            stalled: a == 1,
        },
        6 => Input::TrackerUp,
        7 => Input::TrackerDown,
        8 => Input::TrackerFrame(&step.raw),
        12 => Input::LinkUp(slot),
        13 => Input::LinkDown(slot),
        14 => Input::Frame {
            slot,
            bytes: &step.raw,
        },
        19 => Input::Record {
            source: source(a, b),
            record,
        },
        20 => Input::Pieces {
            source: source(a, b),
            segment: record.id(),
            bits: b,
        },
        21 => Input::FetchDone {
            fetch: FetchId(b as u32 % 30),
            outcome: outcomes[usize::from(a % 3)],
            bytes: b as u32,
            ttfb_ms: (b >> 32) as u32,
            total_ms: (b >> 16) as u32,
        },
        22 => Input::Misbehaved(slot),
        _ => Input::Sent {
            slot,
            buffered: b as u32 % 100_000,
        },
    }
}

fn source(a: u8, b: u64) -> Source {
    if b & 1 == 0 {
        Source::Peer(Slot(a))
    } else {
        Source::Cdn(FetchId(b as u32 % 30))
    }
}

proptest! {
    #[test]
    fn any_inputs_in_any_order_are_survived(steps in prop::collection::vec(step(), 1..250)) {
        let mut now = Instant::from_millis(1000);
        let mut peer = Peer::new(Arc::new(Policy::default()), 1, now);
        let environment =
            Environment { flags: ViewerFlags::NATIVE, nat: Nat::Open, upload_bps_max: 5_000_000 };
        let mut out = Outbox::new();
        peer.handle(now, Input::Environment(environment), &mut out);
        for step in &steps {
            now = now.plus_ms(u64::from(step.wait_ms));
            out.clear();
            apply(&mut peer, now, step, &mut out);
            prop_assert!(out.actions().len() < 2000, "{} actions", out.actions().len());
            prop_assert!(peer.segments.len() <= SEGMENTS_MAX);
            prop_assert!(peer.fetches.len() <= FETCHES_MAX);
            prop_assert!(peer.neighbours().count() <= NEIGHBOURS_MAX);
            if let Some(wakeup) = peer.next_wakeup() {
                prop_assert!(wakeup.at > now);
            }
            for action in out.actions() {
                if let Action::SendPiece { segment, piece, .. } = action {
                    let held = peer.segments.iter().find(|s| s.id() == Some(*segment));
                    let stored = held.is_some_and(|s| s.has_record && s.have() >> piece & 1 == 1);
                    prop_assert!(stored, "an unverified piece was sent");
                }
            }
        }
    }
}

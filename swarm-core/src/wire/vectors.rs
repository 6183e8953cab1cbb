//! The golden vectors of `docs/protocol/vectors`: what other implementations can test against, and
//! what keeps this one from changing the wire by accident.

use alloc::{format, string::String, vec, vec::Vec};

use crate::{
    id::{Name, PeerId, SegmentId, StreamId, TrackId},
    record::Record,
    wire::{
        peer::{Chunk, DataFrame, Division, PeerMsg, PeerStatus, Pieces},
        tracker::{
            Distance, Introduction, Join, LinkOutcome, Nat, RefusalCode, Relays, Status,
            TrackerMsg, ViewerFlags, ViewerMsg, Welcome,
        },
    },
};

fn bytes(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![];
    encode(&mut out);
    out
}

fn peer_frames() -> Vec<(&'static str, Vec<u8>)> {
    let status = PeerStatus {
        weight: 100,
        buffer_ms: 8000,
        tracks: vec![TrackId(1), TrackId(0xabcd)],
    };
    let pieces = Pieces {
        segment: SegmentId(0x1122_3344_5566_7788),
        bits: 0b1011,
    };
    let messages = [
        (
            "hello",
            PeerMsg::Hello {
                peer: PeerId(7),
                status: status.clone(),
            },
        ),
        ("status", PeerMsg::Status(status)),
        (
            "have",
            PeerMsg::Have(vec![
                pieces,
                Pieces {
                    segment: SegmentId(2),
                    bits: 0,
                },
            ]),
        ),
        ("want", PeerMsg::Want(pieces)),
        (
            "claim",
            PeerMsg::Claim {
                name: Name(9),
                stripes: 0b101,
                stripe_count: 4,
                division: Division {
                    bits: 0b11_0000_0011,
                    passers: vec![7, 0xabcd, 7, 9],
                },
            },
        ),
        (
            "claim_of_unknown_content",
            PeerMsg::Claim {
                name: Name(9),
                stripes: 1,
                stripe_count: 1,
                division: Division::default(),
            },
        ),
        ("reject", PeerMsg::Reject(pieces)),
        ("skip", PeerMsg::Skip(pieces)),
        ("bye", PeerMsg::Bye),
        ("ping", PeerMsg::Ping(0xdead_beef)),
        ("pong", PeerMsg::Pong(0xdead_beef)),
    ];
    let frame = |m: &PeerMsg| bytes(|out| m.encode(out));
    let mut frames: Vec<_> = messages.iter().map(|(name, m)| (*name, frame(m))).collect();
    frames.extend(data_frames(pieces.segment));
    frames
}

fn data_frames(segment: SegmentId) -> [(&'static str, Vec<u8>); 2] {
    let chunk = Chunk {
        segment,
        piece: 3,
        offset: 32_768,
        bytes: b"media",
    };
    let record = record().encode();
    [
        ("chunk", bytes(|out| DataFrame::Chunk(chunk).encode(out))),
        (
            "record",
            bytes(|out| DataFrame::Record(&record).encode(out)),
        ),
    ]
}

fn record() -> Record {
    Record {
        stream: StreamId::of(&[7; 32], "main"),
        name: Name::of_url("https://cdn.example/live/v360/seg-1.m4s?token=x"),
        epoch: 2,
        seq: 1,
        duration_ms: 2000,
        len: 40_000,
        piece_len: 16_384,
        piece_hashes: vec![[1; 16], [2; 16], [3; 16]],
        signature: [9; 64],
    }
}

fn tracker_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut frames = viewer_says();
    frames.extend(tracker_says());
    frames
}

fn viewer_says() -> Vec<(&'static str, Vec<u8>)> {
    let join = ViewerMsg::Join(Join {
        stream: StreamId::of(&[7; 32], "main"),
        track: TrackId(5),
        flags: ViewerFlags::NATIVE,
        nat: Nat::Cone,
        upload_kbps: 8000,
        resume: Some((PeerId(7), 8)),
        token: b"token",
    });
    let agreed = ViewerMsg::Join(Join {
        stream: StreamId::of(&[7; 32], "main"),
        track: TrackId(5),
        flags: ViewerFlags::CONSENT,
        nat: Nat::Unknown,
        upload_kbps: 8000,
        resume: None,
        token: b"",
    });
    let status = ViewerMsg::Status(Status {
        track: TrackId(5),
        buffer_ms: 8000,
        lag_ms: 6000,
        links: 7,
        links_wanted: 2,
        bytes_p2p: 1_000_000,
        bytes_cdn: 2_000,
        bytes_up: 3_000,
        stalls: 1,
        stalled_ms: 250,
        upload_kbps: 8000,
        nat: Nat::Symmetric,
    });
    let link = ViewerMsg::Link {
        peer: PeerId(9),
        outcome: LinkOutcome::Up,
        rtt_ms: 12,
    };
    let messages = [
        ("join", join),
        ("join_consent", agreed),
        ("status", status),
        (
            "signal",
            ViewerMsg::Signal {
                to: PeerId(9),
                payload: b"payload",
            },
        ),
        ("link", link),
        ("leave", ViewerMsg::Leave),
    ];
    let frame = |m: &ViewerMsg<'_>| bytes(|out| m.encode(out));
    messages.iter().map(|(name, m)| (*name, frame(m))).collect()
}

fn tracker_says() -> Vec<(&'static str, Vec<u8>)> {
    let welcome = TrackerMsg::Welcome(Welcome {
        peer: PeerId(7),
        secret: 8,
        status_interval_ms: 5000,
        links_target: 14,
        stun: vec!["stun.example:3478"],
    });
    let introduce = TrackerMsg::Introduce(Introduction {
        peer: PeerId(9),
        offer: true,
        flags: ViewerFlags::NATIVE,
        distance: Distance::Isp,
    });
    let reconnect = TrackerMsg::Reconnect {
        after_ms: 1500,
        places: vec!["wss://b.example/shoal"],
    };
    let relays = TrackerMsg::Relays(Relays {
        only: true,
        username: "1795000000:0000000000000007",
        credential: "c2VjcmV0",
        urls: vec!["turn:relay.example:3478?transport=udp"],
    });
    let messages = [
        ("welcome", welcome),
        ("introduce", introduce),
        (
            "signalled",
            TrackerMsg::Signal {
                from: PeerId(9),
                payload: b"payload",
            },
        ),
        ("gone", TrackerMsg::Gone { peer: PeerId(9) }),
        ("shun", TrackerMsg::Shun { peer: PeerId(9) }),
        ("reconnect", reconnect),
        ("relays", relays),
        (
            "refused",
            TrackerMsg::Refused {
                code: RefusalCode::BadToken,
                text: "expired",
            },
        ),
    ];
    let frame = |m: &TrackerMsg<'_>| bytes(|out| m.encode(out));
    messages.iter().map(|(name, m)| (*name, frame(m))).collect()
}

/// One `"name": "hex"` a line.
fn render(frames: &[(&str, Vec<u8>)]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let lines: Vec<String> = frames
        .iter()
        .map(|(name, bytes)| format!("  \"{name}\": \"{}\"", hex(bytes)))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Compares with the committed file; `SHOAL_BLESS=1` writes it anew, for a deliberate change.
fn check(file: &str, frames: &[(&str, Vec<u8>)]) {
    let path = format!(
        "{}/../docs/protocol/vectors/{file}",
        env!("CARGO_MANIFEST_DIR")
    );
    let expected = render(frames);
    if std::env::var_os("SHOAL_BLESS").is_some() {
        std::fs::write(&path, &expected).expect("the vectors can be written");
    }
    let committed = std::fs::read_to_string(&path).expect("the vectors are there");
    assert_eq!(committed, expected, "{path}");
}

#[test]
fn peer_frames_are_as_published() {
    check("peer.json", &peer_frames());
}

#[test]
fn tracker_frames_are_as_published() {
    check("tracker.json", &tracker_frames());
}

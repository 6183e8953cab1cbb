//! The golden vectors of the protocol's document.

use super::*;
use swarm_core::wire::tracker::{Distance, LinkOutcome, Welcome};

/// The bytes behind `name` in the document.
fn vector(name: &str) -> Vec<u8> {
    let document = include_str!("../../../docs/protocol/tracker.md");
    let line = document
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .expect("the vector is there");
    let digits: Vec<u8> = line.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn viewers_messages_are_as_documented() {
    let status = Status {
        track: TrackId(3),
        buffer_ms: 9_000,
        lag_ms: 4_000,
        links: 14,
        links_wanted: 2,
        bytes_p2p: 100,
        bytes_cdn: 200,
        bytes_up: 300,
        stalls: 1,
        stalled_ms: 250,
        upload_kbps: 5_000,
    };
    let join = Join {
        stream: StreamId([9; 16]),
        track: TrackId(1),
        flags: ViewerFlags::NATIVE.with(ViewerFlags::LEECH),
        nat: Nat::Cone,
        upload_kbps: 8_000,
        resume: Some((PeerId(5), 6)),
        token: b"token",
    };
    let link = ViewerMsg::Link {
        peer: PeerId(4),
        outcome: LinkOutcome::Lost,
        rtt_ms: 30,
    };
    let signal = ViewerMsg::Signal {
        to: PeerId(4),
        payload: b"sig",
    };
    for (name, message) in [
        ("join", ViewerMsg::Join(join)),
        ("status", ViewerMsg::Status(status)),
        ("signal", signal),
        ("link", link),
        ("leave", ViewerMsg::Leave),
    ] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(bytes, vector(name), "{name}");
        assert_eq!(ViewerMsg::decode(&bytes), Ok(message));
    }
}

#[test]
fn the_trackers_messages_are_as_documented() {
    let peer = PeerId(7);
    let welcome = Welcome {
        peer: PeerId(1),
        secret: 2,
        status_interval_ms: 5_000,
        links_target: 14,
        stun: vec!["stun.example:3478"],
    };
    let introduction = Introduction {
        peer,
        offer: true,
        flags: ViewerFlags::NATIVE,
        distance: Distance::Metro,
    };
    let signal = TrackerMsg::Signal {
        from: peer,
        payload: b"sig",
    };
    let refused = TrackerMsg::Refused {
        code: RefusalCode::BadToken,
        text: "expired",
    };
    for (name, message) in [
        ("welcome", TrackerMsg::Welcome(welcome)),
        ("introduce", TrackerMsg::Introduce(introduction)),
        ("signalled", signal),
        ("gone", TrackerMsg::Gone { peer }),
        ("reconnect", TrackerMsg::Reconnect { after_ms: 800 }),
        ("refused", refused),
    ] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(bytes, vector(name), "{name}");
        assert_eq!(TrackerMsg::decode(&bytes), Ok(message));
    }
}

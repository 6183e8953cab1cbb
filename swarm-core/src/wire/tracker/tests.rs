use super::*;
use crate::limits::PLACES_MAX;
use alloc::vec;
use proptest::prelude::*;

fn join() -> ViewerMsg<'static> {
    ViewerMsg::Join(Join {
        stream: StreamId([9; 16]),
        track: TrackId(1),
        flags: ViewerFlags::NATIVE.with(ViewerFlags::LEECH),
        nat: Nat::Cone,
        upload_kbps: 8000,
        resume: Some((PeerId(5), 6)),
        token: b"token",
    })
}

#[test]
fn viewer_messages_round_trip() {
    let all = [
        join(),
        ViewerMsg::Status(Status {
            track: TrackId(3),
            buffer_ms: 9000,
            ..Status::default()
        }),
        ViewerMsg::Signal {
            to: PeerId(4),
            payload: b"sig",
        },
        ViewerMsg::Link {
            peer: PeerId(4),
            outcome: LinkOutcome::Lost,
            rtt_ms: 30,
        },
        ViewerMsg::Leave,
    ];
    for message in all {
        let mut bytes = vec![];
        message.encode(&mut bytes);
        assert_eq!(ViewerMsg::decode(&bytes), Ok(message));
    }
}

#[test]
fn tracker_messages_round_trip() {
    let all = [
        TrackerMsg::Welcome(Welcome {
            peer: PeerId(1),
            secret: 2,
            status_interval_ms: 5000,
            links_target: 14,
            stun: vec!["stun.example:3478"],
        }),
        TrackerMsg::Introduce(Introduction {
            peer: PeerId(7),
            offer: true,
            flags: ViewerFlags::NATIVE,
            distance: Distance::Metro,
        }),
        TrackerMsg::Signal {
            from: PeerId(7),
            payload: b"sig",
        },
        TrackerMsg::Gone { peer: PeerId(7) },
        TrackerMsg::Shun { peer: PeerId(7) },
        TrackerMsg::Reconnect {
            after_ms: 800,
            places: vec!["wss://b.example/shoal", "ws://[::1]:8083"],
        },
        TrackerMsg::Relays(Relays {
            only: true,
            username: "1795000000:0123456789abcdef",
            credential: "c2VjcmV0",
            urls: vec!["turn:relay.example:3478?transport=udp"],
        }),
        TrackerMsg::Refused {
            code: RefusalCode::BadToken,
            text: "expired",
        },
    ];
    for message in all {
        let mut bytes = vec![];
        message.encode(&mut bytes);
        assert_eq!(TrackerMsg::decode(&bytes), Ok(message));
    }
}

#[test]
fn what_is_over_a_limit_is_refused() {
    let mut bytes = vec![];
    ViewerMsg::Signal {
        to: PeerId(1),
        payload: &[0; SIGNAL_LEN_MAX + 1],
    }
    .encode(&mut bytes);
    assert_eq!(
        ViewerMsg::decode(&bytes),
        Err(DecodeError::OutOfRange("signal"))
    );
    assert_eq!(
        ViewerMsg::decode(&[0x7f]),
        Err(DecodeError::UnknownKind(0x7f))
    );
    assert_eq!(
        ViewerMsg::decode(&[LEAVE, 0]),
        Err(DecodeError::Trailing(1))
    );
    assert_eq!(ViewerMsg::decode(&[]), Err(DecodeError::Truncated));
}

#[test]
fn viewers_are_sent_to_trackers_only() {
    let long = alloc::format!("wss://{}", "x".repeat(crate::limits::TEXT_LEN_MAX));
    for (place, good) in [
        ("wss://tracker.example/shoal?a=b", true),
        ("ws://127.0.0.1:8083", true),
        ("http://tracker.example/", false),
        ("javascript:alert(1)", false),
        ("wss://", false),
        ("wss:///path", false),
        ("wss://a b", false),
        ("wss://a\nb", false),
        ("wss://\u{e4}.example", false),
        ("WSS://tracker.example", false),
        ("", false),
        (long.as_str(), false),
    ] {
        assert_eq!(is_place(place), good, "{place}");
        let message = TrackerMsg::Reconnect {
            after_ms: 1,
            places: vec![place],
        };
        let mut bytes = vec![];
        message.encode(&mut bytes);
        let expected = good
            .then_some(message)
            .ok_or(DecodeError::OutOfRange("place"));
        assert_eq!(TrackerMsg::decode(&bytes), expected, "{place}");
    }
    let mut many = vec![];
    TrackerMsg::Reconnect {
        after_ms: 1,
        places: vec!["ws://a"; PLACES_MAX],
    }
    .encode(&mut many);
    many[5] += 1;
    assert_eq!(
        TrackerMsg::decode(&many),
        Err(DecodeError::OutOfRange("places"))
    );
}

#[test]
fn relays_are_turn_servers_only() {
    for (url, username, good) in [
        ("turn:relay.example:3478?transport=tcp", "7:a", true),
        ("turns:[2001:db8::1]", "", true),
        ("stun:relay.example", "7:a", false),
        ("turn:", "7:a", false),
        ("turn:?transport=udp", "7:a", false),
        ("turn:a b", "7:a", false),
        ("turn:relay.example", "7 a", false),
    ] {
        let message = TrackerMsg::Relays(Relays {
            only: false,
            username,
            credential: "c",
            urls: vec![url],
        });
        let mut bytes = vec![];
        message.encode(&mut bytes);
        assert_eq!(TrackerMsg::decode(&bytes).is_ok(), good, "{url} {username}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ViewerMsg::decode(&bytes);
        let _ = TrackerMsg::decode(&bytes);
    }
}

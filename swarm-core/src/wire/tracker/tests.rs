use super::*;
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
        TrackerMsg::Reconnect { after_ms: 800 },
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

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ViewerMsg::decode(&bytes);
        let _ = TrackerMsg::decode(&bytes);
    }
}

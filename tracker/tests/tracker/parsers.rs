//! The fuzz targets' entry points, each for a moment.

use proptest::{collection::vec, prelude::*, sample::Index};
use swarm_core::wire::signal::{Description, Setup, Signal};

use super::*;

#[path = "../../../tests/fuzz/entry_points.rs"]
mod entry_points;

/// Messages that are right, for the mutations to begin with.
fn right() -> Vec<Vec<u8>> {
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes
    };
    let description = Signal::Description(Description {
        is_offer: true,
        setup: Setup::ActPass,
        ufrag: "abcd",
        pwd: "0123456789012345678901",
        fingerprint_sha256: [7; 32],
        candidates: vec!["1 1 udp 2130706431 192.0.2.1 40000 typ host"],
    });
    let signal = encoded(&|out| description.encode(out));
    let to = PeerId(5);
    vec![
        encoded(&|out| ViewerMsg::Join(join()).encode(out)),
        encoded(&|out| ViewerMsg::Status(Status::default()).encode(out)),
        encoded(&|out| {
            ViewerMsg::Signal {
                to,
                payload: &signal,
            }
            .encode(out)
        }),
        encoded(&|out| {
            let places = vec!["wss://b.example/"];
            let after_ms = 9;
            TrackerMsg::Reconnect { after_ms, places }.encode(out);
        }),
        encoded(&|out| {
            TrackerMsg::Refused {
                code: RefusalCode::Quota,
                text: "no",
            }
            .encode(out)
        }),
        signal,
        b"candidate:1 1 udp 2130706431 192.0.2.1 40000 typ srflx raddr 10.0.0.1 rport 9".to_vec(),
        b"0123456789abcdef0123456789ABCDEF".to_vec(),
        b"https://cdn.example/a%2fb/seg-12.m4s?token=1#x".to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_an_entry_point(bytes in vec(any::<u8>(), 0..400)) {
        for (_, enter) in entry_points::ALL {
            enter(&bytes);
        }
    }

    #[test]
    fn no_change_of_a_right_message_breaks_an_entry_point(
        message in any::<Index>(),
        changes in vec((any::<Index>(), any::<u8>()), 0..6),
        cut in any::<Index>(),
        tail in vec(any::<u8>(), 0..3),
    ) {
        let mut bytes = message.get(&right()).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (_, enter) in entry_points::ALL {
            enter(&bytes);
            enter(&bytes[..cut.index(bytes.len())]);
            enter(&[&bytes[..], &tail[..]].concat());
        }
    }
}

//! What comes from NATS, whoever sent it.

use swarm_core::limits::{STUN_MAX, TRACKER_FRAME_LEN_MAX};

use super::message::{
    Broadcast, Entry, MESSAGE_LEN_MAX, PLACE_LEN_MAX, begin, open, words::GUEST_TEXT_LEN_MAX,
};
use crate::cluster::GuestWords;

/// Messages to all nodes and to one: what is understood can be said again, means the same then, and keeps to
/// the limits; and no entry is lost or made up.
pub fn cluster(bytes: &[u8]) {
    if let Ok(said) = Broadcast::decode(bytes) {
        assert_eq!(said.encode(), bytes);
    }
    let Ok((from, mut reader)) = open(bytes) else {
        return;
    };
    assert!(bytes.len() <= MESSAGE_LEN_MAX);
    let mut again = begin(from);
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = Entry::next(&mut reader) {
        if let Ok(entry) = entry {
            check_limits(&entry);
            entry.encode(&mut again);
            entries.push(entry);
        }
    }
    let (sender, mut reader) = open(&again).expect("what is said again is understood");
    assert_eq!(sender, from);
    for entry in entries {
        assert_eq!(Entry::next(&mut reader), Ok(Some(Ok(entry))));
    }
    assert_eq!(Entry::next(&mut reader), Ok(None));
}

fn check_limits(entry: &Entry<'_>) {
    match entry {
        Entry::Join(_, arrival) => {
            let names = [&arrival.isp, &arrival.site];
            assert!(
                names
                    .into_iter()
                    .flatten()
                    .all(|name| name.len() <= PLACE_LEN_MAX)
            );
            assert!(arrival.stun.len() <= STUN_MAX);
        }
        Entry::Say(_, frame) | Entry::Tell { frame, .. } => {
            assert!(frame.len() <= TRACKER_FRAME_LEN_MAX);
        }
        Entry::Guest(_, GuestWords::Say { text, .. } | GuestWords::Tell { text, .. }) => {
            assert!(text.len() <= GUEST_TEXT_LEN_MAX);
        }
        _ => {}
    }
}

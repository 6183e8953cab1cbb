use super::*;
use crate::kicked::Identity;
use swarm_core::{
    directory::ConnId,
    id::TrackId,
    wire::tracker::{Nat, ViewerFlags},
};

fn arrival() -> Arrival {
    Arrival {
        joined: Joined {
            conn: ConnId(0),
            peer: PeerId(77),
            resumed: true,
            stream: StreamId([9; 16]),
            track: TrackId(5),
            flags: ViewerFlags::NATIVE,
            nat: Nat::Cone,
            upload_kbps: 4_321,
            network: Network {
                address: u128::MAX - 5,
                asn: 64_601,
                country: *b"DE",
                location: Some(Location {
                    lat_centideg: -5_252,
                    lon_centideg: 1_340,
                }),
                site: Some(3),
                local_only: true,
                mode: P2pMode::Leech,
            },
        },
        bearer: BearerMark::new(u64::MAX - 9),
        isp: Some("Isarnetz".into()),
        site: Some("headquarters".into()),
        stun: vec!["192.0.2.1:3478".into()],
        apart: vec![PeerId(1), PeerId(u64::MAX)],
    }
}

fn entries() -> Vec<Entry<'static>> {
    let remote = Remote { conn: 8, turn: 2 };
    vec![
        Entry::Join(remote, Box::new(arrival())),
        Entry::Say(remote, b"words"),
        Entry::Left(remote),
        Entry::Lost(remote),
        Entry::Tell {
            to: remote,
            droppable: true,
            frame: b"frame",
        },
        Entry::Close(remote),
        Entry::Unknown(remote),
        Entry::Guest(
            7,
            GuestWords::Say {
                network: arrival().joined.network,
                text: "{}",
            },
        ),
        Entry::Guest(
            7,
            GuestWords::Enter {
                network: Network::default(),
                member: ([1; 20], [0xff; 20]),
                complete: true,
            },
        ),
        Entry::Guest(7, GuestWords::Left(([2; 20], [3; 20]))),
        Entry::Guest(
            u64::MAX,
            GuestWords::Tell {
                droppable: true,
                text: "{\"action\":\"announce\"}",
            },
        ),
        Entry::Guest(0, GuestWords::Close { code: 1008 }),
        Entry::Guest(8, GuestWords::Probe),
        Entry::Barred(Barred::Viewer {
            who: Identity {
                peer: PeerId(u64::MAX),
                bearer: BearerMark::new(3),
                address: u128::MAX - 9,
                stream: StreamId([7; 16]),
            },
            left_ms: 600_000,
        }),
        Entry::Barred(Barred::Guest {
            member: ([4; 20], [0xfe; 20]),
            left_s: u32::MAX,
        }),
    ]
}

fn hello() -> Broadcast {
    Broadcast::Hello(Hello {
        node: NodeId(1),
        name: "fra-1".into(),
        url: "wss://fra-1.example/".into(),
        draining: true,
        viewers: 12,
        splits: vec![StreamId([1; 16])],
        big: vec![(StreamId([2; 16]), 70_000)],
    })
}

fn spent() -> Broadcast {
    let all = (0..=255).map(|used| Spent {
        address: u128::MAX - u128::from(used),
        used,
    });
    Broadcast::Spent(NodeId(3), all.collect())
}

fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>, DecodeError> {
    let (_, mut reader) = open(bytes)?;
    let mut found = Vec::new();
    while let Some(entry) = Entry::next(&mut reader)? {
        found.push(entry?);
    }
    Ok(found)
}

#[test]
fn what_is_written_is_read() {
    let mut message = begin(NodeId(4));
    for entry in entries() {
        entry.encode(&mut message);
    }
    assert_eq!(open(&message).unwrap().0, NodeId(4));
    assert_eq!(read(&message).unwrap(), entries());
    for broadcast in [hello(), spent(), Broadcast::Bye(NodeId(u64::MAX))] {
        assert_eq!(Broadcast::decode(&broadcast.encode()), Ok(broadcast));
    }
}

#[test]
fn what_is_cut_or_of_another_version_is_refused() {
    let mut message = begin(NodeId(4));
    arrival_message(&mut message);
    for len in 0..message.len() {
        // The empty list of entries is the only shorter message that is whole.
        assert_eq!(read(&message[..len]).is_ok(), len == 10, "{len}");
    }
    let whole = hello().encode();
    for whole in [&whole, &spent().encode()] {
        for len in 0..whole.len() {
            assert!(Broadcast::decode(&whole[..len]).is_err(), "{len}");
        }
    }
    for bytes in [&mut message, &mut whole.clone()] {
        bytes[0] = VERSION + 1;
        assert!(read(bytes).is_err() && Broadcast::decode(bytes).is_err());
    }
}

#[test]
fn words_that_are_no_text_harm_nothing_behind_them() {
    let mut message = begin(NodeId(4));
    let text = "a bad offer";
    let tell = GuestWords::Tell {
        droppable: true,
        text,
    };
    Entry::Guest(7, tell).encode(&mut message);
    *message.last_mut().unwrap() = 0xff;
    let network = arrival().joined.network;
    Entry::Guest(7, GuestWords::Say { network, text }).encode(&mut message);
    *message.last_mut().unwrap() = 0xff;
    Entry::Guest(8, GuestWords::Probe).encode(&mut message);
    let (_, mut reader) = open(&message).unwrap();
    let mut next = || Entry::next(&mut reader).unwrap();
    for _ in 0..2 {
        assert_eq!(next(), Some(Err(DecodeError::OutOfRange("text"))));
    }
    let probe = Entry::Guest(8, GuestWords::Probe);
    assert_eq!((next(), next()), (Some(Ok(probe)), None));
}

#[test]
fn changed_bytes_never_panic() {
    let mut message = begin(NodeId(4));
    for entry in entries() {
        entry.encode(&mut message);
    }
    for whole in [message, hello().encode(), spent().encode()] {
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = (read(&bytes), Broadcast::decode(&bytes));
            }
        }
    }
}

fn arrival_message(message: &mut Vec<u8>) {
    let remote = Remote { conn: 8, turn: 2 };
    Entry::Join(remote, Box::new(arrival())).encode(message);
}

use super::*;
use crate::{
    cluster::{Output, Visitor, Words, guests::Guests, members::Hello, message::barred::Barred},
    kicked::Identity,
    reload::Reloader,
    webtorrent::Facade,
};
use swarm_core::{
    directory::{Joined, Network},
    id::{PeerId, StreamId, TrackId},
    wire::tracker::{Introduction, Nat, ViewerFlags, Welcome},
};
use tokio::sync::mpsc;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// A node that knows another one, and what its shard says to visitors.
fn router(config: &Config) -> (Router, Visitors, mpsc::Receiver<Output>) {
    let counters = Arc::new(Counters::default());
    let (outputs, said) = mpsc::channel(100);
    let visitors = Visitors {
        outputs,
        counters: Arc::clone(&counters),
    };
    let (guests, _) = Guests::new(ME, Arc::clone(&counters));
    let facade = Arc::new(Facade::new(config, &mut Reloader::default()).unwrap());
    let swarms = Swarms { facade, guests };
    let places = Arc::new(Places::new(&config.drain));
    let mut router = Router::new(ME, 1, config, visitors.clone(), places, swarms, counters);
    let hello = Hello {
        node: OTHER,
        ..Hello::default()
    };
    router.handle_broadcast(&Broadcast::Hello(hello).encode());
    router.take_messages();
    (router, visitors, said)
}

fn joined(stream: StreamId) -> Joined {
    Joined {
        conn: ConnId(5),
        peer: PeerId(7),
        resumed: false,
        stream,
        track: TrackId(1),
        flags: ViewerFlags::default(),
        nat: Nat::Open,
        upload_kbps: 0,
        network: Network::default(),
    }
}

/// A stream that the other node owns.
fn stream_elsewhere(router: &Router) -> StreamId {
    let all = (0..=255).map(|byte| StreamId([byte; 16]));
    let owner = |stream: &StreamId| router.members.owner_of(*stream, &Network::default());
    let mut elsewhere = all.filter(|stream| owner(stream) == OTHER);
    elsewhere.next().unwrap()
}

/// The turns of the joins, and all tellings, that are sent to the other node.
fn sent(router: &mut Router) -> (Vec<u32>, Vec<Vec<u8>>) {
    let (mut turns, mut frames) = (Vec::new(), Vec::new());
    for message in router.take_messages() {
        let Outgoing::To(node, bytes) = message else {
            continue;
        };
        assert_eq!(node, OTHER);
        let (_, mut reader) = message::open(&bytes).unwrap();
        while let Some(entry) = Entry::next(&mut reader).unwrap() {
            match entry.unwrap() {
                Entry::Join(remote, _) => turns.push(remote.turn),
                Entry::Tell { frame, .. } => frames.push(frame.to_vec()),
                _ => {}
            }
        }
    }
    (turns, frames)
}

fn tell(router: &mut Router, turn: u32, message: &TrackerMsg<'_>) {
    let mut frame = Vec::new();
    message.encode(&mut frame);
    let mut bytes = message::begin(OTHER);
    let entry = Entry::Tell {
        to: Remote { conn: 5, turn },
        droppable: false,
        frame: &frame,
    };
    entry.encode(&mut bytes);
    router.handle_message(&bytes);
}

#[test]
fn a_viewer_whose_welcome_was_lost_is_asked_for_again_and_less_and_less_often() {
    let (mut router, visitors, mut heard) = router(&Config::default());
    let joined = joined(stream_elsewhere(&router));
    let conn = joined.conn;
    let join = Join {
        joined,
        isp: None,
        site: None,
        bearer: None,
        stun: Vec::new(),
        apart: Vec::new(),
        outgoing: Sink::There(Visitor {
            conn,
            from: visitors,
        }),
    };
    router.handle_command(Command::Join(Box::new(join)));
    assert_eq!(sent(&mut router).0, [1]);
    let introduction = Introduction {
        peer: PeerId(9),
        offer: true,
        flags: ViewerFlags::default(),
        distance: swarm_core::wire::tracker::Distance::Far,
    };
    tell(&mut router, 1, &TrackerMsg::Introduce(introduction));
    assert!(matches!(heard.try_recv().unwrap().what, Words::Tell { .. }));
    let mut due_ms = 0;
    for (turn, wait_ms) in [(2, 2_000), (3, 4_000), (4, 8_000), (5, 16_000), (6, 16_000)] {
        let next_ms = router.unanswered.peek().unwrap().0.0;
        assert!(next_ms >= wait_ms, "{turn}: {next_ms}");
        router.ask_again(next_ms - 1);
        assert!(sent(&mut router).0.is_empty());
        router.ask_again(next_ms);
        assert_eq!(sent(&mut router).0, [turn]);
        due_ms = next_ms;
    }
    let welcome = Welcome {
        peer: PeerId(7),
        secret: 1,
        status_interval_ms: 1,
        links_target: 1,
        stun: Vec::new(),
    };
    tell(&mut router, 6, &TrackerMsg::Welcome(welcome));
    router.ask_again(10 * due_ms);
    assert!(sent(&mut router).0.is_empty() && router.unanswered.is_empty());
}

#[test]
fn a_viewer_for_which_its_owner_has_no_room_is_turned_away() {
    let mut config = Config::default();
    config.cluster.viewers_max = 1;
    let (mut router, ..) = router(&config);
    for conn in [5, 6] {
        let mut bytes = message::begin(OTHER);
        let arrival = Arrival {
            joined: joined(StreamId([1; 16])),
            bearer: None,
            isp: None,
            site: None,
            stun: Vec::new(),
            apart: Vec::new(),
        };
        Entry::Join(Remote { conn, turn: 1 }, Box::new(arrival)).encode(&mut bytes);
        router.handle_message(&bytes);
    }
    assert_eq!(router.take_commands().len(), 1);
    let (_, frames) = sent(&mut router);
    let refusals: Vec<_> = frames
        .iter()
        .map(|frame| TrackerMsg::decode(frame))
        .collect();
    assert!(
        matches!(
            refusals[..],
            [Ok(TrackerMsg::Refused {
                code: swarm_core::wire::tracker::RefusalCode::Unavailable,
                ..
            })]
        ),
        "{refusals:?}"
    );
}

#[test]
fn a_node_that_comes_is_told_whom_to_turn_away_and_for_how_long_yet() {
    let (mut router, ..) = router(&Config::default());
    let who = Identity {
        peer: PeerId(7),
        bearer: None,
        address: 77,
        stream: StreamId([3; 16]),
    };
    let viewer = Barred::Viewer {
        who,
        left_ms: 90_000,
    };
    let guest = Barred::Guest {
        member: ([1; 20], [2; 20]),
        left_s: 90,
    };
    let mut bytes = message::begin(OTHER);
    for barred in [viewer, guest] {
        Entry::Barred(barred).encode(&mut bytes);
    }
    router.handle_message(&bytes);
    let commands = router.take_commands();
    assert!(
        matches!(commands[..], [Command::Bar(told, left)] if told == who && left.as_secs() == 90)
    );
    let third = NodeId(3);
    let hello = Broadcast::Hello(Hello {
        node: third,
        ..Hello::default()
    });
    // It is told once: not with each of its hellos.
    for expected in [2, 0] {
        router.handle_broadcast(&hello.encode());
        let mut told = Vec::new();
        for message in router.take_messages() {
            let Outgoing::To(node, bytes) = message else {
                continue;
            };
            assert_eq!(node, third);
            let (_, mut reader) = message::open(&bytes).unwrap();
            while let Some(entry) = Entry::next(&mut reader).unwrap() {
                let Ok(Entry::Barred(barred)) = entry else {
                    panic!("{entry:?}");
                };
                told.push(barred);
            }
        }
        assert_eq!(told.len(), expected);
        for barred in told {
            match barred {
                Barred::Viewer { who: told, left_ms } => {
                    assert_eq!(told, who);
                    assert!((1..=90_000).contains(&left_ms), "{left_ms}");
                }
                Barred::Guest { .. } => assert_eq!(barred, guest),
            }
        }
    }
}

//! Random operations, and what must hold after each.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Join {
        nat: usize,
        asn: u32,
        town: i16,
        address: u128,
        leech: bool,
        track: u32,
    },
    Leave(usize),
    Lose(usize),
    Resume(usize),
    Outcome {
        who: usize,
        pair: usize,
        outcome: usize,
    },
    Report {
        who: usize,
        track: u32,
        wanted: u8,
    },
    Pass(u64),
}

const NATS: [Nat; 5] = [
    Nat::Unknown,
    Nat::Open,
    Nat::Cone,
    Nat::Symmetric,
    Nat::Blocked,
];
const OUTCOMES: [LinkOutcome; 4] = [
    LinkOutcome::Up,
    LinkOutcome::Failed,
    LinkOutcome::Lost,
    LinkOutcome::Misbehaved,
];

fn op() -> impl Strategy<Value = Op> {
    let join = (
        0..5_usize,
        0..4_u32,
        0..3_i16,
        0..40_u128,
        any::<bool>(),
        7..9_u32,
    )
        .prop_map(|(nat, asn, town, address, leech, track)| Op::Join {
            nat,
            asn,
            town,
            address,
            leech: leech && address % 4 == 0,
            track,
        });
    prop_oneof![
        12 => join,
        2 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Lose),
        1 => any::<usize>().prop_map(Op::Resume),
        8 => (any::<usize>(), any::<usize>(), 0..4_usize)
            .prop_map(|(who, pair, outcome)| Op::Outcome { who, pair, outcome }),
        3 => (any::<usize>(), 7..9_u32, 0..4_u8)
            .prop_map(|(who, track, wanted)| Op::Report { who, track, wanted }),
        3 => (1..9_000_u64).prop_map(Op::Pass),
    ]
}

fn pick(world: &World, index: usize) -> Option<PeerId> {
    let peers: Vec<PeerId> = world.directory.viewers(STREAM).map(|v| v.peer()).collect();
    (!peers.is_empty()).then(|| peers[index % peers.len()])
}

fn apply(world: &mut World, op: &Op) {
    match *op {
        Op::Join {
            nat,
            asn,
            town,
            address,
            leech,
            track,
        } => {
            let mut joined = world.joined(network(asn, town, address));
            joined.nat = NATS[nat];
            joined.track = TrackId(track);
            if leech {
                joined.flags = ViewerFlags::LEECH;
            }
            world.admit(&joined);
        }
        Op::Leave(who) => {
            if let Some(conn) = pick(world, who).map(|p| world.conn(p)) {
                world.handle(Input::Left(conn));
            }
        }
        Op::Lose(who) => {
            if let Some(conn) = pick(world, who).map(|p| world.conn(p)) {
                world.handle(Input::Lost(conn));
            }
        }
        Op::Resume(who) => {
            let Some(peer) = pick(world, who) else { return };
            let network = *world.directory.viewer(peer).unwrap().network();
            let mut joined = world.joined(network);
            joined.nat = world.directory.viewer(peer).unwrap().nat();
            joined.peer = peer;
            joined.resumed = true;
            world.admit(&joined);
        }
        Op::Outcome { who, pair, outcome } => {
            let Some(peer) = pick(world, who) else { return };
            let pairs = world.pairs(peer);
            if !pairs.is_empty() {
                world.link(peer, pairs[pair % pairs.len()].peer, OUTCOMES[outcome]);
            }
        }
        Op::Report { who, track, wanted } => {
            let Some(peer) = pick(world, who) else { return };
            let status = Status {
                track: TrackId(track),
                links_wanted: wanted,
                ..Status::default()
            };
            world.status(peer, status);
        }
        Op::Pass(ms) => world.pass(ms),
    }
}

fn check(world: &World, told_from: usize) {
    let directory = &world.directory;
    for viewer in directory.viewers(STREAM) {
        let pairs: Vec<PairView> = viewer.pairs().collect();
        assert!(pairs.len() <= crate::limits::NEIGHBOURS_MAX);
        for pair in &pairs {
            assert_ne!(pair.peer, viewer.peer());
            let other = directory
                .viewer(pair.peer)
                .expect("only viewers that are there");
            let back: Vec<PairView> = other.pairs().filter(|p| p.peer == viewer.peer()).collect();
            assert_eq!(back.len(), 1, "pairs are symmetric");
            assert_eq!(back[0].up, pair.up);
            let nats = (viewer.nat(), other.nat());
            let can_link = nats.0 != Nat::Blocked && nats != (Nat::Symmetric, Nat::Symmetric);
            assert!(can_link || viewer.network().is_beside(other.network()));
            let leech = |v: &ViewerView<'_>| v.flags().has(ViewerFlags::LEECH);
            assert!(!(leech(&viewer) && leech(&other)));
        }
    }
    let sizes: Vec<usize> = world.groups().values().map(Vec::len).collect();
    assert!(sizes.iter().all(|size| *size <= 24), "{sizes:?}");
    assert_eq!(sizes.len(), directory.groups_len(), "no empty groups");
    for action in &world.told[told_from..] {
        if let Action::Introduce { introduction, .. } = action {
            assert!(world.conns.contains_key(&introduction.peer));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_mesh_stays_sound_and_is_the_same_for_the_same_seed(
        ops in prop::collection::vec(op(), 1..160),
    ) {
        let mut runs = Vec::new();
        for _ in 0..2 {
            let mut world = World::new(Policy::default());
            for op in &ops {
                let told_from = world.told.len();
                apply(&mut world, op);
                check(&world, told_from);
            }
            // Everybody leaves: nothing is left behind.
            while let Some(peer) = pick(&world, 0) {
                let conn = world.conn(peer);
                world.handle(Input::Lost(conn));
                world.now = world.now.plus_ms(25_000);
                world.handle(Input::Tick);
            }
            prop_assert_eq!(world.directory.groups_len(), 0);
            prop_assert_eq!(world.directory.next_wakeup(), None);
            prop_assert!(world.directory.swarms.is_empty() && world.directory.names.is_empty());
            runs.push(world.told);
        }
        prop_assert!(runs[0] == runs[1]);
    }
}

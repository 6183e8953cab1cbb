//! Pairs: who may meet, and what their outcomes lead to.

use super::*;

fn with_nat(world: &mut World, nat: Nat) -> PeerId {
    let mut joined = world.joined(network(1, 0, 0));
    joined.nat = nat;
    world.admit(&joined)
}

pub(super) fn met(world: &World, a: PeerId, b: PeerId) -> bool {
    world.pairs(a).iter().any(|p| p.peer == b)
}

#[test]
fn networks_that_cannot_connect_are_not_introduced() {
    let mut world = World::new(Policy::default());
    let kinds = [
        Nat::Unknown,
        Nat::Open,
        Nat::Cone,
        Nat::Symmetric,
        Nat::Symmetric,
        Nat::Blocked,
    ];
    let peers: Vec<PeerId> = kinds.iter().map(|nat| with_nat(&mut world, *nat)).collect();
    for (i, a) in peers.iter().enumerate() {
        for (j, b) in peers.iter().enumerate() {
            let blocked = kinds[i] == Nat::Blocked || kinds[j] == Nat::Blocked;
            let symmetric = kinds[i] == Nat::Symmetric && kinds[j] == Nat::Symmetric;
            assert_eq!(
                met(&world, *a, *b),
                i != j && !blocked && !symmetric,
                "{i} {j}"
            );
        }
    }
}

#[test]
fn within_a_site_or_household_nats_do_not_matter() {
    let mut world = World::new(Policy::default());
    let office = Network {
        site: Some(7),
        ..network(1, 0, 1)
    };
    let mut enter = |nat, network| {
        let joined = world.joined(network);
        world.admit(&Joined { nat, ..joined })
    };
    let colleagues = [Nat::Symmetric, Nat::Blocked, Nat::Symmetric, Nat::Blocked].map(|nat| {
        enter(
            nat,
            Network {
                address: 0,
                ..office
            },
        )
    });
    let family = [Nat::Symmetric; 2].map(|nat| enter(nat, network(1, 0, 99)));
    for (i, a) in colleagues.iter().enumerate() {
        for b in &colleagues[i + 1..] {
            assert!(met(&world, *a, *b));
        }
        assert!(family.iter().all(|b| !met(&world, *a, *b)));
    }
    assert!(met(&world, family[0], family[1]));
}

#[test]
fn what_a_viewer_finds_out_of_its_network_counts_for_whom_it_meets_next() {
    let mut world = World::new(Policy::default());
    let old = with_nat(&mut world, Nat::Symmetric);
    let found_out = with_nat(&mut world, Nat::Unknown);
    assert!(met(&world, old, found_out), "nobody knew");
    let status = Status {
        track: TRACK,
        nat: Nat::Symmetric,
        ..Status::default()
    };
    world.status(found_out, status);
    world.status(
        found_out,
        Status {
            nat: Nat::Unknown,
            ..status
        },
    );
    let newcomers = [Nat::Cone, Nat::Symmetric].map(|nat| with_nat(&mut world, nat));
    assert!(met(&world, found_out, newcomers[0]));
    assert!(!met(&world, found_out, newcomers[1]));
}

#[test]
fn two_that_give_nothing_are_not_introduced() {
    let mut world = World::new(Policy::default());
    let leech = Network {
        mode: P2pMode::Leech,
        ..network(1, 0, 0)
    };
    let (a, b) = (world.join(leech), world.join(leech));
    let giver = world.join(network(1, 0, 0));
    assert!(!met(&world, a, b));
    assert!(met(&world, a, giver) && met(&world, b, giver));
    let told_giver = world.told.iter().any(|action| {
        matches!(action, Action::Introduce { introduction: i, .. }
            if i.peer == a && i.flags.has(ViewerFlags::LEECH))
    });
    assert!(told_giver, "others know that it gives nothing");
}

#[test]
fn a_network_that_is_switched_off_is_refused() {
    let mut world = World::new(Policy::default());
    let joined = world.joined(Network {
        mode: P2pMode::Off,
        ..Network::default()
    });
    let conn = joined.conn;
    let code = RefusalCode::NotServed;
    assert_eq!(
        world.handle(Input::Joined(&joined)),
        [Action::Refuse { conn, code }]
    );
    assert_eq!(world.directory.viewers_len(), 0);
}

#[test]
fn a_failed_pair_meets_again_only_with_another_network() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(3, network(1, 0, 0));
    world.link(peers[0], peers[1], LinkOutcome::Failed);
    let wants = Status {
        track: TRACK,
        links_wanted: 1,
        ..Status::default()
    };
    for _ in 0..12 {
        world.pass(300_000);
        world.status(peers[0], wants);
        assert!(!met(&world, peers[0], peers[1]) && !met(&world, peers[1], peers[0]));
    }
    let mut elsewhere = world.joined(network(1, 0, 77));
    (elsewhere.peer, elsewhere.resumed) = (peers[0], true);
    world.admit(&elsewhere);
    assert!(met(&world, peers[0], peers[1]));
}

#[test]
fn a_pair_of_which_nothing_is_heard_counts_as_failed() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(2, network(1, 0, 0));
    world.pass(60_000);
    assert!(!met(&world, peers[0], peers[1]));
    assert_eq!(world.directory.stats().links_failed, 1);
}

#[test]
fn departures_are_told_and_refilled() {
    let mut world = World::new(Policy {
        links_target: 4,
        ..Policy::default()
    });
    let peers = world.join_many(10, network(1, 0, 0));
    world.link_all();
    let stays = peers[9];
    let leavers: Vec<PeerId> = world.pairs(stays).iter().map(|p| p.peer).collect();
    assert_eq!(leavers.len(), 4);
    for peer in leavers {
        world.told.clear();
        let told: Vec<Action> = world
            .pairs(peer)
            .iter()
            .map(|p| Action::Gone {
                conn: world.conn(p.peer),
                peer,
            })
            .collect();
        let conn = world.conn(peer);
        let actions = world.handle(Input::Left(conn));
        assert_eq!(actions, told);
    }
    assert_eq!(world.pairs(stays).len(), 0);
    world.pass(1_000);
    assert_eq!(world.pairs(stays).len(), 4, "refilled");
}

#[test]
fn a_silent_viewer_is_given_up_and_one_that_reports_is_not() {
    let mut world = World::new(Policy::default());
    let (alive, silent) = (world.join(network(1, 0, 0)), world.join(network(1, 0, 0)));
    let conn = world.conn(silent);
    for _ in 0..4 {
        world.now = world.now.plus_ms(5_000);
        world.handle(Input::Tick);
        world.status(
            alive,
            Status {
                track: TRACK,
                ..Status::default()
            },
        );
    }
    assert!(world.directory.viewer(silent).is_none());
    assert!(world.told.contains(&Action::Close { conn }));
    let conn = world.conn(alive);
    assert!(world.told.contains(&Action::Gone { conn, peer: silent }));
    assert!(world.directory.viewer(alive).is_some());
}

#[test]
fn signals_pass_only_between_introduced_viewers() {
    let mut world = World::new(Policy::default());
    let (a, b) = (world.join(network(1, 0, 0)), world.join(network(1, 0, 0)));
    let mut stranger = world.joined(network(1, 0, 0));
    stranger.stream = StreamId([2; 16]);
    let stranger = world.admit(&stranger);
    assert_eq!(
        world.directory.may_signal(world.conn(a), b),
        Some(world.conn(b))
    );
    assert_eq!(world.directory.may_signal(world.conn(a), a), None);
    assert_eq!(world.directory.may_signal(world.conn(stranger), a), None);
    assert_eq!(world.directory.may_signal(world.conn(a), stranger), None);
    assert_eq!(world.directory.may_signal(ConnId(999), a), None);
}

#[test]
fn a_viewer_that_is_away_is_given_up_where_it_is_not_to_come_back() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(3, network(1, 0, 0));
    world.link_all();
    world.handle(Input::Forget(peers[0]));
    assert_eq!(world.directory.viewers_len(), 3, "it is here");
    world.handle(Input::Lost(world.conn(peers[0])));
    world.told.clear();
    world.handle(Input::Forget(peers[0]));
    let peer = peers[0];
    let gone = [1, 2].map(|other| Action::Gone {
        conn: world.conn(peers[other]),
        peer,
    });
    assert_eq!(world.told, gone);
    assert_eq!(world.directory.viewers_len(), 2);
}

#[test]
fn a_viewer_that_comes_back_keeps_its_name_place_and_links() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(3, network(1, 0, 0));
    world.link_all();
    let mut again = world.joined(network(1, 0, 0));
    again.peer = peers[0];
    again.resumed = true;
    world.handle(Input::Lost(ConnId(2)));
    assert_eq!(
        world.directory.may_signal(world.conn(peers[1]), peers[0]),
        None
    );
    world.now = world.now.plus_ms(3_000);
    world.told.clear();
    world.admit(&again);
    let (conn, peer) = (again.conn, peers[0]);
    assert_eq!(
        world.told,
        [Action::Welcome { conn, peer }],
        "nobody is introduced again"
    );
    assert_eq!(world.pairs(peers[0]).len(), 2);
    assert_eq!(
        world.directory.may_signal(world.conn(peers[1]), peers[0]),
        Some(conn)
    );
}

#[test]
fn a_viewer_that_comes_back_without_its_links_is_introduced_anew() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(3, network(1, 0, 0));
    world.link_all();
    let mut again = world.joined(network(1, 0, 0));
    again.peer = peers[0];
    again.resumed = true;
    world.told.clear();
    world.admit(&again);
    assert!(
        world.told.contains(&Action::Close { conn: ConnId(2) }),
        "the old connection ends"
    );
    world.status(
        peers[0],
        Status {
            track: TRACK,
            ..Status::default()
        },
    );
    assert_eq!(world.pairs(peers[0]).iter().filter(|p| !p.up).count(), 2);
}

#[test]
fn one_that_does_not_come_back_is_gone() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(2, network(1, 0, 0));
    let conn = world.conn(peers[0]);
    world.handle(Input::Lost(conn));
    world.pass(19_000);
    assert!(world.directory.viewer(peers[0]).is_some());
    world.pass(2_000);
    assert!(world.directory.viewer(peers[0]).is_none());
    let conn = world.conn(peers[1]);
    assert!(world.told.contains(&Action::Gone {
        conn,
        peer: peers[0]
    }));
}

#[test]
fn a_name_that_was_not_proven_is_refused_if_taken() {
    let mut world = World::new(Policy::default());
    let peer = world.join(network(1, 0, 0));
    let mut thief = world.joined(network(1, 0, 0));
    thief.peer = peer;
    let (conn, code) = (thief.conn, RefusalCode::Unavailable);
    assert_eq!(
        world.handle(Input::Joined(&thief)),
        [Action::Refuse { conn, code }]
    );
    assert!(world.directory.viewer(peer).is_some_and(|v| v.connected()));
}

#[test]
fn links_from_before_a_restart_are_believed_when_both_sides_tell() {
    let policy = Policy {
        introductions_burst: 0,
        introductions_per_hour: 0,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let peers = world.join_many(2, network(1, 0, 0));
    world.link(peers[0], peers[1], LinkOutcome::Up);
    assert!(
        world.pairs(peers[0]).is_empty(),
        "one side's word is not enough"
    );
    world.link(peers[1], peers[0], LinkOutcome::Up);
    assert!(
        world
            .pairs(peers[0])
            .iter()
            .any(|p| p.up && p.peer == peers[1])
    );
    assert!(
        world
            .pairs(peers[1])
            .iter()
            .any(|p| p.up && p.peer == peers[0])
    );
}

#[test]
fn introductions_are_rationed() {
    let policy = Policy {
        introductions_burst: 5,
        introductions_per_hour: 60,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let curious = world.join(network(1, 0, 0));
    world.join_many(14, network(1, 0, 0));
    assert_eq!(world.pairs(curious).len(), 5);
    let told = |world: &World| {
        let conn = world.conn(curious);
        let to_it = |a: &&Action| matches!(a, Action::Introduce { conn: c, .. } if *c == conn);
        world.told.iter().filter(to_it).count()
    };
    world.pass(600_000);
    assert!(told(&world) <= 5 + 10 + 1, "{}", told(&world));
}

#[test]
fn who_meets_a_whole_group_at_once_is_told_of_no_more_than_its_ration() {
    let policy = Policy {
        introductions_burst: 6,
        introductions_per_hour: 0,
        long_links: 0,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let mover = world.join_many(5, network(1, 0, 0))[0];
    let track = TrackId(8);
    for _ in 0..5 {
        let mut joined = world.joined(network(1, 0, 0));
        joined.track = track;
        world.admit(&joined);
    }
    let conn = world.conn(mover);
    let to_it = |a: &&Action| matches!(a, Action::Introduce { conn: c, .. } if *c == conn);
    let told = |world: &World| world.told.iter().filter(to_it).count();
    assert_eq!(told(&world), 4);
    let moved = Status {
        track,
        ..Status::default()
    };
    world.status(mover, moved);
    world.pass(60_000);
    assert_eq!(told(&world), 6);
}

#[test]
fn inputs_of_unknown_connections_are_ignored() {
    let mut world = World::new(Policy::default());
    let status = Status::default();
    let (conn, peer) = (ConnId(5), PeerId(5));
    for input in [
        Input::Tick,
        Input::Status {
            conn,
            status: &status,
        },
        Input::Link {
            conn,
            peer,
            outcome: LinkOutcome::Up,
            rtt_ms: 0,
        },
        Input::Left(conn),
        Input::Lost(conn),
    ] {
        assert_eq!(world.handle(input), []);
    }
    assert_eq!(world.directory.next_wakeup(), None);
}

#[test]
fn the_gap_that_silent_viewers_leave_is_filled() {
    let mut world = World::new(Policy {
        links_target: 4,
        ..Policy::default()
    });
    let peers = world.join_many(10, network(1, 0, 0));
    world.link_all();
    let stays = peers[9];
    let silent: Vec<PeerId> = world.pairs(stays).iter().map(|p| p.peer).collect();
    assert_eq!(silent.len(), 4);
    for _ in 0..4 {
        world.now = world.now.plus_ms(4_250);
        world.handle(Input::Tick);
        for peer in peers.iter().filter(|peer| !silent.contains(peer)) {
            let status = Status {
                track: TRACK,
                links: 4,
                ..Status::default()
            };
            world.status(*peer, status);
        }
    }
    world.pass(1_000);
    for peer in &silent {
        assert!(world.directory.viewer(*peer).is_none());
    }
    let pairs = world.pairs(stays);
    assert_eq!(pairs.len(), 4, "others have taken their places");
    assert!(pairs.iter().all(|pair| !silent.contains(&pair.peer)));
}

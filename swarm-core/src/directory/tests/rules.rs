//! What operators promise: who learns of whom, how often, and what stays inside.

use super::*;

fn addresses_learned(world: &World, address: u128) -> BTreeSet<u128> {
    let here: BTreeSet<ConnId> = world.of_address.get(&address).cloned().unwrap_or_default();
    let told = world.told.iter().filter_map(|action| match action {
        Action::Introduce { conn, introduction } if here.contains(conn) => Some(introduction.peer),
        _ => None,
    });
    let learned = told.filter_map(|peer| world.addresses.get(&peer).copied());
    learned.filter(|other| *other != address).collect()
}

#[test]
fn a_viewer_learns_of_a_bounded_number_of_addresses_an_hour() {
    let policy = Policy {
        introductions_burst: 20,
        introductions_per_hour: 40,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    world.join(network(1, 0, 1));
    let mut others = Vec::new();
    // Its neighbours come and go all the time, so that it always wants new ones.
    for i in 0..720 {
        others.push(world.join(network(1, 0, 100 + i)));
        if others.len() > 10 {
            let conn = world.conn(others.remove(0));
            world.handle(Input::Left(conn));
        }
        world.pass(5_000);
    }
    let learned = addresses_learned(&world, 1).len();
    assert!(
        (40..=20 + 40 + 1).contains(&learned),
        "{learned} addresses in an hour"
    );
}

#[test]
fn who_joins_again_and_again_learns_no_more_than_its_address_may() {
    let policy = Policy {
        address_introductions_burst: 50,
        address_introductions_per_hour: 10,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    for i in 0..200 {
        world.join(network(1 + i % 5, 0, 1_000 + u128::from(i)));
    }
    for i in 0..100 {
        let spy = world.join(network(1 + i % 5, 0, 1));
        world.now = world.now.plus_ms(50);
        world.handle(Input::Tick);
        let conn = world.conn(spy);
        world.handle(Input::Left(conn));
    }
    let learned = addresses_learned(&world, 1).len();
    assert!((30..=51).contains(&learned), "{learned}");
    let honest = world.join(network(1, 0, 2));
    assert!(world.pairs(honest).len() > 10, "others are not concerned");
}

/// Joins again and again from address 1, each time before somebody new comes. How many introductions that
/// has brought.
fn collect(world: &mut World, times: u128, others_from: u128) -> usize {
    let told_from = world.told.len();
    for i in 0..times {
        let nosy = world.join(network(1, 0, 1));
        world.join(network(1, 0, others_from + i));
        let conn = world.conn(nosy);
        world.handle(Input::Left(conn));
        world.now = world.now.plus_ms(10);
    }
    let here = &world.of_address[&1];
    // Who is told again of somebody that it knows learns nothing.
    let told = world.told[told_from..]
        .iter()
        .filter_map(|action| match action {
            Action::Introduce { conn, introduction } => Some((*conn, introduction.peer)),
            _ => None,
        });
    let told: BTreeSet<_> = told.filter(|(conn, _)| here.contains(conn)).collect();
    told.len()
}

#[test]
fn another_directory_of_the_tracker_gives_an_address_no_more_than_it_has_left() {
    let policy = || Policy {
        introductions_burst: 20,
        introductions_per_hour: 10,
        ..Policy::default()
    };
    let (mut old, mut new) = (World::new(policy()), World::new(policy()));
    // As much as three viewers may have.
    assert_eq!(collect(&mut old, 100, 1_000), 3 * 20);
    let (spent, _) = old.directory.spent_since(None);
    let is_told = |spent: &&Spent| spent.address == 1;
    assert!(spent.iter().find(is_told).is_some_and(|s| s.used > 240));
    // Whether it has viewers there already or not.
    let known = new.join(network(1, 0, 1));
    new.handle(Input::Spent(&spent));
    let conn = new.conn(known);
    new.handle(Input::Left(conn));
    let mut fresh = World::new(policy());
    fresh.handle(Input::Spent(&spent));
    for world in [&mut new, &mut fresh] {
        let more = collect(world, 100, 5_000);
        assert!(more <= 4, "less than a step: {more}");
    }
    let honest = fresh.join(network(1, 0, 2));
    for other in 3..8 {
        fresh.join(network(1, 0, other));
    }
    assert!(!fresh.pairs(honest).is_empty(), "others are not concerned");
    // What three viewers earn in an hour is to be had.
    fresh.now = fresh.now.plus_ms(3_600_000);
    let again = collect(&mut fresh, 100, 9_000);
    assert!((25..=31).contains(&again), "{again}");
}

#[test]
fn a_large_household_that_moves_has_the_same_share_left_with_all_its_viewers() {
    let policy = Policy {
        introductions_burst: 30,
        introductions_per_hour: 0,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    // 7 of 10 are used.
    let spent = [Spent {
        address: 1,
        used: 178,
    }];
    world.handle(Input::Spent(&spent));
    for track in 1_000..1_008 {
        let mut join = |address: u128| {
            let mut joined = world.joined(network(1, 0, address));
            joined.track = TrackId(track);
            world.admit(&joined);
        };
        // They do not know each other: each plays something else.
        join(1);
        (0..40).for_each(|i| join(u128::from(track) * 100 + i));
    }
    let learned = addresses_learned(&world, 1).len();
    // Ten times thirty, of which 77 parts of 255 are left.
    assert!((80..=90).contains(&learned), "{learned}");
}

#[test]
fn a_viewer_that_moves_is_not_introduced_to_those_with_whom_it_could_not_link() {
    let mut world = World::new(Policy::default());
    let others = world.join_many(4, network(1, 0, 0));
    let joined = world.joined(network(1, 0, 0));
    let apart = &[others[0], PeerId(1)];
    let told = world.handle(Input::Moved {
        joined: &joined,
        apart,
    });
    let met = told.iter().filter_map(|action| match action {
        Action::Introduce { conn, introduction } if *conn == joined.conn => Some(introduction.peer),
        _ => None,
    });
    let expected: BTreeSet<PeerId> = others[1..].iter().copied().collect();
    assert_eq!(met.collect::<BTreeSet<_>>(), expected);
    // Nor the other way round, when the one that failed comes later.
    let mut late = world.joined(network(1, 0, 0));
    late.peer = PeerId(1);
    world.admit(&late);
    let met: Vec<PeerId> = world.pairs(PeerId(1)).iter().map(|p| p.peer).collect();
    assert_eq!(met.len(), 4);
    assert!(!met.contains(&joined.peer));
}

#[test]
fn a_household_does_not_use_up_its_ration_on_itself() {
    let policy = Policy {
        address_introductions_burst: 5,
        address_introductions_per_hour: 0,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let home = world.join_many(10, network(1, 0, 1));
    assert!(home.iter().all(|peer| world.pairs(*peer).len() == 9));
    for i in 0..10 {
        world.join(network(1, 0, 100 + i));
    }
    let outside = |peer: &PeerId| world.pairs(*peer).len() - 9;
    assert_eq!(home.iter().map(outside).sum::<usize>(), 5);
    assert!((1..=5).contains(&addresses_learned(&world, 1).len()));
}

#[test]
fn nobody_is_introduced_below_the_number_of_viewers_that_it_needs() {
    let policy = Policy {
        viewers_min: 6,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let mut peers = world.join_many(5, network(1, 0, 0));
    world.pass(10_000);
    assert!(peers.iter().all(|peer| world.pairs(*peer).is_empty()));
    peers.push(world.join(network(1, 0, 0)));
    world.pass(100);
    assert!(
        peers.iter().all(|peer| world.pairs(*peer).len() == 5),
        "all at once"
    );
    world.link_all();
    let conn = world.conn(peers[0]);
    world.handle(Input::Left(conn));
    world.pass(10_000);
    assert!(
        peers[1..].iter().all(|peer| world.pairs(*peer).len() == 4),
        "links that are there stay"
    );
    let late = world.join(network(1, 0, 0));
    assert_eq!(world.pairs(late).len(), 5, "six again");
}

#[test]
fn viewers_that_are_kept_local_meet_their_own_site_alone() {
    for audience in [10, 300] {
        let mut world = World::new(Policy::default());
        let local = |site: u32, address| Network {
            site: Some(site),
            local_only: true,
            ..network(7, 0, address)
        };
        let mut sites: [Vec<PeerId>; 2] = [Vec::new(), Vec::new()];
        for i in 0..audience {
            world.join(network(1 + i % 5, 0, 10_000 + u128::from(i)));
            if i % 2 == 0 && i < 16 {
                sites[0].push(world.join(local(1, 100 + u128::from(i))));
                sites[1].push(world.join(local(2, 200 + u128::from(i))));
            }
            world.now = world.now.plus_ms(20);
        }
        world.pass(30_000);
        for site in &sites {
            for peer in site {
                let met: Vec<PeerId> = world.pairs(*peer).iter().map(|p| p.peer).collect();
                assert!(
                    met.iter().all(|other| site.contains(other)),
                    "of {audience}"
                );
                assert_eq!(met.len(), site.len() - 1, "of {audience}");
            }
        }
    }
}

#[test]
fn viewers_of_other_times_of_the_stream_form_groups_of_their_own() {
    let mut world = World::new(Policy::default());
    let live = world.join_many(6, network(1, 0, 0));
    let behind = world.join_many(6, network(1, 0, 0));
    world.link_all();
    let report = |world: &mut World, peer: PeerId, lag_ms: u32| {
        let links = world.pairs(peer).iter().filter(|p| p.up).count() as u8;
        let status = Status {
            track: TRACK,
            links,
            lag_ms,
            ..Status::default()
        };
        world.status(peer, status);
    };
    for peer in &behind {
        report(&mut world, *peer, 600_000);
        assert!(
            world.pairs(*peer).iter().filter(|p| p.up).count() >= 6,
            "old links carry until new ones do"
        );
    }
    world.link_all();
    world.pass(40_000);
    for (own, others) in [(&live, &behind), (&behind, &live)] {
        for peer in own {
            let pairs = world.pairs(*peer);
            assert_eq!(pairs.len(), 5);
            assert!(pairs.iter().all(|p| !others.contains(&p.peer)));
        }
    }
    assert_eq!(world.groups().len(), 2);
    for peer in &behind {
        report(&mut world, *peer, 10_000);
    }
    world.link_all();
    world.pass(40_000);
    assert_eq!(
        world.groups().len(),
        1,
        "who is live again is with the others again"
    );
}

#[test]
fn a_band_of_lag_is_left_only_well_beyond_its_edge() {
    let policy = Policy::default();
    for (lag_ms, current, band) in [
        (0, 0, 0),
        (59_000, 0, 0),
        (74_000, 0, 0),
        (76_000, 0, 1),
        (46_000, 1, 1),
        (44_000, 1, 0),
        (134_000, 1, 1),
        (136_000, 1, 2),
        (u32::MAX, 3, 255),
        (u32::MAX, 255, 255),
        (0, 255, 0),
    ] {
        assert_eq!(policy.lag_band(lag_ms, current), band, "{lag_ms} {current}");
    }
}

#[test]
fn a_viewer_that_changes_the_track_all_the_time_is_placed_now_and_then() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(4, network(1, 0, 0));
    world.link_all();
    let flips = |world: &mut World, track| {
        let status = Status {
            track: TrackId(track),
            ..Status::default()
        };
        world.status(peers[0], status);
        world.directory.viewer(peers[0]).map(|v| v.track()) == Some(TrackId(track))
    };
    let mut changes = 0;
    for track in 100..200 {
        world.now = world.now.plus_ms(10);
        changes += u32::from(flips(&mut world, track));
    }
    assert_eq!(changes, 5);
    world.now = world.now.plus_ms(2_000);
    assert!(flips(&mut world, 199), "the last one holds");
    for track in 300..310 {
        world.now = world.now.plus_ms(2_000);
        assert!(flips(&mut world, track), "what players do is not held up");
    }
}

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

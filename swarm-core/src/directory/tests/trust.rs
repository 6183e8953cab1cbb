//! Accusations: whom they end the stay of, and who makes too many.

use super::{links::met, *};

#[test]
fn one_that_several_accuse_is_introduced_no_more() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(6, network(1, 0, 0));
    world.link_all();
    for accuser in &peers[1..4] {
        world.link(*accuser, peers[0], LinkOutcome::Misbehaved);
    }
    let newcomer = world.join(network(1, 0, 0));
    assert!(!met(&world, newcomer, peers[0]));
    assert!(met(&world, newcomer, peers[1]));
}

#[test]
fn whom_enough_accuse_all_others_are_told_to_give_up() {
    // (linked, accusers that are enough)
    for (linked, enough) in [(2, 2), (3, 2), (5, 3), (9, 3)] {
        let mut world = World::new(Policy::default());
        let peers = world.join_many(linked + 1, network(1, 0, 0));
        world.link_all();
        for (count, accuser) in peers[1..].iter().enumerate() {
            let shunned = world.told.iter().filter_map(|action| match action {
                Action::Shun { peer, conn } if *peer == peers[0] => Some(*conn),
                _ => None,
            });
            let shunned: Vec<ConnId> = shunned.collect();
            if count < enough {
                assert_eq!(shunned, [], "{linked} linked, {count} accuse");
            } else {
                let others = peers[1 + enough..].iter().map(|peer| world.conn(*peer));
                assert_eq!(shunned, others.collect::<Vec<_>>(), "{linked} linked");
                break;
            }
            world.link(*accuser, peers[0], LinkOutcome::Misbehaved);
        }
        assert_eq!(world.pairs(peers[0]).len(), 0);
    }
}

/// What a viewer reports that has verified bytes from peers.
fn proven() -> Status {
    Status {
        track: TRACK,
        bytes_p2p: 1,
        ..Status::default()
    }
}

fn accuse_all(world: &mut World, accuser: PeerId, accused: &[PeerId]) {
    for peer in accused {
        world.link(accuser, *peer, LinkOutcome::Misbehaved);
    }
}

#[test]
fn one_that_accuses_everybody_is_introduced_no_more_for_a_while() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(8, network(1, 0, 0));
    world.link_all();
    accuse_all(&mut world, peers[0], &peers[1..5]);
    let early = world.join(network(1, 0, 0));
    assert!(met(&world, early, peers[0]), "four may be right");
    accuse_all(&mut world, peers[0], &peers[5..6]);
    assert_eq!(world.directory.stats().false_accusers, 1);
    let newcomer = world.join(network(1, 0, 0));
    assert!(!met(&world, newcomer, peers[0]));
    for peer in &peers[1..] {
        assert!(met(&world, newcomer, *peer), "the accused are as before");
    }
    // What it says meanwhile counts for nothing.
    accuse_all(&mut world, peers[0], &peers[6..]);
    world.pass(590_000);
    let still = world.join(network(1, 0, 0));
    assert!(!met(&world, still, peers[0]));
    world.pass(20_000);
    let late = world.join(network(1, 0, 0));
    assert!(met(&world, late, peers[0]), "forgiven");
}

#[test]
fn whom_others_that_verify_accuse_too_is_no_false_complaint() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(12, network(1, 0, 0));
    world.link_all();
    let (honest, polluters) = peers.split_at(6);
    for viewer in honest {
        world.status(*viewer, proven());
    }
    for polluter in polluters {
        for viewer in &honest[..3] {
            world.link(*viewer, *polluter, LinkOutcome::Misbehaved);
        }
    }
    assert_eq!(world.directory.stats().false_accusers, 0);
    let newcomer = world.join(network(1, 0, 0));
    for viewer in honest {
        assert!(met(&world, newcomer, *viewer));
    }
    for polluter in polluters {
        assert!(!met(&world, newcomer, *polluter));
    }
}

#[test]
fn a_page_with_the_wrong_key_does_not_end_the_stay_of_others() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(12, network(1, 0, 0));
    world.link_all();
    let (wrong, right) = peers.split_at(4);
    for viewer in right {
        world.status(*viewer, proven());
    }
    // All at the same time: each of the right ones is accused by several. Whose links with them end
    // for that reason finds others bad later.
    for _ in 0..2 {
        for peer in right {
            for viewer in wrong {
                world.link(*viewer, *peer, LinkOutcome::Misbehaved);
            }
        }
        world.pass(1_000);
        world.link_all();
    }
    assert_eq!(world.directory.stats().false_accusers, 4);
    let newcomer = world.join(network(1, 0, 0));
    for viewer in right {
        assert!(met(&world, newcomer, *viewer));
    }
    for viewer in wrong {
        assert!(!met(&world, newcomer, *viewer));
    }
}

/// Members of one group that are linked with each other, at as many addresses as are given.
fn linked_from(addresses: &[u128]) -> (World, Vec<PeerId>) {
    let mut world = World::new(Policy::default());
    let from = |address: &u128| world.join(network(1, 0, *address));
    let peers = addresses.iter().map(from).collect();
    world.link_all();
    (world, peers)
}

fn shunned(world: &World) -> u64 {
    world.directory.stats().shunned
}

#[test]
fn accusers_of_one_address_count_as_one() {
    let v4 = |n: u128| 0xffff_c633_6400 + n;
    let v6 = |site: u128, home: u128| (0x2001_0db8_0000 + site) << 80 | home << 64 | 1;
    let victims = [v4(90), v4(91), v4(92), v4(93), v4(94), v4(95)];
    for (accusers, expected) in [
        ([v4(1), v4(1), v4(1)], 0),
        ([v6(1, 1), v6(1, 2), v6(1, 3)], 0),
        ([v4(1), v4(2), v4(3)], 1),
        ([v6(1, 1), v6(2, 1), v6(3, 1)], 1),
    ] {
        let (mut world, peers) = linked_from(&[&accusers[..], &victims].concat());
        for accuser in &peers[..3] {
            world.status(*accuser, proven());
            world.link(*accuser, peers[3], LinkOutcome::Misbehaved);
        }
        assert_eq!(shunned(&world), expected, "{accusers:x?}");
        let newcomer = world.join(network(1, 0, v4(99)));
        assert_eq!(met(&world, newcomer, peers[3]), expected == 0);
    }
}

#[test]
fn those_who_share_the_address_of_the_accused_count_each() {
    let (mut world, peers) = linked_from(&[7; 6]);
    for accuser in &peers[1..4] {
        world.link(*accuser, peers[0], LinkOutcome::Misbehaved);
    }
    assert_eq!(shunned(&world), 1);
}

#[test]
fn accusations_of_one_address_do_not_bear_out_each_other() {
    let addresses: Vec<u128> = [1, 1, 1].into_iter().chain(10..20).collect();
    let (mut world, peers) = linked_from(&addresses);
    let (gang, others) = peers.split_at(3);
    for member in gang {
        world.status(*member, proven());
    }
    for accused in &others[..5] {
        for member in gang {
            world.link(*member, *accused, LinkOutcome::Misbehaved);
        }
    }
    assert_eq!(shunned(&world), 0);
    assert!(world.directory.stats().false_accusers > 0, "it is seen");
}

#[test]
fn an_address_accuses_so_many_and_no_more() {
    let policy = Policy {
        address_accusations_burst: 1,
        address_accusations_per_hour: 0,
        ..Policy::default()
    };
    let mut world = World::new(policy);
    let peers: Vec<PeerId> = (1..=10).map(|n| world.join(network(1, 0, n))).collect();
    world.link_all();
    for accused in &peers[3..5] {
        for accuser in &peers[..3] {
            world.link(*accuser, *accused, LinkOutcome::Misbehaved);
        }
    }
    assert_eq!(shunned(&world), 1, "the first of the two");
    let newcomer = world.join(network(1, 0, 99));
    assert!(!met(&world, newcomer, peers[3]) && met(&world, newcomer, peers[4]));
}

#[test]
fn who_is_not_linked_with_a_viewer_by_its_own_word_cannot_accuse_it() {
    for linked in [false, true] {
        let mut world = World::new(Policy::default());
        let peers: Vec<PeerId> = (1..=6).map(|n| world.join(network(1, 0, n))).collect();
        for accuser in &peers[1..4] {
            world.link(*accuser, peers[0], LinkOutcome::Up);
            if linked {
                world.link(peers[0], *accuser, LinkOutcome::Up);
            }
        }
        for accuser in &peers[1..4] {
            world.link(*accuser, peers[0], LinkOutcome::Misbehaved);
        }
        assert_eq!(shunned(&world), u64::from(linked));
    }
}

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

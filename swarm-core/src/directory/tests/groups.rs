//! How viewers are grouped.

use super::*;

#[test]
fn a_small_swarm_is_one_full_mesh_at_once() {
    for size in 2..=15 {
        let mut world = World::new(Policy::default());
        let peers: Vec<PeerId> = (0..size)
            .map(|i| world.join(network(i % 4, (i % 3) as i16, u128::from(i) + 1)))
            .collect();
        for peer in &peers {
            assert_eq!(world.pairs(*peer).len(), size as usize - 1, "of {size}");
        }
        assert_eq!(world.groups().len(), 1);
        world.check_introductions();
    }
}

#[test]
fn a_group_that_grows_too_large_is_cut_by_place() {
    let mut world = World::new(Policy::default());
    for i in 0..13 {
        world.join(network(1, 0, 100 + i));
        world.join(network(2, 0, 200 + i));
    }
    world.pass(20_000);
    let groups = world.groups();
    assert_eq!(groups.len(), 2);
    for members in groups.values() {
        let asns: BTreeSet<u32> = members
            .iter()
            .filter_map(|p| Some(world.directory.viewer(*p)?.network().asn))
            .collect();
        assert_eq!(asns.len(), 1, "an ISP each");
    }
    world.check_introductions();
}

#[test]
fn of_a_group_that_is_cut_those_on_two_sides_are_told_once_each() {
    let mut world = World::new(Policy::default());
    let mut peers = Vec::new();
    while world.directory.stats().splits == 0 {
        assert!(peers.len() < 100);
        world.pass(5_000);
        world.told.clear();
        let count = peers.len() as u32;
        peers.push(world.join(network(1 + count % 2, 0, u128::from(count) + 1)));
    }
    let newcomer = peers[peers.len() - 1];
    let group = |peer| world.directory.viewer(peer).and_then(|v| v.group());
    let mut told = BTreeSet::new();
    for action in &world.told {
        let Action::Introduce { conn, introduction } = action else {
            continue;
        };
        let me = *peers.iter().find(|p| world.conn(**p) == *conn).unwrap();
        if me != newcomer && introduction.peer != newcomer {
            assert!(told.insert((me, introduction.peer)), "told twice");
            let elsewhere = introduction.flags.has(ViewerFlags::ELSEWHERE);
            assert!(elsewhere && group(me) != group(introduction.peer));
        }
    }
    let (mut across, mut within) = (0, 0);
    for me in peers.iter().filter(|p| **p != newcomer) {
        for pair in world.pairs(*me).iter().filter(|p| p.peer != newcomer) {
            let cut = group(*me) != group(pair.peer);
            assert_eq!(cut, told.contains(&(*me, pair.peer)));
            across += usize::from(cut);
            within += usize::from(!cut);
        }
    }
    assert!(across > 100 && within > 100, "{across} and {within}");
    world.check_introductions();
}

#[test]
fn a_large_audience_ends_in_local_groups_of_bounded_size_with_some_long_links() {
    let mut world = World::new(Policy::default());
    for i in 0..1_500_u32 {
        let (asn, town) = (1 + i % 5, (i / 5 % 3) as i16);
        world.join(network(asn, town, u128::from(i) + 1));
        world.now = world.now.plus_ms(20);
        if i % 100 == 0 {
            world.link_all();
        }
    }
    world.link_all();
    world.pass(30_000);
    let groups = world.groups();
    let sizes: Vec<usize> = groups.values().map(Vec::len).collect();
    assert!(
        sizes.iter().all(|size| (2..=24).contains(size)),
        "{sizes:?}"
    );
    let mean = 1_500 / groups.len();
    assert!((11..=20).contains(&mean), "{mean} a group");
    let (mut near, mut long, mut all) = (0, 0, 0);
    for viewer in world.directory.viewers(STREAM) {
        for pair in viewer.pairs() {
            all += 1;
            long += usize::from(pair.long);
            near += usize::from(pair.distance <= Distance::Metro);
        }
    }
    assert!(near * 100 / all >= 75, "{near} of {all} in the same town");
    assert!(
        (4..=20).contains(&(long * 100 / all)),
        "{long} of {all} long"
    );
    world.check_introductions();
}

#[test]
fn members_of_one_household_and_site_meet_in_a_large_swarm() {
    let mut world = World::new(Policy::default());
    for i in 0..200 {
        world.join(network(1 + i % 5, 0, u128::from(i) + 1));
    }
    let home = network(9, 2, 7_777);
    let (a, b) = (world.join(home), world.join(home));
    assert!(
        world
            .pairs(a)
            .iter()
            .any(|p| p.peer == b && p.distance == Distance::Household)
    );
    let office = |address| Network {
        site: Some(3),
        ..network(8, 1, address)
    };
    let c = world.join(office(8_001));
    let d = world.join(office(8_002));
    world.pass(2_000);
    assert!(
        world
            .pairs(c)
            .iter()
            .any(|p| p.peer == d && p.distance == Distance::Site)
    );
}

#[test]
fn thin_groups_merge() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(26, network(1, 0, 0));
    world.link_all();
    world.pass(15_000);
    let groups = world.groups();
    assert_eq!(groups.len(), 2);
    let smaller = groups.values().next().cloned().unwrap_or_default();
    for peer in smaller.iter().take(9) {
        let conn = world.conn(*peer);
        world.handle(Input::Left(conn));
    }
    world.pass(10_000);
    let groups = world.groups();
    assert_eq!(groups.len(), 1, "{groups:?}");
    let members = &groups.values().next().unwrap();
    assert_eq!(members.len(), peers.len() - 9);
    for peer in members.iter() {
        assert!(world.pairs(*peer).len() >= 12, "refilled");
    }
}

#[test]
fn a_mature_group_takes_newcomers_at_a_bounded_rate() {
    let mut world = World::new(Policy::default());
    world.join_many(15, network(1, 0, 0));
    world.pass(10_000);
    world.join_many(9, network(1, 0, 0));
    let sizes: Vec<usize> = world.groups().values().map(Vec::len).collect();
    assert!(
        sizes.iter().max().is_some_and(|max| *max <= 20),
        "{sizes:?}"
    );
}

#[test]
fn upload_is_balanced_over_the_groups_of_a_place() {
    let mut world = World::new(Policy::default());
    for i in 0..240_u32 {
        let mut joined = world.joined(network(1, 0, 0));
        joined.upload_kbps = if i % 3 == 0 { 30_000 } else { 500 };
        world.admit(&joined);
        world.now = world.now.plus_ms(1_000);
    }
    for members in world.groups().values() {
        let upload_kbps = |p: &PeerId| {
            world
                .directory
                .viewers
                .get(world.directory.names[p])
                .map(|v| v.upload_kbps)
        };
        let sum: u32 = members.iter().filter_map(upload_kbps).sum();
        let mean = sum as usize / members.len();
        assert!((5_000..=17_000).contains(&mean), "{mean} kbit/s a member");
    }
}

#[test]
fn a_track_change_keeps_old_links_until_new_ones_are_up() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(6, network(1, 0, 0));
    world.link_all();
    let other_track = TrackId(8);
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut joined = world.joined(network(1, 0, 0));
        joined.track = other_track;
        others.push(world.admit(&joined));
    }
    world.link_all();
    let mover = peers[0];
    world.told.clear();
    world.status(
        mover,
        Status {
            track: other_track,
            links: 5,
            ..Status::default()
        },
    );
    let pairs = world.pairs(mover);
    assert_eq!(
        pairs.iter().filter(|p| p.up).count(),
        5,
        "old links are kept"
    );
    assert_eq!(
        pairs.iter().filter(|p| others.contains(&p.peer)).count(),
        5,
        "new ones begin"
    );
    assert!(!world.told.iter().any(|a| matches!(a, Action::Gone { .. })));
    world.link_all();
    let pairs = world.pairs(mover);
    assert!(
        pairs.iter().all(|p| others.contains(&p.peer)),
        "old links are let go"
    );
    let gone = world
        .told
        .iter()
        .filter(|a| matches!(a, Action::Gone { .. }))
        .count();
    assert_eq!(gone, 10, "both sides of five pairs were told");
}

#[test]
fn old_links_are_let_go_in_time_even_if_no_new_one_comes_up() {
    let mut world = World::new(Policy::default());
    let peers = world.join_many(3, network(1, 0, 0));
    world.link_all();
    world.status(
        peers[0],
        Status {
            track: TrackId(8),
            ..Status::default()
        },
    );
    assert_eq!(world.pairs(peers[0]).len(), 2);
    world.pass(31_000);
    assert_eq!(world.pairs(peers[0]).len(), 0);
}

#[test]
fn links_between_groups_stay_within_a_site_that_has_several() {
    let mut world = World::new(Policy::default());
    let at_site = |site, address| Network {
        site: Some(site),
        ..network(1, 0, address)
    };
    for i in 0..120_u32 {
        let address = u128::from(i) + 1;
        world.join(network(1 + i % 3, 0, 10_000 + address));
        if i % 2 == 0 {
            world.join(at_site(8, 20_000 + address));
        }
        if i % 12 == 0 {
            world.join(at_site(9, 30_000 + address));
        }
        world.now = world.now.plus_ms(100);
    }
    world.link_all();
    world.pass(60_000);
    let (mut within, mut across, mut small) = (0, 0, 0);
    for viewer in world.directory.viewers(STREAM) {
        let long = viewer.pairs().filter(|pair| pair.long);
        for other in long.filter_map(|pair| world.directory.viewer(pair.peer)) {
            let sites = (viewer.network().site, other.network().site);
            if sites.0 == Some(8) || sites.1 == Some(8) {
                within += usize::from(sites.0 == sites.1);
                across += usize::from(sites.0 != sites.1);
            }
            small += usize::from(sites == (Some(9), None));
        }
    }
    // The others are from the time when the site had one group.
    assert!(within > 3 * across, "{within} and {across}");
    assert!(within > 20, "{within}");
    assert!(small > 0, "one group alone needs others");
    world.check_introductions();
}

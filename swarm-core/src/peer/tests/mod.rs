//! Scenarios in virtual time.

mod hostile;
mod world;

use alloc::{sync::Arc, vec::Vec};

use crate::{
    id::{Name, PeerId, RequestId, SegmentId},
    limits::PIECE_LEN_MIN,
    peer::{Action, CloseReason, Input, Outbox, Peer, Policy, Stats},
    time::Instant,
    timeline::{Content, SegmentInfo},
    wire::{
        peer::{Division, PeerMsg},
        tracker::{Distance, Introduction, TrackerMsg, ViewerFlags},
    },
};
use world::{Cheat, Options, World};

fn watch(seed: u64, viewers: usize, options: Options) -> World {
    let mut world = World::new(seed, options);
    for _ in 0..viewers {
        world.add(Cheat::Honest);
        world.run_ms(700);
    }
    world.run_ms(15_000);
    world
}

fn stalls(world: &World) -> u32 {
    world
        .nodes
        .iter()
        .filter(|node| node.alive)
        .map(|node| node.stalls)
        .sum()
}

fn total(world: &World, of: impl Fn(&Stats) -> u64) -> u64 {
    world.nodes.iter().map(|node| of(node.peer.stats())).sum()
}

/// Runs on and gives the offload of the segments that began from now on.
fn offload_over(world: &mut World, ms: u64) -> f64 {
    let from = world.newest() + 2;
    world.run_ms(ms);
    world.offload(from)
}

#[test]
fn eight_viewers_share_most_of_what_they_watch() {
    for seed in 0..5 {
        let mut world = watch(seed, 8, Options::default());
        let offload = offload_over(&mut world, 60_000);
        let wasted =
            total(&world, |s| s.bytes_wasted) as f64 / total(&world, |s| s.bytes_p2p) as f64;
        assert!(offload > 0.85, "seed {seed}: offload {offload}");
        assert!(wasted < 0.03, "seed {seed}: wasted {wasted}");
        assert_eq!(stalls(&world), 0, "seed {seed}");
        for node in &world.nodes {
            assert!(node.startup_ms.expect("it plays") < 1000);
            assert!(node.played.is_sorted() && node.played.len() > 30);
        }
    }
}

#[test]
fn without_tags_the_first_record_brings_the_content() {
    let mut world = watch(
        1,
        8,
        Options {
            tagged: false,
            ..Options::default()
        },
    );
    let offload = offload_over(&mut world, 60_000);
    assert!(offload > 0.80, "{offload}");
    assert_eq!(stalls(&world), 0);
}

#[test]
fn a_lone_viewer_is_served_by_the_cdn_as_if_there_were_no_swarm() {
    let mut world = watch(1, 1, Options::default());
    world.run_ms(30_000);
    assert_eq!(stalls(&world), 0);
    let node = &world.nodes[0];
    assert_eq!(world.cdn_bytes, node.played.len() as u64 * 500_000);
    assert_eq!(node.backstops, 0);
}

#[test]
fn records_missing_means_the_cdn_for_everybody_and_no_stall() {
    let mut world = watch(
        1,
        6,
        Options {
            records: false,
            ..Options::default()
        },
    );
    world.run_ms(30_000);
    assert_eq!(stalls(&world), 0);
    assert_eq!(total(&world, |s| s.bytes_up), 0);
}

#[test]
fn links_survive_the_tracker_and_viewers_come_back_with_jitter() {
    let mut world = watch(2, 6, Options::default());
    world.kill_tracker();
    let offload = offload_over(&mut world, 40_000);
    assert!(offload > 0.75, "{offload}");
    assert!(world.nodes.iter().all(|node| !node.peer.is_joined()));
    world.tracker_up = true;
    world.run_ms(35_000);
    assert!(world.nodes.iter().all(|node| node.peer.is_joined()));
    assert_eq!(stalls(&world), 0);
}

#[test]
fn when_all_others_vanish_the_cdn_takes_over_without_a_stall() {
    for seed in 0..5 {
        let mut world = watch(seed, 8, Options::default());
        for index in 1..8 {
            world.kill(index);
        }
        world.run_ms(40_000);
        assert_eq!(stalls(&world), 0, "seed {seed}");
        assert!(world.nodes[0].played.len() > 25);
        assert_eq!(world.nodes[0].peer.stats().links, 0);
    }
}

#[test]
fn one_silent_departure_does_not_cost_a_copy_each() {
    let mut world = watch(3, 8, Options::default());
    world.kill(4);
    let offload = offload_over(&mut world, 30_000);
    assert!(offload > 0.75, "{offload}");
    assert_eq!(stalls(&world), 0);
}

#[test]
fn who_sends_bad_bytes_is_dropped_at_once() {
    let mut world = World::new(4, Options::default());
    for index in 0..8 {
        world.add(if index == 3 {
            Cheat::Corrupts
        } else {
            Cheat::Honest
        });
        world.run_ms(500);
    }
    world.run_ms(15_000);
    let offload = offload_over(&mut world, 40_000);
    assert_eq!(world.nodes[3].peer.stats().links, 0);
    // Who has seen one bad piece drops the link; the others are told.
    assert!(total(&world, |s| s.bad_pieces) <= 7);
    assert_eq!(stalls(&world), 0);
    assert!(offload > 0.70, "{offload}");
}

#[test]
fn a_newcomer_takes_part_once_it_has_what_its_player_began_with() {
    let mut world = watch(12, 6, Options::default());
    world.add(Cheat::Honest);
    let mut waited_ms = 0;
    loop {
        world.run_ms(50);
        waited_ms += 50;
        let newcomer = &world.nodes[6].peer;
        if newcomer.has_begun() {
            break;
        }
        assert_eq!((newcomer.weight(), newcomer.pushed_tracks().len()), (0, 0));
        let segments = newcomer.segments.iter();
        let unasked = segments.filter(|s| !s.is_wanted() && !s.work().pulls.is_empty());
        assert_eq!(unasked.count(), 0, "what is not wanted can wait");
        assert!(waited_ms < 5000, "it never takes part");
    }
    assert!(world.nodes[6].startup_ms.is_some());
    world.run_ms(4000);
    assert!(world.nodes[6].peer.weight() > 0);
}

#[test]
fn honest_viewers_break_no_promise_however_they_come() {
    for (seed, gap_ms) in [(8, 0), (9, 300), (10, 1100), (11, 2300)] {
        let mut world = World::new(seed, Options::default());
        for _ in 0..6 {
            world.add(Cheat::Honest);
            world.run_ms(gap_ms);
        }
        for _ in 0..60 {
            world.run_ms(500);
            let peers = world.nodes.iter().map(|node| &node.peer);
            let strikes = peers.flat_map(|peer| peer.neighbours.iter().map(|n| n.strikes));
            assert_eq!(strikes.max(), Some(0), "seed {seed}, {gap_ms} ms apart");
        }
    }
}

#[test]
fn who_promises_and_never_delivers_costs_offload_but_no_stall() {
    let mut world = World::new(5, Options::default());
    for index in 0..8 {
        world.add(if index == 3 {
            Cheat::BlackHole
        } else {
            Cheat::Honest
        });
        world.run_ms(500);
    }
    world.run_ms(15_000);
    let offload = offload_over(&mut world, 40_000);
    assert_eq!(stalls(&world), 0);
    assert!(offload > 0.60, "{offload}");
}

#[test]
fn who_sends_what_nobody_can_use_gets_no_credit_for_it_and_is_dropped_in_the_end() {
    const LEN: u32 = 16_384;
    let mut world = watch(13, 4, Options::default());
    let now = world.now;
    let peer = &mut world.nodes[0].peer;
    let link = peer.neighbours().next().expect("it has links");
    let slot = link.slot;
    for _ in 0..3 {
        peer.on_broken(slot);
    }
    let is_believed = |peer: &Peer| peer.neighbours.get(slot).is_some_and(|n| n.is_believed());
    let gave_at = peer.neighbours.get(slot).expect("it is there").gave_at;
    let mut out = Outbox::new();
    let (mut taken, mut closed) = (0, false);
    while !closed {
        assert!(!is_believed(peer), "after {taken} bytes");
        assert_eq!(peer.neighbours.get(slot).map(|n| n.gave_at), Some(gave_at));
        peer.handle(now, Input::Surplus { slot, len: LEN }, &mut out);
        taken += u64::from(LEN);
        assert!(taken <= (8 << 20) + link.bytes_in, "nothing ends it");
        let misbehaved = CloseReason::Misbehaved;
        let is_close = |action: &Action| matches!(action, Action::Close { slot: s, reason } if *s == slot && *reason == misbehaved);
        closed = out.actions().iter().any(is_close);
    }
    assert_eq!(peer.stats().links, 2);
    world.run_ms(10_000);
    assert_eq!(stalls(&world), 0);
}

/// Segments of sound are too short for the CDN's rate to be measured by them.
#[test]
fn what_was_there_before_it_was_asked_for_is_no_measure_of_the_cdn() {
    let options = Options {
        bitrate_bps: 60_000,
        ..Options::default()
    };
    let mut world = watch(14, 4, options);
    world.run_ms(20_000);
    let reported = world.nodes.iter().flat_map(|node| &node.reported_bps);
    assert!(reported.clone().count() > 40);
    assert!(reported.max() <= Some(&4_000_000));
}

#[test]
fn the_last_numbers_that_there_are_end_nothing_else() {
    let now = Instant::from_millis(1000);
    let mut peer = Peer::new(Arc::new(Policy::default()), 1, now);
    let listed = [u64::MAX - 1, u64::MAX].map(|seq| SegmentInfo {
        name: Name(seq),
        seq,
        duration_ms: 2000,
        content: None,
    });
    let (track, segments) = (world::TRACK, &listed[..]);
    let mut out = Outbox::new();
    for at in [now, now.plus_ms(2000)] {
        peer.handle(at, Input::Timeline { track, segments }, &mut out);
    }
    assert_eq!(peer.segments.len(), 2);
}

/// A viewer of parts of half a second with these lengths in bytes, who gets 2 Mbit/s from its CDN.
fn is_careful_with(lens: [u32; 8]) -> bool {
    let now = Instant::from_millis(1000);
    let mut peer = Peer::new(Arc::new(Policy::default()), 1, now);
    let listed = core::array::from_fn::<_, 8, _>(|at| SegmentInfo {
        name: Name(at as u64),
        seq: at as u64,
        duration_ms: 500,
        content: Some(Content {
            id: SegmentId(at as u64),
            len: lens[at],
            piece_len: PIECE_LEN_MIN,
            epoch: 0,
        }),
    });
    let (track, segments) = (world::TRACK, &listed[..]);
    let mut out = Outbox::new();
    peer.handle(now, Input::Timeline { track, segments }, &mut out);
    peer.estimate.on_fetch(500_000, 50, 2050);
    let player = Input::Player {
        buffer_ms: 1200,
        lag_ms: 1500,
        stalled: false,
    };
    peer.handle(now, player, &mut out);
    peer.player.careful
}

#[test]
fn parts_with_keyframes_make_no_downlink_thin() {
    let with_keyframes = [200_000, 20_000, 20_000, 20_000].repeat(2);
    assert!(!is_careful_with(with_keyframes.try_into().unwrap()));
    assert!(is_careful_with([200_000; 8]));
}

/// A viewer with these segments of four seconds in its playlist, whose player asks for one of them at `start`.
pub(super) fn waiting<const N: usize>(start: Instant, listed: [u64; N], wanted: u64) -> Peer {
    let mut peer = Peer::new(Arc::new(Policy::default()), 1, start);
    let mut out = Outbox::new();
    let stream = world::STREAM;
    peer.handle(start, Input::Join { stream, token: &[] }, &mut out);
    let listed = listed.map(|seq| SegmentInfo {
        name: Name(seq),
        seq,
        duration_ms: 4000,
        content: None,
    });
    let (track, segments) = (world::TRACK, &listed[..]);
    peer.handle(start, Input::Timeline { track, segments }, &mut out);
    let wanted = Input::Wanted {
        request: RequestId(1),
        name: Name(wanted),
        grain_ms: 0,
    };
    peer.handle(start, wanted, &mut out);
    peer
}

#[test]
fn a_thin_downlink_is_for_what_the_player_waits_for() {
    let mut peer = waiting(Instant::from_millis(1000), [1, 2, 3], 2);
    let most = |peer: &Peer| [0, 1, 2].map(|index| peer.pulls_max(index));
    assert_eq!(most(&peer), [u32::MAX; 3]);
    peer.player.careful = true;
    let some = super::plan::CAREFUL_PULLS_MAX;
    assert_eq!(most(&peer), [0, some, 0], "it has nothing to play");
    peer.player.buffer_ms = 3000;
    assert_eq!(most(&peer), [0, some, some], "there is time for the next");
}

#[test]
fn what_is_brought_for_others_does_not_delay_the_first_segments() {
    let mut peer = waiting(Instant::from_millis(1000), [1, 2, 3], 1);
    // 2.5 MB take 2 s, on a bad day 3.
    peer.estimate.on_fetch(1_250_000, 0, 1000);
    let whole = super::plan::Plan {
        whole: true,
        ..Default::default()
    };
    let mut is_pressed = |ahead_ms, segments, index| {
        peer.stats.segments = segments;
        peer.segments[0].work_mut().requests[0].deadline = peer.now.plus_ms(ahead_ms);
        peer.is_pressed(index, &whole)
    };
    assert!(is_pressed(2000, 1, 1) && is_pressed(2000, 1, 2));
    assert!(!is_pressed(2000, 1, 0), "it is for the player itself");
    assert!(!is_pressed(20_000, 1, 1), "there is time for both");
    assert!(!is_pressed(2000, 6, 1), "it has begun long ago");
}

#[test]
fn whoever_got_little_with_its_first_segment_may_not_have_begun() {
    let mut peer = waiting(Instant::from_millis(1000), [1, 2], 2);
    peer.player.caught_up = true;
    assert!(!peer.has_begun(), "it has nothing");
    (peer.stats.segments, peer.player.buffer_ms) = (1, 900);
    assert!(peer.has_begun(), "it waits for all of the newest one");
    peer.player.is_progressive = true;
    assert!(!peer.has_begun(), "it may wait for the beginning of that");
    peer.player.buffer_ms = 1100;
    assert!(peer.has_begun());
    (peer.stats.segments, peer.player.buffer_ms) = (2, 100);
    assert!(peer.has_begun(), "it has played since");
}

#[test]
fn uploads_keep_to_the_cap() {
    let options = Options {
        upload_bps: 1_000_000,
        ..Options::default()
    };
    let mut world = watch(6, 8, options);
    let before: Vec<u64> = world
        .nodes
        .iter()
        .map(|node| node.peer.stats().bytes_up)
        .collect();
    world.run_ms(20_000);
    for (node, before) in world.nodes.iter().zip(before) {
        let sent = node.peer.stats().bytes_up - before;
        assert!(
            sent <= 20 * 125_000 + 300_000,
            "{sent} bytes in 20 s at 1 Mbit/s"
        );
    }
    assert_eq!(stalls(&world), 0);
}

#[test]
fn the_reported_bandwidth_is_the_cdns_whoever_brings_the_bytes() {
    let mut world = watch(7, 8, Options::default());
    world.run_ms(30_000);
    for node in &world.nodes {
        for bps in &node.reported_bps {
            assert!((15_000_000..60_000_000).contains(bps), "{bps}");
        }
    }
}

#[test]
fn a_failing_cdn_is_reported_to_the_player_and_tried_again() {
    let mut world = watch(8, 1, Options::default());
    let before = world.nodes[0].played.len();
    world.cdn_up = false;
    world.run_ms(5_000);
    world.cdn_up = true;
    world.run_ms(10_000);
    assert!(world.nodes[0].played.len() > before + 4);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = watch(seed, 6, Options::default());
        world.run_ms(20_000);
        let stats: Vec<Stats> = world.nodes.iter().map(|node| *node.peer.stats()).collect();
        (stats, world.cdn_bytes)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn hostile_control_messages_close_the_link_and_nothing_else() {
    let mut world = watch(9, 4, Options::default());
    let links = world.nodes[0].peer.stats().links;
    assert_eq!(links, 3);
    let claim = PeerMsg::Claim {
        name: Name(1),
        stripes: 255,
        stripe_count: 255,
        division: Division::default(),
    };
    world.inject(1, 0, &claim);
    assert_eq!(
        world.nodes[0].peer.stats().links,
        3,
        "a senseless claim is ignored"
    );
    let other = PeerMsg::Hello {
        peer: world.nodes[2].peer.peer_id().expect("it has joined"),
        status: Default::default(),
    };
    world.inject(1, 0, &other);
    assert_eq!(
        world.nodes[0].peer.stats().links,
        2,
        "nobody takes another's name"
    );
    world.run_ms(10_000);
    assert_eq!(stalls(&world), 0);
}

#[test]
fn a_link_outlasts_its_renamed_end_being_introduced_first() {
    let mut world = watch(12, 3, Options::default());
    let renamed = PeerId(77);
    let introduction = TrackerMsg::Introduce(Introduction {
        peer: renamed,
        offer: false,
        flags: ViewerFlags::default(),
        distance: Distance::Household,
    });
    world.tell(0, &introduction);
    world.run_ms(20);
    assert!(!world.nodes[0].linked.contains(&renamed));
    let hello = PeerMsg::Hello {
        peer: renamed,
        status: Default::default(),
    };
    world.inject(1, 0, &hello);
    for _ in 0..10 {
        assert_eq!(world.nodes[0].peer.stats().links, 2);
        world.run_ms(2_000);
    }
    // A tracker that gives new names knows of no links but those that it is told of.
    assert!(world.nodes[0].linked.contains(&renamed));
}

#[test]
fn a_hello_may_overtake_the_news_that_the_link_is_up() {
    let mut world = watch(
        10,
        2,
        Options {
            hello_first: true,
            ..Options::default()
        },
    );
    world.run_ms(10_000);
    for node in &world.nodes {
        assert_eq!(
            (node.peer.stats().links, node.peer.stats().bad_pieces),
            (1, 0)
        );
    }
}

/// On average: over a segment's parts it takes more than between segments.
#[test]
fn a_viewer_with_fifteen_neighbours_takes_no_more_than_four_kib() {
    for segment_ms in [2000, 4000] {
        let options = Options {
            segment_ms,
            bitrate_bps: 5_000_000,
            ..Options::default()
        };
        let mut world = watch(6, 16, options);
        world.run_ms(60_000);
        let (mut bytes, mut count) = (0, 0);
        for _ in 0..60 {
            world.run_ms(1000);
            for node in &world.nodes {
                assert_eq!(node.peer.stats().links, 15);
                bytes += node.peer.memory_bytes();
                count += 1;
            }
        }
        let mean = bytes / count;
        assert!(
            mean <= 4096,
            "{mean} bytes with segments of {segment_ms} ms"
        );
    }
}

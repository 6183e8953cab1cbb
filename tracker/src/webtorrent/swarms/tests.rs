use std::collections::BTreeSet;

use proptest::prelude::*;
use swarm_core::directory::{Location, Network};

use super::{
    super::swarm::{INTERVALS_MAX, MET_MAX},
    *,
};

const HASH: InfoHash = Id20([7; 20]);
const START_S: u32 = 1_000;

fn id(number: u64) -> Id20 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Id20(bytes)
}

fn guest(number: u64, asn: u32, country: &[u8; 2]) -> Guest<u64> {
    Guest {
        conn: number,
        link: number,
        network: Network {
            address: u128::from(number) + 1,
            asn,
            country: *country,
            location: Some(Location {
                lat_centideg: 5_000,
                lon_centideg: 1_000 + asn as i16 * 300,
            }),
            ..Network::default()
        },
    }
}

/// Addresses that may learn of as many others.
fn addresses(burst: u32) -> Arc<Mutex<Addresses>> {
    Arc::new(Mutex::new(Addresses::new(burst, 3_600, u32::MAX)))
}

fn swarms_with(config: WebTorrentConfig) -> Swarms<u64> {
    Swarms::new(config, (10_000, 0), addresses(10_000), 50, 0, 1)
}

fn swarms() -> Swarms<u64> {
    swarms_with(WebTorrentConfig::default())
}

/// Announces viewer `number` with offers called `offers`; whom they go to, and the reply.
fn announce(
    swarms: &mut Swarms<u64>,
    now_s: u32,
    guest: &Guest<u64>,
    offers: &[u64],
) -> (Vec<u64>, Reply) {
    let mut receivers = Vec::new();
    let saying = Saying {
        member: member(guest.conn),
        complete: false,
        completed: false,
        offers,
    };
    let announced = swarms
        .announce(now_s, guest, &saying, 100, &mut receivers)
        .unwrap();
    (
        receivers.into_iter().map(|(_, link)| link).collect(),
        announced.reply,
    )
}

fn member(number: u64) -> Membership {
    Membership {
        info_hash: HASH,
        peer_id: id(number),
    }
}

fn plain(number: u64) -> Guest<u64> {
    guest(number, 0, &[0; 2])
}

#[test]
fn each_offer_goes_to_somebody_else_and_never_to_oneself() {
    let mut swarms = swarms();
    for number in 0..10 {
        announce(&mut swarms, START_S, &plain(number), &[]);
    }
    let (receivers, reply) = announce(&mut swarms, START_S, &plain(0), &[1, 2, 3, 4, 5]);
    let different: BTreeSet<u64> = receivers.iter().copied().collect();
    assert_eq!((receivers.len(), different.len()), (5, 5));
    assert!(!different.contains(&0));
    assert_eq!((reply.complete, reply.incomplete), (0, 10));
    let (receivers, _) = announce(&mut swarms, START_S, &plain(0), &[6, 7, 8, 9, 10]);
    assert_eq!(receivers.len(), 4, "nine others in all, and each once");
    assert!(
        receivers
            .iter()
            .all(|receiver| !different.contains(receiver))
    );
}

#[test]
fn receivers_are_near_and_some_are_from_anywhere() {
    let mut swarms = swarms();
    let count = 400;
    let at = |number| match number % 8 {
        place @ 0..4 => guest(number, 10 + place as u32, b"DE"),
        place => guest(number, 10 + place as u32, b"FR"),
    };
    for number in 0..count {
        announce(&mut swarms, START_S, &at(number), &[]);
    }
    let (mut same_isp, mut abroad, mut all) = (0, 0, 0);
    for number in 0..count {
        let (receivers, _) = announce(
            &mut swarms,
            START_S,
            &at(number),
            &[number * 2, number * 2 + 1],
        );
        for receiver in receivers {
            all += 1;
            same_isp += u32::from(receiver % 8 == number % 8);
            abroad += u32::from((receiver % 8 < 4) != (number % 8 < 4));
        }
    }
    assert_eq!(all, 800);
    assert!(same_isp > 680, "{same_isp} of {all} within the ISP");
    assert!((10..=90).contains(&abroad), "{abroad} of {all} abroad");
}

#[test]
fn answers_pass_for_offers_that_were_passed_on_and_only_once() {
    let mut swarms = swarms();
    for number in 0..3 {
        announce(&mut swarms, START_S, &plain(number), &[]);
    }
    let (receivers, _) = announce(&mut swarms, START_S, &plain(0), &[77]);
    let receiver = receivers[0];
    let other = 3 - receiver;
    let now_s = START_S + OFFER_S_MAX;
    let mut answer =
        |conn, from, to, offer, at_s| swarms.answer(at_s, conn, member(from), id(to), offer);
    assert_eq!(
        answer(other, other, 0, 77, now_s),
        Err(Refusal::NoSuchOffer),
        "another's offer"
    );
    assert_eq!(
        answer(receiver, receiver, 0, 78, now_s),
        Err(Refusal::NoSuchOffer),
        "another id"
    );
    assert_eq!(
        answer(receiver, receiver, other, 77, now_s),
        Err(Refusal::NoSuchOffer)
    );
    assert_eq!(
        answer(other, receiver, 0, 77, now_s),
        Err(Refusal::NotAnnounced),
        "another's name"
    );
    assert_eq!(
        answer(receiver, 9, 0, 77, now_s),
        Err(Refusal::NotAnnounced)
    );
    assert_eq!(
        answer(receiver, receiver, 0, 77, now_s + 1),
        Err(Refusal::NoSuchOffer),
        "too late"
    );
    assert_eq!(answer(receiver, receiver, 0, 77, now_s), Ok(0));
    assert_eq!(
        answer(receiver, receiver, 0, 77, now_s),
        Err(Refusal::NoSuchOffer),
        "again"
    );
}

#[test]
fn pairs_that_met_stay_apart_and_offers_without_answer_count_for_a_while() {
    let config = WebTorrentConfig::default();
    let (mut swarms, met_s) = (swarms(), config.met_s);
    announce(&mut swarms, START_S, &plain(1), &[]);
    let once = announce(&mut swarms, START_S, &plain(2), &[5]).0;
    assert_eq!(once, [1]);
    let again = announce(&mut swarms, START_S + OFFER_S_MAX, &plain(2), &[6]).0;
    assert!(again.is_empty(), "the first offer may still be answered");
    announce(&mut swarms, START_S + OFFER_S_MAX + 1, &plain(1), &[]);
    let now_s = START_S + OFFER_S_MAX + 1;
    assert_eq!(announce(&mut swarms, now_s, &plain(2), &[7]).0, [1]);
    assert_eq!(swarms.answer(now_s, 1, member(1), id(2), 7), Ok(2));
    for at_s in [now_s + 60, now_s + met_s - 1] {
        announce(&mut swarms, at_s, &plain(1), &[]);
        assert!(announce(&mut swarms, at_s, &plain(2), &[8]).0.is_empty());
    }
    announce(&mut swarms, now_s + met_s, &plain(1), &[]);
    assert_eq!(announce(&mut swarms, now_s + met_s, &plain(2), &[9]).0, [1]);
}

#[test]
fn ids_move_within_a_household_and_to_nobody_else() {
    let mut swarms = swarms();
    announce(&mut swarms, START_S, &plain(1), &[]);
    let saying = Saying {
        member: member(1),
        complete: false,
        completed: false,
        offers: &[],
    };
    let stranger = plain(2);
    let mut receivers = Vec::new();
    let refused = swarms.announce(START_S, &stranger, &saying, 100, &mut receivers);
    assert_eq!(refused, Err(Refusal::Taken(1)));
    let again = Guest {
        conn: 3,
        link: 3,
        ..plain(1)
    };
    assert!(
        swarms
            .announce(START_S, &again, &saying, 100, &mut receivers)
            .unwrap()
            .joined
    );
    swarms.leave(1, member(1));
    assert_eq!(
        swarms.count(),
        (1, 1),
        "the old connection no longer owns it"
    );
    let later = START_S + 10_000;
    let freed = swarms.announce(later, &stranger, &saying, 100, &mut receivers);
    assert!(freed.unwrap().joined, "its owner was silent for too long");
    swarms.leave(2, member(1));
    assert_eq!(swarms.count(), (0, 0));
}

#[test]
fn those_who_left_without_a_word_are_no_receivers_and_are_swept() {
    let mut swarms = swarms();
    let (_, reply) = announce(&mut swarms, START_S, &plain(1), &[]);
    let late_s = START_S + reply.interval_s * INTERVALS_MAX + 1;
    let (receivers, _) = announce(&mut swarms, late_s, &plain(2), &[1]);
    assert!(receivers.is_empty());
    assert_eq!(swarms.sweep(late_s), 1);
    assert_eq!(swarms.count(), (1, 1));
    swarms.leave(2, member(2));
    assert!(swarms.swarms.is_empty(), "nothing stays of an empty swarm");
}

#[test]
fn nobody_gets_more_than_is_bounded() {
    let config = WebTorrentConfig {
        pending_max: 3,
        offers_max: 4,
        viewers_per_swarm_max: 8,
        ..WebTorrentConfig::default()
    };
    let mut swarms = swarms_with(config);
    announce(&mut swarms, START_S, &plain(0), &[]);
    let offered: Vec<_> = (1..8)
        .map(|n| announce(&mut swarms, START_S, &plain(n), &[n; 6]).0)
        .collect();
    assert!(offered.iter().all(|receivers| receivers.len() <= 4));
    let to_first = offered
        .iter()
        .flatten()
        .filter(|receiver| **receiver == 0)
        .count();
    assert_eq!(to_first, 3, "then the others' turn");
    let mut receivers = Vec::new();
    let saying = Saying {
        member: member(9),
        complete: false,
        completed: false,
        offers: &[],
    };
    let full = swarms.announce(START_S, &plain(9), &saying, 100, &mut receivers);
    assert_eq!(full, Err(Refusal::SwarmFull));
}

#[test]
fn a_viewer_learns_of_a_bounded_number_of_others() {
    let mut swarms = Swarms::new(
        WebTorrentConfig::default(),
        (6, 3_600),
        addresses(100),
        50,
        0,
        1,
    );
    for number in 0..30 {
        announce(&mut swarms, START_S, &plain(number), &[]);
    }
    assert_eq!(
        announce(&mut swarms, START_S, &plain(0), &[1, 2, 3, 4])
            .0
            .len(),
        4
    );
    assert_eq!(
        announce(&mut swarms, START_S, &plain(0), &[5, 6, 7, 8])
            .0
            .len(),
        2
    );
    assert_eq!(announce(&mut swarms, START_S, &plain(0), &[9]).0.len(), 0);
    assert_eq!(
        announce(&mut swarms, START_S + 2, &plain(0), &[10, 11, 12])
            .0
            .len(),
        2,
        "one a second"
    );
}

#[test]
fn who_comes_again_under_other_ids_learns_no_more_than_its_address_may() {
    let mut swarms = Swarms::new(WebTorrentConfig::default(), (6, 0), addresses(8), 50, 0, 1);
    for number in 0..30 {
        announce(&mut swarms, START_S, &plain(number), &[]);
    }
    let mut learned = Vec::new();
    for number in 100..105 {
        let mut again = plain(number);
        again.network.address = 7_000;
        let (receivers, _) = announce(&mut swarms, START_S, &again, &[1, 2, 3, 4, 5, 6]);
        // Those of its own household do not count.
        learned.extend(receivers.into_iter().filter(|receiver| *receiver < 100));
    }
    assert_eq!(learned.len(), 8, "more ids add nothing");
    // Nor is anybody else brought to it.
    let (receivers, _) = announce(&mut swarms, START_S, &plain(0), &[4, 5, 6, 7]);
    assert!(receivers.iter().all(|receiver| *receiver < 100));
}

#[test]
fn small_swarms_and_closed_networks_keep_to_themselves() {
    let mut swarms = Swarms::new(
        WebTorrentConfig::default(),
        (10_000, 0),
        addresses(100),
        50,
        3,
        1,
    );
    announce(&mut swarms, START_S, &plain(1), &[]);
    assert!(announce(&mut swarms, START_S, &plain(2), &[1]).0.is_empty());
    assert_eq!(announce(&mut swarms, START_S, &plain(3), &[2]).0.len(), 1);
    let mut closed = plain(4);
    closed.network.local_only = true;
    assert!(announce(&mut swarms, START_S, &closed, &[3]).0.is_empty());
}

#[test]
fn intervals_grow_with_partners_and_load() {
    let mut swarms = swarms();
    let config = WebTorrentConfig::default();
    for number in 0..40 {
        announce(&mut swarms, START_S, &plain(number), &[]);
    }
    let (_, hungry) = announce(&mut swarms, START_S, &plain(0), &[1]);
    assert_eq!(hungry.interval_s, config.interval_s_min);
    for round in 0..4_u64 {
        let offers: Vec<u64> = (0..4).map(|n| 100 + round * 10 + n).collect();
        let (receivers, _) = announce(&mut swarms, START_S, &plain(0), &offers);
        for (receiver, offer) in receivers.iter().zip(offers) {
            swarms
                .answer(START_S, *receiver, member(*receiver), id(0), offer)
                .unwrap();
        }
    }
    let (receivers, full) = announce(&mut swarms, START_S, &plain(0), &[500]);
    assert!(receivers.is_empty(), "it has enough partners");
    assert_eq!(full.interval_s, config.interval_s_max);
    let saying = Saying {
        member: member(0),
        complete: false,
        completed: false,
        offers: &[],
    };
    let loaded = swarms
        .announce(START_S, &plain(0), &saying, 300, &mut Vec::new())
        .unwrap();
    assert_eq!(loaded.reply.interval_s, config.interval_s_max * 3);
}

#[test]
fn scrapes_count_those_who_have_everything() {
    let mut swarms = swarms();
    announce(&mut swarms, START_S, &plain(1), &[]);
    let saying = Saying {
        member: member(2),
        complete: true,
        completed: true,
        offers: &[],
    };
    swarms
        .announce(START_S, &plain(2), &saying, 100, &mut Vec::new())
        .unwrap();
    assert_eq!(swarms.scrape(HASH), (1, 1, 1));
    swarms.leave(2, member(2));
    assert_eq!(swarms.scrape(HASH), (0, 1, 1));
    assert_eq!(swarms.scrape(Id20([0; 20])), (0, 0, 0));
}

impl<L: Clone> Swarms<L> {
    /// What must hold between any two calls.
    fn assert_sound(&self) {
        for swarm in self.swarms.values() {
            let present = swarm.viewers.iter().flatten().count();
            assert_eq!(present, swarm.by_id.len());
            let complete = swarm
                .viewers
                .iter()
                .flatten()
                .filter(|v| v.complete)
                .count();
            assert_eq!(complete as u32, swarm.complete);
            for (key, viewer) in swarm.viewers.iter().enumerate() {
                let Some(viewer) = viewer else { continue };
                assert_eq!(swarm.by_id[&viewer.id], key as u32);
                for (level, place) in viewer.guest.network.ladder().enumerate() {
                    assert_eq!(
                        swarm.places[&place][viewer.spots[level] as usize],
                        key as u32
                    );
                }
                let answered = viewer.met.iter().filter(|met| met.answered()).count();
                assert_eq!(answered, usize::from(viewer.partners));
                assert!(viewer.met.len() <= MET_MAX);
                for met in &viewer.met {
                    let other = swarm.get(met.with).expect("meetings end with the viewer");
                    assert!(other.met.iter().any(|back| back.with == key as u32));
                }
            }
            let listed: usize = swarm.places.values().map(Vec::len).sum();
            let ladders = swarm
                .viewers
                .iter()
                .flatten()
                .map(|v| v.guest.network.ladder().count());
            assert_eq!(listed, ladders.sum::<usize>());
        }
    }
}

proptest! {
    #[test]
    fn swarms_stay_sound_whatever_happens(
        steps in proptest::collection::vec((0..6_u8, 0..60_u64, 0..60_u64, 0..40_u32), 1..300),
    ) {
        let mut swarms = swarms();
        let mut now_s = START_S;
        let at = |number: u64| match number % 5 {
            0 => plain(number),
            rest => guest(number, rest as u32 % 3, if rest % 2 == 0 { b"DE" } else { b"FR" }),
        };
        let mut offered = Vec::new();
        for (what, a, b, pause_s) in steps {
            match what {
                0..=2 => {
                    let offers = [a * 1_000 + u64::from(now_s), a, b];
                    let (receivers, _) = announce(&mut swarms, now_s, &at(a), &offers);
                    offered.extend(receivers.into_iter().zip(offers).map(|(to, offer)| (a, to, offer)));
                }
                3 if !offered.is_empty() => {
                    let (from, to, offer) = offered.swap_remove(a as usize % offered.len());
                    let _ = swarms.answer(now_s, to, member(to), id(from), offer);
                }
                4 => swarms.leave(a, member(a)),
                _ => {
                    now_s += pause_s;
                    swarms.sweep(now_s);
                }
            }
            swarms.assert_sound();
        }
    }
}

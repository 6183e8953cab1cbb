//! What no schedule can beat because some viewers reach nobody who could send to them.

use std::collections::BTreeMap;

use crate::{
    bounds::USEFUL,
    population::{NatType, Viewer},
};

/// The bound of who reaches whom: one copy for each island of viewers with links between them, and no
/// more than the uplinks carry of those who have anybody to send to. 0 without viewers.
pub(crate) fn bound(channels: &BTreeMap<u32, Vec<&Viewer>>, rate_bps: f64) -> f64 {
    let from_peers = |viewers: &Vec<&Viewer>| {
        let saved = viewers.len() - islands(viewers);
        let upload_bps = useful_upload_bps(viewers);
        (saved as f64).min(USEFUL * upload_bps as f64 / rate_bps)
    };
    let viewers: usize = channels.values().map(Vec::len).sum();
    channels.values().map(from_peers).sum::<f64>() / viewers.max(1) as f64
}

/// The bound of the uplinks alone: one copy for each channel that is watched, and no more than its viewers'
/// uplinks carry.
pub(crate) fn uplinks_bound(channels: &BTreeMap<u32, Vec<&Viewer>>, rate_bps: f64) -> f64 {
    let from_peers = |viewers: &Vec<&Viewer>| {
        let upload_bps: u64 = viewers.iter().map(|viewer| viewer.upload_bps).sum();
        (viewers.len() as f64 - 1.0).min(USEFUL * upload_bps as f64 / rate_bps)
    };
    let viewers: usize = channels.values().map(Vec::len).sum();
    channels.values().map(from_peers).sum::<f64>() / viewers.max(1) as f64
}

/// Who watches what.
pub(crate) fn by_channel<'a>(
    audience: impl Iterator<Item = &'a Viewer>,
) -> BTreeMap<u32, Vec<&'a Viewer>> {
    let mut channels: BTreeMap<u32, Vec<&Viewer>> = BTreeMap::new();
    for viewer in audience {
        channels.entry(viewer.channel).or_default().push(viewer);
    }
    channels
}

/// Each needs a copy of its own. Those who never upload belong to whomever they reach.
fn islands(viewers: &[&Viewer]) -> usize {
    let mut leader: Vec<usize> = (0..viewers.len()).collect();
    // One of each kind of NAT stands for all: all of them reach somebody, or none does.
    let mut kinds: BTreeMap<NatType, usize> = BTreeMap::new();
    let mut homes: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, viewer) in viewers.iter().enumerate() {
        if viewer.upload_bps > 0 {
            kinds.entry(viewer.contact.nat).or_insert(index);
            homes.entry(viewer.contact.household).or_insert(index);
        }
    }
    let mut count = viewers.len();
    for (index, viewer) in viewers.iter().enumerate() {
        let at_home = homes.get(&viewer.contact.household);
        let mut senders = kinds.values().chain(at_home).copied();
        let is_reached =
            |&other: &usize| other != index && viewer.contact.reaches(&viewers[other].contact);
        if viewer.upload_bps == 0 {
            count -= usize::from(senders.any(|other| is_reached(&other)));
            continue;
        }
        for other in senders.filter(is_reached) {
            let (one, two) = (root(&mut leader, index), root(&mut leader, other));
            leader[one] = two;
            count -= usize::from(one != two);
        }
    }
    count
}

fn root(leader: &mut [usize], mut of: usize) -> usize {
    while leader[of] != of {
        leader[of] = leader[leader[of]];
        of = leader[of];
    }
    of
}

/// What those upload together who reach anybody.
fn useful_upload_bps(viewers: &[&Viewer]) -> u64 {
    let mut kinds: BTreeMap<NatType, (usize, &Viewer)> = BTreeMap::new();
    let mut homes: BTreeMap<u32, usize> = BTreeMap::new();
    for viewer in viewers {
        kinds.entry(viewer.contact.nat).or_insert((0, viewer)).0 += 1;
        *homes.entry(viewer.contact.household).or_default() += 1;
    }
    let has_receiver = |viewer: &Viewer| {
        homes[&viewer.contact.household] > 1
            || kinds.iter().any(|(kind, (count, _))| {
                let others = count - usize::from(*kind == viewer.contact.nat);
                others > 0 && viewer.contact.nat.reaches(*kind)
            })
    };
    let senders = viewers.iter().filter(|viewer| has_receiver(viewer));
    senders.map(|viewer| viewer.upload_bps).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, population::House};
    use NatType::{Blocked, Open, PortRestricted, Symmetric};

    const RATE_BPS: f64 = 5e6;

    /// Viewers of one channel, each in a home of its own.
    fn bound_of(kinds: &[(NatType, u64)]) -> f64 {
        let options = Options::default();
        let viewers = kinds.iter().zip(0..).map(|(&(nat, upload_bps), index)| {
            let mut viewer = Viewer::new(&options, index, &House::new(&options, index));
            (viewer.contact.nat, viewer.contact.household) = (nat, index);
            (viewer.upload_bps, viewer.channel) = (upload_bps, 0);
            viewer
        });
        bound(&by_channel(viewers.collect::<Vec<_>>().iter()), RATE_BPS)
    }

    fn assert_near(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn every_island_needs_a_copy() {
        let most = 100_000_000;
        assert_near(bound_of(&[(PortRestricted, most); 4]), 3.0 / 4.0);
        assert_near(bound_of(&[(Symmetric, most); 4]), 0.0);
        let one_in_the_middle = [(Symmetric, most), (Symmetric, most), (Open, most)];
        assert_near(bound_of(&one_in_the_middle), 2.0 / 3.0);
        let one_alone = [
            (PortRestricted, most),
            (PortRestricted, most),
            (Blocked, most),
        ];
        assert_near(bound_of(&one_alone), 1.0 / 3.0);
    }

    #[test]
    fn every_channel_that_is_watched_needs_a_copy() {
        let options = Options::default();
        let viewers: Vec<Viewer> = [
            (0, 9_000_000),
            (0, 9_000_000),
            (0, 9_000_000),
            (7, 9_000_000),
        ]
        .into_iter()
        .zip(0..)
        .map(|((channel, upload_bps), index)| {
            let mut viewer = Viewer::new(&options, index, &House::new(&options, index));
            (viewer.channel, viewer.upload_bps) = (channel, upload_bps);
            viewer
        })
        .collect();
        let channels = by_channel(viewers.iter());
        assert_eq!(channels.len(), 2);
        assert_near(uplinks_bound(&channels, RATE_BPS), 2.0 / 4.0);
        assert_near(uplinks_bound(&channels, 100e6), USEFUL * 0.27 / 4.0);
    }

    #[test]
    fn who_never_uploads_receives_and_joins_nobody() {
        let (sends, takes) = (100_000_000, 0);
        assert_near(
            bound_of(&[(PortRestricted, sends), (PortRestricted, takes)]),
            0.5,
        );
        assert_near(
            bound_of(&[(Symmetric, sends), (Symmetric, sends), (Open, takes)]),
            1.0 / 3.0,
        );
        assert_near(
            bound_of(&[(PortRestricted, sends), (Symmetric, takes)]),
            0.0,
        );
    }

    #[test]
    fn upload_counts_where_somebody_is_reached() {
        let thin = (PortRestricted, 2_000_000);
        let bound = bound_of(&[thin, thin, (Symmetric, 100_000_000), (Blocked, 100_000_000)]);
        assert_near(bound, USEFUL * 4e6 / RATE_BPS / 4.0);
    }
}

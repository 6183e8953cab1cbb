//! What is counted viewer by viewer while the shard looks, without a word of text: other viewers wait
//! meanwhile, and there are tens of thousands to look at.

use std::collections::BTreeMap;

use swarm_core::{
    directory::ViewerView,
    id::TrackId,
    wire::tracker::{Distance, Nat},
};

use super::{Counts, Rates, Share, country_name, distance_name, nat_name};
use crate::shard::Sight;

const NATS: [Nat; 5] = [
    Nat::Unknown,
    Nat::Open,
    Nat::Cone,
    Nat::Symmetric,
    Nat::Blocked,
];
const DISTANCES: [Distance; 6] = [
    Distance::Household,
    Distance::Site,
    Distance::Metro,
    Distance::Isp,
    Distance::Country,
    Distance::Far,
];

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// In the order of [`NATS`] and [`DISTANCES`].
    nats: [u64; NATS.len()],
    distances: [u64; DISTANCES.len()],
    countries: BTreeMap<[u8; 2], Sum>,
    isps: BTreeMap<u32, Sum>,
    tracks: BTreeMap<TrackId, Sum>,
}

/// What some viewers do.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    viewers: u64,
    p2p_kbps: u64,
    cdn_kbps: u64,
}

impl Sum {
    const fn add(&mut self, rates: Rates) {
        self.viewers += 1;
        self.p2p_kbps += rates.p2p_kbps;
        self.cdn_kbps += rates.cdn_kbps;
    }

    fn named(self, key: String, name: String) -> Share {
        Share {
            key,
            name,
            viewers: self.viewers,
            p2p_kbps: self.p2p_kbps,
            cdn_kbps: self.cdn_kbps,
        }
    }
}

impl Tally {
    pub(super) fn add(&mut self, viewer: &ViewerView<'_>, rates: Rates) {
        let (network, nat) = (viewer.network(), viewer.nat());
        count(&mut self.nats, &NATS, nat);
        self.countries
            .entry(network.country)
            .or_default()
            .add(rates);
        self.isps.entry(network.asn).or_default().add(rates);
        self.tracks.entry(viewer.track()).or_default().add(rates);
    }

    /// A link that is up is this long.
    pub(super) fn add_link(&mut self, distance: Distance) {
        count(&mut self.distances, &DISTANCES, distance);
    }

    pub(super) fn nats(&self) -> Counts {
        by_name(&self.nats, &NATS, nat_name)
    }

    pub(super) fn distances(&self) -> Counts {
        by_name(&self.distances, &DISTANCES, distance_name)
    }

    pub(super) fn countries(&self) -> Vec<Share> {
        let name = |(country, sum): (&[u8; 2], &Sum)| {
            let country = country_name(*country);
            sum.named(country.clone(), country)
        };
        self.countries.iter().map(name).collect()
    }

    pub(super) fn isps(&self, sight: &Sight<'_>) -> Vec<Share> {
        let name = |(asn, sum): (&u32, &Sum)| {
            let isp = sight.isps.get(asn).cloned();
            sum.named(asn.to_string(), isp.unwrap_or_default())
        };
        self.isps.iter().map(name).collect()
    }

    pub(super) fn tracks(&self) -> Vec<Share> {
        let name = |(track, sum): (&TrackId, &Sum)| {
            let track = track.to_string();
            sum.named(track.clone(), track)
        };
        self.tracks.iter().map(name).collect()
    }
}

fn count<T: PartialEq>(counts: &mut [u64], kinds: &[T], kind: T) {
    if let Some(at) = kinds.iter().position(|other| *other == kind) {
        counts[at] += 1;
    }
}

/// Those of which there are any.
fn by_name<T: Copy>(counts: &[u64], kinds: &[T], name: fn(T) -> &'static str) -> Counts {
    let all = kinds.iter().zip(counts).filter(|(_, count)| **count > 0);
    all.map(|(kind, count)| (name(*kind).to_owned(), *count))
        .collect()
}

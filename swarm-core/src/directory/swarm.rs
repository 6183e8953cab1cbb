//! The viewers of one track of one stream, at about the same time of it, in groups, and where those are at home.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{place::Place, slab::Key};
use crate::{
    id::{StreamId, TrackId},
    time::Instant,
};

/// Whose swarm it is: stream, track, and how far behind the live edge. Viewers of different swarms
/// are not introduced.
pub(super) type SwarmId = (StreamId, TrackId, u8);

/// About fifteen viewers, linked with each other.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) swarm: SwarmId,
    pub(super) home: Place,
    pub(super) members: Vec<Key>,
    pub(super) upload_kbps: u64,
    pub(super) born_at: Instant,
    pub(super) window_at: Instant,
    pub(super) window_joins: u8,
    /// Its place in [`Swarm::groups`].
    pub(super) index: u32,
    /// When it is looked after next.
    pub(super) timer_at: Option<Instant>,
}

/// All groups of a swarm, indexed so that no decision walks through it.
#[derive(Debug, Default)]
pub(super) struct Swarm {
    /// In no order, to draw from at random.
    pub(super) groups: Vec<Key>,
    /// By home, the smallest first.
    by_home: BTreeSet<(Place, u8, Key)>,
    /// Viewers by household, to bring those together.
    households: BTreeSet<(u128, Key)>,
    /// Viewers by each of their places that is narrower than their group's home.
    displaced: BTreeSet<(Place, Key)>,
    displaced_count: BTreeMap<Place, u32>,
    pub(super) viewers: u32,
    pub(super) upload_kbps: u64,
}

impl Swarm {
    pub(super) fn index_group(&mut self, home: Place, size: usize, key: Key) {
        self.by_home.insert((home, size as u8, key));
    }

    pub(super) fn unindex_group(&mut self, home: Place, size: usize, key: Key) {
        self.by_home.remove(&(home, size as u8, key));
    }

    /// The groups at home in `home`, the smallest first.
    pub(super) fn groups_at(&self, home: Place) -> impl Iterator<Item = Key> + '_ {
        let (first, last) = ((home, 0, Key(0)), (home, u8::MAX, Key(u32::MAX)));
        self.by_home.range(first..=last).map(|entry| entry.2)
    }

    pub(super) fn add_to_household(&mut self, address: u128, viewer: Key) {
        if address != 0 {
            self.households.insert((address, viewer));
        }
    }

    pub(super) fn remove_from_household(&mut self, address: u128, viewer: Key) {
        self.households.remove(&(address, viewer));
    }

    pub(super) fn household(&self, address: u128) -> impl Iterator<Item = Key> + '_ {
        let (first, last) = ((address, Key(0)), (address, Key(u32::MAX)));
        self.households
            .range(first..=last)
            .map(|entry| entry.1)
            .filter(move |_| address != 0)
    }

    pub(super) fn add_displaced(&mut self, place: Place, viewer: Key) {
        if self.displaced.insert((place, viewer)) {
            *self.displaced_count.entry(place).or_default() += 1;
        }
    }

    pub(super) fn remove_displaced(&mut self, place: Place, viewer: Key) {
        if !self.displaced.remove(&(place, viewer)) {
            return;
        }
        let Some(count) = self.displaced_count.get_mut(&place) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.displaced_count.remove(&place);
        }
    }

    pub(super) fn displaced_count(&self, place: Place) -> u32 {
        self.displaced_count.get(&place).copied().unwrap_or(0)
    }

    pub(super) fn displaced_at(&self, place: Place) -> impl Iterator<Item = Key> + '_ {
        let (first, last) = ((place, Key(0)), (place, Key(u32::MAX)));
        self.displaced.range(first..=last).map(|entry| entry.1)
    }
}

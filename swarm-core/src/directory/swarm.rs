//! The viewers of one track of one stream, at about the same time of it, in groups, and where those are at home.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{
    place::{Network, Place},
    policy::Policy,
    slab::Key,
    viewer::{Reach, Traits, Viewer},
};
use crate::{
    id::{StreamId, TrackId},
    time::Instant,
    wire::tracker::Nat,
};

/// Whose swarm it is: stream, track, and how far behind the live edge. Viewers of different swarms
/// are not introduced.
pub(super) type SwarmId = (StreamId, TrackId, u8);

/// Members that room is made for at once.
const MEMBERS_STEP: usize = 6;

/// A member of a group, with a copy of what newcomers are compared by: a newcomer is compared with a
/// hundred viewers, and each viewer's own memory is as far away as main memory where there are many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) network: Network,
    pub(super) key: Key,
    pub(super) nat: Nat,
    pub(super) reach: Reach,
    gives: bool,
}

/// About fifteen viewers, linked with each other.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) swarm: SwarmId,
    pub(super) home: Place,
    pub(super) members: Vec<Member>,
    pub(super) upload_kbps: u64,
    pub(super) born_at: Instant,
    pub(super) window_at: Instant,
    pub(super) window_joins: u8,
    /// Its place in [`Swarm::groups`].
    pub(super) index: u32,
    /// When it is looked after next.
    pub(super) timer_at: Option<Instant>,
}

impl Member {
    pub(super) fn of(key: Key, viewer: &Viewer) -> Self {
        let traits = viewer.traits();
        Self {
            network: *traits.network,
            key,
            nat: traits.nat,
            reach: traits.reach,
            gives: traits.gives,
        }
    }

    pub(super) const fn traits(&self) -> Traits<'_> {
        Traits {
            network: &self.network,
            nat: self.nat,
            reach: self.reach,
            gives: self.gives,
        }
    }
}

impl Group {
    pub(super) fn add_member(&mut self, member: Member) {
        // Doubling would leave much of it empty.
        if self.members.len() == self.members.capacity() {
            self.members.reserve_exact(MEMBERS_STEP);
        }
        self.members.push(member);
    }

    /// Counts members that it gets, for the limit of growth in one window.
    pub(super) fn on_grown(&mut self, by: usize, now: Instant, policy: &Policy) {
        if now.ms_since(self.window_at) >= u64::from(policy.growth_window_ms) {
            self.window_at = now;
            self.window_joins = 0;
        }
        let by = by.min(usize::from(u8::MAX)) as u8;
        self.window_joins = self.window_joins.saturating_add(by);
    }
}

/// All groups of a swarm, indexed so that no decision walks through it.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct Swarm {
    /// In no order, to draw from at random.
    pub(super) groups: Vec<Key>,
    /// Those with members, by home, the smallest first ([`homed`]).
    by_home: BTreeSet<u128>,
    /// Viewers by household, to bring those together.
    households: BTreeSet<(u128, Key)>,
    /// Viewers by each of their places that is narrower than their group's home ([`placed`]).
    displaced: BTreeSet<u128>,
    /// How many those are, by the place's rank.
    displaced_count: BTreeMap<u128, u32>,
    pub(super) viewers: u32,
    pub(super) upload_kbps: u64,
}

impl Swarm {
    pub(super) fn index_group(&mut self, home: Place, size: usize, key: Key) {
        self.by_home.insert(homed(home, size as u8, key));
    }

    pub(super) fn unindex_group(&mut self, home: Place, size: usize, key: Key) {
        if size > 0 {
            self.by_home.remove(&homed(home, size as u8, key));
        }
    }

    /// The groups at home in `home`, the smallest first.
    pub(super) fn groups_at(&self, home: Place) -> impl Iterator<Item = Key> + '_ {
        let (first, last) = (homed(home, 0, Key(0)), homed(home, u8::MAX, Key(u32::MAX)));
        self.by_home.range(first..=last).map(|entry| key_of(*entry))
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
        if self.displaced.insert(placed(place, viewer)) {
            *self.displaced_count.entry(place.rank()).or_default() += 1;
        }
    }

    pub(super) fn remove_displaced(&mut self, place: Place, viewer: Key) {
        if !self.displaced.remove(&placed(place, viewer)) {
            return;
        }
        let Some(count) = self.displaced_count.get_mut(&place.rank()) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.displaced_count.remove(&place.rank());
        }
    }

    pub(super) fn displaced_count(&self, place: Place) -> u32 {
        let count = self.displaced_count.get(&place.rank());
        count.copied().unwrap_or(0)
    }

    pub(super) fn displaced_at(&self, place: Place) -> impl Iterator<Item = Key> + '_ {
        let (first, last) = (placed(place, Key(0)), placed(place, Key(u32::MAX)));
        self.displaced
            .range(first..=last)
            .map(|entry| key_of(*entry))
    }
}

/// An entry that is ordered by place and key. One number each: these indexes are searched several times
/// for each join, and comparing field by field was a tenth of all its instructions.
const fn placed(place: Place, key: Key) -> u128 {
    place.rank() << 32 | key.0 as u128
}

/// An entry that is ordered by home, size and key.
const fn homed(home: Place, size: u8, key: Key) -> u128 {
    home.rank() << 40 | (size as u128) << 32 | key.0 as u128
}

/// The key of either.
const fn key_of(entry: u128) -> Key {
    Key(entry as u32)
}

//! The viewers of one track of one stream, at about the same time of it, in groups, and where those are at home.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{
    place::{Location, Network, Place},
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

/// About fifteen viewers, linked with each other. The order is that of use: a newcomer compares several
/// groups, by their first cache line alone where it can.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Group {
    pub(super) members: Vec<Member>,
    pub(super) upload_kbps: u64,
    pub(super) home: Place,
    pub(super) census: Census,

    pub(super) window_at: Instant,
    pub(super) window_joins: u8,
    pub(super) swarm: SwarmId,
    pub(super) born_at: Instant,
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

/// How many members a group has of each kind that matters to whether others can link with them and have
/// use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    /// By NAT and reach, and in each by whether they give ([`Census::kind`]).
    kinds: [[u8; 2]; 4],
    /// Those that are kept local: whom they can link with is not a matter of kinds.
    pub(super) local_only: u8,
    /// Those of whom it is known where they are, and the sums of that in hundredths of a degree.
    located: u8,
    lat_sum: i32,
    lon_sum: i32,
}

impl Census {
    const BLOCKED: usize = 0;
    const SYMMETRIC: usize = 1;
    const HARD: usize = 2;
    const OPEN: usize = 3;

    const fn kind(traits: Traits<'_>) -> usize {
        match (traits.nat, traits.reach) {
            (Nat::Blocked, _) => Self::BLOCKED,
            (Nat::Symmetric, _) => Self::SYMMETRIC,
            (_, Reach::Hard) => Self::HARD,
            _ => Self::OPEN,
        }
    }

    fn count(&mut self, member: &Member, by: i8) {
        let of_kind = &mut self.kinds[Self::kind(member.traits())][usize::from(member.gives)];
        *of_kind = of_kind.wrapping_add_signed(by);
        if member.network.local_only {
            self.local_only = self.local_only.wrapping_add_signed(by);
        }
        if let Some(at) = member.network.location {
            self.located = self.located.wrapping_add_signed(by);
            self.lat_sum += i32::from(at.lat_centideg) * i32::from(by);
            self.lon_sum += i32::from(at.lon_centideg) * i32::from(by);
        }
    }

    /// The middle of where its members are, as far as that is known; of those of one metro alone, it says
    /// something.
    pub(super) fn middle(&self) -> Option<Location> {
        let count = i32::from(self.located);
        (count > 0).then(|| Location {
            lat_centideg: (self.lat_sum / count) as i16,
            lon_centideg: (self.lon_sum / count) as i16,
        })
    }

    /// How many a viewer does not suit ([`Traits::suits`]), where nobody is kept local.
    pub(super) fn unsuitable(&self, viewer: Traits<'_>) -> u32 {
        let reaches = match Self::kind(viewer) {
            Self::BLOCKED => [false; 4],
            Self::SYMMETRIC => [false, false, false, true],
            Self::HARD => [false, false, true, true],
            _ => [false, true, true, true],
        };
        let mut unsuitable = 0;
        for ([takes, gives], reaches) in self.kinds.into_iter().zip(reaches) {
            if !reaches {
                unsuitable += u32::from(takes) + u32::from(gives);
            } else if !viewer.gives {
                unsuitable += u32::from(takes);
            }
        }
        unsuitable
    }
}

impl Group {
    pub(super) fn new(swarm: SwarmId, home: Place, index: u32, now: Instant) -> Self {
        Self {
            members: Vec::new(),
            upload_kbps: 0,
            window_at: now,
            home,
            census: Census::default(),
            window_joins: 0,
            swarm,
            born_at: now,
            index,
            timer_at: None,
        }
    }

    pub(super) fn add_member(&mut self, member: Member) {
        self.census.count(&member, 1);
        // Doubling would leave much of it empty.
        if self.members.len() == self.members.capacity() {
            self.members.reserve_exact(MEMBERS_STEP);
        }
        self.members.push(member);
    }

    /// Takes those out for whom `is_gone` says so.
    pub(super) fn remove_members(&mut self, mut is_gone: impl FnMut(&Member) -> bool) {
        let census = &mut self.census;
        self.members.retain(|member| {
            let gone = is_gone(member);
            if gone {
                census.count(member, -1);
            }
            !gone
        });
    }

    /// Notes what has changed of a member.
    pub(super) fn renew_member(&mut self, renewed: Member) {
        let mut members = self.members.iter_mut();
        if let Some(member) = members.find(|member| member.key == renewed.key) {
            self.census.count(member, -1);
            self.census.count(&renewed, 1);
            *member = renewed;
        }
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
    /// Viewers by each of their places that is narrower than their group's home ([`placed`]).
    displaced: BTreeSet<u128>,
    /// How many those are, by the place's rank.
    displaced_count: BTreeMap<u128, u32>,
    pub(super) viewers: u32,
    pub(super) upload_kbps: u64,
}

impl Swarm {
    /// What one of its viewers uploads at most, on average.
    pub(super) fn mean_kbps(&self) -> u64 {
        self.upload_kbps / u64::from(self.viewers.max(1))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newcomer_looks_at_of_a_group_is_one_cache_line() {
        assert_eq!(core::mem::offset_of!(Group, window_at), 64);
        assert_eq!(size_of::<Group>(), 2 * 64);
    }

    #[test]
    fn a_census_counts_whom_a_viewer_does_not_suit_as_comparing_with_each_does() {
        let nats = [Nat::Open, Nat::Cone, Nat::Symmetric, Nat::Blocked];
        let mut all = Vec::new();
        for nat in nats {
            for reach in [Reach::Unknown, Reach::Easy, Reach::Hard] {
                for gives in [false, true] {
                    all.push(Member {
                        network: Network::default(),
                        key: Key(all.len() as u32),
                        nat,
                        reach,
                        gives,
                    });
                }
            }
        }
        let swarm = (StreamId([0; 16]), TrackId(0), 0);
        let mut group = Group::new(swarm, Place::World, 0, Instant::ORIGIN);
        all.iter().for_each(|member| group.add_member(*member));
        for removed in 0..all.len() {
            for viewer in &all {
                let suits = |other: &&Member| viewer.traits().suits(other.traits());
                let unsuitable = group.members.len() - group.members.iter().filter(suits).count();
                let counted = group.census.unsuitable(viewer.traits());
                assert_eq!(counted as usize, unsuitable, "{viewer:?}");
            }
            group.remove_members(|member| member.key == all[removed].key);
        }
        assert_eq!(group.census, Census::default());
    }

    #[test]
    fn the_middle_of_a_group_is_that_of_the_members_of_whom_it_is_known_where_they_are() {
        let swarm = (StreamId([0; 16]), TrackId(0), 0);
        let mut group = Group::new(swarm, Place::World, 0, Instant::ORIGIN);
        let at = |lat_centideg, lon_centideg| {
            Some(Location {
                lat_centideg,
                lon_centideg,
            })
        };
        let places = [None, at(5_000, -300), at(5_100, 100)];
        for (key, location) in (0..).map(Key).zip(places) {
            let network = Network {
                location,
                ..Network::default()
            };
            group.add_member(Member {
                network,
                key,
                nat: Nat::Cone,
                reach: Reach::Unknown,
                gives: true,
            });
        }
        assert_eq!(group.census.middle(), at(5_050, -100));
        group.remove_members(|member| member.key == Key(1));
        assert_eq!(group.census.middle(), at(5_100, 100));
        group.remove_members(|member| member.key == Key(2));
        assert_eq!(group.census.middle(), None);
    }
}

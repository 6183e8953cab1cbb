//! Viewers of one address, each knowing the next: no index of a million has to be searched for those of
//! a household, whose ration a newcomer fetches anyway.

use super::{Directory, slab::Key, swarm::SwarmId};

/// Viewers of an address that are looked at, of whatever swarm.
const LOOKED_AT_MAX: usize = 16;

/// The viewers before and after one in the ring of its address; itself where it is alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    before: Key,
    after: Key,
}

impl Ring {
    /// Of a viewer whose address is not known, or that is not in yet.
    pub(super) const NONE: Self = Self {
        before: Key(0),
        after: Key(0),
    };
}

impl Directory {
    /// Adds a viewer that holds its address's ration to the ring of this address, as the last.
    pub(super) fn join_household(&mut self, viewer: Key) {
        let held = self.viewers.get(viewer).and_then(|v| v.address_ration);
        let Some(first) = held.and_then(|held| self.address_rations.first_holder(held)) else {
            return;
        };
        let first = *first.get_or_insert(viewer);
        let before = self.ring(first).map_or(viewer, |ring| ring.before);
        // The first of all is the only one whose ring does not lead anywhere yet.
        let before = if first == viewer { viewer } else { before };
        self.link(before, viewer);
        self.link(viewer, first);
    }

    /// Takes a viewer out of the ring of its address.
    pub(super) fn leave_household(&mut self, viewer: Key) {
        let (held, ring) = match self.viewers.get(viewer) {
            Some(v) => (v.address_ration, v.household),
            None => return,
        };
        let Some(first) = held.and_then(|held| self.address_rations.first_holder(held)) else {
            return;
        };
        if *first == Some(viewer) {
            *first = Some(ring.after).filter(|after| *after != viewer);
        }
        self.link(ring.before, ring.after);
    }

    /// Others of a viewer's address that are in groups of `swarm`, the oldest first.
    pub(super) fn household(&self, viewer: Key, swarm: SwarmId) -> impl Iterator<Item = Key> + '_ {
        let held = self.viewers.get(viewer).and_then(|v| v.address_ration);
        let first = held.and_then(|held| self.address_rations.holder(held));
        let next = move |key: &Key| {
            let after = self.ring(*key).map(|ring| ring.after);
            after.filter(|after| Some(*after) != first)
        };
        core::iter::successors(first, next)
            .take(LOOKED_AT_MAX)
            .filter(move |other| *other != viewer)
            .filter(move |other| {
                let other = self.viewers.get(*other);
                other.is_some_and(|other| other.group.is_some() && other.swarm() == swarm)
            })
    }

    fn ring(&self, viewer: Key) -> Option<Ring> {
        self.viewers.get(viewer).map(|v| v.household)
    }

    fn link(&mut self, before: Key, after: Key) {
        if let Some(v) = self.viewers.get_mut(before) {
            v.household.after = after;
        }
        if let Some(v) = self.viewers.get_mut(after) {
            v.household.before = before;
        }
    }
}

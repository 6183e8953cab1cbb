//! Links between groups: whom of the others a viewer meets.

use alloc::vec::Vec;

use super::{
    Directory,
    pairing::LONG_LINKS_MAX,
    place::{Network, Place},
    slab::Key,
    swarm::Swarm,
};
use crate::wire::tracker::Distance;

/// Random draws to find one viewer of another group.
const DRAWS_MAX: usize = 8;
/// Groups of its own site that a viewer's long link is drawn from, the smallest first.
const SITE_GROUPS_MAX: usize = 64;

impl Directory {
    /// A viewer of another group, drawn at random, and how far it is. All groups of a site share its line: who is
    /// at one meets others there, so that what one group has brought in is there for all.
    pub(super) fn draw_far(&mut self, viewer: Key) -> Option<(Key, Distance)> {
        let at_site = self.other_groups_at_site(viewer);
        self.draw_of(viewer, at_site.len(), |_, n| at_site[n])
            .or_else(|| {
                let swarm = self.swarms.get(&self.viewers.get(viewer)?.swarm())?;
                let count = swarm.groups.len();
                self.draw_of(viewer, count, |swarm, n| swarm.groups[n])
            })
    }

    fn other_groups_at_site(&self, viewer: Key) -> Vec<Key> {
        let Some(v) = self.viewers.get(viewer) else {
            return Vec::new();
        };
        let (Some(site), Some(swarm)) = (v.network.site, self.swarms.get(&v.swarm())) else {
            return Vec::new();
        };
        let groups = swarm.groups_at(Place::Site(site));
        let others = groups.filter(|group| v.group != Some(*group));
        others.take(SITE_GROUPS_MAX).collect()
    }

    /// A member of one of `count` groups, drawn at random.
    fn draw_of(
        &mut self,
        viewer: Key,
        count: usize,
        group_at: impl Fn(&Swarm, usize) -> Key,
    ) -> Option<(Key, Distance)> {
        let v = self.viewers.get(viewer)?;
        let swarm = self.swarms.get(&v.swarm())?;
        let last = count.checked_sub(1)?;
        for _ in 0..DRAWS_MAX {
            let group = group_at(swarm, self.rng.at_most(last as u64) as usize);
            let members = &self.groups.get(group)?.members;
            let other = &members[self.rng.at_most(members.len() as u64 - 1) as usize];
            let has_room = |key| {
                self.viewers
                    .get(key)
                    .is_some_and(|o| o.meetings.count_long() < LONG_LINKS_MAX)
            };
            let is_other =
                v.group != Some(group) && !keeps_to_itself(swarm, &other.network, v.network);
            if is_other && has_room(other.key) && self.may_meet(viewer, other) {
                let distance = v.network.distance(&other.network, self.policy.metro_km);
                return Some((other.key, distance));
            }
        }
        None
    }
}

/// Whether `other` is at a site, not that of `network`, with groups enough for links between them.
fn keeps_to_itself(swarm: &Swarm, other: &Network, network: Network) -> bool {
    let site = other.site.filter(|site| network.site != Some(*site));
    site.is_some_and(|site| swarm.groups_at(Place::Site(site)).nth(1).is_some())
}

//! Which group a viewer belongs to: choosing, entering and leaving one.

use super::{
    Directory,
    place::Place,
    slab::Key,
    swarm::{Group, Member, SwarmId},
    viewer::Viewer,
};
use crate::wire::tracker::Distance;

/// Groups compared before one is chosen.
const CANDIDATES_MAX: usize = 8;
/// Members of a candidate that a newcomer is compared with.
const SAMPLE_MAX: usize = 8;
/// Viewers of one household that are looked at for a group with room.
const HOUSEHOLD_MAX: usize = 4;

/// Where a viewer should go.
pub(super) enum Plan {
    Join(Key),
    Found(Place),
}

impl Directory {
    /// Puts a viewer without a group into one.
    pub(super) fn place_viewer(&mut self, viewer: Key) {
        let Some(swarm) = self.swarm_of(viewer) else {
            return;
        };
        let group = match self.plan_place(viewer, swarm, None) {
            Plan::Join(group) => group,
            Plan::Found(home) => self.found_group(swarm, home),
        };
        self.enter_group(viewer, group);
        self.split_if_large(group);
        self.condense_around(viewer, swarm);
    }

    fn swarm_of(&self, viewer: Key) -> Option<SwarmId> {
        self.viewers.get(viewer).map(Viewer::swarm)
    }

    /// The group next to the viewer that has room: its household's, then from its narrowest place
    /// outwards, then the best of a few drawn at random. Where its place has groups and none has
    /// room, a new one begins there. Viewers that are kept local have groups of their own: they
    /// could not link with the others.
    pub(super) fn plan_place(&mut self, viewer: Key, id: SwarmId, except: Option<Key>) -> Plan {
        if let Some(plan) = self.plan_near(viewer, id, except) {
            return plan;
        }
        let Some(swarm) = self.swarms.get(&id) else {
            return Plan::Found(Place::World);
        };
        let count = swarm.groups.len();
        let mut drawn = [None; CANDIDATES_MAX];
        for place in drawn.iter_mut().take(count) {
            let index = self.rng.at_most(count as u64 - 1);
            *place = Some(swarm.groups[index as usize]);
        }
        let Some(v) = self.viewers.get(viewer) else {
            return Plan::Found(Place::World);
        };
        let mean_kbps = swarm.mean_kbps();
        drawn
            .into_iter()
            .flatten()
            .filter(|group| Some(*group) != except && self.has_room(*group))
            .filter(|group| !self.is_closed_to(*group, v))
            .min_by_key(|group| (self.score(v, *group, mean_kbps), *group))
            .map_or(Plan::Found(Place::World), Plan::Join)
    }

    /// Where a viewer should go by its household and its places; `None` where none of these has groups.
    fn plan_near(&self, viewer: Key, id: SwarmId, except: Option<Key>) -> Option<Plan> {
        let (swarm, v) = (self.swarms.get(&id)?, self.viewers.get(viewer)?);
        let open = |group: &Key| Some(*group) != except && self.has_room(*group);
        let household = self
            .household(viewer, id)
            .take(HOUSEHOLD_MAX)
            .filter_map(|other| self.viewers.get(other)?.group)
            .find(open);
        if let Some(group) = household {
            return Some(Plan::Join(group));
        }
        let (kept_local, mean_kbps) = (v.network.local_only, swarm.mean_kbps());
        for place in v.network.ladder() {
            if kept_local && !matches!(place, Place::Site(_)) {
                return Some(Plan::Found(place));
            }
            let mut groups = swarm
                .groups_at(place)
                .filter(|g| Some(*g) != except)
                .peekable();
            let inhabited = groups.peek().is_some();
            let best = groups
                .take(CANDIDATES_MAX)
                .filter(open)
                .min_by_key(|group| (self.score(v, *group, mean_kbps), *group));
            match best {
                Some(group) => return Some(Plan::Join(group)),
                None if inhabited || kept_local => return Some(Plan::Found(place)),
                None => {}
            }
        }
        None
    }

    /// Whether a group is one of viewers that are kept local, elsewhere.
    fn is_closed_to(&self, group: Key, v: &Viewer) -> bool {
        let first = self.groups.get(group).and_then(|g| g.members.first());
        first.is_some_and(|first| first.network.local_only && !v.network.may_reach(&first.network))
    }

    /// How badly a group suits a viewer: those it cannot link with, distance, and upload, compared with
    /// the mean of a viewer of the swarm.
    fn score(&self, v: &Viewer, group: Key, mean_kbps: u64) -> u32 {
        let Some(group) = self.groups.get(group) else {
            return u32::MAX;
        };
        let count = group.members.len() as u64;
        if count == 0 {
            return 0;
        }
        let rich = |kbps: u64| kbps >= mean_kbps;
        let group_is_rich = rich(group.upload_kbps / count);
        let unbalanced = v.gives() && rich(u64::from(v.upload_kbps)) == group_is_rich;
        self.score_network(v, group) + 40 * u32::from(unbalanced)
    }

    /// The part of a score that is a matter of networks.
    fn score_network(&self, v: &Viewer, group: &Group) -> u32 {
        let kept_local = v.network.local_only || group.census.local_only > 0;
        let at_home = || v.network.ladder().any(|place| place == group.home);
        let distance = match group.home {
            Place::Metro(..) => self.score_metro(v, group),
            // NATs do not matter within a site.
            Place::Site(_) | Place::World | Place::Country(_) | Place::Isp(..) => None,
        };
        if let Some(distance) = distance.filter(|_| !kept_local && at_home()) {
            let unsuitable = group.census.unsuitable(v.traits());
            return 400 * unsuitable / group.members.len() as u32 + distance;
        }
        let (mut sampled, mut unsuitable, mut distance) = (0, 0, 0);
        for other in group.members.iter().take(SAMPLE_MAX) {
            sampled += 1;
            unsuitable += u32::from(!v.traits().suits(other.traits()));
            distance += v.network.distance(&other.network, self.policy.metro_km) as u32;
        }
        400 * unsuitable / sampled.max(1) + 60 * distance / sampled.max(1)
    }

    /// How far a viewer is from the members of a group of its own metro: from their middle, since fetching
    /// them takes longer than all the rest.
    fn score_metro(&self, v: &Viewer, group: &Group) -> Option<u32> {
        let km = v.network.location?.km_to(group.census.middle()?);
        let metro_km = self.policy.metro_km.max(1);
        Some(60 * Distance::Metro as u32 + 60 * km.min(metro_km) / metro_km)
    }

    /// Groups grow freely to their target, and by a share in each growth window above it.
    fn has_room(&self, group: Key) -> bool {
        let Some(group) = self.groups.get(group) else {
            return false;
        };
        let size = group.members.len();
        if size < usize::from(self.policy.group_target) {
            return true;
        }
        let window_over =
            self.now.ms_since(group.window_at) >= u64::from(self.policy.growth_window_ms);
        let grown = if window_over {
            0
        } else {
            usize::from(group.window_joins)
        };
        let before = size.saturating_sub(grown);
        let growth = (before * usize::from(self.policy.growth_percent) / 100).max(1);
        size <= usize::from(self.policy.group_max) && grown < growth
    }

    /// Makes a group without members, which nobody finds before it has some.
    pub(super) fn found_group(&mut self, swarm: SwarmId, home: Place) -> Key {
        let entry = self.swarms.entry(swarm).or_default();
        let index = entry.groups.len() as u32;
        let group = Group::new(swarm, home, index, self.now);
        let group = self.groups.insert(group);
        entry.groups.push(group);
        group
    }

    fn enter_group(&mut self, viewer: Key, group: Key) {
        let (Some(v), Some(g)) = (self.viewers.get_mut(viewer), self.groups.get_mut(group)) else {
            return;
        };
        g.on_grown(1, self.now, &self.policy);
        let swarm = self.swarms.entry(g.swarm).or_default();
        swarm.unindex_group(g.home, g.members.len(), group);
        g.add_member(Member::of(viewer, v));
        swarm.index_group(g.home, g.members.len(), group);
        let upload = u64::from(v.upload_kbps);
        g.upload_kbps += upload;
        swarm.upload_kbps += upload;
        swarm.viewers += 1;
        for place in displaced_places(v.network.ladder(), g.home) {
            swarm.add_displaced(place, viewer);
        }
        v.group = Some(group);
        let thin_at = self.now.plus_ms(u64::from(self.policy.merge_after_ms));
        if g.members.len() == 1 {
            self.schedule_group(group, thin_at);
        }
        self.recount_local(viewer, group, true);
    }

    /// Notes what has changed of a viewer that newcomers are compared by.
    pub(super) fn renew_member(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        if let Some(group) = v.group.and_then(|group| self.groups.get_mut(group)) {
            group.renew_member(Member::of(viewer, v));
        }
    }

    /// Takes a viewer out of its group; its pairs stay.
    pub(super) fn leave_group(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        let Some(group) = v.group.take() else {
            return;
        };
        self.recount_local(viewer, group, false);
        let (Some(v), Some(g)) = (self.viewers.get(viewer), self.groups.get_mut(group)) else {
            return;
        };
        let Some(swarm) = self.swarms.get_mut(&g.swarm) else {
            return;
        };
        swarm.unindex_group(g.home, g.members.len(), group);
        g.remove_members(|member| member.key == viewer);
        let upload = u64::from(v.upload_kbps);
        g.upload_kbps = g.upload_kbps.saturating_sub(upload);
        swarm.upload_kbps = swarm.upload_kbps.saturating_sub(upload);
        swarm.viewers -= 1;
        for place in displaced_places(v.network.ladder(), g.home) {
            swarm.remove_displaced(place, viewer);
        }
        if g.members.is_empty() {
            self.drop_group(group);
        } else {
            swarm.index_group(g.home, g.members.len(), group);
            let refill_at = self.now.plus_ms(u64::from(self.policy.refill_after_ms));
            self.schedule_group(group, refill_at);
        }
    }

    pub(super) fn drop_group(&mut self, key: Key) {
        let Some(group) = self.groups.remove(key) else {
            return;
        };
        self.unschedule_group(key, group.timer_at);
        let Some(swarm) = self.swarms.get_mut(&group.swarm) else {
            return;
        };
        swarm.groups.swap_remove(group.index as usize);
        if let Some(moved) = swarm.groups.get(group.index as usize)
            && let Some(moved) = self.groups.get_mut(*moved)
        {
            moved.index = group.index;
        }
        if swarm.groups.is_empty() {
            self.swarms.remove(&group.swarm);
        }
    }

    /// Notes what a viewer offers to upload from now on.
    pub(super) fn change_upload(&mut self, viewer: Key, upload_kbps: u32) {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        let (old, new) = (u64::from(v.upload_kbps), u64::from(upload_kbps));
        v.upload_kbps = upload_kbps;
        if let Some(group) = v.group.and_then(|group| self.groups.get_mut(group)) {
            group.upload_kbps = group.upload_kbps.saturating_sub(old) + new;
            if let Some(swarm) = self.swarms.get_mut(&group.swarm) {
                swarm.upload_kbps = swarm.upload_kbps.saturating_sub(old) + new;
            }
        }
    }
}

/// The places of a viewer that are narrower than the home of its group.
pub(super) fn displaced_places(
    ladder: impl Iterator<Item = Place>,
    home: Place,
) -> impl Iterator<Item = Place> {
    ladder.take_while(move |place| *place != home && *place != Place::World)
}

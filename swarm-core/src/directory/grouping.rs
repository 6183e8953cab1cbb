//! Which group a viewer belongs to: choosing, entering and leaving one.

use alloc::vec::Vec;

use super::{
    Directory,
    place::Place,
    slab::Key,
    swarm::{Group, Member, SwarmId},
    viewer::Viewer,
};

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
        let (Some(swarm), Some(v)) = (self.swarms.get(&id), self.viewers.get(viewer)) else {
            return Plan::Found(Place::World);
        };
        let open = |group: &Key| Some(*group) != except && self.has_room(*group);
        let household = swarm
            .household(v.network.address)
            .filter(|other| *other != viewer)
            .take(HOUSEHOLD_MAX)
            .filter_map(|other| self.viewers.get(other)?.group)
            .find(open);
        if let Some(group) = household {
            return Plan::Join(group);
        }
        let kept_local = v.network.local_only;
        for place in v.network.ladder() {
            if kept_local && !matches!(place, Place::Site(_)) {
                return Plan::Found(place);
            }
            let mut groups = swarm
                .groups_at(place)
                .filter(|g| Some(*g) != except)
                .peekable();
            let inhabited = groups.peek().is_some();
            let best = groups
                .take(CANDIDATES_MAX)
                .filter(open)
                .min_by_key(|group| (self.score(viewer, *group), *group));
            match best {
                Some(group) => return Plan::Join(group),
                None if inhabited || kept_local => return Plan::Found(place),
                None => {}
            }
        }
        let count = swarm.groups.len() as u64;
        let drawn: Vec<u64> = (0..CANDIDATES_MAX.min(count as usize))
            .map(|_| self.rng.at_most(count - 1))
            .collect();
        let groups = &self.swarms[&id].groups;
        drawn
            .into_iter()
            .map(|index| groups[index as usize])
            .filter(|group| Some(*group) != except && self.has_room(*group))
            .filter(|group| !self.is_closed_to(*group, viewer))
            .min_by_key(|group| (self.score(viewer, *group), *group))
            .map_or(Plan::Found(Place::World), Plan::Join)
    }

    /// Whether a group is one of viewers that are kept local, elsewhere.
    fn is_closed_to(&self, group: Key, viewer: Key) -> bool {
        let first = self.groups.get(group).and_then(|g| g.members.first());
        let (Some(v), Some(first)) = (self.viewers.get(viewer), first) else {
            return false;
        };
        first.network.local_only && !v.network.may_reach(&first.network)
    }

    /// How badly a group suits a viewer: those it cannot link with, distance, and upload.
    fn score(&self, viewer: Key, group: Key) -> u32 {
        let (Some(v), Some(group)) = (self.viewers.get(viewer), self.groups.get(group)) else {
            return u32::MAX;
        };
        let (mut sampled, mut unsuitable, mut distance) = (0, 0, 0);
        for other in group.members.iter().take(SAMPLE_MAX) {
            sampled += 1;
            unsuitable += u32::from(!v.traits().suits(other.traits()));
            distance += v.network.distance(&other.network, self.policy.metro_km) as u32;
        }
        if sampled == 0 {
            return 0;
        }
        let swarm = self.swarms.get(&group.swarm);
        let swarm_mean = swarm.map_or(0, |s| s.upload_kbps / u64::from(s.viewers.max(1)));
        let group_mean = group.upload_kbps / group.members.len() as u64;
        let rich = |kbps: u64| kbps >= swarm_mean;
        let unbalanced = v.gives() && rich(u64::from(v.upload_kbps)) == rich(group_mean);
        400 * unsuitable / sampled + 60 * distance / sampled + 40 * u32::from(unbalanced)
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
        let group = self.groups.insert(Group {
            swarm,
            home,
            members: Vec::new(),
            upload_kbps: 0,
            born_at: self.now,
            window_at: self.now,
            window_joins: 0,
            index: entry.groups.len() as u32,
            timer_at: None,
        });
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
        swarm.add_to_household(v.network.address, viewer);
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
        let group = v.group.and_then(|group| self.groups.get_mut(group));
        let members = group
            .map(|group| &mut group.members[..])
            .unwrap_or_default();
        if let Some(member) = members.iter_mut().find(|member| member.key == viewer) {
            *member = Member::of(viewer, v);
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
        g.members.retain(|member| member.key != viewer);
        let upload = u64::from(v.upload_kbps);
        g.upload_kbps = g.upload_kbps.saturating_sub(upload);
        swarm.upload_kbps = swarm.upload_kbps.saturating_sub(upload);
        swarm.viewers -= 1;
        swarm.remove_from_household(v.network.address, viewer);
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

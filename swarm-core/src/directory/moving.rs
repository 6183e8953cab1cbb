//! Groups that change: cut in two, gathered by place, or given up.

use alloc::vec::Vec;

use super::{
    Directory,
    grouping::{Plan, displaced_places},
    place::{LADDER_LEN, Place},
    slab::Key,
    swarm::{Member, Swarm, SwarmId},
};
use crate::time::Instant;

/// A group of an operator's site may be this small: it saves the site's uplink.
const SITE_GROUP_MIN: usize = 2;

impl Directory {
    /// Cuts a group that has become too large in two, neighbours together. One half keeps the group.
    pub(super) fn split_if_large(&mut self, group: Key) {
        let Some(g) = self.groups.get(group) else {
            return;
        };
        if g.members.len() <= usize::from(self.policy.group_max) {
            return;
        }
        let (swarm, home) = (g.swarm, g.home);
        let ladder = |member: &Member| (member.network.ladder_from_widest(), member.key);
        let mut members: Vec<_> = g.members.iter().map(ladder).collect();
        members.sort_unstable();
        let (low, high) = members.split_at(members.len() / 2);
        let (low_home, high_home) = (common_place(low), common_place(high));
        let [(stay_home, _), (go_home, go)] = if high_home == home && low_home != home {
            [(high_home, high), (low_home, low)]
        } else {
            [(low_home, low), (high_home, high)]
        };
        let going: Vec<Key> = go.iter().map(|(_, key)| *key).collect();
        let new = self.found_group(swarm, go_home);
        for part in [group, new] {
            self.schedule_group(part, self.now.plus_ms(1));
        }
        self.move_members(&going, new);
        self.begin_anew(group, stay_home);
        self.stats.splits += 1;
    }

    /// Gives the viewers around a newcomer a group of their own where they are many and sit in
    /// groups of a wider area. Not in a swarm that is small enough for one group.
    pub(super) fn condense_around(&mut self, viewer: Key, swarm: SwarmId) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        for place in v.network.ladder() {
            let Some(s) = self.swarms.get(&swarm) else {
                return;
            };
            let enough = match place {
                Place::Site(_) => SITE_GROUP_MIN as u32,
                _ => u32::from(self.policy.group_condense),
            };
            if s.viewers <= u32::from(self.policy.group_max) || s.displaced_count(place) < enough {
                continue;
            }
            let target = usize::from(self.policy.group_target);
            let members: Vec<Key> = s.displaced_at(place).take(target).collect();
            let group = self.found_group(swarm, place);
            self.schedule_group(group, self.now.plus_ms(1));
            self.move_members(&members, group);
            self.stats.condensed += 1;
            return;
        }
    }

    /// Lets the members of a thin group look for room elsewhere. Those who find none stay.
    /// Whether the group is still there and still thin.
    pub(super) fn merge_if_thin(&mut self, group: Key) -> bool {
        let Some(g) = self.groups.get(group) else {
            return false;
        };
        let thin = match g.home {
            Place::Site(_) => SITE_GROUP_MIN,
            _ => usize::from(self.policy.group_thin),
        };
        let alone = self.swarms.get(&g.swarm).is_none_or(|s| s.groups.len() < 2);
        if g.members.len() >= thin || alone {
            return false;
        }
        if self.now < self.thin_until(g.born_at) {
            return true;
        }
        let swarm = g.swarm;
        let members: Vec<Key> = g.members.iter().map(|member| member.key).collect();
        for viewer in members {
            if let Plan::Join(other) = self.plan_place(viewer, swarm, Some(group)) {
                self.move_members(&[viewer], other);
                self.split_if_large(other);
                self.fill_viewer(viewer);
            }
        }
        self.stats.merges += 1;
        self.groups.get(group).is_some()
    }

    fn thin_until(&self, born_at: Instant) -> Instant {
        born_at.plus_ms(u64::from(self.policy.merge_after_ms))
    }

    /// Moves members of other groups of the same swarm into one. What the swarm knows of them stays as it
    /// is, each group is indexed again once, and those are told of each other again who have become, or
    /// are no longer, members of one group.
    fn move_members(&mut self, viewers: &[Key], to: Key) {
        let mut movers = Vec::with_capacity(viewers.len());
        for viewer in viewers {
            let from = self.viewers.get(*viewer).and_then(|v| v.group);
            if let Some(from) = from.filter(|from| *from != to) {
                movers.push((*viewer, from));
            }
        }
        let Some(g) = self.groups.get_mut(to) else {
            return;
        };
        let Some(swarm) = self.swarms.get_mut(&g.swarm) else {
            return;
        };
        swarm.unindex_group(g.home, g.members.len(), to);
        g.on_grown(movers.len(), self.now, &self.policy);
        for (viewer, _) in &movers {
            if let Some(v) = self.viewers.get_mut(*viewer) {
                v.group = Some(to);
                g.add_member(Member::of(*viewer, v));
                g.upload_kbps += u64::from(v.upload_kbps);
            }
        }
        swarm.index_group(g.home, g.members.len(), to);
        let home = g.home;
        let mut froms: Vec<Key> = movers.iter().map(|(_, from)| *from).collect();
        froms.sort_unstable();
        froms.dedup();
        for from in froms {
            self.take_movers_out(from, &movers, home);
        }
        self.recount_moved(&movers, to);
    }

    /// Takes those out of a group who have moved from it, to one that is at home in `home`. Those who stay
    /// are not looked at: each is as far away as main memory.
    fn take_movers_out(&mut self, from: Key, movers: &[(Key, Key)], home: Place) {
        let Some(g) = self.groups.get_mut(from) else {
            return;
        };
        let Some(swarm) = self.swarms.get_mut(&g.swarm) else {
            return;
        };
        swarm.unindex_group(g.home, g.members.len(), from);
        let (viewers, old_home, mut upload_kbps) = (&self.viewers, g.home, 0);
        g.remove_members(|member| {
            let has_moved = movers.contains(&(member.key, from));
            if has_moved {
                upload_kbps += viewers
                    .get(member.key)
                    .map_or(0, |v| u64::from(v.upload_kbps));
                change_home(swarm, member, old_home, home);
            }
            has_moved
        });
        g.upload_kbps = g.upload_kbps.saturating_sub(upload_kbps);
        if g.members.is_empty() {
            self.drop_group(from);
        } else {
            swarm.index_group(g.home, g.members.len(), from);
            let refill_at = self.now.plus_ms(u64::from(self.policy.refill_after_ms));
            self.schedule_group(from, refill_at);
        }
    }

    /// Counts the pairs within groups again of viewers that have moved into `to`, each with where it
    /// comes from, and tells both of each pair that has become, or is no longer, one within a group.
    fn recount_moved(&mut self, movers: &[(Key, Key)], to: Key) {
        let mut changed = Vec::new();
        for (number, (viewer, from)) in movers.iter().enumerate() {
            let Some(v) = self.viewers.get_mut(*viewer) else {
                continue;
            };
            let mut local = 0;
            for with in v.meetings.keys() {
                let Some(other) = self.viewers.get_mut(with) else {
                    continue;
                };
                let is_local = other.group == Some(to);
                local += u8::from(is_local);
                let moved = movers.iter().position(|(key, _)| is_local && *key == with);
                let came_from = moved.map_or(other.group, |at| Some(movers[at].1));
                if is_local == (came_from == Some(*from)) {
                    continue;
                }
                match moved {
                    None if is_local => other.local += 1,
                    None => other.local = other.local.saturating_sub(1),
                    Some(_) => {}
                }
                // Of two that have moved, the second finds that the first has told both.
                if moved.is_none_or(|at| at > number) {
                    changed.push((*viewer, with));
                }
            }
            if let Some(v) = self.viewers.get_mut(*viewer) {
                v.local = local;
            }
        }
        for (a, b) in changed {
            self.introduce_again(a, b);
        }
    }

    /// What is left of a group begins as a new one would.
    fn begin_anew(&mut self, group: Key, home: Place) {
        let Some(g) = self.groups.get_mut(group) else {
            return;
        };
        (g.born_at, g.window_at) = (self.now, self.now);
        g.window_joins = g.members.len() as u8;
        let old_home = core::mem::replace(&mut g.home, home);
        let Some(swarm) = self.swarms.get_mut(&g.swarm).filter(|_| old_home != home) else {
            return;
        };
        swarm.unindex_group(old_home, g.members.len(), group);
        swarm.index_group(home, g.members.len(), group);
        for member in &g.members {
            change_home(swarm, member, old_home, home);
        }
    }
}

/// Notes which places of a member are narrower than its group's home, now that this is another one.
fn change_home(swarm: &mut Swarm, member: &Member, old_home: Place, home: Place) {
    if old_home == home {
        return;
    }
    let ladder = || member.network.ladder();
    let [before, after] = [old_home, home].map(|home| displaced_places(ladder(), home).count());
    for place in ladder().take(before).skip(after) {
        swarm.remove_displaced(place, member.key);
    }
    for place in ladder().take(after).skip(before) {
        swarm.add_displaced(place, member.key);
    }
}

/// The narrowest place that all have in common.
fn common_place(members: &[([Place; LADDER_LEN], Key)]) -> Place {
    let Some(((first, _), others)) = members.split_first() else {
        return Place::World;
    };
    let mut known = first.iter().rev().filter(|place| **place != Place::World);
    let is_common = |place: &&Place| others.iter().all(|(ladder, _)| ladder.contains(place));
    known.find(is_common).copied().unwrap_or(Place::World)
}

//! Who is introduced to whom, and what becomes of the pairs.

use alloc::vec::Vec;

use super::{
    Directory,
    io::{Action, ConnId, Outbox},
    meetings::Meeting,
    slab::Key,
    swarm::Member,
    viewer::{Reach, Viewer},
};
use crate::{
    id::{PeerId, StreamId},
    limits::NEIGHBOURS_MAX,
    wire::tracker::{Distance, Introduction, LinkOutcome, Nat, ViewerFlags},
};

/// Pairs of one viewer; leaves room for those that viewers open on their own.
const PAIRS_MAX: usize = NEIGHBOURS_MAX - 4;
/// Long links of one viewer, those that others asked for included.
pub(super) const LONG_LINKS_MAX: usize = 6;
/// Further long links of a viewer that most of its group cannot reach.
const STARVED_LINKS: usize = 4;
/// Pairs with former members of its group that a viewer keeps.
const LEFTOVERS_MAX: usize = 4;
/// As many new links let go of those of the old track.
const LINKS_TO_RELEASE: usize = 4;

/// A member of a viewer's group that it may meet.
#[derive(Debug)]
pub(super) struct Candidate {
    key: Key,
    upload_kbps: u32,
    /// Its place among the members.
    at: u8,
    local: u8,
    distance: Distance,
    /// Their networks may not be able to link.
    hard: bool,
}

impl Candidate {
    /// `w` is the member. How it suits whom is not known yet.
    const fn new(at: usize, key: Key, w: &Viewer) -> Self {
        Self {
            key,
            upload_kbps: w.upload_kbps,
            at: at as u8,
            local: w.local,
            distance: Distance::Far,
            hard: false,
        }
    }

    /// The lowest is the best. One number, since many are compared.
    fn rank(&self) -> u128 {
        let suits =
            u64::from(self.hard) << 16 | (self.distance as u64) << 8 | u64::from(self.local);
        let rest = u64::from(u32::MAX - self.upload_kbps) << 32 | u64::from(self.key.0);
        u128::from(suits) << 64 | u128::from(rest)
    }
}

impl Directory {
    /// Introduces a viewer to members of its group until it has enough pairs there, and to one
    /// random viewer elsewhere if it lacks long links.
    pub(super) fn fill_viewer(&mut self, viewer: Key) {
        if !self.is_crowded(viewer) {
            return;
        }
        let mut plan = core::mem::take(&mut self.plan);
        self.plan_local(viewer, &mut plan);
        for other in &plan {
            self.introduce(viewer, other.key, other.distance, false);
        }
        self.plan = plan;
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let local = usize::from(v.local);
        let (long, target) = (
            v.meetings.count_long(),
            usize::from(self.policy.links_target),
        );
        let starved = v.status.links_wanted > 0 && local < target / 2;
        let (extra, at_once) = if starved { (STARVED_LINKS, 2) } else { (0, 1) };
        let wanted = (usize::from(self.policy.long_links) + extra).min(LONG_LINKS_MAX);
        for _ in long..wanted.min(long + at_once) {
            if let Some((other, distance)) = self.draw_far(viewer) {
                self.introduce(viewer, other, distance, true);
            }
        }
    }

    /// Whether a viewer's stream has enough viewers for anybody to be introduced.
    fn is_crowded(&self, viewer: Key) -> bool {
        let stream = self.viewers.get(viewer).map(|v| v.stream);
        let entry = stream.and_then(|stream| self.streams.get(&stream));
        entry.is_some_and(|entry| entry.viewers.len() >= self.policy.viewers_min as usize)
    }

    /// Has everybody introduced when a stream gets as many viewers as that needs.
    pub(super) fn begin_if_crowded(&mut self, stream: StreamId) {
        let Some(entry) = self.streams.get(&stream) else {
            return;
        };
        if entry.viewers.len() != self.policy.viewers_min as usize {
            return;
        }
        let waiting: Vec<Key> = entry.viewers.iter().copied().collect();
        for group in waiting
            .into_iter()
            .filter_map(|v| self.viewers.get(v)?.group)
            .collect::<Vec<_>>()
        {
            self.schedule_group(group, self.now.plus_ms(1));
        }
    }

    /// The members of its group that a viewer should meet: the nearest, of those the ones with the
    /// fewest pairs. They replace what is in `plan`.
    fn plan_local(&self, viewer: Key, plan: &mut Vec<Candidate>) {
        plan.clear();
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let Some(group) = v.group.and_then(|group| self.groups.get(group)) else {
            return;
        };
        let target = usize::from(self.policy.links_target);
        let missing = target
            .saturating_sub(usize::from(v.local))
            .min(PAIRS_MAX.saturating_sub(v.meetings.len()));
        // Nearly everybody has met its whole group, and is asked for each time that somebody leaves it.
        let has_met_all = usize::from(v.local) + 1 >= group.members.len();
        if missing == 0 || has_met_all || !self.is_free(v) {
            return;
        }
        let room = target + usize::from(self.policy.links_slack);
        // All are fetched before any is looked at: memory answers many questions in the time of one.
        for (at, member) in group.members.iter().enumerate() {
            if is_for(viewer, v, member)
                && let Some(w) = self.viewers.get(member.key)
            {
                plan.push(Candidate::new(at, member.key, w));
            }
        }
        plan.retain_mut(|candidate| {
            let member = &group.members[usize::from(candidate.at)];
            let Some(w) = self.viewers.get(candidate.key) else {
                return false;
            };
            candidate.distance = v.network.distance(&member.network, self.policy.metro_km);
            candidate.hard = v.nat == Nat::Symmetric && member.reach != Reach::Easy;
            usize::from(candidate.local) < room && self.is_open_to(w, v)
        });
        plan.sort_unstable_by_key(Candidate::rank);
        plan.truncate(missing);
    }

    pub(super) fn may_meet(&self, a: Key, member: &Member) -> bool {
        let (Some(v), Some(w)) = (self.viewers.get(a), self.viewers.get(member.key)) else {
            return false;
        };
        self.is_free(v) && is_for(a, v, member) && self.is_open_to(w, v)
    }

    /// Whether a viewer may be introduced to anybody.
    fn is_free(&self, v: &Viewer) -> bool {
        v.conn.is_some()
            && v.meetings.len() < PAIRS_MAX
            && v.trust.is_good(self.now)
            && v.may_be_introduced(&self.policy, self.now)
    }

    /// Whether `w` may be introduced to anybody, and to `v`.
    fn is_open_to(&self, w: &Viewer, v: &Viewer) -> bool {
        self.is_free(w) && !v.is_apart(w.peer, self.now) && !w.is_apart(v.peer, self.now)
    }

    /// Notes what becomes of a viewer's pairs with members of `group`, which it has entered, or left.
    pub(super) fn recount_local(&mut self, viewer: Key, group: Key, entered: bool) {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        let mut local = 0;
        for with in v.meetings.keys() {
            if let Some(other) = self.viewers.get_mut(with)
                && other.group == Some(group)
            {
                local += u8::from(entered);
                other.local = if entered {
                    other.local + 1
                } else {
                    other.local.saturating_sub(1)
                };
            }
        }
        if let Some(v) = self.viewers.get_mut(viewer) {
            v.local = local;
        }
    }

    /// Whether two viewers are members of one group.
    fn in_one_group(&self, a: Key, b: Key) -> bool {
        let group = |key| self.viewers.get(key).and_then(|v| v.group);
        group(a).is_some() && group(a) == group(b)
    }

    /// Tells both of each other. `a` offers: it is the one that needs the link.
    fn introduce(&mut self, a: Key, b: Key, distance: Distance, long: bool) {
        // Several are planned at a time, and the first of them may have used up what was left.
        let has_some = |key| {
            let viewer = self.viewers.get(key);
            viewer.is_some_and(|v| v.may_be_introduced(&self.policy, self.now))
        };
        if !has_some(a) || !has_some(b) {
            return;
        }
        if !self.charge_addresses(a, b) {
            return;
        }
        self.pair(a, b, long, false);
        for (me, other, offer) in [(a, b, true), (b, a, false)] {
            let (Some(v), Some(w)) = (self.viewers.get(me), self.viewers.get(other)) else {
                return;
            };
            let Some(conn) = v.conn else {
                continue;
            };
            let introduction = introduction(v, w, distance, offer);
            self.pending.push(Action::Introduce { conn, introduction });
        }
        for key in [a, b] {
            if let Some(v) = self.viewers.get_mut(key) {
                v.on_introduced(&self.policy, self.now);
            }
        }
        self.stats.introductions += 1;
    }

    /// Takes an introduction from the rations of both addresses. Whether both had one left.
    fn charge_addresses(&mut self, a: Key, b: Key) -> bool {
        let held = [a, b].map(|key| self.viewers.get(key).and_then(|v| v.address_ration));
        // Members of one household know each other's address already.
        if held[0].is_some() && held[0] == held[1] {
            return true;
        }
        let (rate, now) = (self.policy.address_introductions(), self.now);
        let has_lease = [a, b].map(|key| self.viewers.get(key).is_some_and(|v| v.leased > 0));
        let has_some =
            |(held, has_lease)| has_lease || self.address_rations.has_some(held, rate, now);
        if !held.into_iter().zip(has_lease).all(has_some) {
            return false;
        }
        for (key, held) in [a, b].into_iter().zip(held) {
            let Some(v) = self.viewers.get_mut(key) else {
                continue;
            };
            if v.leased == 0 {
                v.leased = self.address_rations.lease(held, rate, now);
            }
            v.leased = v.leased.saturating_sub(1);
        }
        true
    }

    /// Tells both of a pair of each other again: they have become, or are no longer, members of one group.
    pub(super) fn introduce_again(&mut self, a: Key, b: Key) {
        let (Some(v), Some(w)) = (self.viewers.get(a), self.viewers.get(b)) else {
            return;
        };
        let distance = v.network.distance(&w.network, self.policy.metro_km);
        for (me, them, offer) in [(v, w, true), (w, v, false)] {
            if let Some(conn) = me.conn {
                let introduction = introduction(me, them, distance, offer);
                self.pending.push(Action::Introduce { conn, introduction });
            }
        }
    }

    fn pair(&mut self, a: Key, b: Key, long: bool, up: bool) {
        let since_ms = self.age_ms();
        let local = u8::from(self.in_one_group(a, b));
        for (me, with) in [(a, b), (b, a)] {
            if let Some(v) = self.viewers.get_mut(me) {
                v.meetings.push(with, since_ms, up, long);
                v.local += local;
            }
        }
    }

    /// Ends a pair on both sides, without a word to either.
    fn part(&mut self, a: Key, b: Key) {
        let local = u8::from(self.in_one_group(a, b));
        for (me, with) in [(a, b), (b, a)] {
            if let Some(v) = self.viewers.get_mut(me)
                && v.meetings.remove(with)
            {
                v.local = v.local.saturating_sub(local);
            }
        }
    }

    /// Ends a pair and tells both.
    fn dissolve(&mut self, a: Key, b: Key) {
        self.part(a, b);
        for (me, other) in [(a, b), (b, a)] {
            if let (Some(v), Some(w)) = (self.viewers.get(me), self.viewers.get(other))
                && let Some(conn) = v.conn
            {
                let peer = w.peer;
                self.pending.push(Action::Gone { conn, peer });
            }
        }
    }

    /// Ends all pairs of a viewer and tells the others why.
    pub(super) fn part_from_all(&mut self, viewer: Key, why: impl Fn(ConnId, PeerId) -> Action) {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        let (peer, own) = (v.peer, v.group);
        v.local = 0;
        for with in core::mem::take(&mut v.meetings).keys() {
            let Some(other) = self.viewers.get_mut(with) else {
                continue;
            };
            if other.meetings.remove(viewer) && own.is_some() && other.group == own {
                other.local = other.local.saturating_sub(1);
            }
            if let Some(conn) = other.conn {
                self.pending.push(why(conn, peer));
            }
            if let Some(group) = other.group {
                let refill_at = self.now.plus_ms(u64::from(self.policy.refill_after_ms));
                self.schedule_group(group, refill_at);
            }
        }
    }

    /// What a viewer says of a link.
    pub(super) fn on_link(&mut self, viewer: Key, peer: PeerId, outcome: LinkOutcome, rtt_ms: u16) {
        let Some(other) = self.names.get(&peer).copied() else {
            return;
        };
        if outcome == LinkOutcome::Up {
            self.on_link_up(viewer, other, rtt_ms);
            return;
        }
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        v.forget_claim(peer);
        if !v.has_met(other) {
            return;
        }
        let apart_ms = match outcome {
            LinkOutcome::Failed => self.policy.failed_pair_ms,
            LinkOutcome::Misbehaved => self.policy.misbehaved_pair_ms,
            LinkOutcome::Lost | LinkOutcome::Up => self.policy.lost_pair_ms,
        };
        match outcome {
            LinkOutcome::Failed => self.stats.links_failed += 1,
            LinkOutcome::Misbehaved => self.stats.links_misbehaved += 1,
            LinkOutcome::Lost | LinkOutcome::Up => self.stats.links_lost += 1,
        }
        if outcome == LinkOutcome::Failed {
            self.on_reach(viewer, other, false);
        }
        let failed = outcome == LinkOutcome::Failed;
        let w = self.viewers.get(other);
        let linked = w.is_some_and(|w| w.meetings.has_called_up(viewer));
        self.break_pair(viewer, other, apart_ms, failed);
        // Who has no link cannot have sent anything over it.
        if outcome == LinkOutcome::Misbehaved && linked {
            self.on_accusation(viewer, other);
        }
    }

    /// What a pair's outcome says of both networks.
    fn on_reach(&mut self, a: Key, b: Key, linked: bool) {
        for (me, other) in [(a, b), (b, a)] {
            let nat = self.viewers.get(other).map(|v| v.nat);
            if let (Some(nat), Some(v)) = (nat, self.viewers.get_mut(me))
                && v.on_outcome(nat, linked)
            {
                self.renew_member(me);
            }
        }
    }

    /// Ends a pair, keeps the two apart for a while, and looks for others for both.
    fn break_pair(&mut self, a: Key, b: Key, apart_ms: u32, failed: bool) {
        self.part(a, b);
        let until = self.now.plus_ms(u64::from(apart_ms));
        for (me, other) in [(a, b), (b, a)] {
            let Some(peer) = self.viewers.get(other).map(|o| o.peer) else {
                continue;
            };
            if let Some(v) = self.viewers.get_mut(me) {
                v.keep_apart(peer, self.now, until, failed);
                if let Some(group) = v.group {
                    let refill_at = self.now.plus_ms(u64::from(self.policy.refill_after_ms));
                    self.schedule_group(group, refill_at);
                }
            }
        }
    }

    fn on_link_up(&mut self, viewer: Key, other: Key, rtt_ms: u16) {
        if self.viewers.get(viewer).is_some_and(|v| v.has_met(other)) {
            let mut news = false;
            for (me, with) in [(viewer, other), (other, viewer)] {
                let (v, own) = (self.viewers.get_mut(me), me == viewer);
                news |= v.and_then(|v| v.meetings.on_up(with, rtt_ms, own)) == Some(true);
            }
            self.stats.links_up += u64::from(news);
            self.on_reach(viewer, other, true);
            self.release_if_ready(viewer);
            self.release_if_ready(other);
            return;
        }
        self.on_claim(viewer, other);
    }

    /// A viewer says that it has a link of which the directory knows nothing (it is from before a
    /// restart). Believed when the other says so too.
    fn on_claim(&mut self, viewer: Key, other: Key) {
        let (Some(v), Some(w)) = (self.viewers.get(viewer), self.viewers.get(other)) else {
            return;
        };
        let (me, them) = (v.peer, w.peer);
        let room = v.meetings.len() < NEIGHBOURS_MAX && w.meetings.len() < NEIGHBOURS_MAX;
        if viewer == other || v.stream != w.stream || !room {
            return;
        }
        let confirmed = w.has_claimed(me);
        for (key, peer) in [(viewer, them), (other, me)] {
            if let Some(v) = self.viewers.get_mut(key) {
                v.forget_claim(peer);
            }
        }
        if confirmed {
            let long = self.viewers.get(viewer).map(|v| v.group)
                != self.viewers.get(other).map(|v| v.group);
            self.pair(viewer, other, long, true);
        } else if let Some(v) = self.viewers.get_mut(viewer) {
            v.claim(them);
        }
    }

    /// Gives up the links of a viewer's old swarm once enough new ones are up.
    fn release_if_ready(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        if v.release_at.is_none() {
            return;
        }
        let new = |m: &Meeting| {
            let with = self.viewers.get(m.with);
            m.up && with.is_some_and(|o| o.swarm() == v.swarm())
        };
        if v.meetings.iter().filter(new).count() >= LINKS_TO_RELEASE {
            self.release(viewer);
        }
    }

    /// Gives up the links of a viewer's old swarm.
    pub(super) fn release(&mut self, viewer: Key) {
        self.unschedule_release(viewer);
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let old: Vec<Key> = v
            .meetings
            .iter()
            .map(|m| m.with)
            .filter(|other| {
                let other = self.viewers.get(*other);
                other.is_some_and(|o| o.swarm() != v.swarm())
            })
            .collect();
        for other in old {
            self.dissolve(viewer, other);
        }
    }

    /// Gives up pairs with former members of the group, the oldest first, so that they do not
    /// crowd out new ones.
    pub(super) fn trim_leftovers(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let linked = v.meetings.count_up();
        let spare = linked.saturating_sub(usize::from(self.policy.links_target));
        // Before any of them is looked at: nearly nobody has some to spare, and each is far away in memory.
        if spare == 0 {
            return;
        }
        let leftover = |m: &Meeting| {
            let other = self.viewers.get(m.with);
            !m.long && other.is_some_and(|o| o.group != v.group && o.swarm() == v.swarm())
        };
        let leftovers: Vec<Key> = v.meetings.iter().filter(leftover).map(|m| m.with).collect();
        let excess = leftovers.len().saturating_sub(LEFTOVERS_MAX).min(spare);
        for other in leftovers.into_iter().take(excess) {
            self.dissolve(viewer, other);
        }
    }

    /// Breaks pairs of which nothing was heard since they were introduced.
    pub(super) fn expire_pending(&mut self, viewer: Key) {
        let (age, max) = (self.age_ms(), self.policy.pending_ms_max);
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let overdue = |m: &Meeting| m.is_overdue(age, max);
        let overdue: Vec<Key> = v.meetings.iter().filter(overdue).map(|m| m.with).collect();
        for other in overdue {
            self.stats.links_failed += 1;
            self.break_pair(viewer, other, self.policy.unheard_pair_ms, false);
        }
    }

    /// Hands over what was decided.
    pub(super) fn flush(&mut self, out: &mut Outbox) {
        out.append(&mut self.pending);
    }
}

/// Whether a viewer could use an introduction to a member of a group, as far as it can tell by itself.
fn is_for(viewer: Key, v: &Viewer, member: &Member) -> bool {
    viewer != member.key && v.traits().suits(member.traits()) && !v.has_met(member.key)
}

/// What `v` is told of `w`.
fn introduction(v: &Viewer, w: &Viewer, distance: Distance, offer: bool) -> Introduction {
    let flags = if v.group == w.group {
        w.flags
    } else {
        w.flags.with(ViewerFlags::ELSEWHERE)
    };
    Introduction {
        peer: w.peer,
        offer,
        flags,
        distance,
    }
}

//! The tracker's brain: who is introduced to whom.
//!
//! Viewers of one track of one stream form groups of about fifteen, the nearest together, linked
//! with each other where their networks allow, plus a few random links to other groups. A group
//! grows to `group_max` and splits; one that has become thin looks for room elsewhere; where enough
//! viewers of a narrower place sit in groups of a wider one, they get their own. A viewer that
//! changes the track keeps its links until new ones carry. Viewers of quite different times of the
//! stream have no segments to share and form groups of their own.
//!
//! The cost of a join does not grow with the audience: groups, households and places are indexed,
//! and a decision looks at a bounded number of groups.
//!
//! The driver ([`Directory::handle`]) passes signalling on by itself, but only where
//! [`Directory::may_signal`] says that the two were introduced.

mod grouping;
mod household;
mod io;
mod long_links;
mod meetings;
mod moving;
mod pairing;
mod place;
mod policy;
mod ration;
mod slab;
mod spent;
mod swarm;
#[cfg(test)]
mod tests;
mod trust;
mod upkeep;
mod view;
mod viewer;

pub use io::{Action, ConnId, Input, Joined, Outbox, Timer, Wakeup};
pub use place::{Location, Network, P2pMode, Place};
pub use policy::Policy;
pub use spent::Spent;
pub use view::{PairView, Seat, StreamView, ViewerView};
pub use viewer::Totals;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};

use pairing::Candidate;
use ration::AddressRations;
use slab::{Key, Slab};
use swarm::{Group, Swarm, SwarmId};
use view::StreamEntry;
use viewer::Viewer;

use crate::{
    id::{PeerId, StreamId, TrackId},
    rng::Rng,
    time::Instant,
    wire::tracker::{Nat, RefusalCode, Status},
};

/// What a directory has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Viewers that joined.
    pub joins: u64,
    /// Viewers that came back under their name while their place was kept.
    pub resumes: u64,
    /// Viewers that were refused.
    pub refusals: u64,
    /// Pairs introduced.
    pub introductions: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Introductions that led to nothing.
    pub links_failed: u64,
    /// Links that broke.
    pub links_lost: u64,
    /// Links that one side ended because the other misbehaved.
    pub links_misbehaved: u64,
    /// Viewers whom enough others accused: everybody was told to give up the link with them.
    pub shunned: u64,
    /// Viewers that accused others without reason.
    pub false_accusers: u64,
    /// Sums over all that viewers ever reported.
    pub reported: Totals,
    /// Groups cut in two.
    pub splits: u64,
    /// Thin groups whose members were sent elsewhere.
    pub merges: u64,
    /// Groups made of viewers of one place.
    pub condensed: u64,
}

/// The matchmaking machine of one tracker (or one shard of it).
#[derive(Debug)]
pub struct Directory {
    policy: Arc<Policy>,
    rng: Rng,
    began: Instant,
    now: Instant,
    viewers: Slab<Viewer>,
    groups: Slab<Group>,
    swarms: BTreeMap<SwarmId, Swarm>,
    streams: BTreeMap<StreamId, StreamEntry>,
    conns: BTreeMap<ConnId, Key>,
    names: BTreeMap<PeerId, Key>,
    timers: BTreeSet<(Instant, Timer, Key)>,
    address_rations: AddressRations,
    /// Accusations that whoever holds an address may still make.
    accusations: AddressRations,
    /// Decided during the current call.
    pending: Vec<Action>,
    /// Used again for every viewer that is filled.
    plan: Vec<Candidate>,
    stats: Stats,
}

impl Directory {
    /// A directory without viewers. `seed` decides the random links.
    pub fn new(policy: Arc<Policy>, seed: u64, now: Instant) -> Self {
        let address_rations = AddressRations::growing(policy.introductions());
        Self {
            policy,
            rng: Rng::new(seed),
            began: now,
            now,
            viewers: Slab::new(),
            groups: Slab::new(),
            swarms: BTreeMap::new(),
            streams: BTreeMap::new(),
            conns: BTreeMap::new(),
            names: BTreeMap::new(),
            timers: BTreeSet::new(),
            address_rations,
            accusations: AddressRations::new(),
            pending: Vec::new(),
            plan: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Takes one input; what is to be done is appended to `out`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outbox) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.handle_tick(),
            Input::Joined(joined) => self.handle_joined(joined, &[]),
            Input::Moved { joined, apart } => self.handle_joined(joined, apart),
            Input::Spent(spent) => {
                let rate = self.policy.address_introductions();
                for spent in spent {
                    self.address_rations.on_spent(*spent, rate, self.now);
                }
            }
            Input::Status { conn, status } => {
                if let Some(viewer) = self.hear(conn) {
                    self.on_status(viewer, status);
                }
            }
            Input::Link {
                conn,
                peer,
                outcome,
                rtt_ms,
            } => {
                if let Some(viewer) = self.hear(conn) {
                    self.on_link(viewer, peer, outcome, rtt_ms);
                }
            }
            Input::Left(conn) => {
                if let Some(viewer) = self.conns.get(&conn).copied() {
                    self.remove_viewer(viewer);
                }
            }
            Input::Lost(conn) => self.handle_lost(conn),
            Input::Forget(peer) => self.handle_forget(peer),
        }
        self.flush(out);
    }

    /// When to call [`Directory::handle`] with [`Input::Tick`] at the latest: always later than the last
    /// input. A driver that asks again after another input keeps to the earlier one of the answers, or
    /// nothing would ever be due where inputs come fast.
    pub fn next_wakeup(&self) -> Option<Wakeup> {
        let (at, why, _) = *self.timers.first()?;
        let at = at.max(self.now.plus_ms(1));
        Some(Wakeup { at, why })
    }

    /// The connection to pass signalling from `from` to `to` on to; `None` unless the two were
    /// introduced and `to` is connected.
    pub fn may_signal(&self, from: ConnId, to: PeerId) -> Option<ConnId> {
        let sender = self.viewers.get(*self.conns.get(&from)?)?;
        let receiver = *self.names.get(&to)?;
        if !sender.has_met(receiver) {
            return None;
        }
        self.viewers.get(receiver)?.conn
    }

    /// Addresses that have used much of what they may learn, for [`Input::Spent`] of the other
    /// directories of one tracker: what they have used here since then, or without a time all that is
    /// known; and from when to ask the next time.
    pub fn spent_since(&self, since: Option<Instant>) -> (Vec<Spent>, Instant) {
        let (rate, now) = (self.policy.address_introductions(), self.now);
        (self.address_rations.spent_since(since, rate, now), now)
    }

    /// What it has done.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    fn handle_joined(&mut self, joined: &Joined, apart: &[PeerId]) {
        let conn = joined.conn;
        if let Some(viewer) = self.conns.get(&conn).copied() {
            self.remove_viewer(viewer);
            self.refuse(conn, RefusalCode::BadMessage);
            return;
        }
        if joined.network.mode == P2pMode::Off {
            self.refuse(conn, RefusalCode::NotServed);
            return;
        }
        if let Some(viewer) = self.names.get(&joined.peer).copied() {
            if !joined.resumed {
                self.refuse(conn, RefusalCode::Unavailable);
                return;
            }
            if self.resume(viewer, joined) {
                return;
            }
        }
        if self.viewers.len() >= self.policy.viewers_max as usize {
            self.refuse(conn, RefusalCode::Unavailable);
            return;
        }
        let rate = self.policy.address_introductions();
        let address = joined.network.address;
        let ration = self.address_rations.hold(address, rate, self.now);
        let mut viewer = Viewer::new(joined, &self.policy, self.now, ration);
        let until = self.now.plus_ms(u64::from(self.policy.failed_pair_ms));
        for peer in apart {
            viewer.keep_apart(*peer, self.now, until, true);
        }
        let viewer = self.viewers.insert(viewer);
        self.join_household(viewer);
        self.conns.insert(conn, viewer);
        self.names.insert(joined.peer, viewer);
        self.streams
            .entry(joined.stream)
            .or_default()
            .viewers
            .insert(viewer);
        self.schedule_viewer(viewer);
        self.stats.joins += 1;
        self.welcome(conn, joined.peer);
        self.settle(viewer);
        self.begin_if_crowded(joined.stream);
    }

    /// Gives a known name its new connection. Whether the viewer could keep its place: it cannot
    /// where it is for another stream, or its network has changed.
    fn resume(&mut self, viewer: Key, joined: &Joined) -> bool {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return false;
        };
        if let Some(old) = v.conn.take() {
            self.conns.remove(&old);
            self.pending.push(Action::Close { conn: old });
        }
        if v.stream != joined.stream || v.network != joined.network || v.nat != joined.nat {
            self.forget_failures(viewer);
            self.remove_viewer(viewer);
            return false;
        }
        v.on_resumed(joined);
        self.renew_member(viewer);
        self.conns.insert(joined.conn, viewer);
        self.expect(viewer, self.policy.silence_ms_max);
        self.stats.resumes += 1;
        self.welcome(joined.conn, joined.peer);
        self.change_upload(viewer, joined.upload_kbps);
        self.change_swarm(viewer, joined.track, None);
        self.fill_viewer(viewer);
        true
    }

    /// The viewer's network has changed: those that could not link with it may be able to.
    fn forget_failures(&mut self, viewer: Key) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let (peer, failed) = (v.peer, v.failed_with().collect::<Vec<_>>());
        for other in failed {
            let other = self.names.get(&other).copied();
            if let Some(other) = other.and_then(|other| self.viewers.get_mut(other)) {
                other.forget_failure(peer);
            }
        }
    }

    fn welcome(&mut self, conn: ConnId, peer: PeerId) {
        self.pending.push(Action::Welcome { conn, peer });
    }

    fn refuse(&mut self, conn: ConnId, code: RefusalCode) {
        self.stats.refusals += 1;
        self.pending.push(Action::Refuse { conn, code });
    }

    /// Finds a group and links for a viewer, if it can have any: without UDP, within its site alone.
    fn settle(&mut self, viewer: Key) {
        if self
            .viewers
            .get(viewer)
            .is_some_and(|v| v.nat != Nat::Blocked || v.network.site.is_some())
        {
            self.place_viewer(viewer);
            self.fill_viewer(viewer);
        }
    }

    fn on_status(&mut self, viewer: Key, status: &Status) {
        let now = self.now;
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        v.on_status(status, now);
        let doubt = core::mem::take(&mut v.links_in_doubt);
        let stream = v.stream;
        self.stats.reported.add_status(status);
        self.streams
            .entry(stream)
            .or_default()
            .totals
            .add_status(status);
        self.change_upload(viewer, status.upload_kbps);
        self.change_nat(viewer, status.nat);
        self.change_swarm(viewer, status.track, Some(status.lag_ms));
        if doubt && status.links == 0 {
            self.part_from_all(viewer, |conn, peer| Action::Gone { conn, peer });
            self.fill_viewer(viewer);
        }
        self.expire_pending(viewer);
        if status.links_wanted > 0 {
            self.fill_viewer(viewer);
        }
    }

    /// A viewer has found out how its network maps ports, or it is in another one.
    fn change_nat(&mut self, viewer: Key, nat: Nat) {
        let Some(v) = self.viewers.get_mut(viewer) else {
            return;
        };
        if nat == Nat::Unknown || core::mem::replace(&mut v.nat, nat) == nat {
            return;
        }
        self.renew_member(viewer);
        if self.viewers.get(viewer).is_some_and(|v| v.group.is_none()) {
            self.settle(viewer);
        }
    }

    /// Regroups a viewer that plays another track, or another time of the stream; its old links
    /// stay for a while. One that changes them all the time has to wait: what it reports next, some
    /// seconds later, says where it is then.
    fn change_swarm(&mut self, viewer: Key, track: TrackId, lag_ms: Option<u32>) {
        let Some(v) = self.viewers.get(viewer) else {
            return;
        };
        let lag_band = lag_ms.map_or(v.lag_band, |lag| self.policy.lag_band(lag, v.lag_band));
        if (v.track, v.lag_band) == (track, lag_band) {
            return;
        }
        // Who comes back is counted already.
        let by_report = lag_ms.is_some();
        let v = self.viewers.get_mut(viewer);
        if by_report && !v.is_some_and(Viewer::take_switch) {
            return;
        }
        self.leave_group(viewer);
        if let Some(v) = self.viewers.get_mut(viewer) {
            (v.track, v.lag_band) = (track, lag_band);
        }
        self.schedule_release(viewer);
        self.settle(viewer);
    }

    fn handle_lost(&mut self, conn: ConnId) {
        let Some(viewer) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(v) = self.viewers.get_mut(viewer) {
            v.conn = None;
        }
        self.expect(viewer, self.policy.linger_ms);
    }

    fn handle_forget(&mut self, peer: PeerId) {
        let viewer = self.names.get(&peer).copied();
        let is_away = |viewer: &Key| self.viewers.get(*viewer).is_some_and(|v| v.conn.is_none());
        if let Some(viewer) = viewer.filter(is_away) {
            self.remove_viewer(viewer);
        }
    }

    /// Removes a viewer and tells those it was introduced to.
    fn remove_viewer(&mut self, viewer: Key) {
        self.part_from_all(viewer, |conn, peer| Action::Gone { conn, peer });
        self.leave_group(viewer);
        self.leave_household(viewer);
        self.unschedule_release(viewer);
        let Some(v) = self.viewers.remove(viewer) else {
            return;
        };
        let rate = self.policy.address_introductions();
        self.address_rations
            .release(v.address_ration, v.leased, rate);
        self.timers.remove(&(v.timer_at, Timer::Viewer, viewer));
        self.names.remove(&v.peer);
        if let Some(conn) = v.conn {
            self.conns.remove(&conn);
        }
        if let Some(entry) = self.streams.get_mut(&v.stream) {
            entry.viewers.remove(&viewer);
            if entry.viewers.is_empty() {
                self.streams.remove(&v.stream);
            }
        }
    }

    fn age_ms(&self) -> u32 {
        self.now.ms_since(self.began).min(u64::from(u32::MAX)) as u32
    }
}

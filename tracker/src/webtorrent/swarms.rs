//! Swarms of WebTorrent viewers: who is in them, who is offered to whom, and what is expected.
//!
//! Sockets, clocks and JSON stay outside: links are what the caller makes of them, time is seconds
//! of the caller's, and every decision is repeatable for a seed.
//!
//! Each offer of a viewer goes to one other viewer of its swarm, the nearest first by the places
//! that the directory knows ([`Network::ladder`]), with one in ten drawn from everywhere: purely
//! local meshes starve. Pairs that have met are not brought together again, viewers that have
//! enough partners or unanswered offers are left alone, and the more recently somebody was heard
//! of, the sooner it is chosen: clients leave without a word.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use swarm_core::{directory::Place, rng::Rng, wire::tracker::Distance};

pub(super) use super::swarm::{Guest, Refusal};
use super::{
    addresses::Addresses,
    config::WebTorrentConfig,
    messages::{Id20, InfoHash, Reply},
    swarm::{Met, OFFER_S_MAX, Pending, Swarm, Viewer},
};

/// Viewers of one place that are looked at for one offer's receiver.
const SCAN_MAX: usize = 16;
/// For how long a viewer that was kicked is refused, in seconds, and how many are remembered.
const KICKED_S: u32 = 600;
const KICKED_MAX: usize = 1_000;
/// Of as many offers one goes to somebody from anywhere.
const LONG_OFFERS_EVERY: u64 = 10;

/// An entry of a swarm; valid for the connection that it was given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) info_hash: InfoHash,
    pub(super) peer_id: Id20,
}

/// An announcement, apart from who says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saying<'a> {
    pub(super) member: Membership,
    /// The viewer has everything.
    pub(super) complete: bool,
    /// It has just become so.
    pub(super) completed: bool,
    /// What its offers are called.
    pub(super) offers: &'a [u64],
}

/// What comes of an announcement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) reply: Reply,
    /// A new entry was made.
    pub(super) joined: bool,
}

#[derive(Debug)]
pub(super) struct Swarms<L> {
    config: WebTorrentConfig,
    introductions: (u16, u32),
    addresses: Arc<Mutex<Addresses>>,
    metro_km: u32,
    viewers_min: u32,
    rng: Rng,
    swarms: HashMap<InfoHash, Swarm<L>>,
    /// Until when.
    kicked: HashMap<(InfoHash, Id20), u32>,
}

impl<L: Clone> Swarms<L> {
    /// `introductions` are in a burst and in an hour, of one viewer; in swarms of fewer than
    /// `viewers_min` nobody is offered to anybody.
    pub(super) fn new(
        config: WebTorrentConfig,
        introductions: (u16, u32),
        addresses: Arc<Mutex<Addresses>>,
        metro_km: u32,
        viewers_min: u32,
        seed: u64,
    ) -> Self {
        Self {
            config,
            introductions,
            addresses,
            metro_km,
            viewers_min,
            rng: Rng::new(seed),
            swarms: HashMap::new(),
            kicked: HashMap::new(),
        }
    }

    /// Takes an announcement. `receivers` gets, in order, the numbers of the offers that are passed
    /// on, and to whom. `load_percent` stretches the interval.
    pub(super) fn announce(
        &mut self,
        now_s: u32,
        guest: &Guest<L>,
        saying: &Saying<'_>,
        load_percent: u32,
        receivers: &mut Vec<(usize, L)>,
    ) -> Result<Announced, Refusal<L>> {
        let member = saying.member;
        let kicked = self.kicked.get(&(member.info_hash, member.peer_id));
        if kicked.is_some_and(|until_s| *until_s > now_s) {
            return Err(Refusal::Kicked);
        }
        let swarm = self
            .swarms
            .entry(member.info_hash)
            .or_insert_with(Swarm::new);
        let burst = self.introductions.0;
        let (key, joined) = swarm.enter(now_s, guest, member.peer_id, &self.config, burst)?;
        swarm.set_complete(key, saying.complete);
        swarm.downloaded += u32::from(saying.completed);
        let addresses = self.addresses.lock();
        let mut addresses = addresses.unwrap_or_else(PoisonError::into_inner);
        let mut matching = Matching {
            config: &self.config,
            introductions: self.introductions,
            addresses: &mut addresses,
            metro_km: self.metro_km,
            rng: &mut self.rng,
            now_s,
        };
        matching.refresh(swarm, key);
        let offers_max = match swarm.by_id.len() >= self.viewers_min as usize {
            true => usize::from(self.config.offers_max),
            false => 0,
        };
        let mut exhausted = false;
        for (number, offer) in saying.offers.iter().enumerate().take(offers_max) {
            let Some(receiver) = matching.pick(swarm, key) else {
                exhausted = true;
                break;
            };
            matching.meet(swarm, key, receiver, *offer);
            if let Some(viewer) = swarm.get(receiver) {
                receivers.push((number, viewer.guest.link.clone()));
            }
        }
        let interval_s = self.interval_s(member.info_hash, key, exhausted, load_percent);
        let swarm = self.swarms.get_mut(&member.info_hash);
        let reply = swarm.map_or_else(Reply::default, |swarm| {
            swarm.on_replied(key, now_s, interval_s)
        });
        Ok(Announced { reply, joined })
    }

    /// Short for those who need partners that are there, long for those who have enough, or whom
    /// only others can help.
    fn interval_s(&self, hash: InfoHash, key: u32, exhausted: bool, load_percent: u32) -> u32 {
        let (min, max) = (self.config.interval_s_min, self.config.interval_s_max);
        let partners = self.swarms.get(&hash).and_then(|swarm| swarm.get(key));
        let partners = partners.map_or(0, |viewer| u32::from(viewer.partners));
        let enough = u32::from(self.config.partners_max).max(1);
        let mut share = 100 * partners.min(enough) / enough;
        if exhausted {
            share = share.max(50);
        }
        let interval = min + (max - min) * share / 100;
        let stretched = u64::from(interval) * u64::from(load_percent.max(100)) / 100;
        (stretched as u32).min(max * 4)
    }

    /// Takes an answer: whom to pass it on to.
    pub(super) fn answer(
        &mut self,
        now_s: u32,
        conn: u64,
        member: Membership,
        to: Id20,
        offer: u64,
    ) -> Result<L, Refusal<L>> {
        let swarm = self
            .swarms
            .get_mut(&member.info_hash)
            .ok_or(Refusal::NotAnnounced)?;
        let key = swarm
            .own(conn, member.peer_id)
            .ok_or(Refusal::NotAnnounced)?;
        let offerer = *swarm.by_id.get(&to).ok_or(Refusal::NoSuchOffer)?;
        let viewer = swarm.get_mut(key).ok_or(Refusal::NotAnnounced)?;
        let is_it = |p: &Pending| {
            p.from == offerer && p.offer == offer && now_s.saturating_sub(p.at_s) <= OFFER_S_MAX
        };
        let index = viewer
            .pending
            .iter()
            .position(is_it)
            .ok_or(Refusal::NoSuchOffer)?;
        viewer.pending.swap_remove(index);
        if viewer.pending.is_empty() {
            viewer.pending = Vec::new();
        }
        swarm.on_answered(key, offerer);
        let offerer = swarm.get(offerer).ok_or(Refusal::NoSuchOffer)?;
        let addresses = self.addresses.lock();
        addresses
            .unwrap_or_else(PoisonError::into_inner)
            .on_answered(offerer.guest.network.address, now_s);
        Ok(offerer.guest.link.clone())
    }

    /// Enters a viewer that is known elsewhere, without an announcement.
    pub(super) fn enter(
        &mut self,
        now_s: u32,
        guest: &Guest<L>,
        member: Membership,
        complete: bool,
    ) -> Result<(), Refusal<L>> {
        let swarm = self
            .swarms
            .entry(member.info_hash)
            .or_insert_with(Swarm::new);
        let burst = self.introductions.0;
        let (key, _) = swarm.enter(now_s, guest, member.peer_id, &self.config, burst)?;
        swarm.set_complete(key, complete);
        swarm.on_replied(key, now_s, self.config.interval_s_max);
        Ok(())
    }

    /// Gives up the swarms that have another owner: their viewers, each with its swarm and that
    /// owner.
    pub(super) fn give<O: Copy>(
        &mut self,
        owner_of: impl Fn(InfoHash) -> Option<O>,
    ) -> Vec<(InfoHash, O, Viewer<L>)> {
        let mut given = Vec::new();
        self.swarms.retain(|hash, swarm| {
            let Some(owner) = owner_of(*hash) else {
                return true;
            };
            let viewers = swarm.viewers.drain(..).flatten();
            given.extend(viewers.map(|viewer| (*hash, owner, viewer)));
            false
        });
        given
    }

    /// Removes the viewers with such links.
    pub(super) fn remove_where(&mut self, is_gone: impl Fn(&L) -> bool) {
        self.swarms.retain(|_, swarm| {
            swarm.remove_where(&is_gone);
            !swarm.by_id.is_empty()
        });
    }

    /// Removes an entry of a connection's, if it still is.
    pub(super) fn leave(&mut self, conn: u64, member: Membership) {
        let Some(swarm) = self.swarms.get_mut(&member.info_hash) else {
            return;
        };
        if let Some(key) = swarm.own(conn, member.peer_id) {
            swarm.remove(key);
        }
        if swarm.by_id.is_empty() {
            self.swarms.remove(&member.info_hash);
        }
    }

    /// Removes a viewer, and refuses it from now on. Its link.
    pub(super) fn kick(&mut self, now_s: u32, info_hash: InfoHash, id: Id20) -> Option<L> {
        let swarm = self.swarms.get_mut(&info_hash)?;
        let key = *swarm.by_id.get(&id)?;
        let link = swarm.get(key)?.guest.link.clone();
        swarm.remove(key);
        if swarm.by_id.is_empty() {
            self.swarms.remove(&info_hash);
        }
        self.bar(now_s, (info_hash, id), KICKED_S);
        Some(link)
    }

    /// Refuses a viewer for as long, or for as long as it is refused already.
    pub(super) fn bar(&mut self, now_s: u32, member: (InfoHash, Id20), left_s: u32) {
        let until_s = now_s + left_s.min(KICKED_S);
        if let Some(known_s) = self.kicked.get_mut(&member) {
            *known_s = until_s.max(*known_s);
        } else if self.kicked.len() < KICKED_MAX {
            self.kicked.insert(member, until_s);
        }
    }

    /// Viewers that are refused, and for how many seconds yet, in no order.
    pub(super) fn barred(&self, now_s: u32) -> Vec<((InfoHash, Id20), u32)> {
        let left = |until_s: u32| until_s.checked_sub(now_s).filter(|left_s| *left_s > 0);
        let all = self.kicked.iter();
        all.filter_map(|(member, until_s)| Some((*member, left(*until_s)?)))
            .collect()
    }

    /// Ends the refusal of a viewer that was kicked. Whether there was one.
    pub(super) fn lift(&mut self, now_s: u32, info_hash: InfoHash, id: Id20) -> bool {
        let until_s = self.kicked.remove(&(info_hash, id));
        until_s.is_some_and(|until_s| until_s > now_s)
    }

    pub(super) fn get(&self, info_hash: InfoHash) -> Option<&Swarm<L>> {
        self.swarms.get(&info_hash)
    }

    /// All swarms, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (InfoHash, &Swarm<L>)> {
        self.swarms.iter().map(|(hash, swarm)| (*hash, swarm))
    }

    /// Viewers that have everything, those that have not, and how often somebody got everything.
    pub(super) fn scrape(&self, info_hash: InfoHash) -> (u32, u32, u32) {
        self.swarms.get(&info_hash).map_or((0, 0, 0), |swarm| {
            let all = swarm.by_id.len() as u32;
            (swarm.complete, all - swarm.complete, swarm.downloaded)
        })
    }

    /// Removes those that have gone without a word, and what nobody waits for any more. How many
    /// viewers were removed.
    pub(super) fn sweep(&mut self, now_s: u32) -> usize {
        let mut removed = 0;
        self.kicked.retain(|_, until_s| *until_s > now_s);
        self.swarms.retain(|_, swarm| {
            removed += swarm.sweep(now_s);
            !swarm.by_id.is_empty()
        });
        removed
    }

    /// Swarms, and viewers in them.
    pub(super) fn count(&self) -> (usize, usize) {
        let viewers = self.swarms.values().map(|swarm| swarm.by_id.len());
        (self.swarms.len(), viewers.sum())
    }

    /// Everybody's link, in no order.
    pub(super) fn links(&self) -> impl Iterator<Item = &L> {
        let viewers = self
            .swarms
            .values()
            .flat_map(|swarm| swarm.viewers.iter().flatten());
        viewers.map(|viewer| &viewer.guest.link)
    }
}

/// Choosing a receiver.
struct Matching<'a> {
    config: &'a WebTorrentConfig,
    /// In a burst, and in an hour.
    introductions: (u16, u32),
    addresses: &'a mut Addresses,
    metro_km: u32,
    rng: &'a mut Rng,
    now_s: u32,
}

impl Matching<'_> {
    /// Forgets meetings that no longer count, and earns the viewer's allowance.
    fn refresh<L: Clone>(&self, swarm: &mut Swarm<L>, key: u32) {
        let (now_s, met_s) = (self.now_s, self.config.met_s);
        let stale: Vec<u32> = swarm.get(key).map_or_else(Vec::new, |viewer| {
            let is_stale = |met: &&Met| {
                let age_s = now_s.saturating_sub(met.at_s());
                match met.answered() {
                    true => age_s >= met_s,
                    false => age_s > OFFER_S_MAX,
                }
            };
            viewer
                .met
                .iter()
                .filter(is_stale)
                .map(|met| met.with)
                .collect()
        });
        for other in stale {
            swarm.part(key, other);
        }
        if let Some(viewer) = swarm.get_mut(key) {
            let earned = self.earned(viewer);
            viewer.allowance = (viewer.allowance + earned).min(f32::from(self.introductions.0));
        }
    }

    /// What a viewer has earned since it was heard last.
    fn earned<L>(&self, viewer: &Viewer<L>) -> f32 {
        let hourly = self.introductions.1 as f32 / 3600.0;
        self.now_s.saturating_sub(viewer.heard_s) as f32 * hourly
    }

    /// Somebody for one more offer of `key`'s.
    fn pick<L: Clone>(&mut self, swarm: &Swarm<L>, key: u32) -> Option<u32> {
        let viewer = swarm.get(key)?;
        let address = viewer.guest.network.address;
        if viewer.allowance < 1.0
            || viewer.partners >= self.config.partners_max
            || !self.addresses.has_some(address, self.now_s)
            || !self.addresses.may_offer(address, self.now_s)
        {
            return None;
        }
        if self.rng.at_most(LONG_OFFERS_EVERY - 1) == 0
            && let Some(anybody) = self.pick_at(swarm, key, viewer, Place::World, true)
        {
            return Some(anybody);
        }
        let mut ladder = viewer.guest.network.ladder();
        ladder.find_map(|place| self.pick_at(swarm, key, viewer, place, false))
    }

    /// The best of a few viewers of a place, from a random one on.
    fn pick_at<L: Clone>(
        &mut self,
        swarm: &Swarm<L>,
        key: u32,
        viewer: &Viewer<L>,
        place: Place,
        anybody: bool,
    ) -> Option<u32> {
        let here = swarm.places.get(&place)?;
        let start = self.rng.at_most(here.len() as u64 - 1) as usize;
        let count = here.len();
        let mut best = None;
        let mut looked_at = 0;
        // All of a small place, a few of a large one that can be chosen.
        for index in (start..count).chain(0..start).take(SCAN_MAX * 8) {
            let other = here[index];
            let Some(them) = swarm
                .get(other)
                .filter(|them| self.fits(key, viewer, other, them))
            else {
                continue;
            };
            let network = &viewer.guest.network;
            let distance = match anybody {
                true => 0,
                false => farness(network.distance(&them.guest.network, self.metro_km)),
            };
            let burden = them.pending.len() as u32 * 4 + u32::from(them.partners);
            let silent_s = self.now_s.saturating_sub(them.heard_s);
            let score = (distance, burden * 8 + silent_s / 8);
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, other));
            }
            looked_at += 1;
            if looked_at == SCAN_MAX {
                break;
            }
        }
        best.map(|(_, other)| other)
    }

    fn fits<L>(&self, key: u32, viewer: &Viewer<L>, other: u32, them: &Viewer<L>) -> bool {
        other != key
            && them.guest.conn != viewer.guest.conn
            && them.until_s >= self.now_s
            && viewer.guest.network.may_reach(&them.guest.network)
            && them.partners < self.config.partners_max
            && them.pending.len() < usize::from(self.config.pending_max)
            && them.allowance + self.earned(them) >= 1.0
            && (self.config.met_s == 0 || !viewer.met.iter().any(|met| met.with == other))
            && self
                .addresses
                .has_some(them.guest.network.address, self.now_s)
    }

    /// An offer of `from`'s goes to `to`: they learn of each other.
    fn meet<L: Clone>(&mut self, swarm: &mut Swarm<L>, from: u32, to: u32, offer: u64) {
        swarm.meet(from, to, offer, self.now_s);
        let address = |key| {
            swarm
                .get(key)
                .map_or(0, |viewer| viewer.guest.network.address)
        };
        self.addresses
            .on_met(address(from), address(to), self.now_s);
        self.addresses.on_offered(address(from), self.now_s);
    }
}

const fn farness(distance: Distance) -> u32 {
    match distance {
        Distance::Household => 0,
        Distance::Site => 1,
        Distance::Metro => 2,
        Distance::Isp => 3,
        Distance::Country => 4,
        Distance::Far => 5,
    }
}

#[cfg(test)]
mod tests;

//! One swarm: its viewers, where they are, and whom they have met.

use std::collections::{BTreeMap, HashMap};

use swarm_core::directory::{Network, Place};

use super::{
    config::WebTorrentConfig,
    messages::{Id20, Reply},
};

/// The sender of an offer forgets it after this time (bittorrent-tracker's client).
pub(super) const OFFER_S_MAX: u32 = 50;
/// Meetings that a viewer's entry remembers.
pub(super) const MET_MAX: usize = 32;
/// A viewer that does not announce again is gone after its interval, this often.
pub(super) const INTERVALS_MAX: u32 = 2;
/// Meetings that room is made for at once.
const MET_STEP: usize = 4;
/// Places in a ladder.
const LADDER_MAX: usize = 5;

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Guest<L> {
    pub(super) conn: u64,
    pub(super) link: L,
    pub(super) network: Network,
}

/// Why something is not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal<L> {
    /// The id belongs to another connection, of another household. That one may be gone.
    Taken(L),
    SwarmFull,
    /// The operator has sent it away.
    Kicked,
    /// Nothing was announced under this id on this connection.
    NotAnnounced,
    /// No such offer was passed on to this viewer, it is too old, or its sender is gone.
    NoSuchOffer,
}

#[derive(Debug)]
pub(super) struct Swarm<L> {
    pub(super) viewers: Vec<Option<Viewer<L>>>,
    pub(super) free: Vec<u32>,
    pub(super) by_id: HashMap<Id20, u32>,
    pub(super) places: BTreeMap<Place, Vec<u32>>,
    pub(super) complete: u32,
    pub(super) downloaded: u32,
}

#[derive(Debug)]
pub(super) struct Viewer<L> {
    pub(super) id: Id20,
    pub(super) guest: Guest<L>,
    pub(super) heard_s: u32,
    pub(super) until_s: u32,
    pub(super) complete: bool,
    /// How many of `met` have answered.
    pub(super) partners: u8,
    /// Its indexes in the lists of its places, narrowest first.
    pub(super) spots: [u32; LADDER_MAX],
    pub(super) met: Vec<Met>,
    pub(super) pending: Vec<Pending>,
    /// Viewers that it may still learn of.
    pub(super) allowance: f32,
}

/// Somebody to whom an offer went, or from whom one came. Both sides have one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    pub(super) with: u32,
    /// When, times two; one more if it was answered. There are many of these.
    packed: u32,
}

impl Met {
    const fn new(with: u32, at_s: u32) -> Self {
        Self {
            with,
            packed: at_s << 1,
        }
    }

    pub(super) const fn at_s(self) -> u32 {
        self.packed >> 1
    }

    pub(super) const fn answered(self) -> bool {
        self.packed & 1 == 1
    }

    const fn met_again(&mut self, at_s: u32) {
        self.packed = at_s << 1 | self.packed & 1;
    }

    const fn on_answered(&mut self) {
        self.packed |= 1;
    }
}

/// An offer that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) from: u32,
    pub(super) at_s: u32,
    pub(super) offer: u64,
}

impl<L: Clone> Swarm<L> {
    pub(super) fn new() -> Self {
        Self {
            viewers: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            places: BTreeMap::new(),
            complete: 0,
            downloaded: 0,
        }
    }

    pub(super) fn get(&self, key: u32) -> Option<&Viewer<L>> {
        self.viewers.get(key as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut Viewer<L>> {
        self.viewers.get_mut(key as usize)?.as_mut()
    }

    /// The entry of `id`, if it is this connection's.
    pub(super) fn own(&self, conn: u64, id: Id20) -> Option<u32> {
        let key = *self.by_id.get(&id)?;
        (self.get(key)?.guest.conn == conn).then_some(key)
    }

    /// The entry for an announcement, and whether it is new. An id moves to another connection of
    /// the same household (the page was loaded anew), not to anybody else's.
    pub(super) fn enter(
        &mut self,
        now_s: u32,
        guest: &Guest<L>,
        id: Id20,
        config: &WebTorrentConfig,
        burst: u16,
    ) -> Result<(u32, bool), Refusal<L>> {
        if let Some(key) = self.by_id.get(&id).copied()
            && let Some(viewer) = self.get_mut(key)
        {
            if viewer.guest.conn != guest.conn {
                let household = viewer.guest.network.address;
                if viewer.until_s >= now_s && household != guest.network.address {
                    return Err(Refusal::Taken(viewer.guest.link.clone()));
                }
                if viewer.guest.network != guest.network {
                    self.remove(key);
                    return Ok((self.insert(now_s, guest, id, burst), true));
                }
                viewer.guest = guest.clone();
                viewer.pending = Vec::new();
                return Ok((key, true));
            }
            return Ok((key, false));
        }
        if self.by_id.len() >= config.viewers_per_swarm_max as usize {
            return Err(Refusal::SwarmFull);
        }
        Ok((self.insert(now_s, guest, id, burst), true))
    }

    pub(super) fn insert(&mut self, now_s: u32, guest: &Guest<L>, id: Id20, burst: u16) -> u32 {
        let key = self.free.pop().unwrap_or_else(|| {
            let step = self.viewers.len() / 8 + 1;
            grow(&mut self.viewers, step);
            self.viewers.push(None);
            self.viewers.len() as u32 - 1
        });
        let mut spots = [0; LADDER_MAX];
        for (spot, place) in spots.iter_mut().zip(guest.network.ladder()) {
            let here = self.places.entry(place).or_default();
            *spot = here.len() as u32;
            here.push(key);
        }
        self.by_id.insert(id, key);
        self.viewers[key as usize] = Some(Viewer {
            id,
            guest: guest.clone(),
            heard_s: now_s,
            until_s: now_s,
            complete: false,
            partners: 0,
            spots,
            met: Vec::new(),
            pending: Vec::new(),
            allowance: f32::from(burst),
        });
        key
    }

    pub(super) fn remove(&mut self, key: u32) {
        let met: Vec<u32> = self.get(key).map_or_else(Vec::new, |viewer| {
            viewer.met.iter().map(|met| met.with).collect()
        });
        for other in met {
            self.part(key, other);
        }
        let Some(viewer) = self.viewers.get_mut(key as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(key);
        self.by_id.remove(&viewer.id);
        self.complete -= u32::from(viewer.complete);
        for (level, place) in viewer.guest.network.ladder().enumerate() {
            self.forget_spot(place, level, viewer.spots[level]);
        }
    }

    /// Takes one out of a place's list; the last one gets its index.
    pub(super) fn forget_spot(&mut self, place: Place, level: usize, spot: u32) {
        let Some(here) = self.places.get_mut(&place) else {
            return;
        };
        here.swap_remove(spot as usize);
        let moved = here.get(spot as usize).copied();
        if here.is_empty() {
            self.places.remove(&place);
        }
        let Some(moved) = moved.and_then(|key| self.get_mut(key)) else {
            return;
        };
        // Ladders differ in length: the same place may be another rung of the moved one's.
        let rung = moved
            .guest
            .network
            .ladder()
            .position(|other| other == place);
        moved.spots[rung.unwrap_or(level)] = spot;
    }

    pub(super) fn set_complete(&mut self, key: u32, complete: bool) {
        let Some(viewer) = self.get_mut(key) else {
            return;
        };
        // Once somebody has everything, later announcements need not say so.
        if complete && !viewer.complete {
            viewer.complete = true;
            self.complete += 1;
        }
    }

    /// An offer of `from`'s goes to `to`.
    pub(super) fn meet(&mut self, from: u32, to: u32, offer: u64, at_s: u32) {
        for (key, with) in [(from, to), (to, from)] {
            let Some(viewer) = self.get_mut(key) else {
                continue;
            };
            viewer.allowance -= 1.0;
            let known = viewer.met.iter().position(|met| met.with == with);
            let full = viewer.met.len() >= MET_MAX;
            let oldest = viewer
                .met
                .iter()
                .min_by_key(|met| (met.answered(), met.at_s()));
            let oldest = oldest
                .map(|met| met.with)
                .filter(|_| full && known.is_none());
            if let Some(other) = oldest {
                self.part(key, other);
            }
            if let Some(viewer) = self.get_mut(key) {
                match known {
                    Some(index) => viewer.met[index].met_again(at_s),
                    None => {
                        grow(&mut viewer.met, MET_STEP);
                        viewer.met.push(Met::new(with, at_s));
                    }
                }
            }
        }
        if let Some(viewer) = self.get_mut(to) {
            viewer
                .pending
                .retain(|p| at_s.saturating_sub(p.at_s) <= OFFER_S_MAX);
            viewer.pending.push(Pending { from, at_s, offer });
        }
    }

    pub(super) fn on_answered(&mut self, a: u32, b: u32) {
        for (key, with) in [(a, b), (b, a)] {
            let Some(viewer) = self.get_mut(key) else {
                continue;
            };
            let Some(met) = viewer.met.iter_mut().find(|met| met.with == with) else {
                continue;
            };
            if !met.answered() {
                met.on_answered();
                viewer.partners += 1;
            }
        }
    }

    /// Forgets that two have met.
    pub(super) fn part(&mut self, a: u32, b: u32) {
        for (key, with) in [(a, b), (b, a)] {
            let Some(viewer) = self.get_mut(key) else {
                continue;
            };
            viewer.pending.retain(|pending| pending.from != with);
            if let Some(index) = viewer.met.iter().position(|met| met.with == with) {
                let met = viewer.met.swap_remove(index);
                viewer.partners -= u8::from(met.answered());
            }
        }
    }

    /// Notes what a viewer is told.
    pub(super) fn on_replied(&mut self, key: u32, now_s: u32, interval_s: u32) -> Reply {
        let (complete, all) = (self.complete, self.by_id.len() as u32);
        if let Some(viewer) = self.get_mut(key) {
            viewer.heard_s = now_s;
            viewer.until_s = now_s + interval_s * INTERVALS_MAX;
        }
        Reply {
            interval_s,
            complete,
            incomplete: all - complete,
        }
    }

    pub(super) fn remove_where(&mut self, is_gone: impl Fn(&L) -> bool) {
        self.remove_viewers(|viewer| is_gone(&viewer.guest.link));
    }

    fn remove_viewers(&mut self, is_gone: impl Fn(&Viewer<L>) -> bool) -> usize {
        let gone: Vec<u32> = (0..self.viewers.len() as u32)
            .filter(|key| self.get(*key).is_some_and(&is_gone))
            .collect();
        for key in &gone {
            self.remove(*key);
        }
        gone.len()
    }

    pub(super) fn sweep(&mut self, now_s: u32) -> usize {
        let gone = self.remove_viewers(|viewer| viewer.until_s < now_s);
        for viewer in self.viewers.iter_mut().flatten() {
            viewer
                .pending
                .retain(|p| now_s.saturating_sub(p.at_s) <= OFFER_S_MAX);
            if viewer.pending.is_empty() {
                viewer.pending = Vec::new();
            }
        }
        gone
    }
}

/// Makes room for `step` more where there is none: doubling would leave much of it empty.
fn grow<T>(list: &mut Vec<T>, step: usize) {
    if list.len() == list.capacity() {
        list.reserve_exact(step);
    }
}

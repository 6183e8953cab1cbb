//! What neighbours promise to bring, and what follows from it for this viewer.

use alloc::vec::Vec;

use super::{Peer, duty::Claim, io::Outbox, plan::Ask, segment::Segment};
use crate::{
    id::{Name, Slot},
    limits::STRIPES_MAX,
    time::Instant,
    wire::peer::{Division, PeerMsg},
};

/// Promises about segments that this viewer has not heard of: of one neighbour, and of all.
const EARLY_MAX: (usize, usize) = (4, 48);
/// A promise is believed for so long on top of what the CDN should take.
const CLAIM_GRACE_MS: u64 = 1000;
/// ... but at least as large a part of the time there is: another group may be slower than the CDN.
const CLAIM_WINDOW_PERCENT: u64 = 35;

/// A promise of a neighbour to bring stripes of a segment, as it was made.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) slot: Slot,
    pub(super) name: Name,
    stripes: u8,
    stripe_count: u8,
    /// The pieces, if their number was known.
    bits: u64,
    /// Those of them that this viewer is to pass on to everybody.
    mine: u64,
    /// Those of them that nobody who is linked with this viewer will push to it.
    orphans: u64,
    /// Who of those who are linked with this viewer pushes which of them.
    pushers: Vec<(u8, Slot)>,
    made: Instant,
}

impl Segment {
    /// Pieces that neighbours have promised and are still believed to bring.
    pub(super) fn claimed(&self, now: Instant) -> u64 {
        let live = self
            .work()
            .claims
            .iter()
            .filter(|claim| claim.until.get() > now);
        live.fold(0, |bits, claim| bits | claim.bits)
    }

    /// All pieces that neighbours have promised.
    pub(super) fn promised(&self) -> u64 {
        self.work()
            .claims
            .iter()
            .fold(0, |bits, claim| bits | claim.bits)
    }

    /// When the last promise for any of `bits` ran out or will.
    pub(super) fn claimed_until(&self, bits: u64) -> Option<Instant> {
        let claims = self
            .work()
            .claims
            .iter()
            .filter(|claim| claim.bits & bits != 0);
        claims.map(|claim| claim.until.get()).max()
    }

    /// Pieces that members of other groups are bringing into theirs.
    pub(super) fn upstream(&self) -> u64 {
        self.work()
            .upstream
            .iter()
            .fold(0, |bits, (_, more)| bits | more)
    }

    /// Those of them that the bridge in `slot` is bringing.
    pub(super) fn upstream_of(&self, slot: Slot) -> u64 {
        let theirs = self
            .work()
            .upstream
            .iter()
            .filter(|(bridge, _)| *bridge == slot);
        theirs.fold(0, |bits, (_, more)| bits | more)
    }
}

impl Peer {
    pub(super) fn handle_claim(
        &mut self,
        slot: Slot,
        name: Name,
        stripes: (u8, u8),
        division: &Division,
        out: &mut Outbox,
    ) {
        let (stripes, stripe_count) = stripes;
        if stripe_count == 0 || u32::from(stripe_count) > STRIPES_MAX {
            return;
        }
        let Some(claimant) = self.neighbours.get(slot).filter(|n| n.is_believed()) else {
            return;
        };
        let theirs = claimant.peer.tag();
        let me = self.tracker.me().map(|me| me.tag());
        let mine = division.of(|tag| Some(tag) == me && tag != theirs);
        let pushers = self.pushers_of(slot, division);
        let pushed = pushers.iter().fold(0, |bits, (piece, _)| bits | 1 << piece);
        let promise = Promise {
            slot,
            name,
            stripes,
            stripe_count,
            bits: division.bits,
            mine,
            orphans: division.bits & !mine & !pushed,
            pushers,
            made: self.now,
        };
        match self.segments.iter().position(|s| s.name == name) {
            Some(index) => self.believe(index, &promise, out),
            None => self.remember(promise),
        }
    }

    /// Who pushes what to this viewer, of those who are linked with it.
    fn pushers_of(&self, claimant: Slot, division: &Division) -> Vec<(u8, Slot)> {
        let me = self.tracker.me().map(|me| me.tag());
        let mut rest = division.bits;
        let mut pushers = Vec::with_capacity(division.passers.len());
        let group = self.neighbours.ready_slots() & !self.neighbours.bridge_slots();
        let linked = group | 1u32.checked_shl(claimant.0.into()).unwrap_or(0);
        for tag in &division.passers {
            let piece = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            let pusher = match me.filter(|me| me == tag) {
                Some(_) => Some(claimant),
                None => self.neighbours.by_tag(*tag, linked),
            };
            pushers.extend(pusher.map(|slot| (piece as u8, slot)));
        }
        pushers
    }

    /// Keeps a promise until this viewer hears of the segment: playlists are polled at different
    /// times.
    fn remember(&mut self, promise: Promise) {
        let of_slot = self.promises.iter().filter(|p| p.slot == promise.slot);
        let is_full = of_slot.count() >= EARLY_MAX.0;
        if is_full || self.promises.len() >= EARLY_MAX.1 {
            let oldest = |p: &Promise| !is_full || p.slot == promise.slot;
            if let Some(index) = self.promises.iter().position(oldest) {
                self.promises.remove(index);
            }
        }
        self.promises.push(promise);
    }

    /// Takes over what neighbours have promised about a segment that this viewer learns of.
    pub(super) fn believe_all(&mut self, index: usize, out: &mut Outbox) {
        let name = self.segments[index].name;
        if self.promises.iter().all(|promise| promise.name != name) {
            return;
        }
        let (now, early) = (self.now, core::mem::take(&mut self.promises));
        for promise in &early {
            if promise.name == name {
                self.believe(index, promise, out);
            } else if now.ms_since(promise.made) < EARLY_MS_MAX {
                self.promises.push(promise.clone());
            }
        }
    }

    fn believe(&mut self, index: usize, promise: &Promise, out: &mut Outbox) {
        if self.neighbours.is_bridge(promise.slot) {
            return self.note_upstream(index, promise);
        }
        let segment = &mut self.segments[index];
        if segment.is_complete() {
            return;
        }
        let count = u32::from(promise.stripe_count);
        let claimed = (0..count).filter(|stripe| promise.stripes >> stripe & 1 == 1);
        let bits = match segment.id() {
            None => u64::MAX,
            Some(_) if promise.bits != 0 => promise.bits,
            Some(_) => claimed.fold(0, |bits, stripe| bits | segment.stripe_bits(stripe, count)),
        };
        let len = u64::from(segment.len_of(bits));
        let (slot, made) = (promise.slot, promise.made);
        let least_ms = (u64::from(segment.window_ms()) + u64::from(segment.spread_ms()) / 2)
            * CLAIM_WINDOW_PERCENT
            / 100;
        let usual_ms = 2 * self.estimate.cdn_ms(len) + CLAIM_GRACE_MS;
        let until = made.plus_ms(usual_ms.max(least_ms));
        let asked = segment.work().pulls.iter().filter(|pull| pull.held);
        let settled = asked.fold(segment.have(), |bits, pull| bits | pull.bits);
        let work = segment.work_mut();
        match work.claims.iter_mut().find(|claim| claim.slot == slot) {
            Some(claim) => {
                let is_unknown = claim.bits == u64::MAX;
                claim.bits = if is_unknown { bits } else { claim.bits | bits };
                claim.mine |= promise.mine;
            }
            None => work.add_claim(Claim {
                slot,
                bits,
                mine: promise.mine,
                until: until.into(),
                kept: false,
            }),
        }
        let spare = work.expect_pushes(&promise.pushers, settled);
        self.tell_to_skip(index, spare, out);
        let segment = &self.segments[index];
        let mine = promise.mine & !segment.have();
        let name = segment.name;
        self.touch_segment(index);
        if mine != 0
            && let Some(me) = self.tracker.me()
        {
            // Other groups can have these pieces from here early, and who is not linked with the claimant waits
            // for them instead of asking somebody else.
            let division = Division {
                bits: mine,
                passers: alloc::vec![me.tag(); mine.count_ones() as usize],
            };
            let claim = PeerMsg::Claim {
                name,
                stripes: 0,
                stripe_count: promise.stripe_count,
                division,
            };
            self.send_all(&claim, out);
        }
        let segment = &self.segments[index];
        let orphans = promise.orphans & segment.full() & !segment.have() & !segment.pulled();
        if orphans != 0 && self.may_be_pushed() {
            let bits = orphans;
            self.ask(index, Ask { slot, bits }, false, out);
        }
    }

    /// Notes who has promised these pieces and has not brought any in time. Who has only just linked
    /// with this viewer, or learned that it may be pushed to, has promised nothing.
    pub(super) fn note_broken(&mut self, index: usize, bits: u64) {
        let now = self.now;
        let segment = &self.segments[index];
        let bits = segment.late(bits, now);
        if !segment.fresh || bits == 0 {
            return;
        }
        let Some(pushed_from) = self.pushed_from else {
            return;
        };
        let is_owed = |from: Instant| segment.known_at() >= from.plus_ms(OWED_AFTER_MS);
        if !is_owed(pushed_from) {
            return;
        }
        let late = segment
            .work()
            .pushers
            .iter()
            .filter(|(piece, _)| bits >> piece & 1 == 1);
        let late = late.map(|(_, slot)| *slot).filter(|slot| {
            let pusher = self.neighbours.get(*slot);
            pusher.is_some_and(|n| n.gave_at.get() < segment.known_at() && is_owed(n.since.get()))
        });
        let broken = segment.work().claims.iter();
        let broken = broken.filter(|c| !c.kept && c.until.get() <= now && c.bits & bits != 0);
        let broken = broken.map(|claim| claim.slot).filter(|slot| {
            let claimant = self.neighbours.get(*slot);
            claimant.is_some_and(|n| is_owed(n.since.get()))
        });
        let slots: Vec<Slot> = late.chain(broken).collect();
        for slot in slots {
            let bit = 1u32.checked_shl(slot.0.into()).unwrap_or(0);
            if self.segments[index].work().struck & bit == 0 {
                self.segments[index].work_mut().struck |= bit;
                self.on_broken(slot);
            }
        }
    }

    /// A neighbour has not done what it promised.
    pub(super) fn on_broken(&mut self, slot: Slot) {
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            return;
        };
        if neighbour.on_broken(self.now) {
            self.touch_view();
        }
    }

    /// A bridge brings pieces into its own group: this one may have them from there.
    fn note_upstream(&mut self, index: usize, promise: &Promise) {
        let segment = &mut self.segments[index];
        if promise.bits == 0 || segment.is_complete() {
            return;
        }
        let upstream = &mut segment.work_mut().upstream;
        match upstream.iter_mut().find(|(slot, _)| *slot == promise.slot) {
            Some((_, bits)) => *bits |= promise.bits,
            None => {
                upstream.reserve_exact(1);
                upstream.push((promise.slot, promise.bits));
            }
        }
        self.touch_segment(index);
    }

    pub(super) fn forget_promises(&mut self, slot: Slot) {
        self.promises.retain(|promise| promise.slot != slot);
    }

    pub(super) fn promises_heap_bytes(&self) -> usize {
        let promises: &Vec<Promise> = &self.promises;
        let pushers: usize = promises.iter().map(|p| p.pushers.capacity()).sum();
        promises.capacity() * size_of::<Promise>() + pushers * size_of::<(u8, Slot)>()
    }
}

/// What is listed so soon after a link came up is not owed over it.
const OWED_AFTER_MS: u64 = 2000;
/// Promises about segments that this viewer never hears of are kept for so long.
const EARLY_MS_MAX: u64 = 10_000;

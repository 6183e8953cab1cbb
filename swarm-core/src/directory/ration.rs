//! Introductions that are left: a burst, and a rate beyond it.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    slab::{Key, Slab},
    spent::{ALL, Spent, SpentAddresses},
};
use crate::time::Instant;

/// Introductions that a viewer takes from its address's ration at once.
const LEASE: u8 = 16;
/// Where less is left of an address's ration for each of its viewers, they are taken one by one: nobody
/// shall wait for what others hold and do not use.
const LEASE_FROM: u32 = 64;
pub(super) const HOUR_MS: u64 = 3_600_000;
/// Addresses without a viewer above which those whose ration is whole again are forgotten.
const IDLE_MIN: usize = 512;
/// Addresses that are looked at for that with each new one: so no single one pays for all.
const FORGET_STEP: usize = 4;

/// Viewers that an address is taken to have beside those that are there: pages are loaded anew, and
/// devices come and go.
const SPARE_VIEWERS: u32 = 2;

/// What one viewer, or all viewers of one address, may still receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ration {
    left: u32,
    at: Instant,
}

/// How rations are refilled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) per_hour: u32,
}

impl Ration {
    pub(super) const fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: rate.burst,
            at: now,
        }
    }

    pub(super) fn has_some(&self, rate: Rate, now: Instant) -> bool {
        self.left > 0 || self.earned(rate, now) > 0
    }

    pub(super) fn take(&mut self, rate: Rate, now: Instant) {
        self.earn(rate, now);
        self.left = self.left.saturating_sub(1);
    }

    fn earn(&mut self, rate: Rate, now: Instant) {
        let earned = self.earned(rate, now);
        if earned > 0 {
            let sum = (u64::from(self.left) + earned).min(u64::from(rate.burst).max(1));
            (self.left, self.at) = (sum as u32, now);
        }
    }

    fn is_whole(&self, rate: Rate, now: Instant) -> bool {
        u64::from(self.left) + self.earned(rate, now) >= u64::from(rate.burst)
    }

    fn earned(&self, rate: Rate, now: Instant) -> u64 {
        now.ms_since(self.at)
            .saturating_mul(u64::from(rate.per_hour))
            / HOUR_MS
    }
}

/// The rations of addresses. They outlive viewers: who comes again under another name goes on with
/// what is left. Viewers hold theirs by its key: it is asked for with every introduction, and
/// finding it among a million is slow.
#[derive(Debug)]
pub(super) struct AddressRations {
    rations: Slab<Shared>,
    keys: BTreeMap<u128, Key>,
    /// Rations that no viewer holds.
    idle: usize,
    /// Where looking for those to forget goes on.
    forget_from: u128,
    /// What one viewer may receive, if an address is to have no more than as many viewers as it has.
    each: Option<Rate>,
    /// What addresses have used, here and elsewhere.
    spent: SpentAddresses,
}

#[derive(Debug)]
struct Shared {
    address: u128,
    ration: Ration,
    holders: u32,
    /// Most holders at a time.
    most: u32,
    /// Where the ring of its viewers begins.
    first_holder: Option<Key>,
}

impl Shared {
    /// What this address's ration is, of the largest that there is.
    fn rate(&self, largest: Rate, each: Option<Rate>) -> Rate {
        let Some(each) = each else {
            return largest;
        };
        let of = |one: u32, viewers: u32| one.saturating_mul(viewers.saturating_add(SPARE_VIEWERS));
        Rate {
            burst: largest.burst.min(of(each.burst, self.most)),
            per_hour: largest.per_hour.min(of(each.per_hour, self.holders)),
        }
    }

    /// One more viewer is there. `share` is what the address has left elsewhere, in 255ths.
    fn add_holder(&mut self, largest: Rate, each: Option<Rate>, share: u8) {
        self.holders += 1;
        if self.holders > self.most {
            let before = self.rate(largest, each).burst;
            self.most = self.holders;
            // What it brings along; one that takes the place of another brings nothing.
            let brought = self.rate(largest, each).burst - before;
            self.ration.left += share_of(brought, share);
        }
    }

    /// What is used of all that it may have, in 255ths.
    fn used(&self, burst: u32) -> u8 {
        let left = u64::from(self.ration.left) * u64::from(ALL) / u64::from(burst.max(1));
        ALL - left.min(u64::from(ALL)) as u8
    }
}

fn share_of(count: u32, share: u8) -> u32 {
    (u64::from(count) * u64::from(share) / u64::from(ALL)) as u32
}

impl AddressRations {
    pub(super) const fn new() -> Self {
        Self {
            rations: Slab::new(),
            keys: BTreeMap::new(),
            idle: 0,
            forget_from: 0,
            each: None,
            spent: SpentAddresses::new(),
        }
    }

    /// As [`AddressRations::new`], where an address has what as many viewers may have as were there at
    /// once, and a few more, up to the largest ration.
    pub(super) const fn growing(each: Rate) -> Self {
        let mut rations = Self::new();
        rations.each = Some(each);
        rations
    }

    /// The ration of a viewer's address, until it is released. An address that is not known has
    /// none.
    pub(super) fn hold(&mut self, address: u128, rate: Rate, now: Instant) -> Option<Key> {
        if address == 0 {
            return None;
        }
        let one = self.of_one(rate);
        let share = one.map_or(ALL, |one| self.spent.left(address, one, now));
        let known = self.keys.get(&address).copied();
        if let Some((key, shared)) = known.and_then(|key| Some((key, self.rations.get_mut(key)?))) {
            self.idle -= usize::from(shared.holders == 0);
            shared.add_holder(rate, self.each, share);
            return Some(key);
        }
        if self.idle >= IDLE_MIN {
            self.forget_some(rate, now);
        }
        let mut shared = Shared {
            address,
            ration: Ration::full(rate, now),
            holders: 1,
            most: 1,
            first_holder: None,
        };
        shared.ration.left = share_of(shared.rate(rate, self.each).burst, share);
        let key = self.rations.insert(shared);
        self.keys.insert(address, key);
        Some(key)
    }

    /// Where the ring of the viewers of a ration's address begins.
    pub(super) fn holder(&self, held: Key) -> Option<Key> {
        self.rations.get(held)?.first_holder
    }

    /// The same, to be changed.
    pub(super) fn first_holder(&mut self, held: Key) -> Option<&mut Option<Key>> {
        let shared = self.rations.get_mut(held)?;
        Some(&mut shared.first_holder)
    }

    /// A viewer does not need its ration any more, and gives back what is left of its lease.
    pub(super) fn release(&mut self, held: Option<Key>, leased: u8, rate: Rate) {
        if let Some(shared) = held.and_then(|key| self.rations.get_mut(key)) {
            let left = shared.ration.left.saturating_add(u32::from(leased));
            let most = shared.rate(rate, self.each).burst.max(1);
            shared.ration.left = left.min(most);
            shared.holders -= 1;
            self.idle += usize::from(shared.holders == 0);
        }
    }

    /// Whether a viewer may learn of one more. One without a ration is not counted.
    pub(super) fn has_some(&self, held: Option<Key>, rate: Rate, now: Instant) -> bool {
        let shared = held.and_then(|key| self.rations.get(key));
        shared.is_none_or(|shared| {
            let rate = shared.rate(rate, self.each);
            shared.ration.has_some(rate, now)
        })
    }

    /// Takes some of a ration for a viewer that has none left: as many as it may learn of before it asks
    /// again. Each viewer's ration is as far away as main memory where there are many.
    pub(super) fn lease(&mut self, held: Option<Key>, rate: Rate, now: Instant) -> u8 {
        let one = self.of_one(rate);
        let Some(shared) = held.and_then(|key| self.rations.get_mut(key)) else {
            return 0;
        };
        let rate = shared.rate(rate, self.each);
        shared.ration.earn(rate, now);
        let is_plenty = shared.ration.left >= LEASE_FROM.saturating_mul(shared.holders);
        let most = if is_plenty { LEASE } else { 1 };
        let taken = u32::from(most).min(shared.ration.left);
        shared.ration.left -= taken;
        if let Some(one) = one {
            let (address, used) = (shared.address, shared.used(rate.burst));
            self.spent.note(Spent { address, used }, one, now);
        }
        taken as u8
    }

    /// Another directory's viewers of an address have used so much: it is not to be had here again.
    pub(super) fn on_spent(&mut self, spent: Spent, rate: Rate, now: Instant) {
        let Some(one) = self.of_one(rate) else {
            return;
        };
        self.spent.hear(spent, one, now);
        let key = self.keys.get(&spent.address).copied();
        if let Some(shared) = key.and_then(|key| self.rations.get_mut(key)) {
            let rate = shared.rate(rate, self.each);
            shared.ration.earn(rate, now);
            let most = share_of(rate.burst, ALL - spent.used);
            shared.ration.left = shared.ration.left.min(most);
        }
    }

    /// What addresses have used here since then; without a time all that is known.
    pub(super) fn spent_since(
        &self,
        since: Option<Instant>,
        rate: Rate,
        now: Instant,
    ) -> Vec<Spent> {
        let spent = |one| self.spent.since(since, one, now);
        self.of_one(rate).map_or_else(Vec::new, spent)
    }

    /// What an address with one viewer may have; nothing where all have the same.
    fn of_one(&self, largest: Rate) -> Option<Rate> {
        let each = self.each?;
        let of = |one: u32| one.saturating_mul(1 + SPARE_VIEWERS);
        Some(Rate {
            burst: largest.burst.min(of(each.burst)),
            per_hour: largest.per_hour.min(of(each.per_hour)),
        })
    }

    fn forget_some(&mut self, rate: Rate, now: Instant) {
        let mut seen = self.keys.range(self.forget_from..);
        let next: [_; FORGET_STEP] = core::array::from_fn(|_| seen.next());
        let next = next.map(|entry| entry.map(|(address, key)| (*address, *key)));
        self.forget_from = match next.last() {
            Some(Some((address, _))) => address.wrapping_add(1),
            _ => 0,
        };
        for (address, key) in next.into_iter().flatten() {
            let is_over = |shared: &Shared| {
                let rate = shared.rate(rate, self.each);
                shared.holders == 0 && shared.ration.is_whole(rate, now)
            };
            if self.rations.get(key).is_some_and(is_over) {
                self.rations.remove(key);
                self.keys.remove(&address);
                self.idle -= 1;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_whose_ration_is_whole_again_are_forgotten() {
        let rate = Rate {
            burst: 10,
            per_hour: 3_600,
        };
        let mut rations = AddressRations::new();
        let mut now = Instant::from_millis(1_000);
        for address in 1..=10_000 {
            let held = rations.hold(address, rate, now);
            rations.lease(held, rate, now);
            rations.release(held, 0, rate);
            now = now.plus_ms(10);
        }
        assert!(rations.len() <= 2 * IDLE_MIN, "{}", rations.len());
        assert_eq!(rations.idle, rations.len());
        let none = rations.hold(0, rate, now);
        assert_eq!(rations.lease(none, rate, now), 0);
        assert!(none.is_none() && rations.has_some(none, rate, now));
    }

    #[test]
    fn a_ration_is_shared_and_outlives_its_holders_until_it_is_whole() {
        let rate = Rate {
            burst: 2,
            per_hour: 3_600,
        };
        let mut rations = AddressRations::new();
        let start = Instant::from_millis(1_000);
        let held = [(); 2].map(|()| rations.hold(7, rate, start));
        assert_eq!(held[0], held[1]);
        for held in held {
            assert_eq!(rations.lease(held, rate, start), 1);
        }
        assert!(!rations.has_some(held[0], rate, start));
        for held in held {
            rations.release(held, 0, rate);
        }
        let again = rations.hold(7, rate, start);
        assert!(!rations.has_some(again, rate, start));
        assert!(rations.has_some(again, rate, start.plus_ms(1_000)));
    }

    #[test]
    fn an_address_learns_what_its_viewers_at_a_time_may_however_often_they_come_anew() {
        let each = Rate {
            burst: 10,
            per_hour: 0,
        };
        let largest = Rate {
            burst: 1_000,
            per_hour: 1_000,
        };
        let now = Instant::from_millis(1_000);
        for (at_once, expected) in [(1, 10 * 3), (5, 10 * 7), (500, 1_000)] {
            let mut rations = AddressRations::growing(each);
            let mut taken = 0;
            for _ in 0..20 {
                let held: Vec<_> = (0..at_once)
                    .map(|_| rations.hold(7, largest, now))
                    .collect();
                while rations.has_some(held[0], largest, now) {
                    taken += u32::from(rations.lease(held[0], largest, now));
                }
                for held in held {
                    rations.release(held, 0, largest);
                }
            }
            assert_eq!(taken, expected, "{at_once} at once");
        }
    }

    #[test]
    fn what_is_left_of_a_lease_is_given_back_and_no_more() {
        let rate = Rate {
            burst: 3_000,
            per_hour: 0,
        };
        let mut rations = AddressRations::new();
        let now = Instant::from_millis(1_000);
        let (mut used, mut most) = (0, 0);
        let stays = rations.hold(7, rate, now);
        loop {
            let held = rations.hold(7, rate, now);
            if !rations.has_some(held, rate, now) {
                break;
            }
            let leased = rations.lease(held, rate, now);
            most = most.max(leased);
            used += 1;
            rations.release(held, leased - 1, rate);
        }
        assert_eq!((used, most), (rate.burst, LEASE));
        rations.release(stays, LEASE, rate);
        assert!(rations.has_some(stays, rate, now));
    }

    #[test]
    fn a_viewer_takes_several_at_once_where_none_of_its_household_misses_them() {
        let rate = Rate {
            burst: 256,
            per_hour: 0,
        };
        let now = Instant::from_millis(1_000);
        for (viewers, expected) in [(1, LEASE), (4, LEASE), (5, 1), (400, 1)] {
            let mut rations = AddressRations::new();
            let held: Vec<_> = (0..viewers).map(|_| rations.hold(7, rate, now)).collect();
            assert_eq!(rations.lease(held[0], rate, now), expected, "{viewers}");
            let mut taken = u32::from(expected);
            while rations.has_some(held[0], rate, now) {
                taken += u32::from(rations.lease(held[0], rate, now));
            }
            assert_eq!(taken, rate.burst);
        }
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        let rate = Rate {
            burst: 2,
            per_hour: 60,
        };
        let start = Instant::from_millis(1_000);
        let mut ration = Ration::full(rate, start);
        ration.take(rate, start);
        ration.take(rate, start);
        assert!(!ration.has_some(rate, start.plus_ms(59_000)));
        let minute = start.plus_ms(60_000);
        assert!(ration.has_some(rate, minute));
        ration.take(rate, minute);
        assert!(!ration.has_some(rate, minute));
    }
}

//! Introductions that are left: a burst, and a rate beyond it.

use alloc::collections::BTreeMap;

use super::slab::{Key, Slab};
use crate::time::Instant;

const HOUR_MS: u64 = 3_600_000;
/// Addresses without a viewer above which those whose ration is whole again are forgotten.
const IDLE_MIN: usize = 512;
/// Addresses that are looked at for that with each new one: so no single one pays for all.
const FORGET_STEP: usize = 4;

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
        let earned = self.earned(rate, now);
        if earned > 0 {
            let sum = (u64::from(self.left) + earned).min(u64::from(rate.burst).max(1));
            (self.left, self.at) = (sum as u32, now);
        }
        self.left = self.left.saturating_sub(1);
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
}

#[derive(Debug)]
struct Shared {
    ration: Ration,
    holders: u32,
}

impl AddressRations {
    pub(super) const fn new() -> Self {
        Self {
            rations: Slab::new(),
            keys: BTreeMap::new(),
            idle: 0,
            forget_from: 0,
        }
    }

    /// The ration of a viewer's address, until it is released. An address that is not known has
    /// none.
    pub(super) fn hold(&mut self, address: u128, rate: Rate, now: Instant) -> Option<Key> {
        if address == 0 {
            return None;
        }
        let known = self.keys.get(&address).copied();
        if let Some((key, shared)) = known.and_then(|key| Some((key, self.rations.get_mut(key)?))) {
            self.idle -= usize::from(shared.holders == 0);
            shared.holders += 1;
            return Some(key);
        }
        if self.idle >= IDLE_MIN {
            self.forget_some(rate, now);
        }
        let key = self.rations.insert(Shared {
            ration: Ration::full(rate, now),
            holders: 1,
        });
        self.keys.insert(address, key);
        Some(key)
    }

    /// A viewer does not need its ration any more.
    pub(super) fn release(&mut self, held: Option<Key>) {
        if let Some(shared) = held.and_then(|key| self.rations.get_mut(key)) {
            shared.holders -= 1;
            self.idle += usize::from(shared.holders == 0);
        }
    }

    /// Whether a viewer may learn of one more. One without a ration is not counted.
    pub(super) fn has_some(&self, held: Option<Key>, rate: Rate, now: Instant) -> bool {
        let shared = held.and_then(|key| self.rations.get(key));
        shared.is_none_or(|shared| shared.ration.has_some(rate, now))
    }

    pub(super) fn take(&mut self, held: Option<Key>, rate: Rate, now: Instant) {
        if let Some(shared) = held.and_then(|key| self.rations.get_mut(key)) {
            shared.ration.take(rate, now);
        }
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
            let is_over =
                |shared: &Shared| shared.holders == 0 && shared.ration.is_whole(rate, now);
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
            rations.take(held, rate, now);
            rations.release(held);
            now = now.plus_ms(10);
        }
        assert!(rations.len() <= 2 * IDLE_MIN, "{}", rations.len());
        assert_eq!(rations.idle, rations.len());
        let none = rations.hold(0, rate, now);
        rations.take(none, rate, now);
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
            rations.take(held, rate, start);
        }
        assert!(!rations.has_some(held[0], rate, start));
        for held in held {
            rations.release(held);
        }
        let again = rations.hold(7, rate, start);
        assert!(!rations.has_some(again, rate, start));
        assert!(rations.has_some(again, rate, start.plus_ms(1_000)));
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

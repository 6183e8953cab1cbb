//! Introductions that are left: a burst, and a rate beyond it.

use alloc::collections::BTreeMap;

use crate::time::Instant;

const HOUR_MS: u64 = 3_600_000;
/// Addresses above which those whose ration is whole again are forgotten.
const ADDRESSES_MIN: usize = 1024;
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
/// what is left.
#[derive(Debug)]
pub(super) struct AddressRations {
    rations: BTreeMap<u128, Ration>,
    /// Where looking for those to forget goes on.
    forget_from: u128,
}

impl AddressRations {
    pub(super) const fn new() -> Self {
        Self {
            rations: BTreeMap::new(),
            forget_from: 0,
        }
    }

    /// Whether a viewer there may learn of one more. An address that is not known is not counted.
    pub(super) fn has_some(&self, address: u128, rate: Rate, now: Instant) -> bool {
        let ration = self.rations.get(&address);
        ration.is_none_or(|ration| ration.has_some(rate, now))
    }

    pub(super) fn take(&mut self, address: u128, rate: Rate, now: Instant) {
        if address == 0 {
            return;
        }
        if let Some(ration) = self.rations.get_mut(&address) {
            return ration.take(rate, now);
        }
        if self.rations.len() >= ADDRESSES_MIN {
            self.forget_some(rate, now);
        }
        let mut ration = Ration::full(rate, now);
        ration.take(rate, now);
        self.rations.insert(address, ration);
    }

    fn forget_some(&mut self, rate: Rate, now: Instant) {
        let mut seen = self.rations.range(self.forget_from..);
        let next: [_; FORGET_STEP] = core::array::from_fn(|_| seen.next());
        let whole = next.map(|entry| {
            let (address, ration) = entry?;
            ration.is_whole(rate, now).then_some(*address)
        });
        self.forget_from = match next.last() {
            Some(Some((address, _))) => address.wrapping_add(1),
            _ => 0,
        };
        for address in whole.into_iter().flatten() {
            self.rations.remove(&address);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rations.len()
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
            rations.take(address, rate, now);
            now = now.plus_ms(10);
        }
        assert!(rations.len() <= ADDRESSES_MIN, "{}", rations.len());
        rations.take(0, rate, now);
        assert!(rations.has_some(0, rate, now));
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

//! What all viewers of one address may learn of others: whoever announces itself under one id after
//! the other goes on with what is left.

use std::collections::HashMap;

/// What the viewers of each address have left. One without an entry has all of it; address 0 is one
/// that nobody knows and has always.
#[derive(Debug)]
pub(super) struct Addresses {
    burst: f32,
    per_s: f32,
    used: HashMap<u128, Allowance>,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f32,
    at_s: u32,
}

impl Addresses {
    /// Others that an address may learn of in a burst, and in an hour beyond it.
    pub(super) fn new(burst: u32, per_hour: u32) -> Self {
        Self {
            burst: burst as f32,
            per_s: per_hour as f32 / 3600.0,
            used: HashMap::new(),
        }
    }

    /// Whether the viewers of an address may learn of one more.
    pub(super) fn has_some(&self, address: u128, now_s: u32) -> bool {
        self.left(address, now_s) >= 1.0
    }

    /// Viewers of two addresses have learned of each other. Those of one household know its address.
    pub(super) fn on_met(&mut self, a: u128, b: u128, now_s: u32) {
        for address in [a, b] {
            if a != b && address != 0 {
                let left = self.left(address, now_s) - 1.0;
                self.used.insert(address, Allowance { left, at_s: now_s });
            }
        }
    }

    /// Forgets those that have all of it again.
    pub(super) fn sweep(&mut self, now_s: u32) {
        let (burst, per_s) = (self.burst, self.per_s);
        self.used
            .retain(|_, allowance| allowance.left_at(now_s, per_s) < burst);
        if self.used.capacity() > 4 * self.used.len() {
            self.used.shrink_to(2 * self.used.len());
        }
    }

    fn left(&self, address: u128, now_s: u32) -> f32 {
        let used = self.used.get(&address);
        used.map_or(self.burst, |allowance| {
            allowance.left_at(now_s, self.per_s).min(self.burst)
        })
    }
}

impl Allowance {
    fn left_at(self, now_s: u32, per_s: f32) -> f32 {
        self.left + now_s.saturating_sub(self.at_s) as f32 * per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_a_rate() {
        let mut addresses = Addresses::new(2, 3_600);
        for other in [11, 12] {
            assert!(addresses.has_some(1, 100));
            addresses.on_met(1, other, 100);
        }
        assert!(!addresses.has_some(1, 100) && addresses.has_some(11, 100));
        assert!(addresses.has_some(1, 101));
        addresses.on_met(11, 11, 100);
        assert!(addresses.has_some(11, 100), "its own household is no news");
        for _ in 0..3 {
            addresses.on_met(0, 12, 100);
        }
        assert!(addresses.has_some(0, 100) && !addresses.has_some(12, 100));
    }

    #[test]
    fn who_has_all_of_it_again_is_forgotten() {
        let mut addresses = Addresses::new(1_000, 3_600);
        for other in 2..502 {
            addresses.on_met(1, other, 100);
        }
        addresses.sweep(101);
        assert_eq!(addresses.used.len(), 1, "the others met one");
        assert!(addresses.used.capacity() < 500);
        addresses.sweep(100 + 500);
        assert!(addresses.used.is_empty());
    }
}

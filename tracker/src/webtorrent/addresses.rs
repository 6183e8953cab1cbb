//! What all viewers of one address may learn of others: whoever announces itself under one id after
//! the other goes on with what is left.

use std::collections::HashMap;

use super::swarm::OFFER_S_MAX;

/// What the viewers of each address have left. One without an entry has all of it; address 0 is one
/// that nobody knows and has always.
#[derive(Debug)]
pub(super) struct Addresses {
    burst: f32,
    per_s: f32,
    pending_max: u32,
    used: HashMap<u128, Allowance>,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f32,
    at_s: u32,
    pending: Pending,
}

/// Offers of an address that may still wait for an answer: those of two spans of time, each as long as an
/// offer can wait. So none that waits is left out.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    span: u32,
    now: u32,
    before: u32,
}

impl Addresses {
    /// Others that an address may learn of in a burst, and in an hour beyond it; and offers of its viewers
    /// that may wait for an answer.
    pub(super) fn new(burst: u32, per_hour: u32, pending_max: u32) -> Self {
        Self {
            burst: burst as f32,
            per_s: per_hour as f32 / 3600.0,
            pending_max,
            used: HashMap::new(),
        }
    }

    /// Whether one more offer of an address's viewers may wait for an answer.
    pub(super) fn may_offer(&self, address: u128, now_s: u32) -> bool {
        let pending = self.used.get(&address).map(|used| used.pending.at(now_s));
        pending.is_none_or(|pending| pending.count() < self.pending_max)
    }

    /// An offer of an address's viewers waits for an answer from now on.
    pub(super) fn on_offered(&mut self, address: u128, now_s: u32) {
        self.change_pending(address, now_s, |pending| pending.now += 1);
    }

    /// One of them has its answer.
    pub(super) fn on_answered(&mut self, address: u128, now_s: u32) {
        self.change_pending(address, now_s, Pending::take);
    }

    fn change_pending(&mut self, address: u128, now_s: u32, change: impl FnOnce(&mut Pending)) {
        if address == 0 {
            return;
        }
        let entry = self.used.entry(address).or_insert(Allowance {
            left: self.burst,
            at_s: now_s,
            pending: Pending::default(),
        });
        entry.pending = entry.pending.at(now_s);
        change(&mut entry.pending);
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
                let used = self.used.get(&address);
                let pending = used.map_or_else(Pending::default, |used| used.pending);
                let allowance = Allowance {
                    left,
                    at_s: now_s,
                    pending,
                };
                self.used.insert(address, allowance);
            }
        }
    }

    /// Forgets those that have all of it again, and wait for nothing.
    pub(super) fn sweep(&mut self, now_s: u32) {
        let (burst, per_s) = (self.burst, self.per_s);
        self.used.retain(|_, allowance| {
            allowance.left_at(now_s, per_s) < burst || allowance.pending.at(now_s).count() > 0
        });
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

impl Pending {
    /// The same at `now_s`.
    const fn at(self, now_s: u32) -> Self {
        let span = now_s / (OFFER_S_MAX + 1);
        let (now, before) = match span.wrapping_sub(self.span) {
            0 => (self.now, self.before),
            1 => (0, self.now),
            _ => (0, 0),
        };
        Self { span, now, before }
    }

    const fn count(self) -> u32 {
        self.now.saturating_add(self.before)
    }

    /// One less. Answers are soon: most are to offers of this span.
    const fn take(&mut self) {
        if self.now > 0 {
            self.now -= 1;
        } else {
            self.before = self.before.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_a_rate() {
        let mut addresses = Addresses::new(2, 3_600, 1);
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
    fn offers_of_an_address_wait_for_answers_up_to_a_number_and_no_longer_than_they_can() {
        let mut addresses = Addresses::new(10, 3_600, 3);
        for now_s in 100..200 {
            assert!(addresses.may_offer(1, now_s));
            addresses.on_offered(1, now_s);
            addresses.on_answered(1, now_s);
        }
        for _ in 0..3 {
            assert!(addresses.may_offer(1, 200));
            addresses.on_offered(1, 200);
        }
        assert!(!addresses.may_offer(1, 200) && addresses.may_offer(2, 200));
        addresses.sweep(200 + OFFER_S_MAX);
        assert!(!addresses.may_offer(1, 200 + OFFER_S_MAX), "they may wait");
        addresses.on_answered(1, 200 + OFFER_S_MAX);
        assert!(addresses.may_offer(1, 200 + OFFER_S_MAX));
        assert!(addresses.may_offer(1, 201 + 2 * OFFER_S_MAX + 1));
        addresses.sweep(1_000);
        assert!(addresses.used.is_empty());
    }

    #[test]
    fn who_has_all_of_it_again_is_forgotten() {
        let mut addresses = Addresses::new(1_000, 3_600, 1);
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

//! Addresses that have used much of what they may learn, as the directories of one tracker tell each
//! other: a stream that another directory runs from now on is not to fill up what its viewers have used.

use alloc::{collections::BTreeMap, vec::Vec};

use super::ration::{HOUR_MS, Rate};
use crate::time::Instant;

/// All that an address may learn of.
pub(super) const ALL: u8 = 255;
/// Others are told of an address that has used so much, and each time it has used so much more.
const TELL_FROM: u8 = 128;
const TELL_STEP: u8 = 15;
/// Addresses that are remembered; further ones are not.
const KNOWN_MAX: usize = 65_536;
/// Where there are as many, those that have earned all again are looked for this often, in milliseconds:
/// no single introduction pays for all of them.
const SWEEP_MS: u64 = 10_000;

/// What an address has used of what it may learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The address, as in [`super::Network`].
    pub address: u128,
    /// Its share in 255ths: each directory gives an address as much as it has viewers there.
    pub used: u8,
}

/// What was used as of some time.
#[derive(Clone, Copy, Debug)]
struct Used {
    share: u8,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// By this directory's viewers, as others were told.
    own: Used,
    /// As another directory told.
    heard: Used,
}

/// What is known of addresses that have used much. `one` is what an address with one viewer may have.
#[derive(Debug, Default)]
pub(super) struct SpentAddresses {
    known: BTreeMap<u128, Known>,
    swept_at: Option<Instant>,
}

impl SpentAddresses {
    pub(super) const fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            swept_at: None,
        }
    }

    /// An address has used so much here.
    pub(super) fn note(&mut self, spent: Spent, one: Rate, now: Instant) {
        if spent.used < TELL_FROM {
            return;
        }
        let before = self.known(spent.address).still_used(one, now);
        if spent.used.saturating_sub(before) >= TELL_STEP {
            self.set(spent, one, now, |known| &mut known.own);
        }
    }

    /// Another directory tells that an address has used so much.
    pub(super) fn hear(&mut self, spent: Spent, one: Rate, now: Instant) {
        if spent.used > self.known(spent.address).heard.still_used(one, now) {
            self.set(spent, one, now, |known| &mut known.heard);
        }
    }

    /// What an address has left of what viewers that are new here bring along, in 255ths.
    pub(super) fn left(&self, address: u128, one: Rate, now: Instant) -> u8 {
        ALL - self.known(address).heard.still_used(one, now)
    }

    /// What this directory's viewers have used since then; without a time all that is known.
    pub(super) fn since(&self, since: Option<Instant>, one: Rate, now: Instant) -> Vec<Spent> {
        let used = |known: &Known| match since {
            None => known.still_used(one, now),
            Some(since) if known.own.at >= since => known.own.still_used(one, now),
            Some(_) => 0,
        };
        let spent = self.known.iter().map(|(address, known)| Spent {
            address: *address,
            used: used(known),
        });
        spent.filter(|spent| spent.used > 0).collect()
    }

    fn known(&self, address: u128) -> Known {
        self.known.get(&address).copied().unwrap_or(Known::NOTHING)
    }

    fn set(&mut self, spent: Spent, one: Rate, now: Instant, of: fn(&mut Known) -> &mut Used) {
        let is_new = !self.known.contains_key(&spent.address);
        if is_new && self.known.len() >= KNOWN_MAX {
            self.sweep(one, now);
        }
        if is_new && self.known.len() >= KNOWN_MAX {
            return;
        }
        let known = self.known.entry(spent.address).or_insert(Known::NOTHING);
        *of(known) = Used {
            share: spent.used,
            at: now,
        };
    }

    fn sweep(&mut self, one: Rate, now: Instant) {
        let is_due = |at: Instant| now.ms_since(at) >= SWEEP_MS;
        if self.swept_at.is_none_or(is_due) {
            self.swept_at = Some(now);
            self.known.retain(|_, known| known.still_used(one, now) > 0);
        }
    }
}

impl Known {
    const NOTHING: Self = Self {
        own: Used::NOTHING,
        heard: Used::NOTHING,
    };

    fn still_used(&self, one: Rate, now: Instant) -> u8 {
        self.own
            .still_used(one, now)
            .max(self.heard.still_used(one, now))
    }
}

impl Used {
    const NOTHING: Self = Self {
        share: 0,
        at: Instant::ORIGIN,
    };

    /// What has not been earned again.
    fn still_used(self, one: Rate, now: Instant) -> u8 {
        let whole = HOUR_MS * u64::from(one.burst.max(1));
        let earned = now
            .ms_since(self.at)
            .saturating_mul(u64::from(one.per_hour) * u64::from(ALL));
        let earned = (earned / whole).min(u64::from(ALL));
        self.share.saturating_sub(earned as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Rate = Rate {
        burst: 240,
        per_hour: 240,
    };

    fn spent(address: u128, used: u8) -> Spent {
        Spent { address, used }
    }

    #[test]
    fn an_address_is_told_of_when_half_is_used_and_then_step_by_step() {
        let mut known = SpentAddresses::new();
        let at = |ms: u64| Instant::from_micros(1_000 * ms);
        for (ms, used) in [(1, 127), (2, 128), (3, 142), (4, 143), (5, 255)] {
            known.note(spent(7, used), ONE, at(ms));
            let told = known.since(Some(at(ms)), ONE, at(ms));
            let is_told = [128, 143, 255].contains(&used);
            assert_eq!(!told.is_empty(), is_told, "{used}");
        }
        // Its own directory counts it as it is, without that.
        assert_eq!(known.left(7, ONE, at(6)), ALL);
        assert_eq!(known.since(None, ONE, at(6)), [spent(7, 255)]);
        assert!(known.since(Some(at(6)), ONE, at(6)).is_empty());
    }

    #[test]
    fn what_others_tell_holds_until_it_is_earned_again_and_is_not_told_back() {
        let mut known = SpentAddresses::new();
        let at = |ms: u64| Instant::from_micros(1_000 * ms);
        known.hear(spent(7, 255), ONE, at(0));
        known.hear(spent(7, 100), ONE, at(0));
        assert_eq!(known.left(7, ONE, at(0)), 0);
        assert!(known.since(Some(at(0)), ONE, at(0)).is_empty());
        known.note(spent(7, 255), ONE, at(0));
        assert!(known.since(Some(at(0)), ONE, at(0)).is_empty());
        assert_eq!(known.left(7, ONE, at(HOUR_MS / 2)), 127);
        assert_eq!(known.left(7, ONE, at(HOUR_MS + 1)), ALL);
        assert!(known.since(None, ONE, at(HOUR_MS + 1)).is_empty());
        assert_eq!(known.left(8, ONE, at(0)), ALL);
    }

    #[test]
    fn what_is_known_of_addresses_is_bounded() {
        let mut known = SpentAddresses::new();
        let at = |ms: u64| Instant::from_micros(1_000 * ms);
        for address in 1..=KNOWN_MAX as u128 + 10 {
            known.hear(spent(address, 200), ONE, at(0));
        }
        assert_eq!(known.known.len(), KNOWN_MAX);
        // Those that can be forgotten are not looked for with each that there is no room for.
        let due_ms = SWEEP_MS + 1;
        for (ms, swept_ms) in [(0, 0), (SWEEP_MS - 1, 0), (due_ms, due_ms)] {
            known.hear(spent(u128::MAX, 200), ONE, at(ms));
            assert_eq!(known.swept_at, Some(at(swept_ms)));
            assert_eq!(known.left(u128::MAX, ONE, at(ms)), ALL);
        }
        known.hear(spent(1, 255), ONE, at(0));
        assert_eq!(known.left(1, ONE, at(0)), 0);
        known.hear(spent(u128::MAX, 200), ONE, at(HOUR_MS / 2 + HOUR_MS / 3));
        assert_eq!(known.known.len(), 2, "what is earned again is forgotten");
    }
}

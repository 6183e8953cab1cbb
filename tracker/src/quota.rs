//! Token buckets, and what each address uses.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{clock, config::LimitsConfig};

/// Addresses that are remembered; beyond it those without connections are forgotten.
const ADDRESSES_MAX: usize = 200_000;
/// Addresses that are looked at for that with each new one: no single one pays for all.
const FORGET_STEP: usize = 4;

/// What a frame counts at least, in bytes: small ones cost work too.
const FRAME_COST_MIN: u32 = 128;
/// What a connection takes from its address's share at once, in bytes.
const TRAFFIC_STEP: u32 = 4 * 1024;

/// Allows a burst, and a rate beyond it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f32,
    at_ms: u32,
}

impl Bucket {
    pub(crate) fn full(burst: u32, now: Instant) -> Self {
        Self {
            tokens: burst as f32,
            at_ms: clock::ms_of(now),
        }
    }

    /// Whether one more is allowed.
    pub(crate) fn take(&mut self, burst: u32, per_s: u32, now: Instant) -> bool {
        self.take_many(1, burst, per_s, now)
    }

    /// Whether so many more are allowed; all of them or none.
    pub(crate) fn take_many(&mut self, count: u32, burst: u32, per_s: u32, now: Instant) -> bool {
        let now_ms = clock::ms_of(now);
        let earned = clock::since_ms(self.at_ms, now_ms) as f32 / 1000.0 * per_s as f32;
        self.tokens = (self.tokens + earned).min(burst as f32);
        self.at_ms = now_ms;
        let allowed = self.tokens >= count as f32;
        if allowed {
            self.tokens -= count as f32;
        }
        allowed
    }

    /// Takes as much of `count` as is allowed.
    pub(crate) fn take_up_to(&mut self, count: u32, burst: u32, per_s: u32, now: Instant) -> u32 {
        if self.take_many(count, burst, per_s, now) {
            return count;
        }
        // Refilled just now.
        let left = self.tokens as u32;
        self.tokens = 0.0;
        left.min(count)
    }

    fn is_full(&self, burst: u32, per_s: u32, now: Instant) -> bool {
        let refill_s = burst / per_s.max(1) + 1;
        clock::since_ms(self.at_ms, clock::ms_of(now)) / 1000 >= refill_s
    }
}

/// What all addresses use.
#[derive(Debug)]
pub(crate) struct Addresses {
    limits: LimitsConfig,
    addresses_max: usize,
    used: Mutex<Ring<Used>>,
}

/// Entries that are gone through a few at a time, round and round.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    pub(crate) entries: BTreeMap<u128, T>,
    next: u128,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> Ring<T> {
    /// Looks at up to `N` entries, and removes those that may go. Whether any did.
    pub(crate) fn forget_some<const N: usize>(&mut self, may_go: impl Fn(&T) -> bool) -> bool {
        let mut seen = self.entries.range(self.next..);
        let looked_at: [_; N] =
            std::array::from_fn(|_| seen.next().map(|(key, entry)| (*key, may_go(entry))));
        self.next = match looked_at.last() {
            Some(Some((key, _))) => key.wrapping_add(1),
            _ => 0,
        };
        let mut any = false;
        for (key, _) in looked_at.into_iter().flatten().filter(|(_, goes)| *goes) {
            any |= self.entries.remove(&key).is_some();
        }
        any
    }
}

#[derive(Debug)]
struct Used {
    connections: u32,
    /// Bytes that wait for its slow readers.
    queued: u32,
    joins: Bucket,
    bytes: Bucket,
}

/// What one connection may still send, in bytes; from its own share and its address's.
#[derive(Debug)]
pub(crate) struct Traffic {
    own: Bucket,
    /// What it has already taken from its address's share: not each message asks there.
    taken: u32,
}

impl Traffic {
    pub(crate) fn new(limits: &LimitsConfig, now: Instant) -> Self {
        Self {
            own: Bucket::full(limits.bytes_burst, now),
            taken: 0,
        }
    }

    /// Whether a frame with so many bytes is allowed.
    pub(crate) fn take(&mut self, len: usize, held: &Held, now: Instant) -> bool {
        let limits = &held.addresses.limits;
        let cost = (len as u32).max(FRAME_COST_MIN);
        if cost > self.taken {
            let more = (cost - self.taken).max(TRAFFIC_STEP);
            if !held.take_bytes(more, now) {
                return false;
            }
            self.taken += more;
        }
        self.taken -= cost;
        self.own
            .take_many(cost, limits.bytes_burst, limits.bytes_per_s, now)
    }
}

/// One connection of an address; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    addresses: Arc<Addresses>,
    /// Its key, as bytes: one is kept for every connection, and a `u128` wants to be aligned.
    key: [u8; 16],
}

/// What waits for a slow reader, as part of what may wait for all of its address.
#[derive(Debug)]
pub(crate) struct Backlog {
    addresses: Arc<Addresses>,
    /// As in [`Held`].
    key: [u8; 16],
}

impl Addresses {
    pub(crate) fn new(limits: LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            limits,
            addresses_max: ADDRESSES_MAX,
            used: Mutex::default(),
        })
    }

    /// Counts a connection; `None` if the address has too many.
    pub(crate) fn hold(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        let key = household_key(address);
        let now = Instant::now();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.entries.len() >= self.addresses_max && !used.entries.contains_key(&key) {
            used.forget_some::<FORGET_STEP>(|used| used.is_idle(&self.limits, now));
        }
        let entry = used.entries.entry(key).or_insert_with(|| Used {
            connections: 0,
            queued: 0,
            joins: Bucket::full(self.limits.joins_burst, now),
            bytes: Bucket::full(self.limits.bytes_per_address_burst, now),
        });
        if entry.connections >= self.limits.connections_per_address_max {
            return None;
        }
        entry.connections += 1;
        Some(Held {
            addresses: Arc::clone(self),
            key: key.to_ne_bytes(),
        })
    }
}

impl Used {
    /// Whether nothing is lost with it.
    fn is_idle(&self, limits: &LimitsConfig, now: Instant) -> bool {
        let (bytes, bytes_per_s) = (
            limits.bytes_per_address_burst,
            limits.bytes_per_address_per_s,
        );
        self.connections == 0
            && self.queued == 0
            && self
                .joins
                .is_full(limits.joins_burst, limits.joins_per_s, now)
            && self.bytes.is_full(bytes, bytes_per_s, now)
    }
}

impl Held {
    const fn key(&self) -> u128 {
        u128::from_ne_bytes(self.key)
    }

    /// Whether the address may join once more.
    pub(crate) fn may_join(&self) -> bool {
        let limits = &self.addresses.limits;
        let mut used = self.lock();
        used.entries.get_mut(&self.key()).is_some_and(|entry| {
            entry
                .joins
                .take(limits.joins_burst, limits.joins_per_s, Instant::now())
        })
    }

    /// For what waits for this connection.
    pub(crate) fn backlog(&self) -> Backlog {
        Backlog {
            addresses: Arc::clone(&self.addresses),
            key: self.key,
        }
    }

    /// Whether the address may send so many bytes more.
    fn take_bytes(&self, count: u32, now: Instant) -> bool {
        let limits = &self.addresses.limits;
        let (burst, per_s) = (
            limits.bytes_per_address_burst,
            limits.bytes_per_address_per_s,
        );
        let mut used = self.lock();
        used.entries
            .get_mut(&self.key())
            .is_some_and(|entry| entry.bytes.take_many(count, burst, per_s, now))
    }

    fn lock(&self) -> MutexGuard<'_, Ring<Used>> {
        lock(&self.addresses)
    }
}

fn lock(addresses: &Addresses) -> MutexGuard<'_, Ring<Used>> {
    let used = &addresses.used;
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backlog {
    /// Counts what waits, in bytes, where `counted` were until now. Whether the address has room for it;
    /// for what may be lost (`droppable`) there is half of the room. It is counted all the same: whoever
    /// does not queue it says so by the next count.
    pub(crate) fn count(&self, counted: &mut u32, waiting: usize, droppable: bool) -> bool {
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        if *counted == waiting {
            return true;
        }
        let mut used = lock(&self.addresses);
        let key = u128::from_ne_bytes(self.key);
        let Some(entry) = used.entries.get_mut(&key) else {
            return true;
        };
        entry.queued = entry
            .queued
            .saturating_sub(*counted)
            .saturating_add(waiting);
        *counted = waiting;
        let most = self.addresses.limits.queue_bytes_per_address_max;
        entry.queued <= if droppable { most / 2 } else { most }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(entry) = self.lock().entries.get_mut(&self.key()) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

/// One household: an IPv4 address, or a /64 of IPv6. Never 0.
pub(crate) fn household_key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => 0xffff_0000_0000 | u128::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) & !u128::from(u64::MAX)) | 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(3, start);
        let taken = (0..5).filter(|_| bucket.take(3, 2, start)).count();
        assert_eq!(taken, 3);
        let later = start + Duration::from_secs(1);
        let taken = (0..5).filter(|_| bucket.take(3, 2, later)).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn addresses_are_forgotten_a_few_at_a_time_but_not_those_that_count() {
        let limits = LimitsConfig {
            joins_burst: 1,
            joins_per_s: u32::MAX,
            bytes_per_address_burst: 1,
            bytes_per_address_per_s: u32::MAX,
            ..LimitsConfig::default()
        };
        let addresses = Arc::new(Addresses {
            addresses_max: 100,
            limits,
            used: Mutex::default(),
        });
        let hold = |n: u32| addresses.hold(IpAddr::from(n.to_be_bytes())).unwrap();
        let len = || addresses.used.lock().unwrap().entries.len();
        let staying: Vec<Held> = (0..50).map(hold).collect();
        for n in 50..100 {
            drop(hold(n));
        }
        // Their buckets are full again.
        std::thread::sleep(Duration::from_millis(1_100));
        for n in 1_000..1_200 {
            let before = len();
            drop(hold(n));
            assert!(len() + FORGET_STEP > before, "a few at a time");
        }
        let used = addresses.used.lock().unwrap();
        assert_eq!(
            used.entries.len(),
            250,
            "those that stay, and those of this second"
        );
        assert!(
            staying
                .iter()
                .all(|held| used.entries.contains_key(&held.key()))
        );
        assert!((50..100_u32).all(|n| {
            let key = household_key(IpAddr::from(n.to_be_bytes()));
            !used.entries.contains_key(&key)
        }));
        drop(used);
    }

    #[test]
    fn connections_of_an_address_are_bounded_and_given_back() {
        let addresses = Addresses::new(LimitsConfig {
            connections_per_address_max: 2,
            joins_burst: 1,
            joins_per_s: 0,
            ..LimitsConfig::default()
        });
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let (a, b) = (addresses.hold(v4), addresses.hold(mapped));
        assert!(a.is_some() && addresses.hold(v4).is_none(), "one household");
        drop(b);
        let again = addresses.hold(v4).unwrap();
        assert!(again.may_join() && !again.may_join());
        let (x, y) = ("2001:db8::1", "2001:db8::2");
        let key = |text: &str| household_key(text.parse().unwrap());
        assert_eq!(key(x), key(y));
        assert_ne!(key(x), key("2001:db8:0:1::1"));
    }
}

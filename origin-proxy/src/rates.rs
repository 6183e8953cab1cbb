//! How much one address may ask.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::config::LimitsConfig;

/// The requests and connections of each address.
pub(crate) struct Rates {
    requests_per_s: f64,
    connections_max: usize,
    addresses: Cache<IpAddr, Arc<Mutex<Account>>>,
}

#[derive(Debug)]
struct Account {
    /// Requests that may come at once.
    tokens: f64,
    filled: Instant,
    connections: usize,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Mutex<Account>>>);

impl Place {
    /// That of a connection which counts for no address.
    pub(crate) const fn uncounted() -> Self {
        Self(None)
    }
}

/// Over how long rates are averaged.
const BURST_S: f64 = 10.0;
/// Addresses that are remembered; the rest is forgotten, to the advantage of its viewers.
const ADDRESSES_MAX: u64 = 262_144;
/// An address that asks nothing for so long is forgotten: longer than idle connections last.
const QUIET: Duration = Duration::from_secs(600);

impl Rates {
    pub(crate) fn new(config: &LimitsConfig) -> Self {
        Self {
            requests_per_s: f64::from(config.requests_per_s_per_address_max),
            connections_max: config.connections_per_address_max,
            addresses: Cache::builder()
                .max_capacity(ADDRESSES_MAX)
                .time_to_idle(QUIET)
                .build(),
        }
    }

    /// Whether one more request of `address` is within its rate.
    pub(crate) fn allows_request(&self, address: IpAddr) -> bool {
        if self.requests_per_s <= 0.0 {
            return true;
        }
        let account = self.account(address);
        let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.duration_since(account.filled).as_secs_f64() * self.requests_per_s;
        account.tokens = (account.tokens + gained).min(self.requests_per_s * BURST_S);
        account.filled = now;
        if account.tokens < 1.0 {
            return false;
        }
        account.tokens -= 1.0;
        true
    }

    /// A place for one more connection of `address`; none if it has all that it may have.
    pub(crate) fn connect(&self, address: IpAddr) -> Option<Place> {
        if self.connections_max == 0 {
            return Some(Place::uncounted());
        }
        let account = self.account(address);
        {
            let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
            if account.connections >= self.connections_max {
                return None;
            }
            account.connections += 1;
        }
        Some(Place(Some(account)))
    }

    fn account(&self, address: IpAddr) -> Arc<Mutex<Account>> {
        let new = || {
            Arc::new(Mutex::new(Account {
                tokens: self.requests_per_s * BURST_S,
                filled: Instant::now(),
                connections: 0,
            }))
        };
        self.addresses.get_with(who(address), new)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
            account.connections = account.connections.saturating_sub(1);
        }
    }
}

/// Who an address stands for: an IPv6 household has a /64.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            Ipv6Addr::from(octets).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(requests_per_s: u32, connections: usize) -> Rates {
        Rates::new(&LimitsConfig {
            requests_per_s_per_address_max: requests_per_s,
            connections_per_address_max: connections,
            ..LimitsConfig::default()
        })
    }

    #[test]
    fn an_address_has_its_burst_and_no_more() {
        let rates = rates(1, 0);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let allowed = (0..50).filter(|_| rates.allows_request(a)).count();
        assert!((10..=12).contains(&allowed), "{allowed}");
        assert!(rates.allows_request(b));
    }

    #[test]
    fn a_household_shares_its_places() {
        let rates = rates(0, 2);
        let at = |text: &str| rates.connect(text.parse().unwrap());
        let first = at("2001:db8::1").unwrap();
        let _second = at("2001:db8::2").unwrap();
        assert!(at("2001:db8::3").is_none());
        assert!(at("2001:db8:0:1::3").is_some());
        drop(first);
        assert!(at("2001:db8::3").is_some());
        assert!(rates.allows_request("::1".parse().unwrap()));
    }
}

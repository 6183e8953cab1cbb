//! Connections that are not a viewer's yet, or never will be: how many there may be, in all and of one
//! address. Whoever opens them is not known yet, so they have seats of their own: the tracker answers
//! its health checks however many viewers it has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::LimitsConfig, quota::household_key};

/// Where connections wait to become a viewer's.
#[derive(Debug)]
pub(crate) struct Lobby {
    seats_max: u32,
    per_address_max: u32,
    seats: Arc<Semaphore>,
    /// How many each address has; at most as many entries as there are seats.
    taken: Mutex<HashMap<u128, u32>>,
}

/// A connection's seat; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    lobby: Arc<Lobby>,
    address: Option<u128>,
    _seat: OwnedSemaphorePermit,
}

impl Lobby {
    pub(crate) fn new(limits: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            seats_max: limits.requests_max,
            per_address_max: limits.requests_per_address_max,
            seats: Arc::new(Semaphore::new(limits.requests_max as usize)),
            taken: Mutex::default(),
        })
    }

    /// Waits for a free seat; nobody's so far.
    pub(crate) async fn seat(self: &Arc<Self>) -> Option<Seat> {
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok()?;
        Some(Seat {
            lobby: Arc::clone(self),
            address: None,
            _seat: seat,
        })
    }

    /// Waits until all seats are free.
    pub(crate) async fn empty(&self) {
        // Fails only if the seats were closed, which they never are.
        let _ = self.seats.acquire_many(self.seats_max).await;
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u128, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Says whose connection it is. Whether that address may have one more.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let key = household_key(address);
        let mut all = self.lobby.taken();
        let taken = all.entry(key).or_default();
        if *taken >= self.lobby.per_address_max {
            return false;
        }
        *taken += 1;
        drop(all);
        self.leave();
        self.address = Some(key);
        true
    }

    fn leave(&mut self) {
        let Some(key) = self.address.take() else {
            return;
        };
        let mut all = self.lobby.taken();
        if let Some(taken) = all.get_mut(&key) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&key);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_its_seats_and_gives_them_back() {
        let lobby = Lobby::new(&LimitsConfig {
            requests_max: 4,
            requests_per_address_max: 1,
            ..LimitsConfig::default()
        });
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut first = lobby.seat().await.unwrap();
        let mut second = lobby.seat().await.unwrap();
        assert!(first.take(a) && !second.take(a) && second.take(b));
        assert!(first.take("2001:db8::1".parse().unwrap()), "another one's");
        let mut third = lobby.seat().await.unwrap();
        assert!(third.take(a), "free again");
        drop((first, second, third));
        assert!(lobby.taken().is_empty());
        lobby.empty().await;
    }
}

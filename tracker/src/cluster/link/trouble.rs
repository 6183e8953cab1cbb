//! Why NATS is not there, told to operators: in the log, and by the API.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Server;

/// The same trouble is told again this often.
const AGAIN: Duration = Duration::from_secs(60);
/// Servers that are named, and the length of what is told of each, in characters.
const SERVERS_MAX: usize = 4;
const REASON_LEN_MAX: usize = 200;

/// What became of the attempts to reach NATS since it was last there.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    why: String,
    at: Option<Instant>,
}

impl Trouble {
    /// Before each attempt: what the attempts before have shown. Tells it where it is new, and then each
    /// minute.
    pub(super) fn on_attempt(&self, servers: &[Server]) {
        let why = reasons(servers);
        if self.is_to_be_told(why, Instant::now()) {
            let why = self.why();
            tracing::error!(%why, "no NATS server takes this node in: its viewers meet each other only");
        }
    }

    pub(super) fn on_connected(&self) {
        *self.told() = Told::default();
    }

    /// Nothing while there is none, or none is known.
    pub(super) fn why(&self) -> String {
        self.told().why.clone()
    }

    fn is_to_be_told(&self, why: String, now: Instant) -> bool {
        let mut told = self.told();
        let known = told.why == why && told.at.is_some_and(|at| now < at + AGAIN);
        if why.is_empty() || known {
            return false;
        }
        let at = Some(now);
        *told = Told { why, at };
        true
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What each server was not reached for. No user and no password: they stand in addresses, too.
fn reasons(servers: &[Server]) -> String {
    let tried = servers.iter().filter_map(|server| {
        let error = server.last_error.as_ref()?;
        let (host, port) = (server.addr.host(), server.addr.port());
        let error: String = error.chars().take(REASON_LEN_MAX).collect();
        Some(format!("{host}:{port}: {error}"))
    });
    let mut tried: Vec<String> = tried.collect();
    tried.sort_unstable();
    tried.truncate(SERVERS_MAX);
    tried.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, error: Option<&str>) -> Server {
        Server {
            addr: address.parse().unwrap(),
            failed_attempts: 1,
            did_connect: false,
            is_discovered: false,
            last_error: error.map(str::to_owned),
        }
    }

    #[test]
    fn trouble_is_told_when_it_is_new_and_each_minute() {
        let trouble = Trouble::default();
        let now = Instant::now();
        let told = |why: &str, at| trouble.is_to_be_told(why.into(), at);
        assert!(!told("", now), "nothing was tried yet");
        assert!(told("refused", now));
        assert!(!told("refused", now + AGAIN / 2));
        assert!(told("refused", now + AGAIN));
        assert!(told("not let in", now + AGAIN));
        assert_eq!(trouble.why(), "not let in");
        trouble.on_connected();
        assert_eq!(trouble.why(), "");
        assert!(told("not let in", now + AGAIN));
    }

    #[test]
    fn secrets_in_addresses_are_not_told_and_long_reasons_are_cut() {
        let long = "x".repeat(10_000);
        let mut servers = vec![
            server("nats://me:secret@b:4222", Some("authorization violation")),
            server("nats://me:secret@a:4223", Some("refused")),
            server("tls://c:4222", None),
        ];
        let why = reasons(&servers);
        assert_eq!(why, "a:4223: refused; b:4222: authorization violation");
        servers.extend((0..50).map(|n| server(&format!("nats://h{n}"), Some(&long))));
        assert!(reasons(&servers).len() < SERVERS_MAX * (REASON_LEN_MAX + 30));
    }
}

//! Relays (TURN) for viewers that may use them: addresses, and credentials that end.
//!
//! Credentials are those of TURN's REST API (`draft-uberti-behave-turn-rest-00`): the user name is
//! the time of their end and the viewer's name, the password an HMAC of it. The tracker and the TURN
//! server share a secret and nothing else; coturn calls it `static-auth-secret`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use swarm_core::{
    id::PeerId,
    limits::RELAYS_MAX,
    wire::tracker::{Relays, TrackerMsg, is_relay},
};

use crate::{Error, outgoing::Outgoing};

/// Shortest life of a credential, in seconds: half of it passes before the next one is sent.
const LIFETIME_S_MIN: u32 = 60;

/// Relays that viewers are told of: those of networks with `relay`, or all where `relay_only`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// TURN servers as `turn:host:port` (RFC 7065), at most four.
    pub urls: Vec<String>,
    /// The secret that they share with the tracker.
    pub secret: Option<String>,
    /// How long a credential holds, in seconds. A new one is sent after half of it.
    pub lifetime_s: u32,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            secret: None,
            lifetime_s: 3_600,
        }
    }
}

impl RelayConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("relay.{what}")));
        if self.urls.len() > RELAYS_MAX || !self.urls.iter().all(|url| is_relay(url)) {
            return wrong("urls: at most 4, turn: or turns:, of 256 bytes");
        }
        if !self.urls.is_empty() && self.secret.as_deref().unwrap_or_default().is_empty() {
            return wrong("secret is needed where there are urls");
        }
        if self.lifetime_s < LIFETIME_S_MIN {
            return wrong("lifetime_s must be at least 60");
        }
        Ok(())
    }

    /// User name and password that end at `until`, in seconds since 1970.
    fn credential(&self, peer: PeerId, until: u64) -> (String, String) {
        let username = format!("{until}:{peer}");
        let secret = self.secret.as_deref().unwrap_or_default();
        // Keys of all lengths are taken.
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
            return (username, String::new());
        };
        mac.update(username.as_bytes());
        let credential = STANDARD.encode(mac.finalize().into_bytes());
        (username, credential)
    }
}

/// A viewer's right to use relays.
#[derive(Debug)]
pub(crate) struct Lease {
    peer: PeerId,
    only: bool,
    renew_at: Instant,
}

impl Lease {
    /// Tells the viewer of relays. `only`: it is to use nothing else.
    pub(crate) fn give(
        config: &RelayConfig,
        peer: PeerId,
        only: bool,
        outgoing: &Arc<Outgoing>,
    ) -> Self {
        let renew_at = Instant::now();
        let mut lease = Self {
            peer,
            only,
            renew_at,
        };
        lease.renew(config, outgoing);
        lease
    }

    /// Sends the next credential when it is time.
    pub(crate) fn renew(&mut self, config: &RelayConfig, outgoing: &Arc<Outgoing>) {
        let now = Instant::now();
        if now < self.renew_at {
            return;
        }
        let lifetime = Duration::from_secs(u64::from(config.lifetime_s));
        self.renew_at = now + lifetime / 2;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let until = since_1970.unwrap_or_default() + lifetime;
        let (username, credential) = config.credential(self.peer, until.as_secs());
        let mut frame = Vec::new();
        TrackerMsg::Relays(Relays {
            only: self.only,
            username: &username,
            credential: &credential,
            urls: config.urls.iter().map(String::as_str).collect(),
        })
        .encode(&mut frame);
        outgoing.push(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '1795000000:0000000000000007' | openssl dgst -sha1 -hmac 'north' -binary | base64`
    #[test]
    fn credentials_are_those_of_openssl() {
        let config = RelayConfig {
            secret: Some("north".into()),
            ..RelayConfig::default()
        };
        let (username, credential) = config.credential(PeerId(7), 1_795_000_000);
        assert_eq!(username, "1795000000:0000000000000007");
        assert_eq!(credential, "XgI+bOXgyLUqxNfqPN2zZAvVsHI=");
    }
}

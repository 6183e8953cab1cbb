//! Viewers' names and what proves them.
//!
//! The proof is computed, not stored: a tracker that was restarted with the same key, or another
//! one of the same operator, knows a name that it never gave.

use sha2::{Digest, Sha256};
use swarm_core::id::PeerId;

use crate::{Error, admission::same};

/// Shortest key that an operator may set, in bytes.
const KEY_LEN_MIN: usize = 16;

#[derive(Clone)]
pub(crate) struct Names {
    key: [u8; 32],
}

impl Names {
    /// `key` is the operator's secret; without it names are proven for this process alone.
    pub(crate) fn new(key: Option<&str>) -> Result<Self, Error> {
        if let Some(text) = key {
            if text.len() < KEY_LEN_MIN {
                return Err(Error::Config("name_key must have at least 16 bytes".into()));
            }
            let digest = Sha256::digest(text.as_bytes());
            return Ok(Self { key: digest.into() });
        }
        let mut key = [0; 32];
        fill(&mut key)?;
        Ok(Self { key })
    }

    /// A name that nobody has.
    pub(crate) fn fresh(&self) -> Result<PeerId, Error> {
        let mut bytes = [0; 8];
        fill(&mut bytes)?;
        Ok(PeerId(u64::from_be_bytes(bytes).max(1)))
    }

    /// What proves a name. The input has a fixed length, so that nothing can be appended to it.
    pub(crate) fn secret_of(&self, peer: PeerId) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.key)
            .chain_update(peer.0.to_be_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }

    /// Whether `secret` proves the name.
    pub(crate) fn proves(&self, peer: PeerId, secret: u64) -> bool {
        same(&self.secret_of(peer).to_be_bytes(), &secret.to_be_bytes())
    }
}

/// Random bytes from the system.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|error| Error::Environment {
        what: "random bytes",
        source: std::io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_proven_by_their_secret_under_the_same_key() {
        let key = "an operator's long secret";
        let (one, again) = (
            Names::new(Some(key)).unwrap(),
            Names::new(Some(key)).unwrap(),
        );
        let other = Names::new(None).unwrap();
        let peer = one.fresh().unwrap();
        let secret = one.secret_of(peer);
        assert!(again.proves(peer, secret));
        assert!(!again.proves(peer, secret ^ 1));
        assert!(!other.proves(peer, secret));
        assert!(Names::new(Some("short")).is_err());
    }
}

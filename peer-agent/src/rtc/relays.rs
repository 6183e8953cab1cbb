//! Which datagrams take a way through a relay (TURN, RFC 8656).

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use webrtc::runtime::Transmit;

use super::signal::Candidate;

/// First bytes of ChannelData (RFC 8656 section 12.4).
const CHANNEL_DATA: std::ops::RangeInclusive<u8> = 0x40..=0x4f;
/// First bytes of a Send indication (RFC 8656 section 18.1).
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];

/// The relays that one connection has heard of.
#[derive(Debug, Default)]
pub(super) struct Relays {
    is_any: AtomicBool,
    of_peer: Mutex<Vec<IpAddr>>,
}

impl Relays {
    /// Notes one of our own candidates.
    pub(super) fn on_own(&self, candidate: &Candidate) {
        if candidate.is_relay() {
            self.is_any.store(true, Ordering::Relaxed);
        }
    }

    /// Notes a candidate of the peer.
    pub(super) fn on_remote(&self, candidate: &Candidate) {
        let Ok(ip) = candidate.address().parse() else {
            return;
        };
        if candidate.is_relay() {
            let mut of_peer = self.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
            if !of_peer.contains(&ip) {
                of_peer.push(ip);
            }
            self.is_any.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there may be a way through a relay.
    pub(super) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// Whether this goes to our relay to be passed on, or to an address that the peer has at one.
    pub(super) fn takes(&self, transmit: &Transmit<'_>) -> bool {
        if !self.is_any() {
            return false;
        }
        let is_wrapped = transmit.contents.starts_with(&SEND_INDICATION)
            || (transmit.contents.first()).is_some_and(|first| CHANNEL_DATA.contains(first));
        let of_peer = || self.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
        is_wrapped || of_peer().contains(&transmit.destination.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: &str, ip: &str) -> Candidate {
        let line = format!("candidate:1 1 udp 16777215 {ip} 50000 typ {kind}");
        Candidate::parse(&line).unwrap()
    }

    #[test]
    fn what_a_relay_passes_on_is_told_from_what_goes_directly() {
        let takes = |relays: &Relays, contents: &[u8], to: &str| {
            relays.takes(&Transmit {
                destination: to.parse().unwrap(),
                ecn: None,
                contents,
                segment_size: None,
                src_ip: None,
            })
        };
        const DTLS: &[u8] = &[23, 254, 253];
        const CHANNEL: &[u8] = &[0x40, 1, 0, 3];
        const INDICATION: &[u8] = &[0x00, 0x16, 0, 8];
        const BINDING: &[u8] = &[0x00, 0x01, 0, 8];
        let relays = Relays::default();
        relays.on_remote(&candidate("host", "192.0.2.1"));
        assert!(!takes(&relays, CHANNEL, "198.51.100.1:3478"));
        relays.on_own(&candidate("relay", "198.51.100.1"));
        assert!(takes(&relays, CHANNEL, "198.51.100.1:3478"));
        assert!(takes(&relays, INDICATION, "198.51.100.1:3478"));
        assert!(!takes(&relays, BINDING, "198.51.100.1:3478"));
        assert!(!takes(&relays, DTLS, "192.0.2.1:50000"));
        relays.on_remote(&candidate("relay", "203.0.113.9"));
        assert!(takes(&relays, DTLS, "203.0.113.9:50000"));
    }
}

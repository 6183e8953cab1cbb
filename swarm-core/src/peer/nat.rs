//! How this viewer's network maps ports, by the candidates that its links find.

use alloc::boxed::Box;

use crate::{
    id::Slot,
    rng::mix,
    wire::{signal::Signal, tracker::Nat},
};

/// What the candidates of a link say so far. Each STUN server tells a socket the address that it has towards
/// this server: two for one socket mean another one for each destination (RFC 4787 section 4.1). Browsers
/// hide the socket, and name equal addresses once.
#[derive(Clone, Debug)]
pub(super) struct NatProbe {
    slot: Slot,
    /// The first reflexive candidate's socket and IP address, and its port, hashed.
    first: Option<(u64, u64)>,
    differs: bool,
    /// A socket is reachable under its own address.
    is_open: bool,
    has_ipv6: bool,
}

/// This viewer signals `payload` over the link in `slot`; the tracker has named so many STUN servers. What its
/// network is, if that tells. `probe` is for the link whose candidates were begun last.
pub(super) fn on_signal(
    probe: &mut Option<Box<NatProbe>>,
    slot: Slot,
    stun_count: u8,
    payload: &[u8],
) -> Option<Nat> {
    let signal = Signal::decode(payload).ok()?;
    if let Signal::Description(_) = signal {
        *probe = Some(Box::new(NatProbe::new(slot)));
    }
    let begun = probe.as_mut().filter(|probe| probe.slot == slot)?;
    match signal {
        Signal::Description(description) => {
            for line in description.candidates {
                begun.on_candidate(line);
            }
        }
        Signal::Candidate(line) => begun.on_candidate(line),
        Signal::EndOfCandidates => {
            let is_mapped = begun.first.is_some() && stun_count > 1;
            let found = begun.found().or(is_mapped.then_some(Nat::Cone));
            *probe = None;
            return found;
        }
    }
    begun.found()
}

impl NatProbe {
    const fn new(slot: Slot) -> Self {
        Self {
            slot,
            first: None,
            differs: false,
            is_open: false,
            has_ipv6: false,
        }
    }

    /// A candidate line (RFC 8839 section 5.1) without its first word.
    fn on_candidate(&mut self, line: &str) {
        let mut words = [""; 12];
        for (word, text) in words.iter_mut().zip(line.split(' ')) {
            *word = text;
        }
        let [_, _, _, _, ip, port, _, kind, _, base_ip, _, base_port] = words;
        let is_reflexive = kind == "srflx";
        if ip.contains(':') {
            // Global addresses begin with 2 or 3 (RFC 4291 section 2.4).
            self.has_ipv6 |= is_reflexive || ip.starts_with(['2', '3']);
        } else if is_reflexive {
            self.is_open |= (base_ip, base_port) == (ip, port);
            let socket = [ip, base_ip, base_port].iter().fold(0, digest);
            let port = digest(0, &port);
            let (first, first_port) = *self.first.get_or_insert((socket, port));
            self.differs |= first == socket && first_port != port;
        }
    }

    fn found(&self) -> Option<Nat> {
        if self.is_open {
            Some(Nat::Open)
        } else if self.differs {
            // Whoever has IPv6 too reaches those who have, whatever becomes of ports with IPv4.
            Some(if self.has_ipv6 {
                Nat::Cone
            } else {
                Nat::Symmetric
            })
        } else {
            None
        }
    }
}

fn digest(hash: u64, text: &&str) -> u64 {
    text.bytes()
        .fold(mix(hash), |hash, byte| mix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn payload_of(signal: &Signal<'_>) -> Vec<u8> {
        let mut payload = Vec::new();
        signal.encode(&mut payload);
        payload
    }

    /// What a link's candidates tell, with so many servers.
    fn nat_with(servers: u8, lines: &[&str]) -> Option<Nat> {
        let (first, rest) = lines.split_at(1);
        let description = Signal::Description(crate::wire::signal::Description {
            is_offer: true,
            setup: crate::wire::signal::Setup::ActPass,
            ufrag: "abcd",
            pwd: "0123456789abcdefghijklmn",
            fingerprint_sha256: [0; 32],
            candidates: first.to_vec(),
        });
        let rest = rest.iter().map(|line| Signal::Candidate(line));
        let signals = core::iter::once(description).chain(rest);
        let (mut probe, mut said) = (None, None);
        for signal in signals.chain([Signal::EndOfCandidates]) {
            let payload = payload_of(&signal);
            let of_another = payload_of(&Signal::EndOfCandidates);
            for (slot, junk) in [(3, &payload[..1]), (7, &of_another), (3, &[9])] {
                if junk != payload {
                    assert_eq!(on_signal(&mut probe, Slot(slot), servers, junk), None);
                }
            }
            said = on_signal(&mut probe, Slot(3), servers, &payload).or(said);
        }
        assert!(probe.is_none(), "it is over");
        said
    }

    fn nat_of(lines: &[&str]) -> Option<Nat> {
        nat_with(2, lines)
    }

    const HOST: &str = "1 1 udp 2113937151 192.168.1.7 40000 typ host";
    const HIDDEN: &str = "1 1 udp 2113937151 a-b-c.local 40000 typ host";

    #[test]
    fn a_socket_with_two_addresses_is_behind_a_symmetric_nat() {
        let one = "2 1 udp 1677732095 203.0.113.5 61000 typ srflx raddr 192.168.1.7 rport 40000";
        let two = "2 1 udp 1677732095 203.0.113.5 61001 typ srflx raddr 192.168.1.7 rport 40000";
        let of_another = "3 1 udp 1677732095 203.0.113.5 61002 typ srflx raddr 10.0.0.2 rport 4";
        assert_eq!(nat_of(&[HOST, one, two]), Some(Nat::Symmetric));
        assert_eq!(nat_of(&[HOST, one, of_another, two]), Some(Nat::Symmetric));
        assert_eq!(nat_of(&[HOST, one, of_another]), Some(Nat::Cone));
        assert_eq!(nat_of(&[HOST, one, one]), Some(Nat::Cone));
        assert_eq!(nat_of(&[HOST]), None);
    }

    #[test]
    fn browsers_that_hide_their_sockets_tell_as_much() {
        let one = "2 1 udp 1677732095 203.0.113.5 61000 typ srflx raddr 0.0.0.0 rport 0";
        let two = "2 1 udp 1677732095 203.0.113.5 61001 typ srflx raddr 0.0.0.0 rport 0";
        assert_eq!(nat_of(&[HIDDEN, one, two]), Some(Nat::Symmetric));
        assert_eq!(nat_of(&[HIDDEN, one]), Some(Nat::Cone));
        let global = "3 1 udp 1677732095 2001:db8::7 61000 typ srflx";
        let both = nat_of(&[HIDDEN, one, two, global]);
        assert_eq!(both, Some(Nat::Cone), "it has IPv6");
    }

    #[test]
    fn whoever_has_its_own_address_is_open() {
        let same = "2 1 udp 1677732095 203.0.113.5 40000 typ srflx raddr 203.0.113.5 rport 40000";
        assert_eq!(nat_of(&[HOST, same]), Some(Nat::Open));
    }

    #[test]
    fn one_server_says_too_little_and_junk_says_nothing() {
        let one = "2 1 udp 1677732095 203.0.113.5 61000 typ srflx";
        assert_eq!(nat_with(1, &[HOST, one]), None);
        let junk = ["", "1 1 udp", "srflx srflx", "     "];
        assert_eq!(nat_of(&junk), None);
    }
}

//! What an operator promises viewers: nobody's address is shown beyond it.

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::{Network, P2pMode},
    wire::{signal::Signal, tracker::ViewerFlags},
};

/// Whose addresses are shown to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyConfig {
    /// Viewers of one stream below which nobody is introduced.
    pub viewers_min: u32,
    /// Countries whose viewers use peers, two letters each; empty for all.
    pub countries: Vec<String>,
    /// Whether viewers must have agreed, and say so when they join.
    pub consent: bool,
    /// Whether viewers are shown addresses of relays (TURN) alone.
    pub relay_only: bool,
}

impl PrivacyConfig {
    /// Whether a viewer there, with these flags, may use peers.
    pub(crate) fn mode(&self, network: &Network, flags: ViewerFlags) -> P2pMode {
        let listed = |country: &String| country.as_bytes() == network.country;
        let abroad = !self.countries.is_empty() && !self.countries.iter().any(listed);
        if abroad || (self.consent && !flags.has(ViewerFlags::CONSENT)) {
            P2pMode::Off
        } else {
            network.mode
        }
    }
}

/// The signal without the addresses that are not a relay's; `None` where nothing is left of it, or
/// where it cannot be read.
pub(crate) fn relayed(payload: &[u8]) -> Option<Vec<u8>> {
    let mut signal = Signal::decode(payload).ok()?;
    match &mut signal {
        Signal::Description(description) => description.candidates.retain(|line| is_relay(line)),
        Signal::Candidate(line) if !is_relay(line) => return None,
        Signal::Candidate(_) | Signal::EndOfCandidates => {}
    }
    let mut kept = Vec::new();
    signal.encode(&mut kept);
    Some(kept)
}

/// Whether a candidate line shows a relay and nothing else: `raddr` would show what is behind it.
fn is_relay(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    words.get(6..8) == Some(&["typ", "relay"]) && words.len() == 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::wire::signal::{Description, Setup};

    const HOST: &str = "1 1 udp 2130706431 192.0.2.1 40000 typ host";
    const RELAY: &str = "2 1 udp 16777215 203.0.113.9 50000 typ relay";
    const TELLTALE: &str =
        "2 1 udp 16777215 203.0.113.9 50000 typ relay raddr 192.0.2.1 rport 40000";

    fn encoded(signal: &Signal<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        signal.encode(&mut bytes);
        bytes
    }

    #[test]
    fn only_relays_addresses_pass() {
        let description = |candidates: Vec<&'static str>| {
            encoded(&Signal::Description(Description {
                is_offer: true,
                setup: Setup::ActPass,
                ufrag: "abcd",
                pwd: "0123456789012345678901",
                fingerprint_sha256: [7; 32],
                candidates,
            }))
        };
        let all = description(vec![HOST, RELAY, TELLTALE]);
        assert_eq!(relayed(&all), Some(description(vec![RELAY])));
        assert_eq!(relayed(&encoded(&Signal::Candidate(HOST))), None);
        assert_eq!(relayed(&encoded(&Signal::Candidate(TELLTALE))), None);
        let relay = encoded(&Signal::Candidate(RELAY));
        assert_eq!(relayed(&relay), Some(relay.clone()));
        let end = encoded(&Signal::EndOfCandidates);
        assert_eq!(relayed(&end), Some(end.clone()));
        assert_eq!(relayed(b"\x03\x07rubbish"), None);
        assert_eq!(relayed(b""), None);
    }

    #[test]
    fn modes_combine() {
        let there = Network {
            country: *b"DE",
            ..Network::default()
        };
        let agreed = ViewerFlags::CONSENT;
        let config = |countries: &[&str], consent| PrivacyConfig {
            countries: countries.iter().map(ToString::to_string).collect(),
            consent,
            ..PrivacyConfig::default()
        };
        for (config, network, flags, mode) in [
            (
                config(&[], false),
                &there,
                ViewerFlags::default(),
                P2pMode::On,
            ),
            (
                config(&["FR", "DE"], false),
                &there,
                ViewerFlags::default(),
                P2pMode::On,
            ),
            (config(&["FR"], false), &there, agreed, P2pMode::Off),
            (
                config(&["FR"], false),
                &Network::default(),
                agreed,
                P2pMode::Off,
            ),
            (
                config(&[], true),
                &there,
                ViewerFlags::default(),
                P2pMode::Off,
            ),
            (config(&["DE"], true), &there, agreed, P2pMode::On),
        ] {
            assert_eq!(config.mode(network, flags), mode);
        }
        let leech = Network {
            mode: P2pMode::Leech,
            ..there
        };
        assert_eq!(config(&[], false).mode(&leech, agreed), P2pMode::Leech);
    }
}

//! What two peers tell each other, through the tracker, to open a connection: checked, and owned.
//!
//! [`super::signal`] is its form in bytes, [`super::sdp`] its form for WebRTC stacks.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use super::{DecodeError, signal as wire};
use crate::limits::SIGNAL_LEN_MAX;

/// Longest ICE user name fragment accepted, in bytes. RFC 8839 sets at least 4; browsers use 4.
pub const UFRAG_BYTES_MAX: usize = 32;
/// Longest ICE password accepted, in bytes. RFC 8839 sets at least 22; browsers use 24.
pub const PWD_BYTES_MAX: usize = 64;
/// Most candidates that one [`Description`] carries, and that one peer may send per connection
/// after it.
pub const CANDIDATES_MAX: usize = 12;
/// Longest candidate line accepted, in bytes.
pub const CANDIDATE_BYTES_MAX: usize = 256;

const UFRAG_BYTES_MIN: usize = 4;
const PWD_BYTES_MIN: usize = 22;

/// One signalling message between two peers.
///
/// A connection needs a [`Description`] each way; candidates may ride in it or trickle after it,
/// and may arrive in any order, even before the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// The offer or the answer.
    Description(Description),
    /// One more address to try.
    Candidate(Candidate),
    /// The sender will name no more candidates. A hint; nothing waits for it.
    EndOfCandidates,
}

/// Whether a [`Description`] opens the exchange or closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptionKind {
    /// Sent first, by the peer that the tracker told to offer.
    Offer,
    /// Sent in reply to an offer.
    Answer,
}

/// Who opens the DTLS handshake (`a=setup` of RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Either; what an offer says.
    ActPass,
    /// The sender of this description.
    Active,
    /// The receiver of this description.
    Passive,
}

/// All of an SDP that differs between two Shoal connections; [`super::sdp::to_sdp`] restores the rest.
#[derive(Clone, PartialEq, Eq)]
pub struct Description {
    /// Offer or answer.
    pub kind: DescriptionKind,
    /// ICE user name fragment: 4 to [`UFRAG_BYTES_MAX`] ICE characters.
    pub ufrag: String,
    /// ICE password: 22 to [`PWD_BYTES_MAX`] ICE characters. Valid for this connection only.
    pub pwd: String,
    /// SHA-256 of the sender's DTLS certificate: what proves that the peer is the one signalled.
    pub fingerprint_sha256: [u8; 32],
    /// Who opens the DTLS handshake.
    pub setup: Setup,
    /// Addresses known so far, at most [`CANDIDATES_MAX`].
    pub candidates: Vec<Candidate>,
}

impl fmt::Debug for Description {
    /// Leaves the password out, so that logs cannot leak it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Description")
            .field("kind", &self.kind)
            .field("ufrag", &self.ufrag)
            .field("setup", &self.setup)
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

impl Description {
    /// Checks every limit of the wire format. Call it on whatever was decoded from the network.
    pub fn validate(&self) -> Result<(), SignalError> {
        check_ice_chars("ufrag", &self.ufrag, UFRAG_BYTES_MIN, UFRAG_BYTES_MAX)?;
        check_ice_chars("pwd", &self.pwd, PWD_BYTES_MIN, PWD_BYTES_MAX)?;
        if self.candidates.len() > CANDIDATES_MAX {
            return Err(SignalError::TooManyCandidates(self.candidates.len()));
        }
        let setup_fits = match self.kind {
            DescriptionKind::Offer => true,
            DescriptionKind::Answer => self.setup != Setup::ActPass,
        };
        if setup_fits {
            Ok(())
        } else {
            Err(SignalError::AnswerWithActPass)
        }
    }
}

/// One ICE candidate, as the text of its SDP attribute without `a=`: `candidate:1 1 udp 2130706431
/// 192.0.2.1 40000 typ host`.
///
/// The text is checked, so it can be put on an SDP line as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate(String);

impl Candidate {
    /// Checks the form of a candidate line and keeps what Shoal needs of it.
    ///
    /// Browser extensions after the type and related address (`generation`, `ufrag`,
    /// `network-id`, `network-cost`) are cut off: the receiver has no use for them. Nor has it for
    /// the address that a relay hides: [`HIDDEN`] stands for it.
    pub fn parse(line: &str) -> Result<Self, SignalError> {
        if line.len() > CANDIDATE_BYTES_MAX {
            return Err(SignalError::CandidateTooLong(line.len()));
        }
        let malformed = |what| SignalError::MalformedCandidate(what);
        if !line.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(malformed("characters"));
        }
        let body = line.strip_prefix("candidate:").ok_or(malformed("prefix"))?;
        let words: Vec<&str> = body.split(' ').collect();
        let [
            foundation,
            component,
            protocol,
            priority,
            address,
            port,
            typ,
            kind,
            rest @ ..,
        ] = words.as_slice()
        else {
            return Err(malformed("number of fields"));
        };
        if foundation.is_empty() || foundation.len() > 32 {
            return Err(malformed("foundation"));
        }
        if *component != "1" {
            return Err(malformed("component"));
        }
        if !protocol.eq_ignore_ascii_case("udp") && !protocol.eq_ignore_ascii_case("tcp") {
            return Err(malformed("protocol"));
        }
        priority.parse::<u32>().map_err(|_| malformed("priority"))?;
        check_address(address)?;
        port.parse::<u16>().map_err(|_| malformed("port"))?;
        if *typ != "typ" || !["host", "srflx", "prflx", "relay"].contains(kind) {
            return Err(malformed("type"));
        }
        if rest.iter().any(|word| word.is_empty()) {
            return Err(malformed("extensions"));
        }
        if *kind == RELAY {
            return Ok(Self(format!("candidate:{} {HIDDEN}", words[..8].join(" "))));
        }
        let kept = 8 + kept_extension_words(rest);
        Ok(Self(format!("candidate:{}", words[..kept].join(" "))))
    }

    /// The line, with its `candidate:` prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names a relay (TURN).
    pub fn is_relay(&self) -> bool {
        self.0.split(' ').nth(7) == Some(RELAY)
    }

    /// The address field: an IP address or a `.local` name.
    pub fn address(&self) -> &str {
        self.0.split(' ').nth(4).unwrap_or_default()
    }
}

/// Why a signalling message cannot be used. Always the fault of the peer that sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// A user name fragment or password has the wrong length or characters.
    #[error("peer sent a bad ICE {0}")]
    BadCredential(&'static str),
    /// More candidates than [`CANDIDATES_MAX`] in one description.
    #[error("peer sent {0} candidates in one description, at most {CANDIDATES_MAX} are allowed")]
    TooManyCandidates(usize),
    /// A candidate line longer than [`CANDIDATE_BYTES_MAX`].
    #[error("peer sent a candidate of {0} bytes, at most {CANDIDATE_BYTES_MAX} are allowed")]
    CandidateTooLong(usize),
    /// A candidate line that RFC 8839 does not allow, with the field at fault.
    #[error("peer sent a malformed candidate: bad {0}")]
    MalformedCandidate(&'static str),
    /// An answer must choose who opens the handshake.
    #[error("peer sent an answer with setup actpass")]
    AnswerWithActPass,
}

/// Why a payload is no signal. The fault is the other viewer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are not a signalling message.
    #[error("peer sent malformed signalling: {0}")]
    Malformed(#[from] DecodeError),
    /// They are one, with values beyond the limits.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

const CANDIDATE_PREFIX: &str = "candidate:";
/// The type of a relay's candidate.
const RELAY: &str = "relay";
/// What stands for the address behind a relay: some stacks want to read one.
const HIDDEN: &str = "raddr 0.0.0.0 rport 0";

/// The payload of a signal; `None` if it is longer than the tracker accepts.
pub fn encode(signal: &Signal) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    match signal {
        Signal::Description(description) => wire::Signal::Description(wire::Description {
            is_offer: description.kind == DescriptionKind::Offer,
            setup: match description.setup {
                Setup::ActPass => wire::Setup::ActPass,
                Setup::Active => wire::Setup::Active,
                Setup::Passive => wire::Setup::Passive,
            },
            ufrag: &description.ufrag,
            pwd: &description.pwd,
            fingerprint_sha256: description.fingerprint_sha256,
            candidates: description.candidates.iter().map(short).collect(),
        }),
        Signal::Candidate(candidate) => wire::Signal::Candidate(short(candidate)),
        Signal::EndOfCandidates => wire::Signal::EndOfCandidates,
    }
    .encode(&mut payload);
    (payload.len() <= SIGNAL_LEN_MAX).then_some(payload)
}

/// Reads a payload. Candidates that cannot be used are left out of descriptions.
///
/// # Errors
/// [`PayloadError`]; the fault is the other viewer's.
pub fn decode(payload: &[u8]) -> Result<Signal, PayloadError> {
    Ok(match wire::Signal::decode(payload)? {
        wire::Signal::Description(description) => {
            let description = Description {
                kind: if description.is_offer {
                    DescriptionKind::Offer
                } else {
                    DescriptionKind::Answer
                },
                ufrag: description.ufrag.into(),
                pwd: description.pwd.into(),
                fingerprint_sha256: description.fingerprint_sha256,
                setup: match description.setup {
                    wire::Setup::ActPass => Setup::ActPass,
                    wire::Setup::Active => Setup::Active,
                    wire::Setup::Passive => Setup::Passive,
                },
                candidates: description
                    .candidates
                    .iter()
                    .flat_map(|text| long(text))
                    .collect(),
            };
            description.validate()?;
            Signal::Description(description)
        }
        wire::Signal::Candidate(text) => Signal::Candidate(long(text)?),
        wire::Signal::EndOfCandidates => Signal::EndOfCandidates,
    })
}

fn short(candidate: &Candidate) -> &str {
    let text = candidate.as_str();
    let text = text.strip_prefix(CANDIDATE_PREFIX).unwrap_or_default();
    text.strip_suffix(HIDDEN).unwrap_or(text).trim_end()
}

fn long(text: &str) -> Result<Candidate, SignalError> {
    Candidate::parse(&format!("{CANDIDATE_PREFIX}{text}"))
}

/// Whether all of `text` is in RFC 8839's ice-char set.
fn check_ice_chars(
    name: &'static str,
    text: &str,
    bytes_min: usize,
    bytes_max: usize,
) -> Result<(), SignalError> {
    let ice_char = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    if (bytes_min..=bytes_max).contains(&text.len()) && text.bytes().all(ice_char) {
        Ok(())
    } else {
        Err(SignalError::BadCredential(name))
    }
}

/// Accepts IP addresses and mDNS names; any other host name would make us query DNS for a peer.
fn check_address(address: &str) -> Result<(), SignalError> {
    let is_mdns = address.strip_suffix(".local").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    if is_mdns || address.parse::<core::net::IpAddr>().is_ok() {
        Ok(())
    } else {
        Err(SignalError::MalformedCandidate("address"))
    }
}

/// How many words after the type to keep: `raddr`, `rport` and `tcptype` with their values.
fn kept_extension_words(rest: &[&str]) -> usize {
    rest.chunks_exact(2)
        .take_while(|pair| ["raddr", "rport", "tcptype"].contains(&pair[0]))
        .count()
        * 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn nobody_learns_what_is_behind_a_relay() {
        let line = "candidate:2 1 udp 16777215 203.0.113.9 50000 typ relay";
        let behind = format!("{line} raddr 192.0.2.1 rport 40000 generation 0");
        for line in [line, &behind] {
            let candidate = Candidate::parse(line).unwrap();
            assert!(candidate.is_relay());
            assert!(!candidate.as_str().contains("192.0.2.1"));
            let signal = Signal::Candidate(candidate);
            let payload = encode(&signal).unwrap();
            assert!(payload.ends_with(b"typ relay"));
            assert_eq!(decode(&payload), Ok(signal));
        }
    }

    #[test]
    fn signals_survive_the_way() {
        let candidate = Candidate::parse("candidate:1 1 udp 1 192.0.2.1 1 typ host").unwrap();
        let description = Description {
            kind: DescriptionKind::Answer,
            ufrag: "abcd".into(),
            pwd: "p".repeat(22),
            fingerprint_sha256: [9; 32],
            setup: Setup::Active,
            candidates: vec![candidate.clone(); 2],
        };
        for signal in [
            Signal::Description(description),
            Signal::Candidate(candidate),
            Signal::EndOfCandidates,
        ] {
            let payload = encode(&signal).unwrap();
            assert!(payload.len() < 200);
            assert_eq!(decode(&payload), Ok(signal));
        }
        assert!(decode(&[3, 1, b'x']).is_err());
        assert!(decode(&[99]).is_err());
    }

    #[test]
    fn candidate_keeps_what_matters() {
        let line = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.17 \
                    rport 46154 generation 0 ufrag EEtu network-id 3 network-cost 10";
        let parsed = Candidate::parse(line).unwrap();
        assert_eq!(
            parsed.as_str(),
            "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.17 rport 46154"
        );
        assert_eq!(Candidate::parse(parsed.as_str()).unwrap(), parsed);
        assert_eq!(parsed.address(), "203.0.113.7");
    }

    #[test]
    fn candidate_accepts_mdns_ipv6_and_tcp() {
        for line in [
            "candidate:1 1 udp 2113937151 5f0a2a38-8c6c-4b53-a3ab-8f1e0e2fbd8c.local 40000 typ host",
            "candidate:1 1 UDP 2130706431 2001:db8::1 40000 typ host",
            "candidate:1 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active",
        ] {
            assert_eq!(Candidate::parse(line).unwrap().as_str(), line);
        }
    }

    #[test]
    fn candidate_rejects_malformed_lines() {
        let long = format!(
            "candidate:1 1 udp 1 192.0.2.1 1 typ host raddr {}",
            "1".repeat(300)
        );
        for line in [
            "",
            "candidate:",
            "candidate:1 1 udp 1 192.0.2.1 1 typ",
            "candidate:1 2 udp 1 192.0.2.1 1 typ host",
            "candidate:1 1 sctp 1 192.0.2.1 1 typ host",
            "candidate:1 1 udp -1 192.0.2.1 1 typ host",
            "candidate:1 1 udp 1 tracker.example.com 1 typ host",
            "candidate:1 1 udp 1 192.0.2.1 70000 typ host",
            "candidate:1 1 udp 1 192.0.2.1 1 typ any",
            "candidate:1 1 udp 1 192.0.2.1 1 typ host\r\na=setup:active",
            "candidate:1 1 udp 1 .local 1 typ host",
            &long,
        ] {
            assert!(Candidate::parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn description_limits() {
        let good = Description {
            kind: DescriptionKind::Answer,
            ufrag: "abcd".into(),
            pwd: "a".repeat(22),
            fingerprint_sha256: [0; 32],
            setup: Setup::Active,
            candidates: vec![],
        };
        assert_eq!(good.validate(), Ok(()));
        let broken = |change: fn(&mut Description)| {
            let mut description = good.clone();
            change(&mut description);
            description.validate().is_err()
        };
        assert!(broken(|d| d.ufrag = "abc".into()));
        assert!(broken(|d| d.ufrag = "abc\r".into()));
        assert!(broken(|d| d.ufrag = "a".repeat(33)));
        assert!(broken(|d| d.pwd = "a".repeat(65)));
        assert!(broken(|d| d.setup = Setup::ActPass));
        let line = "candidate:1 1 udp 1 192.0.2.1 1 typ host";
        assert!(broken(|d| d.candidates = vec![
            Candidate::parse(
                "candidate:1 1 udp 1 192.0.2.1 1 typ host"
            )
            .unwrap();
            13
        ]));
        assert!(Candidate::parse(line).is_ok());
        assert!(!format!("{good:?}").contains(&good.pwd));
    }
}

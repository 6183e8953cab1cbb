//! Compact WebRTC signalling: what of an SDP differs between two Shoal connections.
//!
//! The payload of [`super::tracker::ViewerMsg::Signal`], specified in
//! `docs/protocol/signalling.md`. Only drivers look inside, and the machine at what its own driver has
//! found out; the tracker passes it on unread. Texts are checked for length and ASCII here; that they
//! are legal in an SDP is for the driver to check.

use alloc::vec::Vec;

use super::{DecodeError, Reader, Writer};

/// Candidates in one description.
pub const CANDIDATES_MAX: usize = 12;
const OFFER: u8 = 1;
const ANSWER: u8 = 2;
const CANDIDATE: u8 = 3;
const END_OF_CANDIDATES: u8 = 4;

/// Who opens the DTLS handshake (`a=setup` of RFC 8842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Either; what an offer says.
    ActPass,
    /// The sender of this description.
    Active,
    /// The receiver of this description.
    Passive,
}

impl Setup {
    const ALL: [Self; 3] = [Self::ActPass, Self::Active, Self::Passive];
}

/// An offer or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description<'a> {
    /// An offer; without it an answer.
    pub is_offer: bool,
    /// Who opens the DTLS handshake.
    pub setup: Setup,
    /// ICE user name fragment.
    pub ufrag: &'a str,
    /// ICE password.
    pub pwd: &'a str,
    /// SHA-256 of the sender's DTLS certificate.
    pub fingerprint_sha256: [u8; 32],
    /// Candidate lines without `a=candidate:`, at most [`CANDIDATES_MAX`].
    pub candidates: Vec<&'a str>,
}

/// One signalling message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal<'a> {
    /// Kinds 1 (offer) and 2 (answer).
    Description(Description<'a>),
    /// Kind 3: a candidate line without `a=candidate:`.
    Candidate(&'a str),
    /// Kind 4: no more candidates will come.
    EndOfCandidates,
}

impl<'a> Signal<'a> {
    /// Appends the message to `buffer`. Texts over 255 bytes and surplus candidates are cut.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut out = Writer::onto(core::mem::take(buffer));
        match self {
            Self::Description(description) => {
                out.u8(if description.is_offer { OFFER } else { ANSWER });
                out.u8(description.setup as u8);
                write_text(&mut out, description.ufrag);
                write_text(&mut out, description.pwd);
                out.bytes(&description.fingerprint_sha256);
                out.u8(description.candidates.len().min(CANDIDATES_MAX) as u8);
                for candidate in description.candidates.iter().take(CANDIDATES_MAX) {
                    write_text(&mut out, candidate);
                }
            }
            Self::Candidate(candidate) => {
                out.u8(CANDIDATE);
                write_text(&mut out, candidate);
            }
            Self::EndOfCandidates => out.u8(END_OF_CANDIDATES),
        }
        *buffer = out.into_vec();
    }

    /// Reads one message.
    ///
    /// # Errors
    /// [`DecodeError`]; the fault is the other viewer's.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let signal = match input.u8()? {
            kind @ (OFFER | ANSWER) => Self::Description(Description {
                is_offer: kind == OFFER,
                setup: *Setup::ALL
                    .get(usize::from(input.u8()?))
                    .ok_or(DecodeError::OutOfRange("setup"))?,
                ufrag: read_text(&mut input, "ufrag")?,
                pwd: read_text(&mut input, "pwd")?,
                fingerprint_sha256: input.array()?,
                candidates: {
                    let count = input.count("candidates", CANDIDATES_MAX)?;
                    let lines = (0..count).map(|_| read_text(&mut input, "candidate"));
                    lines.collect::<Result<_, _>>()?
                },
            }),
            CANDIDATE => Self::Candidate(read_text(&mut input, "candidate")?),
            END_OF_CANDIDATES => Self::EndOfCandidates,
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        input.finish()?;
        Ok(signal)
    }
}

/// A length byte, then that many bytes of printable ASCII.
fn write_text(out: &mut Writer, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    out.u8(bytes.len() as u8);
    out.bytes(bytes);
}

fn read_text<'a>(input: &mut Reader<'a>, field: &'static str) -> Result<&'a str, DecodeError> {
    let len = usize::from(input.u8()?);
    let bytes = input.bytes(len)?;
    if !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(DecodeError::OutOfRange(field));
    }
    core::str::from_utf8(bytes).map_err(|_| DecodeError::OutOfRange(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn description() -> Description<'static> {
        Description {
            is_offer: true,
            setup: Setup::ActPass,
            ufrag: "abcd",
            pwd: "0123456789abcdefghijkl",
            fingerprint_sha256: [0xab; 32],
            candidates: vec!["1 1 udp 2130706431 192.0.2.1 40000 typ host"],
        }
    }

    #[test]
    fn signals_round_trip() {
        let answer = Description {
            is_offer: false,
            setup: Setup::Active,
            candidates: vec![],
            ..description()
        };
        for signal in [
            Signal::Description(description()),
            Signal::Description(answer),
            Signal::Candidate("1 1 udp 1 192.0.2.1 1 typ host"),
            Signal::EndOfCandidates,
        ] {
            let mut bytes = vec![];
            signal.encode(&mut bytes);
            assert_eq!(Signal::decode(&bytes), Ok(signal));
        }
    }

    #[test]
    fn the_layout_is_as_specified() {
        let mut bytes = vec![];
        Signal::Description(description()).encode(&mut bytes);
        assert_eq!(bytes[..7], [1, 0, 4, b'a', b'b', b'c', b'd']);
        assert_eq!(bytes[7], 22);
        assert_eq!(bytes[30..62], [0xab; 32]);
        assert_eq!(bytes[62..64], [1, 43]);
        assert_eq!(bytes.len(), 64 + 43);
    }

    #[test]
    fn hostile_texts_are_refused() {
        assert_eq!(
            Signal::decode(&[CANDIDATE, 2, b'a', b'\n']),
            Err(DecodeError::OutOfRange("candidate"))
        );
        assert_eq!(
            Signal::decode(&[CANDIDATE, 9, b'a']),
            Err(DecodeError::Truncated)
        );
        assert_eq!(Signal::decode(&[4, 0]), Err(DecodeError::Trailing(1)));
        assert_eq!(
            Signal::decode(&[OFFER, 3]),
            Err(DecodeError::OutOfRange("setup"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Signal::decode(&bytes);
        }
    }
}

//! The mapping between a [`Description`] and the SDP that WebRTC stacks speak.
//!
//! `docs/protocol/signalling.md` specifies it; the browser viewer implements the same mapping.

use std::fmt::Write as _;

use super::signal::{CANDIDATES_MAX, Candidate, Description, DescriptionKind, Setup, SignalError};

/// Longest SDP that [`from_sdp`] looks at, in bytes. A data channel's SDP is about 1 KiB.
pub const SDP_BYTES_MAX: usize = 16 * 1024;
/// Largest data channel message that both sides announce (`a=max-message-size`), in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Why an SDP has no [`Description`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`SDP_BYTES_MAX`].
    #[error("SDP input of {0} bytes is longer than {SDP_BYTES_MAX}")]
    TooLong(usize),
    /// An attribute that every data channel SDP has is not there.
    #[error("SDP input lacks {0}")]
    Missing(&'static str),
    /// An attribute whose value cannot be read.
    #[error("SDP input has a malformed {0}")]
    Malformed(&'static str),
    /// It has something else than exactly one data channel section.
    #[error("SDP input must have one application section and no other")]
    NotOneDataChannel,
    /// The values are readable but beyond the limits of the signalling protocol.
    #[error("SDP input is out of limits: {0}")]
    Limits(#[from] SignalError),
}

/// Writes the SDP of a description: one application section, one BUNDLE group, mid `0`.
///
/// The same description always gives the same text. The description is expected to be valid
/// ([`Description::validate`]).
pub fn to_sdp(description: &Description) -> String {
    let mut sdp = String::with_capacity(640 + 96 * description.candidates.len());
    sdp.push_str(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n",
    );
    for candidate in &description.candidates {
        let _ = write!(sdp, "a={}\r\n", candidate.as_str());
    }
    let _ = write!(
        sdp,
        "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {}\r\n\
         a=setup:{}\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:{MESSAGE_BYTES_MAX}\r\n",
        description.ufrag,
        description.pwd,
        colon_hex(&description.fingerprint_sha256),
        setup_name(description.setup),
    );
    sdp
}

/// Reads the description out of an SDP that a WebRTC stack made for one data channel.
///
/// SDP does not say whether it is an offer: `a=setup:actpass` makes it one, as RFC 8842 requires
/// of offers and forbids in answers. Attributes may stand at session or media level; unknown ones
/// are ignored; candidates beyond [`CANDIDATES_MAX`] and such as Shoal cannot use are left out.
pub fn from_sdp(sdp: &str) -> Result<Description, SdpError> {
    if sdp.len() > SDP_BYTES_MAX {
        return Err(SdpError::TooLong(sdp.len()));
    }
    let mut sections = sdp.lines().filter(|line| line.starts_with("m="));
    let first = sections.next().ok_or(SdpError::NotOneDataChannel)?;
    if !first.starts_with("m=application ") || sections.next().is_some() {
        return Err(SdpError::NotOneDataChannel);
    }
    let setup = match attribute(sdp, "setup:").ok_or(SdpError::Missing("setup"))? {
        "actpass" => Setup::ActPass,
        "active" => Setup::Active,
        "passive" => Setup::Passive,
        _ => return Err(SdpError::Malformed("setup")),
    };
    let description = Description {
        kind: match setup {
            Setup::ActPass => DescriptionKind::Offer,
            Setup::Active | Setup::Passive => DescriptionKind::Answer,
        },
        ufrag: attribute(sdp, "ice-ufrag:")
            .ok_or(SdpError::Missing("ice-ufrag"))?
            .into(),
        pwd: attribute(sdp, "ice-pwd:")
            .ok_or(SdpError::Missing("ice-pwd"))?
            .into(),
        fingerprint_sha256: fingerprint(sdp)?,
        setup,
        candidates: candidates(sdp),
    };
    description.validate()?;
    Ok(description)
}

/// The value of the first `a=` line whose name and colon are `name`.
fn attribute<'a>(sdp: &'a str, name: &str) -> Option<&'a str> {
    sdp.lines()
        .find_map(|line| line.strip_prefix("a=")?.strip_prefix(name))
        .map(str::trim)
}

fn fingerprint(sdp: &str) -> Result<[u8; 32], SdpError> {
    let malformed = SdpError::Malformed("fingerprint");
    let value = attribute(sdp, "fingerprint:").ok_or(SdpError::Missing("fingerprint"))?;
    let (algorithm, digest) = value.split_once(' ').ok_or(malformed.clone())?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return Err(malformed);
    }
    let mut bytes = [0; 32];
    let mut words = digest.split(':');
    for byte in &mut bytes {
        let word = words
            .next()
            .filter(|word| word.len() == 2)
            .ok_or(malformed.clone())?;
        *byte = u8::from_str_radix(word, 16).map_err(|_| malformed.clone())?;
    }
    if words.next().is_some() {
        Err(malformed)
    } else {
        Ok(bytes)
    }
}

fn candidates(sdp: &str) -> Vec<Candidate> {
    sdp.lines()
        .filter_map(|line| Candidate::parse(line.strip_prefix("a=")?.trim_end()).ok())
        .take(CANDIDATES_MAX)
        .collect()
}

fn colon_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (at, byte) in bytes.iter().enumerate() {
        let _ = write!(text, "{}{byte:02X}", if at == 0 { "" } else { ":" });
    }
    text
}

fn setup_name(setup: Setup) -> &'static str {
    match setup {
        Setup::ActPass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    }
}

//! The mapping between a [`Description`] and the SDP that WebRTC stacks speak.
//!
//! `docs/protocol/signalling.md` specifies it. Native and browser viewers share this code.

use alloc::{string::String, vec::Vec};
use core::fmt::Write as _;

use super::session::{CANDIDATES_MAX, Candidate, Description, DescriptionKind, Setup, SignalError};

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
    let is_byte =
        |word: &&str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    for byte in &mut bytes {
        let word = words.next().filter(is_byte).ok_or(malformed.clone())?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHROMIUM_OFFER: &str = "v=0\r\no=- 3212261297903230918 2 IN IP4 127.0.0.1\r\ns=-\r\n\
        t=0 0\r\na=group:BUNDLE 0\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
        a=candidate:4283684770 1 udp 2113937151 df9b532b-5456-42ce-94a8-9e34049ee2d7.local 40930 \
        typ host generation 0 network-cost 999\r\n\
        a=candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 \
        generation 0 network-cost 999\r\n\
        a=ice-ufrag:t2Qd\r\na=ice-pwd:hLJE0I9aJw8XH+iSvpU2rzqs\r\na=ice-options:trickle\r\n\
        a=fingerprint:sha-256 78:80:16:AD:CF:6E:A4:44:FC:09:3C:65:A6:D1:54:8A:E8:EA:1D:5B:DB:DF:\
        1C:33:C9:C5:9D:BC:19:F5:10:A0\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n\
        a=max-message-size:262144\r\n";

    const WEBRTC_RS_ANSWER: &str = "v=0\r\no=- 3603485648558934040 720328490 IN IP4 0.0.0.0\r\n\
        s=-\r\nt=0 0\r\na=msid-semantic:WMS *\r\n\
        a=fingerprint:sha-256 8C:0F:8D:3B:20:B8:C6:49:1F:33:8B:1C:EC:3B:E3:B8:9A:82:A4:E5:64:A3:\
        7A:2B:A3:C3:53:D3:72:FE:AE:FD\r\na=group:BUNDLE 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
        a=setup:active\r\na=mid:0\r\na=sendrecv\r\na=sctp-port:5000\r\n\
        a=max-message-size:262144\r\na=ice-ufrag:DonmnQMnGxrcvnUV\r\n\
        a=ice-pwd:bjcpNEFELWHkJzWEFJJYnJWZGNDPuaEK\r\n";

    #[test]
    fn reads_chromium() {
        let offer = from_sdp(CHROMIUM_OFFER).unwrap();
        assert_eq!(offer.kind, DescriptionKind::Offer);
        assert_eq!(
            (offer.ufrag.as_str(), offer.setup),
            ("t2Qd", Setup::ActPass)
        );
        assert_eq!(offer.pwd, "hLJE0I9aJw8XH+iSvpU2rzqs");
        assert_eq!(offer.fingerprint_sha256[..3], [0x78, 0x80, 0x16]);
        let lines: Vec<&str> = offer.candidates.iter().map(Candidate::as_str).collect();
        assert_eq!(
            lines,
            [
                "candidate:4283684770 1 udp 2113937151 \
                 df9b532b-5456-42ce-94a8-9e34049ee2d7.local 40930 typ host",
                "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 \
                 rport 0",
            ]
        );
        assert_eq!(from_sdp(&to_sdp(&offer)), Ok(offer));
    }

    #[test]
    fn reads_webrtc_rs() {
        let answer = from_sdp(WEBRTC_RS_ANSWER).unwrap();
        assert_eq!(answer.kind, DescriptionKind::Answer);
        assert_eq!(
            (answer.ufrag.as_str(), answer.setup),
            ("DonmnQMnGxrcvnUV", Setup::Active)
        );
        assert_eq!(answer.fingerprint_sha256[31], 0xfd);
        assert_eq!(from_sdp(&to_sdp(&answer)), Ok(answer));
    }

    /// The example of `docs/protocol/signalling.md`, which the browser viewer tests too.
    #[test]
    fn writes_the_documented_example() {
        let description = Description {
            kind: DescriptionKind::Offer,
            ufrag: "t2Qd".into(),
            pwd: "hLJE0I9aJw8XH+iSvpU2rzqs".into(),
            fingerprint_sha256: std::array::from_fn(|at| at as u8),
            setup: Setup::ActPass,
            candidates: vec![
                Candidate::parse("candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host").unwrap(),
            ],
        };
        let document = include_str!("../../../docs/protocol/signalling.md");
        let example = document
            .split("```sdp\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        assert_eq!(to_sdp(&description).replace("\r\n", "\n"), example);
    }

    #[test]
    fn rejects_what_is_not_a_data_channel() {
        let broken = |from: &str, to: &str| from_sdp(&CHROMIUM_OFFER.replace(from, to));
        assert_eq!(
            broken("a=setup:actpass", "a=x"),
            Err(SdpError::Missing("setup"))
        );
        assert_eq!(
            broken("a=setup:actpass", "a=setup:any"),
            Err(SdpError::Malformed("setup"))
        );
        assert_eq!(
            broken("sha-256 78:", "sha-256 7:"),
            Err(SdpError::Malformed("fingerprint"))
        );
        assert_eq!(
            broken("sha-256 78:", "sha-256 +8:"),
            Err(SdpError::Malformed("fingerprint"))
        );
        assert_eq!(
            broken("sha-256", "sha-1"),
            Err(SdpError::Malformed("fingerprint"))
        );
        assert_eq!(
            broken(":A0\r\n", "\r\n"),
            Err(SdpError::Malformed("fingerprint"))
        );
        assert_eq!(
            broken(":A0\r\n", ":A0:A0\r\n"),
            Err(SdpError::Malformed("fingerprint"))
        );
        assert_eq!(
            broken("m=application", "m=audio"),
            Err(SdpError::NotOneDataChannel)
        );
        assert_eq!(
            broken("a=mid:0\r\n", "a=mid:0\r\nm=audio 9 x\r\n"),
            Err(SdpError::NotOneDataChannel)
        );
        assert!(matches!(broken("t2Qd", "t"), Err(SdpError::Limits(_))));
        assert_eq!(
            from_sdp(&"x".repeat(SDP_BYTES_MAX + 1)),
            Err(SdpError::TooLong(16385))
        );
        assert_eq!(from_sdp(""), Err(SdpError::NotOneDataChannel));
    }

    #[test]
    fn keeps_at_most_twelve_candidates() {
        let line = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
        let sdp = format!("{CHROMIUM_OFFER}a=candidate:bad\r\n{}", line.repeat(20));
        assert_eq!(from_sdp(&sdp).unwrap().candidates.len(), CANDIDATES_MAX);
    }

    proptest! {
        #[test]
        fn any_valid_description_round_trips(
            ufrag in "[A-Za-z0-9+/]{4,32}",
            pwd in "[A-Za-z0-9+/]{22,64}",
            fingerprint_sha256: [u8; 32],
            setup in prop_oneof![Just(Setup::ActPass), Just(Setup::Active), Just(Setup::Passive)],
            hosts in prop::collection::vec((any::<std::net::IpAddr>(), any::<u16>()), 0..=12),
        ) {
            let kind = match setup {
                Setup::ActPass => DescriptionKind::Offer,
                _ => DescriptionKind::Answer,
            };
            let candidates = hosts.iter().map(|(ip, port)| {
                Candidate::parse(&format!("candidate:7 1 udp 1 {ip} {port} typ host")).unwrap()
            });
            let candidates = candidates.collect();
            let description = Description { kind, ufrag, pwd, fingerprint_sha256, setup, candidates };
            prop_assert_eq!(from_sdp(&to_sdp(&description)), Ok(description));
        }

        #[test]
        fn no_text_panics(text in ".{0,400}", cut in 0..700_usize) {
            let _ = from_sdp(&text);
            let _ = Candidate::parse(&text);
            let _ = Candidate::parse(&format!("candidate:{text}"));
            let _ = from_sdp(&CHROMIUM_OFFER[..cut.min(CHROMIUM_OFFER.len())]);
        }
    }
}

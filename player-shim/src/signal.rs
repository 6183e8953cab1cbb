//! Compact signalling for the browser's WebRTC: `docs/protocol/signalling.md`.

use swarm_core::wire::{
    sdp,
    session::{self, Candidate, DescriptionKind, Signal},
};
use wasm_bindgen::prelude::wasm_bindgen;

/// A signal for the browser: its kind (`offer`, `answer`, `candidate` or `end`), a line feed, and
/// the SDP or the candidate line.
///
/// # Errors
/// What is wrong with it. The fault is the other viewer's.
#[wasm_bindgen]
pub fn read_signal(payload: &[u8]) -> Result<String, String> {
    let signal = session::decode(payload).map_err(|error| error.to_string())?;
    Ok(match &signal {
        Signal::Description(description) => {
            let kind = match description.kind {
                DescriptionKind::Offer => "offer",
                DescriptionKind::Answer => "answer",
            };
            format!("{kind}\n{}", sdp::to_sdp(description))
        }
        Signal::Candidate(candidate) => format!("candidate\n{}", candidate.as_str()),
        Signal::EndOfCandidates => "end\n".to_owned(),
    })
}

/// The payload of an offer or answer that the browser made.
///
/// # Errors
/// What is missing or wrong. The fault is the environment's: no browser makes such SDP.
#[wasm_bindgen]
pub fn signal_of_sdp(text: &str) -> Result<Vec<u8>, String> {
    let description = sdp::from_sdp(text).map_err(|error| error.to_string())?;
    encode(&Signal::Description(description))
}

/// The payload of one candidate line (`candidate:...`).
///
/// # Errors
/// It is one that Shoal has no use for; leave it out.
#[wasm_bindgen]
pub fn signal_of_candidate(line: &str) -> Result<Vec<u8>, String> {
    let candidate = Candidate::parse(line).map_err(|error| error.to_string())?;
    encode(&Signal::Candidate(candidate))
}

/// The payload that says that no more candidates will come.
#[wasm_bindgen]
pub fn signal_of_end() -> Vec<u8> {
    session::encode(&Signal::EndOfCandidates).unwrap_or_default()
}

fn encode(signal: &Signal) -> Result<Vec<u8>, String> {
    session::encode(signal).ok_or_else(|| "browser made a description that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
        a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijklmn\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
        a=setup:actpass\r\na=mid:0\r\n";

    #[test]
    fn an_offer_survives_the_way() {
        let payload = signal_of_sdp(SDP).unwrap();
        let text = read_signal(&payload).unwrap();
        let (kind, sdp) = text.split_once('\n').unwrap();
        assert_eq!(kind, "offer");
        assert_eq!(signal_of_sdp(sdp).unwrap(), payload);
    }

    #[test]
    fn candidates_and_their_end_survive_the_way() {
        let line = "candidate:1 1 udp 2113937151 192.0.2.7 40000 typ host";
        let payload = signal_of_candidate(&format!("{line} generation 0")).unwrap();
        assert_eq!(read_signal(&payload).unwrap(), format!("candidate\n{line}"));
        assert_eq!(read_signal(&signal_of_end()).unwrap(), "end\n");
        assert!(signal_of_candidate("").is_err());
        assert!(read_signal(&[99]).is_err());
    }
}

//! What WebTorrent clients say and hear, as JSON.
//!
//! Nothing is copied: descriptions, ids and everything else that is only passed on stay the text
//! that came, after it has been checked to be what JSON allows. A client that is told something
//! else than JSON drops its connection, so nothing unchecked may pass.

use std::fmt::{self, Write};

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest `offer_id`, in characters; clients use 20.
const OFFER_ID_LEN_MAX: usize = 64;
/// Swarms that one scrape may ask for.
pub(super) const SCRAPE_MAX: usize = 64;

/// Twenty bytes, each a character up to U+00FF on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id20(pub(crate) [u8; 20]);

/// Names a swarm.
pub(crate) type InfoHash = Id20;

/// An id, and the JSON string that it came as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelt<'a> {
    pub(super) id: Id20,
    pub(super) json: &'a str,
}

/// What a client says.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Announce(Announce<'a>),
    Answer(Answer<'a>),
    Scrape(Vec<Spelt<'a>>),
}

#[derive(Debug)]
pub(super) struct Announce<'a> {
    pub(super) info_hash: Spelt<'a>,
    pub(super) peer_id: Spelt<'a>,
    pub(super) stopped: bool,
    /// It has everything (`left` is 0, or it says that it has completed).
    pub(super) complete: bool,
    /// It has just become so.
    pub(super) completed: bool,
    pub(super) offers: Vec<Offer<'a>>,
}

#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) offer_id: OfferId<'a>,
    /// The description, a JSON string.
    pub(super) sdp: &'a str,
}

#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) info_hash: Spelt<'a>,
    pub(super) peer_id: Spelt<'a>,
    pub(super) to_peer_id: Id20,
    pub(super) offer_id: OfferId<'a>,
    /// The description, a JSON string.
    pub(super) sdp: &'a str,
}

/// What an offer is called: the JSON string, and what it means.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfferId<'a> {
    pub(super) json: &'a str,
    bytes: [u8; OFFER_ID_LEN_MAX],
    len: usize,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the message is not the JSON that a tracker understands")]
    Json,
    #[error("action must be announce or scrape")]
    Action,
    #[error("{0} must be a string of 20 characters up to U+00FF")]
    Id(&'static str),
    #[error("offer_id must be a string of up to 64 characters up to U+00FF")]
    OfferId,
    #[error("offer and answer must have their type and an sdp string")]
    Description,
    #[error("name 1 to 64 swarms to scrape")]
    Scrape,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow)]
    info_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    to_peer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    numwant: Option<&'a RawValue>,
    #[serde(borrow)]
    left: Option<&'a RawValue>,
    #[serde(borrow)]
    offers: Option<Vec<RawOffer<'a>>>,
    #[serde(borrow)]
    answer: Option<Description<'a>>,
    #[serde(borrow)]
    offer_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawOffer<'a> {
    #[serde(borrow)]
    offer: Description<'a>,
    #[serde(borrow)]
    offer_id: &'a RawValue,
}

#[derive(Deserialize)]
struct Description<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    sdp: &'a RawValue,
}

/// Reads a message.
pub(super) fn parse(text: &str) -> Result<Message<'_>, Malformed> {
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|_| Malformed::Json)?;
    match raw.action.map(RawValue::get) {
        Some("\"announce\"") if raw.answer.is_some() => parse_answer(&raw).map(Message::Answer),
        Some("\"announce\"") => parse_announce(raw).map(Message::Announce),
        Some("\"scrape\"") => parse_scrape(raw.info_hash).map(Message::Scrape),
        _ => Err(Malformed::Action),
    }
}

fn parse_announce(raw: Raw<'_>) -> Result<Announce<'_>, Malformed> {
    let info_hash = spelt(raw.info_hash, "info_hash")?;
    let peer_id = spelt(raw.peer_id, "peer_id")?;
    let event = raw.event.map(RawValue::get);
    let wanted = raw.numwant.and_then(|raw| raw.get().parse().ok());
    let offers = raw.offers.unwrap_or_default();
    let offers = offers
        .into_iter()
        .take(wanted.unwrap_or(usize::MAX))
        .map(|raw| {
            Ok(Offer {
                sdp: description(&raw.offer, "\"offer\"")?,
                offer_id: OfferId::parse(raw.offer_id)?,
            })
        })
        .collect::<Result<_, _>>()?;
    let completed = event == Some("\"completed\"");
    Ok(Announce {
        info_hash,
        peer_id,
        stopped: event == Some("\"stopped\""),
        complete: completed || raw.left.is_some_and(|left| left.get() == "0"),
        completed,
        offers,
    })
}

fn parse_answer<'a>(raw: &Raw<'a>) -> Result<Answer<'a>, Malformed> {
    let answer = raw.answer.as_ref().ok_or(Malformed::Description)?;
    Ok(Answer {
        info_hash: spelt(raw.info_hash, "info_hash")?,
        peer_id: spelt(raw.peer_id, "peer_id")?,
        to_peer_id: spelt(raw.to_peer_id, "to_peer_id")?.id,
        offer_id: OfferId::parse(raw.offer_id.ok_or(Malformed::OfferId)?)?,
        sdp: description(answer, "\"answer\"")?,
    })
}

fn parse_scrape(hashes: Option<&RawValue>) -> Result<Vec<Spelt<'_>>, Malformed> {
    let raw = hashes.ok_or(Malformed::Scrape)?;
    if raw.get().starts_with('"') {
        return Ok(vec![spelt(Some(raw), "info_hash")?]);
    }
    let all: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| Malformed::Scrape)?;
    if all.is_empty() || all.len() > SCRAPE_MAX {
        return Err(Malformed::Scrape);
    }
    let spelt = |raw| spelt(Some(raw), "info_hash");
    all.into_iter().map(spelt).collect()
}

fn spelt<'a>(raw: Option<&'a RawValue>, what: &'static str) -> Result<Spelt<'a>, Malformed> {
    let json = raw.ok_or(Malformed::Id(what))?.get();
    let mut bytes = [0; 20];
    match decode(json, &mut bytes) {
        Some(20) => Ok(Spelt {
            id: Id20(bytes),
            json,
        }),
        _ => Err(Malformed::Id(what)),
    }
}

fn description<'a>(raw: &Description<'a>, kind: &str) -> Result<&'a str, Malformed> {
    let sdp = raw.sdp.get();
    if raw.kind.get() == kind && sdp.starts_with('"') {
        Ok(sdp)
    } else {
        Err(Malformed::Description)
    }
}

/// The bytes that the characters of a JSON string stand for; how many. `None` if it is no string, a
/// character is above U+00FF, or they do not fit.
fn decode(json: &str, into: &mut [u8]) -> Option<usize> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    let mut chars = inner.chars();
    let mut len = 0;
    while let Some(char) = chars.next() {
        let byte = match char {
            '\\' => unescape(&mut chars)?,
            char => u8::try_from(char).ok()?,
        };
        *into.get_mut(len)? = byte;
        len += 1;
    }
    Some(len)
}

fn unescape(chars: &mut std::str::Chars<'_>) -> Option<u8> {
    Some(match chars.next()? {
        'b' => 8,
        't' => 9,
        'n' => 10,
        'f' => 12,
        'r' => 13,
        'u' => {
            let digits = chars.as_str().get(..4)?;
            *chars = chars.as_str().get(4..)?.chars();
            u8::try_from(u16::from_str_radix(digits, 16).ok()?).ok()?
        }
        char @ ('"' | '\\' | '/') => char as u8,
        _ => return None,
    })
}

impl Id20 {
    /// Reads it as an operator writes it: 40 hexadecimal digits, or 20 characters.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        if text.len() == 40 && text.is_ascii() {
            return hex::decode_to_slice(text, &mut bytes)
                .ok()
                .map(|()| Self(bytes));
        }
        let mut chars = text.chars();
        for byte in &mut bytes {
            *byte = u8::try_from(chars.next()?).ok()?;
        }
        chars.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Debug for Id20 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'a> OfferId<'a> {
    fn parse(raw: &'a RawValue) -> Result<Self, Malformed> {
        let json = raw.get();
        let mut bytes = [0; OFFER_ID_LEN_MAX];
        let len = decode(json, &mut bytes).ok_or(Malformed::OfferId)?;
        Ok(Self { json, bytes, len })
    }

    /// What it means, however it was spelt.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a viewer is told of its swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) interval_s: u32,
    pub(super) complete: u32,
    pub(super) incomplete: u32,
}

impl Reply {
    pub(super) fn write(&self, info_hash: Spelt<'_>, out: &mut String) {
        out.clear();
        // Writing into memory does not fail.
        let _ = write!(
            out,
            r#"{{"action":"announce","info_hash":{},"interval":{},"complete":{},"incomplete":{}}}"#,
            info_hash.json, self.interval_s, self.complete, self.incomplete
        );
    }
}

/// The parts of an offer as its receiver hears it.
pub(super) const fn offer_parts<'a>(from: &Announce<'a>, offer: &Offer<'a>) -> [&'a str; 9] {
    [
        r#"{"action":"announce","info_hash":"#,
        from.info_hash.json,
        r#","peer_id":"#,
        from.peer_id.json,
        r#","offer_id":"#,
        offer.offer_id.json,
        r#","offer":{"type":"offer","sdp":"#,
        offer.sdp,
        "}}",
    ]
}

/// The parts of an answer as its receiver hears it.
pub(super) const fn answer_parts<'a>(answer: &Answer<'a>) -> [&'a str; 9] {
    [
        r#"{"action":"announce","info_hash":"#,
        answer.info_hash.json,
        r#","peer_id":"#,
        answer.peer_id.json,
        r#","offer_id":"#,
        answer.offer_id.json,
        r#","answer":{"type":"answer","sdp":"#,
        answer.sdp,
        "}}",
    ]
}

/// The parts of a refusal. Its text is ours and needs no escapes.
pub(super) const fn failure_parts<'a>(info_hash: Option<Spelt<'a>>, why: &'a str) -> [&'a str; 6] {
    let (hash_key, hash) = match info_hash {
        Some(hash) => (r#","info_hash":"#, hash.json),
        None => ("", ""),
    };
    [
        r#"{"action":"announce","failure reason":""#,
        why,
        "\"",
        hash_key,
        hash,
        "}",
    ]
}

/// What is passed on of any text that a client may send must be JSON.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn assert_passes_json_on(text: &str) {
    let is_json = |parts: &[&str]| {
        let said = parts.concat();
        let read = serde_json::from_str::<serde::de::IgnoredAny>(&said);
        assert!(read.is_ok(), "{said}");
    };
    match parse(text) {
        Ok(Message::Announce(announce)) => {
            for offer in &announce.offers {
                is_json(&offer_parts(&announce, offer));
            }
            let mut reply = String::new();
            Reply::default().write(announce.info_hash, &mut reply);
            is_json(&[&reply]);
            is_json(&failure_parts(Some(announce.info_hash), "no"));
        }
        Ok(Message::Answer(answer)) => is_json(&answer_parts(&answer)),
        Ok(Message::Scrape(hashes)) => assert!(hashes.len() <= SCRAPE_MAX),
        Err(malformed) => is_json(&failure_parts(None, &malformed.to_string())),
    }
}

#[cfg(test)]
mod tests;

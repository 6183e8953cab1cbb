//! What the tracker says.

use alloc::vec::Vec;

use super::{ViewerFlags, one_of};
use crate::{
    id::PeerId,
    limits::{PLACES_MAX, RELAYS_MAX, SIGNAL_LEN_MAX, STUN_MAX, TEXT_LEN_MAX},
    wire::{DecodeError, Reader, Writer},
};

const WELCOME: u8 = 0x81;
const INTRODUCE: u8 = 0x82;
const SIGNALLED: u8 = 0x83;
const GONE: u8 = 0x84;
const RECONNECT: u8 = 0x85;
const REFUSED: u8 = 0x86;
const RELAYS: u8 = 0x87;
const SHUN: u8 = 0x88;

/// The tracker's answer to [`super::Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The viewer's name.
    pub peer: PeerId,
    /// Proves the name when it comes back.
    pub secret: u64,
    /// How often to send [`super::Status`], in milliseconds.
    pub status_interval_ms: u32,
    /// How many links to aim for.
    pub links_target: u8,
    /// STUN servers as `host:port`, to find its own address with.
    pub stun: Vec<&'a str>,
}

/// How far apart two viewers are, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// Behind the same address.
    Household,
    /// The same operator's group (subnet rule).
    Site,
    /// The same ISP and metro area.
    Metro,
    /// The same ISP.
    Isp,
    /// The same country.
    Country,
    /// Anything else: a long link.
    Far,
}

impl Distance {
    const ALL: [Self; 6] = [
        Self::Household,
        Self::Site,
        Self::Metro,
        Self::Isp,
        Self::Country,
        Self::Far,
    ];
}

/// Two viewers are told of each other; one is to offer, the other to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The other viewer.
    pub peer: PeerId,
    /// Whether the receiver of this message makes the offer.
    pub offer: bool,
    /// Facts about the other viewer.
    pub flags: ViewerFlags,
    /// How far it is.
    pub distance: Distance,
}

/// Relays for links, with a credential that ends (`draft-uberti-behave-turn-rest-00`). Sent behind a
/// welcome, and again before the credential ends. Only to viewers that may use relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relays<'a> {
    /// Whether links are to use relays alone, so that nobody learns anybody's address. Then `urls`
    /// may be empty: viewers that have no relay of their own have no links.
    pub only: bool,
    /// The user name at all of them: visible ASCII.
    pub username: &'a str,
    /// Its password: visible ASCII.
    pub credential: &'a str,
    /// TURN servers (RFC 7065): `turn:` or `turns:`, visible ASCII ([`is_relay`]).
    pub urls: Vec<&'a str>,
}

/// From the tracker to a viewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerMsg<'a> {
    /// The viewer has joined.
    Welcome(Welcome<'a>),
    /// Somebody to link with.
    Introduce(Introduction),
    /// From `from`, whom the tracker has introduced.
    Signal {
        /// The sender.
        from: PeerId,
        /// Compact signalling.
        payload: &'a [u8],
    },
    /// A viewer that was introduced has left.
    Gone {
        /// Who.
        peer: PeerId,
    },
    /// Several viewers have caught this one sending bad bytes: give up the link with it.
    Shun {
        /// Who.
        peer: PeerId,
    },
    /// The tracker goes down or is full: come back after this time, jittered already.
    Reconnect {
        /// In milliseconds.
        after_ms: u32,
        /// The operator's other trackers, the best one first ([`is_place`]); empty: to this one.
        places: Vec<&'a str>,
    },
    /// Relays that links may use from now on, instead of those told before.
    Relays(Relays<'a>),
    /// The connection is refused and will be closed.
    Refused {
        /// Why, and whether trying again can help.
        code: RefusalCode,
        /// For a person to read.
        text: &'a str,
    },
}

/// Why the tracker refuses a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The viewer sent a message that is malformed or out of order.
    BadMessage,
    /// The token is missing, expired or for another stream.
    BadToken,
    /// A quota of the viewer, its address or its token is used up.
    Quota,
    /// The stream is unknown or P2P is off for this viewer.
    NotServed,
    /// The tracker is overloaded or shutting down.
    Unavailable,
}

impl RefusalCode {
    const ALL: [Self; 5] = [
        Self::BadMessage,
        Self::BadToken,
        Self::Quota,
        Self::NotServed,
        Self::Unavailable,
    ];

    /// Whether the same viewer may succeed later without a change on its side.
    pub const fn may_retry(self) -> bool {
        matches!(self, Self::Quota | Self::Unavailable)
    }
}

impl<'a> TrackerMsg<'a> {
    /// Appends the message to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut out = Writer::onto(core::mem::take(buffer));
        match self {
            Self::Welcome(welcome) => welcome.encode(&mut out),
            Self::Introduce(introduction) => {
                out.u8(INTRODUCE);
                out.u64(introduction.peer.0);
                out.u8(u8::from(introduction.offer));
                out.u8(introduction.flags.0);
                out.u8(introduction.distance as u8);
            }
            Self::Signal { from, payload } => {
                out.u8(SIGNALLED);
                out.u64(from.0);
                out.blob(payload);
            }
            Self::Gone { peer } => {
                out.u8(GONE);
                out.u64(peer.0);
            }
            Self::Shun { peer } => {
                out.u8(SHUN);
                out.u64(peer.0);
            }
            Self::Reconnect { after_ms, places } => {
                out.u8(RECONNECT);
                out.u32(*after_ms);
                out.u8(places.len().min(PLACES_MAX) as u8);
                for place in places.iter().take(PLACES_MAX) {
                    out.blob(place.as_bytes());
                }
            }
            Self::Relays(relays) => relays.encode(&mut out),
            Self::Refused { code, text } => {
                out.u8(REFUSED);
                out.u8(*code as u8);
                out.blob(text.as_bytes());
            }
        }
        *buffer = out.into_vec();
    }

    /// Reads one message.
    ///
    /// # Errors
    /// [`DecodeError`]; the fault is the tracker's.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let message = match input.u8()? {
            WELCOME => Self::Welcome(Welcome::decode(&mut input)?),
            INTRODUCE => Self::Introduce(Introduction {
                peer: PeerId(input.u64()?),
                offer: input.u8()? != 0,
                flags: ViewerFlags(input.u8()?),
                distance: one_of(&Distance::ALL, input.u8()?, "distance")?,
            }),
            SIGNALLED => Self::Signal {
                from: PeerId(input.u64()?),
                payload: input.blob("signal", SIGNAL_LEN_MAX)?,
            },
            GONE => Self::Gone {
                peer: PeerId(input.u64()?),
            },
            SHUN => Self::Shun {
                peer: PeerId(input.u64()?),
            },
            RECONNECT => Self::Reconnect {
                after_ms: input.u32()?,
                places: (0..input.count("places", PLACES_MAX)?)
                    .map(|_| text(&mut input, "place", is_place))
                    .collect::<Result<_, _>>()?,
            },
            RELAYS => Self::Relays(Relays::decode(&mut input)?),
            REFUSED => Self::Refused {
                code: one_of(&RefusalCode::ALL, input.u8()?, "code")?,
                text: input.text("text", TEXT_LEN_MAX)?,
            },
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        input.finish()?;
        Ok(message)
    }
}

/// Whether this is a tracker's address in the form that viewers are sent: `ws://` or `wss://` and a
/// host, visible ASCII, at most [`TEXT_LEN_MAX`] bytes.
pub fn is_place(text: &str) -> bool {
    let rest = ["wss://", "ws://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    is_word(text) && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#']))
}

/// Whether this is a TURN server's address in the form that viewers are told: `turn:` or `turns:` and
/// a host, visible ASCII, at most [`TEXT_LEN_MAX`] bytes.
pub fn is_relay(text: &str) -> bool {
    let rest = text
        .strip_prefix("turn:")
        .or_else(|| text.strip_prefix("turns:"));
    is_word(text) && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?']))
}

/// Visible ASCII within the limit.
fn is_word(text: &str) -> bool {
    text.len() <= TEXT_LEN_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl<'a> Relays<'a> {
    fn encode(&self, out: &mut Writer) {
        out.u8(RELAYS);
        out.u8(u8::from(self.only));
        out.blob(self.username.as_bytes());
        out.blob(self.credential.as_bytes());
        out.u8(self.urls.len().min(RELAYS_MAX) as u8);
        for url in self.urls.iter().take(RELAYS_MAX) {
            out.blob(url.as_bytes());
        }
    }

    fn decode(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let only = input.u8()? != 0;
        Ok(Self {
            only,
            username: text(input, "username", is_word)?,
            credential: text(input, "credential", is_word)?,
            urls: (0..input.count("relays", RELAYS_MAX)?)
                .map(|_| text(input, "relay", is_relay))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A text that must be of a certain form.
fn text<'a>(
    input: &mut Reader<'a>,
    field: &'static str,
    holds: impl Fn(&str) -> bool,
) -> Result<&'a str, DecodeError> {
    let text = input.text(field, TEXT_LEN_MAX)?;
    holds(text)
        .then_some(text)
        .ok_or(DecodeError::OutOfRange(field))
}

impl<'a> Welcome<'a> {
    fn encode(&self, out: &mut Writer) {
        out.u8(WELCOME);
        out.u64(self.peer.0);
        out.u64(self.secret);
        out.u32(self.status_interval_ms);
        out.u8(self.links_target);
        out.u8(self.stun.len().min(STUN_MAX) as u8);
        for address in self.stun.iter().take(STUN_MAX) {
            out.blob(address.as_bytes());
        }
    }

    fn decode(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut welcome = Self {
            peer: PeerId(input.u64()?),
            secret: input.u64()?,
            status_interval_ms: input.u32()?,
            links_target: input.u8()?,
            stun: Vec::new(),
        };
        for _ in 0..input.count("stun", STUN_MAX)? {
            welcome.stun.push(input.text("stun", TEXT_LEN_MAX)?);
        }
        Ok(welcome)
    }
}

//! What the tracker says.

use alloc::vec::Vec;

use super::{ViewerFlags, one_of};
use crate::{
    id::PeerId,
    limits::{SIGNAL_LEN_MAX, STUN_MAX, TEXT_LEN_MAX},
    wire::{DecodeError, Reader, Writer},
};

const WELCOME: u8 = 0x81;
const INTRODUCE: u8 = 0x82;
const SIGNALLED: u8 = 0x83;
const GONE: u8 = 0x84;
const SHUN: u8 = 0x8a;
const RECONNECT: u8 = 0x85;
const REFUSED: u8 = 0x86;

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
    /// The tracker goes down or is full: come back after this time, with jitter.
    Reconnect {
        /// In milliseconds.
        after_ms: u32,
    },
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
            Self::Reconnect { after_ms } => {
                out.u8(RECONNECT);
                out.u32(*after_ms);
            }
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
            },
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

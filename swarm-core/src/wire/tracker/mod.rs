//! Messages between a viewer and the tracker, one WebSocket binary frame each.
//!
//! Specified in `docs/protocol/tracker.md`. What viewers say is here; what the tracker says, in
//! `answers`.

mod answers;
#[cfg(test)]
mod tests;

pub use answers::{
    Distance, Introduction, RefusalCode, Relays, TrackerMsg, Welcome, is_place, is_relay,
};

use alloc::vec::Vec;

use super::{DecodeError, Reader, Writer};
use crate::{
    id::{PeerId, StreamId, TrackId},
    limits::{SIGNAL_LEN_MAX, TOKEN_LEN_MAX},
};

/// Facts about a viewer that decide what it is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewerFlags(pub u8);

impl ViewerFlags {
    /// A native agent; without it a browser.
    pub const NATIVE: Self = Self(1);
    /// Receives from peers but gives nothing (cellular, metered, data saver, operator's rule).
    pub const LEECH: Self = Self(2);
    /// Behaves for load and faults in tests; shown as such on dashboards.
    pub const SYNTHETIC: Self = Self(4);
    /// Only in introductions: sits in another group than the receiver. The two are a bridge between
    /// their groups.
    pub const ELSEWHERE: Self = Self(8);
    /// The person has agreed to peers, where the operator asks for it. Not passed on to others.
    pub const CONSENT: Self = Self(16);

    /// Whether all of `other`'s flags are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a viewer's network maps ports (RFC 4787), as far as it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nat {
    /// Not measured.
    #[default]
    Unknown,
    /// Reachable as it is: a public address, or IPv6 that lets answers in.
    Open,
    /// Endpoint-independent mapping: a hole can be punched.
    Cone,
    /// Endpoint-dependent mapping.
    Symmetric,
    /// No UDP leaves the network.
    Blocked,
}

impl Nat {
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Open,
        Self::Cone,
        Self::Symmetric,
        Self::Blocked,
    ];
}

/// What a viewer asks for when it arrives, or comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The track it plays: its main one, the video.
    pub track: TrackId,
    /// Facts about it.
    pub flags: ViewerFlags,
    /// Its network.
    pub nat: Nat,
    /// What it would upload at most, in kbit/s.
    pub upload_kbps: u32,
    /// The name and secret of its last [`Welcome`], to keep its name after a lost connection.
    pub resume: Option<(PeerId, u64)>,
    /// What entitles it to join; empty where the tracker asks for nothing.
    pub token: &'a [u8],
}

/// How a viewer is doing, sent every `status_interval_ms`. Counters are since the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The track it plays.
    pub track: TrackId,
    /// Media ahead of its playhead, in milliseconds.
    pub buffer_ms: u32,
    /// How far it is behind the end of the playlist, in milliseconds.
    pub lag_ms: u32,
    /// Links that are up.
    pub links: u8,
    /// Links it wants more of.
    pub links_wanted: u8,
    /// Verified bytes from peers.
    pub bytes_p2p: u32,
    /// Bytes from the CDN.
    pub bytes_cdn: u32,
    /// Bytes sent to peers.
    pub bytes_up: u32,
    /// Stalls.
    pub stalls: u16,
    /// Milliseconds spent stalled.
    pub stalled_ms: u32,
    /// What it would upload at most, in kbit/s; 0 while it gives nothing.
    pub upload_kbps: u32,
    /// Its network, as far as it has found out since it joined.
    pub nat: Nat,
}

/// How an introduction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkOutcome {
    /// The link is up.
    Up,
    /// It could not be set up in time.
    Failed,
    /// It was up and broke.
    Lost,
    /// The other side misbehaved (bad bytes, malformed messages).
    Misbehaved,
}

impl LinkOutcome {
    const ALL: [Self; 4] = [Self::Up, Self::Failed, Self::Lost, Self::Misbehaved];
}

/// From a viewer to the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewerMsg<'a> {
    /// The first message of a connection.
    Join(Join<'a>),
    /// Sent regularly; also tells of a new track or a changed upload limit at once.
    Status(Status),
    /// To be passed on to `to`, whom the tracker has introduced.
    Signal {
        /// The receiver.
        to: PeerId,
        /// Compact signalling (`docs/protocol/signalling.md`).
        payload: &'a [u8],
    },
    /// What came of an introduction.
    Link {
        /// The other viewer.
        peer: PeerId,
        /// How it ended.
        outcome: LinkOutcome,
        /// Round trip in milliseconds where the link is up, else 0.
        rtt_ms: u16,
    },
    /// The viewer leaves.
    Leave,
}

const JOIN: u8 = 0x01;
const STATUS: u8 = 0x02;
const SIGNAL: u8 = 0x03;
const LINK: u8 = 0x04;
const LEAVE: u8 = 0x05;
impl<'a> ViewerMsg<'a> {
    /// Appends the message to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut out = Writer::onto(core::mem::take(buffer));
        match self {
            Self::Join(join) => join.encode(&mut out),
            Self::Status(status) => status.encode(&mut out),
            Self::Signal { to, payload } => {
                out.u8(SIGNAL);
                out.u64(to.0);
                out.blob(payload);
            }
            Self::Link {
                peer,
                outcome,
                rtt_ms,
            } => {
                out.u8(LINK);
                out.u64(peer.0);
                out.u8(*outcome as u8);
                out.u16(*rtt_ms);
            }
            Self::Leave => out.u8(LEAVE),
        }
        *buffer = out.into_vec();
    }

    /// Reads one message.
    ///
    /// # Errors
    /// [`DecodeError`]; the fault is the viewer's.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let message = match input.u8()? {
            JOIN => Self::Join(Join::decode(&mut input)?),
            STATUS => Self::Status(Status::decode(&mut input)?),
            SIGNAL => Self::Signal {
                to: PeerId(input.u64()?),
                payload: input.blob("signal", SIGNAL_LEN_MAX)?,
            },
            LINK => Self::Link {
                peer: PeerId(input.u64()?),
                outcome: one_of(&LinkOutcome::ALL, input.u8()?, "outcome")?,
                rtt_ms: input.u16()?,
            },
            LEAVE => Self::Leave,
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        input.finish()?;
        Ok(message)
    }
}

impl<'a> Join<'a> {
    fn encode(&self, out: &mut Writer) {
        out.u8(JOIN);
        out.u8(super::PROTOCOL_VERSION);
        out.bytes(&self.stream.0);
        out.u32(self.track.0);
        out.u8(self.flags.0);
        out.u8(self.nat as u8);
        out.u32(self.upload_kbps);
        let (peer, secret) = self.resume.unwrap_or((PeerId(0), 0));
        out.u64(peer.0);
        out.u64(secret);
        out.blob(self.token);
    }

    fn decode(input: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if input.u8()? != super::PROTOCOL_VERSION {
            return Err(DecodeError::OutOfRange("version"));
        }
        Ok(Self {
            stream: StreamId(input.array()?),
            track: TrackId(input.u32()?),
            flags: ViewerFlags(input.u8()?),
            nat: one_of(&Nat::ALL, input.u8()?, "nat")?,
            upload_kbps: input.u32()?,
            resume: match (input.u64()?, input.u64()?) {
                (0, _) => None,
                (peer, secret) => Some((PeerId(peer), secret)),
            },
            token: input.blob("token", TOKEN_LEN_MAX)?,
        })
    }
}

impl Status {
    fn encode(&self, out: &mut Writer) {
        out.u8(STATUS);
        out.u32(self.track.0);
        out.u32(self.buffer_ms);
        out.u32(self.lag_ms);
        out.u8(self.links);
        out.u8(self.links_wanted);
        out.u32(self.bytes_p2p);
        out.u32(self.bytes_cdn);
        out.u32(self.bytes_up);
        out.u16(self.stalls);
        out.u32(self.stalled_ms);
        out.u32(self.upload_kbps);
        out.u8(self.nat as u8);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            track: TrackId(input.u32()?),
            buffer_ms: input.u32()?,
            lag_ms: input.u32()?,
            links: input.u8()?,
            links_wanted: input.u8()?,
            bytes_p2p: input.u32()?,
            bytes_cdn: input.u32()?,
            bytes_up: input.u32()?,
            stalls: input.u16()?,
            stalled_ms: input.u32()?,
            upload_kbps: input.u32()?,
            nat: one_of(&Nat::ALL, input.u8()?, "nat")?,
        })
    }
}

fn one_of<T: Copy>(all: &[T], index: u8, field: &'static str) -> Result<T, DecodeError> {
    all.get(usize::from(index))
        .copied()
        .ok_or(DecodeError::OutOfRange(field))
}

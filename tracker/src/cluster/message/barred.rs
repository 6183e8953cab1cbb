//! Whom operators have sent away, as nodes tell one that was not there at the time.

use swarm_core::{
    id::{PeerId, StreamId},
    wire::{DecodeError, Reader, Writer},
};

use super::words::{GuestMember, decode_member, encode_member};
use crate::kicked::{BearerMark, Identity};

const VIEWER: u8 = 1;
const GUEST: u8 = 2;

/// Somebody who is not to be let in, and for how long yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Barred {
    Viewer {
        who: Identity,
        left_ms: u32,
    },
    /// A WebTorrent viewer, in one swarm.
    Guest {
        member: GuestMember,
        left_s: u32,
    },
}

impl Barred {
    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Viewer { who, left_ms } => {
                out.u8(VIEWER);
                out.u64(who.peer.0);
                out.u64(who.bearer.map_or(0, BearerMark::get));
                out.bytes(&who.address.to_be_bytes());
                out.bytes(&who.stream.0);
                out.u32(*left_ms);
            }
            Self::Guest { member, left_s } => {
                out.u8(GUEST);
                encode_member(member, out);
                out.u32(*left_s);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            VIEWER => Ok(Self::Viewer {
                who: Identity {
                    peer: PeerId(reader.u64()?),
                    bearer: BearerMark::new(reader.u64()?),
                    address: u128::from_be_bytes(reader.array()?),
                    stream: StreamId(reader.array()?),
                },
                left_ms: reader.u32()?,
            }),
            GUEST => Ok(Self::Guest {
                member: decode_member(reader)?,
                left_s: reader.u32()?,
            }),
            kind => Err(DecodeError::UnknownKind(kind)),
        }
    }
}

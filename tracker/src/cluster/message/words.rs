//! What nodes say of WebTorrent viewers.

use swarm_core::{
    directory::Network,
    wire::{DecodeError, Reader, Writer},
};

use super::{decode_network, encode_network, flag};

const SAY: u8 = 1;
const ENTER: u8 = 2;
const LEFT: u8 = 3;
const TELL: u8 = 4;
const CLOSE: u8 = 5;
const PROBE: u8 = 6;

/// Longest message of a viewer's, or to one, that goes between nodes, in bytes.
pub(crate) const GUEST_TEXT_LEN_MAX: usize = u16::MAX as usize;

/// Info hash and peer id.
pub(crate) type GuestMember = ([u8; 20], [u8; 20]);

/// One thing that a node says of a WebTorrent viewer, or to it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GuestWords<'a> {
    /// To the owner: a message of the viewer's, as it came.
    Say { network: Network, text: &'a str },
    /// To a new owner: a viewer is in the swarm already.
    Enter {
        network: Network,
        member: GuestMember,
        /// It has everything.
        complete: bool,
    },
    /// To the owner: the viewer is gone, or another node runs the swarm now.
    Left(GuestMember),
    /// From the owner: a message for the viewer. It may be lost where `droppable`.
    Tell { droppable: bool, text: &'a str },
    /// From the owner: close the connection with this code.
    Close { code: u16 },
    /// From the owner: find out whether the viewer is still there.
    Probe,
}

impl<'a> GuestWords<'a> {
    pub(super) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Say { network, text } => {
                out.u8(SAY);
                encode_network(network, out);
                out.blob(text.as_bytes());
            }
            Self::Enter {
                network,
                member,
                complete,
            } => {
                out.u8(ENTER);
                encode_network(network, out);
                encode_member(member, out);
                out.u8(u8::from(*complete));
            }
            Self::Left(member) => {
                out.u8(LEFT);
                encode_member(member, out);
            }
            Self::Tell { droppable, text } => {
                out.u8(TELL);
                out.u8(u8::from(*droppable));
                out.blob(text.as_bytes());
            }
            Self::Close { code } => {
                out.u8(CLOSE);
                out.u16(*code);
            }
            Self::Probe => out.u8(PROBE),
        }
    }

    /// Whether it can be told to other nodes as it is.
    pub(in crate::cluster) const fn fits(&self) -> bool {
        match self {
            Self::Say { text, .. } | Self::Tell { text, .. } => text.len() <= GUEST_TEXT_LEN_MAX,
            _ => true,
        }
    }

    /// The inner error is of these words alone: what follows them can be read.
    pub(super) fn decode(
        reader: &mut Reader<'a>,
    ) -> Result<Result<Self, DecodeError>, DecodeError> {
        let kind = reader.u8()?;
        if !matches!(kind, SAY | TELL) {
            return Self::decode_short(kind, reader).map(Ok);
        }
        let network = match kind {
            SAY => Some(decode_network(reader)?),
            _ => None,
        };
        let droppable = network.is_none() && flag(reader)?;
        let text = match std::str::from_utf8(reader.blob("text", GUEST_TEXT_LEN_MAX)?) {
            Ok(text) => text,
            Err(_) => return Ok(Err(DecodeError::OutOfRange("text"))),
        };
        Ok(Ok(match network {
            Some(network) => Self::Say { network, text },
            None => Self::Tell { droppable, text },
        }))
    }

    fn decode_short(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            ENTER => Self::Enter {
                network: decode_network(reader)?,
                member: decode_member(reader)?,
                complete: flag(reader)?,
            },
            LEFT => Self::Left(decode_member(reader)?),
            CLOSE => Self::Close {
                code: reader.u16()?,
            },
            PROBE => Self::Probe,
            kind => return Err(DecodeError::UnknownKind(kind)),
        })
    }
}

pub(super) fn encode_member((info_hash, peer_id): &GuestMember, out: &mut Writer) {
    out.bytes(info_hash);
    out.bytes(peer_id);
}

pub(super) fn decode_member(reader: &mut Reader<'_>) -> Result<GuestMember, DecodeError> {
    Ok((reader.array()?, reader.array()?))
}

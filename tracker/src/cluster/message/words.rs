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

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let text_len_max = usize::from(u16::MAX);
        Ok(match reader.u8()? {
            SAY => Self::Say {
                network: decode_network(reader)?,
                text: reader.text("text", text_len_max)?,
            },
            ENTER => Self::Enter {
                network: decode_network(reader)?,
                member: decode_member(reader)?,
                complete: flag(reader)?,
            },
            LEFT => Self::Left(decode_member(reader)?),
            TELL => Self::Tell {
                droppable: flag(reader)?,
                text: reader.text("text", text_len_max)?,
            },
            CLOSE => Self::Close {
                code: reader.u16()?,
            },
            PROBE => Self::Probe,
            kind => return Err(DecodeError::UnknownKind(kind)),
        })
    }
}

fn encode_member((info_hash, peer_id): &GuestMember, out: &mut Writer) {
    out.bytes(info_hash);
    out.bytes(peer_id);
}

fn decode_member(reader: &mut Reader<'_>) -> Result<GuestMember, DecodeError> {
    Ok((reader.array()?, reader.array()?))
}

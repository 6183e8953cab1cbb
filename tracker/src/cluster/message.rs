//! What nodes say to each other: `docs/protocol/cluster.md`. Bytes that come from NATS are read
//! like those of viewers: bounded, and refused without harm.

pub(super) mod barred;
pub(super) mod spent;
#[cfg(test)]
mod tests;
pub(super) mod words;

use swarm_core::{
    directory::{Joined, Location, Network, P2pMode, Spent},
    id::{PeerId, StreamId},
    limits::{STUN_MAX, TEXT_LEN_MAX, TRACKER_FRAME_LEN_MAX},
    wire::{
        DecodeError, Reader, Writer,
        tracker::{self, ViewerMsg, is_place},
    },
};

use super::members::{BIG_MAX, Hello, NAME_LEN_MAX, NodeId, SPLITS_MAX};
use crate::{kicked::BearerMark, shard::Join, sink::Sink};
use barred::Barred;
use words::GuestWords;

/// The version that this node speaks; others are not understood.
pub(super) const VERSION: u8 = 4;
/// Longest message, in bytes; below the 1 MiB that NATS servers take.
pub(super) const MESSAGE_LEN_MAX: usize = 256 * 1024;
/// Longest name of an ISP or a site, in bytes.
pub(super) const PLACE_LEN_MAX: usize = 100;
/// Failed pairs of a viewer that its next owner is told of.
pub(super) const APART_MAX: usize = 16;

const HELLO: u8 = 0x01;
const BYE: u8 = 0x02;
const ENTRIES: u8 = 0x03;
const SPENT: u8 = 0x04;

const JOIN: u8 = 0x11;
const SAY: u8 = 0x12;
const LEFT: u8 = 0x13;
const LOST: u8 = 0x14;
const TELL: u8 = 0x21;
const CLOSE: u8 = 0x22;
const UNKNOWN: u8 = 0x23;
const GUEST: u8 = 0x31;
const BARRED: u8 = 0x41;

/// A viewer's connection, as the node that holds it names it. `turn` grows with every owner that
/// it is given to, so that words from earlier ones are known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Remote {
    pub(super) conn: u64,
    pub(super) turn: u32,
}

/// To all nodes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Broadcast {
    Hello(Hello),
    Bye(NodeId),
    /// What addresses have used of what they may learn, by the streams that this node runs.
    Spent(NodeId, Vec<Spent>),
}

/// A viewer, on its way to the owner of its stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arrival {
    /// The connection in it is not yet one of the receiver's.
    pub(super) joined: Joined,
    pub(super) bearer: Option<BearerMark>,
    pub(super) isp: Option<String>,
    /// What the operator calls its site.
    pub(super) site: Option<String>,
    pub(super) stun: Vec<String>,
    /// Those with whom it could not link.
    pub(super) apart: Vec<PeerId>,
}

/// One thing that a node says to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry<'a> {
    /// To the owner: a viewer joins.
    Join(Remote, Box<Arrival>),
    /// To the owner: a viewer's message.
    Say(Remote, &'a [u8]),
    /// To the owner: a viewer has left, or was given to another owner.
    Left(Remote),
    /// To the owner: a viewer's connection broke.
    Lost(Remote),
    /// From the owner: a message for a viewer. It may be lost where `droppable`.
    Tell {
        to: Remote,
        droppable: bool,
        frame: &'a [u8],
    },
    /// From the owner: close the connection.
    Close(Remote),
    /// From the owner: this viewer is not known; it is to join again.
    Unknown(Remote),
    /// Of a WebTorrent viewer's connection, as the node that holds it names it.
    Guest(u64, GuestWords<'a>),
    /// To a node that has just come: who is not to be let in.
    Barred(Barred),
}

impl Broadcast {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(VERSION);
        match self {
            Self::Hello(hello) => {
                out.u8(HELLO);
                out.u64(hello.node.0);
                out.u8(u8::from(hello.draining));
                out.u32(hello.viewers);
                out.blob(hello.name.as_bytes());
                out.blob(hello.url.as_bytes());
                out.u8(hello.splits.len().min(SPLITS_MAX) as u8);
                for stream in hello.splits.iter().take(SPLITS_MAX) {
                    out.bytes(&stream.0);
                }
                out.u8(hello.big.len().min(BIG_MAX) as u8);
                for (stream, viewers) in hello.big.iter().take(BIG_MAX) {
                    out.bytes(&stream.0);
                    out.u32(*viewers);
                }
            }
            Self::Bye(node) => {
                out.u8(BYE);
                out.u64(node.0);
            }
            Self::Spent(node, spent) => {
                out.u8(SPENT);
                out.u64(node.0);
                spent::encode(spent, &mut out);
            }
        }
        out.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        version(&mut reader)?;
        let message = match reader.u8()? {
            HELLO => {
                let (node, draining) = (NodeId(reader.u64()?), flag(&mut reader)?);
                let viewers = reader.u32()?;
                let name = reader.text("name", NAME_LEN_MAX)?.to_owned();
                let url = reader.text("url", TEXT_LEN_MAX)?.to_owned();
                if !url.is_empty() && !is_place(&url) {
                    return Err(DecodeError::OutOfRange("url"));
                }
                let count = reader.count("splits", SPLITS_MAX)?;
                let splits = (0..count)
                    .map(|_| reader.array().map(StreamId))
                    .collect::<Result<_, _>>()?;
                let count = reader.count("big", BIG_MAX)?;
                let big = (0..count)
                    .map(|_| Ok((StreamId(reader.array()?), reader.u32()?)))
                    .collect::<Result<_, _>>()?;
                Self::Hello(Hello {
                    node,
                    name,
                    url,
                    draining,
                    viewers,
                    splits,
                    big,
                })
            }
            BYE => Self::Bye(NodeId(reader.u64()?)),
            SPENT => Self::Spent(NodeId(reader.u64()?), spent::decode(&mut reader)?),
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// Begins a message of entries.
pub(super) fn begin(from: NodeId) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION);
    out.u8(ENTRIES);
    out.u64(from.0);
    out.into_vec()
}

/// Who sent a message of entries, and the entries' bytes.
pub(super) fn open(bytes: &[u8]) -> Result<(NodeId, Reader<'_>), DecodeError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(DecodeError::OutOfRange("message"));
    }
    let mut reader = Reader::new(bytes);
    version(&mut reader)?;
    match reader.u8()? {
        ENTRIES => Ok((NodeId(reader.u64()?), reader)),
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

impl<'a> Entry<'a> {
    /// Appends the entry to a message.
    pub(super) fn encode(&self, message: &mut Vec<u8>) {
        let mut out = Writer::onto(std::mem::take(message));
        let mut head = |kind: u8, remote: &Remote| {
            out.u8(kind);
            out.u64(remote.conn);
            out.u32(remote.turn);
        };
        match self {
            Self::Join(remote, arrival) => {
                head(JOIN, remote);
                arrival.encode(&mut out);
            }
            Self::Say(remote, frame) => {
                head(SAY, remote);
                out.blob(frame);
            }
            Self::Left(remote) => head(LEFT, remote),
            Self::Lost(remote) => head(LOST, remote),
            Self::Tell {
                to,
                droppable,
                frame,
            } => {
                head(TELL, to);
                out.u8(u8::from(*droppable));
                out.blob(frame);
            }
            Self::Close(remote) => head(CLOSE, remote),
            Self::Unknown(remote) => head(UNKNOWN, remote),
            Self::Guest(conn, words) => {
                head(
                    GUEST,
                    &Remote {
                        conn: *conn,
                        turn: 0,
                    },
                );
                words.encode(&mut out);
            }
            Self::Barred(barred) => {
                head(BARRED, &Remote { conn: 0, turn: 0 });
                barred.encode(&mut out);
            }
        }
        *message = out.into_vec();
    }

    /// The next entry of a message; `None` at its end. The inner error is of this entry alone: it ends
    /// where it says, and those behind it are read.
    pub(super) fn next(
        reader: &mut Reader<'a>,
    ) -> Result<Option<Result<Self, DecodeError>>, DecodeError> {
        if reader.left() == 0 {
            return Ok(None);
        }
        let kind = reader.u8()?;
        let (conn, turn) = (reader.u64()?, reader.u32()?);
        let remote = Remote { conn, turn };
        Ok(Some(Ok(match kind {
            JOIN => Self::Join(remote, Box::new(Arrival::decode(reader)?)),
            SAY => Self::Say(remote, reader.blob("frame", TRACKER_FRAME_LEN_MAX)?),
            LEFT => Self::Left(remote),
            LOST => Self::Lost(remote),
            TELL => Self::Tell {
                to: remote,
                droppable: flag(reader)?,
                frame: reader.blob("frame", TRACKER_FRAME_LEN_MAX)?,
            },
            CLOSE => Self::Close(remote),
            UNKNOWN => Self::Unknown(remote),
            GUEST => match GuestWords::decode(reader)? {
                Ok(words) => Self::Guest(conn, words),
                Err(error) => return Ok(Some(Err(error))),
            },
            BARRED => Self::Barred(Barred::decode(reader)?),
            kind => return Err(DecodeError::UnknownKind(kind)),
        })))
    }
}

impl Arrival {
    /// It could not link with that one: its next owner is to know.
    pub(super) fn keep_apart(&mut self, peer: PeerId) {
        self.apart.retain(|other| *other != peer);
        if self.apart.len() >= APART_MAX {
            self.apart.remove(0);
        }
        self.apart.push(peer);
    }

    /// What the shard is told.
    pub(super) fn into_join(self, outgoing: Sink) -> Join {
        Join {
            site: self.joined.network.site.zip(self.site),
            joined: self.joined,
            isp: self.isp,
            bearer: self.bearer,
            stun: self.stun,
            apart: self.apart,
            outgoing,
        }
    }

    fn encode(&self, out: &mut Writer) {
        let joined = &self.joined;
        out.u64(joined.peer.0);
        out.u8(u8::from(joined.resumed));
        out.u64(self.bearer.map_or(0, BearerMark::get));
        encode_network(&joined.network, out);
        for name in [&self.isp, &self.site] {
            out.blob(name.as_deref().unwrap_or_default().as_bytes());
        }
        out.u8(self.stun.len().min(STUN_MAX) as u8);
        for server in self.stun.iter().take(STUN_MAX) {
            out.blob(server.as_bytes());
        }
        out.u8(self.apart.len().min(APART_MAX) as u8);
        for peer in self.apart.iter().take(APART_MAX) {
            out.u64(peer.0);
        }
        // The rest is what the viewer said itself, in its own words.
        let mut frame = Vec::new();
        let join = tracker::Join {
            stream: joined.stream,
            track: joined.track,
            flags: joined.flags,
            nat: joined.nat,
            upload_kbps: joined.upload_kbps,
            resume: None,
            token: b"",
        };
        ViewerMsg::Join(join).encode(&mut frame);
        out.blob(&frame);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (peer, resumed) = (PeerId(reader.u64()?), flag(reader)?);
        let bearer = BearerMark::new(reader.u64()?);
        let network = decode_network(reader)?;
        let mut name = |field| {
            let name = reader.text(field, PLACE_LEN_MAX)?;
            Ok((!name.is_empty()).then(|| name.to_owned()))
        };
        let (isp, site) = (name("isp")?, name("site")?);
        let count = reader.count("stun", STUN_MAX)?;
        let stun = (0..count)
            .map(|_| reader.text("stun", TEXT_LEN_MAX).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        let count = reader.count("apart", APART_MAX)?;
        let apart = (0..count)
            .map(|_| reader.u64().map(PeerId))
            .collect::<Result<_, _>>()?;
        let frame = reader.blob("join", TRACKER_FRAME_LEN_MAX)?;
        let ViewerMsg::Join(join) = ViewerMsg::decode(frame)? else {
            return Err(DecodeError::OutOfRange("join"));
        };
        let joined = Joined {
            conn: swarm_core::directory::ConnId(0),
            peer,
            resumed,
            stream: join.stream,
            track: join.track,
            flags: join.flags,
            nat: join.nat,
            upload_kbps: join.upload_kbps,
            network,
        };
        Ok(Self {
            joined,
            bearer,
            isp,
            site,
            stun,
            apart,
        })
    }
}

fn encode_network(network: &Network, out: &mut Writer) {
    out.bytes(&network.address.to_be_bytes());
    out.u32(network.asn);
    out.bytes(&network.country);
    out.u8(u8::from(network.location.is_some()));
    if let Some(location) = network.location {
        out.u16(location.lat_centideg as u16);
        out.u16(location.lon_centideg as u16);
    }
    out.u32(network.site.unwrap_or(0));
    out.u8(u8::from(network.local_only));
    out.u8(match network.mode {
        P2pMode::On => 0,
        P2pMode::Off => 1,
        P2pMode::Leech => 2,
    });
}

fn decode_network(reader: &mut Reader<'_>) -> Result<Network, DecodeError> {
    let address = u128::from_be_bytes(reader.array()?);
    let (asn, country) = (reader.u32()?, reader.array()?);
    let location = match flag(reader)? {
        true => Some(Location {
            lat_centideg: degrees(reader.u16()?, 9_000)?,
            lon_centideg: degrees(reader.u16()?, 18_000)?,
        }),
        false => None,
    };
    let (site, local_only) = (reader.u32()?, flag(reader)?);
    let mode = match reader.u8()? {
        0 => P2pMode::On,
        1 => P2pMode::Off,
        2 => P2pMode::Leech,
        _ => return Err(DecodeError::OutOfRange("mode")),
    };
    Ok(Network {
        address,
        asn,
        country,
        location,
        site: (site != 0).then_some(site),
        local_only,
        mode,
    })
}

fn degrees(value: u16, max: i16) -> Result<i16, DecodeError> {
    let value = value as i16;
    if (-max..=max).contains(&value) {
        Ok(value)
    } else {
        Err(DecodeError::OutOfRange("location"))
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        _ => Err(DecodeError::OutOfRange("version")),
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::OutOfRange("flag")),
    }
}

//! Messages between two viewers, one data-channel message each.
//!
//! Specified in `docs/protocol/peer.md`. Kinds below [`RECORD`] are small and go through the core;
//! [`RECORD`] and [`CHUNK`] carry bytes that the core never sees: drivers read their headers with
//! [`DataFrame`], check the bytes and tell the core what they found.

use alloc::vec::Vec;

use super::{DecodeError, PROTOCOL_VERSION, Reader, Writer};
use crate::{
    id::{Name, PeerId, SegmentId, TrackId},
    limits::{CHUNK_LEN_MAX, HAVE_ENTRIES_MAX, PIECE_LEN_MAX, PIECES_MAX, TRACKS_MAX},
    record::RECORD_LEN_MAX,
};

/// Which pieces of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The segment.
    pub segment: SegmentId,
    /// Bit `i` stands for piece `i`.
    pub bits: u64,
}

/// Who passes pieces of a segment on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// Bit `i` stands for piece `i`.
    pub bits: u64,
    /// [`PeerId::tag`] of the one who passes on each of these pieces, in order.
    pub passers: Vec<u16>,
}

impl Division {
    /// The pieces that those with a tag that `is` accepts pass on.
    pub fn of(&self, is: impl Fn(u16) -> bool) -> u64 {
        let mut rest = self.bits;
        let mut found = 0;
        for tag in &self.passers {
            let piece = rest & rest.wrapping_neg();
            rest &= !piece;
            found |= if is(*tag) { piece } else { 0 };
        }
        found
    }
}

/// How a viewer is doing, for its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its share of seeding work, relative to others'; 0 if it does not seed or upload.
    pub weight: u16,
    /// Media ahead of its playhead, in milliseconds.
    pub buffer_ms: u32,
    /// The tracks that it plays.
    pub tracks: Vec<TrackId>,
}

/// A control message between viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMsg {
    /// The first message each way.
    Hello {
        /// Who is speaking, as the tracker named it.
        peer: PeerId,
        /// How it is doing.
        status: PeerStatus,
    },
    /// Sent when something in it changes, and every few seconds.
    Status(PeerStatus),
    /// All verified pieces of these segments that the sender holds (not a difference: a lost
    /// thought cannot corrupt it). No bits: the segment was given up.
    Have(Vec<Pieces>),
    /// Please send these pieces, lowest first; those that are still on their way as soon as they
    /// come. Replaces what was wanted of the segment before.
    Want(Pieces),
    /// The sender begins to bring these stripes into the group. A second claim follows the first
    /// one if the content was not known before.
    Claim {
        /// The segment by its place: its content may not be known yet.
        name: Name,
        /// Bit `j` stands for stripe `j`.
        stripes: u8,
        /// Into how many stripes the sender divides the segment.
        stripe_count: u8,
        /// Which pieces, and who passes each of them on to everybody; none while the content is
        /// not known.
        division: Division,
    },
    /// The sender cannot send these pieces (evicted, upload limit): ask elsewhere at once.
    Reject(Pieces),
    /// Do not push these pieces to the sender: they come from elsewhere. What it wants all the same, it
    /// asks for.
    Skip(Pieces),
    /// The sender leaves.
    Bye,
    /// To be answered with [`PeerMsg::Pong`] at once; measures the round trip.
    Ping(u32),
    /// The answer, with the same number.
    Pong(u32),
}

const HELLO: u8 = 0x01;
const STATUS: u8 = 0x02;
const HAVE: u8 = 0x03;
const WANT: u8 = 0x04;
const CLAIM: u8 = 0x05;
const REJECT: u8 = 0x06;
const BYE: u8 = 0x07;
const PING: u8 = 0x08;
const PONG: u8 = 0x09;
const SKIP: u8 = 0x0a;
/// Kind byte of a message that carries a [`crate::record::Record`].
pub const RECORD: u8 = 0x10;
/// Kind byte of a message that carries a part of a piece.
pub const CHUNK: u8 = 0x11;

/// Bytes of a chunk's header: kind, segment, piece, offset in the piece.
pub const CHUNK_HEADER_LEN: usize = 1 + 8 + 1 + 4;

/// Whether a message is for the core ([`PeerMsg`]) and not for the driver ([`DataFrame`]).
pub fn is_control(frame: &[u8]) -> bool {
    frame.first().is_some_and(|kind| *kind < RECORD)
}

impl PeerMsg {
    /// Appends the message to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut out = Writer::onto(core::mem::take(buffer));
        match self {
            Self::Hello { peer, status } => {
                out.u8(HELLO);
                out.u8(PROTOCOL_VERSION);
                out.u64(peer.0);
                status.encode(&mut out);
            }
            Self::Status(status) => {
                out.u8(STATUS);
                status.encode(&mut out);
            }
            Self::Have(entries) => {
                out.u8(HAVE);
                out.u8(entries.len().min(HAVE_ENTRIES_MAX) as u8);
                for entry in entries.iter().take(HAVE_ENTRIES_MAX) {
                    entry.encode(&mut out);
                }
            }
            Self::Want(pieces) => {
                out.u8(WANT);
                pieces.encode(&mut out);
            }
            Self::Claim {
                name,
                stripes,
                stripe_count,
                division,
            } => {
                out.u8(CLAIM);
                out.u64(name.0);
                out.u8(*stripes);
                out.u8(*stripe_count);
                division.encode(&mut out);
            }
            Self::Reject(pieces) => {
                out.u8(REJECT);
                pieces.encode(&mut out);
            }
            Self::Skip(pieces) => {
                out.u8(SKIP);
                pieces.encode(&mut out);
            }
            Self::Bye => out.u8(BYE),
            Self::Ping(nonce) => {
                out.u8(PING);
                out.u32(*nonce);
            }
            Self::Pong(nonce) => {
                out.u8(PONG);
                out.u32(*nonce);
            }
        }
        *buffer = out.into_vec();
    }

    /// Reads one control message.
    ///
    /// # Errors
    /// [`DecodeError`]; the fault is the neighbour's.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let message = match input.u8()? {
            HELLO => {
                if input.u8()? != PROTOCOL_VERSION {
                    return Err(DecodeError::OutOfRange("version"));
                }
                let peer = PeerId(input.u64()?);
                Self::Hello {
                    peer,
                    status: PeerStatus::decode(&mut input)?,
                }
            }
            STATUS => Self::Status(PeerStatus::decode(&mut input)?),
            HAVE => {
                let count = input.count("have", HAVE_ENTRIES_MAX)?;
                let entries = (0..count).map(|_| Pieces::decode(&mut input));
                Self::Have(entries.collect::<Result<_, _>>()?)
            }
            WANT => Self::Want(Pieces::decode(&mut input)?),
            CLAIM => Self::Claim {
                name: Name(input.u64()?),
                stripes: input.u8()?,
                stripe_count: input.u8()?,
                division: Division::decode(&mut input)?,
            },
            REJECT => Self::Reject(Pieces::decode(&mut input)?),
            SKIP => Self::Skip(Pieces::decode(&mut input)?),
            BYE => Self::Bye,
            PING => Self::Ping(input.u32()?),
            PONG => Self::Pong(input.u32()?),
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        input.finish()?;
        Ok(message)
    }
}

impl Pieces {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.segment.0);
        out.u64(self.bits);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            segment: SegmentId(input.u64()?),
            bits: input.u64()?,
        })
    }
}

impl Division {
    fn encode(&self, out: &mut Writer) {
        debug_assert_eq!(self.bits.count_ones() as usize, self.passers.len());
        out.u64(self.bits);
        for tag in &self.passers {
            out.u16(*tag);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = input.u64()?;
        let passers = (0..bits.count_ones()).map(|_| input.u16());
        Ok(Self {
            bits,
            passers: passers.collect::<Result<_, _>>()?,
        })
    }
}

impl PeerStatus {
    fn encode(&self, out: &mut Writer) {
        out.u16(self.weight);
        out.u32(self.buffer_ms);
        out.u8(self.tracks.len().min(TRACKS_MAX) as u8);
        for track in self.tracks.iter().take(TRACKS_MAX) {
            out.u32(track.0);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (weight, buffer_ms) = (input.u16()?, input.u32()?);
        let count = input.count("tracks", TRACKS_MAX)?;
        let tracks = (0..count).map(|_| input.u32().map(TrackId));
        Ok(Self {
            weight,
            buffer_ms,
            tracks: tracks.collect::<Result<_, _>>()?,
        })
    }
}

/// A message between viewers that the driver handles itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFrame<'a> {
    /// The record of a segment whose pieces follow. Decode it with
    /// [`crate::record::Record::decode`] and verify its signature.
    Record(&'a [u8]),
    /// A part of a piece. Parts of one piece come in order, from one neighbour.
    Chunk(Chunk<'a>),
}

/// A part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The segment.
    pub segment: SegmentId,
    /// Which piece of it.
    pub piece: u8,
    /// Where in the piece the bytes begin.
    pub offset: u32,
    /// 1 to [`CHUNK_LEN_MAX`] bytes.
    pub bytes: &'a [u8],
}

impl<'a> DataFrame<'a> {
    /// Reads the frame; the bytes are not checked against anything.
    ///
    /// # Errors
    /// [`DecodeError`]; the fault is the neighbour's.
    pub fn decode(frame: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(frame);
        match input.u8()? {
            RECORD if input.left() > RECORD_LEN_MAX => Err(DecodeError::OutOfRange("record")),
            RECORD => Ok(Self::Record(input.bytes(input.left())?)),
            CHUNK => {
                let segment = SegmentId(input.u64()?);
                let (piece, offset) = (input.u8()?, input.u32()?);
                if u32::from(piece) >= PIECES_MAX || offset >= PIECE_LEN_MAX {
                    return Err(DecodeError::OutOfRange("piece"));
                }
                let bytes = input.bytes(input.left())?;
                if bytes.is_empty() || bytes.len() > CHUNK_LEN_MAX as usize {
                    return Err(DecodeError::OutOfRange("chunk"));
                }
                Ok(Self::Chunk(Chunk {
                    segment,
                    piece,
                    offset,
                    bytes,
                }))
            }
            kind => Err(DecodeError::UnknownKind(kind)),
        }
    }

    /// Appends the frame to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut out = Writer::onto(core::mem::take(buffer));
        match self {
            Self::Record(record) => {
                out.u8(RECORD);
                out.bytes(record);
            }
            Self::Chunk(chunk) => {
                out.u8(CHUNK);
                out.u64(chunk.segment.0);
                out.u8(chunk.piece);
                out.u32(chunk.offset);
                out.bytes(chunk.bytes);
            }
        }
        *buffer = out.into_vec();
    }
}

/// The lengths in which a piece of `piece_len` bytes travels: equal parts of at most
/// [`CHUNK_LEN_MAX`], the last one shorter.
pub const fn chunk_len_for(piece_len: u32) -> u32 {
    let parts = piece_len.div_ceil(CHUNK_LEN_MAX);
    piece_len.div_ceil(if parts == 0 { 1 } else { parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn status() -> PeerStatus {
        PeerStatus {
            weight: 100,
            buffer_ms: 8000,
            tracks: vec![TrackId(1), TrackId(2)],
        }
    }

    #[test]
    fn control_messages_round_trip() {
        let pieces = Pieces {
            segment: SegmentId(1),
            bits: 0b101,
        };
        let all = [
            PeerMsg::Hello {
                peer: PeerId(3),
                status: status(),
            },
            PeerMsg::Status(status()),
            PeerMsg::Have(vec![
                pieces,
                Pieces {
                    segment: SegmentId(2),
                    bits: 0,
                },
            ]),
            PeerMsg::Want(pieces),
            PeerMsg::Claim {
                name: Name(4),
                stripes: 0b11,
                stripe_count: 4,
                division: Division {
                    bits: 0b101,
                    passers: vec![1, 2],
                },
            },
            PeerMsg::Reject(pieces),
            PeerMsg::Skip(pieces),
            PeerMsg::Bye,
            PeerMsg::Ping(7),
            PeerMsg::Pong(7),
        ];
        for message in all {
            let mut bytes = vec![];
            message.encode(&mut bytes);
            assert!(is_control(&bytes));
            assert_eq!(PeerMsg::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn data_frames_round_trip() {
        let chunk = Chunk {
            segment: SegmentId(1),
            piece: 63,
            offset: 5,
            bytes: &[1, 2, 3],
        };
        for frame in [DataFrame::Record(&[1, 2]), DataFrame::Chunk(chunk)] {
            let mut bytes = vec![];
            frame.encode(&mut bytes);
            assert!(!is_control(&bytes));
            assert_eq!(DataFrame::decode(&bytes), Ok(frame));
        }
    }

    #[test]
    fn chunks_are_equal_parts_within_the_limit() {
        for (piece, chunk) in [(16_384, 16_384), (49_152, 49_152), (65_536, 32_768), (1, 1)] {
            assert_eq!(chunk_len_for(piece), chunk);
        }
    }

    #[test]
    fn hostile_lengths_are_refused() {
        assert_eq!(
            PeerMsg::decode(&[HAVE, 255]),
            Err(DecodeError::OutOfRange("have"))
        );
        let mut empty = vec![];
        DataFrame::Chunk(Chunk {
            segment: SegmentId(1),
            piece: 0,
            offset: 0,
            bytes: &[],
        })
        .encode(&mut empty);
        assert_eq!(
            DataFrame::decode(&empty),
            Err(DecodeError::OutOfRange("chunk"))
        );
        empty[9] = 64;
        assert_eq!(
            DataFrame::decode(&empty),
            Err(DecodeError::OutOfRange("piece"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerMsg::decode(&bytes);
            let _ = DataFrame::decode(&bytes);
        }
    }
}

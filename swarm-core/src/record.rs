//! The signed record of a segment: what makes bytes from a stranger safe to play.
//!
//! `docs/protocol/records.md` specifies the format. The origin-proxy writes records, every viewer
//! checks them, and nobody else can make them. Decoding checks everything but the signature; that
//! needs a key and is the drivers': verify `signature` over [`Record::signed_bytes`] with Ed25519
//! (RFC 8032) before the record is used.

use alloc::{string::String, vec::Vec};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    id::{Name, SegmentId, StreamId},
    limits::{PIECE_LEN_MAX, PIECE_LEN_MIN, PIECES_MAX, SEGMENT_LEN_MAX},
    wire::{DecodeError, Reader, Writer},
};

/// The HTTP response header in which records travel with the bytes.
pub const RECORD_HEADER: &str = "Shoal-Record";
/// Bytes of a piece hash: the first half of SHA-256 over the piece.
pub const PIECE_HASH_LEN: usize = 16;
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"shoal record v1\0";

/// The first half of SHA-256 over one piece.
pub type PieceHash = [u8; PIECE_HASH_LEN];

/// What the origin says of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in the stream.
    pub name: Name,
    /// Counts up when a name is used again for other bytes; the highest one counts.
    pub epoch: u32,
    /// Its number in its playlist (media sequence number, `$Number$`), for freshness.
    pub seq: u64,
    /// Duration in milliseconds.
    pub duration_ms: u32,
    /// Length in bytes, 1 to [`SEGMENT_LEN_MAX`].
    pub len: u32,
    /// Length of every piece but the last, in bytes.
    pub piece_len: u32,
    /// Hash of every piece, in order.
    pub piece_hashes: Vec<PieceHash>,
    /// Ed25519 over [`Record::signed_bytes`].
    pub signature: [u8; 64],
}

/// Why bytes are not a record. The fault is the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The bytes end early, are too many, or hold a value out of range.
    #[error("peer or origin sent a malformed record: {0}")]
    Malformed(#[from] DecodeError),
    /// A version that this build does not know.
    #[error("peer or origin sent a record of unknown version {0}")]
    Version(u8),
    /// Length, piece length and number of hashes do not fit each other.
    #[error("peer or origin sent a record whose lengths contradict each other")]
    Geometry,
    /// The text of the header is not base64url.
    #[error("peer or origin sent a record header that is not base64url")]
    NotBase64,
}

/// The piece length for a segment of `len` bytes: the smallest multiple of 16 KiB that needs at
/// most [`PIECES_MAX`] pieces, at least 16 KiB for small, 32 KiB and 64 KiB for larger segments.
pub fn piece_len_for(len: u32) -> u32 {
    let preferred = match len {
        0..=524_288 => PIECE_LEN_MIN,
        524_289..=1_572_864 => 2 * PIECE_LEN_MIN,
        _ => 4 * PIECE_LEN_MIN,
    };
    let needed = len.div_ceil(PIECES_MAX).next_multiple_of(PIECE_LEN_MIN);
    preferred.max(needed)
}

/// The hash of one piece.
pub fn piece_hash(piece: &[u8]) -> PieceHash {
    let mut hash = [0; PIECE_HASH_LEN];
    hash.copy_from_slice(&Sha256::digest(piece)[..PIECE_HASH_LEN]);
    hash
}

/// How many pieces a segment of `len` bytes has.
pub const fn piece_count(len: u32, piece_len: u32) -> u32 {
    len.div_ceil(piece_len)
}

impl Record {
    /// SHA-256 over the piece hashes.
    pub fn root(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for piece in &self.piece_hashes {
            hash.update(piece);
        }
        hash.finalize().into()
    }

    /// The name of these very bytes on the wire between peers.
    pub fn id(&self) -> SegmentId {
        let mut first = [0; 8];
        first.copy_from_slice(&self.root()[..8]);
        SegmentId(u64::from_be_bytes(first))
    }

    /// Whether `bytes` are piece `index` of this segment: right length, right hash.
    pub fn verify_piece(&self, index: u32, bytes: &[u8]) -> bool {
        let Some(expected) = self.piece_hashes.get(index as usize) else {
            return false;
        };
        bytes.len() as u64 == u64::from(self.piece_size(index)) && piece_hash(bytes) == *expected
    }

    /// Length of piece `index` in bytes; 0 past the end.
    pub const fn piece_size(&self, index: u32) -> u32 {
        let start = index as u64 * self.piece_len as u64;
        let left = (self.len as u64).saturating_sub(start);
        if left < self.piece_len as u64 {
            left as u32
        } else {
            self.piece_len
        }
    }

    /// What the signature is over: everything but the hashes (their root stands for them).
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(DOMAIN);
        self.write_head(&mut out);
        out.bytes(&self.root());
        out.into_vec()
    }

    fn write_head(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.bytes(&self.stream.0);
        out.u64(self.name.0);
        out.u32(self.epoch);
        out.u64(self.seq);
        out.u32(self.duration_ms);
        out.u32(self.len);
        out.u32(self.piece_len);
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_head(&mut out);
        out.bytes(&self.signature);
        for hash in &self.piece_hashes {
            out.bytes(hash);
        }
        out.into_vec()
    }

    /// Reads what [`Record::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`RecordError`], if the bytes are not exactly one record of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut input = Reader::new(bytes);
        let version = input.u8()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let mut record = Self {
            stream: StreamId(input.array()?),
            name: Name(input.u64()?),
            epoch: input.u32()?,
            seq: input.u64()?,
            duration_ms: input.u32()?,
            len: input.u32()?,
            piece_len: input.u32()?,
            signature: input.array()?,
            piece_hashes: Vec::new(),
        };
        let in_range = (1..=SEGMENT_LEN_MAX).contains(&record.len)
            && (PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(&record.piece_len);
        if !in_range {
            return Err(RecordError::Geometry);
        }
        let count = piece_count(record.len, record.piece_len);
        if count > PIECES_MAX || input.left() != count as usize * PIECE_HASH_LEN {
            return Err(RecordError::Geometry);
        }
        for _ in 0..count {
            record.piece_hashes.push(input.array()?);
        }
        Ok(record)
    }

    /// The record as the value of the [`RECORD_HEADER`]: base64url without padding.
    pub fn to_header(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.encode())
    }

    /// Reads the value of a [`RECORD_HEADER`].
    ///
    /// # Errors
    /// [`RecordError`], as for [`Record::decode`], or if it is not base64url.
    pub fn from_header(text: &str) -> Result<Self, RecordError> {
        let longest = (RECORD_LEN_MAX * 4).div_ceil(3);
        if text.len() > longest {
            return Err(RecordError::Geometry);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| RecordError::NotBase64)?;
        Self::decode(&bytes)
    }
}

/// The longest record, in bytes.
pub const RECORD_LEN_MAX: usize = 113 + PIECES_MAX as usize * PIECE_HASH_LEN;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> Record {
        let len = 40_000;
        Record {
            stream: StreamId([1; 16]),
            name: Name(2),
            epoch: 3,
            seq: 4,
            duration_ms: 2000,
            len,
            piece_len: piece_len_for(len),
            piece_hashes: vec![[5; 16], [6; 16], [7; 16]],
            signature: [8; 64],
        }
    }

    #[test]
    fn round_trips_as_bytes_and_as_header() {
        let record = sample();
        assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
        assert_eq!(Record::from_header(&record.to_header()), Ok(record));
    }

    #[test]
    fn the_longest_record_has_the_documented_length() {
        let record = Record {
            len: 64 * PIECE_LEN_MIN,
            piece_len: PIECE_LEN_MIN,
            piece_hashes: vec![[0; 16]; 64],
            ..sample()
        };
        assert_eq!(record.encode().len(), RECORD_LEN_MAX);
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        let mut more = sample();
        more.piece_hashes.push([0; 16]);
        assert_eq!(Record::decode(&more.encode()), Err(RecordError::Geometry));
        let zero = Record {
            len: 0,
            piece_hashes: vec![],
            ..sample()
        };
        assert_eq!(Record::decode(&zero.encode()), Err(RecordError::Geometry));
        assert_eq!(Record::decode(&[9]), Err(RecordError::Version(9)));
    }

    #[test]
    fn pieces_fit_every_length() {
        for len in [1, 16_384, 524_289, 2_500_000, 6_000_000, SEGMENT_LEN_MAX] {
            let piece_len = piece_len_for(len);
            assert!(piece_count(len, piece_len) <= PIECES_MAX, "{len}");
            assert!(piece_len <= PIECE_LEN_MAX, "{len}");
        }
    }

    #[test]
    fn a_changed_byte_fails_verification() {
        let piece = vec![42; 16_384];
        let record = Record {
            len: 16_384,
            piece_hashes: vec![piece_hash(&piece)],
            ..sample()
        };
        assert!(record.verify_piece(0, &piece));
        let mut bad = piece.clone();
        bad[100] ^= 1;
        assert!(!record.verify_piece(0, &bad));
        assert!(!record.verify_piece(0, &piece[1..]));
        assert!(!record.verify_piece(1, &piece));
    }
}

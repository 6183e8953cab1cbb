//! Chunks from one neighbour, put together to pieces. Bounded, and strict: what does not follow
//! the rules is the neighbour's fault.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use swarm_core::id::SegmentId;
use swarm_core::record::Record;
use swarm_core::wire::peer::Chunk;
use thiserror::Error;

/// Pieces that one neighbour may have begun and not finished.
const PARTIAL_MAX: usize = 8;

/// How a neighbour broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ChunkError {
    #[error("peer sent a chunk of a piece that the segment does not have")]
    NoSuchPiece,
    #[error("peer sent a chunk out of order")]
    OutOfOrder,
    #[error("peer sent more bytes than the piece has")]
    TooLong,
    #[error("peer began too many pieces at a time")]
    TooMany,
}

/// The pieces that one neighbour has begun.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    partial: HashMap<(SegmentId, u8), BytesMut>,
}

impl Reassembly {
    /// Takes a chunk of a segment with this record; the piece, not yet verified, if it is whole.
    pub(crate) fn push(
        &mut self,
        record: &Record,
        chunk: &Chunk<'_>,
    ) -> Result<Option<Bytes>, ChunkError> {
        let size = record.piece_size(chunk.piece.into()) as usize;
        if size == 0 || usize::from(chunk.piece) >= record.piece_hashes.len() {
            return Err(ChunkError::NoSuchPiece);
        }
        let key = (chunk.segment, chunk.piece);
        let begun = self.partial.get(&key).map_or(0, BytesMut::len);
        if chunk.offset as usize != begun {
            return Err(ChunkError::OutOfOrder);
        }
        if begun + chunk.bytes.len() > size {
            return Err(ChunkError::TooLong);
        }
        if begun == 0 && chunk.bytes.len() == size {
            return Ok(Some(Bytes::copy_from_slice(chunk.bytes)));
        }
        if begun == 0 && self.partial.len() >= PARTIAL_MAX {
            return Err(ChunkError::TooMany);
        }
        let piece = self
            .partial
            .entry(key)
            .or_insert_with(|| BytesMut::with_capacity(size));
        piece.extend_from_slice(chunk.bytes);
        let whole = piece.len() == size;
        Ok(whole
            .then(|| self.partial.remove(&key))
            .flatten()
            .map(BytesMut::freeze))
    }

    /// Forgets what was begun of a segment.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.partial.retain(|(other, _), _| *other != segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::signed;
    use proptest::prelude::*;

    fn chunk<'b>(record: &Record, piece: u8, offset: u32, bytes: &'b [u8]) -> Chunk<'b> {
        Chunk {
            segment: record.id(),
            piece,
            offset,
            bytes,
        }
    }

    fn sample() -> (Vec<u8>, Record) {
        let body: Vec<u8> = (0..20_000u32).map(|i| (i / 7) as u8).collect();
        let record = signed("/seg.m4s", &body);
        (body, record)
    }

    #[test]
    fn chunks_in_order_make_the_piece() {
        let (body, record) = sample();
        let mut pieces = Reassembly::default();
        assert_eq!(
            pieces.push(&record, &chunk(&record, 0, 0, &body[..10_000])),
            Ok(None)
        );
        let last = pieces.push(&record, &chunk(&record, 1, 0, &body[16_384..]));
        assert_eq!(last.unwrap().unwrap(), &body[16_384..]);
        let first = pieces.push(&record, &chunk(&record, 0, 10_000, &body[10_000..16_384]));
        let first = first.unwrap().unwrap();
        assert!(record.verify_piece(0, &first));
        assert!(pieces.partial.is_empty());
    }

    #[test]
    fn overlaps_gaps_and_excess_are_refused() {
        let (body, record) = sample();
        let mut pieces = Reassembly::default();
        let mut push = |piece, offset, len: usize| {
            pieces.push(&record, &chunk(&record, piece, offset, &body[..len]))
        };
        assert_eq!(push(0, 100, 50), Err(ChunkError::OutOfOrder));
        assert_eq!(push(0, 0, 100), Ok(None));
        assert_eq!(push(0, 50, 100), Err(ChunkError::OutOfOrder));
        assert_eq!(push(0, 0, 100), Err(ChunkError::OutOfOrder));
        assert_eq!(push(0, 200, 100), Err(ChunkError::OutOfOrder));
        assert_eq!(push(0, 100, 16_300), Err(ChunkError::TooLong));
        assert_eq!(push(1, 0, 5_000), Err(ChunkError::TooLong));
        assert_eq!(push(2, 0, 1), Err(ChunkError::NoSuchPiece));
        assert_eq!(push(63, 0, 1), Err(ChunkError::NoSuchPiece));
    }

    #[test]
    fn begun_pieces_are_bounded_and_can_be_forgotten() {
        let body = vec![3; 60 * 16_384];
        let record = Record {
            piece_len: 16_384,
            ..signed("/long.m4s", &body)
        };
        let hashes = vec![[0; 16]; 60];
        let record = Record {
            piece_hashes: hashes,
            ..record
        };
        let mut pieces = Reassembly::default();
        for piece in 0..PARTIAL_MAX as u8 {
            assert_eq!(
                pieces.push(&record, &chunk(&record, piece, 0, &[1])),
                Ok(None)
            );
        }
        let more = chunk(&record, PARTIAL_MAX as u8, 0, &[1]);
        assert_eq!(pieces.push(&record, &more), Err(ChunkError::TooMany));
        pieces.forget(record.id());
        assert_eq!(pieces.push(&record, &more), Ok(None));
    }

    proptest! {
        #[test]
        fn any_chunks_stay_within_bounds(
            chunks in prop::collection::vec((0u8..4, 0u32..20_000, 1usize..17_000), 0..40)
        ) {
            let (body, record) = sample();
            let mut pieces = Reassembly::default();
            for (piece, offset, len) in chunks {
                if let Ok(Some(whole)) =
                    pieces.push(&record, &chunk(&record, piece, offset, &body[..len]))
                {
                    prop_assert_eq!(whole.len(), record.piece_size(piece.into()) as usize);
                }
                prop_assert!(pieces.partial.len() <= PARTIAL_MAX);
            }
        }
    }
}

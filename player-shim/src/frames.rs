//! Messages to neighbours that the runtime sends on its own account.

use swarm_core::{
    id::SegmentId,
    wire::peer::{PeerMsg, Pieces, chunk_len_for},
};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::names::id_of;

/// The control message that says that a piece cannot be sent, because it is not stored any more.
#[wasm_bindgen]
pub fn frame_of_reject(segment: &str, piece: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let pieces = Pieces {
        segment: SegmentId(id_of(segment).unwrap_or_default()),
        bits: 1 << (piece & 63),
    };
    PeerMsg::Reject(pieces).encode(&mut frame);
    frame
}

/// In which lengths a piece of `piece_len` bytes is sent.
#[wasm_bindgen]
pub fn chunk_len_of(piece_len: u32) -> u32 {
    chunk_len_for(piece_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_names_the_piece() {
        let frame = frame_of_reject("00000000000000ff", 5);
        let expected = Pieces {
            segment: SegmentId(255),
            bits: 32,
        };
        assert_eq!(PeerMsg::decode(&frame), Ok(PeerMsg::Reject(expected)));
        assert_eq!(chunk_len_of(65_536), 32_768);
    }
}

//! Signed segments for the unit tests.

use ed25519_dalek::{Signer, SigningKey};
use swarm_core::id::{Name, StreamId};
use swarm_core::record::{Record, piece_hash, piece_len_for};

/// The key that signs every test stream.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// The test stream.
pub(crate) fn stream() -> StreamId {
    StreamId::of(&key().verifying_key().to_bytes(), "main")
}

/// The signed record of `body` at `path`.
pub(crate) fn signed(path: &str, body: &[u8]) -> Record {
    let piece_len = piece_len_for(body.len() as u32);
    let mut record = Record {
        stream: stream(),
        name: Name::of_url(path),
        epoch: 0,
        seq: 1,
        duration_ms: 2000,
        len: body.len() as u32,
        piece_len,
        piece_hashes: body.chunks(piece_len as usize).map(piece_hash).collect(),
        signature: [0; 64],
    };
    record.signature = key().sign(&record.signed_bytes()).to_bytes();
    record
}

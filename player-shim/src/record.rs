//! Records for JavaScript, which holds the key and hashes the pieces.

use swarm_core::record::Record;
use wasm_bindgen::prelude::wasm_bindgen;

/// A well-formed record. Its signature is yet to be verified: Ed25519 by the stream's key over
/// [`ParsedRecord::signed`].
#[wasm_bindgen]
#[derive(Debug)]
pub struct ParsedRecord(Record);

/// Reads a record.
///
/// # Errors
/// What is wrong with it. The fault is its sender's.
#[wasm_bindgen]
pub fn parse_record(bytes: &[u8]) -> Result<ParsedRecord, String> {
    Record::decode(bytes)
        .map(ParsedRecord)
        .map_err(|error| error.to_string())
}

/// Reads the value of a `Shoal-Record` header.
///
/// # Errors
/// What is wrong with it. The fault is the origin's.
#[wasm_bindgen]
pub fn parse_record_header(text: &str) -> Result<ParsedRecord, String> {
    Record::from_header(text)
        .map(ParsedRecord)
        .map_err(|error| error.to_string())
}

#[wasm_bindgen]
impl ParsedRecord {
    /// The segment's id, 16 hexadecimal digits.
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }

    /// The stream's id, 32 hexadecimal digits.
    pub fn stream(&self) -> String {
        self.0.stream.to_string()
    }

    /// The segment's name, 16 hexadecimal digits.
    pub fn name(&self) -> String {
        self.0.name.to_string()
    }

    /// Length of the segment in bytes.
    pub fn len(&self) -> u32 {
        self.0.len
    }

    /// Never: a record stands for at least one byte.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Length of every piece but the last, in bytes.
    pub fn piece_len(&self) -> u32 {
        self.0.piece_len
    }

    /// The record itself, for neighbours and for `Shim::record`.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// What the signature is over.
    pub fn signed(&self) -> Vec<u8> {
        self.0.signed_bytes()
    }

    /// The signature, 64 bytes.
    pub fn signature(&self) -> Vec<u8> {
        self.0.signature.to_vec()
    }

    /// The hashes of all pieces, 16 bytes each: the first half of SHA-256.
    pub fn hashes(&self) -> Vec<u8> {
        self.0.piece_hashes.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_core::id::{Name, StreamId};

    #[test]
    fn a_record_shows_what_javascript_needs() {
        let record = Record {
            stream: StreamId([1; 16]),
            name: Name(2),
            epoch: 3,
            seq: 4,
            duration_ms: 2000,
            len: 20_000,
            piece_len: 16_384,
            piece_hashes: vec![[5; 16], [6; 16]],
            signature: [8; 64],
        };
        let parsed = parse_record_header(&record.to_header()).unwrap();
        assert_eq!(parsed.id(), record.id().to_string());
        assert_eq!(parsed.name(), "0000000000000002");
        assert_eq!((parsed.len(), parsed.piece_len()), (20_000, 16_384));
        assert_eq!(parsed.bytes(), record.encode());
        assert_eq!(parsed.signed(), record.signed_bytes());
        assert_eq!(parsed.hashes().len(), 32);
        assert_eq!(parsed.signature(), [8; 64]);
        assert!(!parsed.is_empty());
        assert!(parse_record(&parsed.bytes()[1..]).is_err());
        assert!(parse_record_header("?").is_err());
    }
}

//! Whose signature counts: keys from the configuration, and from the CDN where it is trusted.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;
use swarm_core::id::StreamId;
use swarm_core::record::Record;

/// Where a CDN that passes the origin-proxy's answers on names the streams and their keys.
pub(crate) const STREAMS_PATH: &str = "/.shoal/streams";
/// Longest answer that is read from [`STREAMS_PATH`], in bytes.
pub(crate) const STREAMS_LEN_MAX: usize = 64 * 1024;
/// Keys trusted at most.
const KEYS_MAX: usize = 64;

/// The keys that may sign, and the stream that is played.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    keys: RwLock<Vec<Trusted>>,
    stream: Mutex<Option<StreamId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Trusted {
    key: VerifyingKey,
    /// The one stream that it may sign; any, where the operator has named the key.
    stream: Option<StreamId>,
}

impl Trust {
    /// Trusts these keys; such as are no points of the curve are left out.
    pub(crate) fn new(keys: &[[u8; 32]]) -> Arc<Self> {
        let trust = Arc::new(Self::default());
        for key in keys {
            trust.add(key, None);
        }
        trust
    }

    /// Trusts one more key, for one stream or for all. Returns whether it was not trusted before.
    pub(crate) fn add(&self, key: &[u8; 32], stream: Option<StreamId>) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(key) else {
            return false;
        };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let trusted = Trusted { key, stream };
        let is_new = keys.len() < KEYS_MAX && !keys.contains(&trusted);
        if is_new {
            keys.push(trusted);
        }
        is_new
    }

    /// Whether a key is trusted that may sign this stream: without one nothing is shared.
    pub(crate) fn knows(&self, stream: StreamId) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().any(|trusted| trusted.may_sign(stream))
    }

    /// From now on records must be of this stream.
    pub(crate) fn set_stream(&self, stream: StreamId) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    /// Whether the record is of the stream that is played and signed by a trusted key.
    pub(crate) fn accepts(&self, record: &Record) -> bool {
        let stream = *self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if stream != Some(record.stream) {
            return false;
        }
        let signature = Signature::from_bytes(&record.signature);
        let signed = record.signed_bytes();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys = keys
            .iter()
            .filter(|trusted| trusted.may_sign(record.stream));
        keys.any(|trusted| trusted.key.verify_strict(&signed, &signature).is_ok())
    }
}

impl Trusted {
    fn may_sign(&self, stream: StreamId) -> bool {
        self.stream.is_none_or(|own| own == stream)
    }
}

/// Reads the answer from [`STREAMS_PATH`]: keys, and the stream that each may sign. A stream's id
/// is a hash of its name and of the key that signed it first; others may sign it after that one.
pub(crate) fn parse_streams(text: &[u8]) -> Result<Vec<([u8; 32], StreamId)>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Stream {
        name: String,
        public_key: String,
        stream_key: Option<String>,
        #[serde(default)]
        public_keys: Vec<String>,
    }
    let streams: Vec<Stream> = serde_json::from_slice(text)?;
    let read = |stream: &Stream| {
        let first = stream.stream_key.as_ref().unwrap_or(&stream.public_key);
        let first = crate::config::parse_key(first).ok()?;
        let id = StreamId::of(&first, &stream.name);
        let texts = std::iter::once(&stream.public_key).chain(&stream.public_keys);
        let keys = texts.filter_map(|text| crate::config::parse_key(text).ok());
        Some(keys.map(|key| (key, id)).collect::<Vec<_>>())
    };
    let mut keys: Vec<_> = streams.iter().filter_map(read).flatten().collect();
    keys.dedup();
    keys.truncate(KEYS_MAX);
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, signed, stream};

    #[test]
    fn only_records_of_the_stream_by_a_trusted_key_count() {
        let trust = Trust::new(&[]);
        let record = signed("/a.m4s", b"abc");
        let public = key().verifying_key().to_bytes();
        trust.set_stream(stream());
        trust.add(&public, Some(StreamId([9; 16])));
        assert!(!trust.knows(stream()) && !trust.accepts(&record));
        trust.add(&public, Some(stream()));
        assert!(trust.knows(stream()) && trust.accepts(&record));
        assert!(!trust.accepts(&Record {
            len: 4,
            ..record.clone()
        }));
        assert!(!trust.accepts(&Record {
            signature: [1; 64],
            ..record.clone()
        }));
        trust.set_stream(StreamId([1; 16]));
        assert!(!trust.accepts(&record));
        assert!(Trust::new(&[public]).knows(stream()));
    }

    #[test]
    fn the_origins_list_names_keys_and_their_streams() {
        let list = r#"[{"name":"main","prefix":"/","stream":"00",
            "public_key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"},
            {"name":"bad","public_key":"?"}]"#;
        let expected = ([1; 32], StreamId::of(&[1; 32], "main"));
        assert_eq!(parse_streams(list.as_bytes()).unwrap(), [expected]);
        assert!(parse_streams(b"<html>").is_err());
    }

    #[test]
    fn the_key_that_signs_next_may_sign_the_same_stream() {
        let (old, new) = ("AQEB".repeat(10) + "AQE", "AgIC".repeat(10) + "AgI");
        let list = format!(
            r#"[{{"name":"main","public_key":"{new}","stream_key":"{old}","public_keys":["{new}","{old}"]}}]"#
        );
        let stream = StreamId::of(&[1; 32], "main");
        let expected = [([2; 32], stream), ([1; 32], stream)];
        assert_eq!(parse_streams(list.as_bytes()).unwrap(), expected);
        let trust = Trust::new(&[]);
        let public = key().verifying_key().to_bytes();
        assert!(trust.add(&public, Some(stream)) && !trust.add(&public, Some(stream)));
    }
}

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
    keys: RwLock<Vec<VerifyingKey>>,
    stream: Mutex<Option<StreamId>>,
}

impl Trust {
    /// Trusts these keys; such as are no points of the curve are left out.
    pub(crate) fn new(keys: &[[u8; 32]]) -> Arc<Self> {
        let trust = Arc::new(Self::default());
        trust.add(keys);
        trust
    }

    /// Trusts more keys.
    pub(crate) fn add(&self, more: &[[u8; 32]]) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        for key in more.iter().filter_map(|bytes| VerifyingKey::from_bytes(bytes).ok()) {
            if keys.len() < KEYS_MAX && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }

    /// Whether any key is trusted: without one nothing is shared.
    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.read().unwrap_or_else(PoisonError::into_inner).is_empty()
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
        keys.iter().any(|key| key.verify_strict(&signed, &signature).is_ok())
    }
}

/// Reads the keys out of the answer from [`STREAMS_PATH`].
pub(crate) fn parse_streams(text: &[u8]) -> Result<Vec<[u8; 32]>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Stream {
        public_key: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Listed { streams: Vec<Stream> },
        Bare(Vec<Stream>),
    }
    let (Answer::Listed { streams } | Answer::Bare(streams)) = serde_json::from_slice(text)?;
    let key = |stream: &Stream| crate::config::parse_key(&stream.public_key).ok();
    Ok(streams.iter().take(KEYS_MAX).filter_map(key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, signed, stream};

    #[test]
    fn only_records_of_the_stream_by_a_trusted_key_count() {
        let trust = Trust::new(&[]);
        let record = signed("/a.m4s", b"abc");
        trust.set_stream(stream());
        assert!(!trust.accepts(&record));
        trust.add(&[key().verifying_key().to_bytes()]);
        assert!(trust.has_keys() && trust.accepts(&record));
        assert!(!trust.accepts(&Record { len: 4, ..record.clone() }));
        assert!(!trust.accepts(&Record { signature: [1; 64], ..record.clone() }));
        trust.set_stream(StreamId([1; 16]));
        assert!(!trust.accepts(&record));
    }

    #[test]
    fn keys_are_read_from_both_forms_of_the_answer() {
        let one = format!(r#"{{"name":"main","id":"00","public_key":"{}"}}"#, "ab".repeat(32));
        assert_eq!(parse_streams(format!("[{one}]").as_bytes()).unwrap(), [[0xab; 32]]);
        let listed = format!(r#"{{"streams":[{one}],"version":1}}"#);
        assert_eq!(parse_streams(listed.as_bytes()).unwrap(), [[0xab; 32]]);
        assert!(parse_streams(b"<html>").is_err());
    }
}

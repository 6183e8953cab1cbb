//! Files of the second tier, as a crash, a bad disk or another program leaves them.

use super::*;
use crate::{freshness::NOT_FRESH, fuzzing::lines_of};

/// Places of a file that are spoiled, one after the other.
const SPOILED_MAX: usize = 8;

/// What is read was written, and what is written is read: the bytes as a file; as one whose digest fits,
/// which nobody finds by chance; and as an object.
pub fn stored(bytes: &[u8]) {
    check_file(bytes);
    check_file(&file_of(bytes));
    check_object("/a", &object_of(bytes));
}

/// A file with a digest that fits: meta data up to the first line feed, then the body.
pub(super) fn file_of(bytes: &[u8]) -> Vec<u8> {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (meta, body) = (parts.next().unwrap(), parts.next().unwrap_or_default());
    let len = (meta.len() as u32).to_be_bytes();
    let digest = digest_of(&[&len, meta, body]);
    [&MAGIC[..], &digest, &len, meta, body].concat()
}

fn check_file(file: &[u8]) {
    let listed = meta_of(&mut &file[..], file.len() as u64);
    let key = listed.map(|meta| meta.key);
    let bytes = Bytes::copy_from_slice(file);
    let loaded = decode(&bytes, key.as_deref().unwrap_or_default());
    let Ok(object) = loaded else {
        return;
    };
    let key = key.expect("what is loaded was listed");
    assert!(decode(&bytes, &format!("{key}x")).is_err());
    let _ = (object.is_fresh(), object.is_usable_meanwhile());
    let _ = (object.is_usable_stale(), object.age_s());
    check_object(&key, &object);
}

fn check_object(key: &str, object: &Object) {
    // One with too many headers.
    let Ok(head) = encode_head(key, object) else {
        return;
    };
    let whole = [&head[..], &object.body].concat();
    let meta = meta_of(&mut &whole[..], whole.len() as u64).expect("what is written is listed");
    assert_eq!(meta.key, key);
    let again = decode(&whole.clone().into(), key).expect("what is written is read");
    assert_eq!(again.status, object.status);
    assert_eq!(again.headers, object.headers);
    assert_eq!(again.body, object.body);
    assert!(again.freshness.fresh <= object.freshness.fresh);
    for at in (0..whole.len()).step_by(whole.len().div_ceil(SPOILED_MAX)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        for spoiled in [flipped, whole[..at].to_vec()] {
            assert!(decode(&spoiled.into(), key).is_err(), "byte {at}");
        }
    }
}

/// An answer with these headers and this body.
fn object_of(bytes: &[u8]) -> Object {
    let (headers, body) = lines_of(bytes);
    Object {
        status: StatusCode::OK,
        origin_etag: headers.get(header::ETAG).cloned(),
        headers,
        body: Bytes::copy_from_slice(body),
        raw: None,
        stored: Instant::now(),
        freshness: Freshness {
            fresh: Duration::from_millis(bytes.len() as u64),
            ..NOT_FRESH
        },
        records: Default::default(),
        prepared: Default::default(),
        gzipped: Default::default(),
    }
}

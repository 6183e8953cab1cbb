//! Segments in memory: verified pieces with the records that vouch for them, and, apart from them,
//! whole bodies that nobody vouches for. Bounded in bytes.
//!
//! The driver alone writes pieces, after verification; the endpoint and the virtual player read,
//! and wait for [`Store::changes`] to play what is there while the rest still comes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use swarm_core::id::{FetchId, Name, SegmentId};
use swarm_core::limits::SEGMENT_LEN_MAX;
use swarm_core::record::Record;
use tokio::sync::watch;

use crate::driver::Released;

/// Records kept at most, with or without pieces.
const RECORDS_MAX: usize = 512;
/// Unverified bodies kept at most; the oldest is forgotten first.
const BODIES_MAX: usize = 8;

/// Where a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Peer,
    Cdn,
}

/// What became of a verified piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Stored,
    /// It was there already.
    Duplicate,
    /// No record of its segment is here.
    Unknown,
    /// Larger than what is left even after everything else was forgotten.
    Full,
}

/// Bytes to play, in order, and who brought them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Media {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) bytes_p2p: u64,
    pub(crate) bytes_cdn: u64,
}

/// What can be played of a segment that is still coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prefix {
    /// Length of the whole, once known.
    pub(crate) len: Option<u64>,
    /// What follows the offset that was asked for.
    pub(crate) chunks: Vec<Bytes>,
    /// Whether a neighbour sent the first of it.
    pub(crate) from_peer: bool,
}

#[derive(Debug)]
pub(crate) struct Store {
    bytes_max: u64,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    segments: HashMap<SegmentId, Entry>,
    names: HashMap<Name, SegmentId>,
    /// Oldest first.
    order: VecDeque<SegmentId>,
    bodies: VecDeque<Body>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    pieces: Vec<Option<Bytes>>,
    bytes: u64,
    bytes_p2p: u64,
    from_peers: u64,
}

#[derive(Debug)]
struct Body {
    fetch: FetchId,
    name: Name,
    len: Option<u64>,
    chunks: Vec<Bytes>,
    bytes: u64,
}

impl Store {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }

    /// Changes whenever something can be played that could not before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Remembers a record whose signature was checked; false if it was here.
    pub(crate) fn add_record(&self, record: Arc<Record>) -> bool {
        let mut state = self.lock();
        let id = record.id();
        if state.segments.contains_key(&id) {
            return false;
        }
        if state.order.len() >= RECORDS_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.forget(oldest);
        }
        let newest = match state
            .names
            .get(&record.name)
            .and_then(|old| state.segments.get(old))
        {
            Some(old) => old.record.epoch <= record.epoch,
            None => true,
        };
        if newest {
            state.names.insert(record.name, id);
        }
        state.order.push_back(id);
        state.segments.insert(id, Entry::new(record));
        true
    }

    /// The record of a segment, if it is here.
    pub(crate) fn record(&self, segment: SegmentId) -> Option<Arc<Record>> {
        self.lock()
            .segments
            .get(&segment)
            .map(|entry| entry.record.clone())
    }

    /// The newest record under a name, if one is here.
    pub(crate) fn record_of(&self, name: Name) -> Option<Arc<Record>> {
        let state = self.lock();
        let entry = state
            .names
            .get(&name)
            .and_then(|id| state.segments.get(id))?;
        Some(entry.record.clone())
    }

    /// Whether the piece is here.
    pub(crate) fn has(&self, segment: SegmentId, piece: u32) -> bool {
        self.piece(segment, piece).is_some()
    }

    /// A stored piece.
    pub(crate) fn piece(&self, segment: SegmentId, piece: u32) -> Option<Bytes> {
        self.lock()
            .segments
            .get(&segment)?
            .pieces
            .get(piece as usize)?
            .clone()
    }

    /// Stores a piece that [`Record::verify_piece`] has accepted.
    pub(crate) fn put(&self, segment: SegmentId, piece: u32, bytes: Bytes, from: From) -> Put {
        let mut state = self.lock();
        match state
            .segments
            .get(&segment)
            .map(|entry| entry.pieces.get(piece as usize))
        {
            Some(Some(None)) => {}
            Some(Some(Some(_))) => return Put::Duplicate,
            Some(None) | None => return Put::Unknown,
        }
        let len = bytes.len() as u64;
        if !state.make_room(self.bytes_max, len, segment) {
            return Put::Full;
        }
        state.bytes += len;
        if let Some(entry) = state.segments.get_mut(&segment) {
            entry.pieces[piece as usize] = Some(bytes);
            entry.bytes += len;
            if from == From::Peer {
                entry.bytes_p2p += len;
                entry.from_peers |= 1 << piece;
            }
        }
        drop(state);
        self.notify();
        Put::Stored
    }

    /// The segment, if all of it is here.
    pub(crate) fn whole(&self, segment: SegmentId) -> Option<Media> {
        let state = self.lock();
        let entry = state.segments.get(&segment)?;
        Some(Media {
            chunks: entry.pieces.iter().cloned().collect::<Option<_>>()?,
            bytes_p2p: entry.bytes_p2p,
            bytes_cdn: entry.bytes - entry.bytes_p2p,
        })
    }

    /// What is playable of `name` from byte `from` on: verified pieces, or what a fetch without a
    /// record has brought so far.
    pub(crate) fn prefix(&self, name: Name, from: u64) -> Prefix {
        let state = self.lock();
        let entry = state.names.get(&name).and_then(|id| state.segments.get(id));
        let verified = entry.map(|entry| entry.prefix(from)).unwrap_or_default();
        if !verified.chunks.is_empty() {
            return verified;
        }
        let raw = state.raw(name, from);
        if raw.chunks.is_empty() { verified } else { raw }
    }

    /// What a fetch without a record has brought so far of `name`, from byte `from` on.
    pub(crate) fn raw(&self, name: Name, from: u64) -> Prefix {
        self.lock().raw(name, from)
    }

    /// What is playable from byte `from` on of what was released.
    pub(crate) fn released(&self, released: Released, from: u64) -> Prefix {
        let state = self.lock();
        let entry = state.segments.get(&released.segment);
        entry
            .map(|entry| entry.prefix_of(from, released.pieces.into()))
            .unwrap_or_default()
    }

    /// Forgets a segment's record and bytes.
    pub(crate) fn evict(&self, segment: SegmentId) {
        let mut state = self.lock();
        state.forget(segment);
        state.order.retain(|other| *other != segment);
    }

    /// Begins to keep the body of a fetch of a whole object that no record vouches for.
    pub(crate) fn begin_body(&self, fetch: FetchId, name: Name, len: Option<u64>) {
        let mut state = self.lock();
        if state.bodies.len() >= BODIES_MAX
            && let Some(oldest) = state.bodies.pop_front()
        {
            state.bytes -= oldest.bytes;
        }
        state.bodies.push_back(Body {
            fetch,
            name,
            len,
            chunks: vec![],
            bytes: 0,
        });
    }

    /// Appends to a body; false if there is no room, or it was dropped.
    pub(crate) fn push_body(&self, fetch: FetchId, bytes: Bytes) -> bool {
        let mut state = self.lock();
        let len = bytes.len() as u64;
        if !state.make_room(self.bytes_max, len, SegmentId(0)) {
            return false;
        }
        let Some(body) = state.bodies.iter_mut().find(|body| body.fetch == fetch) else {
            return false;
        };
        if body.bytes + len > u64::from(SEGMENT_LEN_MAX) {
            return false;
        }
        body.bytes += len;
        body.chunks.push(bytes);
        state.bytes += len;
        drop(state);
        self.notify();
        true
    }

    /// The body of a fetch.
    pub(crate) fn body(&self, fetch: FetchId) -> Option<Media> {
        let state = self.lock();
        let body = state.bodies.iter().find(|body| body.fetch == fetch)?;
        Some(Media {
            chunks: body.chunks.clone(),
            bytes_p2p: 0,
            bytes_cdn: body.bytes,
        })
    }

    /// Forgets the body of a fetch.
    pub(crate) fn drop_body(&self, fetch: FetchId) {
        let mut state = self.lock();
        let dropped = state.bodies.iter().position(|body| body.fetch == fetch);
        if let Some(body) = dropped.and_then(|at| state.bodies.remove(at)) {
            state.bytes -= body.bytes;
        }
    }

    fn notify(&self) {
        self.changed
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets the oldest segments, but not `but`, until `len` bytes fit.
    fn make_room(&mut self, bytes_max: u64, len: u64, but: SegmentId) -> bool {
        let mut at = 0;
        while self.bytes + len > bytes_max && at < self.order.len() {
            let oldest = self.order[at];
            let holds_bytes = self
                .segments
                .get(&oldest)
                .is_some_and(|entry| entry.bytes > 0);
            if oldest == but || !holds_bytes {
                at += 1;
                continue;
            }
            self.order.remove(at);
            self.forget(oldest);
        }
        self.bytes + len <= bytes_max
    }

    /// What nobody vouches for, unless a record says that it has another length.
    fn raw(&self, name: Name, from: u64) -> Prefix {
        let body = self.bodies.iter().rev().find(|body| body.name == name);
        let raw = body.map(|body| body.prefix(from)).unwrap_or_default();
        let record = self.names.get(&name).and_then(|id| self.segments.get(id));
        let len = record.map(|entry| u64::from(entry.record.len));
        let agree = raw.len.is_none() || len.is_none() || raw.len == len;
        if agree { raw } else { Prefix::default() }
    }

    fn forget(&mut self, segment: SegmentId) {
        let Some(entry) = self.segments.remove(&segment) else {
            return;
        };
        self.bytes -= entry.bytes;
        if self.names.get(&entry.record.name) == Some(&segment) {
            self.names.remove(&entry.record.name);
        }
    }
}

impl Entry {
    fn new(record: Arc<Record>) -> Self {
        let pieces = vec![None; record.piece_hashes.len()];
        Self {
            record,
            pieces,
            bytes: 0,
            bytes_p2p: 0,
            from_peers: 0,
        }
    }

    fn prefix(&self, from: u64) -> Prefix {
        self.prefix_of(from, self.pieces.len())
    }

    /// The same of the first `count` pieces.
    fn prefix_of(&self, from: u64, count: usize) -> Prefix {
        let first = from / u64::from(self.record.piece_len);
        let mut skip = (from % u64::from(self.record.piece_len)) as usize;
        let mut chunks = Vec::new();
        for piece in self.pieces.iter().take(count).skip(first as usize) {
            let Some(piece) = piece else { break };
            chunks.push(piece.slice(skip.min(piece.len())..));
            skip = 0;
        }
        chunks.retain(|chunk| !chunk.is_empty());
        let from_peer = self.from_peers.checked_shr(first as u32).unwrap_or(0) & 1 == 1;
        Prefix {
            len: Some(self.record.len.into()),
            chunks,
            from_peer,
        }
    }
}

impl Body {
    fn prefix(&self, from: u64) -> Prefix {
        let mut skip = from as usize;
        let mut chunks = Vec::new();
        for chunk in &self.chunks {
            let cut = skip.min(chunk.len());
            skip -= cut;
            if cut < chunk.len() {
                chunks.push(chunk.slice(cut..));
            }
        }
        Prefix {
            len: self.len,
            chunks,
            from_peer: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::signed;

    const MIB: u64 = 1024 * 1024;

    fn piece(body: &[u8], record: &Record, index: u32) -> Bytes {
        let start = (index * record.piece_len) as usize;
        Bytes::copy_from_slice(&body[start..start + record.piece_size(index) as usize])
    }

    #[test]
    fn pieces_become_a_prefix_and_then_the_whole() {
        let store = Store::new(MIB);
        let body: Vec<u8> = (0..40_000u32).map(|i| i as u8).collect();
        let record = Arc::new(signed("/seg-1.m4s", &body));
        let id = record.id();
        assert_eq!(
            store.put(id, 0, piece(&body, &record, 0), From::Cdn),
            Put::Unknown
        );
        assert!(store.add_record(record.clone()));
        assert!(!store.add_record(record.clone()));
        assert_eq!(
            store.put(id, 1, piece(&body, &record, 1), From::Peer),
            Put::Stored
        );
        assert_eq!(
            store.put(id, 1, piece(&body, &record, 1), From::Peer),
            Put::Duplicate
        );
        assert_eq!(store.put(id, 9, Bytes::new(), From::Peer), Put::Unknown);
        assert!(store.prefix(record.name, 0).chunks.is_empty());
        assert_eq!(store.prefix(record.name, 0).len, Some(40_000));
        assert!(store.whole(id).is_none());
        store.put(id, 0, piece(&body, &record, 0), From::Cdn);
        assert_eq!(
            store.prefix(record.name, 10).chunks.concat(),
            &body[10..32_768]
        );
        assert!(store.prefix(record.name, 16_384).from_peer);
        let first = Released {
            segment: id,
            pieces: 1,
        };
        assert_eq!(store.released(first, 10).chunks.concat(), &body[10..16_384]);
        assert!(store.released(first, 16_384).chunks.is_empty());
        assert!(store.raw(record.name, 0).chunks.is_empty());
        store.put(id, 2, piece(&body, &record, 2), From::Peer);
        let whole = store.whole(id).unwrap();
        assert_eq!(whole.chunks.concat(), body);
        assert_eq!(
            (whole.bytes_cdn, whole.bytes_p2p),
            (16_384, 40_000 - 16_384)
        );
        assert!(store.prefix(record.name, 40_000).chunks.is_empty());
        store.evict(id);
        assert_eq!(store.bytes(), 0);
        assert!(store.record(id).is_none());
    }

    #[test]
    fn the_oldest_segments_make_room() {
        let store = Store::new(100_000);
        let mut ids = vec![];
        for seq in 0..6u8 {
            let body = vec![seq; 30_000];
            let record = Arc::new(signed(&format!("/seg-{seq}.m4s"), &body));
            ids.push(record.id());
            store.add_record(record.clone());
            for index in 0..2 {
                let put = store.put(record.id(), index, piece(&body, &record, index), From::Cdn);
                assert_eq!(put, Put::Stored);
            }
            assert!(store.bytes() <= 100_000);
        }
        assert!(store.whole(ids[0]).is_none());
        assert!(store.whole(ids[5]).is_some());
    }

    #[test]
    fn a_segment_beyond_the_limit_is_refused_and_records_are_bounded() {
        let store = Store::new(20_000);
        let body = vec![1; 40_000];
        let record = Arc::new(signed("/big.m4s", &body));
        store.add_record(record.clone());
        assert_eq!(
            store.put(record.id(), 0, piece(&body, &record, 0), From::Cdn),
            Put::Stored
        );
        assert_eq!(
            store.put(record.id(), 1, piece(&body, &record, 1), From::Cdn),
            Put::Full
        );
        for seq in 0..RECORDS_MAX {
            let body = seq.to_be_bytes();
            store.add_record(Arc::new(signed(&format!("/{seq}.m4s"), &body)));
        }
        assert!(store.record(record.id()).is_none());
        assert_eq!(store.bytes(), 0);
    }

    #[test]
    fn the_newest_epoch_answers_to_a_name() {
        let store = Store::new(MIB);
        let old = signed("/seg.m4s", b"old");
        let new = Record {
            epoch: 1,
            ..signed("/seg.m4s", b"newer")
        };
        store.add_record(Arc::new(new.clone()));
        store.add_record(Arc::new(old));
        assert_eq!(store.prefix(new.name, 0).len, Some(5));
    }

    #[test]
    fn unverified_bodies_are_kept_apart_and_few() {
        let store = Store::new(MIB);
        let name = Name(1);
        for fetch in 0..BODIES_MAX as u32 + 3 {
            store.begin_body(FetchId(fetch), name, Some(6));
            assert!(store.push_body(FetchId(fetch), Bytes::from_static(b"abc")));
        }
        assert!(store.body(FetchId(0)).is_none());
        assert!(!store.push_body(FetchId(0), Bytes::from_static(b"x")));
        assert_eq!(store.bytes(), BODIES_MAX as u64 * 3);
        assert_eq!(store.prefix(name, 1).chunks.concat(), b"bc");
        assert_eq!(store.prefix(name, 1).len, Some(6));
        store.drop_body(FetchId(5));
        assert!(store.body(FetchId(5)).is_none());
    }
}

//! The records of one stream: what is listed, what is signed, under which epoch.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ed25519_dalek::Signer;
use http::HeaderValue;
use moka::{ops::compute::Op, sync::Cache};
use swarm_core::{
    id::{Name, StreamId},
    limits::SEGMENT_LEN_MAX,
    record::{Record, piece_hash, piece_len_for},
    timeline::{Content, Listed, SegmentInfo},
};

use crate::{keyring::Keys, recent};

/// A record, and as the value of its header.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) record: Record,
    pub(crate) header: HeaderValue,
    /// The public half of the key that has signed it.
    key: [u8; 32],
    /// As in the listing that it was made for.
    era: u64,
}

/// What a playlist says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) seq: u64,
    pub(crate) duration_ms: u32,
    /// Changes when the playlist's numbers start again: what was known before counts no more.
    pub(crate) era: u64,
}

/// Where a playlist is in its numbering.
#[derive(Clone, Copy, Debug, Default)]
struct Numbering {
    last_seq: u64,
    era: u64,
    /// The last number before they went back, until they are there again; or 0.
    left_seq: u64,
    /// How far origins of the track are apart, as far as has been seen.
    lag: u64,
}

/// First byte and length of segments that are ranges of an object, and their names.
pub(crate) type Ranges = BTreeMap<(u64, u64), Name>;

/// One stream's book.
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) id: StreamId,
    keys: Keys,
    listings: Cache<Name, Listing>,
    /// Segments that are ranges of an object, by the object's name: first byte and length.
    ranges: Cache<Name, Arc<Ranges>>,
    /// Number and era of a name in each playlist: HLS and DASH may count differently.
    numbers: Cache<(Name, Name), (u64, u64)>,
    /// By the name of a playlist and its track.
    numberings: Cache<Name, Numbering>,
    /// Discontinuities that a playlist has had, by the same names.
    joints: Cache<Name, u64>,
    eras: AtomicU64,
    /// Names whose bytes could not be had; not asked for ahead of viewers for a while.
    failed: Cache<Name, ()>,
    records: Cache<Name, Arc<Signed>>,
    /// Number and era under which names have been signed, also those whose records had to go.
    recorded: Cache<Name, (u64, u64)>,
    /// A record had to go whose segment is listed yet.
    has_forgotten: AtomicBool,
    /// Manifests whose segments come by the clock, by path.
    manifests: Cache<String, Arc<str>>,
    /// Whether a manifest says that segments can be had while they are made (LL-DASH).
    has_growing_segments: AtomicBool,
    /// Shortest target duration of its live playlists in milliseconds; 0 if there is none.
    target_ms: AtomicU64,
    born: Instant,
    /// When manifests were last read again, in milliseconds since `born`; [`NEVER`] since the last came.
    refreshed_ms: AtomicU64,
}

/// Listings outnumber records: those of a long DVR window are noted, but signed on demand.
const LISTINGS_PER_RECORD: u64 = 4;
/// Segments that one object may have; further ones take the place of all that were there.
const RANGES_MAX: usize = 4096;
/// Objects whose ranges are followed.
const RANGED_OBJECTS_MAX: u64 = 1024;
/// Playlists and tracks of manifests whose numbering is followed.
const NUMBERINGS_MAX: u64 = 1024;
/// How long a segment that could not be fetched is left to viewers.
const FAILED_PAUSE: Duration = Duration::from_secs(4);
/// Origins of one track that are further apart, in segments, are taken for new beginnings each time.
const LAG_MAX: u64 = 8;
const REFRESH_PAUSE_MS: u64 = 250;
const NEVER: u64 = 0;
/// Manifests kept for each stream.
const MANIFESTS_MAX: u64 = 16;

impl Stream {
    pub(crate) fn new(name: &str, prefix: &str, keys: Keys, records_max: u64) -> Self {
        let listings_max = records_max.saturating_mul(LISTINGS_PER_RECORD);
        Self {
            name: name.into(),
            prefix: prefix.into(),
            id: StreamId::of(&keys.load().names, name),
            keys,
            listings: recent::cache(listings_max),
            ranges: recent::cache(RANGED_OBJECTS_MAX),
            numbers: recent::cache(listings_max),
            numberings: recent::cache(NUMBERINGS_MAX),
            joints: recent::cache(NUMBERINGS_MAX),
            eras: AtomicU64::new(0),
            failed: recent::builder(records_max)
                .time_to_live(FAILED_PAUSE)
                .build(),
            records: recent::cache(records_max),
            recorded: recent::cache(listings_max),
            has_forgotten: AtomicBool::new(false),
            manifests: recent::cache(MANIFESTS_MAX),
            has_growing_segments: AtomicBool::new(false),
            target_ms: AtomicU64::new(0),
            born: Instant::now(),
            refreshed_ms: AtomicU64::new(NEVER),
        }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Notes the last number of the track that `source` names. Returns the era that it is in: another
    /// one than before, if numbers have gone back by more than `overlap`, or by more than one of its origins is
    /// known to lag.
    pub(crate) fn on_window(&self, source: Name, last_seq: u64, overlap: u64) -> u64 {
        let mut now = self.numberings.get(&source).unwrap_or_default();
        let back = now.last_seq.saturating_sub(last_seq);
        if back > 0 && back <= overlap.max(now.lag) {
            return now.era;
        }
        if back > 0 {
            now.era = self.eras.fetch_add(1, Ordering::Relaxed) + 1;
            now.left_seq = now.last_seq;
        } else if now.left_seq > 0 && last_seq >= now.left_seq {
            // A track that has started again gets there step by step; one that leaps comes from another origin.
            let leap = last_seq - now.last_seq;
            if (2..=LAG_MAX).contains(&leap) {
                now.lag = now.lag.max(leap);
            }
            now.left_seq = 0;
        }
        now.last_seq = last_seq;
        self.numberings.insert(source, now);
        now.era
    }

    /// Notes how many discontinuities the track that `source` names has had. Returns whether there are more than
    /// before.
    pub(crate) fn on_discontinuities(&self, source: Name, count: u64) -> bool {
        let before = self.joints.get(&source);
        if before != Some(count) {
            self.joints.insert(source, count);
        }
        before.is_some_and(|before| count > before)
    }

    /// The era that the track that `source` names is in.
    pub(crate) fn era(&self, source: Name) -> u64 {
        self.numberings.get(&source).unwrap_or_default().era
    }

    /// Notes what the track that `source` names says of a segment. Returns whether the segment's name
    /// may well stand for other bytes now: it had another number, or numbers have started again.
    pub(crate) fn on_listed(&self, source: Name, era: u64, listed: &Listed) -> bool {
        let SegmentInfo {
            name,
            seq,
            duration_ms,
            ..
        } = listed.info;
        let place = (name, source);
        let before = self.numbers.get(&place);
        if before != Some((seq, era)) {
            self.numbers.insert(place, (seq, era));
        }
        let is_again = before.is_some_and(|before| before != (seq, era));
        if is_again || !self.listings.contains_key(&name) {
            let listing = Listing {
                seq,
                duration_ms,
                era,
            };
            self.listings.insert(name, listing);
        }
        is_again
    }

    /// Whether the track that `source` names has listed a segment of this name, lately enough to be known.
    pub(crate) fn has_listed(&self, source: Name, name: Name) -> bool {
        self.numbers.contains_key(&(name, source))
    }

    /// Notes that a part is announced, which has no number of its own yet.
    pub(crate) fn on_hinted(&self, name: Name, listing: Listing) {
        if !self.listings.contains_key(&name) {
            self.listings.insert(name, listing);
        }
    }

    /// Notes segments that are ranges of the object `of`.
    pub(crate) fn on_ranges(&self, of: Name, ranges: Ranges) {
        let known = self.ranges.get(&of).unwrap_or_default();
        if ranges.keys().all(|range| known.contains_key(range)) {
            return;
        }
        let mut all = if known.len() + ranges.len() > RANGES_MAX {
            Ranges::new()
        } else {
            Ranges::clone(&known)
        };
        all.extend(ranges);
        self.ranges.insert(of, Arc::new(all));
    }

    /// The segments that are ranges of the object `of`.
    pub(crate) fn ranges(&self, of: Name) -> Arc<Ranges> {
        self.ranges.get(&of).unwrap_or_default()
    }

    pub(crate) fn on_failed(&self, name: Name) {
        self.failed.insert(name, ());
    }

    pub(crate) fn has_failed(&self, name: Name) -> bool {
        self.failed.contains_key(&name)
    }

    pub(crate) fn on_manifest(&self, path: &str, text: &str) {
        self.manifests.insert(path.into(), text.into());
        // It has not been read ahead of its time, whatever else has been.
        self.refreshed_ms.store(NEVER, Ordering::Relaxed);
        if text.contains("availabilityTimeComplete=\"false\"") {
            self.has_growing_segments.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn has_growing_segments(&self) -> bool {
        self.has_growing_segments.load(Ordering::Relaxed)
    }

    /// Whether manifests may be read again for the sake of a name that is not listed: at once after a new
    /// one, and then not more than once in [`REFRESH_PAUSE_MS`], for anyone can make names up.
    pub(crate) fn is_refresh_due(&self) -> bool {
        let now_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now_ms = now_ms.max(NEVER + 1);
        let due = |last_ms: u64| {
            let is_due = last_ms == NEVER || now_ms >= last_ms.saturating_add(REFRESH_PAUSE_MS);
            is_due.then_some(now_ms)
        };
        let order = Ordering::Relaxed;
        self.refreshed_ms.fetch_update(order, order, due).is_ok()
    }

    pub(crate) fn manifests(&self) -> Vec<(Arc<String>, Arc<str>)> {
        self.manifests.iter().collect()
    }

    pub(crate) fn on_target(&self, target_ms: u64) {
        let shorter =
            |now: u64| (target_ms > 0 && (now == 0 || target_ms < now)).then_some(target_ms);
        let _ = self
            .target_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
    }

    pub(crate) fn target_ms(&self) -> Option<u64> {
        Some(self.target_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    pub(crate) fn listing(&self, name: Name) -> Option<Listing> {
        self.listings.get(&name)
    }

    /// The record of a segment as it is listed now.
    pub(crate) fn record_of(&self, name: Name) -> Option<Arc<Signed>> {
        let signed = self.records.get(&name)?;
        let listing = self.listings.get(&name)?;
        (signed.record.seq == listing.seq && signed.era == listing.era).then_some(signed)
    }

    /// The last record of a segment.
    pub(crate) fn signed(&self, name: Name) -> Option<Arc<Signed>> {
        self.records.get(&name)
    }

    /// Whether a segment's record as it is listed now had to make room for others. To sign it again would only
    /// have another one go.
    pub(crate) fn has_forgotten(&self, name: Name) -> bool {
        let is_listed = |listing: Listing| {
            self.recorded.get(&name) == Some((listing.seq, listing.era))
                && self.record_of(name).is_none()
        };
        let has = self.listing(name).is_some_and(is_listed);
        if has && !self.has_forgotten.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                stream = self.name,
                "playlists list more segments than records.records_max: some have no tags"
            );
        }
        has
    }

    /// What goes into the playlist for a segment.
    pub(crate) fn content_of(&self, listed: &Listed) -> Option<Content> {
        let signed = self.record_of(listed.info.name)?;
        let record = &signed.record;
        Some(Content {
            id: record.id(),
            len: record.len,
            piece_len: record.piece_len,
            epoch: record.epoch,
        })
    }

    /// Signs `body` as the segment `name`; `None` if it is empty or too long to be shared. The same
    /// bytes always get the same id, and other bytes a higher epoch.
    pub(crate) fn sign(&self, name: Name, listing: Listing, body: &[u8]) -> Option<Arc<Signed>> {
        let len = u32::try_from(body.len()).ok()?;
        if !(1..=SEGMENT_LEN_MAX).contains(&len) {
            return None;
        }
        let piece_len = piece_len_for(len);
        let mut record = Record {
            stream: self.id,
            name,
            epoch: 0,
            seq: listing.seq,
            duration_ms: listing.duration_ms,
            len,
            piece_len,
            piece_hashes: body.chunks(piece_len as usize).map(piece_hash).collect(),
            signature: [0; 64],
        };
        let before = self.records.get(&name);
        if let Some(before) = &before {
            record.epoch = if before.record.root() == record.root() {
                before.record.epoch
            } else {
                next_epoch(before.record.epoch)
            };
        }
        let signed = self.seal(record, listing.era)?;
        self.records.insert(name, signed.clone());
        self.recorded.insert(name, (listing.seq, listing.era));
        Some(signed)
    }

    fn seal(&self, mut record: Record, era: u64) -> Option<Arc<Signed>> {
        let keyring = self.keys.load();
        record.signature = keyring.signs.sign(&record.signed_bytes()).to_bytes();
        let header = HeaderValue::try_from(record.to_header()).ok()?;
        let key = keyring.public();
        Some(Arc::new(Signed {
            record,
            header,
            key,
            era,
        }))
    }

    /// Signs again what another key has signed. The bytes are as they were, and so are ids and epochs.
    /// Returns how many records that were.
    pub(crate) fn resign(&self) -> usize {
        let key = self.keys.load().public();
        let outdated = self.records.iter().filter(|(_, signed)| signed.key != key);
        let resigned = outdated.filter_map(|(name, before)| {
            let signed = self.seal(before.record.clone(), before.era)?;
            let is_still = |now: &Arc<Signed>| Arc::ptr_eq(now, &before);
            // Other bytes may have come under the name meanwhile.
            let entry = self.records.entry(*name);
            entry.and_compute_with(|now| match now {
                Some(now) if is_still(now.value()) => Op::Put(signed),
                _ => Op::Nop,
            });
            Some(())
        });
        resigned.count()
    }
}

/// The clock is in it so that epochs go up across restarts, which forget the last one.
fn next_epoch(epoch: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX));
    epoch.saturating_add(1).max(now_s)
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::keyring::Keyring;

    fn keyring(secret: u8) -> Keyring {
        Keyring::of(SigningKey::from_bytes(&[secret; 32]))
    }

    fn stream() -> Stream {
        let keys = Arc::new(ArcSwap::from_pointee(keyring(7)));
        Stream::new("main", "/", keys, 100)
    }

    fn is_by(signed: &Signed, secret: u8) -> bool {
        let record = Record::from_header(signed.header.to_str().unwrap()).unwrap();
        let signature = ed25519_dalek::Signature::from_bytes(&record.signature);
        let key = keyring(secret).signs.verifying_key();
        key.verify_strict(&record.signed_bytes(), &signature)
            .is_ok()
    }

    const LISTING: Listing = Listing {
        seq: 4,
        duration_ms: 2000,
        era: 0,
    };

    #[test]
    fn records_verify_and_same_bytes_keep_their_epoch() {
        let stream = stream();
        let body = vec![3; 40_000];
        let first = stream.sign(Name(1), LISTING, &body).unwrap();
        assert!(is_by(&first, 7) && !is_by(&first, 8));
        assert!(first.record.verify_piece(0, &body[..16_384]));
        let again = stream.sign(Name(1), LISTING, &body).unwrap();
        assert_eq!(again.record.epoch, 0);
        let renumbered = Listing { seq: 5, ..LISTING };
        let again = stream.sign(Name(1), renumbered, &body).unwrap();
        assert_eq!((again.record.epoch, again.record.seq), (0, 5));
    }

    #[test]
    fn origins_that_take_turns_are_one_new_beginning_and_then_none() {
        let stream = stream();
        let look = |last_seq| stream.on_window(Name(1), last_seq, 1);
        assert_eq!(
            [10, 11, 10, 11].map(look),
            [0; 4],
            "one is a segment behind"
        );
        assert_eq!([8, 12, 9, 13, 9, 10, 14].map(look), [1; 7]);
        assert_eq!([1, 2, 3, 4].map(look), [2; 4], "numbers start again");
        let look = |last_seq| stream.on_window(Name(2), last_seq, 1);
        let eras = [3, 0, 1, 2, 3, 4, 1].map(look);
        assert_eq!(eras, [0, 3, 3, 3, 3, 3, 4], "step by step, and again");
    }

    #[test]
    fn other_bytes_get_a_higher_epoch() {
        let stream = stream();
        stream.sign(Name(1), LISTING, &[1; 100]).unwrap();
        let second = stream.sign(Name(1), LISTING, &[2; 100]).unwrap();
        let third = stream.sign(Name(1), LISTING, &[3; 100]).unwrap();
        assert!(0 < second.record.epoch && second.record.epoch < third.record.epoch);
        assert!(stream.sign(Name(1), LISTING, &[]).is_none());
    }

    #[test]
    fn another_key_signs_the_same_records_of_the_same_stream() {
        let stream = stream();
        let before = stream.sign(Name(1), LISTING, &[1; 100]).unwrap();
        let next = Keyring {
            names: keyring(7).names,
            ..keyring(8)
        };
        stream.keys().store(Arc::new(next));
        assert_eq!((stream.resign(), stream.resign()), (1, 0));
        stream.on_hinted(Name(1), LISTING);
        let after = stream.record_of(Name(1)).unwrap();
        assert!(is_by(&before, 7) && is_by(&after, 8));
        assert_eq!(before.record.signed_bytes(), after.record.signed_bytes());
        let signed = stream.sign(Name(2), LISTING, &[2; 100]).unwrap();
        assert!(is_by(&signed, 8) && signed.record.stream == before.record.stream);
    }

    #[test]
    fn manifests_are_read_again_at_once_and_then_after_a_pause() {
        let stream = stream();
        assert!(stream.is_refresh_due());
        assert!(!stream.is_refresh_due());
        // As when the name that was not listed was the manifest's own.
        stream.on_manifest("/m.mpd", "<MPD/>");
        assert!(stream.is_refresh_due());
        assert!(!stream.is_refresh_due());
    }

    #[test]
    fn ranges_add_up_and_are_bounded() {
        let stream = stream();
        let of = |range: std::ops::Range<u64>| -> Ranges {
            range.map(|n| ((n * 10, 10), Name(n))).collect()
        };
        stream.on_ranges(Name(0), of(0..3));
        stream.on_ranges(Name(0), of(2..5));
        assert_eq!(*stream.ranges(Name(0)), of(0..5));
        stream.on_ranges(Name(0), of(5..RANGES_MAX as u64));
        assert_eq!(stream.ranges(Name(0)).len(), RANGES_MAX);
        stream.on_ranges(Name(0), of(9000..9003));
        assert_eq!(*stream.ranges(Name(0)), of(9000..9003));
        assert!(stream.ranges(Name(1)).is_empty());
    }
}

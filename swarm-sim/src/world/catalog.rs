//! The streams' segments, and the bytes that the origin vouches for.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use swarm_core::{
    id::{Name, SegmentId, StreamId, TrackId},
    record::{Record, piece_len_for},
    rng::mix,
    timeline::{Content, SegmentInfo, track_of},
};

/// Segments further behind the newest one of their channel than this are forgotten.
const KEPT_US: u64 = 200_000_000;

/// Which segment: channel, rendition, number, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) const fn new(channel: u32, rendition: u8, seq: u64) -> Self {
        Self((channel as u64) << 44 | (rendition as u64 & 15) << 40 | seq & ((1 << 40) - 1))
    }

    pub(crate) const fn channel(self) -> u32 {
        (self.0 >> 44) as u32
    }

    pub(crate) const fn rendition(self) -> u8 {
        (self.0 >> 40 & 15) as u8
    }

    pub(crate) const fn seq(self) -> u64 {
        self.0 & ((1 << 40) - 1)
    }
}

/// Keys of these maps are spread already, or one multiplication away from it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29);
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// One segment of the origin.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) place: Place,
    pub(crate) name: Name,
    pub(crate) content: Content,
    /// The origin's word on it.
    pub(crate) record: Arc<Record>,
}

impl Segment {
    pub(crate) fn full(&self) -> u64 {
        all_pieces(&self.content)
    }
}

/// Every segment of every channel, made when it is first asked for, the same everywhere. Maps are
/// looked up, and never walked through but to forget.
pub(crate) struct Catalog {
    bitrates_bps: Vec<u64>,
    segment_us: u64,
    segments: Map<Place, Segment>,
    ids: Map<SegmentId, Place>,
    names: Map<Name, Place>,
    tracks: Map<Place, TrackId>,
}

impl Catalog {
    pub(crate) fn new(bitrates_bps: Vec<u64>, segment_us: u64) -> Self {
        Self {
            bitrates_bps,
            segment_us,
            segments: Map::default(),
            ids: Map::default(),
            names: Map::default(),
            tracks: Map::default(),
        }
    }

    pub(crate) fn renditions(&self) -> &[u64] {
        &self.bitrates_bps
    }

    pub(crate) fn stream(channel: u32) -> StreamId {
        let mut id = [0x51; 16];
        id[..4].copy_from_slice(&channel.to_be_bytes());
        StreamId(id)
    }

    /// As viewers make it out of a segment's URL.
    pub(crate) fn track(&mut self, channel: u32, rendition: u8) -> TrackId {
        let key = Place::new(channel, rendition, 0);
        *self
            .tracks
            .entry(key)
            .or_insert_with(|| track_of(&url(key)))
    }

    pub(crate) fn len(&self, rendition: u8) -> u32 {
        (self.bitrates_bps[usize::from(rendition)] as u128 * u128::from(self.segment_us)
            / 8_000_000) as u32
    }

    /// What the playlist says of a segment.
    pub(crate) fn info(&mut self, place: Place) -> SegmentInfo {
        let duration_ms = (self.segment_us / 1000) as u32;
        let segment = self.segment(place);
        SegmentInfo {
            name: segment.name,
            seq: place.seq(),
            duration_ms,
            content: Some(segment.content),
        }
    }

    pub(crate) fn segment(&mut self, place: Place) -> &Segment {
        if !self.segments.contains_key(&place) {
            let segment = self.make(place);
            self.ids.insert(segment.content.id, place);
            self.names.insert(segment.name, place);
            self.segments.insert(place, segment);
        }
        &self.segments[&place]
    }

    /// A segment that was asked for before.
    pub(crate) fn known(&self, place: Place) -> Option<&Segment> {
        self.segments.get(&place)
    }

    /// A segment that was asked for before, by its id.
    pub(crate) fn by_id(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(self.ids.get(&id)?)
    }

    /// A segment that was asked for before, by its name.
    pub(crate) fn place_named(&self, name: Name) -> Option<Place> {
        self.names.get(&name).copied()
    }

    /// Where a segment that was asked for before is.
    pub(crate) fn url_of(&self, name: Name) -> String {
        self.place_named(name).map(url).unwrap_or_default()
    }

    /// The stream of these segments.
    pub(crate) fn stream_of(&self, segments: &[SegmentInfo]) -> StreamId {
        let first = segments
            .first()
            .and_then(|info| self.place_named(info.name));
        Self::stream(first.map_or(0, Place::channel))
    }

    /// Forgets what nobody can ask for any more.
    pub(crate) fn forget(&mut self, now_us: u64) {
        let oldest = now_us.saturating_sub(KEPT_US) / self.segment_us;
        let (ids, names) = (&mut self.ids, &mut self.names);
        self.segments.retain(|place, segment| {
            let keep = place.seq() >= oldest;
            if !keep {
                ids.remove(&segment.content.id);
                names.remove(&segment.name);
            }
            keep
        });
    }

    /// Hashes stand for bytes that nobody moves; nobody checks the signature.
    fn make(&self, place: Place) -> Segment {
        let len = self.len(place.rendition());
        let piece_len = piece_len_for(len);
        let name = Name::of_url(&url(place));
        let hash = |piece: u64| {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&mix(name.0 ^ piece << 50).to_be_bytes());
            hash
        };
        let record = Record {
            stream: Self::stream(place.channel()),
            name,
            epoch: 0,
            seq: place.seq(),
            duration_ms: (self.segment_us / 1000) as u32,
            len,
            piece_len,
            piece_hashes: (0..u64::from(len.div_ceil(piece_len))).map(hash).collect(),
            signature: [0; 64],
        };
        Segment {
            place,
            name,
            content: Content {
                id: record.id(),
                len,
                piece_len,
                epoch: 0,
            },
            record: Arc::new(record),
        }
    }
}

fn url(place: Place) -> String {
    let (channel, rendition, seq) = (place.channel(), place.rendition(), place.seq());
    format!("https://cdn.example/{channel}/v{rendition}/{seq}.m4s")
}

/// Length of one piece.
pub(crate) fn piece_size(content: &Content, piece: u32) -> u32 {
    let start = piece * content.piece_len;
    content.len.saturating_sub(start).min(content.piece_len)
}

/// The pieces below `count`.
pub(crate) fn pieces_below(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// All pieces of a content.
pub(crate) fn all_pieces(content: &Content) -> u64 {
    pieces_below(content.len.div_ceil(content.piece_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_the_same_in_every_catalog_and_old_ones_are_forgotten() {
        let catalog = || Catalog::new(vec![1_000_000, 5_000_000], 4_000_000);
        let (mut one, mut other) = (catalog(), catalog());
        let place = Place::new(1999, 1, 250);
        assert_eq!(
            (place.channel(), place.rendition(), place.seq()),
            (1999, 1, 250)
        );
        let content = one.segment(place).content;
        assert_eq!(other.segment(place).content, content);
        assert_eq!(one.by_id(content.id).map(|s| s.place), Some(place));
        one.forget(250 * 4_000_000 + KEPT_US);
        assert!(one.by_id(content.id).is_some());
        one.forget(251 * 4_000_000 + KEPT_US);
        assert!(one.by_id(content.id).is_none());
    }
}

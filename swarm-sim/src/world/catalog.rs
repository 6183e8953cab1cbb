//! The streams' segments, and the bytes that the origin vouches for.

use std::collections::HashMap;

use swarm_core::{
    id::{Name, SegmentId, StreamId, TrackId},
    record::{Record, piece_len_for},
    rng::mix,
    timeline::{Content, SegmentInfo},
};

/// Which segment: channel, rendition, number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) channel: u32,
    pub(crate) rendition: u8,
    pub(crate) seq: u64,
}

/// Every segment of every channel. Maps are looked up, never walked through.
pub(crate) struct Catalog {
    bitrates_bps: Vec<u64>,
    segment_us: u64,
    contents: HashMap<Place, Content>,
    places: HashMap<SegmentId, Place>,
    names: HashMap<Name, Place>,
}

impl Catalog {
    pub(crate) fn new(bitrates_bps: Vec<u64>, segment_us: u64) -> Self {
        Self {
            bitrates_bps,
            segment_us,
            contents: HashMap::new(),
            places: HashMap::new(),
            names: HashMap::new(),
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

    pub(crate) fn track(channel: u32, rendition: u8) -> TrackId {
        TrackId(channel << 4 | u32::from(rendition) | 1 << 30)
    }

    pub(crate) fn len(&self, rendition: u8) -> u32 {
        (self.bitrates_bps[usize::from(rendition)] as u128 * u128::from(self.segment_us)
            / 8_000_000) as u32
    }

    /// What the playlist says of a segment.
    pub(crate) fn info(&mut self, place: Place) -> SegmentInfo {
        SegmentInfo {
            name: name(place),
            seq: place.seq,
            duration_ms: (self.segment_us / 1000) as u32,
            content: Some(self.content(place)),
        }
    }

    pub(crate) fn content(&mut self, place: Place) -> Content {
        if let Some(content) = self.contents.get(&place) {
            return *content;
        }
        let record = self.record(place);
        let content = Content {
            id: record.id(),
            len: record.len,
            piece_len: record.piece_len,
            epoch: 0,
        };
        self.contents.insert(place, content);
        self.places.insert(content.id, place);
        self.names.insert(record.name, place);
        content
    }

    /// The origin's record. Hashes stand for bytes that nobody moves; nobody checks the signature.
    pub(crate) fn record(&self, place: Place) -> Record {
        let len = self.len(place.rendition);
        let piece_len = piece_len_for(len);
        let hash = |piece: u64| {
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&mix(name(place).0 ^ piece << 50).to_be_bytes());
            hash
        };
        Record {
            stream: Self::stream(place.channel),
            name: name(place),
            epoch: 0,
            seq: place.seq,
            duration_ms: (self.segment_us / 1000) as u32,
            len,
            piece_len,
            piece_hashes: (0..u64::from(len.div_ceil(piece_len))).map(hash).collect(),
            signature: [0; 64],
        }
    }

    pub(crate) fn place_of(&self, id: SegmentId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    pub(crate) fn place_named(&self, name: Name) -> Option<Place> {
        self.names.get(&name).copied()
    }
}

fn name(place: Place) -> Name {
    let track = u64::from(Catalog::track(place.channel, place.rendition).0);
    Name(mix(track << 32 ^ place.seq))
}

/// Length of one piece.
pub(crate) fn piece_size(content: &Content, piece: u32) -> u32 {
    let start = piece * content.piece_len;
    content.len.saturating_sub(start).min(content.piece_len)
}

/// All pieces of a content.
pub(crate) fn all_pieces(content: &Content) -> u64 {
    let count = content.len.div_ceil(content.piece_len);
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

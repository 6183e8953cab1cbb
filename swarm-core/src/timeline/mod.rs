//! What the playlists say of a stream's segments: names, order and durations, and, where the
//! origin-proxy has added its tags, their content.
//!
//! Drivers hand the raw text of every playlist to [`hls::read`] or [`dash::read`], keep the URLs,
//! and pass the [`SegmentInfo`]s on to the core.

use alloc::{string::String, vec::Vec};

use thiserror::Error;

use crate::{
    id::{Name, SegmentId, StreamId, TrackId},
    limits::{PIECE_LEN_MAX, PIECE_LEN_MIN, PIECES_MAX, SEGMENT_LEN_MAX},
    record::piece_count,
};

#[cfg(feature = "dash")]
pub mod dash;
#[cfg(feature = "hls")]
pub mod hls;
#[cfg(any(feature = "hls", feature = "dash"))]
mod names;
pub mod tags;

/// Longest playlist or manifest that is read, in bytes.
pub const PLAYLIST_LEN_MAX: usize = 4 * 1024 * 1024;
/// Longest URL, in bytes.
pub const URL_LEN_MAX: usize = 4096;
/// Where ranges of an object end at the latest: browsers count bytes exactly up to here, and nobody's sums
/// overflow.
pub const RANGE_END_MAX: u64 = 1 << 53;
/// Segments kept of a track to which nothing will be added: the first ones.
pub const SEGMENTS_ENDED_MAX: usize = 4096;
/// Segments kept of a live track: the newest ones.
pub const SEGMENTS_LIVE_MAX: usize = 512;
/// Parts kept of a low-latency track: the newest ones.
pub const PARTS_MAX: usize = 512;
/// Most renditions (HLS) or representations over all periods (DASH).
pub const RENDITIONS_MAX: usize = 512;

/// Why a playlist or manifest cannot be used. Playback goes on without sharing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimelineError {
    /// The caller's mistake: the URL that the playlist is said to come from is not absolute.
    #[error("caller gave a playlist URL that is not absolute: {0}")]
    Base(String),
    /// The origin's: what it sent is not a playlist or manifest at all.
    #[error("origin sent something that is not {0}")]
    NotAPlaylist(&'static str),
    /// The origin's: some part of the playlist or manifest makes no sense.
    #[error("origin sent a malformed playlist: {0}")]
    Malformed(String),
    /// The origin's: one of the limits of this module.
    #[error("origin sent a playlist with too many or too long {0}")]
    TooLarge(&'static str),
}

/// What is known of a segment's bytes before they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which bytes.
    pub id: SegmentId,
    /// How many.
    pub len: u32,
    /// Length of every piece but the last.
    pub piece_len: u32,
    /// The record's epoch: the highest one counts.
    pub epoch: u32,
}

impl Content {
    /// Whether lengths and pieces fit each other and the limits: playlists are input like any
    /// other.
    pub fn is_valid(&self) -> bool {
        (1..=SEGMENT_LEN_MAX).contains(&self.len)
            && (PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(&self.piece_len)
            && piece_count(self.len, self.piece_len) <= PIECES_MAX
    }
}

/// One media segment of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its name.
    pub name: Name,
    /// Its number; consecutive within a track.
    pub seq: u64,
    /// Duration in milliseconds.
    pub duration_ms: u32,
    /// Its content, where the playlist tells.
    pub content: Option<Content>,
}

/// A segment and where its bytes are. URLs stay with the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the core needs.
    pub info: SegmentInfo,
    /// Absolute URL.
    pub url: String,
    /// First byte and length, for segments that are a range of a larger object.
    pub range: Option<(u64, u64)>,
}

/// Something that a track needs beside its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Absolute URL.
    pub url: String,
    /// First byte and length, if it is a range of a larger object.
    pub range: Option<(u64, u64)>,
}

/// A live window of one track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Which rendition.
    pub track: TrackId,
    /// The stream, if the origin-proxy has put its tag in: without it nothing is shared.
    pub stream: Option<StreamId>,
    /// Longest segment duration in milliseconds.
    pub target_ms: u32,
    /// Whether the playlist says that nothing will be added.
    pub ended: bool,
    /// Initialisation segments in the order in which they come into force, without repetition.
    /// They are fetched from the CDN, never from peers.
    pub inits: Vec<Object>,
    /// The segments in order.
    pub segments: Vec<Listed>,
    /// What low-latency HLS lists of the newest segments, before they are whole; empty otherwise.
    pub parts: Parts,
}

/// The parts of a low-latency track that are objects of their own (draft-pantos-hls-rfc8216bis section 4.4.4.9).
/// Those that are ranges of their segment are left out: they come while it grows, before there is
/// anything to verify them by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// `PART-TARGET` in milliseconds.
    pub target_ms: u32,
    /// In order.
    pub listed: Vec<Part>,
    /// The one that comes next, if the playlist announces it. Its duration is the target.
    pub hinted: Option<Part>,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As a segment. Its number is that of the segment that it is a part of.
    pub listed: Listed,
    /// Which part of the segment, from 0 on, as far as the playlist still has those before it.
    pub index: u32,
}

impl Track {
    /// The parts as a track of its own, whose segments they are: what viewers follow who play parts. Such a viewer and
    /// one who plays whole segments have nothing in common that either could verify.
    ///
    /// Numbers are consecutive within a segment, and so from one segment to the next if it has as many parts as its
    /// duration and theirs say; otherwise nearly so, and the order is right.
    ///
    /// `None` as long as no part has its tag: the origin-proxy is not asked for parts, or not in between.
    pub fn of_parts(&self) -> Option<Track> {
        let Parts {
            target_ms, listed, ..
        } = &self.parts;
        let is_signed = |part: &Part| part.listed.info.content.is_some();
        if self.stream.is_none() || !listed.iter().any(is_signed) {
            return None;
        }
        let per_segment = u64::from(self.target_ms.div_ceil((*target_ms).max(1)).max(1));
        let segments = listed.iter().map(|Part { listed, index }| {
            let mut listed = listed.clone();
            let before = listed.info.seq.saturating_mul(per_segment);
            listed.info.seq = before.saturating_add(u64::from(*index));
            listed
        });
        let name = Name::of(&alloc::format!("{:08x}#parts", self.track.0));
        Some(Track {
            track: TrackId((name.0 >> 32) as u32),
            stream: self.stream,
            target_ms: *target_ms,
            ended: self.ended,
            inits: self.inits.clone(),
            segments: segments.collect(),
            parts: Parts::default(),
        })
    }
}

#[cfg(any(feature = "hls", feature = "dash"))]
impl Track {
    /// Sets `track`: what the names of all segments have in common, or else `fallback`'s path.
    fn identify(&mut self, fallback: &str, namer: &names::Namer) {
        let of = |listed: &Listed| track_of(&namer.path_of(&listed.url));
        let mut tracks = self.segments.iter().map(of);
        let first = tracks.next();
        self.track = match first {
            Some(first) if tracks.all(|track| track == first) => first,
            _ => TrackId((namer.name_of(fallback, None).0 >> 32) as u32),
        };
    }
}

/// `reference` as an absolute URL.
#[cfg(any(feature = "hls", feature = "dash"))]
fn resolve(base: &url::Url, reference: &str) -> Result<url::Url, TimelineError> {
    if reference.len() > URL_LEN_MAX {
        return Err(TimelineError::TooLarge("URLs"));
    }
    let url = base
        .join(reference.trim())
        .map_err(|error| TimelineError::Malformed(alloc::format!("bad URL: {error}")))?;
    if url.as_str().len() > 2 * URL_LEN_MAX {
        return Err(TimelineError::TooLarge("URLs"));
    }
    Ok(url)
}

#[cfg(any(feature = "hls", feature = "dash"))]
fn base_url(text: &str, url: &str) -> Result<url::Url, TimelineError> {
    if text.len() > PLAYLIST_LEN_MAX {
        return Err(TimelineError::TooLarge("bytes"));
    }
    if url.len() > URL_LEN_MAX {
        return Err(TimelineError::TooLarge("URLs"));
    }
    url::Url::parse(url).map_err(|_| TimelineError::Base(url.into()))
}

/// The track of segments named like `url`: the last run of digits in the file name before its
/// extension does not count, so that all segments of a rendition agree, in HLS and in DASH.
pub fn track_of(url: &str) -> TrackId {
    let path = crate::id::canonical_path(url);
    let file = path.rfind('/').map_or(0, |slash| slash + 1);
    let stem = path[file..].rfind('.').map_or(path.len(), |dot| file + dot);
    let is_digit = |index: &usize| path.as_bytes()[*index].is_ascii_digit();
    let mut template = String::with_capacity(path.len());
    match (file..stem).rev().find(is_digit) {
        Some(last) => {
            let first = (file..last)
                .rev()
                .find(|i| !is_digit(i))
                .map_or(file, |i| i + 1);
            template.push_str(&path[..first]);
            template.push('#');
            template.push_str(&path[last + 1..]);
        }
        None => template.push_str(path),
    }
    TrackId((Name::of(&template).0 >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_a_rendition_share_a_track() {
        let first = track_of("https://a.example/live/v360/seg-9.m4s?token=x");
        assert_eq!(first, track_of("http://b.example/live/v360/seg-10.m4s"));
        assert_ne!(first, track_of("http://b.example/live/v720/seg-9.m4s"));
        assert_eq!(
            track_of("/a/chunk-stream0-00001.m4s"),
            track_of("/a/chunk-stream0-2.m4s")
        );
        assert_ne!(
            track_of("/a/chunk-stream0-00001.m4s"),
            track_of("/a/chunk-stream1-1.m4s")
        );
    }
}

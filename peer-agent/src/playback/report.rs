//! What the virtual player has seen.

use serde::{Deserialize, Serialize};

/// Segments that a report lists at most; the newest are kept.
pub(super) const SEGMENTS_MAX: usize = 8192;

/// How playback went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// From the start until the first picture, in milliseconds; none if it never came.
    pub startup_ms: Option<u64>,
    /// How often playback stood still for want of media.
    pub stalls: u32,
    /// For how long in all, in milliseconds.
    pub stalled_ms: u64,
    /// Media played, in milliseconds.
    pub played_ms: u64,
    /// How far the playhead was behind the end of the playlist on average, in milliseconds.
    pub latency_ms: u64,
    /// Media ahead of the playhead at the end, in milliseconds.
    pub buffer_ms: u64,
    /// How often the rendition changed.
    pub switches: u32,
    /// How often segments were left out because they had left the playlist.
    pub jumps: u32,
    /// Segments that could not be had after several attempts.
    pub failed: u32,
    /// Segments whose bytes are no media.
    pub invalid: u32,
    /// The segments that were delivered, in order of delivery.
    pub segments: Vec<SegmentReport>,
    /// Bytes from the CDN.
    pub bytes_cdn: u64,
    /// Verified bytes from neighbours.
    pub bytes_p2p: u64,
    /// Bytes sent to neighbours.
    pub bytes_up: u64,
    /// Pieces from neighbours that failed verification.
    pub bad_pieces: u64,
    /// Fetches made because a deadline came near.
    pub backstops: u64,
}

/// One segment as it was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its URL on the CDN.
    pub url: String,
    /// Its number in its playlist.
    pub seq: u64,
    /// Its rendition, counted from 0 by rising bit rate; none for separate audio.
    pub level: Option<usize>,
    /// SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub len: u64,
    /// Bytes of it that neighbours sent.
    pub bytes_p2p: u64,
    /// Bytes of it that came from the CDN.
    pub bytes_cdn: u64,
    /// From request to last byte, in milliseconds.
    pub waited_ms: u64,
    /// The bandwidth that was reported for it, in bit/s.
    pub reported_bps: u64,
}

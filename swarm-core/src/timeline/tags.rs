//! The tags by which the origin-proxy tells viewers of records, as text.
//!
//! In an HLS media playlist, once and right after `#EXTM3U`:
//!
//! ```text
//! #EXT-X-SHOAL:V=1,STREAM=<32 hexadecimal digits>[,TOKEN=<which word of the path is the viewer's token>]
//! ```
//!
//! and before the `#EXTINF` of each segment whose record is ready:
//!
//! ```text
//! #EXT-X-SHOAL-SEG:<len>,<piece_len>,<segment id, 16 hexadecimal digits>,<epoch>
//! ```
//!
//! and, in low-latency playlists, before the `#EXT-X-PART` of each part whose record is ready:
//!
//! ```text
//! #EXT-X-SHOAL-PART:<len>,<piece_len>,<segment id, 16 hexadecimal digits>,<epoch>
//! ```
//!
//! In an MPD, a `SupplementalProperty` of the [`DASH_SCHEME`]. `docs/protocol/records.md` has the
//! whole story. Reading never fails: a tag that makes no sense is as good as none.

use alloc::{format, string::String};

use super::Content;
use crate::{
    id::{SegmentId, StreamId},
    limits::{PIECE_LEN_MAX, PIECE_LEN_MIN, PIECES_MAX, SEGMENT_LEN_MAX},
    record::piece_count,
};

/// What the line of the stream's tag begins with.
pub const STREAM_TAG: &str = "#EXT-X-SHOAL:";
/// What the line of a segment's tag begins with.
pub const SEGMENT_TAG: &str = "#EXT-X-SHOAL-SEG:";
/// What the line of a part's tag begins with.
pub const PART_TAG: &str = "#EXT-X-SHOAL-PART:";
/// `schemeIdUri` of the `SupplementalProperty` that carries the stream's id in an MPD.
pub const DASH_SCHEME: &str = "urn:shoal:stream:2026";

/// What the origin-proxy says of a playlist or manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTag {
    /// What it belongs to.
    pub stream: StreamId,
    /// Which word of its path is its viewer's own token, counted from 1 on; none if none is.
    pub token_word: Option<u8>,
}

impl From<StreamId> for StreamTag {
    fn from(stream: StreamId) -> Self {
        Self {
            stream,
            token_word: None,
        }
    }
}

/// The stream's tag without line end.
pub fn write_stream(tag: &StreamTag) -> String {
    let token = write_token(tag);
    format!("{STREAM_TAG}V=1,STREAM={}{token}", tag.stream)
}

/// The same as the `value` of the property in an MPD.
pub fn write_property(tag: &StreamTag) -> String {
    let token = write_token(tag);
    format!("{}{token}", tag.stream)
}

fn write_token(tag: &StreamTag) -> String {
    let word = tag.token_word.map(|word| format!(",TOKEN={word}"));
    word.unwrap_or_default()
}

/// A segment's tag without line end.
pub fn write_segment(content: &Content) -> String {
    write_content(SEGMENT_TAG, content)
}

/// A part's tag without line end.
pub fn write_part(content: &Content) -> String {
    write_content(PART_TAG, content)
}

fn write_content(tag: &str, content: &Content) -> String {
    let Content {
        id,
        len,
        piece_len,
        epoch,
    } = content;
    format!("{tag}{len},{piece_len},{id},{epoch}")
}

/// The stream, if `line` is a stream's tag of version 1.
pub fn read_stream(line: &str) -> Option<StreamTag> {
    let mut version = None;
    let mut stream = None;
    let mut token_word = None;
    for attribute in line.strip_prefix(STREAM_TAG)?.trim_end().split(',') {
        match attribute.split_once('=') {
            Some(("V", value)) => version = Some(value),
            Some(("STREAM", value)) => stream = StreamId::from_hex(value),
            Some(("TOKEN", value)) => token_word = value.parse().ok(),
            _ => {}
        }
    }
    let stream = stream.filter(|_| version == Some("1"))?;
    Some(StreamTag { stream, token_word })
}

/// The stream, if `value` is that of the property in an MPD.
pub fn read_property(value: &str) -> Option<StreamTag> {
    let mut words = value.trim().split(',');
    let stream = StreamId::from_hex(words.next()?)?;
    let token_word = words.find_map(|word| word.strip_prefix("TOKEN=")?.parse().ok());
    Some(StreamTag { stream, token_word })
}

/// The content, if `line` is a segment's tag with lengths that fit each other.
pub fn read_segment(line: &str) -> Option<Content> {
    read_content(line.strip_prefix(SEGMENT_TAG)?)
}

/// The content, if `line` is a part's tag with lengths that fit each other.
pub fn read_part(line: &str) -> Option<Content> {
    read_content(line.strip_prefix(PART_TAG)?)
}

fn read_content(fields: &str) -> Option<Content> {
    let mut fields = fields.trim_end().split(',');
    let len = fields.next()?.parse().ok()?;
    let piece_len = fields.next()?.parse().ok()?;
    let is_id =
        |text: &&str| text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = fields.next().filter(is_id)?;
    let id = SegmentId(u64::from_str_radix(id, 16).ok()?);
    let epoch = fields.next()?.parse().ok()?;
    let fits = (1..=SEGMENT_LEN_MAX).contains(&len)
        && (PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(&piece_len)
        && piece_count(len, piece_len) <= PIECES_MAX;
    fits.then_some(Content {
        id,
        len,
        piece_len,
        epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip() {
        for token_word in [None, Some(2)] {
            let stream = StreamId([0xab; 16]);
            let tag = StreamTag { stream, token_word };
            assert_eq!(read_stream(&write_stream(&tag)), Some(tag));
            assert_eq!(read_property(&write_property(&tag)), Some(tag));
        }
        let content = Content {
            id: SegmentId(0x0123_4567_89ab_cdef),
            len: 300_000,
            piece_len: PIECE_LEN_MIN,
            epoch: 7,
        };
        let line = write_segment(&content);
        assert_eq!(line, "#EXT-X-SHOAL-SEG:300000,16384,0123456789abcdef,7");
        assert_eq!(read_segment(&line), Some(content));
        let line = write_part(&content);
        assert_eq!(line, "#EXT-X-SHOAL-PART:300000,16384,0123456789abcdef,7");
        assert_eq!(
            (read_part(&line), read_segment(&line)),
            (Some(content), None)
        );
    }

    #[test]
    fn senseless_tags_are_none() {
        for line in [
            "#EXT-X-SHOAL-SEG:",
            "#EXT-X-SHOAL-SEG:0,16384,0123456789abcdef,7",
            "#EXT-X-SHOAL-SEG:1,1,0123456789abcdef,7",
            "#EXT-X-SHOAL-SEG:5000000,16384,0123456789abcdef,7",
            "#EXT-X-SHOAL-SEG:1,16384,123,7",
            "#EXT-X-SHOAL-SEG:1,16384,+123456789abcdef,7",
            "#EXT-X-SHOAL-SEG:1,16384,0123456789abcdef,-1",
        ] {
            assert_eq!(read_segment(line), None, "{line}");
        }
        assert_eq!(read_stream("#EXT-X-SHOAL:V=2,STREAM=00"), None);
        let other_version = write_stream(&StreamId([0; 16]).into()).replace("V=1", "V=2");
        assert_eq!(read_stream(&other_version), None);
    }
}

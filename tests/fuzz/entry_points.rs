//! Everything that reads bytes of strangers, as one table: fuzz targets run one entry for hours, the
//! tracker's tests run each for a moment.
//!
//! What is read must be written back the same: a parser that takes two texts for one message would
//! let somebody in the middle change what others see.

use swarm_core::{
    id::{Name, StreamId},
    limits::{PIECE_LEN_MAX, PIECES_MAX},
    record::{RECORD_LEN_MAX, Record},
    timeline::tags,
    wire::{
        peer::{CHUNK_HEADER_LEN, DataFrame, PeerMsg, is_control},
        sdp, session,
        signal::Signal,
        tracker::{TrackerMsg, ViewerMsg},
    },
};

/// Takes any bytes; panics where a promise is broken.
pub(crate) type EntryPoint = fn(&[u8]);

/// By the names of the fuzz targets.
pub(crate) const ALL: [(&str, EntryPoint); 8] = [
    ("viewer", viewer),
    ("answers", answers),
    ("peer", peer),
    ("signal", signal),
    ("candidate", candidate),
    ("description", description),
    ("record", record),
    ("playlist_tags", playlist_tags),
];

/// What viewers send the tracker.
pub(crate) fn viewer(bytes: &[u8]) {
    if let Ok(message) = ViewerMsg::decode(bytes) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(ViewerMsg::decode(&again).as_ref(), Ok(&message));
    }
}

/// What the tracker sends viewers.
pub(crate) fn answers(bytes: &[u8]) {
    if let Ok(message) = TrackerMsg::decode(bytes) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(TrackerMsg::decode(&again).as_ref(), Ok(&message));
    }
}

/// What viewers send each other.
pub(crate) fn peer(bytes: &[u8]) {
    if let Ok(message) = PeerMsg::decode(bytes) {
        assert!(is_control(bytes));
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, bytes);
    }
    match DataFrame::decode(bytes) {
        Ok(DataFrame::Record(record)) => assert_eq!(record, &bytes[1..]),
        Ok(DataFrame::Chunk(chunk)) => {
            assert!(u32::from(chunk.piece) < PIECES_MAX && chunk.offset < PIECE_LEN_MAX);
            assert_eq!(chunk.bytes, &bytes[CHUNK_HEADER_LEN..]);
        }
        Err(_) => {}
    }
}

/// Signalling, as bytes and checked.
pub(crate) fn signal(bytes: &[u8]) {
    if let Ok(signal) = Signal::decode(bytes) {
        let mut again = Vec::new();
        signal.encode(&mut again);
        assert_eq!(again, bytes);
    }
    let _ = session::decode(bytes);
}

/// One candidate line: what is accepted may stand on a line of an SDP.
pub(crate) fn candidate(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(candidate) = session::Candidate::parse(text) {
        assert!(
            candidate
                .as_str()
                .bytes()
                .all(|b| (0x20..0x7f).contains(&b))
        );
        assert_eq!(session::Candidate::parse(candidate.as_str()), Ok(candidate));
    }
}

/// A whole SDP, as a browser gives it.
pub(crate) fn description(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(description) = sdp::from_sdp(text) {
        let again = sdp::from_sdp(&sdp::to_sdp(&description));
        assert_eq!(again.as_ref(), Ok(&description));
    }
}

/// A signed record, as it comes in headers and from peers.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else {
        return;
    };
    assert_eq!(record.encode(), bytes);
    assert!(bytes.len() <= RECORD_LEN_MAX);
    assert_eq!(
        Record::from_header(&record.to_header()).as_ref(),
        Ok(&record)
    );
    let count = record.piece_hashes.len() as u32;
    let sizes = (0..count).map(|index| u64::from(record.piece_size(index)));
    assert!(sizes.clone().all(|size| size > 0));
    assert_eq!(sizes.sum::<u64>(), u64::from(record.len));
    assert_eq!(record.piece_size(count), 0);
}

/// Shoal's tags in playlists, names and ids in texts.
pub(crate) fn playlist_tags(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return;
    };
    if let Some(stream) = tags::read_stream(text) {
        assert_eq!(
            tags::read_stream(&tags::write_stream(&stream)),
            Some(stream)
        );
    }
    if let Some(content) = tags::read_segment(text) {
        assert!(content.is_valid());
        let again = tags::read_segment(&tags::write_segment(&content));
        assert_eq!(again, Some(content));
    }
    if let Ok(record) = Record::from_header(text) {
        assert_eq!(record.to_header(), text);
    }
    let _ = Name::of_url(text);
    if let Some(stream) = StreamId::from_hex(text) {
        assert_eq!(stream.to_string(), text.to_ascii_lowercase());
    }
}

//! Every bound of the core, and the relations between them, checked when it is compiled.

/// Pieces in one segment: a have-map is one `u64`.
pub const PIECES_MAX: u32 = 64;
/// Smallest size of a piece, in bytes. All pieces of a segment but the last have the same size.
pub const PIECE_LEN_MIN: u32 = 16 * 1024;
/// Largest size of a piece, in bytes.
pub const PIECE_LEN_MAX: u32 = 1024 * 1024;
/// Largest segment that travels from peer to peer, in bytes; larger ones are the CDN's alone.
pub const SEGMENT_LEN_MAX: u32 = PIECES_MAX * PIECE_LEN_MAX;
/// Most media bytes in one message between peers; larger pieces travel as several.
pub const CHUNK_LEN_MAX: u32 = 48 * 1024;
/// Largest message between peers, in bytes: within the 64 KiB that every WebRTC stack accepts.
pub const PEER_FRAME_LEN_MAX: usize = 64 * 1024 - 1;
/// Largest message between viewer and tracker, in bytes.
pub const TRACKER_FRAME_LEN_MAX: usize = 8 * 1024;
/// Largest signalling payload (description or candidate in compact form), in bytes.
pub const SIGNAL_LEN_MAX: usize = 2 * 1024;
/// Largest join token, in bytes.
pub const TOKEN_LEN_MAX: usize = 2 * 1024;
/// Longest text in a refusal, an address or a credential, in bytes.
pub const TEXT_LEN_MAX: usize = 256;
/// Entries in one have-map message.
pub const HAVE_ENTRIES_MAX: usize = 64;
/// Trackers that a viewer is sent to at a time.
pub const PLACES_MAX: usize = 4;
/// TURN servers that a viewer is told of.
pub const RELAYS_MAX: usize = 4;
/// STUN addresses in one welcome.
pub const STUN_MAX: usize = 4;
/// Tracks that a viewer plays at the same time (video, audio and a switch under way).
pub const TRACKS_MAX: usize = 6;
/// Segments that a viewer keeps track of, over all its tracks.
pub const SEGMENTS_MAX: usize = 64;
/// Segments of a neighbour's announcements that are remembered.
pub const NEIGHBOUR_SEGMENTS_MAX: usize = 64;
/// Links of one viewer, those being set up included.
pub const NEIGHBOURS_MAX: usize = 32;
/// Stripes that one segment is fetched in, at most: CDNs bill requests.
pub const STRIPES_MAX: u32 = 8;
/// Fetches from the CDN under way at the same time.
pub const FETCHES_MAX: usize = 16;
/// Requests of the player waiting at the same time.
pub const REQUESTS_MAX: usize = 32;

const _: () = assert!(CHUNK_LEN_MAX as usize + 64 <= PEER_FRAME_LEN_MAX);
const _: () = assert!(SIGNAL_LEN_MAX + 64 <= TRACKER_FRAME_LEN_MAX);
const _: () = assert!(TOKEN_LEN_MAX + 128 <= TRACKER_FRAME_LEN_MAX);
const _: () = assert!(PIECES_MAX <= u64::BITS);

//! What travels between viewers ([`peer`]) and between viewer and tracker ([`tracker`]).
//!
//! Frames are small binary messages: a kind byte, then fields in order, big-endian, lists and texts
//! with a length before them. `docs/protocol/` specifies them; its golden vectors are read by the
//! tests. Decoders take hostile bytes: they never panic, and refuse what is over a limit before
//! they allocate.

mod codec;
pub mod peer;
pub mod sdp;
pub mod session;
pub mod signal;
pub mod tracker;
#[cfg(test)]
mod vectors;

pub use codec::{DecodeError, Reader, Writer};

/// The version that both wire protocols speak.
pub const PROTOCOL_VERSION: u8 = 1;
/// The WebSocket subprotocol between viewer and tracker.
pub const SUBPROTOCOL: &str = "shoal.v1";

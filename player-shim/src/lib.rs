//! The browser viewer's half in Rust: `swarm_core`'s peer machine behind calls that JavaScript can
//! make, with numbers, texts and bytes only.
//!
//! The TypeScript half in `js/` owns the clock, sockets, bytes and keys, as `peer-agent` does for
//! native viewers. It calls one method of [`Shim`] for each thing that happens and gets back what is
//! to be done as a flat list of words, which [`abi`] specifies. Nothing of the browser is called
//! from here, so the crate runs natively as well, and its tests do.
//!
//! Segment bytes never come here: hashing and signatures are WebCrypto's. Records, playlists, names
//! and signalling are read here, so that native and browser viewers cannot disagree on them.

pub mod abi;
mod frames;
mod names;
mod playlist;
mod policy;
mod record;
mod shim;
mod signal;

pub use frames::{chunk_len_of, frame_of_reject};
pub use names::{name_of, name_of_range};
pub use playlist::Window;
pub use record::{ParsedRecord, parse_record, parse_record_header};
pub use shim::Shim;
pub use signal::{read_signal, signal_of_candidate, signal_of_end, signal_of_sdp};

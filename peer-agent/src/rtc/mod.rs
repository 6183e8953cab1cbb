//! WebRTC data channels to other viewers, native or in a browser.
//!
//! A [`Transport`] holds all connections of one viewer. The caller decides who connects to whom,
//! carries [`Signal`]s between them, and exchanges messages with the peers that are up; what it
//! hears back are [`RtcEvent`]s. Every connection has exactly one reliable, ordered channel, agreed
//! on in advance (stream 0, [`CHANNEL_LABEL`]), so no time goes into negotiating it.
//!
//! Everything is bounded: connections, signals, bytes waiting to be sent to a peer, message sizes,
//! and times. A receiver that does not keep up slows its senders down. The WebRTC stack itself is
//! an implementation detail that does not show.

mod config;
mod gate;
mod link;
mod outbox;
mod pacer;
mod pump;
mod relays;
mod runtime;
mod session;
mod transport;

#[cfg(test)]
mod tests;

use swarm_core::wire::{sdp, session as signal};

pub use config::{IceServer, PeerKey, PeerKind, Role, RtcConfig};
pub use outbox::SendOutcome;
pub use swarm_core::wire::sdp::{MESSAGE_BYTES_MAX, SDP_BYTES_MAX, SdpError, from_sdp, to_sdp};
pub use swarm_core::wire::session::{
    CANDIDATE_BYTES_MAX, CANDIDATES_MAX, Candidate, Description, DescriptionKind, PWD_BYTES_MAX,
    Setup, Signal, SignalError, UFRAG_BYTES_MAX,
};
pub use transport::{ConnectError, DownReason, RtcEvent, RtcStats, Transport};

/// Label of the one channel. Both sides create it as negotiated, with stream id 0.
pub const CHANNEL_LABEL: &str = "shoal";

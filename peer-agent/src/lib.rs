//! The native viewer: plays a live stream together with its neighbours.
//!
//! An [`Agent`] fetches a stream from its CDN and, by WebRTC, from other viewers, verifies every
//! byte that they send, passes bytes on, and offers the stream to any player on this machine over
//! plain HTTP ([`Agent::endpoint_url`]). All decisions are [`swarm_core::peer::Peer`]'s; here are
//! the sockets, the clock and the bytes. Whatever of tracker, records or neighbours is missing, the
//! player gets the CDN's bytes as if the agent were not there.

mod agent;
mod buffer;
mod catalog;
mod config;
mod driver;
mod endpoint;
mod error;
mod fault;
mod fetch;
mod gateway;
mod media;
mod origin;
mod pace;
pub mod playback;
mod reassembly;
pub mod rtc;
mod signalling;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;
mod tracker_link;
mod trust;

pub use agent::Agent;
pub use config::{Config, DEFAULT_TOML};
pub use error::{ConfigError, Error};
pub use fault::Misbehaviour;
pub use snapshot::{AgentEvent, Neighbour, Snapshot};

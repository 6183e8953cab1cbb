//! A caching reverse proxy that a broadcaster puts before an HLS or DASH origin.
//!
//! It asks the origin once however many viewers ask it, and signs what it sees: the records that it
//! puts into playlists and response headers let viewers take segments from one another.
//! `docs/protocol/records.md` specifies them, [`default_config`] documents the settings.
//!
//! Besides the origin's objects it serves `/healthz`, `/metrics` (Prometheus) and `/.shoal/streams`:
//! a JSON array of `{name, prefix, stream, public_key}`, with the stream's id in hexadecimal and the
//! key that its records are signed with in base64url.

mod config;
mod error;
mod freshness;
mod key;
mod live;
mod metrics;
mod object;
mod pilot;
mod playlist;
mod proxy;
mod records;
mod respond;
mod server;
mod target;
mod upstream;

pub use config::{
    CacheConfig, Config, CorsConfig, LimitsConfig, RecordsConfig, StreamConfig, TimeoutsConfig,
    default_config,
};
pub use error::Error;
pub use key::{keygen, public_key};
pub use playlist::annotate_mpd;
pub use server::run;

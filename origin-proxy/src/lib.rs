//! A caching reverse proxy that a broadcaster puts before an HLS or DASH origin.
//!
//! It asks the origin once however many viewers ask it, and signs what it sees: the records that it
//! puts into playlists and response headers let viewers take segments from one another.
//! `docs/protocol/records.md` specifies them, [`default_config`] documents the settings.
//!
//! Besides the origin's objects it serves `/healthz`, `/readyz`, `/metrics` (Prometheus), the operator's
//! requests below `/.shoal/admin/` (`docs/operating/running-an-edge.md`) and `/.shoal/streams`:
//! a JSON array of `{name, prefix, stream, public_key}`, with the stream's id in hexadecimal and the
//! key that its records are signed with in base64url.

mod access;
mod admin;
mod areas;
mod body;
mod cmcd;
mod conditions;
mod config;
mod disk;
mod error;
mod freshness;
mod handle;
mod health;
mod key;
mod live;
mod lowlatency;
mod metrics;
mod object;
mod pilot;
mod playlist;
mod proxy;
mod purge;
mod quic;
mod range;
mod rates;
mod records;
mod respond;
mod server;
mod steering;
mod target;
mod tls;
mod trace;
mod upstream;
mod vary;

pub use config::{
    AdminConfig, CacheConfig, Config, CorsConfig, DiskConfig, HostConfig, LimitsConfig, LogConfig,
    RecordsConfig, SteeringConfig, StreamConfig, TimeoutsConfig, TlsConfig, UpstreamConfig,
    default_config,
};
pub use error::Error;
pub use key::{keygen, public_key};
pub use playlist::annotate_mpd;
pub use server::{Listeners, run, run_on};

//! A caching reverse proxy that a broadcaster puts before an HLS or DASH origin.
//!
//! It asks the origin once however many viewers ask it, and signs what it sees: the records that it
//! puts into playlists and response headers let viewers take segments from one another.
//! `docs/protocol/records.md` specifies them, [`default_config`] documents the settings.
//!
//! Besides the origin's objects it serves `/healthz`, `/readyz`, `/metrics` (Prometheus), the operator's
//! requests below `/.shoal/admin/` (`docs/operating/running-an-edge.md`) and `/.shoal/streams`:
//! a JSON array of `{name, prefix, stream, stream_key, public_key, public_keys}`, with the stream's id in
//! hexadecimal and keys in base64url: the one that makes the id, the one that signs, and all that
//! viewers may trust.

mod access;
mod acme;
mod admin;
mod areas;
mod body;
mod brief;
mod cache_status;
mod client;
mod cmcd;
mod conditions;
mod config;
mod delicate;
mod disk;
mod eager;
mod entrance;
mod error;
mod freshness;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::missing_panics_doc, reason = "panics are what these are for")]
pub mod fuzzing;
mod gather;
mod gzip;
mod handle;
mod health;
mod key;
mod keyring;
mod live;
mod lowlatency;
mod manners;
mod metrics;
mod moved;
mod object;
mod path_tokens;
mod pilot;
mod playlist;
mod playlist_figures;
mod proxy;
mod purge;
mod quic;
mod range;
mod rates;
mod recent;
mod records;
mod redirects;
mod release;
mod respond;
mod rules;
mod server;
mod signs;
mod steering;
mod streams;
mod target;
mod terminate;
mod tls;
mod trace;
mod upstream;
mod vary;
mod visit;

pub use callers::AddressHeader;
pub use config::{
    AcmeConfig, AdminConfig, CacheConfig, CertificateConfig, Config, CorsConfig, DiskConfig,
    HostConfig, LimitsConfig, LogConfig, LowLatencyConfig, PathTokenConfig, RecordsConfig,
    RuleConfig, SteeringConfig, StreamConfig, TimeoutsConfig, TlsConfig, UpstreamConfig,
    default_config,
};
pub use error::Error;
pub use key::{keygen, public_key};
pub use playlist::annotate_mpd;
pub use server::{Listeners, run, run_on};

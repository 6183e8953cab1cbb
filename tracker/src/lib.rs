//! The tracker: tells viewers of a stream of each other, and passes their signalling on.
//!
//! One process, in memory, nothing else needed; several act as one where there is NATS. Matchmaking itself is
//! [`swarm_core::directory::Directory`]; this crate gives it sockets, a clock, and knowledge of
//! networks.
//!
//! - `server` answers HTTP: WebSocket upgrades, health, metrics, API. `accepting` takes connections in,
//!   `handshake` reads those of WebSockets, `health` sees whether the rest still works.
//! - `socket` is WebSockets that keep next to nothing while they are idle.
//! - `connection` speaks with one viewer: limits, decoding, admission.
//! - `shard` owns the directory; everything reaches it through one bounded channel.
//! - `outgoing` is the bounded queue between the shard and one connection.
//! - `entrance` leads connections in: PROXY protocol, TLS; whom proxies pass on, the crate `callers` knows. `lobby`
//!   bounds those that are nobody's yet.
//! - `admission` says who may join: tokens, the operator's back end.
//! - `networks` knows ISPs and places: the operator's rules, MMDB files.
//! - `reload` reads files again when they change. `listed` are the streams and swarms that are served.
//! - `api` is what operators see and do.
//! - `dashboard` is the page that shows it; its files are in `dashboard/`.
//! - `cluster` makes several nodes one tracker.
//! - `kicked` remembers whom the operator has sent away.
//! - `farewell` sends viewers away, for a restart that they do not notice.
//! - `webtorrent` serves WebTorrent clients, unchanged, at `/announce`.
//! - `relay` tells viewers of TURN servers.
//! - `stun` lets viewers find their public address.
//! - `webhooks` tells the broadcaster's services that streams start and end.
//!
//! The wire is specified in `docs/protocol/tracker.md` and `docs/protocol/webtorrent.md`.

mod accepting;
mod admission;
mod api;
mod bearers;
mod clock;
mod cluster;
mod config;
mod connection;
mod dashboard;
mod entrance;
mod error;
mod fake;
mod farewell;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handshake;
mod health;
mod kicked;
mod listed;
mod lobby;
mod metrics;
mod names;
mod networks;
mod outgoing;
mod privacy;
mod quota;
mod relay;
mod reload;
mod seldom;
mod server;
mod shard;
mod sink;
mod socket;
mod stream;
mod stun;
mod tls;
mod webhooks;
mod webtorrent;

pub use admission::{
    Admission, Bearer, Grant, JoinRequest, OnFailure, Open, PermissionConfig, SharedToken,
    StreamName, TokensConfig, tokens,
};
pub use callers::AddressHeader;
pub use cluster::{ClusterConfig, SplitBy};
pub use config::{
    Config, LimitsConfig, NetworkConfig, P2pMode, StunConfig, SwarmConfig, default_config,
};
pub use error::Error;
pub use farewell::DrainConfig;
pub use privacy::PrivacyConfig;
pub use relay::RelayConfig;
pub use server::{run, run_with};
pub use tls::TlsConfig;
pub use webhooks::WebhooksConfig;
pub use webtorrent::WebTorrentConfig;

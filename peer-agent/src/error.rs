//! What can go wrong before the agent runs. Once it runs, faults of others are dealt with and
//! logged, and playback goes on.

use std::net::SocketAddr;

use thiserror::Error;

/// A setting that cannot be used. The fault is the configuration's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A URL that is none, or of a scheme that does not fit.
    #[error("configuration: `{setting}` must be a URL with {schemes}, not {text:?}")]
    Url {
        /// Which setting.
        setting: &'static str,
        /// What it says.
        text: String,
        /// What it may begin with.
        schemes: String,
    },
    /// A public key that is none.
    #[error(
        "configuration: `public_keys` must hold Ed25519 keys in base64url or hexadecimal, not {0:?}"
    )]
    Key(String),
    /// A timeout out of range.
    #[error("configuration: `{setting}` must be from 100 to 120000 milliseconds, not {millis}")]
    Timeout {
        /// Which setting.
        setting: &'static str,
        /// What it says.
        millis: u64,
    },
    /// A token longer than the tracker's protocol allows.
    #[error("configuration: `token` has {0} bytes, at most 2048 are allowed")]
    TokenTooLong(usize),
    /// A store that cannot hold a live window.
    #[error("configuration: `store_bytes_max` is {0}, at least {1} are needed")]
    StoreTooSmall(u64, u64),
    /// A player that takes more at a time than a segment has.
    #[error("configuration: `progressive_ms` is {0}, at most {1} are allowed")]
    Progressive(u32, u32),
    /// An ICE server of an unknown kind.
    #[error("configuration: `ice_servers` must hold stun: and turn: URLs, not {0:?}")]
    IceServer(String),
    /// More ICE servers than anybody needs.
    #[error("configuration: `ice_servers` must have at most {0} entries")]
    TooManyIceServers(usize),
    /// No address for WebRTC.
    #[error("configuration: `bind_ips` is empty; set `p2p = false` to do without peers")]
    NoBindIp,
}

/// Why an agent did not start.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The endpoint's address cannot be used.
    #[error("environment: cannot listen on {addr}: {source}")]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// No HTTP client could be made: no TLS roots, or the like.
    #[error("environment: cannot set up the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// The system has no random numbers to give.
    #[error("environment: no random numbers: {0}")]
    Random(getrandom::Error),
}

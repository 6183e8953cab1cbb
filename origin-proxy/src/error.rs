//! What can go wrong, and whose fault it is.

use http::StatusCode;
use thiserror::Error;

/// Why the proxy does not start or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The operator's: a setting is wrong.
    #[error("configuration is wrong: {0}")]
    Config(String),
    /// The operator's: the signing key cannot be used.
    #[error("signing key cannot be used: {0}")]
    Key(String),
    /// The environment's: the listener or the client cannot be set up.
    #[error("environment does not let the proxy run: {0}")]
    Environment(String),
}

/// Why one request has no better answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Failure {
    /// The viewer asked for something that makes no sense.
    #[error("client sent {0}")]
    Client(&'static str, StatusCode),
    /// The origin cannot be reached or broke off.
    #[error("origin failed: {0}")]
    Origin(String),
    /// The origin did not answer in time.
    #[error("origin did not answer in time")]
    OriginTimeout,
    /// The origin has not published what a viewer waits for (LL-HLS).
    #[error("origin has not published in time what the client waits for")]
    NotPublished,
    /// The viewer wants nothing but what is in the cache, and it is not.
    #[error("client wants what is in the cache alone, and it is not")]
    NotCached,
    /// The viewer asks more often than it may.
    #[error("client asks too often")]
    TooOften,
    /// The proxy is at its limit of requests to the origin.
    #[error("proxy is at its limit of requests to the origin")]
    Busy,
    /// A defect of the proxy.
    #[error("proxy failed: {0}")]
    Internal(&'static str),
}

impl Failure {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Client(_, status) => *status,
            Self::Origin(_) => StatusCode::BAD_GATEWAY,
            Self::OriginTimeout | Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::NotPublished => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

//! What can go wrong, and whose fault it is.

use std::path::PathBuf;

use thiserror::Error;

/// Why the tracker does not start or had to stop. What viewers do wrong never ends it.
#[derive(Debug, Error)]
pub enum Error {
    /// The operator's: a setting is wrong.
    #[error("configuration is wrong: {0}")]
    Config(String),
    /// The operator's: an MMDB file cannot be read.
    #[error("database {path} cannot be used: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: maxminddb::MaxMindDbError,
    },
    /// Ours: a part that everything needs has ended. The log says which; starting again helps.
    #[error("the tracker broke off")]
    Broke,
    /// The environment's: a socket or the source of randomness cannot be used.
    #[error("environment does not let the tracker run: {what}: {source}")]
    Environment {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

//! Logs, always to standard error.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Starts logging what RUST_LOG says, else `default`. A second call has no effect.
pub(crate) fn init(json: bool, default: &str) {
    let (filter, complaint) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Err(_) => (EnvFilter::new(default), None),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        },
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = if json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    if let Some(error) = complaint {
        tracing::warn!("RUST_LOG is ignored: {error}");
    }
}

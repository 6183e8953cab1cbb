//! Logs, always to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// What the WebRTC stack says of peers that come and go is no news, at levels that say it is. Nor is each of
/// NATS' attempts: the tracker tells what comes of them.
const QUIET: &str =
    "rtc=off,rtc_dtls=off,rtc_ice=off,rtc_mdns=off,rtc_sctp=off,webrtc=off,async_nats=warn";

/// Starts logging what RUST_LOG says, else `default`. A second call has no effect.
pub(crate) fn init(json: bool, default: &str) {
    let default = format!("{default},{QUIET}");
    let (filter, complaint) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Err(_) => (EnvFilter::new(&default), None),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(&default), Some(error)),
        },
    };
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(may_have_colours());
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

/// Colours are for people: not for files and journals, nor for those who ask for none (no-color.org).
fn may_have_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
    io::stderr().is_terminal() && !unwanted
}

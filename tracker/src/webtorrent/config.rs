//! The facade's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::messages::InfoHash;
use crate::Error;

/// The WebTorrent facade: whom it serves, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebTorrentConfig {
    /// Paths at which WebTorrent clients connect; empty to switch the facade off.
    pub paths: Vec<String>,
    /// Swarms that are served, as 40 hexadecimal digits or as 20 characters; empty for all.
    pub info_hashes: Vec<String>,
    /// A file with more of them, one a line; read again when it changes.
    pub info_hashes_file: Option<PathBuf>,
    /// The interval that viewers with few partners are told, in seconds.
    pub interval_s_min: u32,
    /// The interval that viewers with enough partners are told, in seconds.
    pub interval_s_max: u32,
    /// Announcements in a second above which all intervals grow.
    pub announces_per_s: u32,
    /// Partners at which a viewer has enough.
    pub partners_max: u8,
    /// For how long a pair that has met is not brought together again, in seconds.
    pub met_s: u32,
    /// Offers of one announcement that are passed on.
    pub offers_max: u8,
    /// Offers that wait for one viewer's answer.
    pub pending_max: u8,
    /// Offers of all viewers of one address that may wait for an answer; further ones are not passed on.
    pub pending_per_address_max: u32,
    /// Swarms that one connection may be in.
    pub swarms_per_connection_max: u8,
    /// Viewers of one swarm.
    pub viewers_per_swarm_max: u32,
    /// Largest message, in bytes.
    pub message_bytes_max: u32,
    /// A silent connection is pinged after this time, in milliseconds.
    pub ping_ms: u32,
}

/// Least and largest message that can be set.
const MESSAGE_BYTES: std::ops::RangeInclusive<u32> = 8 * 1024..=1024 * 1024;

impl WebTorrentConfig {
    /// Whether the settings make sense together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("webtorrent.{what}")));
        if self.paths.iter().any(|path| !path.starts_with('/')) {
            return wrong("paths must begin with /");
        }
        if self.interval_s_min == 0 || self.interval_s_min > self.interval_s_max {
            return wrong("interval_s_min must be 1 to webtorrent.interval_s_max");
        }
        if self.interval_s_max > 3600 || self.met_s > 86_400 {
            return wrong("interval_s_max must not exceed 3600, met_s not 86400");
        }
        if self.ping_ms == 0 || self.swarms_per_connection_max == 0 || self.announces_per_s == 0 {
            return wrong("ping_ms, swarms_per_connection_max and announces_per_s must not be 0");
        }
        if !MESSAGE_BYTES.contains(&self.message_bytes_max) {
            return wrong("message_bytes_max must be 8192 to 1048576");
        }
        self.info_hashes
            .iter()
            .try_for_each(|text| match InfoHash::from_text(text) {
                Some(_) => Ok(()),
                None => wrong("info_hashes: 40 hexadecimal digits or 20 characters each"),
            })
    }
}

impl Default for WebTorrentConfig {
    fn default() -> Self {
        Self {
            paths: vec!["/announce".into()],
            info_hashes: Vec::new(),
            info_hashes_file: None,
            interval_s_min: 20,
            interval_s_max: 120,
            announces_per_s: 2_000,
            partners_max: 16,
            met_s: 1_800,
            offers_max: 20,
            pending_max: 16,
            pending_per_address_max: 4_000,
            swarms_per_connection_max: 16,
            viewers_per_swarm_max: 200_000,
            message_bytes_max: 65_536,
            ping_ms: 45_000,
        }
    }
}

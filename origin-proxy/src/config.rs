//! The proxy's settings. `default.toml` documents them for operators.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The settings. [`default_config`] is their manual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary listens; [`crate::run`] takes a listener instead.
    pub listen: SocketAddr,
    /// The broadcaster's origin: an http or https URL.
    pub origin: String,
    /// Whether redirects of the origin are followed by the proxy.
    pub follow_redirects: bool,
    /// The Ed25519 key that signs records, as [`crate::keygen`] gives it.
    pub signing_key: Option<String>,
    /// A file with that key.
    pub signing_key_file: Option<PathBuf>,
    /// Query arguments that are no part of the cache's keys; `*` at the end stands for any rest.
    pub query_ignore: Vec<String>,
    /// If not empty, the only query arguments that are part of the cache's keys.
    pub query_keep: Vec<String>,
    /// What is signed under which name.
    pub streams: Vec<StreamConfig>,
    /// Signing.
    pub records: RecordsConfig,
    /// Caching.
    pub cache: CacheConfig,
    /// Waiting.
    pub timeouts: TimeoutsConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Which pages may read answers.
    pub cors: CorsConfig,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name, which with the key makes the stream's id.
    pub name: String,
    /// The path, `/` at its end, below which everything belongs to the stream.
    pub prefix: String,
}

/// Signing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Longest time a playlist waits for records, in milliseconds.
    pub record_hold_ms_max: u64,
    /// Longest time a segment's first answer waits for its record, in milliseconds.
    pub segment_hold_ms_max: u64,
    /// New segments of a live playlist that are fetched ahead of viewers.
    pub prefetch_segments_max: usize,
    /// Such fetches at the same time.
    pub prefetch_concurrency: usize,
    /// Records kept for each stream.
    pub records_max: u64,
}

/// Caching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Memory for objects, in bytes.
    pub bytes_max: u64,
    /// Largest object that is kept, in bytes.
    pub object_bytes_max: u64,
    /// How long an object is fresh if the origin does not say, in seconds.
    pub fresh_default_s: u64,
    /// How long "not there" may be repeated, in milliseconds.
    pub negative_ttl_ms: u64,
    /// How long an object may be served past its freshness if the origin fails, in seconds.
    pub stale_if_error_s: u64,
}

/// Waiting, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For a connection to the origin.
    pub connect_ms: u64,
    /// For the head of the origin's answer.
    pub first_byte_ms: u64,
    /// For the next bytes of the origin's answer.
    pub stall_ms: u64,
    /// For the head of a viewer's request.
    pub request_head_ms: u64,
    /// For open requests when the proxy is told to stop.
    pub drain_ms: u64,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections of viewers at the same time.
    pub connections_max: usize,
    /// Requests to the origin at the same time.
    pub flights_max: usize,
    /// Largest head of a viewer's request, in bytes.
    pub header_bytes_max: usize,
    /// Longest path and query of a viewer's request, in bytes.
    pub target_bytes_max: usize,
}

/// Which pages may read answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins of pages, or `*`.
    pub origins: Vec<String>,
}

/// The default settings as a documented TOML file, for `--print-config`.
pub const fn default_config() -> &'static str {
    include_str!("../default.toml")
}

impl Config {
    /// Reads a TOML file's text.
    ///
    /// # Errors
    /// [`Error::Config`], naming the setting that is wrong.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// [`Error::Config`], naming the setting that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        if self.limits.header_bytes_max < 8192 {
            return wrong("limits.header_bytes_max must be 8192 at least");
        }
        if self.limits.flights_max == 0 || self.limits.connections_max == 0 {
            return wrong("limits must not be 0");
        }
        if self.records.prefetch_concurrency == 0 {
            return wrong("records.prefetch_concurrency must not be 0");
        }
        if self.cache.object_bytes_max > u64::from(u32::MAX) {
            return wrong("cache.object_bytes_max must be below 4 GiB");
        }
        if self.signing_key.is_some() && self.signing_key_file.is_some() {
            return wrong("set signing_key or signing_key_file, not both");
        }
        for stream in &self.streams {
            if !stream.prefix.starts_with('/') || !stream.prefix.ends_with('/') {
                return wrong("streams.prefix must begin and end with /");
            }
            if stream.name.is_empty() {
                return wrong("streams.name must not be empty");
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let ignored = [
            "token",
            "access_token",
            "CMCD",
            "hdnts",
            "hdnea",
            "Policy",
            "Signature",
            "Key-Pair-Id",
            "CAT",
            "X-Amz-*",
        ];
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            origin: "http://127.0.0.1:8080/".into(),
            follow_redirects: true,
            signing_key: None,
            signing_key_file: None,
            query_ignore: ignored.map(Into::into).to_vec(),
            query_keep: Vec::new(),
            streams: vec![StreamConfig {
                name: "main".into(),
                prefix: "/".into(),
            }],
            records: RecordsConfig::default(),
            cache: CacheConfig::default(),
            timeouts: TimeoutsConfig::default(),
            limits: LimitsConfig::default(),
            cors: CorsConfig::default(),
        }
    }
}

impl Default for RecordsConfig {
    fn default() -> Self {
        Self {
            record_hold_ms_max: 400,
            segment_hold_ms_max: 200,
            prefetch_segments_max: 6,
            prefetch_concurrency: 8,
            records_max: 4096,
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            bytes_max: 512 * 1024 * 1024,
            object_bytes_max: 64 * 1024 * 1024,
            fresh_default_s: 60,
            negative_ttl_ms: 1000,
            stale_if_error_s: 60,
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect_ms: 3000,
            first_byte_ms: 10_000,
            stall_ms: 10_000,
            request_head_ms: 30_000,
            drain_ms: 5000,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            flights_max: 1024,
            header_bytes_max: 32_768,
            target_bytes_max: 8192,
        }
    }
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            origins: vec!["*".into()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_file_is_the_default() {
        assert_eq!(
            Config::from_toml(default_config()).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn the_printed_file_documents_every_setting() {
        let config = Config {
            signing_key: Some(String::new()),
            signing_key_file: Some(PathBuf::new()),
            ..Config::default()
        };
        let all = toml::Table::try_from(config).unwrap();
        let mut keys: Vec<String> = all.keys().cloned().collect();
        for value in all.values().filter_map(toml::Value::as_table) {
            keys.extend(value.keys().cloned());
        }
        let lines: Vec<&str> = default_config().lines().collect();
        for key in keys {
            let is_it = |line: &&str| {
                let line = line.trim_start_matches('#');
                line.starts_with(&format!("{key} = "))
                    || line == format!("[{key}]")
                    || line == format!("[[{key}]]")
            };
            assert!(lines.iter().any(is_it), "{key} is not documented");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("orign = \"\"", "orign"),
            ("[limits]\nheader_bytes_max = 1", "header_bytes_max"),
            ("[[streams]]\nname = \"a\"\nprefix = \"live\"", "prefix"),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

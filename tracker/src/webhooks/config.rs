//! The webhooks' settings.

use serde::{Deserialize, Serialize};

use crate::Error;

/// Receivers of webhooks; more are a mistake.
const URLS_MAX: usize = 8;
/// Shortest secret, in bytes.
const SECRET_LEN_MIN: usize = 16;

/// Who is told that streams start and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhooksConfig {
    /// Where each event is sent by POST, as JSON.
    pub urls: Vec<String>,
    /// What events are signed with; without it they are not.
    pub secret: Option<String>,
    /// A stream without viewers for this long has ended, in milliseconds.
    pub end_after_ms: u32,
    /// For one attempt, in milliseconds.
    pub timeout_ms: u32,
    /// Attempts for one event and receiver.
    pub attempts_max: u32,
    /// After the first failure, in milliseconds; twice as long after each further one.
    pub retry_after_ms: u32,
    /// Events that wait for a receiver; more are dropped.
    pub queue_max: u32,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            secret: None,
            end_after_ms: 30_000,
            timeout_ms: 5_000,
            attempts_max: 8,
            retry_after_ms: 500,
            queue_max: 1_000,
        }
    }
}

impl WebhooksConfig {
    /// Whether anybody is to be told.
    pub(crate) fn is_on(&self) -> bool {
        !self.urls.is_empty()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("webhooks.{what}")));
        let is_http = |url: &String| {
            let url = url.parse::<reqwest::Url>();
            url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if self.urls.len() > URLS_MAX || !self.urls.iter().all(is_http) {
            return wrong("urls must be at most 8 addresses of http or https");
        }
        let short = |secret: &String| secret.len() < SECRET_LEN_MIN;
        if self.secret.as_ref().is_some_and(short) {
            return wrong("secret must have at least 16 bytes");
        }
        if self.attempts_max == 0 || self.timeout_ms == 0 || self.queue_max == 0 {
            return wrong("attempts_max, timeout_ms and queue_max must not be 0");
        }
        Ok(())
    }
}

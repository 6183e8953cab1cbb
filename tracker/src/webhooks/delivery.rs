//! Brings events to receivers: in order, signed, again where it fails, and never without bound.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, StatusCode, redirect};
use sha2::Sha256;
use tokio::{sync::mpsc, time};

use super::{config::WebhooksConfig, now_ms, watch::Event};
use crate::{metrics::Counters, names};

/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Everybody who is told.
pub(super) struct Receivers {
    queues: Vec<mpsc::Sender<Letter>>,
    counters: Arc<Counters>,
}

/// An event on its way.
#[derive(Clone)]
struct Letter {
    id: String,
    body: Bytes,
}

/// One of those who are told.
struct Receiver {
    client: Client,
    url: String,
    config: WebhooksConfig,
    counters: Arc<Counters>,
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    ForNow(String),
    /// The receiver does not want it.
    ForGood(StatusCode),
}

impl Receivers {
    /// Starts a task for each receiver; they end when this is dropped and all is told.
    pub(super) fn start(
        config: &WebhooksConfig,
        counters: &Arc<Counters>,
    ) -> Result<Self, reqwest::Error> {
        // An error means that somebody has done it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(Duration::from_millis(u64::from(config.timeout_ms)))
            .build()?;
        let queues = config.urls.iter().map(|url| {
            let (queue, letters) = mpsc::channel(config.queue_max as usize);
            let receiver = Receiver {
                client: client.clone(),
                url: url.clone(),
                config: config.clone(),
                counters: Arc::clone(counters),
            };
            tokio::spawn(receiver.serve(letters));
            queue
        });
        Ok(Self {
            queues: queues.collect(),
            counters: Arc::clone(counters),
        })
    }

    pub(super) fn tell(&self, events: &[Event]) {
        for event in events {
            tracing::info!(event = ?event.event, stream = %event.stream, "webhook");
            let Ok(body) = serde_json::to_vec(event) else {
                continue;
            };
            let letter = Letter {
                id: event.id.clone(),
                body: body.into(),
            };
            for queue in &self.queues {
                if queue.try_send(letter.clone()).is_err() {
                    Counters::add(&self.counters.webhooks_dropped);
                }
            }
        }
    }
}

impl Receiver {
    async fn serve(self, mut letters: mpsc::Receiver<Letter>) {
        while let Some(letter) = letters.recv().await {
            self.deliver(&letter).await;
        }
    }

    async fn deliver(&self, letter: &Letter) {
        let mut pause = Duration::from_millis(u64::from(self.config.retry_after_ms));
        for attempt in 1..=self.config.attempts_max {
            let failure = match self.send(letter).await {
                Ok(()) => return Counters::add(&self.counters.webhooks_sent),
                Err(failure) => failure,
            };
            Counters::add(&self.counters.webhooks_failed);
            match failure {
                Failure::ForGood(status) => {
                    tracing::warn!(%status, id = letter.id, "a webhook was refused");
                    break;
                }
                Failure::ForNow(why) => {
                    tracing::warn!(why, attempt, id = letter.id, "a webhook was not taken");
                }
            }
            if attempt < self.config.attempts_max {
                time::sleep(pause + jitter(pause / 2)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        Counters::add(&self.counters.webhooks_dropped);
    }

    async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        let timestamp = (now_ms() / 1_000).to_string();
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("shoal-delivery", &letter.id)
            .header("shoal-timestamp", &timestamp);
        if let Some(secret) = &self.config.secret {
            let signature = sign(secret, &timestamp, &letter.body);
            request = request.header("shoal-signature", format!("v1={signature}"));
        }
        let sent = request.body(letter.body.clone()).send().await;
        // The address may hold a secret of the receiver's.
        let answer = sent.map_err(|error| Failure::ForNow(error.without_url().to_string()))?;
        let status = answer.status();
        let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if status.is_success() {
            Ok(())
        } else if status.is_client_error() && !later.contains(&status) {
            Err(Failure::ForGood(status))
        } else {
            Err(Failure::ForNow(format!("the receiver answered {status}")))
        }
    }
}

/// HMAC-SHA-256 over the timestamp, a point, and the body: an old message cannot be sent again
/// under a new time.
fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    // Keys of all lengths are taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    for part in [timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes())
}

/// A random part of `most`, so that nodes and receivers fall out of step.
fn jitter(most: Duration) -> Duration {
    let mut byte = [0];
    match names::fill(&mut byte) {
        Ok(()) => most * u32::from(byte[0]) / 255,
        Err(_) => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of sixteen'`
    #[test]
    fn signatures_are_those_of_openssl() {
        let signature = sign("a secret of sixteen", "1700000000", b"{\"a\":1}");
        assert_eq!(
            signature,
            "fbd8ce753f0c0643c2d4fef4959c30b175367059e6f5453bddeb7b24a3d1ae24"
        );
    }
}

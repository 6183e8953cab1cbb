//! The CDN's answers, passed through as they come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Response;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Object, Out, Report};
use crate::gateway::Gateway;
use crate::origin::Origin;

/// Passes the CDN's answer through.
pub(crate) fn pass(gateway: &Gateway, response: Response) -> Object {
    let (object, out) = Object::of(&response);
    let source = Source {
        origin: gateway.origin.clone(),
        bypassed: gateway.bytes_bypassed.clone(),
        response,
    };
    tokio::spawn(source.pour(out, None));
    object
}

/// A body on its way from the CDN.
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) bypassed: Arc<AtomicU64>,
    pub(super) response: Response,
}

impl Source {
    /// Sends the body on, and says at the end how fast it came. `done` hears whether it was all.
    pub(super) async fn pour(mut self, out: Out, done: Option<oneshot::Sender<bool>>) {
        let started = Instant::now();
        let mut bytes_cdn = 0u64;
        let complete = loop {
            match self.origin.chunk(&mut self.response).await {
                Ok(Some(chunk)) => {
                    let len = chunk.len() as u64;
                    bytes_cdn += len;
                    self.bypassed.fetch_add(len, Ordering::Relaxed);
                    if out.body.send(Ok(chunk)).await.is_err() {
                        break false;
                    }
                }
                Ok(None) => break true,
                Err(error) => {
                    tracing::debug!(%error, "answer broke off");
                    let _ = out.body.send(Err(io::Error::other(error))).await;
                    break false;
                }
            }
        };
        if let Some(done) = done {
            let _ = done.send(complete);
        }
        if complete {
            let reported_bps = bits_per_second(bytes_cdn, started.elapsed());
            let _ = out.report.send(Report {
                bytes_p2p: 0,
                bytes_cdn,
                reported_bps,
            });
        }
    }
}

fn bits_per_second(bytes: u64, time: Duration) -> u64 {
    bytes.saturating_mul(8_000_000) / (time.as_micros() as u64).max(1000)
}

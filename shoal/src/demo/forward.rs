//! The tracker's API, passed on so that the page finds it at its own origin.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;

const PATIENCE: Duration = Duration::from_secs(3);
const BODY_LEN_MAX: usize = 4 << 20;

/// A client for one tracker.
#[derive(Clone)]
pub(super) struct Forward {
    client: Client<HttpConnector, Empty<Bytes>>,
    tracker: SocketAddr,
}

/// Why there is no answer.
pub(super) enum Silence {
    /// The tracker does not run, or not well.
    Unreachable,
    /// It answered with this status.
    Refused(StatusCode),
}

impl Forward {
    pub(super) fn new(tracker: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, tracker }
    }

    /// What the tracker answers at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Body, Silence> {
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(path));
        exchange.await.unwrap_or(Err(Silence::Unreachable))
    }

    async fn exchange(&self, path: &str) -> Result<Body, Silence> {
        let uri: Uri = format!("http://{}{path}", self.tracker)
            .parse()
            .map_err(|_| Silence::Refused(StatusCode::BAD_REQUEST))?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        let unreachable = |_| Silence::Unreachable;
        let answer = self.client.request(request).await.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(Silence::Refused(answer.status()));
        }
        let body = Limited::new(answer.into_body(), BODY_LEN_MAX)
            .collect()
            .await;
        let body = body.map_err(|_| Silence::Unreachable)?;
        Ok(Body::from(body.to_bytes()))
    }
}

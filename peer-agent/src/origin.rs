//! HTTP to the CDN: patient within limits, and streaming.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::RANGE;
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, Response, redirect};
use thiserror::Error;
use tokio::time::timeout;

use crate::config::Timeouts;

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 5;
/// Idle connections kept for each host.
const IDLE_PER_HOST_MAX: usize = 8;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("shoal-peer/", env!("CARGO_PKG_VERSION"));

/// Why the CDN's answer did not come, or not whole.
#[derive(Debug, Error)]
pub(crate) enum OriginError {
    #[error("origin or network: {0}{reason}", reason = reason(.0))]
    Http(#[from] reqwest::Error),
    #[error("origin did not begin its answer in time")]
    FirstByte,
    #[error("origin paused its answer for too long")]
    Stalled,
    #[error("origin's answer is longer than {0} bytes")]
    TooLong(usize),
}

impl OriginError {
    /// What a gateway says of this.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Http(error) if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Self::FirstByte | Self::Stalled => StatusCode::GATEWAY_TIMEOUT,
            Self::Http(_) | Self::TooLong(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What the library's own text leaves out: "connection refused" and the like.
fn reason(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes
        .last()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default()
}

/// A client of the CDN. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    client: Client,
    timeouts: Timeouts,
}

impl Origin {
    /// Fails where the system offers no TLS roots.
    pub(crate) fn new(timeouts: Timeouts) -> Result<Self, reqwest::Error> {
        // An error means that the process has a provider already; that one will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(timeouts.connect)
            .redirect(redirect::Policy::limited(REDIRECTS_MAX))
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .referer(false)
            .no_proxy()
            .build()?;
        Ok(Self { client, timeouts })
    }

    /// Sends a request and waits for the answer's head. `range` is first byte and length; a length
    /// of 0 stands for all that follows.
    pub(crate) async fn open(
        &self,
        method: Method,
        url: &str,
        range: Option<(u64, u64)>,
        headers: HeaderMap,
    ) -> Result<Response, OriginError> {
        let mut request = self.client.request(method, url).headers(headers);
        if let Some((first, len)) = range {
            request = request.header(RANGE, range_header(first, len));
        }
        let patience = self.timeouts.connect + self.timeouts.first_byte;
        let answered = timeout(patience, request.send()).await;
        Ok(answered.map_err(|_| OriginError::FirstByte)??)
    }

    /// The next bytes of a body; `None` at its end.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<Bytes>, OriginError> {
        let read = timeout(self.timeouts.stall, response.chunk()).await;
        Ok(read.map_err(|_| OriginError::Stalled)??)
    }

    /// The whole of a small body.
    pub(crate) async fn body(
        &self,
        response: &mut Response,
        len_max: usize,
    ) -> Result<Bytes, OriginError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(response).await? {
            if body.len() + chunk.len() > len_max {
                return Err(OriginError::TooLong(len_max));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

fn range_header(first: u64, len: u64) -> String {
    match len {
        0 => format!("bytes={first}-"),
        _ => format!("bytes={first}-{}", first.saturating_add(len - 1)),
    }
}

/// First byte, last byte and total of a `Content-Range: bytes a-b/total`.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = headers.get(http::header::CONTENT_RANGE)?.to_str().ok()?;
    let (span, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(read("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(read("bytes 5-5/*"), Some((5, 5, None)));
        for bad in [
            "bytes */100",
            "bytes 9-0/100",
            "items 0-9/100",
            "bytes 0-9",
            "bytes a-b/c",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(content_range(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn an_error_says_what_the_system_said() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let second = Duration::from_secs(1);
        let origin = Origin::new(Timeouts {
            connect: second,
            first_byte: second,
            stall: second,
        })
        .unwrap();
        let asked = origin.open(Method::GET, &url, None, HeaderMap::new());
        let said = asked.await.unwrap_err().to_string();
        assert!(said.contains(&url) && said.contains("refused"), "{said}");
    }

    #[test]
    fn range_headers() {
        assert_eq!(range_header(0, 0), "bytes=0-");
        assert_eq!(range_header(10, 5), "bytes=10-14");
    }
}

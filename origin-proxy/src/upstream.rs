//! Asking the origin.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use url::Url;

use crate::{Config, Error, error::Failure, object::end_to_end};

/// The client side of the proxy.
pub(crate) struct Upstream {
    client: reqwest::Client,
    first_byte: Duration,
    stall: Duration,
}

const REDIRECTS_MAX: usize = 5;

impl Upstream {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        // Without effect if the program has chosen another one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirects = if config.follow_redirects {
            reqwest::redirect::Policy::limited(REDIRECTS_MAX)
        } else {
            reqwest::redirect::Policy::none()
        };
        let client = reqwest::Client::builder()
            .redirect(redirects)
            .connect_timeout(Duration::from_millis(config.timeouts.connect_ms))
            .no_proxy()
            .build()
            .map_err(|error| Error::Environment(error.to_string()))?;
        Ok(Self {
            client,
            first_byte: Duration::from_millis(config.timeouts.first_byte_ms),
            stall: Duration::from_millis(config.timeouts.stall_ms),
        })
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, Failure> {
        let request = self.client.request(method, url).headers(headers).send();
        let answer = tokio::time::timeout(self.first_byte, request).await;
        answer.map_err(|_| Failure::OriginTimeout)?.map_err(blame)
    }

    /// The next bytes of an answer; `None` at its end.
    pub(crate) async fn next(
        &self,
        response: &mut reqwest::Response,
    ) -> Result<Option<Bytes>, Failure> {
        let chunk = tokio::time::timeout(self.stall, response.chunk()).await;
        chunk.map_err(|_| Failure::OriginTimeout)?.map_err(blame)
    }

    /// A whole body of at most `len_max` bytes.
    pub(crate) async fn collect(
        &self,
        response: &mut reqwest::Response,
        len_max: usize,
    ) -> Result<Bytes, Failure> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.next(response).await? {
            if whole.len() + chunk.len() > len_max {
                return Err(Failure::Origin("its answer is too long".into()));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }
}

fn blame(error: reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::OriginTimeout;
    }
    // The innermost reason says most, and has no URL (with tokens) in it.
    let mut reason: &dyn std::error::Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    Failure::Origin(reason.to_string().chars().take(REASON_LEN_MAX).collect())
}

const REASON_LEN_MAX: usize = 120;

/// The end of an answer without length, chunks or frames is no different from a broken connection:
/// nobody can tell whether such an answer is whole.
pub(crate) fn has_certain_end(response: &reqwest::Response) -> bool {
    response.content_length().is_some()
        || response.version() >= Version::HTTP_2
        || response.headers().contains_key(header::TRANSFER_ENCODING)
}

/// A viewer's headers as the origin may see them, for a whole object.
pub(crate) fn headers_for_whole(viewer: &HeaderMap) -> HeaderMap {
    let mut headers = headers_for_pass(viewer);
    for name in [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::CACHE_CONTROL,
        header::PRAGMA,
        header::ORIGIN,
    ] {
        headers.remove(name);
    }
    headers
}

/// A viewer's headers as the origin may see them, for this viewer alone.
pub(crate) fn headers_for_pass(viewer: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(viewer);
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.append(header::VIA, VIA);
    headers
}

/// How the proxy names itself (RFC 9110 section 7.6.3).
pub(crate) const VIA: HeaderValue = HeaderValue::from_static("1.1 shoal");

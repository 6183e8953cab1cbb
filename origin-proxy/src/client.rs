//! HTTP to origins: connections that are kept, TLS, and answers whose bodies are read as they come.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, response::Parts,
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::{BuilderVerifierExt, Verifier};
use tower_service::Service;
use url::Url;

use crate::{Config, Error, error::Failure, health::Aspect, redirects::Hops, target::Base};

/// Silent connections that are kept for each origin.
const POOL_IDLE_MAX: usize = 256;
const HTTP2_PING: Duration = Duration::from_secs(15);
/// A silent connection is probed this often, and given up when so many probes have no answer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_PROBES: u32 = 3;
/// What is sent and not acknowledged for so long was sent in vain.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// The most that is read at once in HTTP/1.1, in bytes, and the longest head of an answer. hyper reads twice before anything
/// goes on: with 64 KB the first byte of what is not cached took half as long again, with its own 400 KB twice.
const READ_LEN_MAX: usize = 16 * 1024;
/// hyper allows no more than 100 lines besides.
const HEAD_TOO_LONG: &str = "the head of its answer is too long (16 KB and 100 lines at most)";
const REASON_LEN_MAX: usize = 120;

/// The client side of the proxy. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    /// For http URLs: the operator has said which version they speak.
    plain: legacy::Client<Patient, Full<Bytes>>,
    /// For https URLs, where the origin chooses.
    secure: legacy::Client<Patient, Full<Bytes>>,
}

/// An origin's answer.
#[derive(Debug)]
pub(crate) struct Response {
    head: Parts,
    body: Incoming,
    url: Url,
    /// What has led to it.
    pub(crate) hops: Hops,
    /// The origin that the end of its body says something of, and of what.
    pub(crate) base: Option<(Arc<Base>, Aspect)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    /// The request has never been sent.
    pub(crate) is_unsent: bool,
}

impl Trouble {
    /// It has taken longer than it may.
    pub(crate) const LATE: Self = Self {
        failure: Failure::OriginTimeout,
        is_unsent: false,
    };
}

impl Client {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(KEEP_ALIVE_PROBES));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(config.upstream.root_file.as_deref())?)
            .https_or_http()
            .enable_http1();
        let connector = Patient {
            connector: if config.upstream.http1_only {
                connector.wrap_connector(tcp)
            } else {
                connector.enable_http2().wrap_connector(tcp)
            },
            patience: Duration::from_millis(config.timeouts.connect_ms),
        };
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .http1_max_buf_size(READ_LEN_MAX)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(HTTP2_PING);
        let secure = builder.build(connector.clone());
        builder.http2_only(config.upstream.http2_prior_knowledge);
        Ok(Self {
            plain: builder.build(connector),
            secure,
        })
    }

    /// Sends one request, and waits for the head of the answer. Follows no redirects.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Trouble> {
        if let Some(credentials) = credentials(url) {
            let entry = headers.entry(header::AUTHORIZATION);
            entry.or_insert(credentials);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri(url)?;
        *request.headers_mut() = headers;
        let client = match url.scheme() {
            "https" => &self.secure,
            _ => &self.plain,
        };
        let answer = client.request(request).await.map_err(|error| Trouble {
            failure: blame(&error),
            is_unsent: error.is_connect(),
        })?;
        let (head, body) = answer.into_parts();
        Ok(Response {
            head,
            body,
            url: url.clone(),
            hops: Hops::default(),
            base: None,
        })
    }
}

impl Response {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(crate) fn version(&self) -> Version {
        self.head.version
    }

    /// Where it is, after all redirects.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes of the body; `None` at its end. Trailers are left out.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| blame(&error))?;
            if let Ok(chunk) = frame.into_data() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

/// A connector that gives up, names and handshakes included.
#[derive(Clone)]
struct Patient {
    connector: HttpsConnector<HttpConnector>,
    patience: Duration,
}

type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
type BoxError = Box<dyn StdError + Send + Sync>;

impl Service<Uri> for Patient {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.patience, self.connector.call(uri));
        Box::pin(async {
            let late = || io::Error::new(io::ErrorKind::TimedOut, "connecting took too long");
            connecting.await.map_err(|_| late())?
        })
    }
}

/// Whom https origins are believed by: the system's authorities, and those in the PEM file `roots`, of which
/// there must be some.
fn tls(roots: Option<&Path>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let environment = |error: rustls::Error| Error::Environment(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(environment)?;
    let Some(file) = roots else {
        let builder = builder.with_platform_verifier().map_err(environment)?;
        return Ok(builder.with_no_client_auth());
    };
    let wrong =
        |reason: String| Error::Config(format!("upstream.root_file: {}: {reason}", file.display()));
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<_, _>>);
    let roots: Vec<CertificateDer<'static>> = read.map_err(|error| wrong(error.to_string()))?;
    if roots.is_empty() {
        return Err(wrong("it has no certificate".into()));
    }
    let verifier = Verifier::new_with_extra_roots(roots, provider);
    let verifier = verifier.map_err(|error| wrong(error.to_string()))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// User and password of an origin's address.
fn credentials(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let pair = format!("{}:{}", url.username(), url.password().unwrap_or(""));
    let pair: Vec<u8> = percent_decode_str(&pair).collect();
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The address without user, password and fragment.
fn uri(url: &Url) -> Result<Uri, Trouble> {
    let at = &url[url::Position::BeforeHost..url::Position::AfterQuery];
    let text = format!("{}://{at}", url.scheme());
    Uri::try_from(text).map_err(|_| Trouble {
        failure: Failure::Origin("its address cannot be asked".into()),
        is_unsent: true,
    })
}

/// Who is at fault, and why. The innermost reason says most, and has no URL (with tokens) in it.
fn blame(error: &(dyn StdError + 'static)) -> Failure {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let hyper = reason.downcast_ref::<hyper::Error>();
    if hyper.is_some_and(hyper::Error::is_parse_too_large) {
        return Failure::Origin(HEAD_TOO_LONG.into());
    }
    let io = reason.downcast_ref::<io::Error>();
    if io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) {
        return Failure::OriginTimeout;
    }
    Failure::Origin(reason.to_string().chars().take(REASON_LEN_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn user_and_password_are_no_part_of_the_address() {
        let url = Url::parse("https://me%40home:s%3Acret@origin.example:8443/a?b#c").unwrap();
        let sent = credentials(&url).unwrap();
        let pair = STANDARD.encode("me@home:s:cret");
        assert_eq!(sent.to_str().unwrap(), format!("Basic {pair}"));
        let asked = uri(&url).unwrap();
        assert_eq!(asked.to_string(), "https://origin.example:8443/a?b");
        let url = Url::parse("http://origin.example/").unwrap();
        assert_eq!(credentials(&url), None);
    }

    #[tokio::test]
    async fn who_accepts_and_shakes_no_hands_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::default();
        config.timeouts.connect_ms = 50;
        let client = Client::new(&config).unwrap();
        let at = format!("https://{}/", silent.local_addr().unwrap());
        let (url, none) = (Url::parse(&at).unwrap(), HeaderMap::new());
        let sent = client.send(Method::GET, &url, none, Bytes::new()).await;
        let trouble = sent.unwrap_err();
        assert_eq!(trouble.failure, Failure::OriginTimeout);
        assert!(trouble.is_unsent);
    }
}

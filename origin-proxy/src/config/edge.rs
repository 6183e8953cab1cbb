//! The settings of the edge: connections on both sides, and what operators see.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Waiting, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For a connection to the origin.
    pub connect_ms: u64,
    /// For the head of the origin's answer.
    pub first_byte_ms: u64,
    /// For the head of an answer that the origin holds back on purpose: blocking playlist reloads and
    /// hinted parts of low-latency HLS.
    pub blocking_ms: u64,
    /// For the next bytes of the origin's answer.
    pub stall_ms: u64,
    /// For the head of a viewer's request.
    pub request_head_ms: u64,
    /// For the whole body of a viewer's request, where it has one.
    pub request_body_ms: u64,
    /// For a viewer to take something of what it is sent; 0 for no bound of the proxy's own.
    pub send_ms: u64,
    /// For balancers to notice, when the proxy is told to stop, before it refuses connections.
    pub lame_duck_ms: u64,
    /// For open requests, after that.
    pub drain_ms: u64,
}

/// Low-latency HLS before origins that list parts and cannot hold requests back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LowLatencyConfig {
    /// Whether the proxy holds requests back in their place.
    pub terminate: bool,
    /// Shortest pause between two requests for one playlist that viewers wait for, in milliseconds.
    pub poll_ms_min: u64,
    /// Playlists for which it does so at the same time.
    pub playlists_max: usize,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections of viewers at the same time.
    pub connections_max: usize,
    /// Connections of one address at the same time; 0 for no bound.
    pub connections_per_address_max: usize,
    /// Requests a second of one address, averaged over some seconds; 0 for no bound.
    pub requests_per_s_per_address_max: u32,
    /// Requests to the origin at the same time.
    pub flights_max: usize,
    /// Answers for one viewer each that are being sent at the same time.
    pub passing_max: usize,
    /// What the kernel may hold of the answers to one viewer over TCP beyond what is on its way, in bytes; 0 leaves it
    /// to the kernel, which allows megabytes.
    pub unsent_bytes_max: u32,
    /// Largest head of a viewer's request, in bytes.
    pub header_bytes_max: usize,
    /// Longest path and query of a viewer's request, in bytes.
    pub target_bytes_max: usize,
    /// Largest body of a viewer's POST, PUT, PATCH or DELETE, in bytes; 0 refuses these methods.
    pub body_bytes_max: usize,
}

/// Which pages may read answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins of pages, or `*`.
    pub origins: Vec<String>,
    /// Whether these pages may send cookies and read the answers; not with `*`.
    pub credentials: bool,
}

/// Asking origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// Whether plain connections speak HTTP/2 from their first byte. Over TLS the origin chooses.
    pub http2_prior_knowledge: bool,
    /// Roots to trust https origins by besides the system's, PEM.
    pub root_file: Option<PathBuf>,
    /// How often a request is sent again whose connection failed before any answer.
    pub retries_max: usize,
    /// Failures after which an origin counts as down, with nothing of their kind between them that went well.
    pub failures_max: u32,
    /// How often an origin that is down is tried again, in milliseconds.
    pub down_ms: u64,
    /// Names of viewers' headers that do not reach the origin with requests whose answers others get, too.
    pub headers_drop: Vec<String>,
    /// Headers that every request to an origin has besides; they go to no other host.
    pub headers_add: BTreeMap<String, String>,
    /// Whether https origins are spoken to in HTTP/1.1 even if they offer HTTP/2.
    pub http1_only: bool,
    /// A path that each origin is asked for now and then; none for no such checks.
    pub health_path: Option<String>,
    /// How often, in milliseconds.
    pub health_interval_ms: u64,
}

impl CorsConfig {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.credentials && self.origins.iter().any(|origin| origin == "*") {
            let what = "cors.credentials needs cors.origins that name pages, not *";
            return Err(Error::Config(what.into()));
        }
        Ok(())
    }
}

impl SteeringConfig {
    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        if !(0.0..=100.0).contains(&self.share_percent) {
            return wrong("steering.share_percent must be from 0 to 100");
        }
        if !self.url.as_deref().is_none_or(is_plain_url) {
            return wrong("steering.url must be an http or https URL without a query");
        }
        Ok(())
    }
}

/// Whether arguments can be added to the absolute URL `text`.
fn is_plain_url(text: &str) -> bool {
    let is_plain = |url: url::Url| {
        let is_web = matches!(url.scheme(), "http" | "https");
        is_web && url.query().is_none() && url.fragment().is_none()
    };
    url::Url::parse(text).is_ok_and(is_plain)
}

impl UpstreamConfig {
    /// [`Self::headers_drop`], read.
    pub(crate) fn dropped(&self) -> Result<Vec<HeaderName>, Error> {
        let read = |name: &String| {
            name.parse()
                .map_err(|_| Error::Config("upstream.headers_drop must be names of headers".into()))
        };
        self.headers_drop.iter().map(read).collect()
    }

    /// [`Self::headers_add`], read.
    pub(crate) fn added(&self) -> Result<HeaderMap, Error> {
        let read = |(name, value): (&String, &String)| {
            let wrong = || Error::Config("upstream.headers_add must be headers".into());
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            Ok((name, value.parse().map_err(|_| wrong())?))
        };
        self.headers_add.iter().map(read).collect()
    }
}

/// The cache's second tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// The folder for objects; none for no disk tier.
    pub directory: Option<PathBuf>,
    /// Room for objects, in bytes.
    pub bytes_max: u64,
    /// Objects at the same time, each of which has a file and a place in memory.
    pub objects_max: usize,
    /// Objects that are fresh for less long are not worth writing, in seconds.
    pub fresh_s_min: u64,
}

/// TLS and HTTP/3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Where TLS connections are awaited, besides those without TLS; none for no TLS.
    pub listen: Option<SocketAddr>,
    /// The certificate and those between it and a root, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// Further ones, for viewers who ask for their names.
    pub certificates: Vec<CertificateConfig>,
    /// How often the files are looked at for changes, in milliseconds.
    pub reload_ms: u64,
    /// Whether HTTP/3 is served on the UDP port of the same number, and advertised.
    pub http3: bool,
    /// How long viewers may remember that it is, in seconds.
    pub http3_advertised_s: u32,
    /// The port that is advertised; 0 for that of the socket.
    pub http3_advertised_port: u16,
}

/// One more certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The certificate and those between it and a root, PEM. Its names are in it.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// Certificates from an authority that speaks ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcmeConfig {
    /// The names that the certificate is for; none for no such certificate.
    pub names: Vec<String>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// Whom the authority may write to, as URLs.
    pub contact: Vec<String>,
    /// The folder for account, certificate and key.
    pub state_folder: Option<PathBuf>,
    /// The root to trust the authority by, PEM; none for the system's.
    pub root_file: Option<PathBuf>,
}

/// Content steering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SteeringConfig {
    /// The share of viewers who are sent to this proxy, in percent.
    pub share_percent: f64,
    /// This proxy's pathway, as the broadcaster's playlist names it.
    pub pathway: String,
    /// The other one.
    pub pathway_cdn: String,
    /// After how many seconds players ask again.
    pub ttl_s: u32,
    /// The absolute URL by which players ask, as the broadcaster's playlist has it. Without it they are
    /// told a path, which Shaka 5.2 cannot ask again.
    pub url: Option<String>,
}

/// The operator's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// The secret that such requests carry; none refuses them all.
    pub token: Option<String>,
    /// A file with that secret.
    pub token_file: Option<PathBuf>,
    /// Whether `/metrics` wants it as well.
    pub metrics_for_operators: bool,
}

/// The access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The file that a line of JSON is appended to for each request; `-` is standard output. None for
    /// no access log.
    pub access_file: Option<PathBuf>,
    /// Whether lines have queries, and with them the tokens of viewers.
    pub access_query: bool,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect_ms: 3000,
            first_byte_ms: 10_000,
            blocking_ms: 30_000,
            stall_ms: 10_000,
            request_head_ms: 30_000,
            request_body_ms: 30_000,
            send_ms: 60_000,
            lame_duck_ms: 0,
            drain_ms: 5000,
        }
    }
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            contact: Vec::new(),
            state_folder: None,
            root_file: None,
        }
    }
}

impl Default for LowLatencyConfig {
    fn default() -> Self {
        Self {
            terminate: true,
            poll_ms_min: 50,
            playlists_max: 256,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_address_max: 0,
            requests_per_s_per_address_max: 0,
            flights_max: 1024,
            passing_max: 1024,
            unsent_bytes_max: 256 * 1024,
            header_bytes_max: 32_768,
            target_bytes_max: 8192,
            body_bytes_max: 0,
        }
    }
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self {
            origins: vec!["*".into()],
            credentials: false,
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            http2_prior_knowledge: false,
            root_file: None,
            retries_max: 1,
            failures_max: 3,
            down_ms: 5000,
            headers_drop: [
                "forwarded",
                "x-forwarded-host",
                "x-forwarded-port",
                "x-forwarded-prefix",
                "x-forwarded-proto",
                "x-forwarded-scheme",
                "x-forwarded-server",
                "x-host",
                "x-http-method",
                "x-http-method-override",
                "x-method-override",
                "x-original-host",
                "x-original-url",
                "x-rewrite-url",
            ]
            .map(Into::into)
            .to_vec(),
            headers_add: BTreeMap::new(),
            http1_only: false,
            health_path: None,
            health_interval_ms: 2000,
        }
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            directory: None,
            bytes_max: 16 * 1024 * 1024 * 1024,
            objects_max: 262_144,
            fresh_s_min: 10,
        }
    }
}

impl Default for SteeringConfig {
    fn default() -> Self {
        Self {
            share_percent: 0.0,
            pathway: "SHOAL".into(),
            pathway_cdn: "CDN".into(),
            ttl_s: 30,
            url: None,
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            listen: None,
            certificate_file: None,
            key_file: None,
            certificates: Vec::new(),
            reload_ms: 10_000,
            http3: true,
            http3_advertised_s: 86_400,
            http3_advertised_port: 0,
        }
    }
}

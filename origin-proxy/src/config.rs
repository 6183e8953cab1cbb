//! The proxy's settings. `default.toml` documents them for operators.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
};

use callers::AddressHeader;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::edge::{
    AcmeConfig, AdminConfig, CertificateConfig, CorsConfig, DiskConfig, LimitsConfig, LogConfig,
    LowLatencyConfig, SteeringConfig, TimeoutsConfig, TlsConfig, UpstreamConfig,
};
use crate::{Error, rules::Rules, target::sites};

mod edge;

/// The settings. [`default_config`] is their manual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary listens; [`crate::run`] takes a listener instead.
    pub listen: SocketAddr,
    /// Proxies before this one whose word on the viewer's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that they write the viewer's address into.
    pub address_header: AddressHeader,
    /// Whether they begin each connection over TCP with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// The broadcaster's origin: an http or https URL.
    pub origin: String,
    /// Further origins that have the same objects, asked in their order when those before fail.
    pub origin_backups: Vec<String>,
    /// Whether redirects of the origin are followed by the proxy.
    pub follow_redirects: bool,
    /// The Ed25519 key that signs records, as [`crate::keygen`] gives it.
    pub signing_key: Option<String>,
    /// A file with that key, and with other keys if it changes.
    pub signing_key_file: Option<PathBuf>,
    /// Query arguments that are no part of the cache's keys; `*` at the end stands for any rest.
    pub query_ignore: Vec<String>,
    /// If not empty, the only query arguments that are part of the cache's keys.
    pub query_keep: Vec<String>,
    /// Tokens that are a part of paths.
    pub path_tokens: Vec<PathTokenConfig>,
    /// What is signed under which name.
    pub streams: Vec<StreamConfig>,
    /// Other hosts that are served, with their origins and streams.
    pub hosts: Vec<HostConfig>,
    /// What overrules origins.
    pub rules: Vec<RuleConfig>,
    /// Signing.
    pub records: RecordsConfig,
    /// Caching.
    pub cache: CacheConfig,
    /// Caching across restarts.
    pub disk: DiskConfig,
    /// Holding requests back for origins that cannot.
    pub low_latency: LowLatencyConfig,
    /// Asking origins.
    pub upstream: UpstreamConfig,
    /// Encrypted connections of viewers.
    pub tls: TlsConfig,
    /// Their certificate, if the proxy is to obtain it.
    pub acme: AcmeConfig,
    /// Waiting.
    pub timeouts: TimeoutsConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Which pages may read answers.
    pub cors: CorsConfig,
    /// Who is sent here.
    pub steering: SteeringConfig,
    /// The operator's requests.
    pub admin: AdminConfig,
    /// What is written of requests.
    pub log: LogConfig,
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

/// Where in paths viewers have tokens, which tell no objects apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathTokenConfig {
    /// The path, `/` at its end, below which it holds, on every host.
    pub prefix: String,
    /// What tokens begin with; none if they are the first word below `prefix`.
    pub begins: Vec<String>,
    /// Whether they may have slashes in them, percent-encoded, which no origin reads as slashes.
    pub encoded_slashes: bool,
    /// Whether the origin is asked if it takes a token, before its viewer gets what is kept.
    pub check: bool,
    /// For how long its answer counts, in seconds.
    pub accepted_s: u64,
}

/// One more host, or several that are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Its names, as in the `Host` header, without port.
    pub names: Vec<String>,
    /// Its origin.
    pub origin: String,
    /// Further origins with the same objects.
    #[serde(default)]
    pub origin_backups: Vec<String>,
    /// What is signed there under which name.
    #[serde(default)]
    pub streams: Vec<StreamConfig>,
    /// Which pages may read answers there, if others than elsewhere.
    pub cors: Option<CorsConfig>,
    /// Who is sent there, if it has a share of its own.
    pub steering: Option<SteeringConfig>,
}

/// What of an origin's answers does not count, below one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// The path below which it holds, on every host.
    pub prefix: String,
    /// Ends of paths that it holds for, without the dot; none for all.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// Names of headers that are taken away before anything is made of an answer.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// How long an answer is fresh whatever the origin says, in seconds.
    pub fresh_s: Option<u64>,
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
    /// Records kept for each stream: of all segments that its playlists list together.
    pub records_max: u64,
    /// How often the key file is read again, in milliseconds.
    pub key_reload_ms: u64,
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
    /// How long an object may be served past its freshness while the origin is asked, in seconds,
    /// if the origin does not say.
    pub stale_while_revalidate_s: u64,
    /// How long an object may be served past its freshness if the origin fails, in seconds, if the
    /// origin does not say.
    pub stale_if_error_s: u64,
    /// Whether playlists and manifests are compressed for viewers who take gzip.
    pub gzip: bool,
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
        let limits = &self.limits;
        if [
            limits.flights_max,
            limits.passing_max,
            limits.connections_max,
        ]
        .contains(&0)
        {
            return wrong("limits must not be 0");
        }
        if !matches!(limits.unsent_bytes_max, 0 | 16_384..=1_073_741_824) {
            return wrong("limits.unsent_bytes_max must be 0, or from 16384 to 1073741824");
        }
        if self.timeouts.request_head_ms == 0 || self.timeouts.request_body_ms == 0 {
            return wrong("timeouts.request_head_ms and timeouts.request_body_ms must not be 0");
        }
        if self.records.prefetch_concurrency == 0 || self.records.key_reload_ms == 0 {
            return wrong("records.prefetch_concurrency and records.key_reload_ms must not be 0");
        }
        if self.cache.object_bytes_max > u64::from(u32::MAX) {
            return wrong("cache.object_bytes_max must be below 4 GiB");
        }
        self.check_secrets()?;
        self.check_proxies()?;
        self.check_certificate()?;
        if self.disk.objects_max == 0 {
            return wrong("disk.objects_max must not be 0");
        }
        if self.low_latency.poll_ms_min == 0 {
            return wrong("low_latency.poll_ms_min must not be 0");
        }
        if self.tls.reload_ms == 0 || self.upstream.health_interval_ms == 0 {
            return wrong("tls.reload_ms and upstream.health_interval_ms must not be 0");
        }
        let hosts = self.hosts.iter();
        let steerings = hosts.clone().filter_map(|host| host.steering.as_ref());
        std::iter::once(&self.steering)
            .chain(steerings)
            .try_for_each(SteeringConfig::check)?;
        let all_cors = hosts.filter_map(|host| host.cors.as_ref());
        std::iter::once(&self.cors)
            .chain(all_cors)
            .try_for_each(CorsConfig::check)?;
        self.upstream.dropped()?;
        self.upstream.added()?;
        sites(self)?;
        Rules::read(&self.rules)?;
        if self.upstream.failures_max == 0 {
            return wrong("upstream.failures_max must not be 0");
        }
        if (self.hosts.iter()).any(|host| host.names.is_empty()) {
            return wrong("hosts.names must not be empty");
        }
        self.check_names()?;
        let elsewhere = self.hosts.iter().flat_map(|host| &host.streams);
        self.streams
            .iter()
            .chain(elsewhere)
            .try_for_each(StreamConfig::check)
    }
}

impl Config {
    fn check_secrets(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        if self.signing_key.is_some() && self.signing_key_file.is_some() {
            return wrong("set signing_key or signing_key_file, not both");
        }
        if self.admin.token.is_some() && self.admin.token_file.is_some() {
            return wrong("set admin.token or admin.token_file, not both");
        }
        let is_closed = self.admin.token.is_none() && self.admin.token_file.is_none();
        if self.admin.metrics_for_operators && is_closed {
            return wrong("admin.metrics_for_operators needs admin.token or admin.token_file");
        }
        Ok(())
    }

    /// Two hosts with one name would be a matter of chance; two with streams of one name would have viewers take
    /// the one's segments for the other's.
    fn check_names(&self) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Config(what));
        let mut hosts = HashSet::new();
        let names = self.hosts.iter().flat_map(|host| &host.names);
        for name in names.map(|name| name.to_ascii_lowercase()) {
            if !hosts.insert(name.clone()) {
                return wrong(format!("hosts.names has {name} twice"));
            }
        }
        let mut homes = HashMap::new();
        let others = self.hosts.iter().map(|host| &host.streams);
        let all = std::iter::once(&self.streams).chain(others).enumerate();
        for (site, stream) in
            all.flat_map(|(site, streams)| streams.iter().map(move |one| (site, one)))
        {
            if *homes.entry(&stream.name).or_insert(site) != site {
                let name = &stream.name;
                return wrong(format!("streams.name: two hosts have a stream {name}"));
            }
        }
        Ok(())
    }

    fn check_certificate(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        let files = [&self.tls.certificate_file, &self.tls.key_file];
        let is_obtained = !self.acme.names.is_empty();
        if is_obtained && self.acme.state_folder.is_none() {
            return wrong("acme.names needs acme.state_folder");
        }
        if is_obtained && files.iter().any(|file| file.is_some()) {
            return wrong("set acme.names or tls.certificate_file and tls.key_file, not both");
        }
        if self.tls.listen.is_some() && !is_obtained && files.iter().any(|file| file.is_none()) {
            return wrong("tls.listen needs tls.certificate_file and tls.key_file, or acme.names");
        }
        Ok(())
    }
}

impl StreamConfig {
    fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        if !self.prefix.starts_with('/') || !self.prefix.ends_with('/') {
            return wrong("streams.prefix must begin and end with /");
        }
        if self.name.is_empty() {
            return wrong("streams.name must not be empty");
        }
        Ok(())
    }
}

impl Default for PathTokenConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            begins: Vec::new(),
            encoded_slashes: false,
            check: true,
            accepted_s: 30,
        }
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
            trusted_proxies: Vec::new(),
            address_header: AddressHeader::default(),
            proxy_protocol: false,
            origin: "http://127.0.0.1:8080/".into(),
            origin_backups: Vec::new(),
            follow_redirects: true,
            signing_key: None,
            signing_key_file: None,
            query_ignore: ignored.map(Into::into).to_vec(),
            query_keep: Vec::new(),
            path_tokens: Vec::new(),
            streams: vec![StreamConfig {
                name: "main".into(),
                prefix: "/".into(),
            }],
            hosts: Vec::new(),
            rules: Vec::new(),
            records: RecordsConfig::default(),
            cache: CacheConfig::default(),
            disk: DiskConfig::default(),
            low_latency: LowLatencyConfig::default(),
            upstream: UpstreamConfig::default(),
            tls: TlsConfig::default(),
            acme: AcmeConfig::default(),
            timeouts: TimeoutsConfig::default(),
            limits: LimitsConfig::default(),
            cors: CorsConfig::default(),
            steering: SteeringConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
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
            key_reload_ms: 10_000,
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
            stale_while_revalidate_s: 0,
            stale_if_error_s: 60,
            gzip: true,
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

    /// Settings in lists of tables.
    const FURTHER: [&str; 11] = [
        "names",
        "hosts.streams",
        "hosts.cors",
        "hosts.steering",
        "extensions",
        "ignore",
        "fresh_s",
        "begins",
        "encoded_slashes",
        "check",
        "accepted_s",
    ];

    #[test]
    fn the_printed_file_documents_every_setting() {
        let stream = StreamConfig {
            name: String::new(),
            prefix: String::new(),
        };
        let config = Config {
            signing_key: Some(String::new()),
            signing_key_file: Some(PathBuf::new()),
            hosts: vec![HostConfig {
                names: Vec::new(),
                origin: String::new(),
                origin_backups: Vec::new(),
                streams: vec![stream],
                cors: None,
                steering: None,
            }],
            disk: DiskConfig {
                directory: Some(PathBuf::new()),
                ..DiskConfig::default()
            },
            upstream: UpstreamConfig {
                health_path: Some(String::new()),
                root_file: Some(PathBuf::new()),
                ..UpstreamConfig::default()
            },
            tls: TlsConfig {
                listen: Some(SocketAddr::from(([0, 0, 0, 0], 1))),
                certificate_file: Some(PathBuf::new()),
                key_file: Some(PathBuf::new()),
                ..TlsConfig::default()
            },
            acme: AcmeConfig {
                state_folder: Some(PathBuf::new()),
                root_file: Some(PathBuf::new()),
                ..AcmeConfig::default()
            },
            steering: SteeringConfig {
                url: Some(String::new()),
                ..SteeringConfig::default()
            },
            admin: AdminConfig {
                token: Some(String::new()),
                token_file: Some(PathBuf::new()),
                ..AdminConfig::default()
            },
            log: LogConfig {
                access_file: Some(PathBuf::new()),
                access_query: false,
            },
            ..Config::default()
        };
        let all = toml::Table::try_from(config).unwrap();
        let mut keys: Vec<String> = all.keys().cloned().collect();
        for value in all.values().filter_map(toml::Value::as_table) {
            keys.extend(value.keys().cloned());
        }
        keys.extend(FURTHER.map(String::from));
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
            ("origin = \"http://a/?b\"", "without a query"),
            ("origin_backups = [\"a:80\"]", "origin_backups"),
            (
                "[[hosts]]\norigin = \"ftp://a\"\nnames = [\"a\"]",
                "hosts.origin",
            ),
            ("[limits]\nheader_bytes_max = 1", "header_bytes_max"),
            ("[[streams]]\nname = \"a\"\nprefix = \"live\"", "prefix"),
            ("[tls]\nlisten = \"0.0.0.0:443\"", "certificate_file"),
            ("[acme]\nnames = [\"a.example\"]", "state_folder"),
            ("proxy_protocol = true", "trusted_proxies"),
            ("trusted_proxies = [\"10.0.0.0/99\"]", "trusted_proxies"),
            ("[admin]\nmetrics_for_operators = true", "admin.token"),
            ("[limits]\npassing_max = 0", "limits"),
            ("[limits]\nunsent_bytes_max = 1", "unsent_bytes_max"),
            ("[timeouts]\nrequest_head_ms = 0", "request_head_ms"),
            (
                "[upstream]\nheaders_drop = [\"x y\"]",
                "upstream.headers_drop",
            ),
            ("[cors]\ncredentials = true", "cors.origins"),
            (
                "[[hosts]]\norigin = \"http://a\"\nnames = [\"a\"]\n[hosts.cors]\ncredentials = true",
                "cors.origins",
            ),
            (
                "[[hosts]]\norigin = \"http://a\"\nnames = [\"a\"]\n[hosts.steering]\nshare_percent = 101",
                "steering.share_percent",
            ),
            ("[[rules]]\nprefix = \"live\"", "rules.prefix"),
            ("[[path_tokens]]\nprefix = \"/live\"", "path_tokens.prefix"),
            ("[[path_tokens]]\ncheck = true", "path_tokens.prefix"),
            (
                "[[path_tokens]]\nprefix = \"/\"\nbegins = [\"\"]",
                "path_tokens.begins",
            ),
            (
                "[[path_tokens]]\nprefix = \"/\"\naccepted_s = 99999999",
                "path_tokens.accepted_s",
            ),
            (
                "[[rules]]\nprefix = \"/\"\nignore = [\"x y\"]",
                "rules.ignore",
            ),
            (
                "[upstream]\nheaders_add = { a = \"\\n\" }",
                "upstream.headers_add",
            ),
            (
                "[[hosts]]\norigin = \"http://a\"\nnames = [\"a\", \"A\"]",
                "hosts.names",
            ),
            (
                "[[hosts]]\norigin = \"http://a\"\nnames = [\"a\"]\n\
                 [[hosts.streams]]\nname = \"main\"\nprefix = \"/\"",
                "streams.name",
            ),
            ("[steering]\nurl = \"/.shoal/steering\"", "steering.url"),
            (
                "[steering]\nurl = \"https://a.example/s?x\"",
                "steering.url",
            ),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

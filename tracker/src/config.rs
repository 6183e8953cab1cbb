//! The tracker's settings. `default.toml` documents them for operators.

use std::{net::SocketAddr, path::PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use callers::AddressHeader;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use swarm_core::{directory::Policy, id::StreamId, limits};

use crate::{
    Error, WebTorrentConfig,
    admission::{PermissionConfig, TokensConfig},
    cluster::ClusterConfig,
    farewell::DrainConfig,
    listed::Listed,
    privacy::PrivacyConfig,
    relay::RelayConfig,
    reload::Reloader,
    tls::TlsConfig,
    webhooks::WebhooksConfig,
};

/// The settings. [`default_config`] is their manual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary listens; [`crate::run`] takes a listener instead.
    pub listen: SocketAddr,
    /// Paths at which viewers connect.
    pub paths: Vec<String>,
    /// Streams that are served, as 32 hexadecimal digits or as the publisher's public key, `/` and the
    /// name; behind a space what operators call them. Empty for all.
    pub streams: Vec<String>,
    /// A file with more of them, one a line; read again when it changes.
    pub streams_file: Option<PathBuf>,
    /// Origins of pages that may connect, `*.` for every host below; empty for all.
    pub origins: Vec<String>,
    /// Whether viewers that send no origin are refused: they are not browsers.
    pub origin_needed: bool,
    /// Proxies whose word on the viewer's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that trusted proxies write the viewer's address into.
    pub address_header: AddressHeader,
    /// Whether trusted proxies begin each connection with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// How often files are looked at for changes, in milliseconds.
    pub reload_ms: u32,
    /// What viewers must bring as their join token; without it everybody may join.
    pub join_token: Option<String>,
    /// The secret that viewers' names are proven with; random for each start without it.
    pub name_key: Option<String>,
    /// Whether the API answers everybody, pages of all origins included.
    pub public_api: bool,
    /// The bearer token of the API and the metrics. Without it the API answers only if it is
    /// public, and the metrics answer everybody.
    pub admin_token: Option<String>,
    /// MMDB files with autonomous systems, countries or cities.
    pub databases: Vec<PathBuf>,
    /// A table of the operator's subnets (CSV).
    pub subnets: Option<PathBuf>,
    /// For demonstrations: viewers of unknown networks get invented ISPs and places.
    pub fake_networks: bool,
    /// The operator's rules for networks; the longest prefix counts.
    pub networks: Vec<NetworkConfig>,
    /// Signed tokens.
    pub tokens: TokensConfig,
    /// The operator's back end that says who may join.
    pub permission: PermissionConfig,
    /// TLS of our own.
    pub tls: TlsConfig,
    /// Whose addresses are shown to whom.
    pub privacy: PrivacyConfig,
    /// The embedded STUN server.
    pub stun: StunConfig,
    /// Relays for links that find no direct way.
    pub relay: RelayConfig,
    /// Groups and links.
    pub swarm: SwarmConfig,
    /// WebTorrent clients.
    pub webtorrent: WebTorrentConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Where viewers go when this tracker sends them away.
    pub drain: DrainConfig,
    /// Several nodes that act as one tracker.
    pub cluster: ClusterConfig,
    /// Who is told that streams start and end.
    pub webhooks: WebhooksConfig,
}

/// What the operator knows of a network. Fields that are set go before the databases'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Its addresses.
    pub cidrs: Vec<IpNet>,
    /// Its autonomous system.
    pub asn: Option<u32>,
    /// The ISP's name, for dashboards.
    pub isp: Option<String>,
    /// Two letters (ISO 3166).
    pub country: Option<String>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
    /// A name that its viewers share (a company, a campus): they are brought together first.
    pub site: Option<String>,
    /// What dashboards call the site; its name if not set.
    pub label: Option<String>,
    /// Whether its viewers use peers.
    pub p2p: P2pMode,
    /// Whether its viewers meet viewers of other sites.
    pub wan: bool,
    /// Whether its viewers are told of the relays.
    pub relay: bool,
}

/// Whether viewers of a network use peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum P2pMode {
    /// Both ways.
    #[default]
    On,
    /// Not at all: they are refused and play from the CDN.
    Off,
    /// They receive and give nothing.
    Leech,
}

/// The embedded STUN server, and what viewers are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StunConfig {
    /// Where it listens (UDP), and on the next port as well: a viewer whose NAT gives it another address for
    /// each of the two is introduced to those alone who can reach it. Without it there is none.
    pub listen: Option<SocketAddr>,
    /// What viewers are told, as `host:port`. If empty: the host at which the viewer reached the
    /// tracker, and both ports. With one server alone, viewers do not find out how their NATs work.
    pub advertise: Vec<String>,
    /// Answers in a second on each port, over all viewers; further requests are dropped.
    pub answers_per_s: u32,
}

/// Groups and links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwarmConfig {
    /// Links that a viewer is helped to inside its group.
    pub links_target: u8,
    /// Size that groups grow to freely.
    pub group_target: u8,
    /// Size above which a group splits.
    pub group_max: u8,
    /// Size below which a group's members look for another one.
    pub group_thin: u8,
    /// How often viewers report, in milliseconds.
    pub status_interval_ms: u32,
    /// A viewer that is not heard for this long is gone, in milliseconds.
    pub silence_ms_max: u32,
    /// How long a viewer whose connection broke keeps its place, in milliseconds.
    pub linger_ms: u32,
    /// Introductions that a viewer may receive in a burst.
    pub introductions_burst: u16,
    /// Introductions that a viewer may receive in an hour beyond the burst.
    pub introductions_per_hour: u32,
    /// Introductions that all viewers of one address together may receive in a burst, at most: an
    /// address has what as many viewers may have as were there at once, and two more.
    pub address_introductions_burst: u32,
    /// Introductions that all viewers of one address together may receive in an hour beyond it.
    pub address_introductions_per_hour: u32,
    /// Viewers of one ISP within this distance are in one metro area, in km.
    pub metro_km: u32,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Viewers' connections at the same time; more are refused, and come back later.
    pub connections_max: u32,
    /// Connections of one address (IPv6: of one /64).
    pub connections_per_address_max: u32,
    /// Joins of one address in a burst.
    pub joins_burst: u32,
    /// Joins of one address in a second beyond the burst.
    pub joins_per_s: u32,
    /// Connections with one token, or with tokens of one subject, at the same time.
    pub connections_per_token_max: u32,
    /// Joins with one token in its life.
    pub joins_per_token_max: u32,
    /// Messages of all connections with one token in a burst, signals counted.
    pub messages_per_token_burst: u32,
    /// Messages of all connections with one token in a second beyond the burst, signals counted.
    pub messages_per_token_per_s: u32,
    /// Bytes that one connection may send in a burst. A frame counts at least 128.
    pub bytes_burst: u32,
    /// Bytes that one connection may send in a second beyond the burst.
    pub bytes_per_s: u32,
    /// Bytes that all connections of one address may send in a burst.
    pub bytes_per_address_burst: u32,
    /// Bytes that all connections of one address may send in a second beyond the burst.
    pub bytes_per_address_per_s: u32,
    /// Messages of one connection in a burst, signals not counted. Pings and the parts of messages
    /// that come in several frames count too.
    pub messages_burst: u32,
    /// Messages of one connection in a second beyond the burst, signals not counted.
    pub messages_per_s: u32,
    /// Signals of one connection in a burst.
    pub signals_burst: u32,
    /// Signals of one connection in a second beyond the burst.
    pub signals_per_s: u32,
    /// Bytes that wait for a slow reader. Above half of it signals are dropped; when it is full the
    /// connection is closed.
    pub queue_bytes_max: u32,
    /// Bytes that wait for all slow readers of one address, in the same way.
    pub queue_bytes_per_address_max: u32,
    /// Connections at the same time that are no viewer's, or not yet; more wait to be accepted.
    pub requests_max: u32,
    /// Such connections of one address (IPv6: of one /64); more are closed. Those of trusted proxies
    /// are not counted.
    pub requests_per_address_max: u32,
    /// For the head of an HTTP request, in milliseconds.
    pub request_head_ms: u32,
    /// For a connection that does not become a viewer's, in milliseconds, whatever it asks.
    pub request_ms: u32,
    /// From the WebSocket handshake to the join message, in milliseconds. WebTorrent clients have three
    /// times as long to get into a swarm.
    pub join_ms: u32,
    /// A silent connection is pinged after this time, in milliseconds; one that is silent for three
    /// times as long is closed.
    pub ping_ms: u32,
    /// Earliest return of viewers after a shutdown, in milliseconds.
    pub reconnect_after_ms: u32,
    /// Random time on top of it, in milliseconds.
    pub reconnect_jitter_ms: u32,
    /// For open connections when the tracker is told to stop, in milliseconds.
    pub drain_ms: u32,
}

/// The documented default settings, as TOML.
pub const fn default_config() -> &'static str {
    include_str!("../default.toml")
}

impl Config {
    /// Reads settings; what is left out has its default.
    ///
    /// # Errors
    /// [`Error::Config`] names what is wrong.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|e| Error::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// [`Error::Config`] names what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        let swarm = &self.swarm;
        if self.paths.iter().any(|path| !path.starts_with('/')) {
            return wrong("paths must begin with /");
        }
        self.check_secrets()?;
        if swarm.group_thin >= swarm.group_target || swarm.group_target > swarm.group_max {
            return wrong("swarm: group_thin < group_target <= group_max must hold");
        }
        if usize::from(swarm.group_max) > 64
            || usize::from(swarm.links_target) > limits::NEIGHBOURS_MAX
        {
            return wrong("swarm: group_max must not exceed 64, links_target not 32");
        }
        if u64::from(swarm.silence_ms_max) < 2 * u64::from(swarm.status_interval_ms) {
            return wrong("swarm.silence_ms_max must be at least twice swarm.status_interval_ms");
        }
        if swarm.status_interval_ms == 0 || self.limits.ping_ms == 0 {
            return wrong("swarm.status_interval_ms and limits.ping_ms must not be 0");
        }
        if (self.limits.queue_bytes_max as usize) < 2 * limits::TRACKER_FRAME_LEN_MAX {
            return wrong("limits.queue_bytes_max must be at least 16384");
        }
        if self.limits.queue_bytes_per_address_max < self.limits.queue_bytes_max {
            return wrong(
                "limits.queue_bytes_per_address_max must not be less than limits.queue_bytes_max",
            );
        }
        let longest = self
            .webtorrent
            .message_bytes_max
            .max(limits::TRACKER_FRAME_LEN_MAX as u32);
        if self
            .limits
            .bytes_burst
            .min(self.limits.bytes_per_address_burst)
            < longest
        {
            return wrong(
                "limits.bytes_burst and limits.bytes_per_address_burst must have room for a message",
            );
        }
        if self.limits.requests_max == 0 || self.limits.requests_per_address_max == 0 {
            return wrong("limits.requests_max and limits.requests_per_address_max must not be 0");
        }
        if self.limits.connections_max == 0 || self.limits.joins_burst == 0 {
            return wrong("limits.connections_max and limits.joins_burst must not be 0");
        }
        let too_long = |address: &String| address.len() > limits::TEXT_LEN_MAX;
        if self.stun.advertise.len() > limits::STUN_MAX || self.stun.advertise.iter().any(too_long)
        {
            return wrong("stun.advertise: at most 4 addresses of 256 bytes");
        }
        self.relay.check()?;
        self.drain.check()?;
        self.cluster.check(self.name_key.is_some())?;
        self.webhooks.check()?;
        if self.reload_ms == 0 {
            return wrong("reload_ms must not be 0");
        }
        if self.privacy.countries.iter().any(|c| !is_country(c)) {
            return wrong("privacy.countries must be two capital letters each");
        }
        self.webtorrent.check()?;
        self.networks.iter().try_for_each(NetworkConfig::check)
    }

    /// Secrets that let everybody in, or nobody.
    fn check_secrets(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.into()));
        let is_empty = |secret: &Option<String>| secret.as_deref() == Some("");
        if is_empty(&self.join_token) || is_empty(&self.admin_token) {
            return wrong("join_token and admin_token must not be empty: leave them out");
        }
        if self.join_token.is_some() && self.tokens.keys.is_some() {
            return wrong(
                "join_token and tokens.keys are looked for in the same place: nobody could bring both",
            );
        }
        Ok(())
    }

    /// The list of streams that are served.
    pub(crate) fn open_streams(&self, reloader: &mut Reloader) -> Result<Listed<StreamId>, Error> {
        let (listed, file) = (&self.streams, self.streams_file.as_ref());
        Listed::open("streams", listed, file, stream_of, reloader)
    }

    /// The directory's policy.
    pub(crate) fn policy(&self) -> Policy {
        let swarm = &self.swarm;
        Policy {
            viewers_max: if self.cluster.is_on() {
                self.cluster.viewers_max
            } else {
                self.limits.connections_max
            },
            links_target: swarm.links_target,
            group_target: swarm.group_target,
            group_max: swarm.group_max,
            group_thin: swarm.group_thin,
            status_interval_ms: swarm.status_interval_ms,
            silence_ms_max: swarm.silence_ms_max,
            linger_ms: swarm.linger_ms,
            introductions_burst: swarm.introductions_burst,
            introductions_per_hour: swarm.introductions_per_hour,
            address_introductions_burst: swarm.address_introductions_burst,
            address_introductions_per_hour: swarm.address_introductions_per_hour,
            viewers_min: self.privacy.viewers_min,
            metro_km: swarm.metro_km,
            ..Policy::default()
        }
    }
}

/// Reads a stream as operators write it: 32 hexadecimal digits, or `KEY/NAME`.
fn stream_of(text: &str) -> Option<StreamId> {
    let Some((key, name)) = text.split_once('/') else {
        return StreamId::from_hex(text);
    };
    let key = URL_SAFE_NO_PAD.decode(key).ok()?.try_into().ok()?;
    Some(StreamId::of(&key, name))
}

fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
}

impl NetworkConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("networks {:?}: {what}", self.cidrs)));
        if self.cidrs.is_empty() {
            return wrong("cidrs must not be empty");
        }
        if self.country.as_deref().is_some_and(|c| !is_country(c)) {
            return wrong("country must be two capital letters");
        }
        let within = |degrees: Option<f64>, max: f64| degrees.is_none_or(|d| d.abs() <= max);
        if !within(self.latitude, 90.0) || !within(self.longitude, 180.0) {
            return wrong("latitude or longitude is out of range");
        }
        if self.latitude.is_some() != self.longitude.is_some() {
            return wrong("set latitude and longitude, or neither");
        }
        Ok(())
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            cidrs: Vec::new(),
            asn: None,
            isp: None,
            country: None,
            latitude: None,
            longitude: None,
            site: None,
            label: None,
            p2p: P2pMode::On,
            wan: true,
            relay: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8083)),
            paths: vec!["/".into(), "/shoal".into()],
            streams: Vec::new(),
            streams_file: None,
            origins: Vec::new(),
            origin_needed: false,
            trusted_proxies: Vec::new(),
            address_header: AddressHeader::default(),
            proxy_protocol: false,
            reload_ms: 5_000,
            join_token: None,
            name_key: None,
            public_api: false,
            admin_token: None,
            databases: Vec::new(),
            subnets: None,
            fake_networks: false,
            networks: Vec::new(),
            tokens: TokensConfig::default(),
            permission: PermissionConfig::default(),
            tls: TlsConfig::default(),
            privacy: PrivacyConfig::default(),
            stun: StunConfig::default(),
            relay: RelayConfig::default(),
            swarm: SwarmConfig::default(),
            webtorrent: WebTorrentConfig::default(),
            limits: LimitsConfig::default(),
            drain: DrainConfig::default(),
            cluster: ClusterConfig::default(),
            webhooks: WebhooksConfig::default(),
        }
    }
}

impl Default for StunConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([0, 0, 0, 0], 3478))),
            advertise: Vec::new(),
            answers_per_s: 20_000,
        }
    }
}

impl Default for SwarmConfig {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            links_target: policy.links_target,
            group_target: policy.group_target,
            group_max: policy.group_max,
            group_thin: policy.group_thin,
            status_interval_ms: policy.status_interval_ms,
            silence_ms_max: policy.silence_ms_max,
            linger_ms: policy.linger_ms,
            introductions_burst: policy.introductions_burst,
            introductions_per_hour: policy.introductions_per_hour,
            address_introductions_burst: policy.address_introductions_burst,
            address_introductions_per_hour: policy.address_introductions_per_hour,
            metro_km: policy.metro_km,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_address_max: 1_000,
            joins_burst: 500,
            joins_per_s: 50,
            connections_per_token_max: 10,
            joins_per_token_max: 100,
            messages_per_token_burst: 4_000,
            messages_per_token_per_s: 150,
            bytes_burst: 4 << 20,
            bytes_per_s: 128 << 10,
            bytes_per_address_burst: 64 << 20,
            bytes_per_address_per_s: 4 << 20,
            messages_burst: 200,
            messages_per_s: 10,
            signals_burst: 600,
            signals_per_s: 50,
            queue_bytes_max: 65_536,
            queue_bytes_per_address_max: 4 << 20,
            requests_max: 16_384,
            requests_per_address_max: 256,
            request_head_ms: 10_000,
            request_ms: 60_000,
            join_ms: 10_000,
            ping_ms: 25_000,
            reconnect_after_ms: 500,
            reconnect_jitter_ms: 4_000,
            drain_ms: 3_000,
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

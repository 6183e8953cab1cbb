//! Settings of an agent. The comments are the operator's manual; `default.toml` says the same to
//! those who ask for it with `--print-config`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use swarm_core::limits::TOKEN_LEN_MAX;
use url::Url;

use crate::error::ConfigError;
use crate::fault::Misbehaviour;
use crate::rtc::IceServer;

/// Entries of `ice_servers`.
const ICE_SERVERS_MAX: usize = 16;
/// Smallest store that can hold what the swarm core keeps of a stream, in bytes.
const STORE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Longest `progressive_ms`: longer than the segments of live streams.
const PROGRESSIVE_MS_MAX: u32 = 10_000;

/// Settings of an [`crate::Agent`]. Only `stream` must be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The HLS playlist or DASH manifest, as on the CDN. Everything on this host is served by the
    /// endpoint under the same path.
    pub stream: String,
    /// The tracker's WebSocket, `ws://` or `wss://`. Empty: no peers, the CDN alone.
    pub tracker: String,
    /// What entitles this viewer to join; the tracker checks it. Empty where it asks for nothing.
    pub token: String,
    /// Where players on this machine find the stream. Port 0 takes any free port. Everybody who
    /// reaches this address can watch: keep it on the loopback address.
    pub listen: SocketAddr,
    /// Ed25519 public keys that may sign the stream's segments, in base64url (as `shoal keygen`
    /// prints them) or as 64 hexadecimal digits.
    pub public_keys: Vec<String>,
    /// Whether to take keys also from `/.shoal/streams` on the CDN, which is as trustworthy as the
    /// CDN's TLS. Without it and without `public_keys` nothing is shared.
    pub trust_cdn: bool,
    /// Whether to use peers. Without it the agent only passes on what the CDN has.
    pub p2p: bool,
    /// Take from peers, give nothing: for metered connections.
    pub leech: bool,
    /// Most that is uploaded to peers, in bit/s. 0: nothing.
    pub upload_bps_max: u64,
    /// Most bytes of segments kept in memory.
    pub store_bytes_max: u64,
    /// Local addresses for WebRTC; an unspecified address stands for all of its family.
    pub bind_ips: Vec<IpAddr>,
    /// STUN and TURN servers beside those that the tracker names; at most 16, with URLs that begin
    /// with `stun:` or `turn:`.
    pub ice_servers: Vec<IceServer>,
    /// Whether links use relays (TURN) alone, so that neighbours do not learn this viewer's address.
    /// Without a relay there are no links.
    pub relay_only: bool,
    /// Whether the person has agreed to peers. Left out: nobody was asked, and the tracker decides
    /// whether that is enough. `false`: no peers, until [`crate::Agent::set_consent`] says otherwise.
    pub consent: Option<bool>,
    /// Most stripes that one segment is fetched in; 1 where the CDN does not cache ranges.
    pub stripes_max: u8,
    /// Whether deliveries from peers are slowed down to the bandwidth that the player should
    /// believe in. Without it, players with an ABR logic of their own may choose a rendition that
    /// the CDN cannot sustain.
    pub pace: bool,
    /// Media that the player takes at a time while a segment arrives, in milliseconds; at most 10000.
    /// It then gets verified pieces in order as they come, the swarm has until the moment of each piece
    /// to bring it, which helps at low latency. 500 for players that play what has arrived, as ffmpeg
    /// does. 0 for players that need whole segments, which is safe for all.
    pub progressive_ms: u32,
    /// How long to wait for a TCP and TLS connection to the CDN, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long the CDN may take to begin its answer, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// How long the CDN may pause within an answer, in milliseconds.
    pub stall_timeout_ms: u64,
    /// Marks this viewer as a machine in the tracker's statistics; for load tests.
    pub synthetic: bool,
    /// For tests of the swarm's defences only: how this agent cheats its neighbours.
    pub misbehaviour: Option<Misbehaviour>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream: String::new(),
            tracker: String::new(),
            token: String::new(),
            listen: (Ipv4Addr::LOCALHOST, 8088).into(),
            public_keys: Vec::new(),
            trust_cdn: true,
            p2p: true,
            leech: false,
            upload_bps_max: 10_000_000,
            store_bytes_max: 256 * 1024 * 1024,
            bind_ips: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            ice_servers: Vec::new(),
            relay_only: false,
            consent: None,
            stripes_max: 8,
            pace: true,
            progressive_ms: 0,
            connect_timeout_ms: 4_000,
            first_byte_timeout_ms: 6_000,
            stall_timeout_ms: 6_000,
            synthetic: false,
            misbehaviour: None,
        }
    }
}

/// The default configuration as TOML, every setting explained.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// A configuration whose values make sense, in the types that the agent works with.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) stream: Url,
    pub(crate) tracker: Option<Url>,
    pub(crate) keys: Vec<[u8; 32]>,
    pub(crate) timeouts: Timeouts,
    pub(crate) config: Config,
}

/// Patience with the CDN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) stall: Duration,
}

impl Config {
    /// Checks everything that can be checked without the network.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting at fault.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.checked().map(drop)
    }

    pub(crate) fn checked(&self) -> Result<Checked, ConfigError> {
        let keys = self.public_keys.iter().map(|text| parse_key(text));
        if self.token.len() > TOKEN_LEN_MAX {
            return Err(ConfigError::TokenTooLong(self.token.len()));
        }
        if self.store_bytes_max < STORE_BYTES_MIN {
            return Err(ConfigError::StoreTooSmall(
                self.store_bytes_max,
                STORE_BYTES_MIN,
            ));
        }
        if self.bind_ips.is_empty() {
            return Err(ConfigError::NoBindIp);
        }
        if self.progressive_ms > PROGRESSIVE_MS_MAX {
            let (given, most) = (self.progressive_ms, PROGRESSIVE_MS_MAX);
            return Err(ConfigError::Progressive(given, most));
        }
        check_ice_servers(&self.ice_servers)?;
        Ok(Checked {
            stream: parse_url("stream", &self.stream, &["http", "https"])?,
            tracker: match self.tracker.as_str() {
                "" => None,
                text => Some(parse_url("tracker", text, &["ws", "wss"])?),
            },
            keys: keys.collect::<Result<_, _>>()?,
            timeouts: Timeouts {
                connect: timeout("connect_timeout_ms", self.connect_timeout_ms)?,
                first_byte: timeout("first_byte_timeout_ms", self.first_byte_timeout_ms)?,
                stall: timeout("stall_timeout_ms", self.stall_timeout_ms)?,
            },
            config: self.clone(),
        })
    }
}

/// An Ed25519 public key in hexadecimal or base64url without padding.
pub(crate) fn parse_key(text: &str) -> Result<[u8; 32], ConfigError> {
    let bytes = match text.trim() {
        digits if digits.len() == 64 => hex::decode(digits).ok(),
        text => URL_SAFE_NO_PAD.decode(text).ok(),
    };
    let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    key.ok_or_else(|| ConfigError::Key(text.into()))
}

fn parse_url(setting: &'static str, text: &str, schemes: &[&str]) -> Result<Url, ConfigError> {
    let bad = || ConfigError::Url {
        setting,
        text: text.into(),
        schemes: schemes.join(" or "),
    };
    let url = Url::parse(text).map_err(|_| bad())?;
    let usable = schemes.contains(&url.scheme()) && url.host().is_some();
    if usable { Ok(url) } else { Err(bad()) }
}

fn check_ice_servers(servers: &[IceServer]) -> Result<(), ConfigError> {
    let known = |url: &&String| {
        ["stun:", "turn:", "turns:"]
            .iter()
            .any(|s| url.starts_with(s))
    };
    let mut urls = servers.iter().flat_map(|server| &server.urls);
    match urls.find(|url| !known(url)) {
        Some(url) => Err(ConfigError::IceServer(url.clone())),
        None if servers.len() > ICE_SERVERS_MAX => {
            Err(ConfigError::TooManyIceServers(ICE_SERVERS_MAX))
        }
        None => Ok(()),
    }
}

fn timeout(setting: &'static str, millis: u64) -> Result<Duration, ConfigError> {
    if (100..=120_000).contains(&millis) {
        Ok(Duration::from_millis(millis))
    } else {
        Err(ConfigError::Timeout { setting, millis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_is_the_default() {
        let printed: Config = toml::from_str(DEFAULT_TOML).unwrap();
        assert_eq!(printed, Config::default());
        let settings: toml::Table = toml::from_str(DEFAULT_TOML).unwrap();
        let all = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(
            settings.keys().collect::<Vec<_>>(),
            all.keys().collect::<Vec<_>>()
        );
    }

    #[test]
    fn mistakes_name_their_setting() {
        let good = Config {
            stream: "http://127.0.0.1/a.m3u8".into(),
            ..Config::default()
        };
        assert_eq!(good.check(), Ok(()));
        let message = |config: Config| config.check().unwrap_err().to_string();
        assert!(message(Config::default()).contains("`stream`"));
        assert!(
            message(Config {
                tracker: "http://x".into(),
                ..good.clone()
            })
            .contains("`tracker`")
        );
        assert!(
            message(Config {
                public_keys: vec!["12".into()],
                ..good.clone()
            })
            .contains("12")
        );
        assert!(
            message(Config {
                stall_timeout_ms: 0,
                ..good.clone()
            })
            .contains("stall_timeout")
        );
        assert!(
            message(Config {
                store_bytes_max: 1,
                ..good.clone()
            })
            .contains("store_bytes_max")
        );
        let server = IceServer {
            urls: vec!["http://turn.example".into()],
            ..IceServer::default()
        };
        assert!(
            message(Config {
                progressive_ms: PROGRESSIVE_MS_MAX + 1,
                ..good.clone()
            })
            .contains("`progressive_ms`")
        );
        assert!(
            message(Config {
                ice_servers: vec![server],
                ..good.clone()
            })
            .contains("`ice_servers`")
        );
        assert!(
            message(Config {
                token: "x".repeat(5000),
                ..good
            })
            .contains("`token`")
        );
    }
}

//! The cluster's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swarm_core::wire::tracker::is_place;

use super::members::NAME_LEN_MAX;
use crate::Error;

/// Several nodes that act as one tracker. Without servers there is one node and no cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// NATS servers of one NATS cluster, such as `nats://10.0.0.1:4222`; `tls://` for TLS. A user
    /// and password, or a token, may stand before an `@`, the same in all addresses that have one, and
    /// percent-encoded.
    pub servers: Vec<String>,
    /// A NATS credentials file: a user's JWT and the seed of its key.
    pub credentials: Option<PathBuf>,
    /// Those who vouch for the NATS servers' certificates, PEM, in the place of the system's roots. With
    /// them there is no connection without TLS.
    pub authorities: Option<PathBuf>,
    /// The node's certificate, for NATS servers that ask for one, PEM. With it there is no connection
    /// without TLS.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// What the cluster's subjects begin with; different clusters may share NATS servers.
    pub subject: String,
    /// The node's name on the dashboard; a random one without it.
    pub name: String,
    /// Where viewers reach this node, past any load balancer, as `ws://` or `wss://`: other nodes send
    /// their viewers there when they stop. Empty: they do not.
    pub url: String,
    /// How often a node shows that it lives, in milliseconds.
    pub heartbeat_ms: u32,
    /// A node that is not heard for this long is lost, in milliseconds.
    pub lost_after_ms: u32,
    /// Viewers, over the streams that one node owns.
    pub viewers_max: u32,
    /// A stream with more viewers has one owner for each region.
    pub split_above: u32,
    /// What a region is.
    pub split_by: SplitBy,
}

/// What the viewers of one region share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// The country.
    #[default]
    Country,
    /// The country and the ISP.
    Isp,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            credentials: None,
            authorities: None,
            certificate: None,
            key: None,
            subject: "shoal".into(),
            name: String::new(),
            url: String::new(),
            heartbeat_ms: 1_000,
            lost_after_ms: 4_000,
            viewers_max: 1_000_000,
            split_above: 200_000,
            split_by: SplitBy::Country,
        }
    }
}

impl ClusterConfig {
    /// Whether there may be other nodes.
    pub fn is_on(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Whether the settings make sense together. `named` says whether there is a `name_key`.
    pub(crate) fn check(&self, named: bool) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(format!("cluster.{what}")));
        if self.is_on() && !named {
            return wrong("servers need a name_key, the same on all nodes");
        }
        if self.certificate.is_some() != self.key.is_some() {
            return wrong("certificate and key must both be set, or neither");
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        let dots = self.subject.split('.').any(str::is_empty);
        if !self.subject.bytes().all(plain) || dots {
            return wrong("subject must be words of a-z, 0-9, - and _, joined by dots");
        }
        if self.name.len() > NAME_LEN_MAX {
            return wrong("name must not exceed 64 bytes");
        }
        if !self.url.is_empty() && !is_place(&self.url) {
            return wrong("url must be ws:// or wss:// and a host, at most 256 bytes");
        }
        if self.heartbeat_ms == 0 || self.lost_after_ms / 2 < self.heartbeat_ms {
            return wrong("lost_after_ms must be at least twice heartbeat_ms, which is not 0");
        }
        if self.viewers_max == 0 || self.split_above < 2 {
            return wrong("viewers_max must not be 0, split_above at least 2");
        }
        Ok(())
    }
}

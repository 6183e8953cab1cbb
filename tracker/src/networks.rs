//! What is known of a viewer's network: the operator's rules before MMDB databases.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use maxminddb::Reader;
use serde::Deserialize;
use swarm_core::directory::{self, Network};

use crate::{
    Error,
    config::{Config, NetworkConfig, P2pMode},
    fake,
    quota::household_key,
};

/// A network, and its ISP's name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub(crate) network: Network,
    pub(crate) isp: Option<String>,
}

/// Looks addresses up.
pub(crate) struct Networks {
    rules: Vec<NetworkConfig>,
    /// Index of the rule by its network.
    by_cidr: HashMap<IpNet, usize>,
    /// Prefix lengths in use, the longest first: of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
    sites: BTreeMap<String, u32>,
    asn: Option<Reader<Vec<u8>>>,
    geo: Option<Reader<Vec<u8>>>,
}

/// The fields of the usual databases, in MaxMind's and in flat form.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AsnRecord {
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GeoRecord {
    country: Option<Country>,
    country_code: Option<String>,
    location: Option<Point>,
    latitude: Option<f64>,
    longitude: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Country {
    iso_code: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Point {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl Networks {
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let mut by_cidr = HashMap::new();
        let mut lengths = [Vec::new(), Vec::new()];
        let mut sites = BTreeMap::new();
        for (index, rule) in config.networks.iter().enumerate() {
            for cidr in &rule.cidrs {
                by_cidr.insert(cidr.trunc(), index);
                lengths[family(cidr.addr())].push(cidr.prefix_len());
            }
            if let Some(site) = &rule.site {
                let next = sites.len() as u32 + 1;
                sites.entry(site.clone()).or_insert(next);
            }
        }
        for lengths in &mut lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        Ok(Self {
            rules: config.networks.clone(),
            by_cidr,
            lengths,
            sites,
            asn: config.asn_database.as_deref().map(open).transpose()?,
            geo: config.geo_database.as_deref().map(open).transpose()?,
        })
    }

    /// What is known of `address`. What is broken in a database counts as not known.
    pub(crate) fn find(&self, address: IpAddr) -> Found {
        let address = address.to_canonical();
        let mut found = Found::default();
        found.network.address = household_key(address);
        if let Some(record) = look_up::<AsnRecord>(self.asn.as_ref(), address) {
            found.network.asn = record.autonomous_system_number.unwrap_or(0);
            found.isp = record.autonomous_system_organization;
        }
        if let Some(record) = look_up::<GeoRecord>(self.geo.as_ref(), address) {
            record.apply(&mut found.network);
        }
        if let Some(rule) = self.rule_for(address) {
            self.apply_rule(rule, &mut found);
        }
        found
    }

    fn rule_for(&self, address: IpAddr) -> Option<&NetworkConfig> {
        let lengths = &self.lengths[family(address)];
        let index = lengths.iter().find_map(|length| {
            let cidr = IpNet::new(address, *length).ok()?.trunc();
            self.by_cidr.get(&cidr)
        })?;
        self.rules.get(*index)
    }

    fn apply_rule(&self, rule: &NetworkConfig, found: &mut Found) {
        let network = &mut found.network;
        network.asn = rule.asn.unwrap_or(network.asn);
        if let Some(country) = &rule.country {
            network.country = letters(country);
        }
        if let (Some(latitude), Some(longitude)) = (rule.latitude, rule.longitude) {
            network.location = Some(fake::location(latitude, longitude));
        }
        let site = rule.site.as_ref().and_then(|site| self.sites.get(site));
        network.site = site.copied();
        network.mode = match rule.p2p {
            P2pMode::On => directory::P2pMode::On,
            P2pMode::Off => directory::P2pMode::Off,
            P2pMode::Leech => directory::P2pMode::Leech,
        };
        if rule.isp.is_some() {
            found.isp.clone_from(&rule.isp);
        }
    }
}

impl GeoRecord {
    fn apply(self, network: &mut Network) {
        let nested = self.country.and_then(|country| country.iso_code);
        if let Some(code) = nested.or(self.country_code) {
            network.country = letters(&code);
        }
        let point = self.location.unwrap_or_default();
        let latitude = point.latitude.or(self.latitude);
        let longitude = point.longitude.or(self.longitude);
        if let (Some(latitude), Some(longitude)) = (latitude, longitude) {
            network.location = Some(fake::location(latitude, longitude));
        }
    }
}

fn open(path: &Path) -> Result<Reader<Vec<u8>>, Error> {
    Reader::open_readfile(path).map_err(|source| Error::Database {
        path: path.into(),
        source,
    })
}

fn look_up<T: for<'a> Deserialize<'a>>(
    reader: Option<&Reader<Vec<u8>>>,
    address: IpAddr,
) -> Option<T> {
    reader?.lookup(address).ok()?.decode().ok()?
}

fn letters(code: &str) -> [u8; 2] {
    code.as_bytes().try_into().unwrap_or([0; 2])
}

const fn family(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_rule_counts_and_sites_are_shared() {
        let config = Config::from_toml(
            r#"
            [[networks]]
            cidrs = ["10.0.0.0/8", "2001:db8::/32"]
            asn = 1
            country = "DE"
            site = "office"
            [[networks]]
            cidrs = ["10.1.0.0/16"]
            asn = 2
            latitude = 52.5
            longitude = 13.4
            p2p = "leech"
            site = "office"
            "#,
        )
        .unwrap();
        let networks = Networks::open(&config).unwrap();
        let find = |text: &str| networks.find(text.parse().unwrap()).network;
        assert_eq!(
            (find("10.2.0.1").asn, find("10.2.0.1").country),
            (1, *b"DE")
        );
        assert_eq!(find("::ffff:10.2.0.1").asn, 1);
        assert_eq!(find("2001:db8::1").asn, 1);
        let inner = find("10.1.2.3");
        assert_eq!((inner.asn, inner.mode), (2, directory::P2pMode::Leech));
        assert_eq!(inner.location.map(|l| l.lat_centideg), Some(5250));
        assert_eq!(inner.site, find("10.2.0.1").site);
        assert_eq!(find("192.0.2.1").asn, 0);
    }
}

//! What is known of a viewer's network: the operator's rules before MMDB databases.
//!
//! Files are read again when they change, while the tracker runs.

pub(crate) mod databases;
pub(crate) mod subnets;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use swarm_core::directory::{self, Network};

use self::databases::Databases;
use crate::{
    Error,
    config::{Config, NetworkConfig, P2pMode},
    fake,
    quota::household_key,
    reload::{Live, Reloader},
};

/// A network, its ISP's name, and what the operator calls its site.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub(crate) network: Network,
    pub(crate) isp: Option<String>,
    pub(crate) label: Option<String>,
    /// Whether its viewers are told of relays.
    pub(crate) relay: bool,
}

/// Looks addresses up.
pub(crate) struct Networks {
    rules: Arc<Live<Rules>>,
    databases: Arc<Live<Databases>>,
}

impl Networks {
    pub(crate) fn open(config: &Config, reloader: &mut Reloader) -> Result<Self, Error> {
        let (written, table) = (config.networks.clone(), config.subnets.clone());
        let files: Vec<_> = table.iter().cloned().collect();
        let rules = Live::open("subnets", files, move || {
            let mut all = written.clone();
            if let Some(table) = &table {
                all.extend(subnets::read(table)?);
            }
            check_sites(&all)?;
            Ok(Rules::new(all))
        })?;
        let paths = config.databases.clone();
        let databases = Live::open("network databases", paths.clone(), move || {
            Databases::open(&paths)
        })?;
        let (rules, databases) = (Arc::new(rules), Arc::new(databases));
        reloader.add(Arc::clone(&rules) as _);
        reloader.add(Arc::clone(&databases) as _);
        Ok(Self { rules, databases })
    }

    /// What is known of `address`.
    pub(crate) fn find(&self, address: IpAddr) -> Found {
        let address = address.to_canonical();
        let mut found = Found::default();
        found.network.address = household_key(address);
        self.databases.get().find(address, &mut found);
        if let Some(rule) = self.rules.get().find(address) {
            apply_rule(rule, &mut found);
        }
        found
    }
}

/// The operator's rules, by prefix.
struct Rules {
    rules: Vec<NetworkConfig>,
    /// Index of the rule by its network. Of rules for the same network the last counts.
    by_cidr: HashMap<IpNet, usize>,
    /// Prefix lengths in use, the longest first: of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
}

impl Rules {
    fn new(rules: Vec<NetworkConfig>) -> Self {
        let mut by_cidr = HashMap::new();
        let mut lengths = [Vec::new(), Vec::new()];
        for (index, rule) in rules.iter().enumerate() {
            for cidr in &rule.cidrs {
                by_cidr.insert(cidr.trunc(), index);
                lengths[family(cidr.addr())].push(cidr.prefix_len());
            }
        }
        for lengths in &mut lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        Self {
            rules,
            by_cidr,
            lengths,
        }
    }

    /// The rule with the longest prefix.
    fn find(&self, address: IpAddr) -> Option<&NetworkConfig> {
        let lengths = &self.lengths[family(address)];
        let index = lengths.iter().find_map(|length| {
            let cidr = IpNet::new(address, *length).ok()?.trunc();
            self.by_cidr.get(&cidr)
        })?;
        self.rules.get(*index)
    }
}

fn apply_rule(rule: &NetworkConfig, found: &mut Found) {
    let network = &mut found.network;
    network.asn = rule.asn.unwrap_or(network.asn);
    if let Some(country) = &rule.country {
        network.country = letters(country);
    }
    if let (Some(latitude), Some(longitude)) = (rule.latitude, rule.longitude) {
        network.location = Some(fake::location(latitude, longitude));
    }
    network.site = rule.site.as_deref().map(site_id);
    network.local_only = !rule.wan;
    found.relay = rule.relay;
    network.mode = match rule.p2p {
        P2pMode::On => directory::P2pMode::On,
        P2pMode::Off => directory::P2pMode::Off,
        P2pMode::Leech => directory::P2pMode::Leech,
    };
    if rule.isp.is_some() {
        found.isp.clone_from(&rule.isp);
    }
    found.label.clone_from(if rule.label.is_some() {
        &rule.label
    } else {
        &rule.site
    });
}

/// The number that stands for a site: the same on every node and after every reload, and nothing
/// can be read from it.
fn site_id(name: &str) -> u32 {
    let digest = Sha256::digest(name.as_bytes());
    // 0 stands for none on the way between nodes.
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}

/// Whether no two sites have the same number: their viewers would be taken for neighbours, and kept
/// together where they are to stay apart.
fn check_sites(rules: &[NetworkConfig]) -> Result<(), Error> {
    let mut names = HashMap::new();
    for name in rules.iter().filter_map(|rule| rule.site.as_deref()) {
        let other = *names.entry(site_id(name)).or_insert(name);
        if other != name {
            return Err(Error::Config(format!(
                "the sites {other:?} and {name:?} cannot be told apart: rename one of them"
            )));
        }
    }
    Ok(())
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
    use std::fs;

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
            relay = true
            wan = false
            "#,
        )
        .unwrap();
        let networks = Networks::open(&config, &mut Reloader::default()).unwrap();
        let find = |text: &str| networks.find(text.parse().unwrap()).network;
        let outer = find("10.2.0.1");
        assert_eq!((outer.asn, outer.country), (1, *b"DE"));
        assert!(!outer.local_only);
        assert_eq!(find("::ffff:10.2.0.1").asn, 1);
        assert_eq!(find("2001:db8::1").asn, 1);
        let inner = find("10.1.2.3");
        assert_eq!((inner.asn, inner.mode), (2, directory::P2pMode::Leech));
        assert_eq!(inner.location.map(|l| l.lat_centideg), Some(5250));
        assert_eq!(inner.site, outer.site);
        assert!(inner.local_only);
        assert_eq!(find("192.0.2.1").asn, 0);
        let relay = |text: &str| networks.find(text.parse().unwrap()).relay;
        assert!(relay("10.1.2.3") && !relay("10.2.0.1") && !relay("192.0.2.1"));
    }

    #[test]
    fn sites_that_cannot_be_told_apart_are_named() {
        let mut names = HashMap::new();
        let (one, other) = (0_u32..)
            .find_map(|n| names.insert(site_id(&n.to_string()), n).zip(Some(n)))
            .unwrap();
        let rule = |site: u32| NetworkConfig {
            cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            site: Some(site.to_string()),
            ..NetworkConfig::default()
        };
        let open = |sites: [u32; 3]| {
            let networks = sites.map(rule).to_vec();
            let config = Config {
                networks,
                ..Config::default()
            };
            Networks::open(&config, &mut Reloader::default()).map(drop)
        };
        let error = open([one, one, other]).unwrap_err().to_string();
        for site in [one, other] {
            assert!(
                error.contains(&format!("{:?}", site.to_string())),
                "{error}"
            );
        }
        assert!(
            open([one, one, one]).is_ok(),
            "one site may have several rules"
        );
    }

    #[test]
    fn a_changed_table_counts_at_once_and_a_bad_one_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("subnets.csv");
        fs::write(&table, "group,cidrs,label\nhq,10.0.0.0/8,Head\n").unwrap();
        let config = Config {
            subnets: Some(table.clone()),
            ..Config::default()
        };
        let networks = Networks::open(&config, &mut Reloader::default()).unwrap();
        let find = || networks.find("10.1.2.3".parse().unwrap());
        let before = find();
        assert_eq!(before.label.as_deref(), Some("Head"));
        let more = "group,cidrs,label\nhq,10.0.0.0/8,Head\nlab,10.1.0.0/16,\n";
        fs::write(&table, more).unwrap();
        crate::reload::Refresh::refresh(&*networks.rules);
        let after = find();
        assert_eq!(after.label.as_deref(), Some("lab"), "the longer prefix");
        assert_ne!(after.network.site, before.network.site);
        fs::write(&table, "group,cidrs\nhq,all\n").unwrap();
        crate::reload::Refresh::refresh(&*networks.rules);
        assert_eq!(find(), after);
    }
}

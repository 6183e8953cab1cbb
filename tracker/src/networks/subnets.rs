//! The operator's table of subnets.
//!
//! CSV with a header line: `group,cidrs,p2p,wan,label,country,relay`. `group` and `cidrs` (separated by
//! spaces or semicolons) must be there, the rest may be empty or left out.

use std::{fs, net::IpAddr, path::Path};

use csv::{ReaderBuilder, StringRecord, Trim};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    Error,
    config::{NetworkConfig, P2pMode},
};

/// Largest file, in bytes, and most networks in it.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;
const CIDRS_MAX: usize = 200_000;
/// The columns, in any order.
const COLUMNS: [&str; 7] = ["group", "cidrs", "p2p", "wan", "label", "country", "relay"];

#[derive(Debug, Deserialize)]
struct Row {
    group: String,
    cidrs: String,
    #[serde(default)]
    p2p: String,
    #[serde(default)]
    wan: String,
    #[serde(default)]
    label: String,
    #[serde(default)]
    country: String,
    #[serde(default)]
    relay: String,
}

/// Reads the file as rules for networks. All of it must be right.
pub(super) fn read(path: &Path) -> Result<Vec<NetworkConfig>, Error> {
    let wrong = |why: String| Error::Config(format!("subnets {}: {why}", path.display()));
    let len = fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(wrong(format!("{len} bytes, at most {FILE_LEN_MAX}")));
    }
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    parse(&text).map_err(wrong)
}

/// Reads the table. All of it must be right.
pub(crate) fn parse(text: &str) -> Result<Vec<NetworkConfig>, String> {
    let mut reader = ReaderBuilder::new()
        .trim(Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let mut headers = reader.headers().map_err(|e| e.to_string())?.clone();
    headers = headers.iter().map(str::to_ascii_lowercase).collect();
    for name in &headers {
        if !COLUMNS.contains(&name) {
            return Err(format!("line 1: unknown column {name:?}"));
        }
    }
    let (mut rules, mut cidrs) = (Vec::new(), 0);
    for record in reader.into_records() {
        let record = record.map_err(|e| e.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let rule = rule_of(&record, &headers).map_err(|why| format!("line {line}: {why}"))?;
        cidrs += rule.cidrs.len();
        if cidrs > CIDRS_MAX {
            return Err(format!("line {line}: more than {CIDRS_MAX} networks"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule_of(record: &StringRecord, headers: &StringRecord) -> Result<NetworkConfig, String> {
    let row: Row = record
        .deserialize(Some(headers))
        .map_err(|e| e.to_string())?;
    if row.group.is_empty() {
        return Err("group must not be empty".into());
    }
    let cidrs: Vec<IpNet> = row
        .cidrs
        .split([' ', ';'])
        .filter(|text| !text.is_empty())
        .map(|text| cidr_of(text).ok_or_else(|| format!("{text:?} is no network")))
        .collect::<Result<_, _>>()?;
    let p2p = match row.p2p.to_ascii_lowercase().as_str() {
        "" | "on" => P2pMode::On,
        "off" => P2pMode::Off,
        "leech" => P2pMode::Leech,
        other => return Err(format!("p2p {other:?} is none of On, Off, Leech")),
    };
    let wan = switch("wan", &row.wan, true)?;
    let relay = switch("relay", &row.relay, false)?;
    let set = |text: String| (!text.is_empty()).then_some(text);
    let rule = NetworkConfig {
        cidrs,
        site: Some(row.group),
        p2p,
        wan,
        relay,
        label: set(row.label),
        country: set(row.country.to_ascii_uppercase()),
        ..NetworkConfig::default()
    };
    rule.check().map_err(|error| error.to_string())?;
    Ok(rule)
}

fn switch(column: &str, text: &str, unset: bool) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(unset),
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("{column} {other:?} is neither On nor Off")),
    }
}

/// A network, or a single address.
fn cidr_of(text: &str) -> Option<IpNet> {
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(single)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "\
        Group, CIDRs, P2P, WAN, Label, Country\n\
        # the headquarters\n\
        hq, 10.1.0.0/16; 2001:db8:1::/48 192.0.2.7, On, Off,\"Berlin, main house\", de\n\
        shops, 10.2.0.0/16, Leech, On, ,\n\
        vpn, 10.9.0.0/16, Off, , ,\n";

    #[test]
    fn the_columns_become_rules() {
        let rules = parse(TABLE).unwrap();
        let hq = &rules[0];
        assert_eq!(hq.site.as_deref(), Some("hq"));
        assert_eq!(hq.cidrs.len(), 3);
        assert_eq!((hq.p2p, hq.wan), (P2pMode::On, false));
        assert_eq!(hq.label.as_deref(), Some("Berlin, main house"));
        assert_eq!(hq.country.as_deref(), Some("DE"));
        assert_eq!((rules[1].p2p, rules[1].wan), (P2pMode::Leech, true));
        assert_eq!((rules[2].p2p, rules[2].label.clone()), (P2pMode::Off, None));
        assert_eq!(parse("group,cidrs\nx,10.0.0.0/8\n").unwrap().len(), 1);
        assert_eq!(parse("group,cidrs\n").unwrap(), []);
        let relayed = parse("group,relay,cidrs\nx,On,10.0.0.0/8\n").unwrap();
        assert!(relayed[0].relay && !hq.relay);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, named) in [
            ("group,cidrs,colour\n", "colour"),
            ("group\nx\n", "cidrs"),
            ("group,cidrs\na,10.0.0.0/8\nb,10.0.0.0/99\n", "line 3"),
            ("group,cidrs\n,10.0.0.0/8\n", "group"),
            ("group,cidrs\nx,\n", "cidrs"),
            ("group,cidrs,p2p\nx,10.0.0.0/8,perhaps\n", "perhaps"),
            ("group,cidrs,wan\nx,10.0.0.0/8,perhaps\n", "wan"),
            ("group,cidrs,relay\nx,10.0.0.0/8,perhaps\n", "relay"),
            ("group,cidrs,country\nx,10.0.0.0/8,Germany\n", "country"),
            ("group,cidrs\nx,10.0.0.0/8,more\n", "line: 2"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(group,cidrs,p2p,wan\n)?[a-z0-9.:/,;\"\n #]{0,200}") {
            let _ = parse(&text);
        }
    }
}

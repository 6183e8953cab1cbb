//! A viewer's address, behind trusted proxies or not.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Entries of a forwarding header that are looked at, from the right.
const HOPS_MAX: usize = 16;

/// Where trusted proxies write the address that a request comes from. The other header is not looked
/// at: a proxy that does not know it passes on what the viewer has written there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Neither.
    None,
}

/// What makes it doubtful that an address is the viewer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is a trusted proxy's, which names nobody.
    Unnamed,
    /// Its owner is no trusted proxy, and yet names somebody.
    Ignored,
}

/// The address of the viewer whose connection comes from `peer`. Headers count only as far as
/// trusted proxies vouch for them: from the right, the first address that is not a trusted proxy's.
pub fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
    written: AddressHeader,
) -> (IpAddr, Option<Doubt>) {
    let mut address = peer.to_canonical();
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    if !is_trusted(address) {
        let ignored = name_of(written).is_some_and(|name| headers.contains_key(name));
        return (address, ignored.then_some(Doubt::Ignored));
    }
    let mut doubt = Some(Doubt::Unnamed);
    for hop in hops(headers, written).into_iter().take(HOPS_MAX) {
        let Some(ip) = hop else {
            break;
        };
        (address, doubt) = (ip, None);
        if !is_trusted(ip) {
            break;
        }
    }
    (address, doubt)
}

const fn name_of(written: AddressHeader) -> Option<&'static str> {
    match written {
        AddressHeader::XForwardedFor => Some("x-forwarded-for"),
        AddressHeader::Forwarded => Some("forwarded"),
        AddressHeader::None => None,
    }
}

/// The addresses that the header names, the nearest first; `None` where one cannot be read.
fn hops(headers: &HeaderMap, written: AddressHeader) -> Vec<Option<IpAddr>> {
    let forwarded = written == AddressHeader::Forwarded;
    let lines: Vec<&str> = name_of(written).map_or_else(Vec::new, |name| text_of(headers, name));
    lines
        .iter()
        .flat_map(|line| line.split(','))
        .rev()
        .map(|entry| {
            let entry = entry.trim();
            let node = if forwarded {
                forwarded_for(entry)?
            } else {
                entry
            };
            address_of(node)
        })
        .collect()
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap_or("?")).collect()
}

/// The `for=` of one element of a Forwarded header (RFC 7239).
fn forwarded_for(element: &str) -> Option<&str> {
    let pair = |part: &'_ str| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(())?;
        Some(value.len())
    };
    for part in element.split(';') {
        if let Some(len) = pair(part) {
            return Some(part[part.len() - len..].trim().trim_matches('"'));
        }
    }
    None
}

/// An address with or without port and brackets.
fn address_of(node: &str) -> Option<IpAddr> {
    let plain = node.trim_start_matches('[').trim_end_matches(']');
    let ip = match plain.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => node.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_count_as_far_as_trusted_proxies_vouch() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        for (peer, name, value, expected) in [
            ("192.0.2.9", "x-forwarded-for", "198.51.100.1", "192.0.2.9"),
            (
                "10.0.0.1",
                "x-forwarded-for",
                "198.51.100.1",
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                "x-forwarded-for",
                "6.6.6.6, 198.51.100.1, 10.0.0.2",
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                "x-forwarded-for",
                "6.6.6.6, rubbish",
                "10.0.0.1",
            ),
            ("10.0.0.1", "x-forwarded-for", "10.0.0.7", "10.0.0.7"),
            (
                "10.0.0.1",
                "forwarded",
                "for=198.51.100.1;proto=https",
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                "forwarded",
                "for=1.1.1.1, For=\"[2001:db8::7]:4711\"",
                "2001:db8::7",
            ),
            ("10.0.0.1", "forwarded", "proto=https", "10.0.0.1"),
            (
                "::ffff:10.0.0.1",
                "x-forwarded-for",
                "198.51.100.1:99",
                "198.51.100.1",
            ),
            ("10.0.0.1", "x-other", "198.51.100.1", "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let written = match name {
                "forwarded" => AddressHeader::Forwarded,
                _ => AddressHeader::XForwardedFor,
            };
            let (got, _) = client_address(peer.parse().unwrap(), &headers, &trusted, written);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap(), "{peer} {value}");
        }
    }

    #[test]
    fn what_does_not_fit_the_settings_is_noticed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let (xff, none) = (AddressHeader::XForwardedFor, AddressHeader::None);
        for (peer, name, written, doubt) in [
            ("10.0.0.1", "x-forwarded-for", xff, None),
            ("10.0.0.1", "forwarded", xff, Some(Doubt::Unnamed)),
            ("10.0.0.1", "x-forwarded-for", none, Some(Doubt::Unnamed)),
            ("192.0.2.9", "x-forwarded-for", xff, Some(Doubt::Ignored)),
            ("192.0.2.9", "forwarded", xff, None),
            ("192.0.2.9", "x-forwarded-for", none, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, "198.51.100.1".parse().unwrap());
            let (_, got) = client_address(peer.parse().unwrap(), &headers, &trusted, written);
            assert_eq!(got, doubt, "{peer} {name}");
        }
    }

    #[test]
    fn repeated_headers_are_read_from_the_last() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6".parse().unwrap());
        headers.append("x-forwarded-for", "198.51.100.1".parse().unwrap());
        let peer = "10.0.0.1".parse().unwrap();
        let (got, _) = client_address(peer, &headers, &trusted, AddressHeader::XForwardedFor);
        assert_eq!(got, "198.51.100.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_header_that_the_proxy_does_not_write_is_not_looked_at() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", "for=6.6.6.6".parse().unwrap());
        headers.insert("x-forwarded-for", "198.51.100.1".parse().unwrap());
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (written, expected) in [
            (AddressHeader::XForwardedFor, "198.51.100.1"),
            (AddressHeader::Forwarded, "6.6.6.6"),
            (AddressHeader::None, "10.0.0.1"),
        ] {
            let (got, _) = client_address(peer, &headers, &trusted, written);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn what_a_viewer_writes_itself_is_never_reached() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (forged, written, added) in [
            ("6.6.6.6", AddressHeader::XForwardedFor, "198.51.100.1"),
            (
                "10.0.0.3, 6.6.6.6, 10.0.0.2",
                AddressHeader::XForwardedFor,
                "198.51.100.1",
            ),
            (",,,", AddressHeader::XForwardedFor, "198.51.100.1"),
            (
                "for=6.6.6.6;by=\"",
                AddressHeader::Forwarded,
                "for=198.51.100.1",
            ),
            (
                "for=\"[::1",
                AddressHeader::Forwarded,
                "for=\"198.51.100.1:80\"",
            ),
        ] {
            let name = if written == AddressHeader::Forwarded {
                "forwarded"
            } else {
                "x-forwarded-for"
            };
            let mut headers = HeaderMap::new();
            headers.insert(name, format!("{forged}, {added}").parse().unwrap());
            let (got, _) = client_address(peer, &headers, &trusted, written);
            assert_eq!(got, "198.51.100.1".parse::<IpAddr>().unwrap(), "{forged}");
        }
        let mut headers = HeaderMap::new();
        let own = ["10.0.0.9"; 1000].join(", ");
        headers.insert("x-forwarded-for", own.parse().unwrap());
        let (got, _) = client_address(peer, &headers, &trusted, AddressHeader::XForwardedFor);
        assert_eq!(got, "10.0.0.9".parse::<IpAddr>().unwrap(), "bounded work");
    }
}

//! A viewer's address, behind trusted proxies or not.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::FORWARDED};
use ipnet::IpNet;

/// Entries of a forwarding header that are looked at, from the right.
const HOPS_MAX: usize = 16;

/// The address of the viewer whose connection comes from `peer`. Headers count only as far as
/// trusted proxies vouch for them: from the right, the first address that is not a trusted proxy's.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    if !is_trusted(address) {
        return address;
    }
    for hop in hops(headers).into_iter().take(HOPS_MAX) {
        let Some(ip) = hop else {
            return address;
        };
        address = ip;
        if !is_trusted(ip) {
            return ip;
        }
    }
    address
}

/// The addresses that the headers name, the nearest first; `None` where one cannot be read.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let forwarded = headers.contains_key(FORWARDED);
    let lines: Vec<&str> = if forwarded {
        text_of(headers, FORWARDED.as_str())
    } else {
        text_of(headers, "x-forwarded-for")
    };
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
            let got = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap(), "{peer} {value}");
        }
    }

    #[test]
    fn repeated_headers_are_read_from_the_last() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6".parse().unwrap());
        headers.append("x-forwarded-for", "198.51.100.1".parse().unwrap());
        let got = client_address("10.0.0.1".parse().unwrap(), &headers, &trusted);
        assert_eq!(got, "198.51.100.1".parse::<IpAddr>().unwrap());
    }
}

//! A viewer's address, behind trusted proxies or not.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header::FORWARDED};
use ipnet::IpNet;

use crate::config::AddressHeader;

/// Entries of a forwarding header that are looked at, from the right.
const HOPS_MAX: usize = 16;

/// The address of the viewer whose connection comes from `peer`. Headers count only as far as
/// trusted proxies vouch for them: from the right, the first address that is not a trusted proxy's.
pub(crate) fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
    written: AddressHeader,
) -> IpAddr {
    let mut address = peer.to_canonical();
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    if !is_trusted(address) {
        return address;
    }
    for hop in hops(headers, written).into_iter().take(HOPS_MAX) {
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

/// The addresses that the header names, the nearest first; `None` where one cannot be read.
fn hops(headers: &HeaderMap, written: AddressHeader) -> Vec<Option<IpAddr>> {
    let forwarded = written == AddressHeader::Forwarded;
    let lines: Vec<&str> = match written {
        AddressHeader::XForwardedFor => text_of(headers, "x-forwarded-for"),
        AddressHeader::Forwarded => text_of(headers, FORWARDED.as_str()),
        AddressHeader::None => Vec::new(),
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
            let written = match name {
                "forwarded" => AddressHeader::Forwarded,
                _ => AddressHeader::XForwardedFor,
            };
            let got = client_address(peer.parse().unwrap(), &headers, &trusted, written);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap(), "{peer} {value}");
        }
    }

    #[test]
    fn repeated_headers_are_read_from_the_last() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6".parse().unwrap());
        headers.append("x-forwarded-for", "198.51.100.1".parse().unwrap());
        let peer = "10.0.0.1".parse().unwrap();
        let got = client_address(peer, &headers, &trusted, AddressHeader::XForwardedFor);
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
            let got = client_address(peer, &headers, &trusted, written);
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
            let got = client_address(peer, &headers, &trusted, written);
            assert_eq!(got, "198.51.100.1".parse::<IpAddr>().unwrap(), "{forged}");
        }
        let mut headers = HeaderMap::new();
        let own = ["10.0.0.9"; 1000].join(", ");
        headers.insert("x-forwarded-for", own.parse().unwrap());
        let got = client_address(peer, &headers, &trusted, AddressHeader::XForwardedFor);
        assert_eq!(got, "10.0.0.9".parse::<IpAddr>().unwrap(), "bounded work");
    }
}

//! What reads the bytes of strangers here, as one table: `tests/fuzz` runs one entry for hours, the
//! test below each for a moment.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
};

use callers::{AddressHeader, Header, client_address, parse_header};
use http::{HeaderMap, HeaderValue, Uri, header};
use ipnet::IpNet;

use crate::{
    admission::tokens,
    handshake::{host_of, token_of},
    networks::{databases, subnets},
    socket::frames::{Decoder, Violation},
    stun,
    webtorrent::messages,
};

pub use crate::{cluster::fuzzing::cluster, tls::fuzzing::tls_records};

/// Takes any bytes; panics where a promise is broken.
pub type EntryPoint = fn(&[u8]);

/// By the names of the fuzz targets.
pub const ALL: [(&str, EntryPoint); 12] = [
    ("frames", frames),
    ("webtorrent", webtorrent),
    ("proxy_header", proxy_header),
    ("forwarded", forwarded),
    ("subnet_table", subnet_table),
    ("token", token),
    ("token_keys", token_keys),
    ("cluster", cluster),
    ("stun", stun),
    ("databases", databases),
    ("tls_records", tls_records),
    ("handshake", handshake),
];

/// Largest message of the frames that are fuzzed, in bytes.
const MESSAGE_LEN_MAX: usize = 1000;

/// WebSocket frames: they say the same, however they arrive. The first byte is the step.
pub fn frames(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let read = |step: usize| {
        let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
        let mut end: Result<(), Violation> = Ok(());
        for piece in bytes.chunks(step) {
            let fed = decoder.feed(&mut piece.to_vec(), MESSAGE_LEN_MAX, &mut |frame| {
                heard.push(format!("{frame:?}"));
                ControlFlow::Continue(())
            });
            if let Err(violation) = fed {
                end = Err(violation);
                break;
            }
        }
        (heard, end)
    };
    assert_eq!(
        read(usize::from(*step).max(1)),
        read(bytes.len().max(1)),
        "in steps and at once"
    );
}

/// What WebTorrent clients say.
pub fn webtorrent(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        messages::assert_passes_json_on(text);
    }
}

/// The PROXY protocol: a header is as long as it says, and incomplete until it is whole.
pub fn proxy_header(bytes: &[u8]) {
    if let Header::Named(len, _) = parse_header(bytes) {
        assert!(len <= bytes.len());
        for cut in 0..len {
            assert_eq!(
                parse_header(&bytes[..cut]),
                Header::Partial,
                "{cut} of {len}"
            );
        }
    }
}

/// Forwarding headers, one a line: nobody but a trusted proxy is believed.
pub fn forwarded(bytes: &[u8]) {
    let trusted: Vec<IpNet> = vec![IpNet::from(IpAddr::from([10, 0, 0, 1]))];
    for (written, name) in [
        (AddressHeader::XForwardedFor, "x-forwarded-for"),
        (AddressHeader::Forwarded, "forwarded"),
        (AddressHeader::None, "x-forwarded-for"),
    ] {
        let values = bytes
            .split(|byte| *byte == b'\n')
            .map(HeaderValue::from_bytes);
        let headers: HeaderMap = values
            .flatten()
            .map(|value| (http::HeaderName::from_static(name), value))
            .collect();
        let stranger = IpAddr::from([192, 0, 2, 1]);
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let found = |peer| client_address(peer, &headers, &trusted, written).0;
        assert_eq!(found(stranger), stranger);
        let address = found(proxy);
        assert_eq!(address, address.to_canonical());
        assert!(written != AddressHeader::None || address == proxy);
    }
}

/// The operator's table of subnets: what is accepted can be used.
pub fn subnet_table(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(rules) = subnets::parse(text)
    {
        for rule in rules {
            assert!(rule.check().is_ok() && rule.site.is_some_and(|site| !site.is_empty()));
        }
    }
}

/// Tokens, as they come and as signed claims.
pub fn token(bytes: &[u8]) {
    tokens::assert_checked(bytes);
}

/// Files that the operator says are keys: none is both halves of a pair.
pub fn token_keys(bytes: &[u8]) {
    tokens::assert_one_half(bytes);
}

/// Datagrams to the STUN server: what is answered is a Binding request, the answer belongs to it, and has the
/// sender's address or says what was not understood (RFC 8489).
pub fn stun(bytes: &[u8]) {
    let Some((port, request)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let ip = match request.get(8..24).and_then(|ip| ip.try_into().ok()) {
        Some::<[u8; 16]>(ip) if port[0] & 1 == 1 => IpAddr::from(Ipv6Addr::from(ip)),
        _ => IpAddr::from([192, 0, 2, 1]),
    };
    let from = SocketAddr::new(ip, u16::from_be_bytes(*port));
    let Some(answer) = stun::answer(request, from) else {
        return;
    };
    assert_eq!(request[..2], [0, 1]);
    assert_eq!(answer[4..20], request[4..20]);
    let len = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
    assert!(len % 4 == 0 && answer.len() == 20 + len);
    // Nobody is made to send much more than was sent to us.
    assert!(answer.len() <= request.len() + 64);
    if answer[..2] == [1, 1] {
        assert_eq!(
            unmasked(&answer),
            SocketAddr::new(ip.to_canonical(), from.port())
        );
    } else {
        assert_eq!(answer[..2], [1, 0x11]);
        assert!(request.len() > 20);
    }
}

/// The address in an answer of the STUN server's that has nothing else in it (RFC 8489 section 14.2).
fn unmasked(answer: &[u8]) -> SocketAddr {
    let value = &answer[24..];
    let plain: Vec<u8> = value[4..]
        .iter()
        .zip(&answer[4..20])
        .map(|(a, b)| a ^ b)
        .collect();
    let ip = match (value[1], plain.len()) {
        (1, 4) => IpAddr::from(<[u8; 4]>::try_from(plain).unwrap()),
        (2, 16) => IpAddr::from(<[u8; 16]>::try_from(plain).unwrap()),
        other => panic!("{other:?}"),
    };
    let port = u16::from_be_bytes([value[2] ^ answer[4], value[3] ^ answer[5]]);
    SocketAddr::new(ip, port)
}

/// Databases of networks, as a torn download leaves them.
pub fn databases(bytes: &[u8]) {
    databases::assert_readable(bytes);
}

/// What stands in the head of a handshake: target and host, a line each.
pub fn handshake(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    if let Some(Ok(uri)) = lines.next().map(Uri::try_from)
        && let Some(token) = token_of(&uri)
    {
        assert!(token.len() <= swarm_core::limits::TOKEN_LEN_MAX);
        let query = uri.query().unwrap();
        assert!(token.contains('%') || query.contains('%') || query.contains(&*token));
    }
    if let Some(Ok(host)) = lines.next().map(HeaderValue::from_bytes) {
        let host = host_of(&HeaderMap::from_iter([(header::HOST, host)]));
        assert!(host.is_none_or(|host| !host.is_empty() && !host.contains(['/', '@'])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::Index};

    const RIGHT: [&[u8]; 13] = [
        b"\x03\x81\x85\x01\x02\x03\x04igoho\x89\x80\0\0\0\0",
        br#"{"action":"announce","info_hash":"aaaaaaaaaaaaaaaaaaaa","peer_id":"bbbbbbbbbbbbbbbbbbbb","offers":[{"offer_id":"cccccccccccccccccccc","offer":{"type":"offer","sdp":"v=0\r\n"}}]}"#,
        b"PROXY TCP4 198.51.100.7 10.0.0.1 12345 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x30\x39\x01\xbb",
        b"for=198.51.100.7;proto=https, for=\"[2001:db8::7]:1\"\n198.51.100.9",
        b"group,cidrs,p2p\noffice,10.0.0.0/8;fd00::/8,leech\n",
        br#"{"stream":"*","exp":1700000060,"ip":"192.0.2.0/24","p2p":"leech"}"#,
        b"\x03\x02\0\0\0\0\0\0\0\x09",
        b"\x03\x03\0\0\0\0\0\0\0\x04\x12\0\0\0\0\0\0\0\x08\0\0\0\x02\0\x05words",
        b"01\0\x01\0\x08\x21\x12\xa4\x42cccccccccccc\x80\x22\0\x01x\0\0\0",
        b"\x17words",
        b"/?token=a%2Bb&x=1\na.example:443",
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
    ];

    proptest! {
        #[test]
        fn no_change_of_something_right_breaks_an_entry_point(
            chosen in any::<Index>(),
            changes in vec((any::<Index>(), any::<u8>()), 0..4),
            cut in any::<Index>(),
        ) {
            let mut bytes = chosen.get(&RIGHT).to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for (_, enter) in ALL {
                enter(&bytes);
                enter(&bytes[..cut.index(bytes.len())]);
            }
        }
    }
}

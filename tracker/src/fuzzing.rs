//! What reads the bytes of strangers here, as one table: `tests/fuzz` runs one entry for hours, the
//! test below each for a moment.

use std::{net::IpAddr, ops::ControlFlow};

use callers::{AddressHeader, Header, client_address, parse_header};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::{
    admission::tokens,
    networks::subnets,
    socket::frames::{Decoder, Violation},
    webtorrent::messages,
};

/// Takes any bytes; panics where a promise is broken.
pub type EntryPoint = fn(&[u8]);

/// By the names of the fuzz targets.
pub const ALL: [(&str, EntryPoint); 6] = [
    ("frames", frames),
    ("webtorrent", webtorrent),
    ("proxy_header", proxy_header),
    ("forwarded", forwarded),
    ("subnet_table", subnet_table),
    ("token", token),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::Index};

    const RIGHT: [&[u8]; 7] = [
        b"\x03\x81\x85\x01\x02\x03\x04igoho\x89\x80\0\0\0\0",
        br#"{"action":"announce","info_hash":"aaaaaaaaaaaaaaaaaaaa","peer_id":"bbbbbbbbbbbbbbbbbbbb","offers":[{"offer_id":"cccccccccccccccccccc","offer":{"type":"offer","sdp":"v=0\r\n"}}]}"#,
        b"PROXY TCP4 198.51.100.7 10.0.0.1 12345 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x30\x39\x01\xbb",
        b"for=198.51.100.7;proto=https, for=\"[2001:db8::7]:1\"\n198.51.100.9",
        b"group,cidrs,p2p\noffice,10.0.0.0/8;fd00::/8,leech\n",
        br#"{"stream":"*","exp":1700000060,"ip":"192.0.2.0/24","p2p":"leech"}"#,
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

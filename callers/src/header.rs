//! The header of the PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte.

use std::{io, net::IpAddr};

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Longest header that is read, in bytes: one of version 2 has 52 with addresses, and what the proxy adds to it.
const HEADER_LEN_MAX: usize = 1024;
/// Longest header of version 1, its end included.
const V1_LEN_MAX: usize = 107;

/// Reads the header that `tcp` begins with; whom it names, if anybody. What comes behind it is left in the
/// socket. Waits without end: bounding it is the caller's.
///
/// # Errors
/// The proxy's: what it sends is no header or one over the limit, or the connection ends before it does.
pub(crate) async fn read_header(tcp: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut bytes = [0; HEADER_LEN_MAX];
    let mut taken = 0;
    loop {
        // What belongs to the header is known only once it is whole: until then nothing else is there.
        let seen = taken + tcp.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse_header(&bytes[..seen]) {
            Header::Named(len, address) => {
                // A header that was not whole before does not end before what was seen of it.
                let rest = bytes.get_mut(taken..len);
                let rest = rest.ok_or_else(|| bad("malformed PROXY header"))?;
                tcp.read_exact(rest).await?;
                return Ok(address);
            }
            Header::Bad => return Err(bad("malformed PROXY header")),
            Header::Partial if seen == HEADER_LEN_MAX => {
                return Err(bad("PROXY header over the limit"));
            }
            Header::Partial => {
                tcp.read_exact(&mut bytes[taken..seen]).await?;
                taken = seen;
            }
        }
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What bytes are that begin a connection of a proxy.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header.
    Partial,
    /// Nothing that can become one.
    Bad,
    /// Its length, and the address that it names; health checks of proxies name none.
    Named(usize, Option<IpAddr>),
}

/// Reads a header of the PROXY protocol, of either version.
pub fn parse_header(bytes: &[u8]) -> Header {
    let bytes = if bytes.starts_with(&v2::PROTOCOL_PREFIX[..bytes.len().min(12)]) {
        bytes
    } else {
        // The library takes the length of a version 1 header from what is in it.
        let line = &bytes[..bytes.len().min(V1_LEN_MAX)];
        match line.windows(2).position(|end| end == b"\r\n") {
            Some(at) => &bytes[..at + 2],
            None if line.len() < V1_LEN_MAX && starts_alike(line, b"PROXY ") => {
                return Header::Partial;
            }
            None => return Header::Bad,
        }
    };
    let header = HeaderResult::parse(bytes);
    if matches!(&header, HeaderResult::V1(Err(_))) {
        return Header::Bad;
    }
    if header.is_incomplete() {
        return Header::Partial;
    }
    match header {
        HeaderResult::V1(Ok(header)) => {
            let address = match header.addresses {
                v1::Addresses::Tcp4(ip) => Some(IpAddr::V4(ip.source_address)),
                v1::Addresses::Tcp6(ip) => Some(IpAddr::V6(ip.source_address)),
                v1::Addresses::Unknown => None,
            };
            Header::Named(header.header.len(), address.map(|a| a.to_canonical()))
        }
        HeaderResult::V2(Ok(header)) => {
            let address = match (header.command, header.addresses) {
                (v2::Command::Local, _) => None,
                (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(ip.source_address.into()),
                (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(ip.source_address.into()),
                (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            };
            Header::Named(header.len(), address.map(|a: IpAddr| a.to_canonical()))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Header::Bad,
    }
}

/// Whether one is the beginning of the other.
fn starts_alike(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V2: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x30\x39\x01\xbb";
    const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

    #[test]
    fn both_versions_are_read_however_they_arrive() {
        let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".as_slice();
        let unknown = b"PROXY UNKNOWN\r\n".as_slice();
        for (header, address) in [
            (
                b"PROXY TCP4 198.51.100.7 10.0.0.1 12345 443\r\n".as_slice(),
                Some("198.51.100.7"),
            ),
            (v1, Some("2001:db8::7")),
            (unknown, None),
            (V2, Some("198.51.100.7")),
            (V2_LOCAL, None),
        ] {
            let expected = address.map(|a| a.parse::<IpAddr>().unwrap());
            for cut in 0..header.len() {
                assert_eq!(parse_header(&header[..cut]), Header::Partial, "{cut}");
            }
            for behind in [
                b"".as_slice(),
                b"GET / HTTP/1.1\r\n",
                b"\x16\x03\x01\xff\xfe\r\n",
            ] {
                let bytes = [header, behind].concat();
                assert_eq!(parse_header(&bytes), Header::Named(header.len(), expected));
            }
        }
    }

    #[test]
    fn rubbish_is_no_header() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(parse_header(bytes), Header::Bad, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(
            prefix in prop_oneof![Just(&b""[..]), Just(&b"PROXY TCP4 "[..]), Just(&V2[..14])],
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [prefix, &rest].concat();
            if let Header::Named(len, _) = parse_header(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}

//! What happens to a connection before HTTP: the proxy's word on who it is, and TLS.

use std::{io, net::IpAddr, time::Duration};

use ipnet::IpNet;
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{AddressHeader, Config, Error, reload::Reloader, stream::Stream, tls::Acceptor};

/// Longest header of the PROXY protocol that is read: one of version 2 has 52 bytes with addresses,
/// and what the proxy adds to it.
const PROXY_LEN_MAX: usize = 1024;
/// Longest header of version 1, its end included.
const V1_LEN_MAX: usize = 107;
/// First byte of a TLS connection: a handshake record (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Whose connection it is, as far as is known below HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// `false` where the address is that of a proxy which says that it does not know whose connection
    /// it passes on. HTTP's headers come from there unread, so they are the viewer's own words.
    is_named: bool,
}

impl Peer {
    const fn at(address: IpAddr) -> Self {
        Self {
            address,
            is_named: true,
        }
    }

    /// The header of HTTP that may say more.
    pub(crate) fn header(&self, configured: AddressHeader) -> AddressHeader {
        match self.is_named {
            true => configured,
            false => AddressHeader::None,
        }
    }
}

/// Leads connections in.
pub(crate) struct Entrance {
    proxy_protocol: bool,
    trusted: Vec<IpNet>,
    tls: Option<Acceptor>,
    limit: Duration,
}

impl Entrance {
    pub(crate) fn open(config: &Config, reloader: &mut Reloader) -> Result<Self, Error> {
        Ok(Self {
            proxy_protocol: config.proxy_protocol,
            trusted: config.trusted_proxies.clone(),
            tls: Acceptor::open(&config.tls, reloader)?,
            limit: Duration::from_millis(u64::from(config.limits.request_head_ms)),
        })
    }

    /// When our own certificate ends, in seconds since 1970; `None` without one.
    pub(crate) fn certificate_end_s(&self) -> Option<u64> {
        self.tls.as_ref()?.certificate_end_s()
    }

    /// Whether an address is a trusted proxy's.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    /// The connection ready for HTTP, and whose it is as far as trusted proxies say below HTTP.
    pub(crate) async fn enter(&self, tcp: TcpStream, peer: IpAddr) -> io::Result<(Stream, Peer)> {
        let peer = peer.to_canonical();
        let trusted = self.trusts(peer);
        if self.tls.is_none() && !(trusted && self.proxy_protocol) {
            return Ok((Stream::Plain(Vec::new(), tcp), Peer::at(peer)));
        }
        let entered = timeout(self.limit, Box::pin(self.lead_in(tcp, peer, trusted)));
        entered
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn lead_in(
        &self,
        mut tcp: TcpStream,
        peer: IpAddr,
        trusted: bool,
    ) -> io::Result<(Stream, Peer)> {
        let (mut early, mut whose) = (Vec::new(), Peer::at(peer));
        if trusted && self.proxy_protocol {
            let (header_len, named) = read_header(&mut tcp, &mut early).await?;
            whose = Peer {
                address: named.unwrap_or(peer),
                is_named: named.is_some(),
            };
            early.drain(..header_len);
        }
        let Some(tls) = &self.tls else {
            return Ok((Stream::Plain(early, tcp), whose));
        };
        if early.is_empty() {
            more(&mut tcp, &mut early).await?;
        }
        // Behind a proxy that ends TLS itself the last hop may be plain.
        if trusted && early[0] != TLS_HANDSHAKE {
            return Ok((Stream::Plain(early, tcp), whose));
        }
        Ok((Stream::Tls(tls.accept(tcp, early).await?), whose))
    }
}

/// Reads the proxy's header; how long it is, and whom it names, if anybody. What comes behind it stays
/// in `early`.
async fn read_header(
    tcp: &mut TcpStream,
    early: &mut Vec<u8>,
) -> io::Result<(usize, Option<IpAddr>)> {
    loop {
        more(tcp, early).await?;
        match parse_header(early) {
            Header::Named(len, address) => return Ok((len, address)),
            Header::Bad => return Err(bad("malformed PROXY header")),
            Header::Partial if early.len() >= PROXY_LEN_MAX => {
                return Err(bad("PROXY header over the limit"));
            }
            Header::Partial => {}
        }
    }
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn more(tcp: &mut TcpStream, early: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 256];
    let len = tcp.read(&mut chunk).await?;
    early.extend_from_slice(&chunk[..len]);
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Partial,
    Bad,
    /// Its length, and the address that it names; health checks of proxies name none.
    Named(usize, Option<IpAddr>),
}

/// Reads a header of the PROXY protocol, of either version.
pub(crate) fn parse_header(bytes: &[u8]) -> Header {
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

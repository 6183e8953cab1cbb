//! Whose connection it is that a server gets, where proxies may stand before it.
//!
//! Proxies say it in a header of the PROXY protocol before the first byte, or in a header of each request.
//! Either counts only if it comes from an address that the operator trusts.

mod address;
mod header;

use std::{io, net::IpAddr};

use http::HeaderMap;
use ipnet::IpNet;
use tokio::net::TcpStream;

pub use address::{AddressHeader, Doubt, client_address};
pub use header::{Header, parse_header};

/// The proxies before a server, as its operator describes them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their addresses; what others say counts for nothing.
    pub trusted: Vec<IpNet>,
    /// Where they write whose request it is.
    pub header: AddressHeader,
    /// Whether they begin every connection with a header of the PROXY protocol.
    pub protocol: bool,
}

/// Whose connection it is, as far as is known below HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The viewer's address, or that of a proxy. IPv4 in IPv6 is written as IPv4.
    pub address: IpAddr,
    /// `false` where the address is that of a proxy which says that it does not know whose connection
    /// it passes on. HTTP's headers come from there unread, so they are the viewer's own words.
    pub is_named: bool,
}

impl Peer {
    /// The one at the other end of the connection.
    pub fn at(address: IpAddr) -> Self {
        Self {
            address: address.to_canonical(),
            is_named: true,
        }
    }
}

impl Proxies {
    /// Whether an address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// Whether connections from `address` begin with a header of the PROXY protocol.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.protocol && self.trusts(address)
    }

    /// Reads the header of the PROXY protocol that a connection from `address`, a proxy that
    /// [`Self::announces`], begins with, and nothing behind it. Waits without end: bounding it is the caller's.
    ///
    /// # Errors
    /// The proxy's: what it sends is no header or one over the limit, or the connection ends before it does.
    pub async fn read_announcement(tcp: &mut TcpStream, address: IpAddr) -> io::Result<Peer> {
        let named = header::read_header(tcp).await?;
        Ok(Peer {
            is_named: named.is_some(),
            ..Peer::at(named.unwrap_or(address))
        })
    }

    /// The address of the viewer who sends a request with these headers on the connection of `peer`, and what
    /// makes it doubtful.
    pub fn viewer_of(&self, peer: Peer, headers: &HeaderMap) -> (IpAddr, Option<Doubt>) {
        let header = match peer.is_named {
            true => self.header,
            false => AddressHeader::None,
        };
        client_address(peer.address, headers, &self.trusted, header)
    }
}

//! What happens to a connection before HTTP: the proxy's word on who it is, and TLS.

use std::{io, net::IpAddr, time::Duration};

use callers::{Peer, Proxies};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{Config, Error, reload::Reloader, stream::Stream, tls::Acceptor};

/// First byte of a TLS connection: a handshake record (RFC 8446 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Leads connections in.
pub(crate) struct Entrance {
    pub(crate) proxies: Proxies,
    tls: Option<Acceptor>,
    limit: Duration,
}

impl Entrance {
    pub(crate) fn open(config: &Config, reloader: &mut Reloader) -> Result<Self, Error> {
        Ok(Self {
            proxies: Proxies {
                trusted: config.trusted_proxies.clone(),
                header: config.address_header,
                protocol: config.proxy_protocol,
            },
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
        self.proxies.trusts(peer)
    }

    /// The connection ready for HTTP, and whose it is as far as trusted proxies say below HTTP.
    pub(crate) async fn enter(&self, tcp: TcpStream, peer: IpAddr) -> io::Result<(Stream, Peer)> {
        if self.tls.is_none() && !self.proxies.announces(peer) {
            return Ok((Stream::Plain(Vec::new(), tcp), Peer::at(peer)));
        }
        let entered = timeout(self.limit, Box::pin(self.lead_in(tcp, peer)));
        entered
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn lead_in(&self, mut tcp: TcpStream, peer: IpAddr) -> io::Result<(Stream, Peer)> {
        let whose = match self.proxies.announces(peer) {
            true => Proxies::read_announcement(&mut tcp, peer).await?,
            false => Peer::at(peer),
        };
        let Some(tls) = &self.tls else {
            return Ok((Stream::Plain(Vec::new(), tcp), whose));
        };
        let early = first_bytes(&mut tcp).await?;
        // Behind a proxy that ends TLS itself the last hop may be plain.
        if self.trusts(peer) && early[0] != TLS_HANDSHAKE {
            return Ok((Stream::Plain(early, tcp), whose));
        }
        Ok((Stream::Tls(tls.accept(tcp, early).await?), whose))
    }
}

async fn first_bytes(tcp: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut early = vec![0; 256];
    let len = tcp.read(&mut early).await?;
    early.truncate(len);
    match len {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(early),
    }
}

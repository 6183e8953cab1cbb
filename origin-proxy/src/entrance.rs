//! Who a viewer is, behind proxies and balancers that the operator trusts.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use callers::{Doubt, Peer, Proxies};
use http::request;

use crate::{Config, Error, admin, proxy::Proxy, rates::Place};

/// How often operators are told that their settings do not fit their proxies.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What is known of the proxies before this one.
pub(crate) struct Entrance {
    pub(crate) proxies: Proxies,
    /// When operators were told last.
    told: Mutex<Option<Instant>>,
}

impl Entrance {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            proxies: config.proxies(),
            told: Mutex::default(),
        }
    }

    fn tell(&self, what: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() > TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!("{what}");
        }
    }
}

impl Config {
    fn proxies(&self) -> Proxies {
        Proxies {
            trusted: self.trusted_proxies.clone(),
            header: self.address_header,
            protocol: self.proxy_protocol,
        }
    }

    pub(crate) fn check_proxies(&self) -> Result<(), Error> {
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            let what = "proxy_protocol needs trusted_proxies: nobody else is believed";
            return Err(Error::Config(what.into()));
        }
        Ok(())
    }
}

impl Proxy {
    /// A place for one more connection of `peer`; none if its address has all that it may have. A proxy that
    /// names viewers in its requests has connections for all of them.
    pub(crate) fn place_of(&self, peer: Peer) -> Option<Place> {
        let is_many = peer.is_named && self.entrance.proxies.trusts(peer.address);
        match is_many {
            true => Some(Place::uncounted()),
            false => self.rates.connect(peer.address),
        }
    }

    /// The address of the viewer who sends `head` on the connection of `peer`. Where the settings do not fit the
    /// proxies, all viewers seem to be one, so operators are told.
    pub(crate) fn viewer_of(&self, peer: Peer, head: &request::Parts) -> IpAddr {
        let entrance = &self.entrance;
        if entrance.proxies.trusted.is_empty() {
            return peer.address;
        }
        let (address, doubt) = entrance.proxies.viewer_of(peer, &head.headers);
        match doubt {
            // Balancers look after the proxy for themselves.
            Some(Doubt::Unnamed) if !admin::is_check(head.uri.path()) => {
                self.metrics.address_unnamed.increment(1);
                entrance.tell(
                    "a trusted proxy does not say whose requests it passes on: is address_header (or \
                     proxy_protocol) what it writes?",
                );
            }
            Some(Doubt::Ignored) => {
                self.metrics.address_header_ignored.increment(1);
                entrance.tell(
                    "who is no trusted proxy says whose requests it passes on: is an address missing in \
                     trusted_proxies?",
                );
            }
            _ => {}
        }
        address
    }

    /// A trusted proxy at `address` has not said whose connection it passes on.
    pub(crate) fn on_no_announcement(&self, address: IpAddr, error: &std::io::Error) {
        tracing::debug!(%address, %error, "proxy sent no header of the PROXY protocol");
        // Nothing at all is how balancers find out whether a port is open.
        if error.kind() != std::io::ErrorKind::UnexpectedEof {
            self.metrics.announcements_failed.increment(1);
            self.entrance.tell(
                "a trusted proxy begins its connections without a header of the PROXY protocol: is \
                 proxy_protocol what it does?",
            );
        }
    }
}

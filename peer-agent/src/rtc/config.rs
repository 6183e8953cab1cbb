//! Settings of the transport, and what the caller says about each connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// STUN or TURN servers with the same credential, as `RTCIceServer` in browsers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IceServer {
    /// `stun:host:port`, or `turn:host:port` (RFC 7064, RFC 7065). TURN servers are reached by UDP;
    /// `?transport=tcp` and `turns:` are for browsers and are passed over here.
    pub urls: Vec<String>,
    /// The user name at TURN servers.
    pub username: String,
    /// Its password.
    pub credential: String,
}

impl std::fmt::Debug for IceServer {
    /// Leaves the credential out, so that logs cannot leak it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`super::Transport`]. The defaults suit a viewer at home.
#[derive(Debug, Clone)]
pub struct RtcConfig {
    /// STUN and TURN servers. The former tell us our public address; without one, only peers on the
    /// same network or with a public address of their own can reach us. The latter relay where
    /// there is no direct way. Default: none.
    pub ice_servers: Vec<IceServer>,
    /// Whether only relays are used, so that peers do not learn our address. Default: false.
    pub relay_only: bool,
    /// Local addresses to use. An unspecified address stands for every interface of its family
    /// but loopback. Default: `0.0.0.0` and `::`. `127.0.0.1` keeps everything on this machine.
    pub bind_ips: Vec<IpAddr>,
    /// Whether to resolve the `.local` names behind which browsers hide their addresses, by
    /// multicast on the local network. Used with browser peers only, and never when bound to
    /// loopback alone. Default: true.
    pub mdns: bool,
    /// Most connections at a time, pending ones included. Default: 40.
    pub connections_max: usize,
    /// Time from `connect` to an open channel before giving up. Default: 15 s.
    pub connect_timeout: Duration,
    /// Silence, keep-alives included, after which an open connection counts as lost.
    /// Default: 15 s.
    pub idle_timeout: Duration,
    /// Most bytes that wait in our own queue for one peer, before `send` refuses. Default: 1 MiB.
    pub send_queue_bytes_max: usize,
    /// Most bytes handed to one peer's connection and not yet acknowledged; throughput is at most
    /// this per round trip. Default: 1 MiB.
    pub in_flight_bytes_max: usize,
    /// Most bytes received from one peer that wait for the caller, before that peer's sockets are
    /// no longer read. It then slows down; after [`Self::idle_timeout`] of that it is lost.
    /// Default: 4 MiB.
    pub receive_queue_bytes_max: usize,
    /// Largest message accepted from a peer; a larger one ends the connection. At most
    /// [`super::MESSAGE_BYTES_MAX`], the default.
    pub message_bytes_max: usize,
    /// Receive buffer asked of the system for each socket (`SO_RCVBUF`). The kernel may grant
    /// less; the advertised receive window follows what it granted. Default: 2 MiB.
    pub socket_receive_bytes: usize,
    /// Receive window to advertise at most. Throughput is at most this per round trip.
    /// Default: 1 MiB.
    pub receive_window_bytes_max: u32,
    /// Datagrams read from a browser's socket before an acknowledgement is sent. Browsers send at
    /// most four packets per acknowledgement, so a large value makes their uploads crawl at real
    /// round trip times. Default: 2. Native peers are not limited.
    pub browser_burst_datagrams: usize,
    /// Most bits per second to send to one browser. It reads from a small socket buffer, and each
    /// overflow costs a second of silence. Default: 50 Mbit/s. Native peers are not limited, unless there is
    /// a relay between.
    pub browser_send_bps_max: u64,
    /// Most bits per second to send to one native peer through a relay (TURN), for the same reason: relays
    /// drop bursts. Default: 20 Mbit/s.
    pub relay_send_bps_max: u64,
    /// Time between connectivity checks while connecting. Default: 50 ms.
    pub ice_check_interval: Duration,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self {
            ice_servers: Vec::new(),
            relay_only: false,
            bind_ips: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            mdns: true,
            connections_max: 40,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(15),
            send_queue_bytes_max: 1024 * 1024,
            in_flight_bytes_max: 1024 * 1024,
            receive_queue_bytes_max: 4 * 1024 * 1024,
            message_bytes_max: super::MESSAGE_BYTES_MAX,
            socket_receive_bytes: 2 * 1024 * 1024,
            receive_window_bytes_max: 1024 * 1024,
            browser_burst_datagrams: 2,
            browser_send_bps_max: 50_000_000,
            relay_send_bps_max: 20_000_000,
            ice_check_interval: Duration::from_millis(50),
        }
    }
}

impl RtcConfig {
    /// Settings that keep everything on this machine: bound to 127.0.0.1, no multicast.
    pub fn loopback() -> Self {
        Self {
            bind_ips: vec![Ipv4Addr::LOCALHOST.into()],
            mdns: false,
            ..Self::default()
        }
    }

    pub(super) fn is_loopback_only(&self) -> bool {
        self.bind_ips.iter().all(IpAddr::is_loopback)
    }
}

/// The caller's name for one connection attempt to one peer.
///
/// Events name connections by it. Use a fresh key for each attempt if events of an earlier one,
/// still waiting in the event queue, must be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u64);

/// Who sends the offer; the tracker decides it for each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We send the offer.
    Offerer,
    /// We wait for the offer.
    Answerer,
}

/// What runs at the other end; it decides how sockets are read and whether names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerKind {
    /// A web page, or unknown.
    Browser,
    /// A native agent.
    Native,
}

//! All connections of one viewer: the public face of the module.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::config::{PeerKey, PeerKind, Role, RtcConfig};
use super::link::{self, LinkTask};
use super::outbox::{Outbox, SendOutcome};
use super::runtime::receive_window_bytes;
use super::sdp::MESSAGE_BYTES_MAX;
use super::signal::Signal;

/// Signals that may wait for one connection: two descriptions and all candidates, with room.
const MAILBOX_SIGNALS: usize = 32;

/// What happened on a connection. Everything but `Message` is rare.
#[derive(Debug)]
pub enum RtcEvent {
    /// Carry this signal to the peer, by way of the tracker.
    Signal {
        /// Which connection.
        peer: PeerKey,
        /// What to carry.
        signal: Signal,
    },
    /// The channel is open: `send` works from now on. Comes once, before any `Message`.
    Up {
        /// Which connection.
        peer: PeerKey,
        /// Round trip time seen by the connectivity checks, if known.
        rtt: Option<Duration>,
        /// Time from `connect` until now.
        setup: Duration,
    },
    /// The peer sent a message. Messages come in the order in which they were sent.
    Message {
        /// Which connection.
        peer: PeerKey,
        /// What it sent, at most [`RtcConfig::message_bytes_max`].
        message: Bytes,
    },
    /// The peer's send queue fell to a quarter of its limit, after it had been above that mark or
    /// had refused a message: send more now.
    Drained {
        /// Which connection.
        peer: PeerKey,
    },
    /// The connection is over, or never came up; its key is free again. The last event of a
    /// connection; not sent after [`Transport::close`].
    Down {
        /// Which connection.
        peer: PeerKey,
        /// Why.
        reason: DownReason,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// Not open within [`RtcConfig::connect_timeout`]: the peer is gone or no path leads to it.
    #[error("peer could not be reached in time")]
    ConnectTimeout,
    /// The peer closed the channel or the connection.
    #[error("peer closed the connection")]
    ClosedByPeer,
    /// Nothing was heard from it for [`RtcConfig::idle_timeout`], or the handshake failed.
    #[error("peer was lost")]
    Lost,
    /// The peer broke the rules: a message beyond the limit.
    #[error("peer broke the protocol")]
    Violation,
    /// The peer's description was refused by the WebRTC stack.
    #[error("peer sent a description that cannot be used")]
    BadDescription,
    /// The machine gave no socket, or the like; details are in the log.
    #[error("local failure")]
    Local,
}

/// Why `connect` refused. The caller's mistake or its limit, never the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// [`RtcConfig::connections_max`] connections exist.
    #[error("all {0} connections are in use")]
    AtCapacity(usize),
    /// A connection of this key exists; close it first or use another key.
    #[error("a connection with this key exists already")]
    Exists,
}

/// Counts of what was refused and why, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtcStats {
    /// Connections now, pending ones included.
    pub connections: usize,
    /// Connections that came up.
    pub ups: u64,
    /// Connections that ended or never came up, except by [`Transport::close`].
    pub downs: u64,
    /// Signals for a key without a connection.
    pub signals_unknown_peer: u64,
    /// Signals dropped as malformed, beyond a limit, or refused by the WebRTC stack.
    pub signals_invalid: u64,
    /// Descriptions that came twice, late or of the wrong kind.
    pub signals_unexpected: u64,
    /// Offers that crossed our own.
    pub glares: u64,
}

/// WebRTC data channels to other viewers.
///
/// Give it signals with [`Transport::handle_signal`], carry the signals it emits, and messages
/// flow. Dropping it closes every connection.
#[derive(Debug)]
pub struct Transport {
    shared: Arc<Shared>,
}

/// What the transport and its connections' tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RtcConfig,
    pub(super) receive_window_bytes: u32,
    pub(super) events: mpsc::Sender<RtcEvent>,
    pub(super) counters: Counters,
    runtime: Handle,
    links: Mutex<HashMap<PeerKey, LinkHandle>>,
    next_generation: AtomicU64,
}

/// The transport's side of one connection. Dropping it ends the connection's task.
#[derive(Debug)]
struct LinkHandle {
    generation: u64,
    mailbox: mpsc::Sender<Signal>,
    outbox: Arc<Outbox>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) ups: AtomicU64,
    pub(super) downs: AtomicU64,
    pub(super) signals_unknown_peer: AtomicU64,
    pub(super) signals_invalid: AtomicU64,
    pub(super) signals_unexpected: AtomicU64,
    pub(super) glares: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Transport {
    /// Starts a transport that reports to `events`; nothing happens until the first `connect`.
    ///
    /// When `events` is full, its connections wait, and with them their peers: nothing is lost.
    /// Its capacity bounds what waits there, in messages of at most
    /// [`RtcConfig::message_bytes_max`]; 64 is a good size.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(mut config: RtcConfig, events: mpsc::Sender<RtcEvent>) -> Self {
        config.message_bytes_max = config.message_bytes_max.min(MESSAGE_BYTES_MAX);
        let receive_window_bytes =
            receive_window_bytes(config.socket_receive_bytes, config.receive_window_bytes_max);
        let shared = Shared {
            config,
            receive_window_bytes,
            events,
            counters: Counters::default(),
            runtime: Handle::current(),
            links: Mutex::default(),
            next_generation: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Begins a connection. As the offerer it soon emits an offer; as the answerer it waits for
    /// one. It ends in `Up` or `Down` within [`RtcConfig::connect_timeout`].
    pub fn connect(&self, peer: PeerKey, role: Role, kind: PeerKind) -> Result<(), ConnectError> {
        let shared = &self.shared;
        let mut links = shared.links();
        if links.contains_key(&peer) {
            return Err(ConnectError::Exists);
        }
        if links.len() >= shared.config.connections_max {
            return Err(ConnectError::AtCapacity(links.len()));
        }
        let generation = shared.next_generation.fetch_add(1, Ordering::Relaxed);
        let (mailbox, signals) = mpsc::channel(MAILBOX_SIGNALS);
        let outbox = Arc::new(Outbox::new(shared.config.send_queue_bytes_max));
        links.insert(
            peer,
            LinkHandle {
                generation,
                mailbox,
                outbox: outbox.clone(),
            },
        );
        let task = LinkTask {
            peer,
            generation,
            role,
            kind,
            outbox,
            signals,
            shared: shared.clone(),
        };
        shared.runtime.spawn(link::run(task));
        Ok(())
    }

    /// Takes a signal that `peer` sent. Whatever cannot be used is counted and dropped.
    pub fn handle_signal(&self, peer: PeerKey, signal: Signal) {
        let counters = &self.shared.counters;
        if let Signal::Description(description) = &signal
            && let Err(error) = description.validate()
        {
            tracing::debug!(?peer, %error, "dropped a description");
            return count(&counters.signals_invalid);
        }
        match self.shared.links().get(&peer) {
            None => count(&counters.signals_unknown_peer),
            Some(link) if link.mailbox.try_send(signal).is_err() => {
                count(&counters.signals_invalid);
            }
            Some(_) => {}
        }
    }

    /// Queues a message; never waits and never buffers beyond
    /// [`RtcConfig::send_queue_bytes_max`].
    pub fn send(&self, peer: PeerKey, message: Bytes) -> SendOutcome {
        if message.len() > MESSAGE_BYTES_MAX {
            return SendOutcome::TooLarge;
        }
        match self.shared.links().get(&peer) {
            Some(link) => link.outbox.push(message),
            None => SendOutcome::NotConnected,
        }
    }

    /// Bytes queued for the peer and not yet handed to its connection; 0 if there is none.
    pub fn buffered_bytes(&self, peer: PeerKey) -> usize {
        self.shared
            .links()
            .get(&peer)
            .map_or(0, |link| link.outbox.bytes())
    }

    /// Ends a connection, if there is one. The key is free at once, and no `Down` follows.
    pub fn close(&self, peer: PeerKey) {
        // Dropping the handle, with the mailbox in it, is what the task sees.
        self.shared.links().remove(&peer);
    }

    /// Counts so far.
    pub fn stats(&self) -> RtcStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RtcStats {
            connections: self.shared.links().len(),
            ups: read(&counters.ups),
            downs: read(&counters.downs),
            signals_unknown_peer: read(&counters.signals_unknown_peer),
            signals_invalid: read(&counters.signals_invalid),
            signals_unexpected: read(&counters.signals_unexpected),
            glares: read(&counters.glares),
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.links().clear();
    }
}

impl Shared {
    /// Forgets a connection that ended by itself; false if the caller closed it meanwhile.
    pub(super) fn forget(&self, peer: PeerKey, generation: u64) -> bool {
        let mut links = self.links();
        let ours = links
            .get(&peer)
            .is_some_and(|link| link.generation == generation);
        if ours {
            links.remove(&peer);
        }
        ours
    }

    fn links(&self) -> MutexGuard<'_, HashMap<PeerKey, LinkHandle>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The neighbours: their connections, what they send, and what waits to be sent to them.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use swarm_core::id::{PeerId, SegmentId, Slot};
use swarm_core::limits::PEER_FRAME_LEN_MAX;
use swarm_core::peer::{Input, Source};
use swarm_core::record::Record;
use swarm_core::wire::peer::{
    CHUNK_HEADER_LEN, Chunk, DataFrame, PeerMsg, Pieces, chunk_len_for, is_control,
};
use tokio::sync::mpsc;

use super::servers::Servers;
use super::{Driver, GOODBYE, Pending};
use crate::fault::Saboteur;
use crate::reassembly::Reassembly;
use crate::rtc::{
    DownReason, PeerKey, PeerKind, Role, RtcConfig, RtcEvent, SendOutcome, Transport,
};
use crate::signalling;
use crate::snapshot::Neighbour;
use crate::store::{From, Put};

/// Bytes that may wait in the transport for one neighbour. Small, so that what is sent is decided
/// late; the transport says when a quarter of it is left.
const SEND_QUEUE_BYTES_MAX: usize = 128 * 1024;
/// With no more than this waiting, a neighbour can be sent more. Less than what the core takes for
/// a full transport.
const SEND_LOW_BYTES: usize = SEND_QUEUE_BYTES_MAX / 4;
/// Bytes that may wait here because the transport's queue is full; beyond, the neighbour is lost.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All neighbours of one viewer.
pub(super) struct Links {
    config: RtcConfig,
    servers: Servers,
    events: mpsc::Sender<RtcEvent>,
    /// Made when first needed, and again for other servers.
    transport: Option<Arc<Transport>>,
    slots: HashMap<Slot, Link>,
    keys: HashMap<PeerKey, Slot>,
    next_key: u64,
    saboteur: Saboteur,
}

struct Link {
    key: PeerKey,
    peer: PeerId,
    native: bool,
    transport: Arc<Transport>,
    up: bool,
    setup_ms: u32,
    reassembly: Reassembly,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    /// Whether the core waits to hear that there is room again.
    sent_due: bool,
    bytes_in: u64,
    bytes_out: u64,
}

impl Links {
    pub(super) fn new(
        settings: &crate::Config,
        events: mpsc::Sender<RtcEvent>,
        saboteur: Saboteur,
    ) -> Self {
        let (bind_ips, servers) = (&settings.bind_ips, Servers::new(settings));
        let config = RtcConfig {
            ice_servers: servers.all(),
            relay_only: servers.relay_only(),
            bind_ips: bind_ips.clone(),
            mdns: !bind_ips.iter().all(IpAddr::is_loopback),
            send_queue_bytes_max: SEND_QUEUE_BYTES_MAX,
            message_bytes_max: PEER_FRAME_LEN_MAX,
            ..RtcConfig::default()
        };
        Self {
            config,
            servers,
            events,
            transport: None,
            slots: HashMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            saboteur,
        }
    }

    /// Uses these STUN servers (`host:port`) for links set up from now on.
    pub(super) fn use_stun<'a>(&mut self, servers: impl Iterator<Item = &'a str>) {
        self.servers.on_stun(servers);
        self.on_servers();
    }

    /// Uses these TURN servers (lines with user name, credential and addresses) for links set up
    /// from now on.
    pub(super) fn use_relays(&mut self, lines: &str, only: bool) {
        self.servers.on_relays(lines, only);
        self.on_servers();
    }

    fn on_servers(&mut self) {
        let (servers, relay_only) = (self.servers.all(), self.servers.relay_only());
        if servers != self.config.ice_servers || relay_only != self.config.relay_only {
            (self.config.ice_servers, self.config.relay_only) = (servers, relay_only);
            self.transport = None;
        }
    }

    /// Begins to set up a link; false if it cannot.
    pub(super) fn connect(&mut self, slot: Slot, peer: PeerId, offer: bool, native: bool) -> bool {
        self.close(slot);
        let make = || Arc::new(Transport::new(self.config.clone(), self.events.clone()));
        let transport = self.transport.get_or_insert_with(make).clone();
        self.next_key += 1;
        let key = PeerKey(self.next_key);
        let role = if offer { Role::Offerer } else { Role::Answerer };
        let kind = if native {
            PeerKind::Native
        } else {
            PeerKind::Browser
        };
        if let Err(error) = transport.connect(key, role, kind) {
            tracing::warn!(%error, "local transport refused a link");
            return false;
        }
        let link = Link {
            key,
            peer,
            native,
            transport,
            up: false,
            setup_ms: 0,
            reassembly: Reassembly::default(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            sent_due: false,
            bytes_in: 0,
            bytes_out: 0,
        };
        self.keys.insert(key, slot);
        self.slots.insert(slot, link);
        true
    }

    /// Forgets a link, and closes it once a goodbye has had time to leave.
    pub(super) fn close(&mut self, slot: Slot) {
        let Some(link) = self.slots.remove(&slot) else {
            return;
        };
        self.keys.remove(&link.key);
        if !link.up {
            return link.transport.close(link.key);
        }
        tokio::spawn(async move {
            tokio::time::sleep(GOODBYE.min(Duration::from_millis(200))).await;
            link.transport.close(link.key);
        });
    }

    /// Closes the link that was lost; false if its slot has another one by now.
    pub(super) fn drop_link(&mut self, slot: Slot, key: Option<PeerKey>) -> bool {
        let current = self.slots.get(&slot).map(|link| link.key);
        if current != key {
            return false;
        }
        self.close(slot);
        true
    }

    /// Takes signalling from the other viewer; what makes no sense is dropped.
    pub(super) fn handle_signal(&self, slot: Slot, payload: &[u8]) {
        let Some(link) = self.slots.get(&slot) else {
            return;
        };
        match signalling::decode(payload) {
            Ok(signal) => link.transport.handle_signal(link.key, signal),
            Err(error) => tracing::debug!(%error, peer = %link.peer, "signal dropped"),
        }
    }

    /// Sends a control message.
    pub(super) fn send_control(&mut self, slot: Slot, frame: Bytes) -> Option<Pending> {
        if !self.saboteur.sends_control(&frame) {
            return None;
        }
        self.send(slot, frame)
    }

    /// Sends a segment's record.
    pub(super) fn send_record(&mut self, slot: Slot, record: &Record) -> Option<Pending> {
        if !self.saboteur.sends_media() {
            return None;
        }
        let mut frame = Vec::new();
        DataFrame::Record(&record.encode()).encode(&mut frame);
        self.send(slot, frame.into())
    }

    /// Sends a piece in chunks; without its bytes, says that it cannot. The core hears of it when
    /// there is room for more.
    pub(super) fn send_piece(
        &mut self,
        slot: Slot,
        segment: SegmentId,
        piece: u8,
        bytes: Option<Bytes>,
    ) -> Option<Pending> {
        let broken = match bytes {
            Some(bytes) if self.saboteur.sends_media() => {
                let bytes = if self.saboteur.spoils_next_piece() {
                    spoil(&bytes)
                } else {
                    bytes
                };
                self.send_chunks(slot, segment, piece, &bytes)
            }
            Some(_) => None,
            None => {
                let mut frame = Vec::new();
                PeerMsg::Reject(Pieces {
                    segment,
                    bits: 1 << (piece & 63),
                })
                .encode(&mut frame);
                self.send(slot, frame.into())
            }
        };
        if broken.is_some() {
            return broken;
        }
        let link = self.slots.get_mut(&slot)?;
        link.sent_due = true;
        link.room(slot)
    }

    fn send_chunks(
        &mut self,
        slot: Slot,
        segment: SegmentId,
        piece: u8,
        bytes: &[u8],
    ) -> Option<Pending> {
        let chunk_len = chunk_len_for(bytes.len() as u32) as usize;
        let mut offset = 0;
        for part in bytes.chunks(chunk_len.max(1)) {
            let mut frame = Vec::with_capacity(CHUNK_HEADER_LEN + part.len());
            DataFrame::Chunk(Chunk {
                segment,
                piece,
                offset,
                bytes: part,
            })
            .encode(&mut frame);
            offset += part.len() as u32;
            let broken = self.send(slot, frame.into());
            if broken.is_some() {
                return broken;
            }
        }
        None
    }

    /// Queues a message; `Some` if the link is broken.
    fn send(&mut self, slot: Slot, frame: Bytes) -> Option<Pending> {
        let link = self.slots.get_mut(&slot)?;
        let len = frame.len();
        link.bytes_out += len as u64;
        if link.backlog.is_empty() {
            match link.transport.send(link.key, frame.clone()) {
                SendOutcome::Queued => return None,
                SendOutcome::Full => {}
                SendOutcome::TooLarge | SendOutcome::NotConnected => {
                    return Some(Pending::LinkDown(slot, Some(link.key)));
                }
            }
        }
        link.backlog_bytes += len;
        link.backlog.push_back(frame);
        let lost = link.backlog_bytes > BACKLOG_BYTES_MAX;
        lost.then_some(Pending::LinkDown(slot, Some(link.key)))
    }

    /// Forgets pieces of the segment that were begun.
    pub(super) fn forget(&mut self, segment: SegmentId) {
        for link in self.slots.values_mut() {
            link.reassembly.forget(segment);
        }
    }

    pub(super) fn neighbours(&self) -> Vec<Neighbour> {
        let mut neighbours: Vec<_> = self
            .slots
            .iter()
            .map(|(slot, link)| link.show(*slot))
            .collect();
        neighbours.sort_by_key(|neighbour| neighbour.slot);
        neighbours
    }

    fn by_key(&mut self, key: PeerKey) -> Option<(Slot, &mut Link)> {
        let slot = *self.keys.get(&key)?;
        Some((slot, self.slots.get_mut(&slot)?))
    }
}

impl Link {
    /// What to tell the core, if it waits for room and there is some.
    fn room(&mut self, slot: Slot) -> Option<Pending> {
        let buffered = self.transport.buffered_bytes(self.key);
        let room = self.sent_due && self.backlog.is_empty() && buffered <= SEND_LOW_BYTES;
        self.sent_due &= !room;
        room.then_some(Pending::Sent {
            slot,
            buffered: buffered as u32,
        })
    }

    /// Moves what waits here to the transport, as far as it takes it.
    fn flush(&mut self) {
        while let Some(frame) = self.backlog.front() {
            if self.transport.send(self.key, frame.clone()) != SendOutcome::Queued {
                return;
            }
            self.backlog_bytes -= frame.len();
            self.backlog.pop_front();
        }
    }

    fn show(&self, slot: Slot) -> Neighbour {
        Neighbour {
            slot: slot.0,
            peer: self.peer.to_string(),
            native: self.native,
            up: self.up,
            setup_ms: self.setup_ms,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }
}

fn spoil(bytes: &[u8]) -> Bytes {
    let mut spoilt = bytes.to_vec();
    if let Some(byte) = spoilt.get_mut(bytes.len() / 2) {
        *byte ^= 1;
    }
    spoilt.into()
}

impl Driver {
    pub(super) fn handle_rtc(&mut self, event: RtcEvent) {
        match event {
            RtcEvent::Signal { peer, signal } => {
                if let Some((slot, _)) = self.links.by_key(peer)
                    && let Some(payload) = signalling::encode(&signal)
                {
                    self.handle(Input::Signal {
                        slot,
                        payload: &payload,
                    });
                }
            }
            RtcEvent::Up { peer, setup, .. } => {
                if let Some((slot, link)) = self.links.by_key(peer) {
                    link.up = true;
                    link.setup_ms = setup.as_millis() as u32;
                    self.pending.push_back(Pending::LinkUp(slot));
                }
            }
            RtcEvent::Message { peer, message } => {
                if let Some((slot, link)) = self.links.by_key(peer) {
                    link.bytes_in += message.len() as u64;
                    self.handle_message(slot, &message);
                }
            }
            RtcEvent::Drained { peer } => {
                if let Some((slot, link)) = self.links.by_key(peer) {
                    link.flush();
                    let room = link.room(slot);
                    self.pending.extend(room);
                }
            }
            RtcEvent::Down { peer, reason } => {
                if let Some((slot, _)) = self.links.by_key(peer) {
                    tracing::debug!(?slot, %reason, "link down");
                    if reason == DownReason::Violation {
                        self.pending.push_back(Pending::Misbehaved(slot));
                    }
                    self.pending.push_back(Pending::LinkDown(slot, Some(peer)));
                }
            }
        }
    }

    fn handle_message(&mut self, slot: Slot, message: &[u8]) {
        if is_control(message) {
            return self.handle(Input::Frame {
                slot,
                bytes: message,
            });
        }
        match DataFrame::decode(message) {
            Ok(DataFrame::Record(bytes)) => self.handle_record(slot, bytes),
            Ok(DataFrame::Chunk(chunk)) => self.handle_chunk(slot, &chunk),
            Err(error) => {
                tracing::debug!(?slot, %error, "peer sent a malformed message");
                self.handle(Input::Misbehaved(slot));
            }
        }
    }

    fn handle_record(&mut self, slot: Slot, bytes: &[u8]) {
        let record = match Record::decode(bytes) {
            Ok(record) => Arc::new(record),
            Err(error) => {
                tracing::debug!(?slot, %error, "bad record");
                return self.handle(Input::Misbehaved(slot));
            }
        };
        let known = self.shared.store.record(record.id());
        let same = known.is_some_and(|known| *known == *record);
        if !same && !self.shared.trust.accepts(&record) {
            tracing::debug!(?slot, name = %record.name, "peer sent a record nobody trusts");
            return self.handle(Input::Misbehaved(slot));
        }
        self.shared.store.add_record(record.clone());
        self.handle(Input::Record {
            source: Source::Peer(slot),
            record: &record,
        });
    }

    fn handle_chunk(&mut self, slot: Slot, chunk: &Chunk<'_>) {
        let (segment, piece) = (chunk.segment, chunk.piece);
        let Some(record) = self.shared.store.record(segment) else {
            // It was evicted while the chunk was on its way.
            return self.handle(Input::Surplus {
                slot,
                len: chunk.bytes.len() as u32,
            });
        };
        let Some(link) = self.links.slots.get_mut(&slot) else {
            return;
        };
        let bytes = match link.reassembly.push(&record, chunk) {
            Ok(None) => return,
            Ok(Some(bytes)) => bytes,
            Err(error) => {
                tracing::debug!(?slot, %error, "bad chunk");
                return self.handle(Input::Misbehaved(slot));
            }
        };
        let len = bytes.len() as u32;
        if self.shared.store.has(segment, piece.into()) {
            return self.handle(Input::Surplus { slot, len });
        }
        if !record.verify_piece(piece.into(), &bytes) {
            tracing::debug!(?slot, %segment, piece, "peer sent bytes that differ from the record");
            return self.handle(Input::Misbehaved(slot));
        }
        match self
            .shared
            .store
            .put(segment, piece.into(), bytes, From::Peer)
        {
            Put::Stored => {
                let source = Source::Peer(slot);
                self.handle(Input::Pieces {
                    source,
                    segment,
                    bits: 1 << piece,
                });
            }
            Put::Duplicate | Put::Unknown | Put::Full => {
                self.handle(Input::Surplus { slot, len });
            }
        }
    }
}

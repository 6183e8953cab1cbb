//! Links between viewers: who can connect, how long it takes, what it costs the access links.

use swarm_core::{
    id::{PeerId, SegmentId, Slot},
    peer::{Input, Source},
    wire::peer::PeerMsg,
};

use super::{
    Event, World,
    catalog::piece_size,
    node::{End, SlotState},
};
use crate::{
    population::{Cheat, delay_us},
    random::{between, chance},
};

/// Headers of UDP, DTLS and SCTP, and acknowledgements, on top of what is sent, in percent.
const OVERHEAD_PERCENT: u64 = 5;
/// Bytes of a packet.
const PACKET_LEN: u32 = 1150;
/// Rate between viewers of one house or site.
const LAN_BPS: u64 = 200_000_000;
/// How long a link that cannot be set up keeps trying.
const SETUP_FAILS_US: u64 = 8_000_000;
/// How long until the end of a link is noticed.
const CLOSED_US: u64 = 50_000;

/// Control messages on their way. Those sent to several viewers are kept once.
#[derive(Default)]
pub(crate) struct Frames {
    list: Vec<(Vec<u8>, u32)>,
    free: Vec<u32>,
}

impl Frames {
    pub(crate) fn add(&mut self, bytes: &[u8], readers: u32) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.list.push((Vec::new(), 0));
            self.list.len() as u32 - 1
        });
        let entry = &mut self.list[index as usize];
        entry.0.clear();
        entry.0.extend_from_slice(bytes);
        entry.1 = readers;
        index
    }

    pub(crate) fn add_reader(&mut self, index: u32) {
        self.list[index as usize].1 += 1;
    }

    /// Lends the bytes out; to be given back with [`Frames::put_back`].
    pub(crate) fn take(&mut self, index: u32) -> Vec<u8> {
        std::mem::take(&mut self.list[index as usize].0)
    }

    /// One reader is done.
    pub(crate) fn put_back(&mut self, index: u32, bytes: Vec<u8>) {
        let entry = &mut self.list[index as usize];
        entry.0 = bytes;
        entry.1 -= 1;
        if entry.1 == 0 {
            self.free.push(index);
        }
    }
}

/// A piece on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    pub(crate) segment: SegmentId,
    pub(crate) piece: u8,
    pub(crate) bad: bool,
    /// It has waited for the receiver's downlink already.
    pub(crate) queued: bool,
}

/// The node that the tracker named so.
pub(crate) fn node_of(peer: PeerId) -> u32 {
    (peer.0 - 1) as u32
}

/// The name of a node.
pub(crate) fn peer_of(node: u32) -> PeerId {
    PeerId(u64::from(node) + 1)
}

impl World {
    /// The core wants a link. Once both sides do, it comes up, or fails, in its time.
    pub(super) fn connect(&mut self, node: u32, slot: Slot, peer: PeerId) {
        let other = node_of(peer);
        let me = peer_of(node);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        live.slots[usize::from(slot.0)] = SlotState::Waiting(peer);
        let Some(remote) = self.nodes.get(other as usize).and_then(|n| n.live.as_ref()) else {
            return;
        };
        let waits = |state: &SlotState| matches!(state, SlotState::Waiting(p) if *p == me);
        let Some(their_slot) = remote.slots.iter().position(waits) else {
            return;
        };
        let (a, b) = (
            &self.nodes[node as usize].viewer,
            &self.nodes[other as usize].viewer,
        );
        let delay_us = delay_us(a, b);
        let reachable = a.household == b.household || a.nat.reaches(b.nat);
        self.links += 1;
        let link = self.links;
        // Signalling through the tracker, then ICE, DTLS and SCTP: about four round trips.
        let setup_us = 120_000 + (between(&mut self.rng, 8.0, 14.0) * delay_us as f64) as u64;
        for (near, near_slot, far, far_slot) in [
            (node, slot.0, other, their_slot as u8),
            (other, their_slot as u8, node, slot.0),
        ] {
            if let Some(live) = &mut self.nodes[near as usize].live {
                live.slots[usize::from(near_slot)] = SlotState::Linked(End {
                    link,
                    node: far,
                    slot: far_slot,
                    up: false,
                    delay_us,
                    buffered: 0,
                    last_arrival: 0,
                });
            }
            let (node, slot) = (near, near_slot);
            if reachable {
                self.queue
                    .push(self.now + setup_us, Event::LinkUp { node, slot, link });
            } else {
                self.queue.push(
                    self.now + SETUP_FAILS_US,
                    Event::LinkDown { node, slot, link },
                );
            }
        }
    }

    pub(super) fn link_up(&mut self, node: u32, slot: u8, link: u32) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if let Some(end) = live.end(slot, link) {
            end.up = true;
            self.input(node, Input::LinkUp(Slot(slot)));
        }
    }

    pub(super) fn link_down(&mut self, node: u32, slot: u8, link: u32) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if live.end(slot, link).is_some() {
            live.slots[usize::from(slot)] = SlotState::Free;
            self.input(node, Input::LinkDown(Slot(slot)));
        }
    }

    /// This side closes a link; the other notices a little later.
    pub(super) fn close_link(&mut self, node: u32, slot: Slot) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let state = std::mem::replace(&mut live.slots[usize::from(slot.0)], SlotState::Free);
        if let SlotState::Linked(end) = state {
            let at = (self.now + end.delay_us + CLOSED_US).max(end.last_arrival);
            let (node, slot, link) = (end.node, end.slot, end.link);
            self.queue.push(at, Event::LinkDown { node, slot, link });
        }
    }

    /// Everybody who was linked with a viewer that vanished notices after `after_us`.
    pub(super) fn break_links(&mut self, slots: &[SlotState], after_us: u64) {
        for state in slots {
            if let SlotState::Linked(end) = state {
                let (node, slot, link) = (end.node, end.slot, end.link);
                self.queue
                    .push(self.now + after_us, Event::LinkDown { node, slot, link });
            }
        }
    }

    /// When something of `len` bytes that is sent now has left, and when it arrives.
    fn transmit(&mut self, node: u32, slot: Slot, len: u32) -> Option<(End, u64, u64)> {
        let sender = &mut self.nodes[node as usize];
        let household = sender.viewer.household;
        let SlotState::Linked(mut end) = sender.live.as_ref()?.slots[usize::from(slot.0)] else {
            return None;
        };
        let wire_bits = u64::from(len) * 8 * (100 + OVERHEAD_PERCENT) / 100 + 400;
        let is_lan = household == self.nodes[end.node as usize].viewer.household;
        let left = if is_lan {
            self.now + wire_bits * 1_000_000 / LAN_BPS
        } else {
            let house = &mut self.houses[household as usize];
            house.up_free =
                house.up_free.max(self.now) + wire_bits * 1_000_000 / house.up_bps.max(1);
            house.up_free
        };
        let packets = f64::from(len.div_ceil(PACKET_LEN));
        let retry = if !is_lan && chance(&mut self.rng, self.options.access.loss * packets) {
            2 * end.delay_us
        } else {
            0
        };
        let arrival = (left + end.delay_us + retry).max(end.last_arrival);
        end.last_arrival = arrival;
        if let Some(live) = &mut self.nodes[node as usize].live {
            live.slots[usize::from(slot.0)] = SlotState::Linked(end);
        }
        Some((end, left, arrival))
    }

    pub(super) fn send_frame(&mut self, node: u32, slot: Slot, frame: u32) -> bool {
        let len = self.frames.list[frame as usize].0.len() as u32;
        let Some((end, _, arrival)) = self.transmit(node, slot, len) else {
            return false;
        };
        self.metrics.frames += 1;
        let (node, slot, link) = (end.node, end.slot, end.link);
        self.queue.push(
            arrival,
            Event::Frame {
                node,
                slot,
                link,
                frame,
            },
        );
        true
    }

    pub(super) fn send_record(&mut self, node: u32, slot: Slot, segment: SegmentId) {
        if let Some((end, _, arrival)) = self.transmit(node, slot, 800) {
            let (node, slot, link) = (end.node, end.slot, end.link);
            self.queue.push(
                arrival,
                Event::Record {
                    node,
                    slot,
                    link,
                    segment,
                },
            );
        }
    }

    pub(super) fn send_piece(&mut self, node: u32, slot: Slot, segment: SegmentId, piece: u8) {
        let Some(place) = self.catalog.place_of(segment) else {
            return;
        };
        let content = self.catalog.content(place);
        let len = piece_size(&content, u32::from(piece));
        let (now, cheat) = (self.now, self.nodes[node as usize].viewer.cheat);
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if live.stored(segment) >> piece & 1 == 0 {
            self.metrics.on_problem(now, || {
                format!("viewer {node} relays a piece that it has not verified")
            });
            return;
        }
        let SlotState::Linked(end) = &mut live.slots[usize::from(slot.0)] else {
            return;
        };
        end.buffered += len;
        let link = end.link;
        if matches!(cheat, Cheat::BlackHole) {
            self.queue.push(
                now,
                Event::Sent {
                    node,
                    slot: slot.0,
                    link,
                    len,
                },
            );
            return;
        }
        live.sent_bytes += u64::from(len);
        let Some((end, left, arrival)) = self.transmit(node, slot, len) else {
            return;
        };
        // Flow control: a receiver whose downlink is backed up slows its senders down.
        let backlog =
            self.houses[self.nodes[end.node as usize].viewer.household as usize].down_free;
        self.queue.push(
            left.max(backlog),
            Event::Sent {
                node,
                slot: slot.0,
                link,
                len,
            },
        );
        let (node, slot, link, bad) = (end.node, end.slot, end.link, cheat == Cheat::Polluter);
        self.queue.push(
            arrival,
            Event::Piece {
                node,
                slot,
                link,
                segment,
                piece,
                bad,
                queued: false,
            },
        );
    }

    pub(super) fn sent(&mut self, node: u32, slot: u8, link: u32, len: u32) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if let Some(end) = live.end(slot, link) {
            end.buffered -= len;
            let buffered = end.buffered;
            self.input(
                node,
                Input::Sent {
                    slot: Slot(slot),
                    buffered,
                },
            );
        }
    }

    pub(super) fn frame_arrives(&mut self, node: u32, slot: u8, link: u32, frame: u32) {
        let bytes = self.frames.take(frame);
        let live = self.nodes[node as usize].live.as_mut();
        if live.is_some_and(|live| live.end(slot, link).is_some()) {
            self.input(
                node,
                Input::Frame {
                    slot: Slot(slot),
                    bytes: &bytes,
                },
            );
        }
        self.frames.put_back(frame, bytes);
    }

    pub(super) fn record_arrives(&mut self, node: u32, slot: u8, link: u32, segment: SegmentId) {
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let Some(place) = self.catalog.place_of(segment) else {
            return;
        };
        if live.end(slot, link).is_some() {
            live.stored_mut(segment);
            let record = self.catalog.record(place);
            let source = Source::Peer(Slot(slot));
            self.input(
                node,
                Input::Record {
                    source,
                    record: &record,
                },
            );
        }
    }

    /// A piece has crossed the network; then it crosses the receiver's downlink.
    pub(super) fn piece_arrives(&mut self, node: u32, slot: u8, link: u32, moving: Moving) {
        let Moving {
            segment,
            piece,
            bad,
            queued,
        } = moving;
        let Some(place) = self.catalog.place_of(segment) else {
            return;
        };
        let content = self.catalog.content(place);
        let len = piece_size(&content, u32::from(piece));
        let now = self.now;
        let receiver = &mut self.nodes[node as usize];
        let Some(live) = &mut receiver.live else {
            return;
        };
        if live.end(slot, link).is_none() {
            return;
        }
        if !queued {
            let house = &mut self.houses[receiver.viewer.household as usize];
            let bits = u64::from(len) * 8 * (100 + OVERHEAD_PERCENT) / 100;
            let finish = house
                .down_free
                .max(now.saturating_sub(bits * 1_000_000 / house.down_bps.max(1)))
                + bits * 1_000_000 / house.down_bps.max(1);
            house.down_free = finish;
            if finish > now {
                self.queue.push(
                    finish,
                    Event::Piece {
                        node,
                        slot,
                        link,
                        segment,
                        piece,
                        bad,
                        queued: true,
                    },
                );
                return;
            }
        }
        self.take_piece(node, slot, segment, piece, len, bad);
    }

    fn take_piece(
        &mut self,
        node: u32,
        slot: u8,
        segment: SegmentId,
        piece: u8,
        len: u32,
        bad: bool,
    ) {
        let now = self.now;
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        if bad {
            self.metrics.bad_pieces_seen += 1;
            self.metrics.on_p2p(now, u64::from(len), false);
            self.input(node, Input::Misbehaved(Slot(slot)));
            return;
        }
        let known = live.store.iter().any(|stored| stored.id == segment);
        let stored = live.stored(segment);
        let bit = 1 << piece;
        if !known || stored & bit != 0 {
            self.metrics.on_p2p(now, u64::from(len), false);
            self.input(
                node,
                Input::Surplus {
                    slot: Slot(slot),
                    len,
                },
            );
            return;
        }
        *live.stored_mut(segment) |= bit;
        self.metrics.on_p2p(now, u64::from(len), true);
        self.note(1, node, segment.0 ^ u64::from(piece));
        self.on_stored(node, segment);
        self.input(
            node,
            Input::Pieces {
                source: Source::Peer(Slot(slot)),
                segment,
                bits: bit,
            },
        );
    }
}

/// What somebody who claims to have everything says.
pub(crate) fn falsify(bytes: &[u8]) -> Option<Vec<u8>> {
    let Ok(PeerMsg::Have(mut entries)) = PeerMsg::decode(bytes) else {
        return None;
    };
    for entry in &mut entries {
        entry.bits = u64::MAX;
    }
    let mut forged = Vec::new();
    PeerMsg::Have(entries).encode(&mut forged);
    Some(forged)
}

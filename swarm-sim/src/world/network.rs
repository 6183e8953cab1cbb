//! What goes over links: control messages, records and pieces, and what they cost the access links.

use swarm_core::{
    id::{SegmentId, Slot},
    peer::{Input, Source},
    wire::peer::PeerMsg,
};

use super::{
    catalog::{Place, piece_size},
    event::{At, Event, Moving},
    letters::local_of,
    node::{End, SlotState, Stored, probe_of},
    part::Part,
};
use crate::{population::Cheat, random::chance};

/// Headers of UDP, DTLS and SCTP, and acknowledgements, on top of what is sent, in percent.
const OVERHEAD_PERCENT: u64 = 5;
/// Bytes of a packet.
const PACKET_LEN: u32 = 1150;
/// Bytes of a record with its hashes.
const RECORD_LEN: u32 = 800;
/// Rate of a device on the network of its house or site, in each direction.
const LAN_BPS: u64 = 200_000_000;
/// Pieces that a flooder sends in the place of one.
const FLOOD: usize = 2;
/// A downlink that is busy for longer than this slows its senders down.
const BUSY_US: u64 = 30_000;

/// The far end of a link.
fn far(end: &End) -> At {
    At {
        node: local_of(end.node),
        link: end.link,
        slot: end.slot,
    }
}

impl Part {
    /// When something of `len` bytes that is sent now has left, and when it arrives; it never does
    /// over a link that is cut.
    fn transmit(&mut self, node: u32, slot: Slot, len: u32) -> Option<(End, u64, u64)> {
        let (now, index) = (self.now, usize::from(slot.0));
        let live = self.nodes[node as usize].live.as_mut()?;
        let SlotState::Linked(mut end) = live.slots[index] else {
            return None;
        };
        let wire_bits = u64::from(len) * 8 * (100 + OVERHEAD_PERCENT) / 100 + 400;
        let left = if end.is_lan {
            live.lan_free.0 = live.lan_free.0.max(now) + wire_bits * 1_000_000 / LAN_BPS;
            live.lan_free.0
        } else {
            let house = self.house_of(node);
            house.up_free = house.up_free.max(now) + wire_bits * 1_000_000 / house.up_bps.max(1);
            house.up_free
        };
        let loss = if end.is_lan || self.healed {
            0.0
        } else {
            self.options.access.loss * f64::from(len.div_ceil(PACKET_LEN))
        };
        let retry_us = if loss > 0.0 && chance(&mut self.rng, loss) {
            2 * end.delay_us
        } else {
            0
        };
        let arrival = (left + end.delay_us + retry_us).max(end.last_arrival);
        end.last_arrival = arrival;
        if let Some(live) = &mut self.nodes[node as usize].live {
            live.slots[index] = SlotState::Linked(end);
        }
        (!end.is_cut).then_some((end, left, arrival))
    }

    /// Sends a control message. `shared` is where it is kept once it was sent within this part.
    pub(super) fn send_frame(
        &mut self,
        node: u32,
        slot: Slot,
        bytes: &[u8],
        shared: &mut Option<u32>,
    ) {
        let Some((end, _, arrival)) = self.transmit(node, slot, bytes.len() as u32) else {
            return;
        };
        self.metrics.frames += 1;
        let at = far(&end);
        if !self.is_here(end.node) {
            let to = super::letters::part_of(end.node);
            self.outbox[to].send_framed(arrival, Event::Frame { at, frame: 0 }, bytes);
            return;
        }
        let frame = match *shared {
            Some(frame) => {
                self.frames.add_reader(frame);
                frame
            }
            None => self.frames.add(bytes),
        };
        *shared = Some(frame);
        self.queue.push(arrival, Event::Frame { at, frame });
    }

    pub(super) fn send_record(&mut self, node: u32, slot: Slot, segment: SegmentId) {
        let Some(place) = self.catalog.by_id(segment).map(|segment| segment.place) else {
            return;
        };
        if let Some((end, _, arrival)) = self.transmit(node, slot, RECORD_LEN) {
            let at = far(&end);
            self.post(end.node, arrival, Event::Record { at, place });
        }
    }

    pub(super) fn send_piece(&mut self, node: u32, slot: Slot, segment: SegmentId, piece: u8) {
        let Some(known) = self.catalog.by_id(segment) else {
            return;
        };
        let (place, content) = (known.place, known.content);
        let len = piece_size(&content, u32::from(piece));
        let (now, cheat) = (self.now, self.cheat(node));
        let Some(live) = &mut self.nodes[node as usize].live else {
            return;
        };
        let stored = live.entry(segment).copied();
        let is_probe = piece == probe_of(place.seq(), content.len.div_ceil(content.piece_len));
        let SlotState::Linked(end) = &mut live.slots[usize::from(slot.0)] else {
            return;
        };
        end.buffered += len;
        let here = At {
            node,
            link: end.link,
            slot: slot.0,
        };
        self.check_relay(node, stored, piece);
        if cheat == Cheat::BlackHole {
            self.queue.push(now, Event::Sent { at: here, len });
            return;
        }
        if cheat == Cheat::Flooder {
            self.queue.push(now, Event::Sent { at: here, len });
            return self.flood(node, slot, place, piece);
        }
        self.check_upload(node, len);
        let Some((end, left, arrival)) = self.transmit(node, slot, len) else {
            return;
        };
        // Flow control: a receiver whose downlink is backed up slows its senders down.
        let taken = left.max(end.busy_until);
        self.queue.push(taken, Event::Sent { at: here, len });
        let moving = Moving {
            place,
            piece,
            hop: match stored {
                Some(stored) if is_probe => stored.hop.saturating_add(1),
                _ => 0,
            },
            bad: cheat == Cheat::Polluter,
            queued: false,
        };
        let at = far(&end);
        self.post(end.node, arrival, Event::Piece { at, moving });
    }

    /// In the place of a piece come several that nobody can use: of a segment that nobody knows.
    fn flood(&mut self, node: u32, slot: Slot, place: Place, piece: u8) {
        let unknown = Place::new(place.channel(), place.rendition(), 0);
        let len = piece_size(&self.catalog.segment(unknown).content, u32::from(piece));
        for _ in 0..FLOOD {
            let Some((end, _, arrival)) = self.transmit(node, slot, len) else {
                return;
            };
            let moving = Moving {
                place: unknown,
                piece,
                hop: 0,
                bad: false,
                queued: false,
            };
            self.post(
                end.node,
                arrival,
                Event::Piece {
                    at: far(&end),
                    moving,
                },
            );
        }
    }

    pub(super) fn sent(&mut self, at: At, len: u32) {
        let Some(end) = self.end(at) else { return };
        end.buffered -= len;
        let (slot, buffered) = (Slot(at.slot), end.buffered);
        self.input(at.node, Input::Sent { slot, buffered });
    }

    /// The other side tells how long its downlink will be busy.
    pub(super) fn backlog(&mut self, at: At, until: u64) {
        if let Some(end) = self.end(at) {
            end.busy_until = end.busy_until.max(until);
        }
    }

    pub(super) fn frame_arrives(&mut self, at: At, frame: u32) {
        let message = self.frames.take(frame);
        if self.end(at).is_some() {
            let slot = Slot(at.slot);
            self.input(
                at.node,
                Input::Frame {
                    slot,
                    bytes: message.bytes(),
                },
            );
        }
    }

    pub(super) fn record_arrives(&mut self, at: At, place: Place) {
        if self.end(at).is_none() {
            return;
        }
        let segment = self.catalog.segment(place);
        let (id, record) = (segment.content.id, segment.record.clone());
        if let Some(live) = &mut self.nodes[at.node as usize].live {
            live.store_record(id);
        }
        let source = Source::Peer(Slot(at.slot));
        self.input(
            at.node,
            Input::Record {
                source,
                record: &record,
            },
        );
    }

    /// A piece has crossed the network; then it crosses the receiver's downlink, or that of its device
    /// if it comes from the same house.
    pub(super) fn piece_arrives(&mut self, at: At, moving: Moving) {
        let Some(end) = self.end(at).copied() else {
            return;
        };
        let now = self.now;
        let content = self.catalog.segment(moving.place).content;
        let len = piece_size(&content, u32::from(moving.piece));
        if !moving.queued {
            let bits = u64::from(len) * 8 * (100 + OVERHEAD_PERCENT) / 100;
            let finish = self.cross_downlink(at.node, end.is_lan, bits);
            if finish > now {
                let queued = true;
                let moving = Moving { queued, ..moving };
                self.queue.push(finish, Event::Piece { at, moving });
                if finish > now + BUSY_US {
                    let back = Event::Backlog {
                        at: far(&end),
                        until: finish,
                    };
                    self.post(end.node, now + end.delay_us, back);
                }
                return;
            }
        }
        self.take_piece(at, moving, content.id, len);
    }

    /// When the last of so many bits that are there now has come in.
    fn cross_downlink(&mut self, node: u32, is_lan: bool, bits: u64) -> u64 {
        let now = self.now;
        let (free, bps) = if is_lan {
            let Some(live) = &mut self.nodes[node as usize].live else {
                return now;
            };
            (&mut live.lan_free.1, LAN_BPS)
        } else {
            let house = self.house_of(node);
            (&mut house.down_free, house.down_bps)
        };
        let crossing_us = bits * 1_000_000 / bps.max(1);
        *free = (*free).max(now.saturating_sub(crossing_us)) + crossing_us;
        *free
    }

    fn take_piece(&mut self, at: At, moving: Moving, segment: SegmentId, len: u32) {
        let (now, slot) = (self.now, Slot(at.slot));
        let bit = 1 << moving.piece;
        let Some(live) = &mut self.nodes[at.node as usize].live else {
            return;
        };
        if moving.bad {
            self.metrics.bad_pieces_seen += 1;
            self.metrics.on_p2p(now, u64::from(len), false);
            return self.input(at.node, Input::Misbehaved(slot));
        }
        match live.entry(segment) {
            Some(stored) if stored.bits & bit == 0 => {
                stored.bits |= bit;
                if moving.hop > 0 {
                    stored.hop = moving.hop;
                }
            }
            _ => {
                self.metrics.on_p2p(now, u64::from(len), false);
                return self.input(at.node, Input::Surplus { slot, len });
            }
        }
        self.metrics.on_p2p(now, u64::from(len), true);
        self.note(1, at.node, segment.0 ^ u64::from(moving.piece));
        if moving.hop > 0 {
            let published = (moving.place.seq() + 1) * self.options.segment_us();
            let delay_us = now.saturating_sub(published);
            self.metrics.on_hop(now, moving.hop, delay_us);
        }
        self.on_stored(at.node, moving.place);
        self.input(
            at.node,
            Input::Pieces {
                source: Source::Peer(slot),
                segment,
                bits: bit,
            },
        );
    }
}

/// Whether a piece may be passed on: it is in the store.
pub(super) fn holds(stored: Option<Stored>, piece: u8) -> bool {
    stored.is_some_and(|stored| stored.bits >> piece & 1 != 0)
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

//! The two wires: what the tracker and the neighbours say, and what they are told.

use alloc::vec::Vec;
use core::num::NonZeroU16;

use super::{
    Peer,
    io::{Action, Event, Outbox},
    nat,
    neighbour::{LinkState, Neighbour},
    policy::CloseReason,
    segment::Segment,
    tracker_link::{Introducing, send},
};
use crate::{
    id::{PeerId, Slot, TrackId},
    limits::{HAVE_ENTRIES_MAX, NEIGHBOURS_MAX},
    wire::{
        peer::{PeerMsg, PeerStatus, Pieces},
        tracker::{Introduction, LinkOutcome, TrackerMsg, ViewerFlags, ViewerMsg},
    },
};

/// How often links are looked after: pings, status, silence.
pub(super) const LINK_CHECK_MS: u64 = 2000;

impl Peer {
    pub(super) fn introducing(&self) -> Introducing {
        Introducing {
            track: self.main_track(),
            flags: self.flags,
            nat: self.nat,
            upload_kbps: self.upload_kbps(),
        }
    }

    pub(super) fn upload_kbps(&self) -> u32 {
        (self.allowance.rate_bps() / 1000).min(u64::from(u32::MAX)) as u32
    }

    /// The track that the viewer is grouped by: the one with the largest segments, the video.
    pub(super) fn main_track(&self) -> TrackId {
        let size = |track: TrackId| {
            let of_track = self.segments.iter().filter(|s| s.track() == Some(track));
            of_track
                .filter_map(Segment::content)
                .map(|content| content.len)
                .max()
                .unwrap_or(0)
        };
        let tracks = self.tracks.ids();
        tracks
            .iter()
            .copied()
            .max_by_key(|track| (size(*track), *track))
            .unwrap_or_default()
    }

    pub(super) fn handle_tracker_frame(&mut self, frame: &[u8], out: &mut Outbox) {
        let Ok(message) = TrackerMsg::decode(frame) else {
            // A tracker that speaks something else is as good as none.
            out.push(Action::TrackerClose);
            self.tracker
                .handle_down(self.now, &self.policy, &mut self.rng, out);
            return;
        };
        match message {
            TrackerMsg::Welcome(welcome) => {
                self.links_target = welcome.links_target.clamp(1, NEIGHBOURS_MAX as u8);
                if self
                    .tracker
                    .handle_welcome(self.now, &welcome, &self.policy, out)
                {
                    self.touch_view();
                    self.greet_all(out);
                }
                // A tracker that has forgotten everything learns of the links that have lasted.
                for neighbour in self.neighbours.ready().filter(|n| n.is_measured()) {
                    self.report_link(neighbour.peer, LinkOutcome::Up, neighbour.rtt_ms, out);
                }
            }
            TrackerMsg::Introduce(introduction) => self.handle_introduction(introduction, out),
            TrackerMsg::Signal { from, payload } => {
                let known = self
                    .neighbours
                    .by_peer(from)
                    .map(|neighbour| neighbour.slot);
                if let Some(slot) = known {
                    let payload = out.write(|bytes| bytes.extend_from_slice(payload));
                    out.push(Action::Signal { slot, payload });
                }
            }
            TrackerMsg::Gone { peer } => {
                let gone = self.neighbours.by_peer(peer).filter(|n| !n.is_ready());
                if let Some(slot) = gone.map(|neighbour| neighbour.slot) {
                    self.close(slot, CloseReason::Left, out);
                }
            }
            TrackerMsg::Shun { peer } => {
                let shunned = self.neighbours.by_peer(peer).map(|n| n.slot);
                if let Some(slot) = shunned {
                    self.close(slot, CloseReason::Misbehaved, out);
                }
            }
            TrackerMsg::Reconnect { after_ms, places } => {
                self.tracker.handle_places(&places, out);
                self.tracker
                    .handle_reconnect(self.now, after_ms, &self.policy, &mut self.rng, out);
            }
            TrackerMsg::Relays(relays) => {
                let words = [relays.username, relays.credential].into_iter();
                let words: Vec<&str> = words.chain(relays.urls.iter().copied()).collect();
                let servers = out.write(|bytes| bytes.extend(words.join("\n").into_bytes()));
                let only = relays.only;
                out.push(Action::UseRelays { servers, only });
            }
            TrackerMsg::Refused { code, .. } => {
                self.tracker
                    .handle_refused(self.now, code, &self.policy, &mut self.rng, out);
            }
        }
    }

    fn handle_introduction(&mut self, introduction: Introduction, out: &mut Outbox) {
        let peer = introduction.peer;
        let elsewhere = introduction.flags.has(ViewerFlags::ELSEWHERE);
        if Some(peer) == self.tracker.me() {
            return;
        }
        if let Some(slot) = self.neighbours.by_peer(peer).map(|known| known.slot) {
            return self.set_bridge(slot, elsewhere);
        }
        let native = introduction.flags.has(ViewerFlags::NATIVE);
        match self.neighbours.add(peer, native, self.now) {
            Some(slot) => {
                self.set_bridge(slot, elsewhere);
                let offer = introduction.offer;
                out.push(Action::Connect {
                    slot,
                    peer,
                    offer,
                    native,
                });
                let check_at = self.now.plus_ms(LINK_CHECK_MS);
                self.link_check_at.get_or_insert(check_at);
            }
            None => self.report_link(peer, LinkOutcome::Failed, 0, out),
        }
    }

    fn set_bridge(&mut self, slot: Slot, bridge: bool) {
        if self.neighbours.set_bridge(slot, bridge) {
            self.touch_view();
        }
    }

    pub(super) fn report_link(
        &self,
        peer: PeerId,
        outcome: LinkOutcome,
        rtt_ms: u16,
        out: &mut Outbox,
    ) {
        if self.tracker.is_joined() {
            send(
                &ViewerMsg::Link {
                    peer,
                    outcome,
                    rtt_ms,
                },
                out,
            );
        }
    }

    pub(super) fn handle_signal(&mut self, slot: Slot, payload: &[u8], out: &mut Outbox) {
        let Some(neighbour) = self.neighbours.get(slot) else {
            return;
        };
        if self.tracker.is_joined() && payload.len() <= crate::limits::SIGNAL_LEN_MAX {
            send(
                &ViewerMsg::Signal {
                    to: neighbour.peer,
                    payload,
                },
                out,
            );
        }
        let stun_count = self.tracker.stun_count();
        let nat = nat::on_signal(&mut self.nat_probe, slot, stun_count, payload);
        if let Some(nat) = nat.filter(|nat| *nat != self.nat) {
            self.nat = nat;
            self.tracker.hasten_status(self.now);
        }
    }

    pub(super) fn handle_link_up(&mut self, slot: Slot, out: &mut Outbox) {
        let now = self.now;
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            out.push(Action::Close {
                slot,
                reason: CloseReason::Lost,
            });
            return;
        };
        if neighbour.state != LinkState::Connecting {
            return;
        }
        neighbour.heard = now.into();
        self.neighbours.on_state(slot, LinkState::Open, now);
        self.greet(slot, out);
    }

    fn greet(&mut self, slot: Slot, out: &mut Outbox) {
        if let Some(peer) = self.tracker.me() {
            let status = self.status();
            self.send(slot, &PeerMsg::Hello { peer, status }, out);
        }
    }

    fn greet_all(&mut self, out: &mut Outbox) {
        for slot in self.greeted() {
            self.greet(slot, out);
        }
    }

    /// Those to whom this viewer has said who it is, or does so once the tracker has told.
    pub(super) fn greeted(&self) -> Vec<Slot> {
        match self.tracker.me() {
            Some(_) => self.slots(|neighbour| neighbour.state != LinkState::Connecting),
            None => Vec::new(),
        }
    }

    pub(super) fn slots(&self, which: impl Fn(&Neighbour) -> bool) -> Vec<Slot> {
        self.neighbours
            .iter()
            .filter(|n| which(n))
            .map(|n| n.slot)
            .collect()
    }

    pub(super) fn handle_link_down(&mut self, slot: Slot, out: &mut Outbox) {
        let Some(neighbour) = self.neighbours.get(slot) else {
            return;
        };
        let failed = neighbour.state == LinkState::Connecting;
        let outcome = if failed {
            LinkOutcome::Failed
        } else {
            LinkOutcome::Lost
        };
        self.report_link(neighbour.peer, outcome, 0, out);
        self.forget_link(slot, CloseReason::Lost, out);
    }

    /// Closes a link on this side's own account.
    pub(super) fn close(&mut self, slot: Slot, reason: CloseReason, out: &mut Outbox) {
        out.push(Action::Close { slot, reason });
        self.forget_link(slot, reason, out);
    }

    fn forget_link(&mut self, slot: Slot, reason: CloseReason, out: &mut Outbox) {
        let now = self.now;
        if let Some(neighbour) = self.neighbours.remove(slot) {
            out.push(Action::Emit(Event::PeerDown {
                slot,
                peer: neighbour.peer,
                reason,
            }));
        }
        for segment in &mut self.segments {
            if let Some(duty) = segment.duty_if_any() {
                duty.forget_slot(slot);
            }
            if let Some(work) = segment.work_if_any() {
                work.forget_slot(slot, now);
            }
        }
        self.remotes.forget_slot(slot);
        self.forget_promises(slot);
        self.upload_stale = true;
        self.touch_all();
        self.stats.links = self.neighbours.ready_count() as u32;
        self.tracker.hasten_status(now);
    }

    pub(super) fn handle_misbehaved(&mut self, slot: Slot, out: &mut Outbox) {
        self.stats.bad_pieces += 1;
        if let Some(neighbour) = self.neighbours.get(slot) {
            self.report_link(neighbour.peer, LinkOutcome::Misbehaved, 0, out);
            self.close(slot, CloseReason::Misbehaved, out);
        }
    }

    pub(super) fn handle_frame(&mut self, slot: Slot, bytes: &[u8], out: &mut Outbox) {
        let now = self.now;
        // A message proves that the link is up, whatever the driver's queues do to the order.
        let known = self.neighbours.get(slot);
        if known.is_some_and(|n| n.state == LinkState::Connecting) {
            self.handle_link_up(slot, out);
        }
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            return;
        };
        neighbour.heard = now.into();
        let Ok(message) = PeerMsg::decode(bytes) else {
            return self.handle_misbehaved(slot, out);
        };
        let is_hello = matches!(message, PeerMsg::Hello { .. });
        if !is_hello && !neighbour.is_ready() && !matches!(message, PeerMsg::Bye) {
            return self.handle_misbehaved(slot, out);
        }
        match message {
            PeerMsg::Hello { peer, status } => self.handle_hello(slot, peer, status, out),
            PeerMsg::Status(status) => {
                if self.neighbours.on_status(slot, &status) {
                    self.touch_view();
                }
            }
            PeerMsg::Have(entries) => self.handle_have(slot, &entries),
            PeerMsg::Want(pieces) => self.handle_want(slot, pieces, out),
            PeerMsg::Claim {
                name,
                stripes,
                stripe_count,
                division,
            } => self.handle_claim(slot, name, (stripes, stripe_count), &division, out),
            PeerMsg::Reject(pieces) => self.handle_reject(slot, pieces),
            PeerMsg::Skip(pieces) => {
                if let Some(row) = self.remotes.row_mut(pieces.segment) {
                    row.update(slot, |cell| cell.on_skip(pieces.bits));
                }
            }
            PeerMsg::Bye => self.close(slot, CloseReason::Left, out),
            PeerMsg::Ping(nonce) => self.send(slot, &PeerMsg::Pong(nonce), out),
            PeerMsg::Pong(nonce) => self.handle_pong(slot, nonce, out),
        }
    }

    fn handle_hello(&mut self, slot: Slot, peer: PeerId, status: PeerStatus, out: &mut Outbox) {
        let now = self.now;
        let twin = self
            .neighbours
            .iter()
            .find(|n| n.peer == peer && n.slot != slot);
        let twin = twin.map(|n| (n.slot, n.is_ready()));
        let Some(neighbour) = self.neighbours.get(slot) else {
            return;
        };
        let (was_ready, reported) = (neighbour.is_ready(), neighbour.is_measured());
        let rtt_ms = neighbour.rtt_ms;
        match twin {
            // The tracker introduced somebody by a new name before this link told it.
            Some((twin, false)) if was_ready => self.close(twin, CloseReason::Replaced, out),
            // Nobody is linked twice, and nobody takes another's name.
            Some(_) => return self.close(slot, CloseReason::Replaced, out),
            None if !was_ready && neighbour.peer != peer => {
                return self.close(slot, CloseReason::Replaced, out);
            }
            None => {}
        }
        let was_called = self.neighbours.rename(slot, peer);
        self.neighbours.on_status(slot, &status);
        if !was_ready {
            self.neighbours.on_state(slot, LinkState::Ready, now);
            out.push(Action::Emit(Event::PeerUp { slot, peer }));
            self.send_all_haves(slot, out);
            self.ping(slot, out);
        } else if was_called != Some(peer) && reported {
            self.report_link(peer, LinkOutcome::Up, rtt_ms, out);
        }
        self.touch_view();
        self.stats.links = self.neighbours.ready_count() as u32;
    }

    /// The group of possible seeders has changed.
    pub(super) fn touch_view(&mut self) {
        self.neighbours.touch_view();
        self.upload_stale = true;
        self.touch_all();
    }

    fn handle_have(&mut self, slot: Slot, entries: &[Pieces]) {
        for Pieces { segment: id, bits } in entries {
            let known = self.segments.iter().rposition(|s| s.id() == Some(*id));
            let Some(index) = known else {
                let row = self.remotes.entry(*id, false);
                row.update(slot, |cell| cell.have = *bits);
                continue;
            };
            let known = &self.segments[index];
            let (full, is_complete) = (known.full(), known.is_complete());
            if !is_complete {
                self.touch_segment(index);
            }
            if is_complete && self.remotes.row(*id).is_none() {
                continue;
            }
            let row = self.remotes.entry(*id, true);
            row.update(slot, |cell| cell.on_have(*bits));
            let is_listed = self.segments[index].track().is_some();
            // Before, it is not known who is to have it, and what was sent would be sent again.
            if is_listed && is_complete && bits & full == full {
                let known = &mut self.segments[index];
                let mask = self.neighbours.masks(known.track()).playing;
                if self.remotes.forget_if_done(*id, full, mask) {
                    known.stop_pushing();
                }
            }
        }
    }

    fn handle_reject(&mut self, slot: Slot, pieces: Pieces) {
        if let Some(row) = self.remotes.row_mut(pieces.segment) {
            row.update(slot, |cell| cell.have &= !pieces.bits);
        }
        let rejected = |s: &&mut Segment| s.id() == Some(pieces.segment);
        if let Some(segment) = self.segments.iter_mut().find(rejected) {
            if let Some(work) = segment.work_if_any() {
                work.ask_no_more(pieces.bits, |pull| pull.slot == slot);
            }
            segment.spoil();
            self.plans_stale = true;
        }
    }

    fn send_all_haves(&mut self, slot: Slot, out: &mut Outbox) {
        let held = self
            .segments
            .iter()
            .filter(|s| s.have() != 0 && s.has_record);
        let pieces = held.filter_map(|s| {
            s.id().map(|segment| Pieces {
                segment,
                bits: s.have(),
            })
        });
        let entries: Vec<Pieces> = pieces.collect();
        for entries in entries.chunks(HAVE_ENTRIES_MAX) {
            self.send(slot, &PeerMsg::Have(entries.to_vec()), out);
        }
    }

    fn handle_want(&mut self, slot: Slot, pieces: Pieces, out: &mut Outbox) {
        let Pieces { segment: id, bits } = pieces;
        let known = self.segments.iter().find(|s| s.id() == Some(id));
        let able = match known.filter(|_| self.allowance.is_open()) {
            // What is not there yet is on its way.
            Some(segment) if segment.fresh || segment.is_complete() => segment.full(),
            Some(segment) if segment.has_record => segment.have(),
            _ => 0,
        };
        let missing = bits & !able;
        if missing != 0 {
            let rejected = Pieces {
                segment: id,
                bits: missing,
            };
            self.send(slot, &PeerMsg::Reject(rejected), out);
        }
        if able != 0 && self.neighbours.get(slot).is_some() {
            let row = self.remotes.entry(id, true);
            row.update(slot, |cell| cell.on_want(bits & able));
            self.upload_stale = true;
        }
    }

    fn handle_pong(&mut self, slot: Slot, nonce: u32, out: &mut Outbox) {
        let now = self.now;
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            return;
        };
        let was_measured = neighbour.is_measured();
        if neighbour.on_pong(nonce, now) && !was_measured {
            let (peer, rtt_ms) = (neighbour.peer, neighbour.rtt_ms);
            self.report_link(peer, LinkOutcome::Up, rtt_ms, out);
        }
    }

    pub(super) fn ping(&mut self, slot: Slot, out: &mut Outbox) {
        let nonce = NonZeroU16::new(self.rng.next_u64() as u16).unwrap_or(NonZeroU16::MIN);
        if let Some(neighbour) = self.neighbours.get_mut(slot) {
            neighbour.on_ping(nonce, self.now);
        }
        self.send(slot, &PeerMsg::Ping(nonce.get().into()), out);
    }

    pub(super) fn send(&mut self, slot: Slot, message: &PeerMsg, out: &mut Outbox) {
        let frame = out.write(|bytes| message.encode(bytes));
        out.push(Action::SendFrame { slot, frame });
    }

    /// Sends a message to everybody who is ready.
    pub(super) fn send_all(&mut self, message: &PeerMsg, out: &mut Outbox) {
        self.send_to(message, |_| true, out);
    }

    /// Sends a message to those who are ready and whom `which` accepts.
    pub(super) fn send_to(
        &self,
        message: &PeerMsg,
        which: impl Fn(&Neighbour) -> bool,
        out: &mut Outbox,
    ) {
        let frame = out.write(|bytes| message.encode(bytes));
        for neighbour in self.neighbours.ready().filter(|n| which(n)) {
            out.push(Action::SendFrame {
                slot: neighbour.slot,
                frame: frame.clone(),
            });
        }
    }
}

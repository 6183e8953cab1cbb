//! What drivers do with actions, in the small world.

use super::*;
use crate::wire::{
    peer::PeerMsg,
    tracker::{Distance, Introduction, LinkOutcome, TrackerMsg, ViewerMsg, Welcome},
};

/// Accusers whose word is enough for everybody.
const ACCUSERS_MAX: usize = 3;

impl World {
    pub(super) fn act(&mut self, index: usize, action: Action, arena: &[u8]) {
        let bytes =
            |span: &core::ops::Range<u32>| arena[span.start as usize..span.end as usize].to_vec();
        match action {
            Action::FetchCdn { fetch, name, range } => self.fetch_begins(index, fetch, name, range),
            Action::CancelFetch(fetch) => {
                self.nodes[index].fetches.remove(&fetch);
            }
            Action::Release { .. } => unreachable!("players here take whole segments"),
            Action::Deliver {
                request,
                payload,
                reported_bps,
            } => {
                self.nodes[index].reported_bps.push(reported_bps);
                self.delivered(index, request, payload);
            }
            Action::Bypass(request) => self.bypass(index, request),
            Action::Fail { request, .. } => {
                if self.nodes[index].waiting == Some(request) {
                    self.nodes[index].waiting = None;
                }
            }
            Action::Connect {
                slot, peer, offer, ..
            } => self.connect(index, slot, peer, offer),
            Action::Close { slot, .. } => self.close(index, slot),
            Action::SendFrame { slot, frame } => {
                let bytes = bytes(&frame);
                self.transmit(index, slot, bytes.len() as u32, |slot, link| {
                    Happening::Frame { slot, link, bytes }
                });
            }
            Action::SendRecord { slot, segment } => {
                self.transmit(index, slot, 1000, |slot, link| Happening::Record {
                    slot,
                    link,
                    segment,
                });
            }
            Action::SendPiece {
                slot,
                segment,
                piece,
            } => {
                self.send_piece(index, slot, segment, piece);
            }
            Action::TrackerConnect => self.schedule(20, index, Happening::TrackerUp),
            Action::SendTracker(span) => self.tracker_hears(index, &bytes(&span)),
            Action::Evict(id) => {
                self.nodes[index].store.remove(&id);
            }
            Action::Emit(Event::Backstop { .. }) => self.nodes[index].backstops += 1,
            Action::Signal { .. }
            | Action::TrackerClose
            | Action::UseStun(_)
            | Action::UseRelays { .. }
            | Action::UseTracker(_)
            | Action::Emit(_) => {}
        }
    }

    /// As without P2P: the whole segment, after the CDN's time.
    fn bypass(&mut self, index: usize, request: RequestId) {
        let seq = self.nodes[index].next_seq.expect("it has asked");
        self.serve(seq, u64::from(self.segment_len()));
        let fetch = FetchId(u32::MAX - request.0);
        let fetching = Fetching {
            name: Name(seq),
            range: None,
            since: self.now,
        };
        self.nodes[index].fetches.insert(fetch, fetching);
        let step = u32::MAX;
        let ms = self.cdn_ms(self.segment_len());
        self.schedule(ms, index, Happening::FetchStep { fetch, step });
    }

    fn serve(&mut self, seq: u64, bytes: u64) {
        self.cdn_bytes += bytes;
        *self.cdn_segment_bytes.entry(seq).or_insert(0) += bytes;
    }

    fn cdn_ms(&self, len: u32) -> u64 {
        self.options.cdn_ttfb_ms + u64::from(len) * 8000 / self.options.cdn_bps
    }

    fn fetch_begins(
        &mut self,
        index: usize,
        fetch: FetchId,
        name: Name,
        range: Option<(u32, u32)>,
    ) {
        let len = range.map_or(self.segment_len(), |(_, len)| len);
        let since = self.now;
        self.nodes[index]
            .fetches
            .insert(fetch, Fetching { name, range, since });
        if !self.cdn_up {
            return self.schedule(
                50,
                index,
                Happening::FetchStep {
                    fetch,
                    step: u32::MAX - 1,
                },
            );
        }
        self.serve(name.0, u64::from(len));
        let total_ms = self.cdn_ms(len) - self.options.cdn_ttfb_ms;
        for step in 1..=FETCH_STEPS {
            let ms = self.options.cdn_ttfb_ms + total_ms * u64::from(step) / u64::from(FETCH_STEPS);
            self.schedule(ms, index, Happening::FetchStep { fetch, step });
        }
    }

    pub(super) fn fetch_step(&mut self, index: usize, fetch: FetchId, step: u32) {
        let Some(fetching) = self.nodes[index].fetches.get(&fetch) else {
            return;
        };
        let (name, range, since) = (fetching.name, fetching.range, fetching.since);
        let done = |outcome, bytes, now: Instant| Input::FetchDone {
            fetch,
            outcome,
            bytes,
            ttfb_ms: 40,
            total_ms: now.ms_since(since) as u32,
        };
        if step == u32::MAX {
            self.nodes[index].fetches.remove(&fetch);
            let request = RequestId(u32::MAX - fetch.0);
            return self.delivered(index, request, Payload::Fetch(fetch));
        }
        if step == u32::MAX - 1 {
            self.nodes[index].fetches.remove(&fetch);
            return self.input(index, done(FetchOutcome::Failed, 0, self.now));
        }
        let record = self.record(name.0);
        let (first, len) = range.unwrap_or((0, record.len));
        if !self.options.records {
            if step == FETCH_STEPS {
                self.input(index, done(FetchOutcome::Unverified, len, self.now));
            }
            return;
        }
        if step == 1 {
            self.input(
                index,
                Input::Record {
                    source: Source::Cdn(fetch),
                    record: &record,
                },
            );
        }
        let id = record.id();
        let arrived = u64::from(len) * u64::from(step) / u64::from(FETCH_STEPS);
        let stored = self.nodes[index].store.entry(id).or_insert(0);
        let mut bits = 0;
        for piece in 0..record.piece_hashes.len() as u32 {
            let from = u64::from(piece * record.piece_len);
            let to = from + u64::from(record.piece_size(piece));
            if from >= u64::from(first) && to <= u64::from(first) + arrived {
                bits |= 1 << piece;
            }
        }
        let new = bits & !*stored;
        *stored |= bits;
        if new != 0 {
            let source = Source::Cdn(fetch);
            self.input(
                index,
                Input::Pieces {
                    source,
                    segment: id,
                    bits: new,
                },
            );
        }
        if step == FETCH_STEPS {
            self.nodes[index].fetches.remove(&fetch);
            self.input(index, done(FetchOutcome::Verified, len, self.now));
        }
    }

    fn transmit(
        &mut self,
        index: usize,
        slot: Slot,
        len: u32,
        make: impl FnOnce(Slot, u64) -> Happening,
    ) -> Option<Instant> {
        let end = *self.nodes[index].links.get(&slot)?;
        let node = &mut self.nodes[index];
        let busy_us = u64::from(len) * 8_000_000 / (self.options.upload_bps * 2);
        node.uplink_free = node.uplink_free.max(self.now).plus_us(busy_us);
        let left = node.uplink_free;
        let at = left.plus_ms(self.options.latency_ms);
        self.schedule_at(at, end.node, make(end.slot, end.link));
        Some(left)
    }

    fn send_piece(&mut self, index: usize, slot: Slot, segment: SegmentId, piece: u8) {
        let stored = self.nodes[index].store.get(&segment).copied().unwrap_or(0);
        assert!(
            stored >> piece & 1 == 1,
            "sent a piece that is not verified and stored"
        );
        let record = self.record_of(segment).expect("only real segments");
        let len = record.piece_size(u32::from(piece));
        let Some(end) = self.nodes[index].links.get_mut(&slot) else {
            return;
        };
        end.buffered += len;
        let link = end.link;
        let cheat = self.nodes[index].cheat;
        if cheat == Cheat::BlackHole {
            return self.schedule(1, index, Happening::Sent { slot, link, len });
        }
        let good = cheat != Cheat::Corrupts;
        let left = self.transmit(index, slot, len, |slot, link| Happening::Piece {
            slot,
            link,
            segment,
            piece,
            good,
        });
        if let Some(left) = left {
            self.schedule_at(left, index, Happening::Sent { slot, link, len });
        }
    }

    fn connect(&mut self, index: usize, slot: Slot, peer: PeerId, _offer: bool) {
        self.nodes[index].connecting.insert(slot, peer);
        let me = self.nodes[index].id;
        let Some(other) = self.nodes.iter().position(|n| n.id == peer && n.alive) else {
            return;
        };
        let theirs = self.nodes[other].connecting.iter().find(|(_, p)| **p == me);
        let Some(other_slot) = theirs.map(|(slot, _)| *slot) else {
            return;
        };
        self.links += 1;
        let link = self.links;
        for (node, slot, far, far_slot) in [
            (index, slot, other, other_slot),
            (other, other_slot, index, slot),
        ] {
            self.nodes[node].connecting.remove(&slot);
            let end = End {
                node: far,
                slot: far_slot,
                link,
                buffered: 0,
            };
            self.nodes[node].links.insert(slot, end);
            let late_ms = if self.options.hello_first && node == index {
                200
            } else {
                0
            };
            self.schedule(300 + late_ms, node, Happening::LinkUp { slot, link });
        }
    }

    fn close(&mut self, index: usize, slot: Slot) {
        self.nodes[index].connecting.remove(&slot);
        let Some(end) = self.nodes[index].links.remove(&slot) else {
            return;
        };
        if self.nodes[end.node].links.remove(&end.slot).is_some() && self.nodes[end.node].alive {
            self.input(end.node, Input::LinkDown(end.slot));
        }
    }

    fn tracker_hears(&mut self, index: usize, frame: &[u8]) {
        let message = ViewerMsg::decode(frame).expect("viewers speak the protocol");
        let join = match message {
            _ if !self.tracker_up => return,
            ViewerMsg::Join(join) => join,
            ViewerMsg::Link {
                peer,
                outcome: LinkOutcome::Misbehaved,
                ..
            } => return self.accuse(index, peer),
            ViewerMsg::Link {
                peer,
                outcome: LinkOutcome::Up,
                ..
            } => return self.nodes[index].linked.push(peer),
            _ => return,
        };
        assert_eq!(join.stream, STREAM);
        let welcome = TrackerMsg::Welcome(Welcome {
            peer: self.nodes[index].id,
            secret: 1,
            status_interval_ms: 5000,
            links_target: 14,
            stun: vec![],
        });
        self.tell(index, &welcome);
        for other in 0..self.nodes.len() {
            let known = |world: &Self, a: usize, b: usize| {
                world.nodes[a].links.values().any(|end| end.node == b)
            };
            if other == index || !self.nodes[other].alive || known(self, index, other) {
                continue;
            }
            for (to, about, offer) in [(index, other, true), (other, index, false)] {
                let introduce = TrackerMsg::Introduce(Introduction {
                    peer: self.nodes[about].id,
                    offer,
                    flags: ViewerFlags::NATIVE,
                    distance: Distance::Metro,
                });
                self.tell(to, &introduce);
            }
        }
    }

    /// As the directory does it: the word of some is enough for all.
    fn accuse(&mut self, by: usize, peer: PeerId) {
        let Some(accused) = self.nodes.iter_mut().find(|node| node.id == peer) else {
            return;
        };
        if accused.accusers.insert(by) && accused.accusers.len() == ACCUSERS_MAX {
            for index in 0..self.nodes.len() {
                self.tell(index, &TrackerMsg::Shun { peer });
            }
        }
    }

    pub(in crate::peer::tests) fn tell(&mut self, index: usize, message: &TrackerMsg<'_>) {
        let mut frame = vec![];
        message.encode(&mut frame);
        self.schedule(10, index, Happening::TrackerFrame(frame));
    }

    /// Sends a raw control message from one viewer to another, whatever the core thinks of it.
    pub(in crate::peer::tests) fn inject(&mut self, from: usize, to: usize, message: &PeerMsg) {
        let ends: Vec<(Slot, End)> = self.nodes[to]
            .links
            .iter()
            .map(|(slot, end)| (*slot, *end))
            .collect();
        let mut bytes = vec![];
        message.encode(&mut bytes);
        for (slot, _) in ends.into_iter().filter(|(_, end)| end.node == from) {
            self.input(
                to,
                Input::Frame {
                    slot,
                    bytes: &bytes,
                },
            );
        }
    }
}

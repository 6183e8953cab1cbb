//! Bytes that arrive: records, pieces, and the ends of fetches.

use alloc::vec::Vec;

use super::{
    Peer,
    duty::Claim,
    estimate::goodput_bps,
    io::{Action, Event, FetchOutcome, Outbox, Payload, Source},
    pulls::Pull,
    segment::{GROUP, Segment},
};
use crate::{
    id::{FetchId, Name, SegmentId, Slot},
    record::Record,
    time::Instant,
    timeline::Content,
};

/// How long a promise is believed after the last piece that kept it.
const CLAIM_PROGRESS_MS: u64 = 1000;
/// After this many failed fetches of a segment the player is told.
const FETCH_FAILURES_MAX: u8 = 3;
/// While a segment lasts, have-maps are sent at most so many times.
const HAVE_BATCHES_PER_SEGMENT: u64 = 12;
/// Wait before a failed fetch is tried again, doubled each time.
const FETCH_RETRY_MS: u64 = 250;

/// A fetch from the CDN under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) id: FetchId,
    pub(super) name: Name,
    /// Pieces that it will bring; 0 while the content is unknown.
    pub(super) bits: u64,
    pub(super) whole: bool,
    /// Made for the group: goes on when the player loses interest, and what it brings is pushed.
    pub(super) seeding: bool,
    /// What had come from the CDN when it was made, and when that was.
    pub(super) arrived: u64,
    pub(super) since: Instant,
    /// Bytes of pieces that it has brought so far, and when it brought the last of them.
    pub(super) brought: u32,
    pub(super) brought_at: Instant,
}

/// What a player is told of a CDN that nobody has measured, of the bitrate that it plays: players stay with a rendition that
/// takes 70 to 80 % of the bandwidth.
const STAYS_PERCENT: u64 = 150;

/// A fetch of a part of a segment is raced when it has taken so long.
const RACED_AFTER_MS: u64 = 500;

impl Fetch {
    /// Whether neighbours may bring what it brings.
    pub(super) fn is_raced(&self, now: Instant) -> bool {
        self.whole || (!self.seeding && now.ms_since(self.since) >= RACED_AFTER_MS)
    }
}

impl Peer {
    pub(super) fn handle_record(&mut self, source: Source, record: &Record, out: &mut Outbox) {
        let content = Content {
            id: record.id(),
            len: record.len,
            piece_len: record.piece_len,
            epoch: record.epoch,
        };
        let known = self
            .segments
            .iter()
            .position(|segment| segment.name == record.name);
        let Some(index) = known.or_else(|| self.add_unlisted(record.name, record.seq, out)) else {
            out.push(Action::Evict(content.id));
            return;
        };
        let segment = &mut self.segments[index];
        if let Some(replaced) = segment.set_content(content) {
            out.push(Action::Evict(replaced.id));
        }
        if segment.id() != Some(content.id) {
            // A record of an older epoch: its bytes are not wanted here.
            out.push(Action::Evict(content.id));
            return;
        }
        segment.has_record = true;
        let (name, full) = (segment.name, segment.full());
        match source {
            Source::Cdn(id) => {
                let of = |f: &&mut Fetch| f.id == id && f.name == name && f.whole;
                if let Some(fetch) = self.fetches.iter_mut().find(of) {
                    let was_unknown = core::mem::replace(&mut fetch.bits, full) == 0;
                    if was_unknown && fetch.seeding {
                        self.claim_again(index, out);
                    }
                }
            }
            Source::Peer(slot) => self.remotes.entry(content.id, true).note_record(slot),
        }
        self.believe_all(index, out);
    }

    pub(super) fn handle_pieces(
        &mut self,
        source: Source,
        id: SegmentId,
        bits: u64,
        out: &mut Outbox,
    ) {
        let Some(index) = self.segments.iter().rposition(|s| s.id() == Some(id)) else {
            return;
        };
        let segment = &mut self.segments[index];
        let sent = bits;
        let bits = bits & segment.full() & !segment.have();
        let is_whole = bits != 0 && segment.have() | bits == segment.full();
        self.note_progress(index, bits, is_whole);
        let segment = &mut self.segments[index];
        let len = u64::from(segment.len_of(bits));
        self.downlink.on_arrival(self.now, len);
        let pulls = segment
            .work()
            .pulls
            .iter()
            .filter(|pull| pull.bits & bits != 0);
        let (theirs, elsewhere): (Vec<Pull>, Vec<Pull>) =
            pulls.partition(|pull| source == Source::Peer(pull.slot));
        if let Some(work) = segment.work_if_any() {
            work.ask_no_more(bits, |_| true);
            work.pushers
                .retain(|(piece, slot)| bits >> piece & 1 == 0 || source != Source::Peer(*slot));
        }
        let was_pulled = !theirs.is_empty() || !elsewhere.is_empty();
        match source {
            Source::Cdn(id) => {
                let len = segment.len_of(bits);
                self.cdn_arrived += u64::from(len);
                if let Some(fetch) = self.fetches.iter_mut().find(|fetch| fetch.id == id) {
                    fetch.brought = fetch.brought.saturating_add(len);
                    fetch.brought_at = self.now;
                }
            }
            Source::Peer(slot) => {
                let asked = theirs
                    .iter()
                    .find(|pull| pull.held)
                    .map(|pull| pull.asked.get());
                self.note_gift(index, slot, bits, was_pulled);
                self.note_giver(slot, asked);
            }
        }
        if was_pulled {
            self.touch_all();
        }
        for pull in elsewhere {
            self.ask_less(index, pull.slot, bits, out);
        }
        self.note_broken(index, bits);
        self.skip(index, bits, out);
        self.release_pieces(index, out);
        self.plan_pushes(index, bits);
        self.note_for_bridges(index, bits);
        self.announce_soon(index, is_whole);
        if is_whole {
            self.segments[index].settle();
        }
        self.cancel_brought(index, source, sent, out);
    }

    /// Pieces of a segment are there: how it comes along.
    fn note_progress(&mut self, index: usize, bits: u64, is_whole: bool) {
        let segment = &mut self.segments[index];
        segment.news |= GROUP;
        if bits == 0 {
            // Nothing is under way for what may be whole already.
            return;
        }
        segment.duty_mut().have |= bits;
        let age_ms = self.now.ms_since(segment.known_at());
        let age_ms = age_ms.min(u64::from(u32::MAX)) as u32;
        let began_ms = *segment.work_mut().began_ms.get_or_insert(age_ms);
        if is_whole && segment.fresh {
            let took_ms = age_ms - began_ms;
            let usual_ms = (self.pace_ms / 4).saturating_mul(3);
            self.pace_ms = usual_ms.saturating_add(took_ms / 4);
        }
    }

    /// A neighbour has sent these pieces: what it means for passing them on, and for promises.
    fn note_gift(&mut self, index: usize, slot: Slot, bits: u64, was_pulled: bool) {
        let now = self.now;
        let segment = &mut self.segments[index];
        let len = segment.len_of(bits);
        segment.bytes_p2p = segment.bytes_p2p.saturating_add(len);
        self.stats.bytes_p2p += u64::from(len);
        let is_handed = |claim: &&Claim| claim.slot == slot || was_pulled;
        let handed = segment.work().claims.iter().filter(is_handed);
        let mine = handed.fold(0, |mine, claim| mine | claim.mine) & bits;
        if mine != 0 {
            segment.duty_mut().mine |= mine;
        }
        // Whoever passes it on, the promise is being kept.
        let mut keepers = 0u32;
        let claims = segment.work_if_any().map(|work| &mut work.claims);
        for claim in claims.into_iter().flatten() {
            if claim.bits & bits != 0 {
                let until = claim.until.get().max(now.plus_ms(CLAIM_PROGRESS_MS));
                claim.until = until.into();
                if !core::mem::replace(&mut claim.kept, true) {
                    keepers |= 1u32.checked_shl(claim.slot.0.into()).unwrap_or(0);
                }
            }
        }
        if let Some(id) = segment.id() {
            let row = self.remotes.entry(id, true);
            row.update(slot, |cell| cell.have |= bits);
        }
        if let Some(giver) = self.neighbours.get_mut(slot) {
            giver.bytes_in.add(len.into());
        }
        let mut regained = false;
        for keeper in self.neighbours.iter_mut() {
            regained |= keepers >> keeper.slot.0 & 1 == 1 && keeper.on_kept();
        }
        if regained {
            self.touch_view();
        }
    }

    /// A neighbour has sent something new; `asked` is when it was asked for it.
    fn note_giver(&mut self, slot: Slot, asked: Option<Instant>) {
        let now = self.now;
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            return;
        };
        (neighbour.heard, neighbour.gave_at) = (now.into(), now.into());
        if let Some(asked) = asked {
            neighbour.on_pulled(now.ms_since(asked));
        }
        if neighbour.on_kept() {
            self.touch_view();
        }
    }

    /// Has the change of a have-map told: soon if the segment is whole, else with what follows.
    fn announce_soon(&mut self, index: usize, is_whole: bool) {
        let segment = &self.segments[index];
        let lasts_ms = match segment.window_ms() {
            0 => segment.duration_ms,
            window_ms => segment.duration_ms.min(window_ms),
        };
        let soon_ms = u64::from(self.policy.have_batch_ms);
        let batch_ms = soon_ms.max(u64::from(lasts_ms) / HAVE_BATCHES_PER_SEGMENT);
        let at = self.now.plus_ms(if is_whole { soon_ms } else { batch_ms });
        self.announce_at = Some(self.announce_at.map_or(at, |old| old.min(at)));
    }

    /// A neighbour has sent what is of no use here. Nobody has looked into it, so it keeps no promise; and
    /// it takes the downlink's time, so there is a limit to it.
    pub(super) fn handle_surplus(&mut self, slot: Slot, len: u32, out: &mut Outbox) {
        self.stats.bytes_wasted += u64::from(len);
        self.downlink.on_arrival(self.now, len.into());
        let Some(neighbour) = self.neighbours.get_mut(slot) else {
            return;
        };
        neighbour.heard = self.now.into();
        if neighbour.on_surplus(len) {
            self.handle_misbehaved(slot, out);
        }
    }

    /// `size` is body bytes, milliseconds to the first byte, and to the end.
    pub(super) fn handle_fetch_done(
        &mut self,
        id: FetchId,
        outcome: FetchOutcome,
        size: (u32, u32, u32),
        out: &mut Outbox,
    ) {
        let (bytes, ttfb_ms, total_ms) = (u64::from(size.0), u64::from(size.1), u64::from(size.2));
        self.stats.bytes_cdn += bytes;
        let Some(index) = self.fetches.iter().position(|fetch| fetch.id == id) else {
            return;
        };
        let fetch = self.fetches.remove(index);
        if self.fetches.is_empty() {
            self.fetches = Vec::new();
        }
        let found = self
            .segments
            .iter()
            .position(|segment| segment.name == fetch.name);
        let Some(index) = found else { return };
        match outcome {
            FetchOutcome::Verified => {
                let mut beside = self.cdn_arrived.saturating_sub(fetch.arrived + bytes);
                if fetch.whole {
                    beside += u64::from(self.segments[index].bytes_p2p);
                }
                self.estimate
                    .on_fetch_beside(beside, bytes, ttfb_ms, total_ms);
                if let Some(work) = self.segments[index].work_if_any() {
                    work.fetch_failures = 0;
                }
                self.look_for_plenty(index);
            }
            FetchOutcome::Unverified => {
                self.estimate.on_fetch(bytes, ttfb_ms, total_ms);
                let rate = goodput_bps(bytes, ttfb_ms, total_ms);
                self.on_unverified(index, &fetch, size.0, rate, out);
            }
            FetchOutcome::Failed => self.on_fetch_failed(index, fetch.id, out),
        }
    }

    /// Nothing vouches for what the CDN sent. The player gets it all the same, as it would without
    /// P2P, if it is whole; the segment is not shared.
    fn on_unverified(
        &mut self,
        index: usize,
        fetch: &Fetch,
        bytes: u32,
        rate_bps: u64,
        out: &mut Outbox,
    ) {
        let now = self.now;
        let segment = &mut self.segments[index];
        if !fetch.whole {
            // The range belongs to other bytes than the record's: start over with the whole.
            segment.duty_mut().cdn_only = true;
            return;
        }
        segment.duty_mut().cdn_only = true;
        let requests = segment.take_requests();
        if requests.is_empty() {
            out.push(Action::CancelFetch(fetch.id));
            return;
        }
        let since = requests.iter().map(|r| r.since).min();
        let event = delivered(segment, bytes, since, now);
        for request in requests {
            self.stats.segments += 1;
            out.push(Action::Deliver {
                request: request.id,
                payload: Payload::Fetch(fetch.id),
                reported_bps: rate_bps,
            });
        }
        out.push(Action::Emit(event));
    }

    fn on_fetch_failed(&mut self, index: usize, id: FetchId, out: &mut Outbox) {
        let work = self.segments[index].work_mut();
        work.fetch_failures = work.fetch_failures.saturating_add(1);
        let shift = u32::from(work.fetch_failures.min(6)) - 1;
        work.fetch_not_before = Some(self.now.plus_ms(FETCH_RETRY_MS << shift));
        if work.fetch_failures < FETCH_FAILURES_MAX {
            return;
        }
        work.fetch_failures = 0;
        for request in self.segments[index].take_requests() {
            out.push(Action::Fail {
                request: request.id,
                fetch: id,
            });
        }
    }

    /// Hands every complete segment to those who wait for it.
    pub(super) fn deliver_complete(&mut self, out: &mut Outbox) {
        if !core::mem::take(&mut self.may_deliver) {
            return;
        }
        let now = self.now;
        for segment in &mut self.segments {
            if !segment.is_wanted() || !segment.is_complete() {
                continue;
            }
            let Some(content) = segment.content() else {
                continue;
            };
            let requests = segment.take_requests();
            let since = requests.iter().map(|request| request.since).min();
            for request in requests {
                let waited_ms = now.ms_since(request.since).max(1);
                let reported_bps = if self.estimate.is_measured() {
                    self.estimate.cdn_bps()
                } else {
                    // What was there already, or came from next door, says nothing of the CDN: the player is
                    // to stay where it is.
                    let bits = u64::from(content.len) * 8000;
                    let seen_bps = bits / waited_ms;
                    if segment.bytes_p2p == 0 && request.since <= segment.began_at() {
                        seen_bps
                    } else {
                        let played_bps = bits / u64::from(segment.duration_ms.max(1));
                        let stays_bps = played_bps * STAYS_PERCENT / 100;
                        seen_bps.min(self.estimate.cdn_bps().max(stays_bps))
                    }
                };
                self.stats.segments += 1;
                out.push(Action::Deliver {
                    request: request.id,
                    payload: Payload::Segment(content.id),
                    reported_bps,
                });
            }
            let bytes_cdn = segment.bytes_cdn();
            out.push(Action::Emit(delivered(segment, bytes_cdn, since, now)));
            segment.settle();
        }
    }
}

fn delivered(segment: &Segment, bytes_cdn: u32, since: Option<Instant>, now: Instant) -> Event {
    Event::Delivered {
        name: segment.name,
        track: segment.track().unwrap_or_default(),
        seq: segment.seq,
        bytes_p2p: segment.bytes_p2p,
        bytes_cdn,
        waited_ms: since.map_or(0, |since| {
            now.ms_since(since).min(u64::from(u32::MAX)) as u32
        }),
    }
}

//! From plans to actions: what is missing between how things are and how they should be.
//! Idempotent: with nothing new, nothing is done.

use alloc::vec::Vec;

use super::{
    Peer,
    io::{Action, Event, Outbox},
    neighbour::Neighbour,
    plan::{self, Ask, Plan, View},
    rendezvous,
    segment::{NOBODY, Pull, Segment},
    transfers::{Fetch, needs_record},
    upload,
};
use crate::{
    id::{FetchId, Slot},
    limits::FETCHES_MAX,
    time::Instant,
    wire::peer::{PeerMsg, Pieces},
};

/// Assumed of a track before the length of any of its segments is known.
const BITRATE_BPS_UNKNOWN: u64 = 3_000_000;

impl Peer {
    /// Brings everything in line with what is known now.
    pub(super) fn reconcile(&mut self, out: &mut Outbox) {
        self.tracker.handle_tick(self.now, out);
        self.check_links(out);
        self.deliver_complete(out);
        self.plan_segments(out);
        self.announce_status(out);
        self.announce_haves(out);
        self.send_pieces(out);
        self.report_status(out);
    }

    /// Plans the segments of which something has changed, or whose time has come.
    fn plan_segments(&mut self, out: &mut Outbox) {
        let now = self.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.plan_at) {
            self.expire_pulls();
        }
        let is_paused = self.is_paused();
        for index in 0..self.segments.len() {
            let segment = &mut self.segments[index];
            if segment.stale || is_due(segment.plan_at) {
                (segment.stale, segment.plan_at) = (false, None);
                self.plan_segment(index, is_paused, out);
            }
        }
        self.plan_at = self
            .segments
            .iter()
            .filter_map(|segment| segment.plan_at)
            .min();
    }

    fn plan_segment(&mut self, index: usize, is_paused: bool, out: &mut Outbox) {
        let now = self.now;
        let segment = &mut self.segments[index];
        let idle = is_paused && !segment.is_wanted();
        if segment.is_complete() || idle || segment.track.is_none() {
            return;
        }
        if let Some(at) = segment.fetch_not_before.filter(|at| *at > now) {
            segment.wake_at(at);
        }
        if segment.cdn_only {
            return self.fetch_unshared(index, out);
        }
        self.update_ranks(index);
        if self.segments[index].fresh && self.bucket.is_open() {
            self.update_distributors(index);
        }
        self.seed_and_back_up(index, out);
        self.pull_missing(index, out);
        let segment = &mut self.segments[index];
        if let Some(asked) = segment.pulls.iter().map(|pull| pull.asked).min() {
            segment.wake_at(asked.plus_ms(plan::PULL_TIMEOUT_MS));
        }
    }

    /// Has every segment planned again that is not complete.
    pub(super) fn touch_all(&mut self) {
        for segment in self
            .segments
            .iter_mut()
            .filter(|segment| !segment.is_complete())
        {
            segment.stale = true;
        }
    }

    /// A segment that no record vouches for comes from the CDN, whole, when it is wanted.
    fn fetch_unshared(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let is_fetched = self
            .fetches
            .iter()
            .any(|f| f.name == segment.name && f.whole);
        let may_fetch = segment.fetch_not_before.is_none_or(|at| at <= self.now);
        if segment.is_wanted() && !is_fetched && may_fetch {
            self.fetch(index, None, false, out);
        }
    }

    /// This viewer's place in the order of seeders, if the group has changed since.
    fn update_ranks(&mut self, index: usize) {
        let segment = &self.segments[index];
        let seeders = self.neighbours.seeders(segment.track);
        let me = (
            self.tracker.me().unwrap_or(crate::id::PeerId(0)),
            self.status_weight(),
        );
        let members = seeders.clone().count() + usize::from(me.1 > 0);
        let count = plan::stripe_count(segment, members, &self.policy);
        let key = (self.neighbours.view(), count);
        if segment.ranks_for != key {
            let ranks = rendezvous::ranks(me, seeders, segment.name, count);
            let segment = &mut self.segments[index];
            (segment.ranks, segment.ranks_for) = (ranks, key);
        }
    }

    /// Divides the pieces of a segment among those who pass them on, if the group has changed since.
    pub(super) fn update_distributors(&mut self, index: usize) {
        let segment = &self.segments[index];
        let view = self.neighbours.view();
        if segment.distributors_for == view && !segment.distributors.is_empty() {
            return;
        }
        let me = (
            NOBODY,
            self.tracker.me().unwrap_or(crate::id::PeerId(0)),
            self.status_weight(),
        );
        let others = self
            .neighbours
            .iter()
            .filter(|n| n.shares(segment.push_track));
        let others = others.map(|n| (n.slot.0, n.peer, n.status.weight));
        let members: Vec<_> = others.chain([me]).collect();
        let pieces = segment.full().count_ones();
        let distributors = rendezvous::distributors(&members, NOBODY, segment.name, pieces);
        let segment = &mut self.segments[index];
        (segment.distributors, segment.distributors_for) = (distributors, view);
    }

    /// New pieces of a fresh segment are here: this viewer's share of them is pushed to everybody,
    /// and what it took from the CDN for the group goes to those whose share it is.
    pub(super) fn plan_pushes(&mut self, index: usize, bits: u64, seeded: bool) {
        let segment = &self.segments[index];
        let is_ours = (seeded || segment.fresh) && segment.push_track.is_some();
        if bits == 0 || !is_ours || !self.bucket.is_open() {
            return;
        }
        self.update_distributors(index);
        let segment = &mut self.segments[index];
        let own = segment.own_share();
        segment.seeded |= bits & own;
        if seeded {
            segment.handed |= bits & !own;
        }
        self.upload_stale |= seeded || bits & own != 0;
    }

    fn status_weight(&self) -> u16 {
        self.announced_status.weight
    }

    fn seed_and_back_up(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        if segment.fetch_not_before.is_some_and(|at| at > self.now) {
            return;
        }
        let view = self.view(segment);
        let seed = plan::seed(segment, &view);
        let backstop = plan::backstop(segment, &view, self.buffer_ms());
        let stripe_count = view.stripe_count;
        for at in [seed.wake, backstop.wake].into_iter().flatten() {
            self.segments[index].wake_at(at);
        }
        if seed.is_fetch() {
            self.claim(index, &seed, stripe_count, out);
            self.relay(index, seed.relay, out);
            self.fetch_plan(index, &seed, true, out);
        } else if backstop.is_fetch() {
            let segment = &self.segments[index];
            let view = self.view(segment);
            let missing = segment.full() & !segment.have & !view.fetching;
            let (name, missing) = (segment.name, segment.len_of(missing));
            if view.companions > 0 {
                self.stats.backstops += 1;
                out.push(Action::Emit(Event::Backstop { name, missing }));
            }
            self.fetch_plan(index, &backstop, false, out);
        }
    }

    fn view(&self, segment: &Segment) -> View<'_> {
        let fetches = self
            .fetches
            .iter()
            .filter(|fetch| fetch.name == segment.name);
        let companions = self
            .neighbours
            .iter()
            .filter(|n| n.plays(segment.track))
            .count();
        let held_by = |bridges_too: bool| {
            segment.id().map_or(0, |id| {
                let holders = self.neighbours.iter().filter(|n| bridges_too || !n.bridge);
                holders.fold(0, |bits, n| bits | n.holds(id))
            })
        };
        let (held, held_here) = (held_by(true), held_by(false));
        View {
            now: self.now,
            policy: &self.policy,
            estimate: &self.estimate,
            fetching: fetches.clone().fold(0, |bits, fetch| bits | fetch.bits),
            fetching_whole: fetches.clone().any(|fetch| fetch.whole),
            held,
            held_elsewhere: held & !held_here,
            group: self.group_name(),
            spare_ms: self.buffer_ms().saturating_sub(u64::from(self.pace_ms)),
            companions,
            pulls_max: self.pulls_max().saturating_sub(self.outstanding_all()),
            is_pushed: !self.player.careful,
            stripe_count: segment.ranks_for.1.max(1),
            len_expected: self.len_expected(segment),
        }
    }

    /// The smallest name in the group, if there are links to others.
    fn group_name(&self) -> Option<u64> {
        self.neighbours.ready().find(|n| n.bridge)?;
        let members = self
            .neighbours
            .ready()
            .filter(|n| !n.bridge)
            .map(|n| n.peer.0);
        members.chain(self.tracker.me().map(|me| me.0)).min()
    }

    fn len_expected(&self, segment: &Segment) -> u64 {
        let lens = || {
            let of_track = self.segments.iter().filter(|s| s.track == segment.track);
            of_track
                .filter_map(|s| s.content)
                .map(|content| content.len)
                .max()
        };
        let known = segment.content.map(|content| content.len).or_else(lens);
        let guess = u64::from(segment.duration_ms) * BITRATE_BPS_UNKNOWN / 8000;
        known.map_or(guess, u64::from)
    }

    /// Promises the neighbours what is about to be fetched for them.
    fn claim(&mut self, index: usize, plan: &Plan, stripe_count: u32, out: &mut Outbox) {
        let segment = &self.segments[index];
        let wanted = plan.fetch.iter().fold(plan.relay, |bits, run| bits | run);
        let mut stripes = 0u8;
        for stripe in 0..stripe_count {
            let bits = segment.stripe_bits(stripe, stripe_count);
            if plan.whole || bits & wanted != 0 {
                stripes |= 1 << stripe;
            }
        }
        let name = segment.name;
        self.send_all(
            &PeerMsg::Claim {
                name,
                stripes,
                stripe_count: stripe_count as u8,
            },
            out,
        );
    }

    /// Asks bridges for pieces that the group has not got; they are pushed on as they come.
    fn relay(&mut self, index: usize, mut bits: u64, out: &mut Outbox) {
        let segment = &mut self.segments[index];
        let Some(id) = segment.id() else { return };
        segment.relayed |= bits;
        let bridges = self
            .neighbours
            .iter()
            .filter(|n| n.bridge && n.holds(id) & bits != 0);
        let bridges: Vec<(Slot, u64)> = bridges.map(|n| (n.slot, n.holds(id))).collect();
        for (slot, held) in bridges {
            if held & bits != 0 {
                let bits = held & bits;
                self.ask(index, Ask { slot, bits }, out);
            }
            bits &= !held;
        }
    }

    fn fetch_plan(&mut self, index: usize, plan: &Plan, seeding: bool, out: &mut Outbox) {
        if plan.whole {
            self.fetch(index, None, seeding, out);
        }
        for run in &plan.fetch {
            self.fetch(index, Some(*run), seeding, out);
        }
    }

    /// Fetches a run of pieces, or the whole object.
    fn fetch(&mut self, index: usize, run: Option<u64>, seeding: bool, out: &mut Outbox) {
        if self.fetches.len() >= FETCHES_MAX {
            self.segments[index].wake_at(self.now.plus_ms(100));
            return;
        }
        let segment = &mut self.segments[index];
        segment.fetch_not_before = None;
        let bits = run.unwrap_or(segment.full());
        for pull in &mut segment.pulls {
            pull.bits &= !bits;
        }
        segment.pulls.retain(|pull| pull.bits != 0);
        let range = run.and_then(|run| segment.range_of(run));
        self.fetch_count = self.fetch_count.wrapping_add(1);
        let id = FetchId(self.fetch_count);
        let name = segment.name;
        self.fetches.push(Fetch {
            id,
            name,
            bits,
            whole: range.is_none(),
            seeding,
        });
        out.push(Action::FetchCdn {
            fetch: id,
            name,
            range,
        });
    }

    fn pull_missing(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let view = self.view(segment);
        let neighbours = self.neighbours.iter();
        let (asks, wake) = plan::pull(segment, &view, neighbours, |slot: Slot| {
            self.outstanding(slot)
        });
        if let Some(at) = wake {
            self.segments[index].wake_at(at);
        }
        for ask in asks {
            self.ask(index, ask, out);
        }
    }

    fn ask(&mut self, index: usize, ask: Ask, out: &mut Outbox) {
        let now = self.now;
        let segment = &mut self.segments[index];
        let Some(id) = segment.id() else { return };
        // A want replaces the one before, so what is still owed is asked for again.
        let owed = segment.pulls.iter().filter(|pull| pull.slot == ask.slot);
        let bits = owed.fold(ask.bits, |bits, pull| bits | pull.bits);
        segment.pulls.push(Pull {
            slot: ask.slot,
            bits: ask.bits,
            asked: now,
        });
        self.send(ask.slot, &PeerMsg::Want(Pieces { segment: id, bits }), out);
    }

    /// Sends pieces for as long as the rate and the links allow.
    fn send_pieces(&mut self, out: &mut Outbox) {
        let is_due = self.upload_at.is_some_and(|at| at <= self.now);
        if !is_due && !self.upload_stale {
            return;
        }
        (self.upload_at, self.upload_stale) = (None, false);
        while self.bucket.is_open() {
            let Some(next) = upload::plan_next(&self.segments, &self.neighbours) else {
                self.forget_pushed();
                return;
            };
            let segment = &self.segments[next.index];
            let Some(id) = segment.id() else { return };
            let len = segment.len_of(1 << next.piece);
            if let Err(at) = self.bucket.take(self.now, len) {
                self.upload_at = Some(at);
                return;
            }
            let Some(neighbour) = self.neighbours.get_mut(next.slot) else {
                return;
            };
            on_send(neighbour, id, next.piece, len, out);
            self.stats.bytes_up += u64::from(len);
        }
    }

    /// Everything that was to be pushed has been, unless a link was full.
    fn forget_pushed(&mut self) {
        if self.neighbours.ready().all(upload::has_room) {
            for segment in &mut self.segments {
                (segment.seeded, segment.handed) = (0, 0);
                if segment.is_complete() {
                    segment.distributors = Vec::new();
                }
            }
        }
    }
}

fn on_send(
    neighbour: &mut Neighbour,
    segment: crate::id::SegmentId,
    piece: u32,
    len: u32,
    out: &mut Outbox,
) {
    let slot = neighbour.slot;
    neighbour.buffered = neighbour.buffered.saturating_add(len);
    neighbour.bytes_out += u64::from(len);
    let remote = neighbour.remote_mut(segment);
    if needs_record(remote) {
        out.push(Action::SendRecord { slot, segment });
    }
    remote.has_record = true;
    remote.sent |= 1 << piece;
    remote.wants &= !(1 << piece);
    out.push(Action::SendPiece {
        slot,
        segment,
        piece: piece as u8,
    });
}

//! From plans to actions: what is missing between how things are and how they should be.
//! Idempotent: with nothing new, nothing is done.

use alloc::{sync::Arc, vec::Vec};

use super::{
    Peer, Policy,
    estimate::Estimate,
    io::{Action, Event, Outbox},
    neighbour::Neighbour,
    plan::{self, Ask, Plan, View},
    remotes::Row,
    rendezvous, scarcity,
    segment::Segment,
    transfers::Fetch,
    upload,
};
use crate::{
    id::{FetchId, SegmentId, Slot},
    limits::FETCHES_MAX,
    wire::peer::{Division, PeerMsg},
};

/// What is brought for the group waits so long at a time for what the player needs first.
const PRESSED_AGAIN_MS: u64 = 100;
/// What is late, but was just asked of bridges, is looked at again after this long.
const LATE_AGAIN_MS: u64 = 250;
/// Links that can be had are up after this long.
const LINK_USUAL_MS: u64 = 2000;
/// Assumed of a track before the length of any of its segments is known.
const BITRATE_BPS_UNKNOWN: u64 = 3_000_000;

impl Peer {
    /// Brings everything in line with what is known now.
    pub(super) fn reconcile(&mut self, out: &mut Outbox) {
        self.tracker.handle_tick(self.now, out);
        self.check_links(out);
        self.deliver_complete(out);
        self.plan_segments(out);
        self.demand.on_time(self.now, self.allowance.rate_bps());
        self.announce_status(out);
        self.announce_haves(out);
        self.send_pieces(out);
        self.report_status(out);
    }

    /// Plans the segments of which something has changed, or whose time has come.
    fn plan_segments(&mut self, out: &mut Outbox) {
        let now = self.now;
        let is_stale = core::mem::take(&mut self.plans_stale);
        if self.plan_at.is_some_and(|at| at <= now) {
            self.expire_pulls(out);
        } else if !is_stale {
            return;
        }
        let is_paused = self.is_paused();
        for index in 0..self.segments.len() {
            if self.segments[index].take_due(now) {
                self.plan_segment(index, is_paused, out);
            }
        }
        self.plan_at = self.segments.iter().filter_map(Segment::plan_at).min();
    }

    fn plan_segment(&mut self, index: usize, is_paused: bool, out: &mut Outbox) {
        let (now, takes_nothing) = (self.now, self.takes_nothing());
        let segment = &mut self.segments[index];
        let idle = is_paused && !segment.is_wanted();
        let is_needed = segment.fresh || segment.is_wanted();
        if segment.is_complete() {
            return segment.rest_if_idle();
        }
        if idle || !is_needed || segment.track().is_none() {
            return;
        }
        segment.work_mut().planned_at = now;
        if let Some(at) = segment.work().fetch_not_before.filter(|at| *at > now) {
            segment.wake_at(at);
        }
        if segment.duty().cdn_only || takes_nothing {
            return self.fetch_unshared(index, out);
        }
        self.update_ranks(index);
        self.carry_out_plans(index, out);
        let timeout_ms = self.pull_timeout_ms();
        let segment = &mut self.segments[index];
        if let Some(asked) = segment
            .work()
            .pulls
            .iter()
            .map(|pull| pull.asked.get())
            .min()
        {
            segment.wake_at(asked.plus_ms(timeout_ms));
        }
    }

    /// Has every segment planned again that is not complete.
    pub(super) fn touch_all(&mut self) {
        self.segments.iter_mut().for_each(Segment::spoil);
        self.plans_stale = true;
    }

    /// Has a segment planned soon of which neighbours have told something.
    pub(super) fn touch_segment(&mut self, index: usize) {
        let segment = &mut self.segments[index];
        segment.touch();
        self.plan_at = self.plan_at.into_iter().chain(segment.plan_at()).min();
    }

    /// A segment that no record vouches for comes from the CDN, whole, when it is wanted. So does every one for a
    /// viewer that takes nothing from neighbours.
    fn fetch_unshared(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let is_fetched = self
            .fetches
            .iter()
            .any(|f| f.name == segment.name && f.whole);
        let may_fetch = segment
            .work()
            .fetch_not_before
            .is_none_or(|at| at <= self.now);
        if segment.is_wanted() && !is_fetched && may_fetch {
            self.fetch(index, None, false, out);
        }
    }

    /// This viewer's place in the order of seeders, if the group has changed since.
    fn update_ranks(&mut self, index: usize) {
        let segment = &self.segments[index];
        let track = segment.track();
        let seeding = self.neighbours.masks(track).seeding.count_ones() as usize;
        let segment = &self.segments[index];
        let me = (
            self.tracker.me().unwrap_or(crate::id::PeerId(0)),
            self.status_weight(),
        );
        let members = seeding + usize::from(me.1 > 0);
        let count = plan::stripe_count(segment, members, &self.policy);
        let key = (self.neighbours.view(), count);
        if segment.work().ranks_for != key {
            let seeders = self.neighbours.seeders(track);
            let ranks = rendezvous::ranks(me, seeders, segment.name, count);
            let segment = &mut self.segments[index];
            let name = segment.name;
            let work = segment.work_mut();
            work.ranks_for = key;
            for (stripe, (rank, first)) in ranks.into_iter().enumerate() {
                work.ranks[stripe] = rank;
                work.draws[stripe] = plan::draw(first, name, stripe);
            }
        }
    }

    /// Divides `bits` of a segment, which this viewer is about to bring into the group, among those
    /// who pass them on.
    fn divide(&mut self, index: usize, bits: u64) -> Division {
        let segment = &self.segments[index];
        let bits = bits & segment.full();
        let Some(me) = self.tracker.me().filter(|_| bits != 0) else {
            return Division::default();
        };
        let others = self.neighbours.sharing(segment.push_track());
        let others = others.map(|n| (Some(n.slot), n.peer, n.weight));
        let members: Vec<_> = others
            .chain([(None, me, self.status_weight().max(1))])
            .collect();
        let pieces = segment.full().count_ones();
        let chosen = rendezvous::distributors(&members, segment.name, pieces);
        let segment = &mut self.segments[index];
        segment.may_push = true;
        let duty = segment.duty_mut();
        duty.handed.retain(|(piece, _)| bits >> piece & 1 == 0);
        duty.brought |= bits;
        let mut passers = Vec::with_capacity(bits.count_ones() as usize);
        for (piece, chosen) in chosen.into_iter().enumerate() {
            let (slot, peer, _) = members[usize::from(chosen)];
            if bits >> piece & 1 == 0 {
                continue;
            }
            passers.push(peer.tag());
            match slot {
                Some(slot) => duty.handed.push((piece as u8, slot)),
                None => duty.mine |= 1 << piece,
            }
        }
        Division { bits, passers }
    }

    /// New pieces of a fresh segment are here: those that this viewer passes on are pushed to
    /// everybody.
    pub(super) fn plan_pushes(&mut self, index: usize, bits: u64) {
        let segment = &mut self.segments[index];
        if !self.allowance.is_open() || segment.push_track().is_none() {
            return;
        }
        if let Some(duty) = segment.duty_if_any() {
            duty.seeded |= bits & duty.mine;
            let mut handed = duty.handed.iter();
            let is_handed = handed.any(|(piece, _)| bits >> piece & 1 == 1);
            let is_mine = bits & duty.mine != 0;
            segment.may_push |= is_mine;
            self.upload_stale |= is_handed || is_mine;
        }
        let row = segment.id().and_then(|id| self.remotes.row(id));
        self.upload_stale |= row.is_some_and(Row::any_wants);
    }

    /// Whether neighbours may send this viewer what it has not asked for.
    pub(super) fn may_be_pushed(&self) -> bool {
        !self.player.careful && self.has_begun()
    }

    fn status_weight(&self) -> u16 {
        self.announced.weight
    }

    fn carry_out_plans(&mut self, index: usize, out: &mut Outbox) {
        let (policy, estimate) = (Arc::clone(&self.policy), self.estimate.clone());
        self.look_for_scarcity(index, out);
        let view = self.view(index, &policy, &estimate);
        let stripe_count = view.stripe_count;
        if view.held_elsewhere != 0 {
            self.segments[index].note_seen(view.held_elsewhere, stripe_count, self.now);
        }
        let segment = &self.segments[index];
        let may_fetch = segment
            .work()
            .fetch_not_before
            .is_none_or(|at| at <= self.now);
        let (mut seed, backstop) = if may_fetch {
            let buffer_ms = self.buffer_ms();
            (
                plan::seed(segment, &view),
                plan::backstop(segment, &view, buffer_ms),
            )
        } else {
            Default::default()
        };
        if seed.is_fetch() && self.is_pressed(index, &seed) {
            seed = Plan::default();
            self.segments[index].wake_at(self.now.plus_ms(PRESSED_AGAIN_MS));
        }
        for at in [seed.wake, backstop.wake].into_iter().flatten() {
            self.segments[index].wake_at(at);
        }
        if seed.is_fetch() {
            if seed.whole || seed.claimed != 0 {
                self.claim(index, &seed, stripe_count, out);
            }
            self.relay(index, seed.relay, out);
            self.fetch_plan(index, &seed, true, out);
            if backstop.is_fetch() {
                // What is late, and was asked of nobody, does not wait for what is brought for the group.
                let mut view = self.view(index, &policy, &estimate);
                view.fetching |= self.segments[index].pulled();
                let rest = plan::backstop(&self.segments[index], &view, self.buffer_ms());
                self.fetch_late(index, &view, &rest, out);
                self.segments[index].wake_at(self.now.plus_ms(LATE_AGAIN_MS));
            }
        } else if backstop.is_fetch() {
            self.fetch_late(index, &view, &backstop, out);
        } else {
            return self.pull_missing(index, &view, out);
        }
        let view = self.view(index, &policy, &estimate);
        self.pull_missing(index, &view, out);
    }

    /// Fetches what the player needs and nobody will bring in time, if there is any of it.
    fn fetch_late(&mut self, index: usize, view: &View<'_>, backstop: &Plan, out: &mut Outbox) {
        let segment = &mut self.segments[index];
        if let Some(at) = backstop.wake {
            segment.wake_at(at);
        }
        if !backstop.is_fetch() {
            return;
        }
        let missing = segment.full() & !segment.have() & !view.fetching;
        let (name, missing) = (segment.name, segment.len_of(missing));
        if view.companions > 0 {
            self.stats.backstops += 1;
            out.push(Action::Emit(Event::Backstop { name, missing }));
        }
        self.fetch_plan(index, backstop, false, out);
    }

    fn view<'a>(&mut self, index: usize, policy: &'a Policy, estimate: &'a Estimate) -> View<'a> {
        let masks = self.neighbours.masks(self.segments[index].track());
        let segment = &self.segments[index];
        let fetches = self
            .fetches
            .iter()
            .filter(|fetch| fetch.name == segment.name);
        let row = segment.id().and_then(|id| self.remotes.row(id));
        let asked = [masks.here, masks.bridges, masks.seeding | masks.giving];
        let held = row.map_or([0; 3], |row| row.held_by(asked));
        let [held_here, held_there, offered] = held;
        View {
            now: self.now,
            policy,
            estimate,
            fetches: self.fetches_before(index),
            fetching: fetches.clone().fold(0, |bits, fetch| bits | fetch.bits),
            fetching_whole: fetches.clone().any(|fetch| fetch.whole),
            raced: fetches
                .clone()
                .filter(|fetch| fetch.is_raced(self.now))
                .fold(0, |bits, fetch| bits | fetch.bits),
            held: held_here | held_there,
            offered,
            givers: (masks.seeding | masks.giving).count_ones(),
            held_elsewhere: (held_there | segment.upstream()) & !held_here,
            has_bridges: masks.bridges != 0,
            is_remote: masks.is_remote(),
            pace_ms: u64::from(self.pace_ms),
            companions: masks.playing.count_ones() as usize,
            expects_links: !self.has_begun() && self.expects_links(),
            turn: self.turn,
            pulls_max: match self.pulls_max(index) {
                u32::MAX => u32::MAX,
                most => most.saturating_sub(self.outstanding_all()),
            },
            has_begun: self.has_begun(),
            is_scarce: self.is_scarce(),
            is_careful: self.player.careful,
            is_pushed: self.may_be_pushed(),
            stripe_count: segment.work().ranks_for.1.max(1),
            len_expected: self.len_expected(segment),
            need: self.need_of(index),
        }
    }

    /// Whether a link is being set up since a moment ago.
    fn expects_links(&self) -> bool {
        let is_due =
            |n: &Neighbour| !n.is_ready() && self.now.ms_since(n.since.get()) < LINK_USUAL_MS;
        self.neighbours.iter().any(is_due)
    }

    /// Fetches for the player that are under way, of this segment and of those before it.
    pub(super) fn fetches_before(&self, index: usize) -> usize {
        let (track, seq) = (self.segments[index].track(), self.segments[index].seq);
        let is_before = |f: &&Fetch| {
            let of = self.segments.iter().find(|s| s.name == f.name);
            of.is_some_and(|s| s.track() == track && s.seq <= seq)
        };
        self.fetches
            .iter()
            .filter(|f| !f.seeding)
            .filter(is_before)
            .count()
    }

    pub(super) fn len_expected(&self, segment: &Segment) -> u64 {
        let lens = || {
            let of_track = self
                .segments
                .iter()
                .filter(|s| s.track() == segment.track());
            of_track
                .filter_map(Segment::content)
                .map(|content| content.len)
                .max()
        };
        let known = segment.content().map(|content| content.len).or_else(lens);
        let guess = u64::from(segment.duration_ms) * BITRATE_BPS_UNKNOWN / 8000;
        known.map_or(guess, u64::from)
    }

    /// Promises the neighbours what is about to be brought into the group.
    fn claim(&mut self, index: usize, plan: &Plan, stripe_count: u32, out: &mut Outbox) {
        let segment = &self.segments[index];
        let mut wanted = plan.claimed;
        if plan.whole {
            wanted |= segment.full();
        }
        let mut stripes = 0u8;
        for stripe in 0..stripe_count {
            let bits = segment.stripe_bits(stripe, stripe_count);
            if plan.whole || bits & wanted != 0 {
                stripes |= 1 << stripe;
            }
        }
        let name = segment.name;
        let division = self.divide(index, wanted);
        let claim = PeerMsg::Claim {
            name,
            stripes,
            stripe_count: stripe_count as u8,
            division,
        };
        self.send_all(&claim, out);
    }

    /// Divides a segment that this viewer is bringing into the group, now that its content is known.
    pub(super) fn claim_again(&mut self, index: usize, out: &mut Outbox) {
        let segment = &self.segments[index];
        let (name, bits) = (segment.name, segment.full() & !segment.have());
        let division = self.divide(index, bits);
        let claim = PeerMsg::Claim {
            name,
            stripes: 1,
            stripe_count: 1,
            division,
        };
        self.send_all(&claim, out);
    }

    /// Asks bridges for pieces that the group has not got; they are pushed on as they come.
    fn relay(&mut self, index: usize, mut bits: u64, out: &mut Outbox) {
        let segment = &mut self.segments[index];
        let row = segment.id().and_then(|id| self.remotes.row(id));
        let bridges = self
            .neighbours
            .ready()
            .filter(|n| self.neighbours.is_bridge(n.slot));
        let holds = bridges.map(|n| {
            let have = row.map_or(0, |row| row.have(n.slot));
            (have | segment.upstream_of(n.slot), n.slot)
        });
        let mut asks = Vec::new();
        let mut holds: Vec<(u64, Slot)> = holds.filter(|(held, _)| held & bits != 0).collect();
        holds.sort_unstable_by_key(|(held, slot)| (u32::MAX - (held & bits).count_ones(), *slot));
        // The one who has most gets the rest as well.
        let first = holds.first().map(|(_, slot)| *slot);
        for (held, slot) in holds.iter().skip(1) {
            asks.push((*slot, held & bits & !holds[0].0));
            bits &= !held | holds[0].0;
        }
        asks.extend(first.map(|slot| (slot, bits)));
        for (slot, bits) in asks.into_iter().filter(|(_, bits)| *bits != 0) {
            self.ask(index, Ask { slot, bits }, false, out);
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
        segment.work_mut().fetch_not_before = None;
        let bits = run.unwrap_or(segment.full());
        let overlaps = segment
            .work()
            .pulls
            .iter()
            .filter(|pull| pull.bits & bits != 0);
        let asked: Vec<Slot> = overlaps.map(|pull| pull.slot).collect();
        for slot in asked {
            self.ask_less(index, slot, bits, out);
        }
        self.note_broken(index, bits);
        self.skip(index, bits, out);
        let segment = &self.segments[index];
        let range = run.and_then(|run| segment.range_of(run));
        let judged_at = self.now.plus_ms(scarcity::judged_after_ms(segment));
        self.fetch_count = self.fetch_count.wrapping_add(1);
        let id = FetchId(self.fetch_count);
        let name = segment.name;
        self.segments[index].wake_at(judged_at);
        self.fetches.reserve_exact(1);
        self.fetches.push(Fetch {
            id,
            name,
            bits,
            whole: range.is_none(),
            seeding,
            arrived: self.cdn_arrived,
            brought: 0,
            brought_at: self.now,
            since: self.now,
        });
        out.push(Action::FetchCdn {
            fetch: id,
            name,
            range,
        });
    }

    /// Sends pieces for as long as the rate and the links allow.
    fn send_pieces(&mut self, out: &mut Outbox) {
        let is_due = self.upload_at.is_some_and(|at| at <= self.now);
        let is_short = self.upload_at.is_some() && !is_due && !self.uplink_busy;
        if is_short || !(is_due || self.upload_stale) {
            return;
        }
        (self.upload_at, self.upload_stale, self.uplink_busy) = (None, false, false);
        while self.allowance.is_open() {
            let rate_bps = self.allowance.rate_bps();
            if let Some(at) = upload::busy_until(&self.neighbours, rate_bps, self.now) {
                (self.upload_at, self.uplink_busy) = (Some(at), true);
                return;
            }
            let neighbours = &mut self.neighbours;
            let next = upload::plan_next(&self.segments, neighbours, &self.remotes, self.now);
            let Some(next) = next else {
                self.forget_pushed();
                return;
            };
            let segment = &self.segments[next.index];
            let Some(id) = segment.id() else { return };
            let len = segment.len_of(1 << next.piece);
            if let Err(at) = self.allowance.take(self.now, len) {
                self.upload_at = Some(at);
                return;
            }
            let Some(neighbour) = self.neighbours.get_mut(next.slot) else {
                return;
            };
            neighbour.bytes_out.add(len.into());
            self.neighbours.on_handed(next.slot, len, self.now);
            let row = self.remotes.entry(id, true);
            on_send(row, next.slot, id, next.piece, out);
            self.stats.bytes_up += u64::from(len);
            if next.is_asked {
                self.demand.on_sent(len);
            }
        }
    }

    /// Everything that was to be pushed has been, unless a link was full.
    fn forget_pushed(&mut self) {
        if self.neighbours.roomy_slots() == self.neighbours.ready_slots() {
            for segment in &mut self.segments {
                let may_push = segment.may_push;
                let Some(duty) = segment.duty_if_any().filter(|_| may_push) else {
                    continue;
                };
                let have = duty.have;
                duty.seeded = 0;
                duty.handed.retain(|(piece, _)| have >> piece & 1 == 0);
                if duty.handed.is_empty() {
                    duty.handed = Vec::new();
                    segment.may_push = false;
                }
            }
        }
    }
}

fn on_send(row: &mut Row, slot: Slot, segment: SegmentId, piece: u32, out: &mut Outbox) {
    if row.take_needs_record(slot) {
        out.push(Action::SendRecord { slot, segment });
    }
    row.update(slot, |cell| cell.on_send(piece));
    out.push(Action::SendPiece {
        slot,
        segment,
        piece: piece as u8,
    });
}

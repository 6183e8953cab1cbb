//! What to do about one segment: pure functions from what is known to what should happen.
//!
//! Three plans, in the order in which they come to a segment's help:
//! [`seed`] (this viewer's share of bringing it into the group), [`pull`] (asking neighbours that
//! hold what has not been pushed here) and [`backstop`] (the CDN, at the latest safe moment).

use alloc::vec::Vec;

use super::{
    estimate::Estimate,
    neighbour::Neighbour,
    policy::Policy,
    rendezvous::NEVER,
    segment::{Segment, runs},
};
use crate::{id::Slot, rng::mix, time::Instant};

/// Pieces that one neighbour may be asked for at the same time, over all segments.
pub(super) const PULL_PIECES_MAX: u32 = 4;
/// Pieces that a viewer with a thin downlink asks for at the same time.
pub(super) const CAREFUL_PULLS_MAX: u32 = 8;
/// How long a neighbour may take over a pull before it is asked of another.
pub(super) const PULL_TIMEOUT_MS: u64 = 1500;
/// Fetches that one backstop is split into at most.
const BACKSTOP_RUNS_MAX: usize = 3;
/// With less time than this to the moment of the backstop, promises are not waited for.
const URGENT_MS: u64 = 500;
/// How old a promise may be before pieces that others hold by now are asked of them: this long, and
/// as large a part of the segment's duration.
const PATIENCE_MS: u64 = 300;
const PATIENCE_PERCENT: u64 = 40;
/// With less media than this ahead of the playhead the CDN is asked at once.
const BUFFER_MS_CRITICAL: u64 = 1000;
/// The part of promised bytes that the backstop leaves time for.
const DOUBT_PERCENT: u64 = 40;
/// One rank further back, a viewer relays a stripe from another group this much later.
const RELAY_STAGGER_MS: u64 = 60;
/// How long groups wait for each other: a part of the segment's duration, up to a limit, and only
/// if segments usually come early enough to leave this much after it.
const HOLD_PERCENT: u64 = 35;
const HOLD_MS_MAX: u64 = 1500;
const HOLD_SPARE_MS: u64 = 300;
/// One rank further back in the order of seeders, the backstop fires this much later.
const BACKSTOP_STAGGER_MS: u64 = 250;
/// Ranks that stagger; all others fire at their own latest safe moment.
const BACKSTOP_RANKS: u64 = 3;

/// What a plan says: do this now, and look again then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Runs of pieces to fetch from the CDN.
    pub(super) fetch: Vec<u64>,
    /// Pieces to ask of bridges for the whole group.
    pub(super) relay: u64,
    /// Fetch the whole object: its content is not known, or all of it is missing.
    pub(super) whole: bool,
    /// When the answer may change by itself.
    pub(super) wake: Option<Instant>,
}

impl Plan {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Whether anything is to be fetched.
    pub(super) fn is_fetch(&self) -> bool {
        self.whole || self.relay != 0 || !self.fetch.is_empty()
    }
}

/// The facts that plans look at besides the segment itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) now: Instant,
    pub(super) policy: &'a Policy,
    pub(super) estimate: &'a Estimate,
    /// Pieces that this viewer is fetching.
    pub(super) fetching: u64,
    /// Whether a fetch of the whole object is under way.
    pub(super) fetching_whole: bool,
    /// Pieces that believed neighbours hold.
    pub(super) held: u64,
    /// Those of them that only bridges hold: nobody of the group.
    pub(super) held_elsewhere: u64,
    /// What identifies the group, the same for all its members; `None` without bridges to others.
    pub(super) group: Option<u64>,
    /// Media that will be left ahead of the playhead when a new segment is whole.
    pub(super) spare_ms: u64,
    /// Neighbours that play the segment's track.
    pub(super) companions: usize,
    /// Further pieces that may be asked of neighbours.
    pub(super) pulls_max: u32,
    /// Whether neighbours push to this viewer.
    pub(super) is_pushed: bool,
    /// Stripes that the segment is divided into.
    pub(super) stripe_count: u32,
    /// Length of the segment in bytes, or of others of its track while its own is unknown.
    pub(super) len_expected: u64,
}

/// Into how many stripes a segment is divided among `seeders`: a power of two, so that views of
/// the group that differ by a few members still agree.
pub(super) fn stripe_count(segment: &Segment, seeders: usize, policy: &Policy) -> u32 {
    let Some(content) = segment.content else {
        return 1;
    };
    let by_length = content.len / policy.stripe_len_min.max(1);
    let most = by_length
        .min(seeders as u32)
        .min(u32::from(policy.stripes_max))
        .max(1);
    1 << most.ilog2().min(crate::limits::STRIPES_MAX.ilog2())
}

/// The stripes that this viewer should fetch now for the whole group.
pub(super) fn seed(segment: &Segment, view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !segment.fresh || view.companions == 0 || view.fetching_whole {
        return plan;
    }
    let covered = segment.have | view.fetching | (view.held & !view.held_elsewhere);
    let covered = covered | segment.pulled();
    let stripe_len = segment.content.map_or(0, |content| content.len) / view.stripe_count;
    let delay_ms =
        u64::from(view.policy.rank_delay_ms).max(100) + view.estimate.cdn_ms(u64::from(stripe_len));
    for stripe in 0..view.stripe_count {
        let rank = segment.ranks[stripe as usize];
        let bits = segment.stripe_bits(stripe, view.stripe_count);
        let mut missing = bits & !covered;
        if rank == NEVER || (segment.content.is_some() && missing == 0) {
            continue;
        }
        let elsewhere = missing & view.held_elsewhere;
        if elsewhere != 0 && segment.claimed(view.now) & bits == 0 {
            let due = segment.known_at.plus_ms(u64::from(rank) * RELAY_STAGGER_MS);
            if due > view.now {
                plan.wake_at(due);
            } else {
                plan.relay |= elsewhere;
            }
            missing &= !elsewhere;
            if missing == 0 {
                continue;
            }
        }
        let claim_bits = if segment.content.is_some() {
            bits
        } else {
            u64::MAX
        };
        let base = segment
            .claimed_until(claim_bits)
            .unwrap_or(segment.known_at);
        let due = base
            .max(segment.known_at.plus_ms(hold_ms(segment, view, stripe)))
            .plus_ms(u64::from(rank) * delay_ms);
        if due > view.now {
            plan.wake_at(due);
        } else if segment.content.is_none() {
            plan.whole = true;
        } else {
            plan.fetch.extend(runs(missing, 1));
        }
    }
    plan
}

/// How long a group waits for others to bring a stripe before it asks the CDN: not at all if it is
/// its turn to be first, or if there is no time to spare.
fn hold_ms(segment: &Segment, view: &View<'_>, stripe: u32) -> u64 {
    let Some(group) = view.group.filter(|_| segment.content.is_some()) else {
        return 0;
    };
    let hold_ms = (u64::from(segment.duration_ms) * HOLD_PERCENT / 100).min(HOLD_MS_MAX);
    let drawn = mix(group ^ mix(segment.name.0 ^ u64::from(stripe) << 32)) % 100;
    let is_first = drawn < u64::from(view.policy.first_groups_percent);
    let has_time = view.spare_ms >= hold_ms + HOLD_SPARE_MS;
    if is_first || !has_time { 0 } else { hold_ms }
}

/// What the player needs and nobody will bring in time.
pub(super) fn backstop(segment: &Segment, view: &View<'_>, buffer_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let Some(deadline) = segment.deadline() else {
        return plan;
    };
    let missing = segment.full() & !segment.have & !view.fetching;
    if view.fetching_whole || (segment.content.is_some() && missing == 0) {
        return plan;
    }
    let need_ms = need_ms(segment, view, missing);
    let is_hopeless = view.companions == 0 || !may_come(segment, view, missing);
    let slack_ms = deadline.ms_since(view.now);
    if !is_hopeless && slack_ms > need_ms && buffer_ms > BUFFER_MS_CRITICAL {
        plan.wake_at(deadline_minus(deadline, need_ms));
        return plan;
    }
    if segment.content.is_none() || (segment.have == 0 && view.fetching == 0) {
        plan.whole = true;
    } else {
        plan.fetch = runs(missing, BACKSTOP_RUNS_MAX);
    }
    plan
}

/// How long before its deadline the backstop of a segment fires.
fn need_ms(segment: &Segment, view: &View<'_>, missing: u64) -> u64 {
    let len = match segment.content {
        Some(_) => {
            // Most of what neighbours hold or are about to bring will be there in time; while the
            // segment is young, somebody is about to bring everything.
            let is_young =
                segment.fresh && view.now.ms_since(segment.known_at) < patience_ms(segment);
            let promised = view.held | segment.claimed(view.now) | segment.pulled();
            let coming = if is_young {
                missing
            } else {
                missing & promised
            };
            let sure = u64::from(segment.len_of(missing & !coming));
            sure + u64::from(segment.len_of(coming)) * DOUBT_PERCENT / 100
        }
        None => view.len_expected,
    };
    let cdn_ms = view.estimate.cdn_ms_worst(len);
    let guard_ms = u64::from(view.policy.backstop_guard_ms);
    let rank = u64::from(segment.ranks[0]).min(BACKSTOP_RANKS);
    let early_ms = (BACKSTOP_RANKS - rank) * BACKSTOP_STAGGER_MS;
    cdn_ms * u64::from(view.policy.backstop_margin_percent) / 100 + guard_ms + early_ms
}

/// Whether there is anybody that the missing pieces could come from: a holder, a promise, or the
/// order of seeders, in which somebody always comes next for a fresh segment.
fn may_come(segment: &Segment, view: &View<'_>, missing: u64) -> bool {
    if segment.fresh {
        return true;
    }
    if segment.content.is_none() {
        return false;
    }
    missing & !(view.held | segment.claimed(view.now) | segment.pulled()) == 0
}

fn deadline_minus(deadline: Instant, ms: u64) -> Instant {
    Instant::from_micros(deadline.as_micros().saturating_sub(ms * 1000))
}

/// Pieces to ask of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) slot: Slot,
    pub(super) bits: u64,
}

/// Which missing pieces to ask of whom. `outstanding` counts what each neighbour was asked for
/// already.
pub(super) fn pull<'a>(
    segment: &Segment,
    view: &View<'_>,
    neighbours: impl Iterator<Item = &'a Neighbour> + Clone,
    outstanding: impl Fn(Slot) -> u32,
) -> (Vec<Ask>, Option<Instant>) {
    let Some(id) = segment.id() else {
        return (Vec::new(), None);
    };
    let mut missing = segment.full() & !segment.have & !view.fetching & !segment.pulled();
    if !(segment.fresh || segment.is_wanted()) || missing == 0 {
        return (Vec::new(), None);
    }
    let slack_ms = segment
        .deadline()
        .map_or(u64::MAX, |deadline| deadline.ms_since(view.now));
    let mut wake = None;
    let patience_ms = patience_ms(segment);
    if slack_ms > URGENT_MS && view.is_pushed {
        // Pushes are under way: what somebody else holds meanwhile is asked for only when they
        // take long, or both would send it.
        // What this viewer is to pass on itself, others wait for.
        let promised = segment.promised_since(view.now, patience_ms) & !segment.own_share();
        let patient = missing & promised;
        missing &= !patient;
        if patient & view.held != 0 {
            wake = Some(view.now.plus_ms(patience_ms / 4));
        }
    }
    let is_young = view.now.ms_since(segment.known_at) < patience_ms;
    let may_ask_bridges = !segment.fresh || !is_young || slack_ms <= URGENT_MS;
    let mut holders: Vec<Holder> = neighbours
        .filter(|n| n.is_believed() && n.status.weight > 0)
        .filter(|n| !n.bridge || may_ask_bridges)
        .map(|n| (n, n.holds(id) & missing))
        .filter(|(_, has)| *has != 0)
        .map(|(n, has)| Holder {
            has,
            load: outstanding(n.slot),
            strikes: n.strikes,
            rtt_ms: n.rtt_ms,
            ask: Ask {
                slot: n.slot,
                bits: 0,
            },
        })
        .collect();
    missing &= holders.iter().fold(0, |bits, holder| bits | holder.has);
    let mut left = view.pulls_max;
    while missing != 0 && left > 0 {
        let piece = missing & missing.wrapping_neg();
        missing &= !piece;
        let free = holders
            .iter_mut()
            .filter(|h| h.has & piece != 0 && h.load < PULL_PIECES_MAX);
        if let Some(best) = free.min_by_key(|h| (h.load, h.strikes, h.rtt_ms, h.ask.slot)) {
            best.load += 1;
            left -= 1;
            best.ask.bits |= piece;
        }
    }
    let asks = holders.into_iter().map(|holder| holder.ask);
    (asks.filter(|ask| ask.bits != 0).collect(), wake)
}

fn patience_ms(segment: &Segment) -> u64 {
    PATIENCE_MS + u64::from(segment.duration_ms) * PATIENCE_PERCENT / 100
}

/// A neighbour that has something of what is missing.
struct Holder {
    has: u64,
    /// Pieces that it was asked for and owes.
    load: u32,
    strikes: u8,
    rtt_ms: u16,
    ask: Ask,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Name, RequestId, SegmentId},
        peer::segment::{Claim, Request},
        timeline::Content,
    };

    const NOW: Instant = Instant::from_millis(100_000);

    fn segment() -> Segment {
        let mut segment = Segment::new(Name(1), NOW);
        segment.set_content(Content {
            id: SegmentId(1),
            len: 16 * 65_536,
            piece_len: 65_536,
            epoch: 0,
        });
        segment.fresh = true;
        segment.ranks = [0, 1, 2, 3, NEVER, NEVER, NEVER, NEVER];
        segment
    }

    fn check(segment: &Segment, with: impl FnOnce(&mut View<'_>)) -> (Plan, Plan) {
        let (policy, estimate) = (Policy::default(), Estimate::default());
        let mut view = View {
            now: NOW,
            policy: &policy,
            estimate: &estimate,
            fetching: 0,
            fetching_whole: false,
            held: 0,
            held_elsewhere: 0,
            group: None,
            spare_ms: 8000,
            companions: 7,
            pulls_max: u32::MAX,
            is_pushed: true,
            stripe_count: 4,
            len_expected: 16 * 65_536,
        };
        with(&mut view);
        (seed(segment, &view), backstop(segment, &view, 8000))
    }

    #[test]
    fn the_first_in_the_order_seeds_its_stripe_at_once_and_backs_up_the_others_later() {
        let (plan, _) = check(&segment(), |_| {});
        assert_eq!(plan.fetch, [0b1111]);
        assert!(plan.wake.is_some_and(|at| at > NOW));
        let (later, _) = check(&segment(), |view| view.now = NOW.plus_ms(60_000));
        assert_eq!(later.fetch.len(), 4, "nobody else has come");
    }

    #[test]
    fn a_promise_puts_the_backups_off_until_it_is_broken() {
        let mut segment = segment();
        let until = NOW.plus_ms(70_000);
        segment.claims.push(Claim {
            slot: Slot(1),
            bits: 0xfff0,
            made: NOW,
            until,
        });
        let (plan, _) = check(&segment, |view| view.now = NOW.plus_ms(60_000));
        assert_eq!(plan.fetch, [0b1111]);
        assert!(plan.wake.is_some_and(|at| at > until));
    }

    #[test]
    fn a_lone_viewer_seeds_nothing_and_its_player_gets_the_cdn_at_once() {
        let mut segment = segment();
        let request = Request {
            id: RequestId(1),
            since: NOW,
            deadline: NOW.plus_ms(20_000),
        };
        segment.requests.push(request);
        let (seed, backstop) = check(&segment, |view| view.companions = 0);
        assert_eq!(seed, Plan::default());
        assert!(backstop.whole);
    }

    #[test]
    fn the_backstop_waits_for_the_latest_safe_moment_and_takes_only_what_is_missing() {
        let mut segment = segment();
        segment.have = 0xff00;
        let request = Request {
            id: RequestId(1),
            since: NOW,
            deadline: NOW.plus_ms(20_000),
        };
        segment.requests.push(request);
        let (_, early) = check(&segment, |_| {});
        assert!(!early.is_fetch());
        let moment = early.wake.expect("it is armed");
        assert!(moment > NOW && moment < NOW.plus_ms(20_000));
        let (_, late) = check(&segment, |view| view.now = moment);
        assert_eq!(late.fetch, [0x00ff]);
    }

    #[test]
    fn an_old_segment_that_nobody_holds_is_fetched_when_it_is_wanted() {
        let mut segment = segment();
        segment.fresh = false;
        let request = Request {
            id: RequestId(1),
            since: NOW,
            deadline: NOW.plus_ms(20_000),
        };
        segment.requests.push(request);
        assert!(check(&segment, |_| {}).1.whole);
        let (_, held) = check(&segment, |view| view.held = 0xffff);
        assert!(!held.is_fetch());
    }

    #[test]
    fn stripes_are_a_power_of_two_and_not_too_short() {
        let policy = Policy::default();
        for (seeders, expected) in [(1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (30, 8)] {
            assert_eq!(stripe_count(&segment(), seeders, &policy), expected);
        }
        assert_eq!(stripe_count(&Segment::new(Name(1), NOW), 8, &policy), 1);
    }
}

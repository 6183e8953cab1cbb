//! What to do about one segment: pure functions from what is known to what should happen.
//!
//! Three plans, in the order in which they come to a segment's help:
//! [`seed`] (this viewer's share of bringing it into the group), [`pull`] (asking neighbours that
//! hold what has not been pushed here) and [`backstop`] (the CDN, at the latest safe moment).

mod backstop;
mod pull;

pub(super) use backstop::backstop;
pub(super) use pull::{
    Ask, CAREFUL_AHEAD_MS_MIN, CAREFUL_PULLS_MAX, PULL_AGAIN_MS, PULL_TIMEOUT_MS, last_of,
    patience_ms, pull,
};

use alloc::vec::Vec;

use super::{
    estimate::Estimate,
    need::Need,
    policy::Policy,
    rendezvous::NEVER,
    segment::{Segment, runs},
};
use crate::{
    id::{Name, PeerId},
    rng::mix,
    time::Instant,
};

/// One rank further back, a viewer relays a stripe from another group this much later.
const RELAY_STAGGER_MS: u64 = 80;
/// Who never seeds takes what nobody brings for itself alone, after all who might bring it.
const RANK_LAST: u8 = 16;
/// How long groups wait for each other: a part of the segment's duration, and only as long as this
/// much is left after it and what distributing takes; not at all if that is less than the last.
const HOLD_PERCENT: u64 = 35;
const HOLD_SPARE_MS: u64 = 1200;
const HOLD_MS_MIN: u64 = 200;
/// With less time than this beyond what distributing takes, everybody helps to bring a stripe.
const REMOTE_MARGIN_MS_MIN: u64 = 700;
/// What distributing one stripe takes of what the whole segment does where it is spread over its playing.
const IN_ORDER_PACE_PERCENT: u64 = 25;
/// Groups that are not first wait for between this part of it and all of it.
const HOLD_PERCENT_LEAST: u64 = 60;

/// What a plan says: do this now, and look again then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Runs of pieces to fetch from the CDN.
    pub(super) fetch: Vec<u64>,
    /// Pieces to ask of bridges for the whole group.
    pub(super) relay: u64,
    /// Those of all these pieces that the group may count on.
    pub(super) claimed: u64,
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
    /// Fetches for the player that are under way, of this segment and of others before it.
    pub(super) fetches: usize,
    /// Pieces that this viewer is fetching.
    pub(super) fetching: u64,
    /// Whether a fetch of the whole object is under way.
    pub(super) fetching_whole: bool,
    /// Those of the pieces being fetched that the player waits for, and that neighbours may bring sooner.
    pub(super) raced: u64,
    /// Pieces that believed neighbours hold.
    pub(super) held: u64,
    /// Those of them that somebody holds who passes something on, and how many such neighbours there are.
    pub(super) offered: u64,
    pub(super) givers: u32,
    /// Those held that only bridges hold: nobody of the group.
    pub(super) held_elsewhere: u64,
    /// Whether there are links to other groups.
    pub(super) has_bridges: bool,
    /// Whether others are better at bringing segments into the group: this viewer sees few members who
    /// pass something on, and more of them in other groups.
    pub(super) is_remote: bool,
    /// How long segments take from their first piece until they are whole.
    pub(super) pace_ms: u64,
    /// Neighbours that play the segment's track.
    pub(super) companions: usize,
    /// Whether links are being set up that this viewer has waited for only a moment.
    pub(super) expects_links: bool,
    /// This viewer's turn among those who get nothing from anybody, of 256.
    pub(super) turn: u8,
    /// Further pieces that may be asked of neighbours.
    pub(super) pulls_max: u32,
    /// Whether this viewer plays: before, only what its player asks for is asked of neighbours.
    pub(super) has_begun: bool,
    /// Whether the CDN brings less than is played, and what it brings is divided.
    pub(super) is_scarce: bool,
    /// Whether its downlink is thin, by what it has seen.
    pub(super) is_careful: bool,
    /// Whether neighbours push to this viewer.
    pub(super) is_pushed: bool,
    /// Stripes that the segment is divided into.
    pub(super) stripe_count: u32,
    /// Length of the segment in bytes, or of others of its track while its own is unknown.
    pub(super) len_expected: u64,
    /// When the segment is needed, if the player waits for it or will ask for it next.
    pub(super) need: Option<Need>,
}

/// Into how many stripes a segment is divided among `seeders`: a power of two, so that views of
/// the group that differ by a few members still agree.
pub(super) fn stripe_count(segment: &Segment, seeders: usize, policy: &Policy) -> u32 {
    let Some(content) = segment.content() else {
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
    // A thin downlink is for what the player needs: what only other groups have is asked of them as of anybody.
    if !segment.fresh || view.companions == 0 || view.fetching_whole || view.is_careful {
        return plan;
    }
    let covered = segment.have() | view.fetching | (view.held & !view.held_elsewhere);
    let covered = covered | segment.pulled();
    let claimed = segment.claimed(view.now);
    let stripe_len = segment.content().map_or(0, |content| content.len) / view.stripe_count;
    let delay_ms =
        u64::from(view.policy.rank_delay_ms).max(100) + view.estimate.cdn_ms(u64::from(stripe_len));
    for stripe in 0..view.stripe_count {
        let rank = rank(segment, view, stripe);
        let bits = segment.stripe_bits(stripe, view.stripe_count);
        let mut missing = bits & !covered;
        if segment.is_known() && missing == 0 {
            continue;
        }
        let elsewhere = missing & view.held_elsewhere & !claimed;
        if elsewhere != 0 {
            let seen_ms = u64::from(segment.work().seen_ms[stripe as usize]);
            let due = segment
                .known_at()
                .plus_ms(seen_ms + u64::from(rank.min(RANK_LAST)) * RELAY_STAGGER_MS);
            if due > view.now {
                plan.wake_at(due);
            } else {
                // What the bridge has not got yet it will pass on as it comes.
                plan.relay |= elsewhere;
                if rank != NEVER {
                    plan.claimed |= elsewhere;
                }
            }
            missing &= !elsewhere;
            if missing == 0 {
                continue;
            }
        }
        if rank == NEVER {
            continue;
        }
        let claim_bits = if segment.is_known() { bits } else { u64::MAX };
        let base = segment
            .claimed_until(claim_bits)
            .unwrap_or(segment.known_at());
        let due = base
            .max(segment.known_at().plus_ms(hold_ms(segment, view, stripe)))
            .plus_ms(u64::from(rank) * delay_ms);
        if due > view.now {
            plan.wake_at(due);
        } else if !segment.is_known() {
            plan.whole = true;
        } else {
            plan.fetch.extend(runs(missing, 1));
            plan.claimed = plan.fetch.iter().fold(plan.claimed, |bits, run| bits | run);
        }
    }
    plan
}

/// This viewer's place in the order of seeders of a stripe. Who sees little of the group takes itself for
/// the first of it too often, and leaves the order while there is time for others to come first.
fn rank(segment: &Segment, view: &View<'_>, stripe: u32) -> u8 {
    let is_known = segment.is_known();
    if view.is_remote && is_known && margin_ms(segment, view, stripe) >= REMOTE_MARGIN_MS_MIN {
        return NEVER;
    }
    segment.work().ranks[stripe as usize]
}

/// What a group draws for a stripe, of 256: the same for all who agree on who is first in the order of
/// seeders.
pub(super) fn draw(first: PeerId, name: Name, stripe: usize) -> u8 {
    mix(first.0 ^ mix(name.0 ^ (stripe as u64) << 32)) as u8
}

/// How long a group waits for others to bring a stripe before it asks the CDN: not at all if it is
/// its turn to be first, or if there is no time to spare.
fn hold_ms(segment: &Segment, view: &View<'_>, stripe: u32) -> u64 {
    if !view.has_bridges || !segment.is_known() {
        return 0;
    }
    let drawn = u64::from(segment.work().draws[stripe as usize]) * 100;
    let spare_ms = margin_ms(segment, view, stripe).saturating_sub(HOLD_SPARE_MS);
    let hold_ms = (u64::from(segment.duration_ms) * HOLD_PERCENT / 100).min(spare_ms);
    let is_first = drawn < u64::from(view.policy.first_groups_percent) * 256;
    if is_first || hold_ms < HOLD_MS_MIN {
        return 0;
    }
    // Should nobody be first, somebody goes before the others.
    let part = HOLD_PERCENT_LEAST + (100 - HOLD_PERCENT_LEAST) * drawn / (256 * 100);
    hold_ms * part / 100
}

/// How much longer there is to bring a stripe than distributing it takes.
fn margin_ms(segment: &Segment, view: &View<'_>, stripe: u32) -> u64 {
    let first = segment
        .stripe_bits(stripe, view.stripe_count)
        .trailing_zeros();
    let stripe_pace_ms = match segment.spread_ms() {
        0 => view.pace_ms,
        _ => view.pace_ms * IN_ORDER_PACE_PERCENT / 100,
    };
    segment.window_ms_of(first).saturating_sub(stripe_pace_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{RequestId, SegmentId, Slot},
        peer::{
            duty::{Claim, Request},
            pulls::Pull,
        },
        timeline::Content,
    };

    pub(in crate::peer::plan) const NOW: Instant = Instant::from_millis(100_000);

    pub(in crate::peer::plan) const REQUEST: Request = Request {
        id: RequestId(1),
        since: NOW,
        deadline: Instant::from_millis(120_000),
        grain_ms: 0,
        released: 0,
    };

    pub(in crate::peer::plan) fn segment() -> Segment {
        let mut segment = Segment::new(Name(1), NOW);
        segment.set_content(Content {
            id: SegmentId(1),
            len: 16 * 65_536,
            piece_len: 65_536,
            epoch: 0,
        });
        segment.fresh = true;
        segment.work_mut().ranks = [0, 1, 2, 3, NEVER, NEVER, NEVER, NEVER];
        segment
    }

    fn check(segment: &Segment, with: impl FnOnce(&mut View<'_>)) -> (Plan, Plan) {
        check_with_buffer(segment, 8000, with)
    }

    /// What a viewer sees that plays in a group of eight.
    pub(in crate::peer::plan) fn usual<'a>(
        segment: &Segment,
        policy: &'a Policy,
        estimate: &'a Estimate,
    ) -> View<'a> {
        View {
            now: NOW,
            policy,
            estimate,
            fetches: 0,
            fetching: 0,
            fetching_whole: false,
            raced: 0,
            held: 0,
            offered: 0,
            givers: 7,
            held_elsewhere: 0,
            has_bridges: false,
            is_remote: false,
            pace_ms: 2000,
            companions: 7,
            expects_links: false,
            turn: 0,
            pulls_max: u32::MAX,
            has_begun: true,
            is_scarce: false,
            is_careful: false,
            is_pushed: true,
            stripe_count: 4,
            len_expected: 16 * 65_536,
            need: segment.need(),
        }
    }

    pub(in crate::peer::plan) fn check_with_buffer(
        segment: &Segment,
        buffer_ms: u64,
        with: impl FnOnce(&mut View<'_>),
    ) -> (Plan, Plan) {
        let (policy, estimate) = (Policy::default(), Estimate::default());
        let mut view = usual(segment, &policy, &estimate);
        with(&mut view);
        (seed(segment, &view), backstop(segment, &view, buffer_ms))
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
        segment.work_mut().claims.push(Claim {
            slot: Slot(1),
            bits: 0xfff0,
            mine: 0,
            until: until.into(),
            kept: false,
        });
        let (plan, _) = check(&segment, |view| view.now = NOW.plus_ms(60_000));
        assert_eq!(plan.fetch, [0b1111]);
        assert!(plan.wake.is_some_and(|at| at > until));
    }

    #[test]
    fn who_sees_little_of_the_group_seeds_only_when_time_is_short() {
        let mut segment = segment();
        segment.duty_mut().window_ms = 2000 + REMOTE_MARGIN_MS_MIN as u32;
        let remote = |view: &mut View<'_>| (view.is_remote, view.has_bridges) = (true, true);
        let late = NOW.plus_ms(60_000);
        let (plan, _) = check(&segment, |view| {
            remote(view);
            (view.now, view.held, view.held_elsewhere) = (late, 0b1, 0b1);
        });
        assert!(plan.fetch.is_empty(), "{plan:?}");
        assert_eq!((plan.relay, plan.claimed), (0b1, 0), "for itself alone");
        segment.duty_mut().window_ms -= 1;
        let (plan, _) = check(&segment, |view| {
            remote(view);
            view.now = late;
        });
        assert_eq!((plan.fetch.len(), plan.claimed), (4, 0xffff));
    }

    #[test]
    fn a_lone_viewer_seeds_nothing_and_its_player_gets_the_cdn_at_once() {
        let mut segment = segment();
        segment.add_request(REQUEST);
        let (seed, backstop) = check(&segment, |view| view.companions = 0);
        assert_eq!(seed, Plan::default());
        assert!(backstop.whole);
    }

    #[test]
    fn the_backstop_waits_for_the_latest_safe_moment_and_takes_only_what_is_missing() {
        let mut segment = segment();
        segment.duty_mut().have = 0xff00;
        segment.add_request(REQUEST);
        let (_, early) = check(&segment, |_| {});
        assert!(!early.is_fetch());
        let moment = early.wake.expect("it is armed");
        assert!(moment > NOW && moment < NOW.plus_ms(20_000));
        let (_, late) = check(&segment, |view| view.now = moment);
        assert_eq!(late.fetch, [0x00ff]);
    }

    #[test]
    fn over_a_thin_downlink_nothing_is_brought_for_others() {
        let mut segment = segment();
        segment.work_mut().ranks = [NEVER; 8];
        segment.duty_mut().known_at = NOW.minus_ms(3000);
        let elsewhere = |is_careful| {
            let with = |view: &mut View<'_>| {
                (view.has_bridges, view.is_careful) = (true, is_careful);
                view.held_elsewhere = 0xff00;
            };
            check(&segment, with).0.relay
        };
        assert_eq!((elsewhere(false), elsewhere(true)), (0xff00, 0));
    }

    #[test]
    fn who_has_not_begun_to_play_waits_for_nobody() {
        let mut segment = segment();
        segment.add_request(REQUEST);
        assert!(!check(&segment, |_| {}).1.is_fetch());
        let (_, hasty) = check(&segment, |view| view.has_begun = false);
        assert!(hasty.whole);
    }

    /// A request of a player that takes half a second at a time of 16 s.
    fn played_while_it_arrives(deadline: Instant) -> Segment {
        let mut segment = segment();
        (segment.duration_ms, segment.is_progressive) = (16_000, true);
        segment.duty_mut().window_ms = 2000;
        segment.add_request(Request {
            deadline,
            grain_ms: 500,
            ..REQUEST
        });
        segment
    }

    #[test]
    fn what_is_played_while_it_arrives_is_fetched_in_order_and_a_little_at_a_time() {
        let segment = played_while_it_arrives(NOW.plus_ms(2000));
        let (_, early) = check(&segment, |_| {});
        assert!(!early.is_fetch());
        let moment = early.wake.expect("it is armed");
        assert!(moment < NOW.plus_ms(2000), "before the first piece is due");
        let (_, due) = check(&segment, |view| view.now = moment);
        let fetched = due.fetch.iter().fold(0, |bits, run| bits | run);
        assert_eq!(fetched & 1, 1, "the first piece is");
        assert!(
            fetched.count_ones() < 8,
            "the last ones have time: {fetched:b}"
        );
        let (_, full) = check(&segment, |view| (view.now, view.fetches) = (moment, 2));
        assert!(!full.is_fetch(), "two requests share the line already");
    }

    #[test]
    fn a_piece_that_is_asked_for_already_is_not_fetched_over_a_thin_line_while_others_miss() {
        let mut segment = played_while_it_arrives(NOW);
        segment.work_mut().pulls.push(Pull {
            slot: Slot(1),
            held: true,
            bits: 0b1,
            asked: NOW.into(),
        });
        let with = |is_pushed| check(&segment, |view| view.is_pushed = is_pushed).1.fetch;
        assert_eq!(with(true)[0] & 1, 1);
        assert_eq!(with(false)[0] & 1, 0);
    }

    #[test]
    fn an_old_segment_that_nobody_holds_is_fetched_when_it_is_wanted() {
        let mut segment = segment();
        segment.fresh = false;
        segment.add_request(REQUEST);
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

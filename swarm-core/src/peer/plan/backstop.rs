//! The last of the plans: the CDN, at the latest safe moment.

use alloc::vec::Vec;

use super::{Plan, View};
use crate::{
    limits::PIECES_MAX,
    peer::{
        need::Need,
        scarcity::patient_until,
        segment::{Segment, runs},
    },
    time::Instant,
};

/// Runs of pieces that are fetched at the same time when nothing is to be waited for.
const BACKSTOP_RUNS_MAX: usize = 3;
/// With less media than this ahead of the playhead the CDN is asked at once; where there is little
/// time anyway, with less than a part of it.
const BUFFER_MS_CRITICAL: u64 = 1000;
const CRITICAL_WINDOW_PERCENT: u64 = 25;
/// The part of promised bytes that the backstop leaves time for.
const DOUBT_PERCENT: u64 = 40;
/// The most of the time there is that the backstop's guard takes.
const GUARD_WINDOW_PERCENT: u64 = 12;
/// The same two for a player that plays while the segment arrives: what is late holds up the next piece
/// only, and is noticed in time.
const IN_ORDER_DOUBT_PERCENT: u64 = 25;
const IN_ORDER_GUARD_WINDOW_PERCENT: u64 = 6;
/// Fetches for such a player that are under way at the same time: they share the line.
const IN_ORDER_RUNS_MAX: usize = 2;
/// With one piece, the backstop fetches those whose moment comes within this and two requests' time.
const IN_ORDER_SOON_MS: u64 = 200;
/// Least that one fetch of the backstop takes, if so much is missing.
const BACKSTOP_LEN_MIN: u32 = 256 * 1024;
/// Who gets nothing from anybody asks the CDN with at least so many times the backstop's margin left, and so
/// much time: near the live edge nothing is gained by waiting that is worth a buffer.
const ALONE_NEEDS: u64 = 2;
const ALONE_MS_MIN: u64 = 2000;
/// So many neighbours bring about as much as the CDN in the same time, by estimate.
const HELPERS: u64 = 8;
/// While the CDN is scarce, the backstop takes about so many bytes at a time, and looks again after this long.
const SCARCE_LEN: u32 = 64 * 1024;
const SCARCE_AGAIN_MS: u64 = 500;
/// The backstop looks again after this long.
const BACKSTOP_AGAIN_MS: u64 = 60;

/// What the player needs and nobody will bring in time: not more than must be fetched now so that
/// what then still misses can be fetched later.
pub(in crate::peer) fn backstop(segment: &Segment, view: &View<'_>, buffer_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let Some(need) = view.need else {
        return plan;
    };
    let deadline = need.at;
    let missing = segment.full() & !segment.have() & !view.fetching;
    if view.fetching_whole || (segment.is_known() && missing == 0) {
        return plan;
    }
    if view.is_scarce && segment.is_known() {
        return backstop_scarce(segment, view, &need);
    }
    let slack_ms = deadline.ms_since(view.now);
    let window_ms = slack_ms + view.now.ms_since(segment.known_at());
    let is_hasty = is_hasty(view, buffer_ms, window_ms);
    let is_held = missing & view.offered != 0;
    let may_wait = view.has_begun || (is_held && !is_hasty);
    if need.spread_ms > 0 && segment.is_known() && may_wait && view.companions > 0 {
        return backstop_in_order(segment, view, &need);
    }
    let is_alone = view.companions == 0 && !view.expects_links;
    let is_hopeless = is_alone || !may_come(segment, view, missing);
    // For what was there when this viewer came it shares the work with those who hold it. Whoever plays
    // while it arrives needs the CDN's order.
    let is_shared = is_held && need.spread_ms == 0;
    let is_at_once = if view.has_begun {
        is_hasty && (segment.fresh || !is_shared)
    } else {
        !is_shared && (is_hasty || !view.expects_links)
    };
    if is_hopeless || is_at_once || !segment.is_known() {
        let need_ms = need_ms(segment, view, missing, window_ms);
        let may_take_turns = view.companions == 0 && view.has_begun && !is_at_once;
        let turn_at = turn_at(segment, view, window_ms, need_ms);
        if may_take_turns && turn_at > view.now {
            plan.wake_at(turn_at);
        } else if !is_hopeless && !is_at_once && slack_ms > need_ms {
            plan.wake_at(deadline.minus_ms(need_ms));
        } else {
            fetch_all(segment, view, &need, missing, &mut plan);
        }
        return plan;
    }
    let under_way = view.fetching & !segment.have();
    let need_ms = need_ms(segment, view, missing | under_way, window_ms);
    if slack_ms > need_ms && !is_hasty {
        plan.wake_at(deadline.minus_ms(need_ms));
        return plan;
    }
    plan.wake_at(view.now.plus_ms(BACKSTOP_AGAIN_MS));
    let most = if is_hasty {
        BACKSTOP_LEN_MIN.max(cdn_part(segment.len_of(missing), view))
    } else {
        backstop_len(segment, view, missing, need_ms.saturating_sub(slack_ms))
    };
    if segment.len_of(under_way) <= most / 2 {
        plan.fetch.extend(from_the_end(segment, missing, most));
    }
    plan
}

/// What the player needs while the CDN brings less than is played: the group has a segment's duration to bring it, and
/// what is missing then is fetched a little at a time. All fetch over the same line, so each begins elsewhere; whoever
/// plays while it arrives, at the beginning.
fn backstop_scarce(segment: &Segment, view: &View<'_>, need: &Need) -> Plan {
    let mut plan = Plan::default();
    let patient_until = patient_until(segment, need);
    if view.now < patient_until {
        plan.wake_at(patient_until);
        return plan;
    }
    plan.wake_at(view.now.plus_ms(SCARCE_AGAIN_MS));
    if view.fetching & !segment.have() != 0 {
        return plan;
    }
    let missing = segment.full() & !segment.have();
    let begin = match need.spread_ms {
        0 => segment.full().count_ones() * u32::from(view.turn) / 256,
        _ => 0,
    };
    let later = missing & u64::MAX << begin;
    let from = if later == 0 { missing } else { later };
    let mut run = runs(from, PIECES_MAX as usize)
        .first()
        .copied()
        .unwrap_or(0);
    while segment.len_of(run) > SCARCE_LEN && run.count_ones() > 1 {
        run &= !(1 << run.ilog2());
    }
    plan.fetch.push(run);
    plan
}

/// All that is missing comes from the CDN, now.
fn fetch_all(segment: &Segment, view: &View<'_>, need: &Need, missing: u64, plan: &mut Plan) {
    if !segment.is_known() || (segment.have() == 0 && view.fetching == 0) {
        plan.whole = true;
    } else if need.spread_ms > 0 {
        plan.fetch = in_order(missing);
    } else {
        plan.fetch = runs(missing, BACKSTOP_RUNS_MAX);
    }
}

/// The CDN's part of so many bytes that neighbours are asked for at the same time.
fn cdn_part(len: u32, view: &View<'_>) -> u32 {
    (u64::from(len) * HELPERS / (HELPERS + u64::from(view.givers))) as u32
}

/// Whether there is so little media ahead of the playhead that nothing is waited for.
fn is_hasty(view: &View<'_>, buffer_ms: u64, window_ms: u64) -> bool {
    let part_ms = window_ms * CRITICAL_WINDOW_PERCENT / 100;
    // What a viewer that has not begun has may be too little to play.
    let critical_ms = if view.has_begun {
        BUFFER_MS_CRITICAL.min(part_ms)
    } else {
        BUFFER_MS_CRITICAL
    };
    buffer_ms <= critical_ms
}

/// The same for a player that plays while the segment arrives: each piece has a deadline of its own. Once
/// one of them is near, what follows soon is fetched as well, so that requests are few.
fn backstop_in_order(segment: &Segment, view: &View<'_>, need: &Need) -> Plan {
    let mut plan = Plan::default();
    let count = segment.full().count_ones();
    let window_ms = need.at.ms_since(view.now) + view.now.ms_since(segment.known_at());
    let soon_ms = (2 * view.estimate.ttfb_ms() + IN_ORDER_SOON_MS) as i64;
    let (mut rest, mut upto, mut due) = (segment.full() & !segment.have(), 0, 0);
    let mut latest_ms = i64::MIN;
    while rest != 0 {
        let piece = rest.trailing_zeros();
        rest &= rest - 1;
        upto |= 1 << piece;
        let slack_us = need.of_piece(piece, count).as_micros() as i64 - view.now.as_micros() as i64;
        let late_ms = need_ms(segment, view, upto, window_ms) as i64 - slack_us / 1000;
        latest_ms = latest_ms.max(late_ms);
        if late_ms >= -soon_ms {
            due = upto;
        }
    }
    if latest_ms < 0 {
        plan.wake_at(view.now.plus_ms(latest_ms.unsigned_abs()));
        return plan;
    }
    plan.wake_at(view.now.plus_ms(BACKSTOP_AGAIN_MS));
    let mut due = due & !view.fetching;
    if !view.is_pushed && due & !segment.pulled() != 0 {
        // A thin downlink has no room for what comes twice.
        due &= !segment.pulled();
    }
    plan.fetch = in_order(due);
    plan.fetch
        .truncate(IN_ORDER_RUNS_MAX.saturating_sub(view.fetches));
    plan
}

/// The first runs of these pieces: several at once would share the line.
fn in_order(bits: u64) -> Vec<u64> {
    let mut runs = runs(bits, PIECES_MAX as usize);
    runs.truncate(IN_ORDER_RUNS_MAX);
    runs
}

/// When it is this viewer's turn to fetch a segment that it gets from nobody: such viewers share the
/// segment's duration, as far as there is time for it, so that not all ask the CDN when it is listed.
fn turn_at(segment: &Segment, view: &View<'_>, window_ms: u64, need_ms: u64) -> Instant {
    let spare_ms = window_ms.saturating_sub(ALONE_MS_MIN.max(ALONE_NEEDS * need_ms));
    let span_ms = spare_ms.min(segment.duration_ms.into());
    segment
        .known_at()
        .plus_ms(span_ms * u64::from(view.turn) / 256)
}

/// How much the backstop fetches at a time: what makes up for being late, and keeps the line busy
/// until the next look.
fn backstop_len(segment: &Segment, view: &View<'_>, missing: u64, late_ms: u64) -> u32 {
    let ms = late_ms + view.estimate.ttfb_ms();
    let bytes = ms.saturating_mul(view.estimate.cdn_bps()) / 8000;
    let least = BACKSTOP_LEN_MIN.max(segment.len_of(missing) / 4);
    u32::try_from(bytes).unwrap_or(u32::MAX).max(least)
}

/// The last run of the missing pieces, cut to about `most` bytes: neighbours send the first ones
/// first.
fn from_the_end(segment: &Segment, missing: u64, most: u32) -> Option<u64> {
    let quiet = missing & !segment.pulled();
    let from = if quiet == 0 { missing } else { quiet };
    let last = runs(from, PIECES_MAX as usize).pop()?;
    let mut run = last;
    while segment.len_of(run) > most && run.count_ones() > 1 {
        run &= run - 1;
    }
    Some(run)
}

/// How long before its deadline the backstop of a segment fires.
fn need_ms(segment: &Segment, view: &View<'_>, missing: u64, window_ms: u64) -> u64 {
    let len = match segment.content() {
        Some(_) => {
            // Most of what neighbours hold or are about to bring will be there in time; while the
            // segment is young, somebody is about to bring everything.
            let young = if segment.fresh {
                missing & !segment.late(missing, view.now)
            } else {
                0
            };
            let promised = view.held | segment.claimed(view.now) | segment.pulled();
            let coming = young | missing & promised;
            let sure = u64::from(segment.len_of(missing & !coming));
            let doubt_percent = if is_in_order(view) {
                IN_ORDER_DOUBT_PERCENT
            } else {
                DOUBT_PERCENT
            };
            sure + u64::from(segment.len_of(coming)) * doubt_percent / 100
        }
        None => view.len_expected,
    };
    let cdn_ms = view.estimate.cdn_ms_worst(len);
    let guard_percent = if is_in_order(view) {
        IN_ORDER_GUARD_WINDOW_PERCENT
    } else {
        GUARD_WINDOW_PERCENT
    };
    let guard_ms = u64::from(view.policy.backstop_guard_ms).min(window_ms * guard_percent / 100);
    cdn_ms * u64::from(view.policy.backstop_margin_percent) / 100 + guard_ms
}

/// Whether the player plays the segment while it arrives.
fn is_in_order(view: &View<'_>) -> bool {
    view.need.is_some_and(|need| need.spread_ms > 0)
}

/// Whether there is anybody that the missing pieces could come from: a holder, a promise, or the
/// order of seeders, in which somebody always comes next for a fresh segment. What is listed since less
/// than its duration may still be on its way to those who were there before this viewer.
fn may_come(segment: &Segment, view: &View<'_>, missing: u64) -> bool {
    if segment.fresh {
        return true;
    }
    if !segment.is_known() {
        return false;
    }
    let is_young = view.now.ms_since(segment.known_at()) < u64::from(segment.duration_ms);
    is_young || missing & !(view.held | segment.claimed(view.now) | segment.pulled()) == 0
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, REQUEST, check_with_buffer, segment, usual};
    use super::*;
    use crate::peer::{duty::Request, estimate::Estimate, policy::Policy};

    /// What a newcomer found listed, asked for with so much media ahead.
    fn found(ahead_ms: u64) -> Segment {
        let mut segment = segment();
        (segment.fresh, segment.duration_ms) = (false, 4000);
        let deadline = NOW.plus_ms(ahead_ms);
        segment.add_request(Request {
            deadline,
            ..REQUEST
        });
        segment
    }

    fn plan(segment: &Segment, buffer_ms: u64, with: impl FnOnce(&mut View<'_>)) -> Plan {
        check_with_buffer(segment, buffer_ms, with).1
    }

    #[test]
    fn whatever_a_driver_has_measured_a_length_follows_from_it() {
        let (policy, mut estimate) = (Policy::default(), Estimate::default());
        let most = u64::from(u32::MAX);
        estimate.on_fetch(most, most, 0);
        let segment = segment();
        let view = usual(&segment, &policy, &estimate);
        assert_eq!(backstop_len(&segment, &view, 0xffff, most), u32::MAX);
    }

    #[test]
    fn a_newcomer_with_media_ahead_waits_for_those_who_hold_the_next_segment() {
        let segment = found(8000);
        let newcomer = |view: &mut View<'_>| {
            (view.has_begun, view.held, view.offered) = (false, 0xffff, 0xffff);
        };
        let early = plan(&segment, 8000, newcomer);
        assert!(!early.is_fetch());
        let moment = early.wake.expect("it is armed");
        assert!(moment < NOW.plus_ms(8000));
        let late = plan(&segment, 8000, |view| {
            newcomer(view);
            view.now = moment;
        });
        assert!(late.is_fetch() && !late.whole, "{late:?}");
        assert!(plan(&segment, 8000, |view| view.has_begun = false).whole);
    }

    #[test]
    fn a_newcomer_with_little_ahead_shares_the_segment_with_those_who_hold_it() {
        let mut segment = found(500);
        let newcomer = |view: &mut View<'_>| {
            (view.has_begun, view.held, view.offered) = (false, 0xffff, 0xffff);
        };
        let first = plan(&segment, 500, newcomer);
        assert_eq!(first.fetch, [0xff00], "the end of it");
        let next = |here: u64| {
            let mut segment = segment.clone();
            segment.duty_mut().have = here;
            plan(&segment, 500, |view| {
                newcomer(view);
                view.fetching = 0xff00 & !here;
            })
        };
        assert!(!next(0x3000).is_fetch(), "that is still coming");
        assert_eq!(next(0xfc03).fetch.len(), 1, "who is slow gets less to do");
        segment.work_mut().requests[0].grain_ms = 500;
        assert!(plan(&segment, 500, newcomer).whole, "it is played in order");
    }

    #[test]
    fn a_newcomer_with_media_ahead_waits_a_moment_for_links() {
        let segment = found(8000);
        let linking = |view: &mut View<'_>| {
            (view.has_begun, view.companions, view.expects_links) = (false, 0, true);
        };
        assert!(!plan(&segment, 8000, linking).is_fetch());
        assert!(plan(&segment, 500, linking).whole, "not with little ahead");
        let alone = |view: &mut View<'_>| (view.has_begun, view.companions) = (false, 0);
        assert!(plan(&segment, 8000, alone).whole);
    }

    #[test]
    fn what_was_listed_just_now_may_still_be_on_its_way_to_others() {
        let segment = found(8000);
        assert!(!plan(&segment, 8000, |_| {}).is_fetch());
        let later = |view: &mut View<'_>| view.now = NOW.plus_ms(4000);
        assert!(plan(&segment, 8000, later).whole);
    }

    #[test]
    fn while_the_cdn_is_scarce_the_group_has_time_and_then_each_begins_elsewhere() {
        let mut segment = found(0);
        segment.work_mut().requests[0].deadline = NOW;
        let scarce = |ms, turn, fetching| {
            plan(&segment, 0, |view| {
                (view.is_scarce, view.turn, view.fetching) = (true, turn, fetching);
                view.now = NOW.plus_ms(ms);
            })
        };
        let early = scarce(0, 0, 0);
        assert_eq!(
            (early.is_fetch(), early.wake),
            (false, Some(NOW.plus_ms(4000)))
        );
        assert_eq!(scarce(4000, 0, 0).fetch, [0x0001], "one piece");
        assert_eq!(scarce(4000, 128, 0).fetch, [0x0100]);
        assert_eq!(scarce(4000, 255, 0).fetch, [0x8000]);
        assert!(!scarce(4000, 0, 0b1).is_fetch(), "that is still coming");
        segment.work_mut().requests[0].grain_ms = 500;
        let in_order = plan(&segment, 0, |view| {
            (view.is_scarce, view.turn) = (true, 255);
            view.now = NOW.plus_ms(4000);
        });
        assert_eq!(in_order.fetch, [0x0001], "it is played in order");
    }

    #[test]
    fn viewers_who_get_nothing_from_anybody_take_turns() {
        let mut segment = found(20_000);
        segment.fresh = true;
        let alone = |turn| {
            plan(&segment, 20_000, |view| {
                (view.companions, view.turn) = (0, turn);
            })
        };
        assert!(alone(0).whole);
        let (middle, last) = (alone(128), alone(255));
        assert!(!middle.is_fetch() && !last.is_fetch());
        assert!(NOW < middle.wake.unwrap() && middle.wake < last.wake);
        assert!(last.wake.unwrap() < NOW.plus_ms(4000));
        // All but the last piece are here.
        (segment.duration_ms, segment.duty_mut().have) = (500, 0x7fff);
        segment.work_mut().requests[0].deadline = NOW.plus_ms(2000);
        let hurried = plan(&segment, 2000, |view| {
            (view.companions, view.turn) = (0, 255)
        });
        assert!(hurried.is_fetch(), "it is near the live edge");
    }
}

//! The last of the plans: the CDN, at the latest safe moment.

use alloc::vec::Vec;

use super::{Plan, View};
use crate::{
    limits::PIECES_MAX,
    peer::{
        need::Need,
        segment::{Segment, runs},
    },
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
    let missing = segment.full() & !segment.have & !view.fetching;
    if view.fetching_whole || (segment.content.is_some() && missing == 0) {
        return plan;
    }
    if need.spread_ms > 0 && segment.content.is_some() && view.has_begun && view.companions > 0 {
        return backstop_in_order(segment, view, &need);
    }
    let slack_ms = deadline.ms_since(view.now);
    let is_hopeless = view.companions == 0 || !may_come(segment, view, missing);
    let window_ms = slack_ms + view.now.ms_since(segment.known_at);
    let critical_ms = BUFFER_MS_CRITICAL.min(window_ms * CRITICAL_WINDOW_PERCENT / 100);
    let is_hasty = buffer_ms <= critical_ms || !view.has_begun;
    if is_hopeless || is_hasty || segment.content.is_none() {
        let need_ms = need_ms(segment, view, missing, window_ms);
        if !is_hopeless && !is_hasty && slack_ms > need_ms {
            plan.wake_at(deadline.minus_ms(need_ms));
        } else if segment.content.is_none() || (segment.have == 0 && view.fetching == 0) {
            plan.whole = true;
        } else {
            plan.fetch = if need.spread_ms > 0 {
                in_order(missing)
            } else {
                runs(missing, BACKSTOP_RUNS_MAX)
            };
        }
        return plan;
    }
    let under_way = view.fetching & !segment.have;
    let need_ms = need_ms(segment, view, missing | under_way, window_ms);
    if slack_ms > need_ms {
        plan.wake_at(deadline.minus_ms(need_ms));
        return plan;
    }
    plan.wake_at(view.now.plus_ms(BACKSTOP_AGAIN_MS));
    let late_ms = need_ms - slack_ms;
    let most = backstop_len(segment, view, missing, late_ms);
    if segment.len_of(under_way) <= most / 2 {
        plan.fetch.extend(from_the_end(segment, missing, most));
    }
    plan
}

/// The same for a player that plays while the segment arrives: each piece has a deadline of its own. Once
/// one of them is near, what follows soon is fetched as well, so that requests are few.
fn backstop_in_order(segment: &Segment, view: &View<'_>, need: &Need) -> Plan {
    let mut plan = Plan::default();
    let count = segment.full().count_ones();
    let window_ms = need.at.ms_since(view.now) + view.now.ms_since(segment.known_at);
    let soon_ms = (2 * view.estimate.ttfb_ms() + IN_ORDER_SOON_MS) as i64;
    let (mut rest, mut upto, mut due) = (segment.full() & !segment.have, 0, 0);
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

/// How much the backstop fetches at a time: what makes up for being late, and keeps the line busy
/// until the next look.
fn backstop_len(segment: &Segment, view: &View<'_>, missing: u64, late_ms: u64) -> u32 {
    let bytes = (late_ms + view.estimate.ttfb_ms()) * view.estimate.cdn_bps() / 8000;
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
    let len = match segment.content {
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

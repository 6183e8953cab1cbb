//! Asking neighbours for what they hold: which pieces, of whom, and which pushes not to wait for any longer.

use alloc::vec::Vec;

use super::View;
use crate::{
    id::Slot,
    peer::{neighbour::Neighbour, pulls::Recall, remotes::Row, segment::Segment},
    time::Instant,
};

/// Pieces that one neighbour may be asked for at the same time, over all segments.
const PULL_PIECES_MAX: u32 = 4;
/// Pieces that a viewer with a thin downlink asks for at the same time.
pub(in crate::peer) const CAREFUL_PULLS_MAX: u32 = 4;
/// With how much media ahead of the playhead such a viewer asks for something of segments that it does not
/// play yet.
pub(in crate::peer) const CAREFUL_AHEAD_MS_MIN: u64 = 2000;
/// How long a neighbour may take over a pull before it is asked of another: over a thin downlink, where
/// pieces wait for each other, and else.
pub(in crate::peer) const PULL_TIMEOUT_MS: u64 = 2000;
pub(in crate::peer) const PULL_AGAIN_MS: u64 = 800;
/// Pieces that neighbours are asked for at the same time while the CDN sends the whole segment.
const RACE_PIECES_MAX: u32 = 8;
/// The same over a thin downlink, where what was asked for comes after what the CDN has sent meanwhile: so it would come
/// twice where little is left.
const CAREFUL_RACE_PIECES_MAX: u32 = 2;
const CAREFUL_RACE_PART: u32 = 5;
/// With less time than this to the moment of the backstop, promises are not waited for.
const URGENT_MS: u64 = 900;
/// How old a segment may be before pieces that others hold by now are asked of them: this long and as
/// large a part of the segment's duration, but not beyond a part of the time there is.
const PATIENCE_MS: u64 = 300;
const PATIENCE_PERCENT: u64 = 40;
const PATIENCE_WINDOW_PERCENT: u64 = 35;
/// What a pusher has handed to its link when it is told not to push comes within the way there and back,
/// and this.
const RECALL_MS: u64 = 50;
/// Nobody waits for that where it is more than this part of the patience.
const RECALL_PERCENT_MAX: u64 = 25;

/// What to ask for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::peer) struct Pulls {
    pub(in crate::peer) asks: Vec<Ask>,
    /// Pieces that are late, and that who was to push them shall not push any more.
    pub(in crate::peer) recall: Option<Recall>,
    /// When the answer may change by itself.
    pub(in crate::peer) wake: Option<Instant>,
}

/// Pieces to ask of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::peer) struct Ask {
    pub(in crate::peer) slot: Slot,
    pub(in crate::peer) bits: u64,
}

/// Which missing pieces to ask of whom. `outstanding` counts what each neighbour was asked for
/// already.
pub(in crate::peer) fn pull<'a>(
    segment: &Segment,
    view: &View<'_>,
    neighbours: impl Iterator<Item = &'a Neighbour> + Clone,
    row: &Row,
    outstanding: impl Fn(Slot) -> u32,
) -> Pulls {
    let coming = view.fetching & !raced(segment, view);
    let missing = segment.full() & !segment.have() & !coming & !segment.pulled() & view.held;
    if !(segment.is_wanted() || (segment.fresh && view.has_begun)) || missing == 0 {
        return Pulls::default();
    }
    let urgent = urgent(segment, view, missing);
    let (missing, wake) = not_expected(segment, view, missing, urgent);
    let mut pulls = Pulls {
        wake,
        ..Pulls::default()
    };
    let missing = missing
        & !recall(
            segment,
            view,
            neighbours.clone(),
            missing & !urgent,
            &mut pulls,
        );
    if missing == 0 {
        return pulls;
    }
    let holders = neighbours
        .filter(|n| n.is_believed() && n.weight > 0)
        .map(|n| (n, row.have(n.slot) & missing))
        .filter(|(_, has)| *has != 0)
        .map(|(n, has)| Holder {
            has,
            load: outstanding(n.slot),
            strikes: n.strikes,
            pull_ms: n.pull_ms,
            slot: n.slot,
            bits: 0,
        });
    pulls.asks = share_out(holders.collect(), missing, view.pulls_max);
    pulls
}

/// Those pieces that neighbours may bring before the fetches do that the player waits for: the last ones, for fetches
/// bring the first ones first, and few where little is left. Whoever plays while it arrives needs the first ones, and the
/// line for them.
fn raced(segment: &Segment, view: &View<'_>) -> u64 {
    let missing = view.raced & !segment.have();
    let is_raced = missing != 0 && view.need.is_some_and(|need| need.spread_ms == 0);
    if !is_raced || !segment.is_wanted() {
        return 0;
    }
    let count = missing.count_ones();
    let most = if view.is_careful {
        (count / CAREFUL_RACE_PART).min(CAREFUL_RACE_PIECES_MAX)
    } else {
        (count / 2).clamp(1, RACE_PIECES_MAX)
    };
    let offered = missing & view.offered & !segment.pulled();
    let mut rest = offered;
    for _ in segment.pulled().count_ones()..most {
        rest &= !last_of(rest);
    }
    offered & !rest
}

/// The highest of these bits.
pub(in crate::peer) const fn last_of(bits: u64) -> u64 {
    match bits.checked_ilog2() {
        Some(last) => 1 << last,
        None => 0,
    }
}

/// Those of the missing pieces that are needed so soon that no push is waited for.
fn urgent(segment: &Segment, view: &View<'_>, missing: u64) -> u64 {
    let urgent_at = view
        .now
        .plus_ms(URGENT_MS.min(patience_ms(segment, missing.trailing_zeros())));
    let count = segment.full().count_ones();
    view.need
        .map_or(0, |need| need.until(urgent_at, missing, count))
}

/// Those of the missing pieces that pushes will not bring, and when to look at the others again. While
/// pushes are under way, what somebody else holds meanwhile is asked for only when they take long, or
/// both would send it. What nobody has promised may not be pushed here at all.
fn not_expected(
    segment: &Segment,
    view: &View<'_>,
    missing: u64,
    urgent: u64,
) -> (u64, Option<Instant>) {
    if !segment.fresh || urgent == missing || !view.is_pushed {
        return (missing, None);
    }
    let promised = missing & segment.promised();
    let expected = promised & !segment.late(promised, view.now) & !urgent;
    let soon_at = segment.began_at().plus_ms(patience_ms(segment, 0) / 3);
    if view.now < soon_at {
        (urgent, Some(soon_at))
    } else if expected != 0 {
        (
            missing & !expected,
            Some(segment.late_at(expected.trailing_zeros())),
        )
    } else {
        (missing, None)
    }
}

/// Those of `late` that are not asked of others yet, because who was to push them may have sent them already.
fn recall<'a>(
    segment: &Segment,
    view: &View<'_>,
    neighbours: impl Iterator<Item = &'a Neighbour>,
    late: u64,
    pulls: &mut Pulls,
) -> u64 {
    let Recall { bits, until } = segment.work().recalled;
    let waiting = if until > view.now { bits & late } else { 0 };
    if waiting != 0 {
        pulls.wake = pulls.wake.into_iter().chain([until]).min();
    }
    let recall = late & !waiting & segment.pushed();
    let pushers = neighbours.filter(|n| segment.pushed_by(n.slot) & recall != 0);
    let Some(rtt_ms) = pushers.map(|n| n.rtt_ms).max() else {
        return waiting;
    };
    let wait_ms = u64::from(rtt_ms) + RECALL_MS;
    if wait_ms > patience_ms(segment, recall.trailing_zeros()) * RECALL_PERCENT_MAX / 100 {
        return waiting;
    }
    pulls.recall = Some(Recall {
        bits: recall,
        until: view.now.plus_ms(wait_ms),
    });
    waiting | recall
}

/// Divides the pieces among those who hold them: each goes to the one who should bring it soonest.
fn share_out(mut holders: Vec<Holder>, mut missing: u64, most: u32) -> Vec<Ask> {
    missing &= holders.iter().fold(0, |bits, holder| bits | holder.has);
    let mut left = most;
    while missing != 0 && left > 0 {
        let piece = missing & missing.wrapping_neg();
        missing &= !piece;
        let free = holders
            .iter_mut()
            .filter(|h| h.has & piece != 0 && h.load < PULL_PIECES_MAX);
        if let Some(best) = free.min_by_key(|h| (h.expected_ms(), h.slot)) {
            best.load += 1;
            left -= 1;
            best.bits |= piece;
        }
    }
    let asked = holders.into_iter().filter(|holder| holder.bits != 0);
    asked
        .map(|holder| Ask {
            slot: holder.slot,
            bits: holder.bits,
        })
        .collect()
}

pub(in crate::peer) fn patience_ms(segment: &Segment, piece: u32) -> u64 {
    let usual = PATIENCE_MS + u64::from(segment.duration_ms) * PATIENCE_PERCENT / 100;
    match segment.window_ms_of(piece) {
        0 => usual,
        window_ms => usual.min(window_ms * PATIENCE_WINDOW_PERCENT / 100),
    }
}

/// A neighbour that has something of what is missing.
struct Holder {
    has: u64,
    /// Pieces that it was asked for and owes.
    load: u32,
    strikes: u8,
    pull_ms: u16,
    slot: Slot,
    /// Pieces to ask of it.
    bits: u64,
}

impl Holder {
    /// How long one more piece from it should take.
    fn expected_ms(&self) -> u32 {
        (u32::from(self.pull_ms.max(PULL_MS_MIN)) * (2 + self.load) / 2) << self.strikes.min(8)
    }
}

/// Pieces are not expected sooner than this after they were asked for.
const PULL_MS_MIN: u16 = 40;

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, REQUEST, segment, usual};
    use super::*;
    use crate::{
        id::PeerId,
        peer::{
            duty::{Claim, Request},
            estimate::Estimate,
            neighbour::LinkState,
            policy::Policy,
            pulls::Pull,
            remotes::Remotes,
        },
        time::Moment,
    };

    const PUSHER: Slot = Slot(1);
    const HOLDER: Slot = Slot(2);
    const RTT_MS: u16 = 60;
    const PULL: Pull = Pull {
        slot: HOLDER,
        held: true,
        bits: 0,
        asked: Moment::new(NOW),
    };

    /// The first piece was to be pushed, and is late; somebody else holds it.
    fn late() -> Segment {
        let mut segment = segment();
        (segment.duration_ms, segment.duty_mut().window_ms) = (4000, 8000);
        segment.duty_mut().known_at = NOW.minus_ms(5000);
        segment.work_mut().began_ms = Some(0);
        let work = segment.work_mut();
        work.claims.push(Claim {
            slot: PUSHER,
            bits: 0b1,
            mine: 0,
            until: NOW.plus_ms(1000).into(),
            kept: false,
        });
        work.pushers.push((0, PUSHER));
        segment
    }

    fn plan(segment: &Segment) -> Pulls {
        let (policy, estimate) = (Policy::default(), Estimate::default());
        let view = View {
            held: 0b1,
            ..usual(segment, &policy, &estimate)
        };
        let neighbours = [PUSHER, HOLDER].map(|slot| {
            let mut neighbour = Neighbour::new(slot, PeerId(slot.0.into()), NOW);
            neighbour.state = LinkState::Ready;
            (neighbour.rtt_ms, neighbour.weight) = (RTT_MS, 10);
            neighbour
        });
        let mut remotes = Remotes::default();
        let row = remotes.entry(segment.id().expect("it is known"), true);
        row.update(HOLDER, |cell| cell.have = 0b1);
        pull(segment, &view, neighbours.iter(), row, |_| 0)
    }

    const ASKED: [Ask; 1] = [Ask {
        slot: HOLDER,
        bits: 0b1,
    }];

    #[test]
    fn neighbours_race_the_cdn_from_the_end_for_what_the_player_waits_for() {
        let segment = segment();
        let (policy, estimate) = (Policy::default(), Estimate::default());
        let race = |segment: &Segment, is_careful: bool| {
            let view = View {
                raced: segment.full(),
                offered: u64::MAX,
                is_careful,
                ..usual(segment, &policy, &estimate)
            };
            raced(segment, &view)
        };
        assert_eq!(race(&segment, false), 0, "nobody waits for it");
        let mut asked = segment.clone();
        asked.add_request(REQUEST);
        assert_eq!(race(&asked, false), 0xff00);
        assert_eq!(race(&asked, true), 0xc000, "over a thin downlink");
        asked.duty_mut().have = 0x00ff;
        assert_eq!(race(&asked, false), 0xf000, "few where little is left");
        assert_eq!(race(&asked, true), 0x8000);
        let bits = 0xf000;
        asked.work_mut().pulls.push(Pull { bits, ..PULL });
        assert_eq!(race(&asked, false), 0, "as many are on their way");
        asked.work_mut().pulls.clear();
        (asked.work_mut().requests[0].grain_ms, asked.duration_ms) = (500, 4000);
        assert_eq!(race(&asked, false), 0, "it is played in order");
    }

    #[test]
    fn what_is_late_is_called_back_before_another_is_asked() {
        let mut segment = late();
        let pulls = plan(&segment);
        let recall = pulls.recall.expect("the pusher may have sent it");
        assert_eq!((pulls.asks.len(), recall.bits), (0, 0b1));
        assert_eq!(recall.until, NOW.plus_ms(u64::from(RTT_MS) + RECALL_MS));

        segment.work_mut().pushers.clear();
        segment.work_mut().recalled = recall;
        let waiting = plan(&segment);
        assert_eq!((waiting.asks.len(), waiting.recall), (0, None));
        assert_eq!(waiting.wake, Some(recall.until));

        segment.work_mut().recalled.until = NOW;
        assert_eq!(plan(&segment).asks, ASKED);
    }

    #[test]
    fn what_is_needed_at_once_is_asked_of_another_at_once() {
        let mut segment = late();
        segment.add_request(Request {
            deadline: NOW.plus_ms(URGENT_MS),
            ..REQUEST
        });
        let pulls = plan(&segment);
        assert_eq!((pulls.asks.as_slice(), pulls.recall), (&ASKED[..], None));
    }

    #[test]
    fn near_the_live_edge_nothing_is_waited_for() {
        let mut segment = late();
        let wait_ms = u64::from(RTT_MS) + RECALL_MS;
        let least_ms = wait_ms * 100 / RECALL_PERCENT_MAX * 100 / PATIENCE_WINDOW_PERCENT;
        segment.duty_mut().window_ms = least_ms as u32 + 10;
        assert!(plan(&segment).recall.is_some());
        segment.duty_mut().window_ms = least_ms as u32 - 10;
        let pulls = plan(&segment);
        assert_eq!((pulls.asks.as_slice(), pulls.recall), (&ASKED[..], None));
    }

    #[test]
    fn what_is_not_late_yet_is_waited_for() {
        let mut segment = late();
        segment.work_mut().began_ms = Some(4900);
        let pulls = plan(&segment);
        assert_eq!((pulls.asks.len(), pulls.recall), (0, None));
        assert!(pulls.wake.is_some_and(|at| at > NOW));
    }
}

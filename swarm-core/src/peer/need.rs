//! When the player needs what: a segment at once, or piece by piece while it plays.

use super::{
    BEGUN_SEGMENTS, Peer,
    io::{Action, Outbox},
    plan::Plan,
    segment::Segment,
};
use crate::{id::RequestId, time::Instant};

/// When a segment's pieces are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// When the player runs dry without the first piece.
    pub(super) at: Instant,
    /// The media over which the others follow evenly, in milliseconds; 0 if all are needed at once.
    pub(super) spread_ms: u64,
    /// Media that the player takes at a time: what is within one such part is needed at its beginning.
    pub(super) grain_ms: u64,
}

impl Need {
    /// When the player runs dry without piece `piece` of `count`.
    pub(super) fn of_piece(&self, piece: u32, count: u32) -> Instant {
        let after_ms = self.spread_ms * u64::from(piece) / u64::from(count.max(1));
        self.at.plus_ms(after_ms.saturating_sub(self.grain_ms))
    }

    /// Those of `bits` that are needed until `until`.
    pub(super) fn until(&self, until: Instant, bits: u64, count: u32) -> u64 {
        let mut due = bits;
        while due != 0 {
            let last = u64::BITS - 1 - due.leading_zeros();
            if self.of_piece(last, count) <= until {
                break;
            }
            due &= !(1 << last);
        }
        due
    }
}

impl Segment {
    /// When its pieces are needed, if the player has asked for it.
    pub(super) fn need(&self) -> Option<Need> {
        if !self.is_wanted() {
            return None;
        }
        let first = self.work().requests.iter().min_by_key(|r| r.deadline)?;
        let grains = self.work().requests.iter().map(|request| request.grain_ms);
        // Whoever takes only the whole segment needs all of it at once.
        let grain_ms = grains.min().unwrap_or(0).min(self.duration_ms);
        let is_progressive = self
            .work()
            .requests
            .iter()
            .all(|request| request.grain_ms > 0);
        Some(Need {
            at: first.deadline,
            spread_ms: if is_progressive {
                self.duration_ms.into()
            } else {
                0
            },
            grain_ms: grain_ms.into(),
        })
    }

    /// Pieces from the first one on that are all there.
    pub(super) fn released(&self) -> u32 {
        self.have().trailing_ones()
    }

    /// Media of the pieces from the first one on that are all there, in milliseconds.
    pub(super) fn released_ms(&self) -> u64 {
        let count = self.full().count_ones().max(1);
        u64::from(self.duration_ms) * u64::from(self.released()) / u64::from(count)
    }
}

/// What a request of the player still lacks: for those who watch over the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Pieces that are not there, and that no neighbour was asked for: bit `i` for piece `i`. `None` while
    /// the segment's content is not known.
    pub missing: Option<u64>,
    /// When what to do about them is decided anew at the latest, whatever else happens.
    pub plan_at: Option<Instant>,
    /// The CDN brings less than is played: the group has a segment's duration to bring its parts.
    pub is_scarce: bool,
}

impl Peer {
    /// What a request waits for; `None` if it is answered already, or was never the swarm's.
    pub fn waiting(&self, request: RequestId) -> Option<Waiting> {
        let has = |segment: &&Segment| segment.work().requests.iter().any(|r| r.id == request);
        let segment = self.segments.iter().find(has)?;
        Some(Waiting {
            missing: segment
                .id()
                .map(|_| segment.full() & !segment.have() & !segment.pulled()),
            plan_at: segment.plan_at(),
            is_scarce: self.is_scarce(),
        })
    }

    /// When the pieces of a segment are needed: it was asked for, or follows the one that is being
    /// played while it arrives.
    pub(super) fn need_of(&self, index: usize) -> Option<Need> {
        let segment = &self.segments[index];
        if segment.is_wanted() {
            return segment.need();
        }
        if !self.has_begun() || !segment.is_known() || self.fetches_before(index) > 0 {
            return None;
        }
        let before = self.segments.iter().find(|s| {
            s.track() == segment.track()
                && s.seq.checked_add(1) == Some(segment.seq)
                && s.is_wanted()
        })?;
        let need = before.need().filter(|need| need.spread_ms > 0)?;
        Some(Need {
            at: need.at.plus_ms(need.spread_ms),
            ..need
        })
    }

    /// Whether the player, which has not played much, waits for an earlier segment that might come too late if
    /// `seed` is fetched beside it. Later on what is late comes at its last moment, and more is there to play.
    pub(super) fn is_pressed(&self, index: usize, seed: &Plan) -> bool {
        if self.stats.segments >= BEGUN_SEGMENTS {
            return false;
        }
        let segment = &self.segments[index];
        let bytes = if seed.whole {
            self.len_expected(segment)
        } else {
            let bits = seed.fetch.iter().fold(seed.relay, |bits, run| bits | run);
            segment.len_of(bits).into()
        };
        let missing = |before: &Segment| match before.is_known() {
            true => before.len_of(before.full() & !before.have()).into(),
            false => self.len_expected(before),
        };
        let is_late = |before: &Segment| {
            let most_ms = self.estimate.cdn_ms_worst(missing(before) + bytes);
            let need = before.need().filter(|_| !before.is_complete());
            need.is_some_and(|need| need.at.ms_since(self.now) < most_ms)
        };
        let is_before = |s: &&Segment| s.track() == segment.track() && s.seq < segment.seq;
        self.segments.iter().filter(is_before).any(is_late)
    }

    /// Media ahead of the playhead if what has arrived of the segment that is being played is counted,
    /// whether or not the player has told of it.
    pub(super) fn progress_ms(&self) -> Option<u64> {
        let segment = self.segments.iter().find(|s| s.is_wanted())?;
        let need = segment.need().filter(|need| need.spread_ms > 0)?;
        let dry_at = need.at.plus_ms(segment.released_ms());
        Some(dry_at.ms_since(self.now))
    }

    /// Hands the player what has arrived in order, if it plays while segments arrive.
    pub(super) fn release_pieces(&mut self, index: usize, out: &mut Outbox) {
        let segment = &mut self.segments[index];
        let (Some(id), false) = (segment.id(), segment.is_complete()) else {
            return;
        };
        let pieces = segment.released();
        let Some(work) = segment.work_if_any() else {
            return;
        };
        for request in &mut work.requests {
            if request.grain_ms > 0 && u32::from(request.released) < pieces {
                request.released = pieces as u8;
                out.push(Action::Release {
                    request: request.id,
                    segment: id,
                    pieces: pieces as u8,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Name, SegmentId},
        peer::duty::Request,
        timeline::Content,
    };

    const AT: Instant = Instant::from_millis(60_000);

    fn asked(grains_ms: &[u32]) -> Segment {
        let mut segment = Segment::new(Name(1), Instant::ORIGIN);
        segment.set_content(Content {
            id: SegmentId(1),
            len: 8 * 65_536,
            piece_len: 65_536,
            epoch: 0,
        });
        segment.duration_ms = 4000;
        for grain_ms in grains_ms {
            segment.add_request(Request {
                id: RequestId(1),
                since: Instant::ORIGIN,
                deadline: AT,
                grain_ms: *grain_ms,
                released: 0,
            });
        }
        segment
    }

    #[test]
    fn pieces_are_due_one_after_the_other_a_grain_early() {
        let need = asked(&[500]).need().expect("it is asked for");
        let due = |piece| need.of_piece(piece, 8);
        assert_eq!((due(0), due(1)), (AT, AT));
        assert_eq!((due(2), due(7)), (AT.plus_ms(500), AT.plus_ms(3000)));
        assert_eq!(need.until(AT.plus_ms(500), 0xff, 8), 0b111);
        assert_eq!(need.until(AT.minus_ms(1), 0xff, 8), 0);
    }

    #[test]
    fn who_takes_only_the_whole_needs_all_of_it_at_once() {
        for grains_ms in [&[0][..], &[500, 0]] {
            let need = asked(grains_ms).need().expect("it is asked for");
            assert_eq!((need.of_piece(0, 8), need.of_piece(7, 8)), (AT, AT));
        }
        assert_eq!(asked(&[]).need(), None);
    }

    #[test]
    fn what_is_released_ends_at_the_first_gap() {
        let mut segment = asked(&[500]);
        segment.duty_mut().have = 0b1011;
        assert_eq!((segment.released(), segment.released_ms()), (2, 1000));
    }
}

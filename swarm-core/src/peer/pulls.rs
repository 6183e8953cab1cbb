//! Asking neighbours for pieces, and telling those who are to push them which ones come from elsewhere: a
//! piece is to come once.

use alloc::vec::Vec;

use super::{
    Peer,
    duty::Work,
    io::Outbox,
    plan::{self, Ask, View},
    segment::Segment,
};
use crate::{
    id::Slot,
    time::{Instant, Moment},
    wire::peer::{PeerMsg, Pieces},
};

/// Pieces asked of a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    pub(super) slot: Slot,
    /// The neighbour said that it holds them. Else they are on their way to it.
    pub(super) held: bool,
    pub(super) asked: Moment,
    pub(super) bits: u64,
}

/// Late pieces that shall not be pushed any more. Until then some of them may still come, and nobody else is
/// asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recall {
    pub(super) bits: u64,
    pub(super) until: Instant,
}

impl Recall {
    pub(super) const NONE: Self = Self {
        bits: 0,
        until: Instant::ORIGIN,
    };
}

impl Work {
    /// `pushers` are to push a piece each. Returns those who need not, because the piece is among `settled`,
    /// or somebody else is to push it.
    pub(super) fn expect_pushes(
        &mut self,
        pushers: &[(u8, Slot)],
        settled: u64,
    ) -> Vec<(u8, Slot)> {
        let mut spare = Vec::new();
        for (piece, slot) in pushers {
            let known = self.pushers.iter().find(|(other, _)| other == piece);
            match known {
                Some((_, other)) if other == slot => {}
                None if settled >> piece & 1 == 0 => self.pushers.push((*piece, *slot)),
                _ => spare.push((*piece, *slot)),
            }
        }
        spare
    }
}

impl Segment {
    /// Pieces that neighbours were asked for.
    pub(super) fn pulled(&self) -> u64 {
        let pulls = self.work().pulls.iter();
        pulls.fold(0, |bits, pull| bits | pull.bits)
    }

    /// Missing pieces that neighbours are to push.
    pub(super) fn pushed(&self) -> u64 {
        let pushers = self.work().pushers.iter();
        pushers.fold(0, |bits, (piece, _)| bits | 1 << piece)
    }

    /// Those of them that the neighbour in `slot` is to push.
    pub(super) fn pushed_by(&self, slot: Slot) -> u64 {
        let theirs = self.work().pushers.iter().filter(|(_, s)| *s == slot);
        theirs.fold(0, |bits, (piece, _)| bits | 1 << piece)
    }
}

impl Peer {
    /// Asks neighbours for what they hold and will not push in time.
    pub(super) fn pull_missing(&mut self, index: usize, view: &View<'_>, out: &mut Outbox) {
        let segment = &self.segments[index];
        let Some(row) = segment.id().and_then(|id| self.remotes.row(id)) else {
            return;
        };
        let neighbours = self.neighbours.iter();
        let pulls = plan::pull(segment, view, neighbours, row, |slot: Slot| {
            self.outstanding(slot)
        });
        if let Some(at) = pulls.wake {
            self.segments[index].wake_at(at);
        }
        if let Some(recall) = pulls.recall {
            self.recall(index, recall, out);
        }
        for ask in pulls.asks {
            self.ask(index, ask, true, out);
            let theirs = self.segments[index].pushed_by(ask.slot);
            self.note_broken(index, ask.bits & !theirs);
            self.skip(index, ask.bits & !theirs, out);
        }
    }

    /// Tells those who are late with these pieces not to push them any more.
    fn recall(&mut self, index: usize, recall: Recall, out: &mut Outbox) {
        self.note_broken(index, recall.bits);
        self.skip(index, recall.bits, out);
        let now = self.now;
        let segment = &mut self.segments[index];
        segment.wake_at(recall.until);
        let recalled = &mut segment.work_mut().recalled;
        let before = if recalled.until > now {
            *recalled
        } else {
            Recall::NONE
        };
        *recalled = Recall {
            bits: before.bits | recall.bits,
            until: before.until.max(recall.until),
        };
    }

    /// Asks a neighbour for pieces. `held`: it has said that it has them.
    pub(super) fn ask(&mut self, index: usize, ask: Ask, held: bool, out: &mut Outbox) {
        let now = self.now;
        let late_at = now.plus_ms(self.pull_timeout_ms());
        let segment = &mut self.segments[index];
        let Some(id) = segment.id() else { return };
        // A want replaces the one before, so what is still owed is asked for again.
        let owed = segment
            .work()
            .pulls
            .iter()
            .filter(|pull| pull.slot == ask.slot);
        let bits = owed.fold(ask.bits, |bits, pull| bits | pull.bits);
        let pulls = &mut segment.work_mut().pulls;
        pulls.reserve_exact(1);
        pulls.push(Pull {
            slot: ask.slot,
            held,
            bits: ask.bits,
            asked: now.into(),
        });
        self.pulls_late_at.get_or_insert(late_at);
        self.send(ask.slot, &PeerMsg::Want(Pieces { segment: id, bits }), out);
    }

    /// Tells a neighbour that pieces which it was asked for come from elsewhere, and what it still owes.
    pub(super) fn ask_less(&mut self, index: usize, slot: Slot, without: u64, out: &mut Outbox) {
        let segment = &mut self.segments[index];
        let Some(id) = segment.id() else { return };
        let mut bits = 0;
        if let Some(work) = segment.work_if_any() {
            let theirs = |pull: &Pull| pull.slot == slot;
            work.ask_no_more(without, theirs);
            let owed = work.pulls.iter().filter(|pull| theirs(pull));
            bits = owed.fold(0, |bits, pull| bits | pull.bits);
        }
        self.send(slot, &PeerMsg::Want(Pieces { segment: id, bits }), out);
    }

    /// How long a neighbour may take over a pull. Over a thin downlink pieces wait for each other, whoever
    /// sends them.
    pub(super) fn pull_timeout_ms(&self) -> u64 {
        if self.may_be_pushed() {
            plan::PULL_AGAIN_MS
        } else {
            plan::PULL_TIMEOUT_MS
        }
    }

    /// Takes back pulls that took too long, and remembers who owes them and has given nothing since.
    pub(super) fn expire_pulls(&mut self, out: &mut Outbox) {
        let now = self.now;
        if self.pulls_late_at.is_none_or(|at| at > now) {
            return;
        }
        let timeout_ms = self.pull_timeout_ms();
        let (mut late, mut first) = (Vec::new(), None::<Instant>);
        for (index, segment) in self.segments.iter_mut().enumerate() {
            let Some(work) = segment.work_if_any() else {
                continue;
            };
            work.pulls.retain(|pull| {
                let is_late = now.ms_since(pull.asked.get()) >= timeout_ms;
                late.extend(is_late.then_some((index, *pull)));
                !is_late
            });
            let asked = work.pulls.iter().map(|pull| pull.asked.get());
            first = first.into_iter().chain(asked).min();
        }
        self.pulls_late_at = first.map(|asked| asked.plus_ms(timeout_ms));
        for (index, pull) in late {
            self.ask_less(index, pull.slot, 0, out);
            if let Some(neighbour) = self.neighbours.get_mut(pull.slot)
                && pull.held
                && neighbour.gave_at.get() < pull.asked.get()
            {
                neighbour.on_pulled(2 * plan::PULL_TIMEOUT_MS);
                self.on_broken(pull.slot);
            }
        }
    }

    /// Tells those who are to push these pieces that they come from elsewhere.
    pub(super) fn skip(&mut self, index: usize, bits: u64, out: &mut Outbox) {
        let Some(work) = self.segments[index].work_if_any() else {
            return;
        };
        let pushers = core::mem::take(&mut work.pushers).into_iter();
        let (told, rest) = pushers.partition(|(piece, _)| bits >> piece & 1 == 1);
        work.pushers = rest;
        self.tell_to_skip(index, told, out);
    }

    /// Tells neighbours which of a segment's pieces they need not push: a message for each of them.
    pub(super) fn tell_to_skip(
        &mut self,
        index: usize,
        mut told: Vec<(u8, Slot)>,
        out: &mut Outbox,
    ) {
        let Some(id) = self.segments[index].id() else {
            return;
        };
        while let Some((_, slot)) = told.last().copied() {
            let theirs = told.iter().filter(|(_, pusher)| *pusher == slot);
            let bits = theirs.fold(0, |bits, (piece, _)| bits | 1 << piece);
            told.retain(|(_, pusher)| *pusher != slot);
            self.send(slot, &PeerMsg::Skip(Pieces { segment: id, bits }), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_one_pusher_and_whoever_comes_second_is_told() {
        let mut work = Work::NONE;
        let (first, second) = (Slot(1), Slot(2));
        assert_eq!(work.expect_pushes(&[(0, first), (1, first)], 0), []);
        let again = [(0, second), (1, first), (2, second), (3, second)];
        let spare = work.expect_pushes(&again, 0b1000);
        assert_eq!(spare, [(0, second), (3, second)], "the last one is here");
        assert_eq!(work.pushers, [(0, first), (1, first), (2, second)]);
    }
}

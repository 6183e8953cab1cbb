//! The pairs of one viewer, kept with the viewer itself: memory of their own would be one more place as
//! far away as main memory, and be moved as they grow.

use super::slab::Key;
use crate::limits::NEIGHBOURS_MAX;

/// One half of an introduced pair; the other viewer holds the other half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    pub(super) with: Key,
    pub(super) up: bool,
    /// Meant to reach another group.
    pub(super) long: bool,
    /// While it is being set up, when it was introduced, in milliseconds since the directory began; of
    /// one that is up the round trip in milliseconds, 0 if not known, and [`OWN_WORD`].
    note: u32,
}

/// In the note of a pair that is up: this viewer has said so itself.
const OWN_WORD: u32 = 1 << 16;

impl Meeting {
    /// The round trip in milliseconds, 0 if not known.
    pub(super) const fn rtt_ms(self) -> u16 {
        if self.up { self.note as u16 } else { 0 }
    }

    /// Whether its viewer has said itself that it is up.
    pub(super) const fn is_own_word(self) -> bool {
        self.up && self.note & OWN_WORD != 0
    }

    /// Whether it has been set up for longer than `max_ms`, at `age_ms` since the directory began.
    pub(super) const fn is_overdue(self, age_ms: u32, max_ms: u32) -> bool {
        !self.up && age_ms.saturating_sub(self.note) > max_ms
    }
}

/// Whom a viewer has met, and the note of it: side by side, since every newcomer is noted with a dozen
/// viewers that are each as far away as main memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Met {
    with: Key,
    note: u32,
}

/// The pairs of one viewer, the oldest first. What is looked at most is first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Meetings {
    /// One bit each, the oldest lowest.
    up: u32,
    long: u32,
    len: u32,
    met: [Met; NEIGHBOURS_MAX],
}

const _: () = assert!(NEIGHBOURS_MAX <= u32::BITS as usize);

impl Default for Meetings {
    fn default() -> Self {
        Self {
            up: 0,
            long: 0,
            len: 0,
            met: [Met {
                with: Key(0),
                note: 0,
            }; NEIGHBOURS_MAX],
        }
    }
}

impl Meetings {
    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn count_up(&self) -> usize {
        self.up.count_ones() as usize
    }

    pub(super) const fn count_long(&self) -> usize {
        self.long.count_ones() as usize
    }

    pub(super) fn contains(&self, other: Key) -> bool {
        self.known().iter().any(|met| met.with == other)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Meeting> {
        let met = self.known().iter().enumerate();
        met.map(|(at, met)| Meeting {
            with: met.with,
            up: self.up >> at & 1 == 1,
            long: self.long >> at & 1 == 1,
            note: met.note,
        })
    }

    /// Whom it has met, as of this moment.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        let mut with = [Key(0); NEIGHBOURS_MAX];
        for (with, met) in with.iter_mut().zip(self.known()) {
            *with = met.with;
        }
        with.into_iter().take(self.len())
    }

    /// Adds a pair that was introduced `since_ms` after the directory began, or that both say to be up.
    /// Those who introduce see to it that there is room.
    pub(super) fn push(&mut self, with: Key, since_ms: u32, up: bool, long: bool) {
        let at = self.len();
        debug_assert!(at < NEIGHBOURS_MAX, "room was made sure of");
        if at < NEIGHBOURS_MAX {
            let note = if up { OWN_WORD } else { since_ms };
            self.met[at] = Met { with, note };
            self.up |= u32::from(up) << at;
            self.long |= u32::from(long) << at;
            self.len += 1;
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, other: Key) -> bool {
        let Some(at) = self.position(other) else {
            return false;
        };
        self.met.copy_within(at + 1..self.len as usize, at);
        self.up = without_bit(self.up, at);
        self.long = without_bit(self.long, at);
        self.len -= 1;
        true
    }

    /// A pair's link is up; `own` if it is this viewer that says so. Whether that is news; `None` if
    /// there is no such pair.
    pub(super) fn on_up(&mut self, with: Key, rtt_ms: u16, own: bool) -> Option<bool> {
        let at = self.position(with)?;
        let news = self.up >> at & 1 == 0;
        self.up |= 1 << at;
        let mut word = if news {
            0
        } else {
            self.met[at].note & OWN_WORD
        };
        if own {
            word = OWN_WORD;
        }
        let rtt_ms = match rtt_ms {
            0 if !news => self.met[at].note as u16,
            known => known,
        };
        self.met[at].note = u32::from(rtt_ms) | word;
        Some(news)
    }

    /// Whether this viewer has said itself that its link with another one is up.
    pub(super) fn has_called_up(&self, with: Key) -> bool {
        self.iter().any(|m| m.with == with && m.is_own_word())
    }

    fn position(&self, other: Key) -> Option<usize> {
        self.known().iter().position(|met| met.with == other)
    }

    fn known(&self) -> &[Met] {
        &self.met[..self.len().min(NEIGHBOURS_MAX)]
    }
}

/// A row of bits with one taken out: the higher ones move down.
const fn without_bit(bits: u32, at: usize) -> u32 {
    let low = (1_u32 << at) - 1;
    bits & low | bits >> 1 & !low
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn meetings_keep_their_order_and_what_is_known_of_each() {
        let mut meetings = Meetings::default();
        let mut expected = Vec::new();
        for n in 0..NEIGHBOURS_MAX as u32 {
            meetings.push(Key(n), 1_000 + n, n % 3 == 0, n % 5 == 0);
            expected.push((Key(n), n % 3 == 0, n % 5 == 0));
        }
        for (n, with) in [31, 0, 7, 8, 30, 1].map(Key).into_iter().enumerate() {
            assert!(meetings.remove(with) && !meetings.remove(with));
            expected.retain(|(key, ..)| *key != with);
            let seen = meetings.iter().map(|m| (m.with, m.up, m.long));
            assert!(seen.eq(expected.iter().copied()));
            assert_eq!(meetings.len(), NEIGHBOURS_MAX - 1 - n);
            assert_eq!(meetings.count_up(), expected.iter().filter(|m| m.1).count());
            let long = expected.iter().filter(|m| m.2).count();
            assert_eq!(meetings.count_long(), long);
            assert!(meetings.keys().eq(expected.iter().map(|m| m.0)));
        }
    }

    #[test]
    fn a_pair_that_is_being_set_up_grows_overdue_and_one_that_is_up_has_a_round_trip() {
        let mut meetings = Meetings::default();
        meetings.push(Key(1), 60_000, false, false);
        let only = |meetings: &Meetings| meetings.iter().next().unwrap();
        assert_eq!(only(&meetings).rtt_ms(), 0);
        assert!(!only(&meetings).is_overdue(61_000, 1_000));
        assert!(only(&meetings).is_overdue(61_001, 1_000));
        assert_eq!(meetings.on_up(Key(1), 0, false), Some(true));
        assert_eq!(only(&meetings).rtt_ms(), 0);
        assert_eq!(meetings.on_up(Key(1), 40, false), Some(false));
        assert_eq!(meetings.on_up(Key(1), 0, false), Some(false));
        assert_eq!(only(&meetings).rtt_ms(), 40);
        assert!(!only(&meetings).is_overdue(u32::MAX, 0));
        assert_eq!(meetings.on_up(Key(2), 40, true), None);
        assert!(!meetings.has_called_up(Key(1)), "the other one said so");
        assert_eq!(meetings.on_up(Key(1), 0, true), Some(false));
        assert_eq!(meetings.on_up(Key(1), 50, false), Some(false));
        assert!(meetings.has_called_up(Key(1)) && !meetings.has_called_up(Key(2)));
        assert_eq!(only(&meetings).rtt_ms(), 50);
    }
}

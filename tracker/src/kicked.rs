//! Viewers that the operator has sent away, for as long as they are not let in again.

use std::{collections::HashMap, num::NonZero, time::Duration};

use serde::{Deserialize, Serialize};
use swarm_core::id::{PeerId, StreamId};
use tokio::time::Instant;

/// For how long they are refused; as long as WebTorrent viewers.
pub(crate) const KICKED_FOR: Duration = Duration::from_secs(600);
/// What is remembered at most: further ones are sent away, and may come again.
const KICKED_MAX: usize = 2_000;

/// A viewer's token, in short.
pub(crate) type BearerMark = NonZero<u64>;

/// What a viewer that was sent away is known by when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mark {
    Name(PeerId),
    Bearer(BearerMark),
    /// An address, in the stream that it was sent away from.
    Address(u128, StreamId),
}

/// Who a viewer is, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) peer: PeerId,
    pub(crate) bearer: Option<BearerMark>,
    /// 0 where it is not known.
    pub(crate) address: u128,
    pub(crate) stream: StreamId,
}

impl Identity {
    /// Its name, which it keeps only as long as it likes; and its token or, of one that has none, its
    /// address: others may share that, so it counts only where nothing better is known.
    fn marks(&self) -> [Option<Mark>; 2] {
        let address = (self.address != 0).then_some(Mark::Address(self.address, self.stream));
        let other = self.bearer.map(Mark::Bearer).or(address);
        [Some(Mark::Name(self.peer)), other]
    }
}

/// Who was sent away, as nodes tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Outcast {
    peer: u64,
    bearer: u64,
    address: std::net::Ipv6Addr,
    stream: String,
}

impl From<&Identity> for Outcast {
    fn from(who: &Identity) -> Self {
        Self {
            peer: who.peer.0,
            bearer: who.bearer.map_or(0, BearerMark::get),
            address: who.address.into(),
            stream: who.stream.to_string(),
        }
    }
}

impl Outcast {
    /// `None` if another node names a stream that cannot be.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Some(Identity {
            peer: PeerId(self.peer),
            bearer: BearerMark::new(self.bearer),
            address: self.address.into(),
            stream: StreamId::from_hex(&self.stream)?,
        })
    }
}

/// All that are not let in: until when, and what else the same viewer is known by.
#[derive(Debug, Default)]
pub(crate) struct Kicked(HashMap<Mark, (Instant, Option<Mark>)>);

impl Kicked {
    /// A viewer is not let in for as long, at most [`KICKED_FOR`], or for as long as was said before.
    pub(crate) fn add(&mut self, who: &Identity, left: Duration, now: Instant) {
        if self.0.len() >= KICKED_MAX {
            self.0.retain(|_, (until, _)| *until > now);
        }
        let until = now + left.min(KICKED_FOR);
        let [name, other] = who.marks();
        for (mark, with) in [(name, other), (other, None)] {
            let Some(mark) = mark else {
                continue;
            };
            if let Some(known) = self.0.get_mut(&mark) {
                *known = (until.max(known.0), with);
            } else if self.0.len() < KICKED_MAX {
                self.0.insert(mark, (until, with));
            }
        }
    }

    /// All who are not let in, and for how long yet, in no order.
    pub(crate) fn in_force(&self, now: Instant) -> impl Iterator<Item = (Identity, Duration)> {
        self.0.iter().filter_map(move |(mark, (until, other))| {
            let Mark::Name(peer) = *mark else {
                return None;
            };
            let left = until.checked_duration_since(now)?;
            let mut who = Identity {
                peer,
                bearer: None,
                address: 0,
                stream: StreamId([0; 16]),
            };
            match *other {
                Some(Mark::Bearer(bearer)) => who.bearer = Some(bearer),
                Some(Mark::Address(address, stream)) => {
                    (who.address, who.stream) = (address, stream);
                }
                _ => {}
            }
            Some((who, left))
        })
    }

    /// Lets a viewer in again that was sent away under this name. What it shares with others who were
    /// sent away goes on counting. Whether it was not let in until now.
    pub(crate) fn lift(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some((until, other)) = self.0.remove(&Mark::Name(peer)) else {
            return false;
        };
        let shared = self
            .0
            .values()
            .any(|(_, with)| with.is_some() && *with == other);
        if let Some(other) = other.filter(|_| !shared) {
            self.0.remove(&other);
        }
        until > now
    }

    pub(crate) fn contains(&self, who: &Identity, now: Instant) -> bool {
        let holds = |mark| self.0.get(&mark).is_some_and(|(until, _)| *until > now);
        !self.0.is_empty() && who.marks().into_iter().flatten().any(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(peer: u64, bearer: u64, address: u128) -> Identity {
        Identity {
            peer: PeerId(peer),
            bearer: NonZero::new(bearer),
            address,
            stream: StreamId([3; 16]),
        }
    }

    #[test]
    fn who_was_sent_away_is_known_again_for_a_while() {
        let now = Instant::now();
        let mut kicked = Kicked::default();
        kicked.add(&viewer(1, 5, 77), KICKED_FOR, now);
        let there = |who| kicked.contains(&who, now);
        assert!(there(viewer(1, 0, 0)), "by its name");
        assert!(there(viewer(2, 5, 78)), "by its token");
        assert!(!there(viewer(2, 6, 77)), "another one behind its address");
        assert!(!kicked.contains(&viewer(1, 5, 77), now + KICKED_FOR));
        kicked.add(&viewer(9, 0, 99), KICKED_FOR, now);
        assert!(kicked.contains(&viewer(8, 0, 99), now), "by its address");
        let elsewhere = Identity {
            stream: StreamId([4; 16]),
            ..viewer(8, 0, 99)
        };
        assert!(!kicked.contains(&elsewhere, now));
    }

    #[test]
    fn who_is_let_in_again_is_so_by_all_that_it_is_known_by() {
        let now = Instant::now();
        let mut kicked = Kicked::default();
        for who in [viewer(1, 5, 77), viewer(2, 5, 78), viewer(3, 0, 79)] {
            kicked.add(&who, KICKED_FOR, now);
        }
        assert!(!kicked.lift(PeerId(4), now), "it was not sent away");
        assert!(kicked.lift(PeerId(3), now));
        assert!(!kicked.contains(&viewer(3, 0, 79), now));
        // Two have one token.
        assert!(kicked.lift(PeerId(1), now));
        assert!(!kicked.contains(&viewer(1, 0, 0), now));
        assert!(kicked.contains(&viewer(9, 5, 0), now));
        assert!(kicked.lift(PeerId(2), now) && !kicked.lift(PeerId(2), now));
        assert!(kicked.0.is_empty());
    }

    #[test]
    fn nodes_tell_each_other_all_that_is_known_of_a_viewer() {
        for who in [viewer(1, 5, 77), viewer(u64::MAX, 0, u128::MAX)] {
            let told = serde_json::to_vec(&Outcast::from(&who)).unwrap();
            let heard: Outcast = serde_json::from_slice(&told).unwrap();
            assert_eq!(heard.identity(), Some(who));
        }
    }

    #[test]
    fn another_node_learns_who_is_kept_out_and_for_how_long_yet() {
        let (now, minute) = (Instant::now(), Duration::from_secs(60));
        let mut kicked = Kicked::default();
        let all = [viewer(1, 5, 77), viewer(2, 5, 78), viewer(3, 0, 79)];
        for (minutes, who) in (0..).zip(&all) {
            kicked.add(who, KICKED_FOR, now + minutes * minute);
        }
        let later = now + 8 * minute;
        let mut learned = Kicked::default();
        for (who, left) in kicked.in_force(later) {
            learned.add(&who, left, later);
        }
        for (minutes, who) in (0..).zip(&all) {
            let over = now + KICKED_FOR + minutes * minute;
            let name = viewer(who.peer.0, 0, 0);
            for known in [&kicked, &learned] {
                assert!(known.contains(&name, over - Duration::from_nanos(1)));
                assert!(!known.contains(&name, over));
            }
        }
        // Of two with one token, the later counts; others are known by their address.
        let end = now + KICKED_FOR + minute;
        assert!(learned.contains(&viewer(9, 5, 0), end - Duration::from_nanos(1)));
        assert!(!learned.contains(&viewer(9, 5, 0), end));
        assert!(learned.contains(&viewer(9, 0, 79), end));
        // What holds longer is not made shorter, nor anything longer than it may be.
        learned.add(&all[2], minute, later);
        assert!(learned.contains(&all[2], later + 3 * minute));
        learned.add(&all[0], Duration::MAX, later);
        assert!(!learned.contains(&all[0], later + KICKED_FOR));
        assert_eq!(kicked.in_force(later + KICKED_FOR).count(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut kicked = Kicked::default();
        for peer in 1..=2 * KICKED_MAX as u64 {
            kicked.add(&viewer(peer, 0, 0), KICKED_FOR, now);
        }
        assert_eq!(kicked.0.len(), KICKED_MAX);
        kicked.add(&viewer(u64::MAX, 0, 0), KICKED_FOR, now + KICKED_FOR);
        assert!(kicked.contains(&viewer(u64::MAX, 0, 0), now + KICKED_FOR));
        assert_eq!(kicked.0.len(), 1);
    }
}

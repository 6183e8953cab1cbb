//! WebTorrent viewers: their swarms, one line each.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::summary::STREAMS_MAX;
use crate::webtorrent::SwarmLine;

/// Swarms that one node tells of.
const LINES_MAX: usize = 2_000;

/// The largest swarms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SwarmList {
    swarms: Vec<SwarmLine>,
    /// All swarms, those that are left out of the list included.
    count: usize,
}

impl SwarmList {
    pub(super) fn new(swarms: Vec<SwarmLine>) -> Self {
        let count = swarms.len();
        Self { swarms, count }.cut(LINES_MAX)
    }

    pub(super) fn merge(&mut self, other: Self) {
        // Lists that were cut may hide common swarms: then the count is too high by those.
        let hidden =
            self.count - self.swarms.len() + other.count.saturating_sub(other.swarms.len());
        let known = std::mem::take(&mut self.swarms).into_iter();
        let mut all: BTreeMap<String, SwarmLine> = known.map(|s| (s.swarm.clone(), s)).collect();
        for swarm in other.swarms {
            match all.get_mut(&swarm.swarm) {
                Some(known) => known.merge(&swarm),
                None => drop(all.insert(swarm.swarm.clone(), swarm)),
            }
        }
        self.count = all.len() + hidden;
        self.swarms = all.into_values().collect();
    }

    /// What people are shown.
    pub(super) fn shown(self) -> Self {
        self.cut(STREAMS_MAX)
    }

    fn cut(mut self, max: usize) -> Self {
        self.swarms.sort_unstable_by(|a, b| {
            (Reverse(a.viewers), &a.swarm).cmp(&(Reverse(b.viewers), &b.swarm))
        });
        self.swarms.truncate(max);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(swarm: &str, viewers: usize) -> SwarmLine {
        SwarmLine {
            swarm: swarm.into(),
            viewers,
            ..SwarmLine::default()
        }
    }

    #[test]
    fn nodes_lists_become_one_with_the_largest_first() {
        let mut all = SwarmList::new(vec![line("a", 1), line("b", 5)]);
        all.merge(SwarmList::new(vec![line("a", 9), line("c", 2)]));
        let all = all.shown();
        assert_eq!(all.swarms, [line("a", 10), line("b", 5), line("c", 2)]);
        assert_eq!(all.count, 3);
        let many = (0..700).map(|n| line(&n.to_string(), 1)).collect();
        let many = SwarmList::new(many).shown();
        assert_eq!((many.swarms.len(), many.count), (STREAMS_MAX, 700));
    }
}

//! The nodes that live, and which of them owns a stream. No clock and no socket: time comes in.

use std::collections::{BTreeMap, BTreeSet};

use swarm_core::{directory::Network, id::StreamId, rng};

use super::config::{ClusterConfig, SplitBy};

/// Nodes of one cluster; hellos of more are ignored.
pub(super) const NODES_MAX: usize = 64;
/// Longest name of a node, in bytes.
pub(super) const NAME_LEN_MAX: usize = 64;
/// Streams that are split at the same time.
pub(super) const SPLITS_MAX: usize = 32;
/// Streams whose viewers a hello counts.
pub(super) const BIG_MAX: usize = 64;

/// A node, from its start to its end; a new one after each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Where viewers reach it; empty if it does not say.
    pub(super) url: String,
    /// It owns nothing any more and is about to end.
    pub(super) draining: bool,
    /// Viewers that are connected to it.
    pub(super) viewers: u32,
    /// The streams that are split, as far as it knows: its word counts for those that it would own
    /// whole, and for all of them where it was there before.
    pub(super) splits: Vec<StreamId>,
    /// Streams of which it holds many viewers, and how many.
    pub(super) big: Vec<(StreamId, u32)>,
}

#[derive(Debug)]
struct Other {
    hello: Hello,
    heard_ms: u64,
}

/// What one node knows of all.
#[derive(Debug)]
pub(super) struct Members {
    me: NodeId,
    draining: bool,
    lost_after_ms: u64,
    split_above: u64,
    split_by: SplitBy,
    others: BTreeMap<NodeId, Other>,
    /// When a node came or went the last time; at first, when this one came itself.
    changed_ms: u64,
    splits: BTreeSet<StreamId>,
}

impl Members {
    pub(super) fn new(me: NodeId, config: &ClusterConfig) -> Self {
        Self {
            me,
            draining: false,
            lost_after_ms: u64::from(config.lost_after_ms),
            split_above: u64::from(config.split_above),
            split_by: config.split_by,
            others: BTreeMap::new(),
            changed_ms: 0,
            splits: BTreeSet::new(),
        }
    }

    /// Whether this node gives its streams away.
    pub(super) const fn draining(&self) -> bool {
        self.draining
    }

    pub(super) const fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// The other nodes that live, as they last said who they are.
    pub(super) fn others(&self) -> impl Iterator<Item = &Hello> {
        self.others.values().map(|other| &other.hello)
    }

    /// Where viewers reach the other nodes that take them in.
    pub(super) fn places(&self) -> Vec<String> {
        let staying = self.others().filter(|hello| !hello.draining);
        let urls = staying.map(|hello| hello.url.clone());
        urls.filter(|url| !url.is_empty()).collect()
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        node == self.me || self.others.contains_key(&node)
    }

    /// Whether the node was not known, and whether owners may have changed.
    pub(super) fn on_hello(&mut self, now_ms: u64, hello: Hello) -> (bool, bool) {
        let node = hello.node;
        let known = self.others.get(&node).map(|other| other.hello.draining);
        if node == self.me || (known.is_none() && self.others.len() >= NODES_MAX) {
            return (false, false);
        }
        let draining = hello.draining;
        let announced: BTreeSet<StreamId> = hello.splits.iter().copied().collect();
        let heard_ms = now_ms;
        self.others.insert(node, Other { hello, heard_ms });
        if known.is_none() {
            self.changed_ms = now_ms;
        }
        let split_news = self.follow_splits(now_ms, node, &announced);
        (known.is_none(), known != Some(draining) || split_news)
    }

    /// Whether the node was known.
    pub(super) fn on_bye(&mut self, now_ms: u64, node: NodeId) -> bool {
        let known = self.others.remove(&node).is_some();
        if known {
            self.changed_ms = now_ms;
        }
        known
    }

    /// Whether no node has come or gone for so long that all know the same ones, and what they say.
    pub(super) const fn is_settled(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.changed_ms) > self.lost_after_ms
    }

    /// The nodes that have been silent for too long; they are forgotten.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<NodeId> {
        let max = self.lost_after_ms;
        let silent = |other: &Other| now_ms.saturating_sub(other.heard_ms) > max;
        let lost = self.others.iter().filter(|(_, other)| silent(other));
        let lost: Vec<NodeId> = lost.map(|(node, _)| *node).collect();
        for node in &lost {
            self.others.remove(node);
            self.changed_ms = now_ms;
        }
        lost
    }

    /// Who runs the stream for viewers of this network.
    pub(super) fn owner_of(&self, stream: StreamId, network: &Network) -> NodeId {
        self.owner(stream, self.region_of(stream, network))
    }

    /// The part of a stream that viewers of this network belong to: 0, unless it is split.
    fn region_of(&self, stream: StreamId, network: &Network) -> u64 {
        if !self.splits.contains(&stream) {
            return 0;
        }
        let country = u64::from(u16::from_be_bytes(network.country));
        match self.split_by {
            SplitBy::Country => country + 1,
            SplitBy::Isp => ((u64::from(network.asn) << 16) | country) + 1,
        }
    }

    /// The streams with one owner for each region.
    pub(super) fn splits(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.splits.iter().copied()
    }

    /// Decides which of the streams that this node would own whole are split, and whether that has
    /// changed. `mine` counts the viewers that are connected here. Parts are joined again only where
    /// the counts can be believed: not while nodes come and go, and not by a node that hears nobody.
    pub(super) fn decide_splits(&mut self, now_ms: u64, mine: &BTreeMap<StreamId, u32>) -> bool {
        let may_join = self.is_settled(now_ms) && !self.others.is_empty();
        let mut totals: BTreeMap<StreamId, u64> = self.splits().map(|s| (s, 0)).collect();
        let others = self.others.values().flat_map(|o| o.hello.big.iter());
        let all = others.map(|(stream, n)| (*stream, *n));
        for (stream, viewers) in all.chain(mine.iter().map(|(s, n)| (*s, *n))) {
            *totals.entry(stream).or_default() += u64::from(viewers);
        }
        let mut changed = false;
        for (stream, viewers) in totals {
            if self.owner(stream, 0) != self.me {
                continue;
            }
            let split = self.splits.contains(&stream);
            if !split && viewers > self.split_above && self.splits.len() < SPLITS_MAX {
                changed |= self.splits.insert(stream);
            } else if split && may_join && viewers < self.split_above / 2 {
                changed |= self.splits.remove(&stream);
            }
        }
        changed
    }

    /// From how many viewers on a hello counts a stream: together nodes see what is above
    /// `split_above`.
    pub(super) fn big_from(&self) -> u32 {
        (self.split_above / (2 * NODES_MAX as u64)).max(1) as u32
    }

    /// Takes over what the node that decides on a stream has decided. While nodes come and go that
    /// may be one that has yet to hear of it, so anybody's splits are believed then, and kept.
    fn follow_splits(&mut self, now_ms: u64, node: NodeId, announced: &BTreeSet<StreamId>) -> bool {
        let settled = self.is_settled(now_ms);
        let all: BTreeSet<StreamId> = self.splits.union(announced).copied().collect();
        let mut changed = false;
        for stream in all {
            let decides = self.owner(stream, 0) == node;
            if announced.contains(&stream) {
                let believed = decides || !settled;
                changed |= believed && self.splits.len() < SPLITS_MAX && self.splits.insert(stream);
            } else if decides && settled {
                changed |= self.splits.remove(&stream);
            }
        }
        changed
    }

    /// Highest random weight among the nodes that are not draining: where a node comes or goes,
    /// only its own share moves.
    fn owner(&self, stream: StreamId, region: u64) -> NodeId {
        heaviest(self.staying(), stream, region).unwrap_or(self.me)
    }

    /// The nodes that live and are not draining.
    pub(super) fn staying(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.others().filter(|hello| !hello.draining);
        let me = (!self.draining).then_some(self.me);
        others.map(|hello| hello.node).chain(me)
    }
}

/// Who of these nodes owns a stream.
pub(super) fn heaviest(
    nodes: impl Iterator<Item = NodeId>,
    stream: StreamId,
    region: u64,
) -> Option<NodeId> {
    nodes.max_by_key(|node| (weight(*node, stream, region), *node))
}

fn weight(node: NodeId, stream: StreamId, region: u64) -> u64 {
    let (high, low) = stream.0.split_at(8);
    let number = |bytes: &[u8]| {
        let bytes = bytes.iter();
        bytes.fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
    };
    let key = rng::mix(number(high) ^ rng::mix(number(low) ^ rng::mix(region)));
    rng::mix(node.0 ^ key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time at which no node has come or gone for long.
    const SETTLED_MS: u64 = 10_000;

    fn hello(node: u64) -> Hello {
        Hello {
            node: NodeId(node),
            ..Hello::default()
        }
    }

    fn members(me: u64, others: &[u64]) -> Members {
        let mut members = Members::new(NodeId(me), &ClusterConfig::default());
        for node in others {
            members.on_hello(0, hello(*node));
        }
        members
    }

    fn streams() -> impl Iterator<Item = StreamId> {
        (0..=255u8).map(|byte| StreamId([byte; 16]))
    }

    fn in_country(country: [u8; 2]) -> Network {
        Network {
            country,
            ..Network::default()
        }
    }

    #[test]
    fn all_nodes_agree_and_share_the_streams() {
        let all = [
            members(1, &[2, 3]),
            members(2, &[3, 1]),
            members(3, &[1, 2]),
        ];
        let nowhere = Network::default();
        let mut owned = BTreeMap::<NodeId, u32>::new();
        for stream in streams() {
            let owner = all[0].owner_of(stream, &nowhere);
            assert!(all.iter().all(|m| m.owner_of(stream, &nowhere) == owner));
            *owned.entry(owner).or_default() += 1;
        }
        assert_eq!(owned.len(), 3);
        assert!(owned.values().all(|count| *count > 50), "{owned:?}");
    }

    #[test]
    fn viewers_are_sent_to_nodes_that_stay_and_say_where() {
        let mut members = members(1, &[2]);
        let mut told = hello(3);
        told.url = "wss://three.example".into();
        members.on_hello(0, told.clone());
        assert_eq!(members.places(), ["wss://three.example"]);
        told.draining = true;
        members.on_hello(0, told);
        assert!(members.places().is_empty());
    }

    #[test]
    fn only_the_share_of_a_lost_or_draining_node_moves() {
        let before = members(1, &[2, 3]);
        let mut lost = members(1, &[2, 3]);
        lost.on_hello(3_000, hello(2));
        assert_eq!(lost.expire(4_500), [NodeId(3)]);
        let mut drained = members(1, &[2, 3]);
        let news = drained.on_hello(
            0,
            Hello {
                draining: true,
                ..hello(3)
            },
        );
        assert_eq!(news, (false, true));
        let nowhere = Network::default();
        for stream in streams() {
            let old = before.owner_of(stream, &nowhere);
            for after in [&lost, &drained] {
                let new = after.owner_of(stream, &nowhere);
                assert_ne!(new, NodeId(3));
                assert!(old == NodeId(3) || old == new);
            }
        }
        drained.set_draining(true);
        drained.on_bye(0, NodeId(2));
        let owner = drained.owner_of(StreamId([1; 16]), &nowhere);
        assert_eq!(owner, NodeId(1), "nobody else is there");
    }

    #[test]
    fn a_large_stream_is_split_by_one_node_and_the_others_follow() {
        let mut all = [members(1, &[2]), members(2, &[1])];
        let stream = StreamId([7; 16]);
        let decider = usize::from(all[0].owner_of(stream, &Network::default()) == NodeId(2));
        let large = BTreeMap::from([(stream, 150_000)]);
        for members in &mut all {
            let mut told = hello(if members.me == NodeId(1) { 2 } else { 1 });
            told.big = vec![(stream, 60_000)];
            members.on_hello(0, told);
        }
        assert!(
            !all[1 - decider].decide_splits(SETTLED_MS, &large),
            "not its to decide on"
        );
        assert!(all[decider].decide_splits(SETTLED_MS, &large));
        let mut told = hello(decider as u64 + 1);
        told.splits = all[decider].splits().collect();
        assert_eq!(told.splits, [stream]);
        assert_eq!(all[1 - decider].on_hello(0, told), (false, true));
        let countries = [*b"DE", *b"FR", *b"NL", *b"PL", *b"US", *b"BR", *b"IN"];
        let owners: BTreeSet<NodeId> = countries
            .iter()
            .map(|country| {
                let owners = all
                    .iter()
                    .map(|m| m.owner_of(stream, &in_country(*country)));
                let owners: BTreeSet<NodeId> = owners.collect();
                assert_eq!(owners.len(), 1, "both agree");
                *owners.first().unwrap()
            })
            .collect();
        assert_eq!(owners.len(), 2, "the regions are shared");
        // Somewhat fewer viewers change nothing; far fewer make it whole again.
        let fewer = BTreeMap::from([(stream, 50_000)]);
        assert!(!all[decider].decide_splits(SETTLED_MS, &fewer));
        let few = BTreeMap::from([(stream, 1_000)]);
        assert!(all[decider].decide_splits(SETTLED_MS, &few));
        let told = hello(decider as u64 + 1);
        let news = all[1 - decider].on_hello(SETTLED_MS, told);
        assert_eq!(news, (false, true));
    }

    #[test]
    fn a_node_that_comes_and_is_to_decide_does_not_join_what_is_split() {
        let stream = StreamId([7; 16]);
        let all = [1, 2, 3].map(NodeId).into_iter();
        let came = heaviest(all, stream, 0).unwrap();
        let others: Vec<u64> = (1..=3).filter(|node| *node != came.0).collect();
        let mut old = [
            members(others[0], &others[1..]),
            members(others[1], &others[..1]),
        ];
        for members in &mut old {
            members.splits.insert(stream);
        }
        let told_by = |members: &Members, viewers: u32| Hello {
            splits: members.splits().collect(),
            big: vec![(stream, viewers)],
            ..hello(members.me.0)
        };
        let mut new = members(came.0, &[]);
        let now_ms = 60_000;
        new.changed_ms = now_ms;
        // It has heard nobody, or one alone, and counts few viewers.
        for members in &mut old {
            let (known, _) = members.on_hello(now_ms, told_by(&new, 0));
            assert!(known);
            assert!(members.splits.contains(&stream), "on its first word");
        }
        new.on_hello(now_ms, told_by(&old[0], 90_000));
        assert!(!new.decide_splits(now_ms + 1, &BTreeMap::new()));
        new.on_hello(now_ms, told_by(&old[1], 90_000));
        for now_ms in [now_ms + 1_000, now_ms + SETTLED_MS] {
            assert!(!new.decide_splits(now_ms, &BTreeMap::new()));
            let told = told_by(&new, 0);
            assert_eq!(told.splits, [stream]);
            for members in &mut old {
                members.on_hello(now_ms, told.clone());
                assert!(members.splits.contains(&stream));
            }
        }
        // Then it counts as everybody does, and its word is the last.
        for members in &old {
            new.on_hello(now_ms + SETTLED_MS, told_by(members, 100));
        }
        assert!(new.decide_splits(now_ms + SETTLED_MS, &BTreeMap::new()));
        for members in &mut old {
            let told = told_by(&new, 0);
            assert_eq!(members.on_hello(now_ms + SETTLED_MS, told), (false, true));
            assert!(members.splits.is_empty());
        }
    }

    #[test]
    fn who_hears_nobody_keeps_what_is_split() {
        let mut alone = members(1, &[2]);
        alone.splits.insert(StreamId([7; 16]));
        assert_eq!(alone.expire(SETTLED_MS), [NodeId(2)]);
        assert!(!alone.decide_splits(3 * SETTLED_MS, &BTreeMap::new()));
    }

    #[test]
    fn more_nodes_than_fit_are_ignored() {
        let mut members = members(1, &[]);
        for node in 0..200 {
            members.on_hello(0, hello(node));
        }
        assert_eq!(members.others().count(), NODES_MAX);
    }
}

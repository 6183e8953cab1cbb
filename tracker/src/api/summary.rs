//! All streams and all nodes, one line each.

use std::{cmp::Reverse, collections::BTreeMap, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};
use swarm_core::{
    directory::{Directory, StreamView, Totals},
    id::StreamId,
};

use super::offload;
use crate::{listed::Listed, server::Context};

/// Streams in an answer for people: those with the most viewers.
pub(super) const STREAMS_MAX: usize = 500;
/// Streams in a census; as many fit into one message between nodes.
pub(super) const CENSUS_MAX: usize = 2_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) streams: Vec<Stream>,
    /// All streams, those that are left out of the list included.
    count: usize,
}

/// A stream and sums over its viewers, those that have left included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) stream: String,
    /// What the operator calls it, where it is listed with a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) viewers: usize,
    pub(crate) bytes_p2p: u64,
    pub(crate) bytes_cdn: u64,
    pub(crate) bytes_up: u64,
    /// The share of bytes that came from peers.
    pub(crate) offload: f64,
    pub(crate) stalls: u64,
    pub(crate) stalled_ms: u64,
}

/// A node of the cluster, or the only one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) uptime_s: u64,
    /// WebSocket connections that it holds.
    pub(crate) connections: u64,
    /// Viewers, groups and streams that it runs.
    pub(crate) viewers: usize,
    pub(crate) groups: usize,
    pub(crate) streams: usize,
    /// WebTorrent viewers, each as often as it is in a swarm.
    pub(crate) webtorrent_viewers: usize,
    pub(crate) draining: bool,
    /// Why it does not reach the other nodes, as far as that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) alone_because: String,
}

impl Node {
    /// This node; what its shard knows is to be filled in.
    pub(super) fn of(context: &Context) -> Self {
        let node = &context.node;
        Self {
            node: node.id.clone(),
            name: node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: node.started.elapsed().as_secs(),
            connections: context.counters.connections.load(Ordering::Relaxed),
            webtorrent_viewers: context.webtorrent.viewers_len(),
            draining: context.is_draining(),
            alone_because: context
                .peers
                .as_ref()
                .map_or_else(String::new, |peers| peers.trouble()),
            ..Self::default()
        }
    }
}

impl Streams {
    /// Those with the most viewers, at most `max`.
    pub(super) fn read(directory: &Directory, max: usize) -> Self {
        let mut all: Vec<StreamView> = directory.streams().collect();
        let count = all.len();
        // Texts are made of those that are told alone: others may wait.
        if count > max {
            all.select_nth_unstable_by_key(max, |s| (Reverse(s.viewers), s.stream));
            all.truncate(max);
        }
        let streams = all
            .iter()
            .map(|s| Stream::new(s.stream, s.viewers, &s.totals));
        let streams = streams.collect();
        Self { streams, count }.cut(max)
    }

    /// Whether there are more than are listed.
    pub(super) const fn is_cut(&self) -> bool {
        self.count > self.streams.len()
    }

    pub(super) fn merge(&mut self, other: Self) {
        // Lists that were cut may hide common streams: then the count is too high by those.
        let hidden = self.count.saturating_sub(self.streams.len())
            + other.count.saturating_sub(other.streams.len());
        let known = std::mem::take(&mut self.streams).into_iter();
        let mut all: BTreeMap<String, Stream> = known.map(|s| (s.stream.clone(), s)).collect();
        for stream in other.streams {
            match all.get_mut(&stream.stream) {
                Some(known) => known.merge(&stream),
                None => drop(all.insert(stream.stream.clone(), stream)),
            }
        }
        self.count = all.len() + hidden;
        self.streams = all.into_values().collect();
    }

    /// The same with the operator's names.
    pub(super) fn named(mut self, listed: &Listed<StreamId>) -> Self {
        self.streams
            .iter_mut()
            .for_each(|stream| stream.name(listed));
        self
    }

    /// The streams with the most viewers, at most `max`.
    pub(super) fn cut(mut self, max: usize) -> Self {
        self.streams.sort_unstable_by(|a, b| {
            (Reverse(a.viewers), &a.stream).cmp(&(Reverse(b.viewers), &b.stream))
        });
        self.streams.truncate(max);
        self
    }
}

impl Stream {
    pub(super) fn new(stream: StreamId, viewers: usize, totals: &Totals) -> Self {
        Self {
            stream: stream.to_string(),
            name: String::new(),
            viewers,
            bytes_p2p: totals.bytes_p2p,
            bytes_cdn: totals.bytes_cdn,
            bytes_up: totals.bytes_up,
            offload: offload(totals.bytes_p2p, totals.bytes_cdn),
            stalls: totals.stalls,
            stalled_ms: totals.stalled_ms,
        }
    }

    /// Gives it the operator's name.
    pub(super) fn name(&mut self, listed: &Listed<StreamId>) {
        let id = StreamId::from_hex(&self.stream);
        self.name = id.map(|id| listed.name_of(&id)).unwrap_or_default();
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.viewers += other.viewers;
        self.bytes_p2p += other.bytes_p2p;
        self.bytes_cdn += other.bytes_cdn;
        self.bytes_up += other.bytes_up;
        self.offload = offload(self.bytes_p2p, self.bytes_cdn);
        self.stalls += other.stalls;
        self.stalled_ms += other.stalled_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(list: &[(&str, usize, u64, u64)]) -> Streams {
        let streams = list.iter().map(|(name, viewers, p2p, cdn)| Stream {
            stream: (*name).into(),
            viewers: *viewers,
            bytes_p2p: *p2p,
            bytes_cdn: *cdn,
            offload: offload(*p2p, *cdn),
            ..Stream::default()
        });
        let streams: Vec<Stream> = streams.collect();
        let count = streams.len();
        Streams { streams, count }
    }

    #[test]
    fn nodes_lists_become_one() {
        let mut all = streams(&[("a", 1, 0, 100), ("b", 5, 1, 1)]);
        all.merge(streams(&[("a", 9, 300, 0), ("c", 2, 0, 0)]));
        let expected = streams(&[("a", 10, 300, 100), ("b", 5, 1, 1), ("c", 2, 0, 0)]);
        let all = all.cut(STREAMS_MAX);
        assert_eq!(all, expected.cut(STREAMS_MAX));
        assert_eq!((all.count, all.streams[0].offload), (3, 0.75));
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let names: Vec<String> = (0..700).map(|n| n.to_string()).collect();
        let list: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 0, 0)).collect();
        let mut all = streams(&list);
        all = all.cut(STREAMS_MAX);
        all.merge(Streams::default());
        assert_eq!((all.streams.len(), all.count), (STREAMS_MAX, 700));
        assert!(all.is_cut() && !streams(&list).is_cut());
    }
}

//! What operators see of WebTorrent viewers, and whom they send away.

use serde::{Deserialize, Serialize};

use super::{
    Facade, SHARDS,
    link::Link,
    messages::{Id20, InfoHash, failure_parts},
    swarm::{Swarm, Viewer},
};
use crate::cluster::GuestMember;

/// Close code of a connection that is not wanted (RFC 6455 section 7.4.1).
const POLICY_VIOLATION: u16 = 1008;
/// Viewers of a swarm that are listed.
const VIEWERS_MAX: usize = 1_000;

/// A swarm, from afar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmLine {
    /// Its info hash, 40 hexadecimal digits.
    pub(crate) swarm: String,
    pub(crate) viewers: usize,
    /// Those of them that have everything.
    pub(crate) complete: u32,
    /// Pairs that have answered each other.
    pub(crate) pairs: usize,
}

/// A swarm's viewers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmDetail {
    #[serde(flatten)]
    pub(crate) line: SwarmLine,
    pub(crate) list: Vec<SwarmViewer>,
    /// Whether some are left out of the list.
    pub(crate) truncated: bool,
}

/// A WebTorrent viewer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SwarmViewer {
    /// Its peer id, 40 hexadecimal digits.
    pub(crate) id: String,
    /// The node that it is connected to.
    pub(crate) node: String,
    pub(crate) country: String,
    pub(crate) asn: u32,
    pub(crate) complete: bool,
    /// Viewers that it has exchanged an offer and an answer with.
    pub(crate) partners: u8,
    /// Seconds since its last announcement.
    pub(crate) heard_s: u32,
}

impl SwarmLine {
    fn of<L: Clone>(hash: InfoHash, swarm: &Swarm<L>) -> Self {
        let viewers = swarm.viewers.iter().flatten();
        let partners: usize = viewers.map(|viewer| usize::from(viewer.partners)).sum();
        Self {
            swarm: hex::encode(hash.0),
            viewers: swarm.by_id.len(),
            complete: swarm.complete,
            pairs: partners / 2,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.viewers += other.viewers;
        self.complete += other.complete;
        self.pairs += other.pairs;
    }
}

impl SwarmDetail {
    pub(crate) fn merge(&mut self, other: Self) {
        self.line.merge(&other.line);
        self.list.extend(other.list);
        self.truncated |= other.truncated || self.list.len() > VIEWERS_MAX;
        self.list.truncate(VIEWERS_MAX);
    }
}

impl SwarmViewer {
    fn of(viewer: &Viewer<Link>, node: &str, now_s: u32) -> Self {
        let network = &viewer.guest.network;
        let country = network.country.iter().filter(|letter| **letter != 0);
        Self {
            id: hex::encode(viewer.id.0),
            node: viewer
                .guest
                .link
                .node()
                .map_or_else(|| node.to_owned(), |node| node.to_string()),
            country: country.map(|letter| char::from(*letter)).collect(),
            asn: network.asn,
            complete: viewer.complete,
            partners: viewer.partners,
            heard_s: now_s.saturating_sub(viewer.heard_s),
        }
    }
}

impl Facade {
    /// Viewers, each as often as it is in a swarm.
    pub(crate) fn viewers_len(&self) -> usize {
        let counts = (0..SHARDS).map(|shard| self.lock(shard).count());
        counts.map(|(_, viewers)| viewers).sum()
    }

    /// All swarms, in no order.
    pub(crate) fn lines(&self) -> Vec<SwarmLine> {
        let lines = (0..SHARDS).flat_map(|shard| {
            let swarms = self.lock(shard);
            let lines = swarms
                .iter()
                .map(|(hash, swarm)| SwarmLine::of(hash, swarm));
            lines.collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// One swarm and at most [`VIEWERS_MAX`] of its viewers; `node` is this node's name.
    pub(crate) fn detail(&self, hash: InfoHash, node: &str) -> Option<SwarmDetail> {
        let now_s = self.now_s();
        let swarms = self.swarms(hash);
        let swarm = swarms.get(hash)?;
        let viewers = swarm.viewers.iter().flatten().take(VIEWERS_MAX);
        let list: Vec<_> = viewers
            .map(|viewer| SwarmViewer::of(viewer, node, now_s))
            .collect();
        Some(SwarmDetail {
            line: SwarmLine::of(hash, swarm),
            truncated: list.len() < swarm.by_id.len(),
            list,
        })
    }

    /// Ends a viewer's connection and refuses its id in this swarm for a while: these clients connect
    /// again by themselves. Whether it was there.
    pub(crate) fn kick(&self, hash: InfoHash, id: Id20) -> bool {
        let kicked = self.swarms(hash).kick(self.now_s(), hash, id);
        if let Some(link) = &kicked {
            link.push_text(&failure_parts(None, "the operator refuses this viewer"));
            link.close_with(POLICY_VIOLATION);
        }
        kicked.is_some()
    }

    /// A viewer that was kicked at another node is not let in here either, for as long, in seconds.
    pub(crate) fn bar(&self, (hash, id): GuestMember, left_s: u32) {
        let hash = Id20(hash);
        self.swarms(hash)
            .bar(self.now_s(), (hash, Id20(id)), left_s);
    }

    /// All viewers that are not let in, and for how many seconds yet.
    pub(crate) fn barred(&self) -> Vec<(GuestMember, u32)> {
        let now_s = self.now_s();
        let all = (0..SHARDS).flat_map(|shard| self.lock(shard).barred(now_s));
        all.map(|((hash, id), left_s)| ((hash.0, id.0), left_s))
            .collect()
    }

    /// Lets a viewer in again that was kicked. Whether it was.
    pub(crate) fn lift(&self, hash: InfoHash, id: Id20) -> bool {
        self.swarms(hash).lift(self.now_s(), hash, id)
    }
}

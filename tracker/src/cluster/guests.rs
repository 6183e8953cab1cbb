//! WebTorrent viewers between nodes: who runs a swarm, and the way there and back. What is said is
//! the facade's business (`webtorrent/abroad.rs`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use swarm_core::id::StreamId;
use tokio::sync::mpsc;

use super::{
    OUTPUTS_MAX,
    members::{NodeId, heaviest},
    message::{Entry, words::GuestWords},
};
use crate::metrics::Counters;

/// The way to the other nodes' facades.
#[derive(Debug)]
pub(crate) struct Guests {
    me: NodeId,
    /// The nodes that run swarms.
    staying: ArcSwap<Vec<NodeId>>,
    posts: mpsc::Sender<Post>,
    counters: Arc<Counters>,
}

/// An entry for another node.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) to: NodeId,
    pub(super) entry: Vec<u8>,
}

impl Guests {
    pub(super) fn new(me: NodeId, counters: Arc<Counters>) -> (Arc<Self>, mpsc::Receiver<Post>) {
        let (posts, received) = mpsc::channel(OUTPUTS_MAX);
        let guests = Self {
            me,
            staying: ArcSwap::from_pointee(vec![me]),
            posts,
            counters,
        };
        (Arc::new(guests), received)
    }

    pub(super) fn set_staying(&self, nodes: Vec<NodeId>) {
        self.staying.store(Arc::new(nodes));
    }

    /// The node that runs a swarm, if it is not this one. Swarms are never split.
    pub(crate) fn owner_of(&self, info_hash: [u8; 20]) -> Option<NodeId> {
        let staying = self.staying.load();
        let owner = heaviest(staying.iter().copied(), stream_of(info_hash), 0);
        owner.filter(|owner| *owner != self.me)
    }

    /// Sends something to another node, unless it is too long or too much waits already: then it is
    /// lost. These clients say everything again in time.
    pub(crate) fn say(&self, to: NodeId, conn: u64, words: &GuestWords<'_>) -> bool {
        // Cut, it would be nonsense there.
        if !words.fits() {
            Counters::add(&self.counters.cluster_dropped);
            return false;
        }
        let mut entry = Vec::new();
        Entry::Guest(conn, words.clone()).encode(&mut entry);
        let queued = self.posts.try_send(Post { to, entry }).is_ok();
        if !queued {
            Counters::add(&self.counters.cluster_dropped);
        }
        queued
    }
}

/// A swarm's name among those of streams.
fn stream_of(info_hash: [u8; 20]) -> StreamId {
    let mut stream = [0; 16];
    for (at, byte) in info_hash.iter().enumerate() {
        stream[at % 16] ^= byte;
    }
    StreamId(stream)
}

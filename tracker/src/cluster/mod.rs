//! Several nodes that act as one tracker, joined by NATS.
//!
//! Each stream has one owner, a node that all agree on without asking each other: the one with the
//! highest hash of node and stream among those that live (`members`). The owner's directory runs
//! the stream. A viewer that is connected elsewhere is forwarded (`router`): what it says goes to
//! the owner, what the owner says to it comes back. When nodes come or go, each node gives its own
//! viewers to their new owners; names and links stay.
//!
//! Nothing here is needed for correctness but that hellos arrive: a node that hears nobody owns
//! everything, which is what a lost NATS means. Specified in `docs/protocol/cluster.md`.

mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guests;
mod link;
mod members;
mod message;
mod router;

pub use config::{ClusterConfig, SplitBy};
pub(crate) use guests::Guests;
pub(crate) use link::{Asked, Peers, Standing};
pub(crate) use members::NodeId;
pub(crate) use message::words::{GUEST_TEXT_LEN_MAX, GuestMember, GuestWords};

use std::sync::Arc;

use bytes::Bytes;
use router::Router;
use swarm_core::directory::ConnId;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    config::Config,
    farewell::Places,
    metrics::Counters,
    names,
    shard::{COMMANDS_MAX, Command},
    webtorrent::Facade,
};

/// Frames of the shard that wait to be sent to other nodes.
const OUTPUTS_MAX: usize = 16 * 1024;

/// A cluster's part of this process.
pub(crate) struct Cluster {
    /// What connections say goes here instead of to the shard.
    pub(crate) commands: mpsc::Sender<Command>,
    /// The other nodes' APIs.
    pub(crate) peers: Arc<Peers>,
    /// Questions that other nodes have.
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) task: JoinHandle<()>,
}

/// Joins the cluster, and forwards until `stop`. NATS need not be there yet.
///
/// # Errors
/// [`Error::Config`] where servers or credentials cannot be used.
pub(crate) async fn start(
    config: &Config,
    places: Arc<Places>,
    shard: mpsc::Sender<Command>,
    facade: &Arc<Facade>,
    counters: &Arc<Counters>,
    stop: CancellationToken,
) -> Result<Cluster, Error> {
    let mut random = [0; 16];
    names::fill(&mut random)?;
    let random = u128::from_be_bytes(random);
    let me = NodeId(random as u64);
    let (link, asked) = link::connect(&config.cluster, me, counters).await?;
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let (visitors, outputs) = mpsc::channel(OUTPUTS_MAX);
    let peers = link.peers();
    let visitors = Visitors {
        outputs: visitors,
        counters: Arc::clone(counters),
    };
    let seed = (random >> 64) as u64;
    let (guests, posts) = Guests::new(me, Arc::clone(counters));
    facade.join_cluster(Arc::clone(&guests));
    let swarms = Swarms {
        facade: Arc::clone(facade),
        guests,
    };
    let counters = Arc::clone(counters);
    let router = Router::new(me, seed, config, visitors, places, swarms, counters);
    let inlets = link::Inlets {
        commands: received,
        outputs,
        posts,
    };
    let task = tokio::spawn(link::serve(link, router, shard, inlets, stop));
    Ok(Cluster {
        commands,
        peers,
        asked,
        task,
    })
}

/// The WebTorrent viewers' part.
struct Swarms {
    facade: Arc<Facade>,
    guests: Arc<Guests>,
}

/// Makes [`Visitor`]s.
#[derive(Clone, Debug)]
struct Visitors {
    outputs: mpsc::Sender<Output>,
    counters: Arc<Counters>,
}

/// A viewer that this node's shard runs while another node holds its connection.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    conn: ConnId,
    from: Visitors,
}

/// What the shard says to a visitor.
#[derive(Debug)]
struct Output {
    conn: ConnId,
    what: Words,
}

#[derive(Debug)]
enum Words {
    Tell { droppable: bool, frame: Bytes },
    Close,
}

impl Visitor {
    /// Sends a frame on its way; false if it is dropped, because too many wait already. The
    /// viewer's node asks again where it misses something that matters.
    pub(crate) fn tell(&self, frame: &[u8], droppable: bool) -> bool {
        let frame = Bytes::copy_from_slice(frame);
        self.say(Words::Tell { droppable, frame })
    }

    pub(crate) fn close(&self) {
        self.say(Words::Close);
    }

    fn say(&self, what: Words) -> bool {
        let conn = self.conn;
        let queued = self.from.outputs.try_send(Output { conn, what }).is_ok();
        if !queued {
            Counters::add(&self.from.counters.cluster_dropped);
        }
        queued
    }
}

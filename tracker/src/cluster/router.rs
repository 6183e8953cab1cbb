//! Brings viewers and the owners of their streams together, wherever either is. No socket: what is
//! to be sent is collected, and sent by `link`.

mod barring;
mod heartbeat;
mod owning;
mod spending;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use swarm_core::{
    directory::ConnId,
    wire::tracker::{LinkOutcome, TrackerMsg, ViewerMsg},
};
use tokio::time::Instant;

use super::{
    Swarms, Visitors,
    guests::Post,
    members::{Members, NodeId},
    message::{self, Arrival, Broadcast, Entry, PLACE_LEN_MAX, Remote},
};
use crate::{
    config::Config,
    farewell::{Farewell, Goodbye, Places},
    kicked::Kicked,
    metrics::Counters,
    shard::{Command, Join},
    sink::Sink,
};
use spending::Spending;

/// A message to another node is sent on when it is this long, in bytes.
const MESSAGE_LEN: usize = 48 * 1024;
/// An owner that does not welcome a viewer for this long is asked again, in milliseconds; then after
/// twice as long, and so on for so many times: one that has many to welcome is not given more to do.
const ANSWER_MS_MAX: u64 = 2_000;
const PATIENCE_DOUBLES: u32 = 3;
/// A viewer that is not known at its owner is sent there again at most this often, in milliseconds.
const AGAIN_MS_MIN: u64 = 1_000;
/// First name that visitors' connections get: never one of this process' own.
const VISITORS_FROM: u64 = 1 << 63;

/// A viewer that is connected to this node.
struct Local {
    arrival: Arrival,
    sink: Sink,
    owner: NodeId,
    turn: u32,
    /// Whether the owner has taken it in or turned it away.
    answered: bool,
    /// How often this owner was asked again.
    repeats: u32,
    sent_ms: u64,
}

/// A viewer of another node whose stream this node owns.
struct Visit {
    conn: ConnId,
    turn: u32,
    heard_ms: u64,
}

pub(super) struct Router {
    me: NodeId,
    name: String,
    url: String,
    places: Arc<Places>,
    heartbeat_ms: u64,
    silence_ms: u64,
    viewers_max: usize,
    began: Instant,
    members: Members,
    visitors: Visitors,
    visitors_made: u64,
    locals: HashMap<ConnId, Local>,
    visits: HashMap<(NodeId, u64), Visit>,
    visit_of: HashMap<ConnId, (NodeId, Remote)>,
    /// Viewers whose owner has yet to answer, those first that are to be asked for again first.
    unanswered: BinaryHeap<(Reverse<u64>, ConnId, u32)>,
    farewell: Option<Farewell>,
    heartbeat_at_ms: u64,
    goodbye: Goodbye,
    swarms: Swarms,
    spending: Spending,
    /// What the shard knows, too, for nodes that come later.
    kicked: Kicked,
    counters: Arc<Counters>,
    to_shard: Vec<Command>,
    to_nodes: BTreeMap<NodeId, Vec<u8>>,
    outbox: Vec<Outgoing>,
}

/// A message for NATS.
#[derive(Debug)]
pub(super) enum Outgoing {
    ToAll(Vec<u8>),
    To(NodeId, Vec<u8>),
}

impl Router {
    pub(super) fn new(
        me: NodeId,
        seed: u64,
        config: &Config,
        visitors: Visitors,
        places: Arc<Places>,
        swarms: Swarms,
        counters: Arc<Counters>,
    ) -> Self {
        let mut name = config.cluster.name.clone();
        if name.is_empty() {
            name = me.to_string();
        }
        Self {
            me,
            name,
            url: config.cluster.url.clone(),
            goodbye: Goodbye::new(&config.limits, Arc::clone(&places), seed),
            places,
            heartbeat_ms: u64::from(config.cluster.heartbeat_ms),
            silence_ms: 2 * u64::from(config.swarm.silence_ms_max),
            viewers_max: config.cluster.viewers_max as usize,
            began: Instant::now(),
            members: Members::new(me, &config.cluster),
            visitors,
            visitors_made: VISITORS_FROM,
            locals: HashMap::new(),
            visits: HashMap::new(),
            visit_of: HashMap::new(),
            unanswered: BinaryHeap::new(),
            farewell: None,
            heartbeat_at_ms: 0,
            swarms,
            spending: Spending::default(),
            kicked: Kicked::default(),
            counters,
            to_shard: Vec::new(),
            to_nodes: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    /// What is for the shard, in order.
    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.to_shard)
    }

    /// What is for NATS.
    pub(super) fn take_messages(&mut self) -> Vec<Outgoing> {
        for (node, message) in std::mem::take(&mut self.to_nodes) {
            self.outbox.push(Outgoing::To(node, message));
        }
        std::mem::take(&mut self.outbox)
    }

    /// Other nodes that live.
    pub(super) fn others_len(&self) -> usize {
        self.members.others().count()
    }

    /// Whether this node has the lowest number of those that live.
    pub(super) fn is_first(&self) -> bool {
        self.members.others().all(|other| self.me < other.node)
    }

    /// Whether no node has come or gone for a while.
    pub(super) fn is_settled(&self) -> bool {
        self.members.is_settled(self.now_ms())
    }

    /// When to call [`Router::handle_tick`] at the latest.
    pub(super) fn wakeup_at(&self) -> Instant {
        let heartbeat = self.began + Duration::from_millis(self.heartbeat_at_ms);
        let farewell = self.farewell.as_ref().and_then(Farewell::wakeup_at);
        farewell.map_or(heartbeat, |at| at.min(heartbeat))
    }

    /// A word of this node's connections, or of its API.
    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            Command::Join(join) => self.handle_join(*join),
            Command::Status(conn, status) => {
                if let Some(local) = self.locals.get_mut(&conn) {
                    local.arrival.joined.track = status.track;
                    local.arrival.joined.upload_kbps = status.upload_kbps;
                }
                self.say(conn, &ViewerMsg::Status(*status));
            }
            Command::Link {
                conn,
                peer,
                outcome,
                rtt_ms,
            } => {
                if outcome == LinkOutcome::Failed
                    && let Some(local) = self.locals.get_mut(&conn)
                {
                    local.arrival.keep_apart(peer);
                }
                let message = ViewerMsg::Link {
                    peer,
                    outcome,
                    rtt_ms,
                };
                self.say(conn, &message);
            }
            Command::Signal { from, to, payload } => {
                let payload = &payload;
                self.say(from, &ViewerMsg::Signal { to, payload });
            }
            Command::Left(conn) => self.handle_end(conn, Command::Left(conn), Entry::Left),
            Command::Lost(conn) => self.handle_end(conn, Command::Lost(conn), Entry::Lost),
            Command::Drain(over) => self.handle_drain(over),
            Command::Bar(who, left) => self.bar(who, left),
            Command::Lift(peer, answer) => {
                self.kicked.lift(peer, Instant::now());
                self.to_shard.push(Command::Lift(peer, answer));
            }
            other => self.to_shard.push(other),
        }
    }

    /// A message to all nodes.
    pub(super) fn handle_broadcast(&mut self, bytes: &[u8]) {
        match Broadcast::decode(bytes) {
            Ok(Broadcast::Hello(hello)) => {
                let (node, name) = (hello.node, hello.name.clone());
                let (new, changed) = self.members.on_hello(self.now_ms(), hello);
                if new {
                    tracing::info!(%node, %name, "a node has joined the cluster");
                    self.say_hello();
                    self.spending.tell_all_again();
                    self.tell_barred(node);
                }
                if changed {
                    self.places.set_nodes(self.members.places());
                    self.rebalance();
                }
            }
            Ok(Broadcast::Bye(node)) => {
                if self.members.on_bye(self.now_ms(), node) {
                    tracing::info!(%node, "a node has left the cluster");
                    self.places.set_nodes(self.members.places());
                    self.on_node_lost(node);
                    self.rebalance();
                }
            }
            Ok(Broadcast::Spent(node, spent)) => self.handle_spent(node, spent),
            Err(error) => self.on_bad_message(&error),
        }
    }

    /// A message to this node.
    pub(super) fn handle_message(&mut self, bytes: &[u8]) {
        let read = message::open(bytes).and_then(|(from, mut reader)| {
            while let Some(entry) = Entry::next(&mut reader)? {
                match entry {
                    Ok(entry) => self.handle_entry(from, entry),
                    Err(error) => self.on_bad_message(&error),
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            self.on_bad_message(&error);
        }
    }

    /// An entry of this node's facade for another node.
    pub(super) fn handle_post(&mut self, post: &Post) {
        self.append(post.to, |message| message.extend_from_slice(&post.entry));
    }

    /// The end of this node: its viewers are told to come back, the other nodes that it is gone.
    /// Viewers whose stream it owns itself are the shard's to send away.
    pub(super) fn handle_stop(&mut self) {
        for local in self.locals.values() {
            if local.owner != self.me {
                self.goodbye.say(&local.sink);
            }
        }
        let bye = Broadcast::Bye(self.me).encode();
        self.outbox.push(Outgoing::ToAll(bye));
    }

    fn handle_join(&mut self, join: Join) {
        // It came in before the drain, and is not among those that are sent away one by one.
        if self.farewell.is_some() {
            return self.goodbye.say(&join.outgoing);
        }
        let conn = join.joined.conn;
        let arrival = Arrival {
            joined: join.joined,
            bearer: join.bearer,
            isp: join.isp.filter(|isp| isp.len() <= PLACE_LEN_MAX),
            site: join
                .site
                .map(|(_, name)| name)
                .filter(|name| name.len() <= PLACE_LEN_MAX),
            stun: join.stun,
            apart: join.apart,
        };
        let local = Local {
            owner: self.owner_of(&arrival),
            arrival,
            sink: join.outgoing,
            turn: 0,
            answered: false,
            repeats: 0,
            sent_ms: 0,
        };
        self.locals.insert(conn, local);
        self.enter(conn);
    }

    /// Takes a viewer to its owner.
    fn enter(&mut self, conn: ConnId) {
        let now_ms = self.now_ms();
        let Some(local) = self.locals.get_mut(&conn) else {
            return;
        };
        local.turn += 1;
        local.answered = local.owner == self.me;
        local.sent_ms = now_ms;
        let (owner, turn) = (local.owner, local.turn);
        let patience_ms = ANSWER_MS_MAX << local.repeats.min(PATIENCE_DOUBLES);
        let arrival = local.arrival.clone();
        // Wherever it goes next, it goes under its name.
        local.arrival.joined.resumed = true;
        if owner == self.me {
            let join = arrival.into_join(local.sink.clone());
            self.to_shard.push(Command::Join(Box::new(join)));
            return;
        }
        let remote = Remote { conn: conn.0, turn };
        self.send(owner, &Entry::Join(remote, Box::new(arrival)));
        self.unanswered
            .push((Reverse(now_ms + patience_ms), conn, turn));
    }

    /// Passes a viewer's words to its owner.
    fn say(&mut self, conn: ConnId, message: &ViewerMsg<'_>) {
        let Some(local) = self.locals.get(&conn) else {
            return;
        };
        if local.owner == self.me {
            self.to_shard.extend(command_of(conn, message));
            return;
        }
        let (owner, turn) = (local.owner, local.turn);
        let mut frame = Vec::new();
        message.encode(&mut frame);
        self.send(owner, &Entry::Say(Remote { conn: conn.0, turn }, &frame));
    }

    fn handle_end(
        &mut self,
        conn: ConnId,
        here: Command,
        there: impl FnOnce(Remote) -> Entry<'static>,
    ) {
        let Some(local) = self.locals.remove(&conn) else {
            return;
        };
        if local.owner == self.me {
            self.to_shard.push(here);
        } else {
            let turn = local.turn;
            self.send(local.owner, &there(Remote { conn: conn.0, turn }));
        }
    }

    /// Gives the streams away and sends the viewers away, or stops doing so.
    fn handle_drain(&mut self, over: Option<Duration>) {
        self.members.set_draining(over.is_some());
        self.farewell = over.map(|over| {
            let conns = self.locals.keys().copied().collect();
            Farewell::new(conns, Instant::now(), over)
        });
        self.say_hello();
        self.rebalance();
    }

    fn handle_entry(&mut self, from: NodeId, entry: Entry<'_>) {
        match entry {
            Entry::Join(remote, arrival) => self.handle_arrival(from, remote, *arrival),
            Entry::Say(remote, frame) => self.handle_say(from, remote, frame),
            Entry::Left(remote) => self.handle_departure(from, remote, Command::Left),
            Entry::Lost(remote) => self.handle_departure(from, remote, Command::Lost),
            Entry::Tell {
                to,
                droppable,
                frame,
            } => {
                if let Some(local) = self.local_of(from, to) {
                    // An introduction may arrive where the welcome before it was lost.
                    if !local.answered && is_answer(frame) {
                        (local.answered, local.repeats) = (true, 0);
                    }
                    if !droppable {
                        local.sink.push(frame);
                    } else if !local.sink.push_droppable(frame) {
                        Counters::add(&self.counters.signals_dropped);
                    }
                }
            }
            Entry::Close(remote) => {
                if let Some(local) = self.local_of(from, remote) {
                    local.answered = true;
                    local.sink.close();
                }
            }
            Entry::Barred(barred) => self.handle_barred(barred),
            Entry::Guest(conn, words) => self.swarms.facade.on_words(from, conn, words),
            Entry::Unknown(remote) => {
                let now_ms = self.now_ms();
                let local = self.local_of(from, remote);
                if local.is_some_and(|l| now_ms.saturating_sub(l.sent_ms) >= AGAIN_MS_MIN) {
                    Counters::add(&self.counters.cluster_rejoins);
                    self.enter(ConnId(remote.conn));
                }
            }
        }
    }

    /// The viewer that an owner speaks of, unless it is no longer that one's.
    fn local_of(&mut self, from: NodeId, remote: Remote) -> Option<&mut Local> {
        let local = self.locals.get_mut(&ConnId(remote.conn))?;
        (local.owner == from && local.turn == remote.turn).then_some(local)
    }

    fn on_bad_message(&self, error: &dyn std::error::Error) {
        Counters::add(&self.counters.cluster_bad_messages);
        tracing::debug!(%error, "a bad message in the cluster");
    }

    /// Gives viewers whose stream has another owner now to that one.
    fn rebalance(&mut self) {
        self.swarms
            .guests
            .set_staying(self.members.staying().collect());
        let facade = Arc::clone(&self.swarms.facade);
        facade.settle(|to, conn, words| self.send(to, &Entry::Guest(conn, words.clone())));
        let moved = self.locals.iter().filter_map(|(conn, local)| {
            let owner = self.owner_of(&local.arrival);
            (owner != local.owner).then_some((*conn, owner))
        });
        let mut moved: Vec<(ConnId, NodeId)> = moved.collect();
        moved.sort_unstable();
        let mut released = Vec::new();
        for (conn, owner) in &moved {
            let Some(local) = self.locals.get_mut(conn) else {
                continue;
            };
            let (old, turn) = (std::mem::replace(&mut local.owner, *owner), local.turn);
            local.repeats = 0;
            if old == self.me {
                released.push(*conn);
            } else if self.members.is_alive(old) {
                self.send(old, &Entry::Left(Remote { conn: conn.0, turn }));
            }
        }
        if !released.is_empty() {
            self.to_shard.push(Command::Release(released));
        }
        for (conn, _) in &moved {
            self.enter(*conn);
        }
        let count = moved.len() as u64;
        Counters::add_many(&self.counters.cluster_moves, count);
        if count > 0 {
            tracing::info!(viewers = count, "viewers have got other owners");
        }
    }

    fn owner_of(&self, arrival: &Arrival) -> NodeId {
        let joined = &arrival.joined;
        self.members.owner_of(joined.stream, &joined.network)
    }

    fn send(&mut self, node: NodeId, entry: &Entry<'_>) {
        self.append(node, |message| entry.encode(message));
    }

    fn append(&mut self, node: NodeId, write: impl FnOnce(&mut Vec<u8>)) {
        let me = self.me;
        let message = self
            .to_nodes
            .entry(node)
            .or_insert_with(|| message::begin(me));
        write(message);
        if message.len() >= MESSAGE_LEN
            && let Some(message) = self.to_nodes.remove(&node)
        {
            self.outbox.push(Outgoing::To(node, message));
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Whether a frame answers a join: welcomes the viewer or sends it away.
fn is_answer(frame: &[u8]) -> bool {
    matches!(
        TrackerMsg::decode(frame),
        Ok(TrackerMsg::Welcome(_) | TrackerMsg::Refused { .. } | TrackerMsg::Reconnect { .. })
    )
}

/// What the shard is told of a viewer's message; nothing where it is none that is passed on.
fn command_of(conn: ConnId, message: &ViewerMsg<'_>) -> Option<Command> {
    match *message {
        ViewerMsg::Status(status) => Some(Command::Status(conn, Box::new(status))),
        ViewerMsg::Link {
            peer,
            outcome,
            rtt_ms,
        } => Some(Command::Link {
            conn,
            peer,
            outcome,
            rtt_ms,
        }),
        ViewerMsg::Signal { to, payload } => Some(Command::Signal {
            from: conn,
            to,
            payload: Bytes::copy_from_slice(payload),
        }),
        ViewerMsg::Join(_) | ViewerMsg::Leave => None,
    }
}

//! The owner's side: viewers of other nodes whose streams this node runs.

use swarm_core::{
    directory::ConnId,
    wire::tracker::{RefusalCode, TrackerMsg, ViewerMsg},
};

use super::{Router, Visit, command_of};
use crate::{
    cluster::{
        Output, Visitor, Words,
        members::NodeId,
        message::{Arrival, Entry, Remote},
    },
    metrics::Counters,
    shard::{Command, refusal_text},
    sink::Sink,
};

impl Router {
    /// A word of this node's shard for a viewer of another node.
    pub(in crate::cluster) fn handle_output(&mut self, output: Output) {
        let Some((node, to)) = self.visit_of.get(&output.conn).copied() else {
            return;
        };
        match output.what {
            Words::Tell { droppable, frame } => {
                let frame = &frame;
                let entry = Entry::Tell {
                    to,
                    droppable,
                    frame,
                };
                self.send(node, &entry);
            }
            Words::Close => {
                self.visit_of.remove(&output.conn);
                self.visits.remove(&(node, to.conn));
                self.send(node, &Entry::Close(to));
            }
        }
    }

    /// A viewer of another node joins a stream of this one.
    pub(super) fn handle_arrival(&mut self, from: NodeId, remote: Remote, arrival: Arrival) {
        let key = (from, remote.conn);
        if self.visits.len() >= self.viewers_max && !self.visits.contains_key(&key) {
            return self.refuse(from, remote);
        }
        if let Some(old) = self.visits.get(&key) {
            if old.turn >= remote.turn {
                return;
            }
            self.visit_of.remove(&old.conn);
            self.to_shard.push(Command::Lost(old.conn));
        }
        let conn = ConnId(self.visitors_made);
        self.visitors_made += 1;
        let visit = Visit {
            conn,
            turn: remote.turn,
            heard_ms: self.now_ms(),
        };
        self.visits.insert(key, visit);
        self.visit_of.insert(conn, (from, remote));
        let mut arrival = arrival;
        arrival.joined.conn = conn;
        let visitor = Visitor {
            conn,
            from: self.visitors.clone(),
        };
        let join = arrival.into_join(Sink::There(visitor));
        self.to_shard.push(Command::Join(Box::new(join)));
    }

    /// Turns a viewer away for which there is no room: it comes again later by itself.
    fn refuse(&mut self, from: NodeId, to: Remote) {
        let code = RefusalCode::Unavailable;
        let text = refusal_text(code);
        let mut frame = Vec::new();
        TrackerMsg::Refused { code, text }.encode(&mut frame);
        let told = Entry::Tell {
            to,
            droppable: false,
            frame: &frame,
        };
        Counters::add(&self.counters.refused);
        self.send(from, &told);
        self.send(from, &Entry::Close(to));
    }

    pub(super) fn handle_say(&mut self, from: NodeId, remote: Remote, frame: &[u8]) {
        let now_ms = self.now_ms();
        let visit = self.visits.get_mut(&(from, remote.conn));
        let Some(visit) = visit.filter(|visit| visit.turn == remote.turn) else {
            self.send(from, &Entry::Unknown(remote));
            return;
        };
        visit.heard_ms = now_ms;
        let conn = visit.conn;
        match ViewerMsg::decode(frame) {
            Ok(message) => self.to_shard.extend(command_of(conn, &message)),
            Err(error) => self.on_bad_message(&error),
        }
    }

    pub(super) fn handle_departure(
        &mut self,
        from: NodeId,
        remote: Remote,
        command: impl FnOnce(ConnId) -> Command,
    ) {
        let key = (from, remote.conn);
        if self.visits.get(&key).is_some_and(|v| v.turn == remote.turn)
            && let Some(visit) = self.visits.remove(&key)
        {
            self.visit_of.remove(&visit.conn);
            self.to_shard.push(command(visit.conn));
        }
    }

    /// The viewers of a node that is gone may come back through another one.
    pub(super) fn on_node_lost(&mut self, node: NodeId) {
        let to_shard = &mut self.to_shard;
        let visit_of = &mut self.visit_of;
        self.visits.retain(|(from, _), visit| {
            if *from == node {
                visit_of.remove(&visit.conn);
                to_shard.push(Command::Lost(visit.conn));
            }
            *from != node
        });
        self.to_nodes.remove(&node);
        self.swarms.facade.on_node_lost(node);
    }

    /// Forgets visitors whose end was lost on the way. The shard gives them up by itself.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        let (silence_ms, visit_of) = (self.silence_ms, &mut self.visit_of);
        self.visits.retain(|_, visit| {
            let heard = now_ms.saturating_sub(visit.heard_ms) <= silence_ms;
            if !heard {
                visit_of.remove(&visit.conn);
            }
            heard
        });
    }
}

//! What is done again and again: to show that this node lives, and to see who else does.

use std::{cmp::Reverse, collections::BTreeMap};

use swarm_core::id::StreamId;
use tokio::time::Instant;

use super::{Outgoing, Router};
use crate::{
    cluster::{
        members::{BIG_MAX, Hello},
        message::Broadcast,
    },
    metrics::Counters,
};

impl Router {
    /// Does what is due.
    pub(in crate::cluster) fn handle_tick(&mut self) {
        let now = Instant::now();
        let due = self.farewell.as_mut().map(|f| f.due(now));
        for conn in due.unwrap_or_default() {
            if let Some(local) = self.locals.get(&conn) {
                self.goodbye.say(&local.sink);
            }
        }
        let now_ms = self.now_ms();
        if now_ms < self.heartbeat_at_ms {
            return;
        }
        self.heartbeat_at_ms = now_ms + self.heartbeat_ms;
        let lost = self.members.expire(now_ms);
        let mut changed = !lost.is_empty();
        if changed {
            self.places.set_nodes(self.members.places());
        }
        for node in lost {
            tracing::warn!(%node, "a node of the cluster is lost");
            self.on_node_lost(node);
        }
        let counts = self.count_streams();
        changed |= self.members.decide_splits(now_ms, &counts);
        if changed {
            self.rebalance();
        }
        self.ask_again(now_ms);
        self.sweep(now_ms);
        self.say_hello();
        self.tell_spent();
        let nodes = self.members.others().count() as u64 + 1;
        Counters::set(&self.counters.cluster_nodes, nodes);
        let visits = self.visits.len() as u64;
        Counters::set(&self.counters.cluster_visitors, visits);
    }

    pub(super) fn ask_again(&mut self, now_ms: u64) {
        let mut due = Vec::new();
        while let Some(next) = self.unanswered.peek()
            && next.0.0 <= now_ms
        {
            due.extend(self.unanswered.pop());
        }
        for (_, conn, turn) in due {
            let local = self.locals.get_mut(&conn);
            if let Some(local) = local.filter(|l| l.turn == turn && !l.answered) {
                local.repeats += 1;
                Counters::add(&self.counters.cluster_rejoins);
                self.enter(conn);
            }
        }
    }

    pub(super) fn say_hello(&mut self) {
        let from = self.members.big_from();
        let counts = self.count_streams().into_iter();
        let mut big: Vec<_> = counts.filter(|(_, viewers)| *viewers >= from).collect();
        big.sort_unstable_by_key(|(_, viewers)| Reverse(*viewers));
        big.truncate(BIG_MAX);
        let hello = Hello {
            node: self.me,
            name: self.name.clone(),
            url: self.url.clone(),
            draining: self.members.draining(),
            viewers: self.locals.len() as u32,
            splits: self.members.splits().collect(),
            big,
        };
        let bytes = Broadcast::Hello(hello).encode();
        self.outbox.push(Outgoing::ToAll(bytes));
    }

    fn count_streams(&self) -> BTreeMap<StreamId, u32> {
        let mut counts = BTreeMap::new();
        for local in self.locals.values() {
            *counts.entry(local.arrival.joined.stream).or_default() += 1;
        }
        counts
    }
}

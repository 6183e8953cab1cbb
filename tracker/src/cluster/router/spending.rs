//! Addresses that have used much of what they may learn: a node that runs their streams next is not to
//! begin anew.

use std::sync::{Arc, Mutex, PoisonError};

use swarm_core::{directory::Spent, time::Instant};

use super::{Outgoing, Router};
use crate::{
    cluster::{
        members::NodeId,
        message::{Broadcast, spent::SPENT_MAX},
    },
    shard::{Command, Sight},
};

/// Addresses that are told of at one heartbeat; further ones are told of when they have used more.
const HEARTBEAT_MAX: usize = 32 * SPENT_MAX;

/// What this node's shard has found, for the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Spending(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    spent: Vec<Spent>,
    /// Until when it has been looked for; `None` if all that is known is to be told.
    until: Option<Instant>,
}

impl Spending {
    /// There is a node that knows nothing yet.
    pub(super) fn tell_all_again(&self) {
        self.with(|found| found.until = None);
    }

    fn take(&self) -> Vec<Spent> {
        self.with(|found| std::mem::take(&mut found.spent))
    }

    fn look(&self, sight: &Sight<'_>) {
        self.with(|found| {
            let (spent, now) = sight.directory.spent_since(found.until);
            found.until = Some(now);
            found.spent.extend(spent);
            found.spent.truncate(HEARTBEAT_MAX);
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Found) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Router {
    /// At each heartbeat: tells the others what was found since the one before, and looks again.
    pub(super) fn tell_spent(&mut self) {
        if self.members.others().next().is_none() {
            return;
        }
        for spent in self.spending.take().chunks(SPENT_MAX) {
            let message = Broadcast::Spent(self.me, spent.to_vec()).encode();
            self.outbox.push(Outgoing::ToAll(message));
        }
        let spending = self.spending.clone();
        let look = move |sight: &Sight<'_>| spending.look(sight);
        self.to_shard.push(Command::Look(Box::new(look)));
    }

    pub(super) fn handle_spent(&mut self, from: NodeId, spent: Vec<Spent>) {
        // All hear what is said to all, the speaker too.
        if from != self.me {
            self.to_shard.push(Command::Spent(spent));
        }
    }
}

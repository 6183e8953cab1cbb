//! Viewers that operators have sent away: a node that was not there at the time is told who they are, by
//! each that was.

use std::time::Duration;

use tokio::time::Instant;

use super::Router;
use crate::{
    cluster::{
        members::NodeId,
        message::{Entry, barred::Barred},
    },
    kicked::Identity,
    shard::Command,
};

impl Router {
    /// Somebody is not to be let in here for as long.
    pub(super) fn bar(&mut self, who: Identity, left: Duration) {
        self.kicked.add(&who, left, Instant::now());
        self.to_shard.push(Command::Bar(who, left));
    }

    pub(super) fn handle_barred(&mut self, barred: Barred) {
        match barred {
            Barred::Viewer { who, left_ms } => {
                self.bar(who, Duration::from_millis(u64::from(left_ms)));
            }
            Barred::Guest { member, left_s } => self.swarms.facade.bar(member, left_s),
        }
    }

    /// Tells a node that has just come whom to turn away. What it is given to run goes to it behind that.
    pub(super) fn tell_barred(&mut self, to: NodeId) {
        let viewers = self.kicked.in_force(Instant::now());
        let viewers = viewers.map(|(who, left)| Barred::Viewer {
            who,
            left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        });
        let guests = self.swarms.facade.barred().into_iter();
        let guests = guests.map(|(member, left_s)| Barred::Guest { member, left_s });
        for barred in viewers.chain(guests).collect::<Vec<_>>() {
            self.send(to, &Entry::Barred(barred));
        }
    }
}

//! The boundary of the directory: what it is told, and what it wants done.

use alloc::vec::Vec;

use super::{place::Network, spent::Spent};
use crate::{
    id::{PeerId, StreamId, TrackId},
    time::Instant,
    wire::tracker::{Introduction, LinkOutcome, Nat, RefusalCode, Status, ViewerFlags},
};

/// A connection of a viewer, named by the driver; never given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A viewer that the driver has admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its connection.
    pub conn: ConnId,
    /// Its name: a new random one of the driver's, or the one that it resumes.
    pub peer: PeerId,
    /// Whether the viewer brought the name and the driver has checked its secret. If a viewer of
    /// this name is still there, the new connection takes its place and its links.
    pub resumed: bool,
    /// The stream.
    pub stream: StreamId,
    /// The track it plays.
    pub track: TrackId,
    /// Facts about it.
    pub flags: ViewerFlags,
    /// Its network's way with ports.
    pub nat: Nat,
    /// What it would upload at most, in kbit/s.
    pub upload_kbps: u32,
    /// Where it is.
    pub network: Network,
}

/// One thing that happened. Inputs of connections that are not known are ignored.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The time of [`super::Directory::next_wakeup`] has come (or any other time).
    Tick,
    /// A viewer joins. Answered by [`Action::Welcome`] or [`Action::Refuse`].
    Joined(&'a Joined),
    /// The same of a viewer that another directory had until now.
    Moved {
        /// The viewer.
        joined: &'a Joined,
        /// Those with whom it could not link, a moment ago.
        apart: &'a [PeerId],
    },
    /// What addresses have used of what they may learn by another directory of the same tracker.
    Spent(&'a [Spent]),
    /// A viewer reports.
    Status {
        /// Its connection.
        conn: ConnId,
        /// What it says.
        status: &'a Status,
    },
    /// A viewer tells what came of an introduction.
    Link {
        /// Its connection.
        conn: ConnId,
        /// The other viewer.
        peer: PeerId,
        /// How it ended.
        outcome: LinkOutcome,
        /// Round trip in milliseconds where the link is up.
        rtt_ms: u16,
    },
    /// A viewer says goodbye.
    Left(ConnId),
    /// A connection is gone without a goodbye: the viewer may come back.
    Lost(ConnId),
    /// The place that is kept for a viewer whose connection is lost is given up.
    Forget(PeerId),
}

/// Something to be done by the driver, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The viewer is in.
    Welcome {
        /// Its connection.
        conn: ConnId,
        /// Its name.
        peer: PeerId,
    },
    /// Tell of another viewer. Always pairwise: the other is told as well, one of them offers.
    Introduce {
        /// Whom to tell.
        conn: ConnId,
        /// Of whom.
        introduction: Introduction,
    },
    /// Tell that a viewer it was introduced to has left, or shares nothing with it any more.
    Gone {
        /// Whom to tell.
        conn: ConnId,
        /// Who is gone.
        peer: PeerId,
    },
    /// Tell that a viewer that it may be linked with sends bad bytes: several have said so.
    Shun {
        /// Whom to tell.
        conn: ConnId,
        /// Whom to give up.
        peer: PeerId,
    },
    /// Refuse the viewer and close the connection. [`Input::Lost`] is not expected.
    Refuse {
        /// Its connection.
        conn: ConnId,
        /// Why.
        code: RefusalCode,
    },
    /// Close the connection without a word: the viewer has a newer one, or has been silent for
    /// too long. [`Input::Lost`] is not expected.
    Close {
        /// Which.
        conn: ConnId,
    },
}

/// Where the directory puts what is to be done. Owned by the driver and used again for every call.
#[derive(Debug, Default)]
pub struct Outbox {
    actions: Vec<Action>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done, in order.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Empties it; call after the actions were carried out.
    pub fn clear(&mut self) {
        self.actions.clear();
    }

    pub(super) fn append(&mut self, actions: &mut Vec<Action>) {
        self.actions.append(actions);
    }
}

/// When the directory wants to be called again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// When.
    pub at: Instant,
    /// Why, for logs.
    pub why: Timer,
}

/// The directory's reasons to wake up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A viewer may have been silent for too long, or not have come back.
    Viewer,
    /// A group is to be refilled, or to be merged.
    Group,
    /// The links of an old track are to be given up.
    Release,
}

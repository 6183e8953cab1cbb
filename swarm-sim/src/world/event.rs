//! What happens in the world, one thing at a time.

use super::{catalog::Place, letters::Framed};
use crate::population::Contact;

/// A place at a link: the viewer (its place in its part), its slot, and the link that must still be
/// in that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) node: u32,
    pub(crate) link: u32,
    pub(crate) slot: u8,
}

/// A piece on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) place: Place,
    pub(crate) piece: u8,
    /// How many viewers it has passed through.
    pub(crate) hop: u8,
    pub(crate) bad: bool,
    /// It has waited for the receiver's downlink already.
    pub(crate) queued: bool,
}

/// An offer of a link, as it goes through the tracker.
#[derive(Clone, Debug)]
pub(crate) struct Knock {
    /// Number of the viewer that offers, its slot, and the link's name.
    pub(crate) from: u32,
    pub(crate) slot: u8,
    pub(crate) link: u32,
    pub(crate) contact: Contact,
}

/// The answer to an offer: what becomes of the link, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// Number of the viewer that answers, and its slot.
    pub(crate) from: u32,
    pub(crate) slot: u8,
    pub(crate) delay_us: u64,
    pub(crate) is_lan: bool,
    /// When the link is up; when it is given up if the two cannot reach each other.
    pub(crate) done_at: u64,
    pub(crate) reachable: bool,
}

/// Something that happens to a viewer (`node`, its place in its part) or to the whole part. What
/// concerns viewers that have left, or links that are gone, is skipped.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Arrive {
        node: u32,
    },
    Leave {
        node: u32,
    },
    Poll {
        node: u32,
    },
    PlayerTick {
        node: u32,
    },
    Ask {
        node: u32,
    },
    Wake {
        node: u32,
    },
    Switch {
        node: u32,
        from: u8,
    },
    FetchStep {
        node: u32,
        fetch: u32,
    },
    /// STUN has answered the first link's sockets: the viewer knows how its NAT works.
    Mapped {
        node: u32,
    },
    Knock {
        node: u32,
        knock: Box<Knock>,
    },
    Reply {
        at: At,
        reply: Box<Reply>,
    },
    Frame {
        at: At,
        frame: u32,
    },
    Record {
        at: At,
        place: Place,
    },
    Piece {
        at: At,
        moving: Moving,
    },
    /// The receiver's downlink is busy until then.
    Backlog {
        at: At,
        until: u64,
    },
    Sent {
        at: At,
        len: u32,
    },
    LinkUp {
        at: At,
    },
    LinkDown {
        at: At,
    },
    TrackerUp {
        node: u32,
    },
    TrackerDown {
        node: u32,
    },
    TrackerSays {
        node: u32,
        frame: u32,
    },
    Exit,
    Heal,
    Part,
    Rejoin,
    Sample,
}

impl Framed for Event {
    fn with_frame(self, index: u32) -> Self {
        match self {
            Self::Frame { at, .. } => Self::Frame { at, frame: index },
            Self::TrackerSays { node, .. } => Self::TrackerSays { node, frame: index },
            other => other,
        }
    }
}

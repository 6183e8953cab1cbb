//! One viewer in the world: who it is, and what its driver keeps while it watches.

use swarm_core::{
    id::{FetchId, PeerId, RequestId, SegmentId},
    limits::NEIGHBOURS_MAX,
    peer::Peer,
};

use super::catalog::Place;
use crate::{
    measure::Reason,
    options::Options,
    player::Player,
    population::{House, Viewer, household_of},
};

/// Bytes that may be sent beyond rate times time: the bucket's depth and what is under way.
const UPLOAD_SLACK: u64 = 2 * 1024 * 1024;

/// A viewer, before, during and after its visit.
pub(crate) struct Node {
    pub(crate) viewer: Viewer,
    pub(crate) live: Option<Box<Live>>,
    /// What is left of the player after the visit.
    pub(crate) played: Option<Played>,
}

/// The outcome of a visit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Played {
    pub(crate) startup_us: Option<u64>,
    pub(crate) stalls: u32,
    pub(crate) stalled_us: u64,
    pub(crate) played_us: u64,
    pub(crate) switches: u32,
    pub(crate) skipped: u32,
}

/// The near end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) link: u32,
    pub(crate) node: u32,
    pub(crate) slot: u8,
    pub(crate) up: bool,
    pub(crate) delay_us: u64,
    pub(crate) buffered: u32,
    /// When the last message arrives at the other side: they never overtake each other.
    pub(crate) last_arrival: u64,
}

/// The other viewer that a slot waits for, or the link to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SlotState {
    Free,
    Waiting(PeerId),
    Linked(End),
}

/// Verified pieces in a viewer's store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) id: SegmentId,
    pub(crate) bits: u64,
}

/// Who asked for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Core(FetchId),
    /// The driver itself, for a request that is not the swarm's business.
    Player(RequestId),
}

/// A fetch under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetching {
    pub(crate) id: u32,
    pub(crate) asker: Asker,
    pub(crate) place: Place,
    pub(crate) from: u32,
    pub(crate) len: u32,
    pub(crate) whole: bool,
    pub(crate) got: u32,
    /// Length of the step under way.
    pub(crate) step: u32,
    pub(crate) began: bool,
    pub(crate) since: u64,
    pub(crate) ttfb_us: u64,
    pub(crate) rate_bps: u64,
    pub(crate) fails: bool,
    pub(crate) reason: Reason,
}

/// What a present viewer's driver keeps.
pub(crate) struct Live {
    pub(crate) peer: Peer,
    pub(crate) slots: [SlotState; NEIGHBOURS_MAX],
    pub(crate) store: Vec<Stored>,
    pub(crate) fetches: Vec<Fetching>,
    pub(crate) fetch_count: u32,
    pub(crate) cdn_free: u64,
    pub(crate) player: Player,
    pub(crate) request: Option<(RequestId, u64, u64)>,
    pub(crate) requests: u32,
    pub(crate) rendition: u8,
    pub(crate) believed_bps: u64,
    pub(crate) switches: u32,
    pub(crate) listed: u64,
    pub(crate) wake: u64,
    pub(crate) joined_at: u64,
    pub(crate) sent_bytes: u64,
}

impl Node {
    pub(crate) fn new(options: &Options, index: u32, houses: &[House]) -> Self {
        let house = &houses[household_of(options, index) as usize];
        Self {
            viewer: Viewer::new(options, index, house),
            live: None,
            played: None,
        }
    }

    /// The most that the viewer may have sent by `now`.
    pub(crate) fn upload_max(&self, now: u64) -> u64 {
        let since = self.live.as_ref().map_or(now, |live| live.joined_at);
        let earned = u128::from(now - since) * u128::from(self.viewer.upload_bps) / 8_000_000;
        earned as u64
            + if self.viewer.upload_bps == 0 {
                0
            } else {
                UPLOAD_SLACK
            }
    }
}

impl Live {
    pub(crate) fn end(&mut self, slot: u8, link: u32) -> Option<&mut End> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(SlotState::Linked(end)) if end.link == link => Some(end),
            _ => None,
        }
    }

    pub(crate) fn stored(&self, id: SegmentId) -> u64 {
        self.store
            .iter()
            .rev()
            .find(|s| s.id == id)
            .map_or(0, |s| s.bits)
    }

    /// The store's entry of a segment, made if it is not there.
    pub(crate) fn stored_mut(&mut self, id: SegmentId) -> &mut u64 {
        let found = self.store.iter().rposition(|s| s.id == id);
        let index = found.unwrap_or_else(|| {
            self.store.push(Stored { id, bits: 0 });
            self.store.len() - 1
        });
        &mut self.store[index].bits
    }
}

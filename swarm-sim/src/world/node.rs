//! One viewer in the world: who it is, and what its driver keeps while it watches.

use swarm_core::{
    id::{FetchId, PeerId, RequestId, SegmentId},
    limits::NEIGHBOURS_MAX,
    peer::Peer,
};

use super::{catalog::Place, event::Knock};
use crate::{
    measure::Reason,
    options::Options,
    player::Player,
    population::{House, Viewer},
};

/// The upload cap must hold over this long: as many slots of the second length in microseconds.
const SENT_SLOTS: usize = 40;
const SENT_SLOT_US: u64 = 100_000;

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
    /// Changes to a higher rendition, and to a lower one.
    pub(crate) switches: (u32, u32),
    pub(crate) skipped: u32,
    /// Segments that the player got, and the sum of their bitrates in bit/s.
    pub(crate) media: (u64, u64),
}

/// The near end of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) link: u32,
    /// The number of the other viewer, and its slot.
    pub(crate) node: u32,
    pub(crate) slot: u8,
    pub(crate) up: bool,
    /// Both are of one household.
    pub(crate) is_lan: bool,
    /// Nothing gets through any more.
    pub(crate) is_cut: bool,
    pub(crate) buffered: u32,
    pub(crate) delay_us: u64,
    /// When the last message arrives at the other side: they never overtake each other.
    pub(crate) last_arrival: u64,
    /// Until when the other side's downlink is busy, as far as it has told.
    pub(crate) busy_until: u64,
}

/// The other viewer that a slot waits for, or the link to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SlotState {
    Free,
    /// For whom, and the name of the link that was offered to it, if it was.
    Waiting(PeerId, Option<u32>),
    Linked(End),
}

/// Verified pieces in a viewer's store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) id: SegmentId,
    pub(crate) bits: u64,
    /// How many viewers the segment's probe piece has passed through ([`probe_of`]).
    pub(crate) hop: u8,
}

/// The piece of a segment whose way is followed: each stands for its segment.
pub(crate) const fn probe_of(seq: u64, pieces: u32) -> u8 {
    (seq % pieces as u64) as u8
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
    /// When some of it came last.
    pub(crate) step_at: u64,
    pub(crate) began: bool,
    pub(crate) since: u64,
    pub(crate) ttfb_us: u64,
    pub(crate) rate_bps: u64,
    pub(crate) fails: bool,
    pub(crate) reason: Reason,
}

/// What the player waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    pub(crate) place: Place,
    pub(crate) since: u64,
}

/// When a viewer's timers are set to fire. One that its machine no longer wants stays.
#[derive(Debug)]
pub(crate) struct Wakes {
    first: u64,
    /// When its machine wanted to be woken when it was asked last.
    pub(crate) wanted: u64,
    /// All but the first, the earliest last.
    later: Vec<u64>,
}

/// No timer.
pub(crate) const NEVER: u64 = u64::MAX;

impl Default for Wakes {
    fn default() -> Self {
        Self {
            first: NEVER,
            wanted: NEVER,
            later: Vec::new(),
        }
    }
}

impl Wakes {
    pub(crate) const fn is_any(&self) -> bool {
        self.first != NEVER
    }

    /// Sets a timer unless one fires by then. Whether it did.
    pub(crate) fn set(&mut self, at: u64) -> bool {
        if at >= self.first {
            return false;
        }
        if self.is_any() {
            self.later.push(self.first);
        }
        self.first = at;
        true
    }

    /// The first one fires.
    pub(crate) fn fire(&mut self) {
        self.first = self.later.pop().unwrap_or(NEVER);
    }
}

/// What a viewer knows of its NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    Unknown,
    /// The answers are on their way.
    Asked,
    Known,
}

/// What a present viewer's driver keeps. In the order of its fields in memory: what every event looks at
/// comes first, a line of the caches with the timers, then the machine.
#[repr(C, align(64))]
pub(crate) struct Live {
    pub(crate) wakes: Wakes,
    pub(crate) cdn_free: u64,
    /// When a fetch failed last.
    pub(crate) failed_at: u64,
    pub(crate) hidden: bool,
    pub(crate) mapping: Mapping,
    pub(crate) rendition: u8,
    pub(crate) requests: u32,
    pub(crate) peer: Peer,
    pub(crate) slots: [SlotState; NEIGHBOURS_MAX],
    pub(crate) store: Vec<Stored>,
    pub(crate) fetches: Vec<Fetching>,
    pub(crate) fetch_count: u32,
    /// Offers that came before the tracker's word on who makes them.
    pub(crate) knocks: Vec<Knock>,
    /// Until when the device's own network is busy, sending and receiving.
    pub(crate) lan_free: (u64, u64),
    pub(crate) player: Player,
    pub(crate) asked: Option<Asked>,
    pub(crate) believed_bps: u64,
    pub(crate) switches: (u32, u32),
    pub(crate) media: (u64, u64),
    pub(crate) listed: u64,
    pub(crate) joined_at: u64,
    pub(crate) sent: SentLately,
}

impl Node {
    /// The viewer of this number, who lives in `house`.
    pub(crate) fn new(options: &Options, number: u32, house: &House) -> Self {
        Self {
            viewer: Viewer::new(options, number, house),
            live: None,
            played: None,
        }
    }
}

/// What was sent in the last four seconds.
#[derive(Clone, Debug)]
pub(crate) struct SentLately {
    slots: [u32; SENT_SLOTS],
    newest: u64,
}

impl Default for SentLately {
    fn default() -> Self {
        Self {
            slots: [0; SENT_SLOTS],
            newest: 0,
        }
    }
}

impl SentLately {
    /// Counts `len` bytes; says how many were sent in the span that ends now.
    pub(crate) fn add(&mut self, now: u64, len: u32) -> u64 {
        let newest = now / SENT_SLOT_US;
        for slot in self.newest.max(newest.saturating_sub(SENT_SLOTS as u64)) + 1..=newest {
            self.slots[slot as usize % SENT_SLOTS] = 0;
        }
        self.newest = newest;
        self.slots[newest as usize % SENT_SLOTS] += len;
        self.slots.iter().map(|bytes| u64::from(*bytes)).sum()
    }
}

/// The most that may be sent in that span with a cap of `upload_bps`, in pieces of `len`: a single one
/// may be larger than that. Whoever may send nothing may send no piece either.
pub(crate) fn sent_max(upload_bps: u64, len: u32) -> u64 {
    if upload_bps == 0 {
        return 0;
    }
    let span_us = SENT_SLOTS as u64 * SENT_SLOT_US;
    (upload_bps / 8 * span_us / 1_000_000).max(u64::from(len))
}

impl Live {
    /// The request of this name, if the player still waits for it.
    pub(crate) fn asked(&self, request: RequestId) -> Option<Asked> {
        self.asked.filter(|asked| asked.request == request)
    }

    /// The store's entry of a segment, if there is one.
    pub(crate) fn entry(&mut self, id: SegmentId) -> Option<&mut Stored> {
        self.store.iter_mut().rev().find(|stored| stored.id == id)
    }

    /// The stored pieces of a segment.
    pub(crate) fn stored(&self, id: SegmentId) -> u64 {
        let entry = self.store.iter().rev().find(|stored| stored.id == id);
        entry.map_or(0, |stored| stored.bits)
    }

    /// Makes an entry for a segment whose record has come, if there is none.
    pub(crate) fn store_record(&mut self, id: SegmentId) {
        if self.entry(id).is_none() {
            self.store.push(Stored {
                id,
                bits: 0,
                hop: 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_none_is_set_in_vain() {
        let mut wakes = Wakes::default();
        assert!(!wakes.is_any());
        let set = [50, 60, 30, 30, 40, 10].map(|at| wakes.set(at));
        assert_eq!(set, [true, false, true, false, false, true]);
        wakes.fire();
        assert!(!wakes.set(30), "the one at 30 is still to fire");
        wakes.fire();
        assert!(wakes.set(49) && !wakes.set(50));
        wakes.fire();
        wakes.fire();
        assert!(!wakes.is_any());
    }

    #[test]
    fn a_cap_allows_a_single_piece_and_none_allows_nothing() {
        assert_eq!(sent_max(1_000_000, 65_536), 500_000);
        assert_eq!(sent_max(8, 65_536), 65_536);
        assert_eq!(sent_max(0, 65_536), 0);
    }
}

//! The viewers that this one is linked with.

use alloc::vec::Vec;

use crate::{
    id::{Name, PeerId, SegmentId, Slot, TrackId},
    limits::{NEIGHBOUR_SEGMENTS_MAX, NEIGHBOURS_MAX},
    time::Instant,
    wire::peer::PeerStatus,
};

/// What is known of one segment at one neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) segment: SegmentId,
    /// Pieces that it says it holds.
    pub(super) have: u64,
    /// Pieces that were sent to it.
    pub(super) sent: u64,
    /// Pieces that it asked for and has not been sent.
    pub(super) wants: u64,
    /// It has the record: from here, or it holds pieces.
    pub(super) has_record: bool,
}

/// A promise of a neighbour to bring stripes of a segment, as it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) name: Name,
    pub(super) stripes: u8,
    pub(super) stripe_count: u8,
    pub(super) made: Instant,
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Being set up.
    Connecting,
    /// Open; no hello yet.
    Open,
    /// Both sides know each other.
    Ready,
}

#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    pub(super) slot: Slot,
    pub(super) peer: PeerId,
    pub(super) native: bool,
    /// It sits in another group: it takes no part in this one's division of work.
    pub(super) bridge: bool,
    pub(super) state: LinkState,
    /// When it reached its state.
    pub(super) since: Instant,
    pub(super) heard: Instant,
    pub(super) status: PeerStatus,
    pub(super) remotes: Vec<Remote>,
    /// The last few, oldest first: neighbours hear of segments before this viewer does.
    pub(super) promises: Vec<Promise>,
    /// Bytes that wait in the transport.
    pub(super) buffered: u32,
    pub(super) ping: Option<(u32, Instant)>,
    pub(super) rtt_ms: u16,
    pub(super) rtt_reported: bool,
    /// Broken promises lately: pulls that timed out.
    pub(super) strikes: u8,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// Promises that are remembered of each neighbour.
const PROMISES_MAX: usize = 6;

/// After this many broken promises in a row a neighbour's have-maps are not believed.
pub(super) const STRIKES_MAX: u8 = 3;

impl Neighbour {
    pub(super) fn new(slot: Slot, peer: PeerId, native: bool, now: Instant) -> Self {
        Self {
            slot,
            peer,
            native,
            bridge: false,
            state: LinkState::Connecting,
            since: now,
            heard: now,
            status: PeerStatus::default(),
            remotes: Vec::new(),
            promises: Vec::new(),
            buffered: 0,
            ping: None,
            rtt_ms: 0,
            rtt_reported: false,
            strikes: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == LinkState::Ready
    }

    pub(super) fn plays(&self, track: Option<TrackId>) -> bool {
        self.is_ready() && track.is_some_and(|track| self.status.tracks.contains(&track))
    }

    /// Whether it shares the work on a track's segments: it plays it, and is of the group.
    pub(super) fn shares(&self, track: Option<TrackId>) -> bool {
        !self.bridge && self.plays(track)
    }

    pub(super) fn is_believed(&self) -> bool {
        self.is_ready() && self.strikes < STRIKES_MAX
    }

    pub(super) fn remote(&self, segment: SegmentId) -> Option<&Remote> {
        // The latest segments are asked for most.
        self.remotes
            .iter()
            .rev()
            .find(|remote| remote.segment == segment)
    }

    /// Pieces that it holds, if it is believed.
    pub(super) fn holds(&self, segment: SegmentId) -> u64 {
        match self.remote(segment) {
            Some(remote) if self.is_believed() => remote.have,
            _ => 0,
        }
    }

    /// Remembers a promise; says whether it is the first about this segment, since repeating it
    /// must not put the backups off for ever.
    pub(super) fn on_promise(&mut self, promise: Promise) -> bool {
        if let Some(old) = self
            .promises
            .iter_mut()
            .find(|old| old.name == promise.name)
        {
            if old.stripe_count == promise.stripe_count {
                old.stripes |= promise.stripes;
            }
            return false;
        }
        if self.promises.len() >= PROMISES_MAX {
            self.promises.remove(0);
        }
        self.promises.push(promise);
        true
    }

    /// What is known of a segment at this neighbour; the oldest entry makes room.
    pub(super) fn remote_mut(&mut self, segment: SegmentId) -> &mut Remote {
        let found = self
            .remotes
            .iter()
            .rposition(|remote| remote.segment == segment);
        let index = found.unwrap_or_else(|| {
            if self.remotes.len() >= NEIGHBOUR_SEGMENTS_MAX {
                self.remotes.remove(0);
            }
            self.remotes.push(Remote {
                segment,
                have: 0,
                sent: 0,
                wants: 0,
                has_record: false,
            });
            self.remotes.len() - 1
        });
        &mut self.remotes[index]
    }
}

/// All links, by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    list: Vec<Neighbour>,
    /// Changes whenever the set of possible seeders does.
    view: u32,
}

impl Neighbours {
    pub(super) fn heap_bytes(&self) -> usize {
        let of = |n: &Neighbour| {
            n.remotes.capacity() * size_of::<Remote>()
                + n.promises.capacity() * size_of::<Promise>()
                + n.status.tracks.capacity() * size_of::<TrackId>()
        };
        self.list.capacity() * size_of::<Neighbour>() + self.list.iter().map(of).sum::<usize>()
    }

    pub(super) fn iter(&self) -> core::slice::Iter<'_, Neighbour> {
        self.list.iter()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Neighbour> {
        self.list.iter().find(|neighbour| neighbour.slot == slot)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Neighbour> {
        self.list
            .iter_mut()
            .find(|neighbour| neighbour.slot == slot)
    }

    pub(super) fn by_peer(&self, peer: PeerId) -> Option<&Neighbour> {
        self.list.iter().find(|neighbour| neighbour.peer == peer)
    }

    /// Takes a free slot for a new link; `None` if all are taken.
    pub(super) fn add(&mut self, peer: PeerId, native: bool, now: Instant) -> Option<Slot> {
        let is_free = |slot: &u8| self.get(Slot(*slot)).is_none();
        let slot = Slot((0..NEIGHBOURS_MAX as u8).find(is_free)?);
        self.list.push(Neighbour::new(slot, peer, native, now));
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Neighbour> {
        let index = self
            .list
            .iter()
            .position(|neighbour| neighbour.slot == slot)?;
        self.touch_view();
        Some(self.list.remove(index))
    }

    pub(super) const fn view(&self) -> u32 {
        self.view
    }

    pub(super) const fn touch_view(&mut self) {
        self.view = self.view.wrapping_add(1) & (u32::MAX >> 1);
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = &Neighbour> + Clone {
        self.list.iter().filter(|neighbour| neighbour.is_ready())
    }

    /// Those who may seed segments of a track, with their weights.
    pub(super) fn seeders(
        &self,
        track: Option<TrackId>,
    ) -> impl Iterator<Item = (PeerId, u16)> + Clone {
        let shares = move |neighbour: &&Neighbour| neighbour.shares(track);
        self.list
            .iter()
            .filter(shares)
            .map(|n| (n.peer, n.status.weight))
            .filter(|(_, w)| *w > 0)
    }

    /// Forgets what was known of a segment.
    pub(super) fn forget_segment(&mut self, segment: SegmentId) {
        for neighbour in &mut self.list {
            neighbour.remotes.retain(|remote| remote.segment != segment);
        }
    }

    /// Whether anybody waits for pieces that it asked for.
    pub(super) fn any_wants(&self) -> bool {
        let wants = |n: &Neighbour| n.remotes.iter().any(|remote| remote.wants != 0);
        self.list.iter().any(wants)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready().count()
    }
}

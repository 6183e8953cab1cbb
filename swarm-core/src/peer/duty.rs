//! What a viewer does for one segment, and what is under way to get it.

use alloc::{boxed::Box, vec::Vec};

use super::pulls::{Pull, Recall};
use crate::{
    id::{RequestId, Slot},
    limits::STRIPES_MAX,
    time::{Instant, Moment},
};

/// A request of the player that waits for its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) since: Instant,
    /// When the player runs dry without it.
    pub(super) deadline: Instant,
    /// Media that the player takes at a time while the segment arrives; 0 if it waits for all of it.
    pub(super) grain_ms: u32,
    /// Pieces that it was handed.
    pub(super) released: u8,
}

/// A neighbour has said that it fetches these pieces and will push them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) slot: Slot,
    /// Some of it has come.
    pub(super) kept: bool,
    /// Believed until then; moved on by every piece that keeps the promise.
    pub(super) until: Moment,
    pub(super) bits: u64,
    /// Those of them that this viewer passes on to everybody when they come from that neighbour: from
    /// another one they come to everybody already.
    pub(super) mine: u64,
}

/// What a viewer does for a segment that is not whole, or to be passed on.
#[derive(Clone, Debug)]
pub(super) struct Duty {
    /// Verified pieces in the store.
    pub(super) have: u64,
    pub(super) known_at: Instant,
    /// When its plan may change by itself.
    pub(super) plan_at: Option<Instant>,
    /// Pieces that this viewer passes on to everybody, as whoever brings them into the group says.
    pub(super) mine: u64,
    /// Those of them that are there and still to be sent to somebody.
    pub(super) seeded: u64,
    /// Pieces that this viewer brings into the group.
    pub(super) brought: u64,
    /// The same, each with the slot of the one who passes it on.
    pub(super) handed: Vec<(u8, Slot)>,
    /// How it is got. Goes when it is whole, while what is above may last for some segments more.
    pub(super) work: Option<Box<Work>>,
    /// Media ahead of the playhead at `known_at`, in milliseconds: about how long this viewer can
    /// do without the segment.
    pub(super) window_ms: u32,
    /// Parts of the segment of which the bridges have heard.
    pub(super) bridged: u8,
    /// Something that plans look at has changed since the last one.
    pub(super) stale: bool,
    /// No record vouches for it: the CDN's alone.
    pub(super) cdn_only: bool,
}

impl Duty {
    /// Nothing at all.
    pub(super) const NONE: Self = Self {
        have: 0,
        known_at: Instant::ORIGIN,
        plan_at: None,
        mine: 0,
        seeded: 0,
        brought: 0,
        handed: Vec::new(),
        work: None,
        window_ms: 0,
        bridged: 0,
        stale: false,
        cdn_only: false,
    };

    /// The slots, a bit each, of those who are handed something.
    pub(super) fn passers(&self) -> u32 {
        let bit = |slot: Slot| 1u32.checked_shl(slot.0.into()).unwrap_or(0);
        let slots = self.handed.iter().map(|(_, slot)| bit(*slot));
        slots.fold(0, |slots, slot| slots | slot)
    }

    /// The link in `slot` is gone: what was handed to it goes to everybody, if it is there.
    pub(super) fn forget_slot(&mut self, slot: Slot) {
        let (have, mine, seeded) = (self.have, &mut self.mine, &mut self.seeded);
        self.handed.retain(|(piece, passer)| {
            let lost = if *passer == slot { 1 << piece } else { 0 };
            *mine |= lost;
            *seeded |= lost & have;
            lost == 0
        });
    }

    /// The segment's content is known, or another one than before (`is_other`).
    pub(super) fn on_content(&mut self, is_other: bool) {
        (self.have, self.stale) = (0, true);
        self.seeded = 0;
        self.handed.clear();
        if is_other {
            self.mine = 0;
        }
        if let Some(work) = &mut self.work {
            work.on_content(is_other);
        }
    }

    /// The segment lies behind, and is whole.
    pub(super) fn stop(&mut self) {
        (self.mine, self.seeded, self.brought) = (0, 0, 0);
        (self.handed, self.work) = (Vec::new(), None);
    }

    /// Nothing of it matters, if the segment is whole.
    pub(super) fn is_idle(&self) -> bool {
        let passes_on = self.mine | self.seeded | self.brought != 0 || !self.handed.is_empty();
        !passes_on && self.work.is_none() && self.plan_at.is_none() && !self.cdn_only
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let work = self.work.as_deref().map_or(0, Work::heap_bytes);
        size_of::<Self>() + self.handed.capacity() * size_of::<(u8, Slot)>() + work
    }
}

/// What is under way to get a segment: who waits for it, and who is to bring it.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) requests: Vec<Request>,
    /// When the first piece came, in milliseconds after `known_at`.
    pub(super) began_ms: Option<u32>,
    pub(super) claims: Vec<Claim>,
    /// The slots, a bit each, of those who have broken a promise about it.
    pub(super) struck: u32,
    /// Missing pieces that a neighbour is to push here, each with the neighbour's slot; one for a piece.
    pub(super) pushers: Vec<(u8, Slot)>,
    /// What bridges bring into their groups.
    pub(super) upstream: Vec<(Slot, u64)>,
    pub(super) pulls: Vec<Pull>,
    pub(super) recalled: Recall,
    /// This viewer's place in the order of seeders for each stripe, and for which view of the
    /// group and how many stripes it was computed.
    pub(super) ranks: [u8; STRIPES_MAX as usize],
    pub(super) ranks_for: (u32, u32),
    /// What was drawn for the group, for each stripe: the least, of 256, begin.
    pub(super) draws: [u8; STRIPES_MAX as usize],
    /// When each stripe was first seen at a bridge, in milliseconds after `known_at`, and 1 more.
    pub(super) seen_ms: [u16; STRIPES_MAX as usize],
    /// When it was planned last.
    pub(super) planned_at: Instant,
    pub(super) fetch_failures: u8,
    /// No fetch before then, after a failed one.
    pub(super) fetch_not_before: Option<Instant>,
}

impl Work {
    pub(super) const NONE: Self = Self {
        requests: Vec::new(),
        began_ms: None,
        claims: Vec::new(),
        struck: 0,
        pushers: Vec::new(),
        upstream: Vec::new(),
        pulls: Vec::new(),
        recalled: Recall::NONE,
        ranks: [super::rendezvous::NEVER; STRIPES_MAX as usize],
        ranks_for: (u32::MAX, 0),
        draws: [0; STRIPES_MAX as usize],
        seen_ms: [0; STRIPES_MAX as usize],
        planned_at: Instant::ORIGIN,
        fetch_failures: 0,
        fetch_not_before: None,
    };

    /// The segment's content is known, or another one than before (`is_other`).
    fn on_content(&mut self, is_other: bool) {
        if is_other {
            // What was promised was the other content.
            self.claims.clear();
            self.pushers.clear();
            self.upstream.clear();
        }
        self.pulls.clear();
        self.ranks_for = (u32::MAX, 0);
    }

    /// A neighbour has promised something; few do for one segment.
    pub(super) fn add_claim(&mut self, claim: Claim) {
        self.claims.reserve_exact(1);
        self.claims.push(claim);
    }

    /// The link in `slot` is gone, by `now`.
    pub(super) fn forget_slot(&mut self, slot: Slot, now: Instant) {
        self.pulls.retain(|pull| pull.slot != slot);
        for claim in self.claims.iter_mut().filter(|claim| claim.slot == slot) {
            claim.until = claim.until.get().min(now).into();
            // The slot may be given to somebody who has promised nothing.
            claim.slot = Slot(u8::MAX);
        }
        self.pushers.retain(|(_, pusher)| *pusher != slot);
        self.upstream.retain(|(bridge, _)| *bridge != slot);
    }

    /// Those whom `which` accepts are no longer asked for these pieces.
    pub(super) fn ask_no_more(&mut self, bits: u64, which: impl Fn(&Pull) -> bool) {
        for pull in self.pulls.iter_mut().filter(|pull| which(pull)) {
            pull.bits &= !bits;
        }
        self.pulls.retain(|pull| pull.bits != 0);
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Self>()
            + self.requests.capacity() * size_of::<Request>()
            + self.claims.capacity() * size_of::<Claim>()
            + self.pulls.capacity() * size_of::<Pull>()
            + self.upstream.capacity() * size_of::<(Slot, u64)>()
            + self.pushers.capacity() * size_of::<(u8, Slot)>()
    }
}

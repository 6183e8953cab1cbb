//! What this viewer tells of itself, unasked: status and have-maps to neighbours, reports to the
//! tracker; and looking after links and pulls.

use alloc::vec::Vec;

use super::{
    Peer,
    io::Outbox,
    links::LINK_CHECK_MS,
    neighbour::{Neighbour, Told},
    neighbours::slots_of,
    plan,
    policy::CloseReason,
    segment::{BRIDGES, GROUP, Segment},
    tracker_link::{Reported, send},
};
use crate::{
    id::{Slot, TrackId},
    limits::HAVE_ENTRIES_MAX,
    time::Instant,
    wire::{
        peer::{PeerMsg, PeerStatus, Pieces},
        tracker::{LinkOutcome, Nat, Status, ViewerMsg},
    },
};

/// How long news for bridges are gathered.
const BRIDGE_BATCH_MS: u64 = 50;
/// Kilobits per second of upload that one unit of weight stands for.
pub(super) const WEIGHT_KBPS: u64 = 100;

impl Peer {
    /// What neighbours should know of this viewer now.
    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            weight: self.weight(),
            buffer_ms: self.buffer_ms().min(u64::from(u32::MAX)) as u32,
            tracks: self.pushed_tracks().to_vec(),
        }
    }

    /// The tracks that neighbours should push.
    pub(super) fn pushed_tracks(&self) -> &[TrackId] {
        if !self.may_be_pushed() {
            &[]
        } else {
            self.tracks.ids()
        }
    }

    /// Its share of the seeding.
    pub(super) fn weight(&self) -> u16 {
        if self.is_paused() || self.player.careful || !self.has_begun() {
            return 0;
        }
        let weight = self.allowance.rate_bps() / (1000 * WEIGHT_KBPS);
        let weight = self.demand.rest_of(weight);
        let least = u64::from(self.allowance.is_open());
        if self.nat == Nat::Symmetric {
            // Most of the group cannot reach it: others are better at passing things on.
            return (weight / 4).clamp(least, u64::from(u16::MAX)) as u16;
        }
        weight.clamp(least, u64::from(u16::MAX)) as u16
    }

    /// Tells neighbours of a changed status at once: their order of seeders depends on it.
    pub(super) fn announce_status(&mut self, out: &mut Outbox) {
        if (self.weight(), self.pushed_tracks()) != self.announced.words() {
            let status = self.status();
            self.pushed_from = match status.tracks.as_slice() {
                [] => None,
                _ => self.pushed_from.or(Some(self.now)),
            };
            self.announced = Told::of(&status);
            self.touch_view();
            // Those that have not greeted yet have been: what their greeting said holds no more.
            for slot in self.greeted() {
                self.send(slot, &PeerMsg::Status(status.clone()), out);
            }
        }
    }

    /// Sends the have-maps that have changed, batched: to the group now and then, and when a segment
    /// is whole; to bridges when a part of it begins, since what follows they get without asking.
    pub(super) fn announce_haves(&mut self, out: &mut Outbox) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let (group_due, bridges_due) = (is_due(self.announce_at), is_due(self.bridge_at));
        if bridges_due {
            self.bridge_at = None;
            self.send_haves(true, out);
        }
        if group_due {
            self.announce_at = None;
            self.send_haves(false, out);
        }
    }

    fn send_haves(&mut self, to_bridges: bool, out: &mut Outbox) {
        let mut entries = Vec::new();
        let bridges = self.neighbours.bridge_slots();
        let (whom, theirs) = match to_bridges {
            true => (BRIDGES, bridges),
            false => (GROUP, !bridges),
        };
        let audience = self.neighbours.ready_slots() & theirs;
        let (mut wholes, mut lacking) = (Vec::new(), 0);
        for segment in &mut self.segments {
            let (true, Some(id)) = (segment.take_news(whom), segment.id()) else {
                continue;
            };
            if !segment.has_record {
                continue;
            }
            let entry = Pieces {
                segment: id,
                bits: segment.have(),
            };
            let row = self.remotes.row(id);
            let lacks = |slot: &Slot| {
                let have = row.map_or(0, |row| row.have(*slot));
                segment.have() & !have != 0
            };
            let told = slots_of(audience).filter(lacks);
            lacking |= told.fold(0, |slots, slot| slots | 1 << slot.0);
            if segment.is_complete() {
                wholes.push(entry);
            }
            entries.push(entry);
        }
        for entries in entries.chunks(HAVE_ENTRIES_MAX) {
            let message = PeerMsg::Have(entries.to_vec());
            self.send_to(&message, |n| lacking >> n.slot.0 & 1 == 1, out);
        }
        for entries in wholes.chunks(HAVE_ENTRIES_MAX).filter(|_| !to_bridges) {
            let message = PeerMsg::Have(entries.to_vec());
            self.send_to(&message, |n| bridges >> n.slot.0 & 1 == 1, out);
        }
    }

    /// Whether what has come should be told to bridges soon: a part of the segment has begun.
    pub(super) fn note_for_bridges(&mut self, index: usize, bits: u64) {
        let segment = &mut self.segments[index];
        let pieces = segment.full().count_ones().max(1);
        let (mut parts, mut rest) = (0u8, bits);
        while rest != 0 {
            let piece = rest.trailing_zeros();
            rest &= rest - 1;
            parts |= 1 << (piece * u8::BITS / pieces).min(u8::BITS - 1);
        }
        let news = parts & !segment.duty().bridged;
        if news != 0 && segment.fresh && self.neighbours.bridge_slots() != 0 {
            segment.duty_mut().bridged |= news;
            segment.news |= BRIDGES;
            let at = self.now.plus_ms(BRIDGE_BATCH_MS);
            self.bridge_at.get_or_insert(at);
        }
    }

    /// Looks after links: set-up time, silence, pings.
    pub(super) fn check_links(&mut self, out: &mut Outbox) {
        if self.link_check_at.is_none_or(|at| at > self.now) {
            return;
        }
        let now = self.now;
        let (setup_ms, silence_ms) = (
            u64::from(self.policy.link_setup_ms_max),
            u64::from(self.policy.link_silence_ms_max),
        );
        for slot in self.slots(|n| !n.is_ready() && now.ms_since(n.since.get()) >= setup_ms) {
            if let Some(neighbour) = self.neighbours.get(slot) {
                self.report_link(neighbour.peer, LinkOutcome::Failed, 0, out);
            }
            self.close(slot, CloseReason::SetupTimeout, out);
        }
        for slot in self.slots(|n| n.is_ready() && now.ms_since(n.heard.get()) >= silence_ms) {
            if let Some(neighbour) = self.neighbours.get(slot) {
                self.report_link(neighbour.peer, LinkOutcome::Lost, 0, out);
            }
            self.close(slot, CloseReason::Silent, out);
        }
        for slot in self.slots(|n| n.is_ready() && n.is_ping_due(now)) {
            self.ping(slot, out);
        }
        self.forgive();
        let has_links = self.neighbours.iter().next().is_some();
        self.link_check_at = has_links.then(|| now.plus_ms(LINK_CHECK_MS));
    }

    /// Reports to the tracker when it is due.
    pub(super) fn report_status(&mut self, out: &mut Outbox) {
        if !self.tracker.take_status_due(self.now) {
            return;
        }
        let links = self.neighbours.ready_count().min(usize::from(u8::MAX)) as u8;
        let paused = self.is_paused();
        let mut status = Status {
            track: self.main_track(),
            buffer_ms: self.buffer_ms().min(u64::from(u32::MAX)) as u32,
            lag_ms: self.player.lag_ms,
            links,
            links_wanted: self.links_target.saturating_sub(links),
            upload_kbps: if paused { 0 } else { self.upload_kbps() },
            nat: self.nat,
            ..Status::default()
        };
        let totals = Reported {
            bytes_p2p: self.stats.bytes_p2p,
            bytes_cdn: self.stats.bytes_cdn,
            bytes_up: self.stats.bytes_up,
            stalls: self.stats.stalls,
            stalled_ms: self.stats.stalled_ms,
        };
        self.reported.advance(totals, &mut status);
        send(&ViewerMsg::Status(status), out);
    }

    /// How many pieces this viewer may have asked for at the same time when it asks for some of the
    /// segment at `index`. A thin downlink is for what the player waits for, then for what comes next, and
    /// not for what lies behind.
    pub(super) fn pulls_max(&self, index: usize) -> u32 {
        if !self.player.careful {
            return u32::MAX;
        }
        let segment = &self.segments[index];
        let is_later = |s: &Segment| s.track() == segment.track() && s.seq > segment.seq;
        let mut wanted = self.segments.iter().filter(|s| s.is_wanted());
        let is_short = self.buffer_ms() < plan::CAREFUL_AHEAD_MS_MIN;
        if !segment.is_wanted() && (is_short || wanted.any(is_later)) {
            return 0;
        }
        plan::CAREFUL_PULLS_MAX
    }

    /// How many pieces neighbours were asked for and still owe.
    pub(super) fn outstanding_all(&self) -> u32 {
        let pulls = self
            .segments
            .iter()
            .flat_map(|segment| &segment.work().pulls);
        pulls.map(|pull| pull.bits.count_ones()).sum()
    }

    /// How many pieces a neighbour was asked for and still owes.
    pub(super) fn outstanding(&self, slot: Slot) -> u32 {
        let pulls = self
            .segments
            .iter()
            .flat_map(|segment| &segment.work().pulls);
        pulls
            .filter(|pull| pull.slot == slot)
            .map(|pull| pull.bits.count_ones())
            .sum()
    }

    fn forgive(&mut self) {
        let now = self.now;
        for slot in self.slots(Neighbour::is_ready) {
            let neighbour = self.neighbours.get_mut(slot);
            if neighbour.is_some_and(|n| n.forgive(now)) {
                self.touch_view();
            }
        }
    }
}

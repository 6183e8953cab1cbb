//! What this viewer tells of itself, unasked: status and have-maps to neighbours, reports to the
//! tracker; and looking after links and pulls.

use alloc::vec::Vec;

use super::{
    Peer,
    io::{Action, Outbox},
    links::LINK_CHECK_MS,
    neighbour::Neighbour,
    plan,
    policy::CloseReason,
    tracker_link::{Reported, send},
};
use crate::{
    id::{Slot, TrackId},
    limits::HAVE_ENTRIES_MAX,
    wire::{
        peer::{PeerMsg, PeerStatus, Pieces},
        tracker::{LinkOutcome, Status, ViewerMsg},
    },
};

/// Kilobits per second of upload that one unit of weight stands for.
const WEIGHT_KBPS: u64 = 100;

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
        if self.player.careful {
            &[]
        } else {
            self.tracks.ids()
        }
    }

    /// Its share of the seeding.
    pub(super) fn weight(&self) -> u16 {
        if self.is_paused() || self.player.careful {
            return 0;
        }
        let weight = self.bucket.rate_bps() / (1000 * WEIGHT_KBPS);
        let least = u64::from(self.bucket.is_open());
        weight.clamp(least, u64::from(u16::MAX)) as u16
    }

    /// Tells neighbours of a changed status at once: their order of seeders depends on it.
    pub(super) fn announce_status(&mut self, out: &mut Outbox) {
        let old = &self.announced_status;
        if (self.weight(), self.pushed_tracks()) != (old.weight, &old.tracks) {
            let status = self.status();
            self.announced_status = status.clone();
            self.touch_view();
            self.send_all(&PeerMsg::Status(status), out);
        }
    }

    /// Sends the have-maps that have changed, batched.
    pub(super) fn announce_haves(&mut self, out: &mut Outbox) {
        if self.announce_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.announce_at = None;
        let mut entries = Vec::new();
        for segment in self.segments.iter_mut().filter(|s| s.unannounced) {
            segment.unannounced = false;
            if let (Some(id), true) = (segment.id(), segment.has_record) {
                entries.push(Pieces {
                    segment: id,
                    bits: segment.have,
                });
            }
        }
        for entries in entries.chunks(HAVE_ENTRIES_MAX) {
            self.send_haves(entries.to_vec(), out);
        }
    }

    /// Sends have-maps to those who may need them: not to who holds all of the segments itself.
    pub(super) fn send_haves(&mut self, entries: Vec<Pieces>, out: &mut Outbox) {
        let full = |id| {
            let known = self.segments.iter().find(|s| s.id() == Some(id));
            known.map_or(u64::MAX, super::Segment::full)
        };
        let wholes: Vec<(crate::id::SegmentId, u64)> = entries
            .iter()
            .map(|e| (e.segment, full(e.segment)))
            .collect();
        let needs = |n: &&Neighbour| wholes.iter().any(|(id, whole)| n.holds(*id) != *whole);
        let message = PeerMsg::Have(entries);
        let frame = out.write(|bytes| message.encode(bytes));
        for neighbour in self.neighbours.ready().filter(needs) {
            out.push(Action::SendFrame {
                slot: neighbour.slot,
                frame: frame.clone(),
            });
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
        for slot in self.slots(|n| !n.is_ready() && now.ms_since(n.since) >= setup_ms) {
            if let Some(neighbour) = self.neighbours.get(slot) {
                self.report_link(neighbour.peer, LinkOutcome::Failed, 0, out);
            }
            self.close(slot, CloseReason::SetupTimeout, out);
        }
        for slot in self.slots(|n| n.is_ready() && now.ms_since(n.heard) >= silence_ms) {
            if let Some(neighbour) = self.neighbours.get(slot) {
                self.report_link(neighbour.peer, LinkOutcome::Lost, 0, out);
            }
            self.close(slot, CloseReason::Silent, out);
        }
        for slot in self.slots(Neighbour::is_ready) {
            self.ping(slot, out);
        }
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

    /// How many pieces this viewer may have asked for at the same time.
    pub(super) fn pulls_max(&self) -> u32 {
        if self.player.careful {
            plan::CAREFUL_PULLS_MAX
        } else {
            u32::MAX
        }
    }

    /// How many pieces neighbours were asked for and still owe.
    pub(super) fn outstanding_all(&self) -> u32 {
        let pulls = self.segments.iter().flat_map(|segment| &segment.pulls);
        pulls.map(|pull| pull.bits.count_ones()).sum()
    }

    /// How many pieces a neighbour was asked for and still owes.
    pub(super) fn outstanding(&self, slot: Slot) -> u32 {
        let pulls = self.segments.iter().flat_map(|segment| &segment.pulls);
        pulls
            .filter(|pull| pull.slot == slot)
            .map(|pull| pull.bits.count_ones())
            .sum()
    }

    /// Forgets pulls that took too long, and remembers who owes them.
    pub(super) fn expire_pulls(&mut self) {
        let now = self.now;
        let (segments, neighbours) = (&mut self.segments, &mut self.neighbours);
        for segment in segments.iter_mut() {
            segment.pulls.retain(|pull| {
                let late = now.ms_since(pull.asked) >= plan::PULL_TIMEOUT_MS;
                if let (true, Some(neighbour)) = (late, neighbours.get_mut(pull.slot)) {
                    neighbour.strikes = neighbour.strikes.saturating_add(1);
                }
                !late
            });
        }
    }
}

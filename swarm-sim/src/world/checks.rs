//! What must always be true. Cheap checks are made at every step; the comparison of whole messages
//! with the store at one in [`Part::audit_every`].

use swarm_core::{
    id::{RequestId, SegmentId},
    limits::{FETCHES_MAX, NEIGHBOURS_MAX, PEER_FRAME_LEN_MAX, TRACKER_FRAME_LEN_MAX},
    wire::peer::PeerMsg,
};

use super::{
    catalog::pieces_below,
    network::holds,
    node::{Asker, SlotState, Stored, sent_max},
    part::Part,
};
use crate::measure::Metrics;

/// Most bytes of core state for one viewer, whatever happens to it.
const CORE_BYTES_MAX: u64 = 96 * 1024;
/// A request that waits longer than this has been forgotten.
const FORGOTTEN_US: u64 = 40_000_000;
/// Small audiences have every message compared with the store, larger ones one in so many.
const AUDIT_EVERY: u64 = 64;
const AUDITED_BELOW: u32 = 200;
/// A timer may be late by as much: machines do not wake up more often than every 5 ms, and hidden
/// tabs once a second.
const LATE_US: u64 = 10_000;
const LATE_HIDDEN_US: u64 = 1_000_000;
/// After a fetch that failed the next one may wait as long.
const RETRY_US: u64 = 2_000_000;

/// The machine's state is bounded.
pub(super) fn check_memory(metrics: &mut Metrics, now: u64, node: usize, bytes: u64) {
    if bytes > CORE_BYTES_MAX {
        metrics.on_problem(now, || {
            format!("viewer {node}: {bytes} bytes of core state")
        });
    }
}

impl Part {
    /// One control message in so many is compared with the store.
    pub(super) fn audit_every(&self) -> u64 {
        if self.options.viewers < AUDITED_BELOW {
            1
        } else {
            AUDIT_EVERY
        }
    }

    fn broken(&mut self, node: u32, what: &dyn Fn() -> String) {
        let number = self.number(node);
        self.metrics
            .on_problem(self.now, || format!("viewer {number} {}", what()));
    }

    /// Nothing is relayed that was not verified and stored.
    pub(super) fn check_relay(&mut self, node: u32, stored: Option<Stored>, piece: u8) {
        if !holds(stored, piece) {
            self.broken(node, &|| {
                "relays a piece that it has not verified".to_owned()
            });
        }
    }

    /// Nobody uploads beyond its cap: not within any four seconds.
    pub(super) fn check_upload(&mut self, node: u32, len: u32) {
        let now = self.now;
        let entry = &mut self.nodes[node as usize];
        let most = sent_max(entry.viewer.upload_bps, len);
        let Some(live) = &mut entry.live else { return };
        let sent = live.sent.add(now, len);
        if sent > most {
            self.broken(node, &|| {
                format!("uploaded {sent} bytes in four seconds, its cap allows {most}")
            });
        }
    }

    /// No more fetches and links than the limits say.
    pub(super) fn check_quotas(&mut self, node: u32) {
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let of_core = |asker: &Asker| matches!(asker, Asker::Core(_));
        let fetches = live.fetches.iter().filter(|f| of_core(&f.asker)).count();
        if fetches > FETCHES_MAX {
            self.broken(node, &|| format!("has {fetches} fetches under way"));
        }
    }

    /// Messages fit the wire's limits; have-maps say what is stored.
    pub(super) fn check_frame(&mut self, node: u32, bytes: &[u8]) {
        if bytes.len() > PEER_FRAME_LEN_MAX {
            self.broken(node, &|| {
                format!("sends a message of {} bytes", bytes.len())
            });
        }
        if !self.events().is_multiple_of(self.audit_every()) {
            return;
        }
        self.metrics.audits += 1;
        match PeerMsg::decode(bytes) {
            Ok(PeerMsg::Have(entries)) => {
                let Some(live) = &self.nodes[node as usize].live else {
                    return;
                };
                let lie = entries
                    .iter()
                    .any(|entry| entry.bits & !live.stored(entry.segment) != 0);
                if lie {
                    self.broken(node, &|| "announces what it has not".to_owned());
                }
            }
            Ok(_) => {}
            Err(error) => self.broken(node, &|| format!("sends a malformed message: {error}")),
        }
    }

    pub(super) fn check_tracker_frame(&mut self, node: u32, bytes: &[u8]) {
        if bytes.len() > TRACKER_FRAME_LEN_MAX {
            let len = bytes.len();
            self.broken(node, &|| format!("sends {len} bytes to the tracker"));
        }
    }

    /// What is handed to a player is the segment it asked for, whole and verified.
    pub(super) fn check_delivery(&mut self, node: u32, request: RequestId, id: SegmentId) {
        let segment = self.catalog.by_id(id);
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let Some((_, seq, _)) = live.request.filter(|r| r.0 == request) else {
            return;
        };
        let right = segment
            .is_some_and(|segment| segment.place.seq() == seq && live.stored(id) == segment.full());
        if !right {
            self.metrics.bad_pieces_played += 1;
            self.broken(node, &|| "plays what is not verified".to_owned());
        }
    }

    /// What a player is handed of a segment that it plays while it arrives is verified, and what it asked for.
    pub(super) fn check_release(
        &mut self,
        node: u32,
        request: RequestId,
        id: SegmentId,
        pieces: u8,
    ) {
        let Some(segment) = self.catalog.by_id(id) else {
            return;
        };
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let Some((_, seq, _)) = live.request.filter(|r| r.0 == request) else {
            return;
        };
        let missing = pieces_below(pieces.into()) & segment.full() & !live.stored(id);
        if segment.place.seq() != seq || missing != 0 {
            self.metrics.bad_pieces_played += 1;
            self.broken(node, &|| "plays what is not verified".to_owned());
        }
    }

    /// Every missing byte of what the player waits for has a live source, or a timer that goes off
    /// before the player runs dry.
    pub(super) fn check_waiting(&mut self, node: u32) {
        let now = self.now;
        let entry = &self.nodes[node as usize];
        let Some(live) = &entry.live else { return };
        let Some((_, _, asked_at)) = live.request else {
            return;
        };
        if now - asked_at > FORGOTTEN_US {
            return self.broken(node, &|| {
                format!("waits for {} s", (now - asked_at) / 1_000_000)
            });
        }
        if !live.fetches.is_empty() || now < live.failed_at + RETRY_US {
            return;
        }
        let late_us = if entry.viewer.hidden {
            LATE_HIDDEN_US
        } else {
            LATE_US
        };
        let dry_at = now + live.player.buffer_us() + late_us;
        let Some(wakeup) = live.peer.next_wakeup() else {
            return self.broken(node, &|| "waits for nothing".to_owned());
        };
        if wakeup.at.as_micros() > dry_at || live.wakes.is_empty() {
            let at_s = wakeup.at.as_micros().saturating_sub(now) as f64 / 1e6;
            self.broken(node, &|| {
                format!("would look after a request in {at_s} s only")
            });
        }
    }

    /// Links are within the limit, and each is to a different viewer.
    pub(super) fn check_links(&mut self, node: u32) {
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let mut seen = [u32::MAX; NEIGHBOURS_MAX];
        let mut twice = false;
        for (at, state) in live.slots.iter().enumerate() {
            if let SlotState::Linked(end) = state {
                twice |= seen[..at].contains(&end.node);
                seen[at] = end.node;
            }
        }
        if twice {
            self.broken(node, &|| "is linked twice with the same viewer".to_owned());
        }
    }
}

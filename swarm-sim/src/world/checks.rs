//! What must always be true. Cheap checks are made at every step; the comparison of whole messages
//! with the store at one in [`Part::audit_every`].

use swarm_core::{
    id::{RequestId, SegmentId},
    limits::{FETCHES_MAX, NEIGHBOURS_MAX, PEER_FRAME_LEN_MAX, TRACKER_FRAME_LEN_MAX},
    peer::Payload,
    timeline::Content,
    wire::peer::PeerMsg,
};

use super::{
    catalog::{Segment, pieces_below},
    letters::local_of,
    network::holds,
    node::{Asked, Asker, Fetching, Live, SlotState, Stored, sent_max},
    part::Part,
};
use crate::measure::Metrics;

/// Most bytes of core state for one viewer, whatever happens to it.
const CORE_BYTES_MAX: u64 = 64 * 1024;
/// A request that waits longer than this has been forgotten; not so if its bytes are coming over a line that
/// does not carry what the viewers of the house watch, as long as some have come in the time below.
const FORGOTTEN_US: u64 = 40_000_000;
const PROGRESS_US: u64 = 10_000_000;
/// Small audiences have every message compared with the store, larger ones one in so many.
const AUDIT_EVERY: u64 = 64;
const AUDITED_BELOW: u32 = 200;
/// A timer may be late by as much: machines do not wake up more often than every 5 ms, plans that are late
/// already look again after 60 ms, and hidden tabs once a second.
const LATE_US: u64 = 100_000;
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

    /// No more fetches than the limit says.
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

    /// What is handed to a player is the segment it asked for, whole and verified. In this world every
    /// segment has its record: nothing else is there to be played.
    pub(super) fn check_delivery(&mut self, node: u32, request: RequestId, payload: &Payload) {
        let Some(live) = &self.nodes[node as usize].live else {
            return;
        };
        let Some(asked) = live.asked(request) else {
            return;
        };
        let right = match payload {
            Payload::Fetch(_) => false,
            Payload::Segment(id) => self.catalog.by_id(*id).is_some_and(|segment| {
                segment.place == asked.place && live.stored(*id) == segment.full()
            }),
        };
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
        let Some(asked) = live.asked(request) else {
            return;
        };
        let missing = pieces_below(pieces.into()) & segment.full() & !live.stored(id);
        if segment.place != asked.place || missing != 0 {
            self.metrics.bad_pieces_played += 1;
            self.broken(node, &|| "plays what is not verified".to_owned());
        }
    }

    /// Every missing byte of what the player waits for is being fetched, or was asked of somebody, or its plan is
    /// looked at again before the last moment at which the CDN could still be asked for it in time.
    pub(super) fn check_waiting(&mut self, node: u32) {
        let now = self.now;
        let entry = &self.nodes[node as usize];
        let Some(live) = &entry.live else { return };
        let Some(asked) = live.asked else { return };
        let Some(segment) = self.catalog.known(asked.place) else {
            return;
        };
        if live.fetches.len() >= FETCHES_MAX || now < live.failed_at + RETRY_US {
            return;
        }
        let late_us = if entry.viewer.hidden {
            LATE_HIDDEN_US
        } else {
            LATE_US
        };
        let dry_at = now + live.player.buffer_us();
        let latest = dry_at.saturating_sub(entry.viewer.cdn_rtt_us).max(now);
        let latest = (latest + late_us, now + self.options.segment_us() + late_us);
        if let Err(what) = looked_after(live, &asked, segment, latest) {
            let left_s = (dry_at - now) as f64 / 1e6;
            self.broken(node, &|| {
                format!("{what}, {left_s} s before its buffer is empty")
            });
        }
    }

    /// No request is forgotten.
    pub(super) fn check_forgotten(&mut self, node: u32) {
        let now = self.now;
        let entry = &self.nodes[node as usize];
        let Some(live) = &entry.live else { return };
        let Some(asked) = live.asked.filter(|a| now - a.since > FORGOTTEN_US) else {
            return;
        };
        let home = entry.viewer.contact.household;
        let at_home = self.audience().filter(|v| v.contact.household == home);
        let needed_bps = at_home.count() as u64 * (self.options.bitrate_mbps * 1e6) as u64;
        let line_bps = self.houses[local_of(home) as usize].down_bps;
        let comes = |f: &Fetching| f.place == asked.place && now < f.step_at + PROGRESS_US;
        if needed_bps > line_bps && live.fetches.iter().any(comes) {
            return;
        }
        self.broken(node, &|| {
            format!("waits for {} s", (now - asked.since) / 1_000_000)
        });
    }

    /// Each link is to a different viewer. There is no room for more than the limit.
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

/// Whether what a request lacks is on its way from the CDN, or was asked of neighbours, or is planned for until
/// `latest` (the second while the CDN is scarce); if not, what is wrong.
fn looked_after(
    live: &Live,
    asked: &Asked,
    segment: &Segment,
    latest: (u64, u64),
) -> Result<(), &'static str> {
    let by_player = Asker::Player(asked.request);
    if live.fetches.iter().any(|fetch| fetch.asker == by_player) {
        return Ok(());
    }
    let Some(waiting) = live.peer.waiting(asked.request) else {
        return Err("waits for what nobody knows of");
    };
    let of_segment = live.fetches.iter().filter(|f| f.place == asked.place);
    let coming = of_segment.fold(0, |bits, fetch| bits | brought_by(fetch, segment));
    // What is played while it arrives is fetched in order: the rest follows when the first of it has come.
    let is_in_order = live.player.is_progressive() && coming != 0;
    let is_covered = waiting.missing.is_some_and(|bits| bits & !coming == 0);
    if is_in_order || is_covered || (waiting.missing.is_none() && coming != 0) {
        return Ok(());
    }
    let latest = if waiting.is_scarce {
        latest.0.max(latest.1)
    } else {
        latest.0
    };
    match waiting.plan_at.map(|at| at.as_micros()) {
        Some(at) if at <= latest && live.wakes.is_any() => Ok(()),
        Some(_) => Err("has pieces that nobody fetches, and looks after them too late"),
        None => Err("has pieces that nobody fetches, and no plan for them"),
    }
}

/// The pieces that a fetch brings whole.
fn brought_by(fetch: &Fetching, segment: &Segment) -> u64 {
    let Content { len, piece_len, .. } = segment.content;
    let end = fetch.from + fetch.len;
    // Only the last piece may be shorter.
    let end = if end >= len {
        end.div_ceil(piece_len)
    } else {
        end / piece_len
    };
    pieces_below(end) & !pieces_below(fetch.from.div_ceil(piece_len)) & segment.full()
}

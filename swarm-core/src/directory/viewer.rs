//! What the directory remembers of one viewer.

use alloc::{boxed::Box, vec::Vec};

use super::{
    household::Ring,
    io::{ConnId, Joined},
    meetings::Meetings,
    place::{Network, P2pMode},
    policy::Policy,
    ration::Ration,
    slab::Key,
    swarm::SwarmId,
    trust::Trust,
};
use crate::{
    id::{PeerId, StreamId, TrackId},
    limits::NEIGHBOURS_MAX,
    time::Instant,
    wire::tracker::{Nat, Status, ViewerFlags},
};

/// Failed pairs that a viewer remembers.
const APART_MAX: usize = 64;

/// Sums over a viewer's reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Verified bytes from peers.
    pub bytes_p2p: u64,
    /// Bytes from the CDN.
    pub bytes_cdn: u64,
    /// Bytes sent to peers.
    pub bytes_up: u64,
    /// Stalls.
    pub stalls: u64,
    /// Milliseconds spent stalled.
    pub stalled_ms: u64,
}

impl Totals {
    /// Adds a report.
    pub fn add_status(&mut self, status: &Status) {
        self.add(&Self {
            bytes_p2p: u64::from(status.bytes_p2p),
            bytes_cdn: u64::from(status.bytes_cdn),
            bytes_up: u64::from(status.bytes_up),
            stalls: u64::from(status.stalls),
            stalled_ms: u64::from(status.stalled_ms),
        });
    }

    /// Adds other sums.
    pub fn add(&mut self, other: &Self) {
        self.bytes_p2p = self.bytes_p2p.saturating_add(other.bytes_p2p);
        self.bytes_cdn = self.bytes_cdn.saturating_add(other.bytes_cdn);
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.stalls = self.stalls.saturating_add(other.stalls);
        self.stalled_ms = self.stalled_ms.saturating_add(other.stalled_ms);
    }
}

/// What a change of track, or of the time of the stream, costs a viewer, what it may have for that, and
/// in how many milliseconds it gets one: five changes at once, and one in two seconds.
const SWITCH_COST: u8 = 50;
const SWITCHES_MAX: u8 = 250;
const SWITCHES_STEP_MS: u32 = 40;

/// Somebody that a viewer is kept apart from.
#[derive(Clone, Copy, Debug)]
struct Apart {
    peer: PeerId,
    until: Instant,
    /// Because their networks could not link.
    failed: bool,
}

/// What nearly all viewers have nothing of.
#[derive(Debug, Default)]
struct Seldom {
    /// Whom it is kept apart from, and until when.
    apart: Vec<Apart>,
    /// Links that it says it has, to viewers that have not confirmed them.
    claims: Vec<PeerId>,
}

/// Whether viewers behind symmetric NATs can reach a viewer, as earlier pairs have shown. What STUN
/// tells does not say it: it depends on which packets the network lets in, not on its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Unknown,
    Easy,
    Hard,
}

/// What decides whether two viewers suit each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits<'a> {
    pub(super) network: &'a Network,
    pub(super) nat: Nat,
    pub(super) reach: Reach,
    /// Whether it can give others anything.
    pub(super) gives: bool,
}

/// The order is that of use: two cache lines, which are fetched together, are all that is looked at of a
/// member of the group that may be introduced to a newcomer; the pair itself is noted in those after them.
/// Where there are many viewers, each is as far away as main memory. What scoring a group looks at is in
/// the group (`Member`).
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Viewer {
    /// `None` while it may come back.
    pub(super) conn: Option<ConnId>,
    seldom: Option<Box<Seldom>>,
    pub(super) peer: PeerId,
    introductions: Ration,
    pub(super) trust: Trust,
    pub(super) group: Option<Key>,
    pub(super) address_ration: Option<Key>,
    pub(super) upload_kbps: u32,
    pub(super) track: TrackId,
    /// What is left of what it has taken from its address's ration.
    pub(super) leased: u8,
    /// Meetings with members of its own group.
    pub(super) local: u8,
    pub(super) flags: ViewerFlags,
    pub(super) nat: Nat,
    pub(super) reach: Reach,
    /// Which of the bands of `lag_band_ms` it plays in.
    pub(super) lag_band: u8,
    /// What it has left to change the track with: each time it is placed anew.
    switches: u8,
    /// It came back under its name: its first report tells whether its links survived.
    pub(super) links_in_doubt: bool,
    pub(super) meetings: Meetings,

    pub(super) stream: StreamId,
    pub(super) network: Network,
    pub(super) household: Ring,
    pub(super) joined_at: Instant,
    status_at: Option<Instant>,
    /// When it is given up, unless it is heard.
    pub(super) expires_at: Instant,
    /// When its entry in the timers is due.
    pub(super) timer_at: Instant,
    pub(super) release_at: Option<Instant>,
    pub(super) status: Status,
    pub(super) status_gap_ms: u32,
    pub(super) totals: Totals,
}

impl Viewer {
    /// `address_ration` is held for as long as it is here.
    pub(super) fn new(
        joined: &Joined,
        policy: &Policy,
        now: Instant,
        address_ration: Option<Key>,
    ) -> Self {
        let expires_at = now.plus_ms(u64::from(policy.silence_ms_max));
        Self {
            peer: joined.peer,
            conn: Some(joined.conn),
            stream: joined.stream,
            track: joined.track,
            lag_band: 0,
            switches: SWITCHES_MAX,
            flags: flags_of(joined),
            nat: joined.nat,
            reach: Reach::Unknown,
            upload_kbps: joined.upload_kbps,
            network: joined.network,
            group: None,
            meetings: Meetings::default(),
            local: 0,
            seldom: None,
            trust: Trust::default(),
            introductions: Ration::full(policy.introductions(), now),
            address_ration,
            leased: 0,
            household: Ring::NONE,
            joined_at: now,
            status_at: None,
            expires_at,
            timer_at: expires_at,
            release_at: None,
            links_in_doubt: false,
            status: Status::default(),
            status_gap_ms: 0,
            totals: Totals::default(),
        }
    }

    pub(super) fn on_status(&mut self, status: &Status, now: Instant) {
        let since = self.status_at.replace(now).unwrap_or(self.joined_at);
        self.status_gap_ms = now.ms_since(since).clamp(1, u64::from(u32::MAX)) as u32;
        let earned = (self.status_gap_ms / SWITCHES_STEP_MS).min(u32::from(SWITCHES_MAX));
        self.switches = self.switches.saturating_add(earned as u8).min(SWITCHES_MAX);
        self.totals.add_status(status);
        self.status = *status;
    }

    /// Whether it may change the track, or the time of the stream, once more by now.
    pub(super) const fn take_switch(&mut self) -> bool {
        let left = self.switches.checked_sub(SWITCH_COST);
        if let Some(left) = left {
            self.switches = left;
        }
        left.is_some()
    }

    /// The facts that a viewer may have changed while it was away.
    pub(super) fn on_resumed(&mut self, joined: &Joined) {
        self.conn = Some(joined.conn);
        self.flags = flags_of(joined);
        self.nat = joined.nat;
        self.links_in_doubt = !self.meetings.is_empty();
    }

    /// Whom it can share segments with.
    pub(super) const fn swarm(&self) -> SwarmId {
        (self.stream, self.track, self.lag_band)
    }

    pub(super) fn has_met(&self, other: Key) -> bool {
        self.meetings.contains(other)
    }

    /// Whether it can give others anything.
    pub(super) fn gives(&self) -> bool {
        !self.flags.has(ViewerFlags::LEECH)
    }

    pub(super) fn traits(&self) -> Traits<'_> {
        Traits {
            network: &self.network,
            nat: self.nat,
            reach: self.reach,
            gives: self.gives(),
        }
    }

    /// A pair with `other` linked, or could not. Whether that is news.
    pub(super) fn on_outcome(&mut self, other: Nat, linked: bool) -> bool {
        if other != Nat::Symmetric || self.nat == Nat::Symmetric {
            return false;
        }
        let reach = match self.reach {
            Reach::Easy => Reach::Easy,
            _ if linked => Reach::Easy,
            // One failure may have another reason: the next success corrects it.
            _ => Reach::Hard,
        };
        core::mem::replace(&mut self.reach, reach) != reach
    }

    /// Keeps it apart from `peer`; `failed` where their networks could not link.
    pub(super) fn keep_apart(&mut self, peer: PeerId, now: Instant, until: Instant, failed: bool) {
        let apart = &mut self.seldom.get_or_insert_default().apart;
        apart.retain(|a| a.peer != peer && a.until > now);
        if apart.len() >= APART_MAX {
            apart.remove(0);
        }
        apart.push(Apart {
            peer,
            until,
            failed,
        });
    }

    /// Those with whom it could not link.
    pub(super) fn failed_with(&self) -> impl Iterator<Item = PeerId> {
        self.apart().filter(|a| a.failed).map(|a| a.peer)
    }

    /// One of the two has another network: they may be able to link now.
    pub(super) fn forget_failure(&mut self, with: PeerId) {
        if let Some(seldom) = &mut self.seldom {
            seldom.apart.retain(|a| a.peer != with || !a.failed);
        }
    }

    pub(super) fn is_apart(&self, from: PeerId, now: Instant) -> bool {
        self.apart().any(|a| a.peer == from && a.until > now)
    }

    fn apart(&self) -> impl Iterator<Item = &Apart> {
        self.seldom.iter().flat_map(|seldom| &seldom.apart)
    }

    pub(super) fn claim(&mut self, peer: PeerId) {
        let claims = &mut self.seldom.get_or_insert_default().claims;
        if claims.len() < NEIGHBOURS_MAX && !claims.contains(&peer) {
            claims.push(peer);
        }
    }

    pub(super) fn has_claimed(&self, peer: PeerId) -> bool {
        let claims = self.seldom.as_ref().map(|seldom| &seldom.claims);
        claims.is_some_and(|claims| claims.contains(&peer))
    }

    pub(super) fn forget_claim(&mut self, peer: PeerId) {
        if let Some(seldom) = &mut self.seldom {
            seldom.claims.retain(|claim| *claim != peer);
        }
    }

    pub(super) fn may_be_introduced(&self, policy: &Policy, now: Instant) -> bool {
        self.introductions.has_some(policy.introductions(), now)
    }

    pub(super) fn on_introduced(&mut self, policy: &Policy, now: Instant) {
        self.introductions.take(policy.introductions(), now);
    }
}

impl Traits<'_> {
    /// Whether a link between the two could come about and would be of use.
    pub(super) fn suits(self, other: Self) -> bool {
        let reachable = match (self.nat, other.nat) {
            (Nat::Blocked, _) | (_, Nat::Blocked) | (Nat::Symmetric, Nat::Symmetric) => false,
            (Nat::Symmetric, _) => other.reach != Reach::Hard,
            (_, Nat::Symmetric) => self.reach != Reach::Hard,
            (_, _) => true,
        };
        let reachable = reachable || self.network.is_beside(other.network);
        let allowed = self.network.may_reach(other.network);
        reachable && allowed && (self.gives || other.gives)
    }
}

fn flags_of(joined: &Joined) -> ViewerFlags {
    // Where somebody sits is the directory's to say; what it agreed to is nobody else's business.
    let hidden = ViewerFlags::ELSEWHERE.with(ViewerFlags::CONSENT);
    let own = ViewerFlags(joined.flags.0 & !hidden.0);
    match joined.network.mode {
        P2pMode::Leech => own.with(ViewerFlags::LEECH),
        P2pMode::On | P2pMode::Off => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_with_its_meetings_is_nine_cache_lines() {
        assert_eq!(size_of::<Option<Viewer>>(), 9 * 64);
        assert!(core::mem::offset_of!(Viewer, meetings) + size_of::<[u32; 3]>() <= 2 * 64);
    }
}

//! The viewers that this one is linked with.

use alloc::vec::Vec;

use super::timeline::Tracks;
use crate::{
    id::{PeerId, Slot, TrackId},
    limits::NEIGHBOURS_MAX,
    time::Instant,
    wire::peer::PeerStatus,
};

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

/// What counts of a [`PeerStatus`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) weight: u16,
    pub(super) tracks: Tracks,
}

impl Told {
    pub(super) fn of(status: &PeerStatus) -> Self {
        Self {
            weight: status.weight,
            tracks: Tracks::told(&status.tracks),
        }
    }

    /// The weight, and the tracks.
    pub(super) fn words(&self) -> (u16, &[TrackId]) {
        (self.weight, self.tracks.ids())
    }
}

/// A viewer at the other end of a link. In the order of its fields in memory: what a message or a piece
/// looks at comes first.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Neighbour {
    pub(super) slot: Slot,
    pub(super) state: LinkState,
    /// It sits in another group: it takes no part in this one's division of work.
    pub(super) bridge: bool,
    /// Broken promises lately: pulls that timed out, claims and pushes of which nothing came.
    pub(super) strikes: u8,
    /// Bytes that wait in the transport.
    pub(super) buffered: u32,
    pub(super) peer: PeerId,
    /// When it reached its state.
    pub(super) since: Instant,
    pub(super) heard: Instant,
    /// When a piece came from it last.
    pub(super) gave_at: Instant,
    /// When some of what waits in the transport left last, or began to wait.
    pub(super) drained_at: Instant,
    pub(super) status: Told,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Bytes from it that were of no use.
    surplus: u32,
    /// The nonce of its last ping, and whether it has not answered.
    ping: u32,
    is_pinged: bool,
    /// More is to be heard of what waits there: drivers say no more once little is left.
    sends: bool,
    pub(super) native: bool,
    pub(super) rtt_reported: bool,
    pub(super) rtt_ms: u16,
    /// How long pieces that it was asked for have taken, on average.
    pub(super) pull_ms: u16,
    /// When it was pinged last.
    pinged_at: Instant,
    /// When the last of the strikes was noted, or forgiven.
    pub(super) struck_at: Instant,
}

/// After this many broken promises in a row a neighbour is not believed: nothing is asked of it, and nothing
/// is left to it.
const STRIKES_MAX: u8 = 3;
/// A broken promise is forgiven after this long.
const FORGIVEN_AFTER_MS: u64 = 30_000;

/// A neighbour that is silent for so long is pinged, and one that is not, each time its round trip is
/// so old: links of a swarm at work carry several messages a second.
const QUIET_MS: u64 = 1500;
const RTT_AGE_MS_MAX: u64 = 30_000;

/// Who sees more members than these who pass something on knows the order of its group's seeders well
/// enough.
const REMOTE_SEEN_MAX: u32 = 8;

/// What a neighbour may send that is of no use, and what more of it for what it has sent that was: pieces
/// that somebody else sent sooner, or that were evicted meanwhile.
const SURPLUS_BYTES: u64 = 4 * 1024 * 1024;
const SURPLUS_PERCENT: u64 = 50;

/// Places for links are set aside by as many.
const LINKS_STEP: usize = 2;

/// Bytes that may wait in a link's transport before the next piece is handed to it, so that control
/// messages never queue for long, and bursts fit the shallow buffers of relays (coturn's sockets lose what
/// is beyond 64 KiB, and what is lost takes seconds to come again).
const BUFFERED_BYTES_MAX: u32 = 32 * 1024;

/// What waits in a link's transport when its driver last tells of it.
const LITTLE_BYTES: u32 = 64 * 1024;

/// What a piece that a neighbour is asked for takes, before any has come.
const PULL_MS_UNKNOWN: u16 = 250;

impl Neighbour {
    /// A piece that it was asked for came, or did not, after `ms`.
    pub(super) fn on_pulled(&mut self, ms: u64) {
        let sample = ms.min(10_000) as u32;
        self.pull_ms = ((u32::from(self.pull_ms) * 3 + sample) / 4) as u16;
    }

    pub(super) fn new(slot: Slot, peer: PeerId, native: bool, now: Instant) -> Self {
        Self {
            slot,
            peer,
            native,
            bridge: false,
            state: LinkState::Connecting,
            since: now,
            heard: now,
            status: Told::default(),
            buffered: 0,
            drained_at: now,
            sends: false,
            ping: 0,
            is_pinged: false,
            pinged_at: now,
            rtt_ms: 0,
            rtt_reported: false,
            pull_ms: PULL_MS_UNKNOWN,
            strikes: 0,
            struck_at: now,
            gave_at: now,
            bytes_in: 0,
            surplus: 0,
            bytes_out: 0,
        }
    }

    /// It has sent so much that is of no use. Whether that is more than can happen to somebody who plays by
    /// the rules.
    pub(super) fn on_surplus(&mut self, len: u32) -> bool {
        self.surplus = self.surplus.saturating_add(len);
        let most = SURPLUS_BYTES + self.bytes_in / 100 * SURPLUS_PERCENT;
        u64::from(self.surplus) > most || self.surplus == u32::MAX
    }

    /// Whether it is time to ping it: nothing was heard of it lately, or its round trip is an old one.
    pub(super) fn is_ping_due(&self, now: Instant) -> bool {
        now.ms_since(self.heard) >= QUIET_MS || now.ms_since(self.pinged_at) >= RTT_AGE_MS_MAX
    }

    pub(super) fn on_ping(&mut self, nonce: u32, now: Instant) {
        (self.ping, self.is_pinged, self.pinged_at) = (nonce, true, now);
    }

    /// It has answered a ping: whether it was the last one, which measures the round trip.
    pub(super) fn on_pong(&mut self, nonce: u32, now: Instant) -> bool {
        if !self.is_pinged || self.ping != nonce {
            return false;
        }
        self.is_pinged = false;
        self.rtt_ms = now.ms_since(self.pinged_at).clamp(1, u64::from(u16::MAX)) as u16;
        true
    }

    fn on_handed(&mut self, len: u32, now: Instant) {
        if self.buffered == 0 {
            self.drained_at = now;
        }
        self.buffered = self.buffered.saturating_add(len);
        self.sends = true;
    }

    fn on_sent(&mut self, buffered: u32, now: Instant) {
        if buffered < self.buffered {
            self.drained_at = now;
        }
        self.buffered = buffered;
        self.sends = buffered > LITTLE_BYTES;
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == LinkState::Ready
    }

    pub(super) fn plays(&self, track: Option<TrackId>) -> bool {
        self.is_ready() && track.is_some_and(|track| self.status.tracks.ids().contains(&track))
    }

    /// Whether it shares the work on a track's segments: it plays it, is of the group, and keeps its
    /// promises.
    pub(super) fn shares(&self, track: Option<TrackId>) -> bool {
        !self.bridge && self.is_believed() && self.plays(track)
    }

    /// It has broken a promise. Whether it has just lost its credit.
    pub(super) fn on_broken(&mut self, now: Instant) -> bool {
        let was_believed = self.is_believed();
        self.strikes = self.strikes.saturating_add(1);
        self.struck_at = now;
        was_believed && !self.is_believed()
    }

    /// It has kept one. Whether it has its credit back.
    pub(super) fn on_kept(&mut self) -> bool {
        let was_believed = self.is_believed();
        self.strikes = 0;
        !was_believed && self.is_believed()
    }

    /// Forgives what lies long back. Whether it has its credit back.
    pub(super) fn forgive(&mut self, now: Instant) -> bool {
        let was_believed = self.is_believed();
        if self.strikes > 0 && now.ms_since(self.struck_at) >= FORGIVEN_AFTER_MS {
            self.strikes = self.strikes.min(STRIKES_MAX) - 1;
            self.struck_at = now;
        }
        !was_believed && self.is_believed()
    }

    pub(super) fn is_believed(&self) -> bool {
        self.is_ready() && self.strikes < STRIKES_MAX
    }
}

/// All links, by slot.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Neighbours {
    list: Vec<Neighbour>,
    /// Where in the list the neighbour of each slot is.
    places: [u8; NEIGHBOURS_MAX],
    links: Links,
    /// The short name of the neighbour in each slot.
    tags: [u16; NEIGHBOURS_MAX],
    /// Changes whenever the set of possible seeders does.
    view: u32,
    masks: Option<(Option<TrackId>, Masks)>,
}

/// What every piece that is sent looks at, for all links at once: slots, a bit each.
#[derive(Clone, Copy, Debug)]
struct Links {
    /// Both sides know each other.
    ready: u32,
    bridges: u32,
    /// More is to be heard of what waits in the link.
    sending: u32,
    /// So much waits in the link that the next piece is not handed to it.
    full: u32,
    /// No link has reached its state later than this.
    latest: Instant,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            ready: 0,
            bridges: 0,
            sending: 0,
            full: 0,
            latest: Instant::ORIGIN,
        }
    }
}

impl Links {
    const fn set(bits: &mut u32, slot: Slot, to: bool) {
        *bits = *bits & !(1 << slot.0) | (to as u32) << slot.0;
    }

    /// Takes over what has changed of a neighbour.
    fn note(&mut self, neighbour: &Neighbour) {
        let slot = neighbour.slot;
        Self::set(&mut self.ready, slot, neighbour.is_ready());
        Self::set(&mut self.bridges, slot, neighbour.bridge);
        Self::set(&mut self.sending, slot, neighbour.sends);
        let is_full = neighbour.buffered >= BUFFERED_BYTES_MAX;
        Self::set(&mut self.full, slot, is_full);
        self.latest = self.latest.max(neighbour.since);
    }

    fn forget(&mut self, slot: Slot) {
        for bits in [
            &mut self.ready,
            &mut self.bridges,
            &mut self.sending,
            &mut self.full,
        ] {
            Self::set(bits, slot, false);
        }
    }
}

/// The place of a slot that is free.
const FREE: u8 = u8::MAX;

impl Default for Neighbours {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            places: [FREE; NEIGHBOURS_MAX],
            tags: [0; NEIGHBOURS_MAX],
            links: Links::default(),
            view: 0,
            masks: None,
        }
    }
}

/// Slots, a bit each, by what plans ask of neighbours.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Masks {
    /// Believed members of the group.
    pub(super) here: u32,
    /// Believed bridges.
    pub(super) bridges: u32,
    /// Believed bridges who pass something on.
    pub(super) giving: u32,
    /// Who plays the track.
    pub(super) playing: u32,
    /// Members of the group who may seed it.
    pub(super) seeding: u32,
}

impl Masks {
    /// Those who share the work on the track's segments ([`Neighbour::shares`]).
    pub(super) const fn sharing(self) -> u32 {
        self.here & self.playing
    }

    /// Whether it is in other groups that this viewer sees who passes things on, more than in its own.
    pub(super) const fn is_remote(self) -> bool {
        let seen = self.seeding.count_ones();
        seen <= REMOTE_SEEN_MAX && self.giving.count_ones() > seen
    }
}

impl Neighbours {
    pub(super) fn heap_bytes(&self) -> usize {
        self.list.capacity() * size_of::<Neighbour>()
    }

    pub(super) fn iter(&self) -> core::slice::Iter<'_, Neighbour> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> core::slice::IterMut<'_, Neighbour> {
        self.list.iter_mut()
    }

    fn place(&self, slot: Slot) -> Option<usize> {
        let place = *self.places.get(usize::from(slot.0))?;
        (place != FREE).then_some(usize::from(place))
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Neighbour> {
        self.list.get(self.place(slot)?)
    }

    /// What [`Links`] has of it is changed by the methods of this type alone.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Neighbour> {
        let place = self.place(slot)?;
        self.list.get_mut(place)
    }

    /// Changes a neighbour in anything; what `change` answers, if there is one.
    fn change<T>(&mut self, slot: Slot, change: impl FnOnce(&mut Neighbour) -> T) -> Option<T> {
        let place = self.place(slot)?;
        let neighbour = self.list.get_mut(place)?;
        let answer = change(neighbour);
        self.links.note(neighbour);
        self.tags[usize::from(slot.0)] = neighbour.peer.tag();
        Some(answer)
    }

    /// It is called `peer` from now on. What it was called before.
    pub(super) fn rename(&mut self, slot: Slot, peer: PeerId) -> Option<PeerId> {
        self.change(slot, |neighbour| {
            core::mem::replace(&mut neighbour.peer, peer)
        })
    }

    /// The one of those in `slots` (a bit each) whose short name this is: the oldest link of them, should
    /// there be several.
    pub(super) fn by_tag(&self, tag: u16, slots: u32) -> Option<Slot> {
        let is_called = |slot: &Slot| self.tags.get(usize::from(slot.0)) == Some(&tag);
        let called = slots_of(slots).filter(is_called);
        called.min_by_key(|slot| self.place(*slot))
    }

    /// Its link has come so far.
    pub(super) fn on_state(&mut self, slot: Slot, state: LinkState, now: Instant) {
        self.change(slot, |neighbour| {
            (neighbour.state, neighbour.since) = (state, now);
        });
    }

    /// Whether it sits in another group. Whether that is news.
    pub(super) fn set_bridge(&mut self, slot: Slot, bridge: bool) -> bool {
        let replace = |n: &mut Neighbour| core::mem::replace(&mut n.bridge, bridge) != bridge;
        self.change(slot, replace).unwrap_or(false)
    }

    /// A piece was handed to its link.
    pub(super) fn on_handed(&mut self, slot: Slot, len: u32, now: Instant) {
        self.change(slot, |neighbour| neighbour.on_handed(len, now));
    }

    /// So much still waits in its link.
    pub(super) fn on_sent(&mut self, slot: Slot, buffered: u32, now: Instant) {
        self.change(slot, |neighbour| neighbour.on_sent(buffered, now));
    }

    /// Those in whose links something waits of which more is to be heard.
    pub(super) fn sending(&self) -> impl Iterator<Item = &Neighbour> + Clone {
        slots_of(self.links.sending).filter_map(|slot| self.get(slot))
    }

    /// The slots, a bit each, of those who are ready.
    pub(super) const fn ready_slots(&self) -> u32 {
        self.links.ready
    }

    /// The same of those who are ready and may be handed a piece.
    pub(super) const fn roomy_slots(&self) -> u32 {
        self.links.ready & !self.links.full
    }

    /// The same of those who sit in other groups.
    pub(super) const fn bridge_slots(&self) -> u32 {
        self.links.bridges
    }

    /// Whether a link had come as far as it has at `at`.
    pub(super) fn is_since(&self, slot: Slot, at: Instant) -> bool {
        self.links.latest <= at || self.get(slot).is_some_and(|n| n.since <= at)
    }

    pub(super) fn by_peer(&self, peer: PeerId) -> Option<&Neighbour> {
        self.list.iter().find(|neighbour| neighbour.peer == peer)
    }

    /// Takes a free slot for a new link; `None` if all are taken.
    pub(super) fn add(&mut self, peer: PeerId, native: bool, now: Instant) -> Option<Slot> {
        let free = self.places.iter().position(|place| *place == FREE)?;
        let slot = Slot(free as u8);
        self.places[free] = self.list.len() as u8;
        if self.list.len() == self.list.capacity() {
            self.list.reserve_exact(LINKS_STEP);
        }
        let neighbour = Neighbour::new(slot, peer, native, now);
        self.links.note(&neighbour);
        self.tags[free] = peer.tag();
        self.list.push(neighbour);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Neighbour> {
        let index = self.place(slot)?;
        self.touch_view();
        self.links.forget(slot);
        self.places[usize::from(slot.0)] = FREE;
        let removed = self.list.remove(index);
        for (place, neighbour) in self.list.iter().enumerate().skip(index) {
            self.places[usize::from(neighbour.slot.0)] = place as u8;
        }
        Some(removed)
    }

    pub(super) const fn view(&self) -> u32 {
        self.view
    }

    /// The neighbours sorted for a track, as of the last [`Neighbours::touch_view`].
    pub(super) fn masks(&mut self, track: Option<TrackId>) -> Masks {
        if let Some((known, masks)) = self.masks
            && known == track
        {
            return masks;
        }
        let masks = Masks {
            here: self.mask(|n| n.is_believed() && !n.bridge),
            bridges: self.mask(|n| n.is_believed() && n.bridge),
            giving: self.mask(|n| n.is_believed() && n.bridge && n.status.weight > 0),
            playing: self.mask(|n| n.plays(track)),
            seeding: self.mask(|n| n.shares(track) && n.status.weight > 0),
        };
        self.masks = Some((track, masks));
        masks
    }

    pub(super) const fn touch_view(&mut self) {
        self.masks = None;
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

    /// The slots of those that `which` accepts, a bit each.
    pub(super) fn mask(&self, which: impl Fn(&Neighbour) -> bool) -> u32 {
        let chosen = self.list.iter().filter(|neighbour| which(neighbour));
        chosen.fold(0, |mask, neighbour| mask | 1 << neighbour.slot.0)
    }

    pub(super) const fn ready_count(&self) -> usize {
        self.links.ready.count_ones() as usize
    }
}

/// The slots of `bits`, in order.
pub(super) fn slots_of(mut bits: u32) -> impl Iterator<Item = Slot> + Clone {
    core::iter::from_fn(move || {
        let slot = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (slot < u32::BITS).then_some(Slot(slot as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_breaks_promises_loses_credit_until_it_delivers_or_time_has_passed() {
        let mut now = Instant::from_millis(1000);
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), true, now);
        neighbour.state = LinkState::Ready;
        assert!(!neighbour.on_broken(now) && !neighbour.on_broken(now));
        assert!(neighbour.is_believed());
        assert!(neighbour.on_broken(now) && !neighbour.is_believed());
        assert!(neighbour.on_kept() && neighbour.is_believed());
        for _ in 0..200 {
            neighbour.on_broken(now);
        }
        assert!(!neighbour.forgive(now.plus_ms(FORGIVEN_AFTER_MS - 1)));
        now = now.plus_ms(FORGIVEN_AFTER_MS);
        assert!(neighbour.forgive(now) && neighbour.is_believed());
        assert!(neighbour.on_broken(now), "one more is enough");
    }

    #[test]
    fn what_is_of_no_use_has_a_limit_that_grows_with_what_was() {
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), true, Instant::from_millis(1000));
        assert!(!neighbour.on_surplus(SURPLUS_BYTES as u32));
        assert!(neighbour.on_surplus(1));
        neighbour.bytes_in = 1000;
        assert!(!neighbour.on_surplus(499));
        assert!(neighbour.on_surplus(1));
    }

    #[test]
    fn who_sees_more_givers_elsewhere_than_here_and_few_here_is_remote() {
        let masks = |seeding: u32, giving: u32| Masks {
            seeding: (1 << seeding) - 1,
            giving: (1 << giving) - 1,
            ..Masks::default()
        };
        assert!(masks(2, 3).is_remote());
        assert!(!masks(3, 3).is_remote(), "where few can, somebody must");
        assert!(masks(REMOTE_SEEN_MAX, REMOTE_SEEN_MAX + 1).is_remote());
        assert!(!masks(REMOTE_SEEN_MAX + 1, REMOTE_SEEN_MAX + 2).is_remote());
    }

    #[test]
    fn who_is_heard_is_pinged_for_its_round_trip_alone() {
        let began = Instant::from_millis(1000);
        let mut neighbour = Neighbour::new(Slot(0), PeerId(1), true, began);
        neighbour.on_ping(7, began);
        assert!(!neighbour.on_pong(8, began.plus_ms(30)));
        assert!(neighbour.on_pong(7, began.plus_ms(40)));
        assert!(!neighbour.on_pong(7, began.plus_ms(50)), "once is enough");
        assert_eq!(neighbour.rtt_ms, 40);
        assert!(
            neighbour.is_ping_due(began.plus_ms(QUIET_MS)),
            "it is silent"
        );
        let later = began.plus_ms(RTT_AGE_MS_MAX);
        neighbour.heard = later.minus_ms(1);
        assert!(!neighbour.is_ping_due(later.minus_ms(1)));
        assert!(neighbour.is_ping_due(later));
    }
}

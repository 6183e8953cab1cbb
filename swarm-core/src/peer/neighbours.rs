//! All links of a viewer: who is behind which slot, and what is asked of all of them at once.

use alloc::vec::Vec;

use super::{
    neighbour::{LinkState, Neighbour},
    timeline::Tracks,
};
use crate::{
    id::{PeerId, Slot, TrackId},
    limits::NEIGHBOURS_MAX,
    time::Instant,
    wire::peer::PeerStatus,
};

/// Who sees more members than these who pass something on knows the order of its group's seeders well
/// enough.
const REMOTE_SEEN_MAX: u32 = 8;

/// Bytes that may wait in a link's transport before the next piece is handed to it, so that control
/// messages never queue for long, and bursts fit the shallow buffers of relays (coturn's sockets lose what
/// is beyond 64 KiB, and what is lost takes seconds to come again).
const BUFFERED_BYTES_MAX: u32 = 32 * 1024;

/// What waits in a link's transport when its driver last tells of it.
const LITTLE_BYTES: u32 = 64 * 1024;

/// All links, by slot.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Neighbours {
    list: Vec<Neighbour>,
    /// Where in the list the neighbour of each slot is.
    places: [u8; NEIGHBOURS_MAX],
    links: Links,
    /// The last half of the short name of the neighbour in each slot: tells most of them apart.
    tags: [u8; NEIGHBOURS_MAX],
    /// Changes whenever the set of possible seeders does.
    view: u32,
    /// The slots, a bit each, of native agents.
    natives: u32,
    masks: Option<(Option<TrackId>, Masks)>,
    /// The tracks of those few who play several.
    several: Vec<(Slot, Tracks)>,
}

/// What every piece that is sent looks at, for all links at once: slots, a bit each.
#[derive(Clone, Copy, Debug)]
struct Links {
    /// Both sides know each other.
    ready: u32,
    /// They sit in other groups, and take no part in this one's division of work.
    bridges: u32,
    /// More is to be heard of what waits in the link: drivers say no more once little is left.
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
        let is_full = neighbour.buffered >= BUFFERED_BYTES_MAX;
        Self::set(&mut self.full, slot, is_full);
        self.latest = self.latest.max(neighbour.since.get());
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
            natives: 0,
            masks: None,
            several: Vec::new(),
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
    /// Those who share the work on the track's segments ([`Neighbours::shares`]).
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
            + self.several.capacity() * size_of::<(Slot, Tracks)>()
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
        self.tags[usize::from(slot.0)] = neighbour.peer.tag() as u8;
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
        let may_be = |slot: &Slot| self.tags.get(usize::from(slot.0)) == Some(&(tag as u8));
        let called = slots_of(slots).filter(may_be);
        let places = called.filter_map(|slot| Some((self.place(slot)?, slot)));
        let is_called = |place: usize| self.list.get(place).is_some_and(|n| n.peer.tag() == tag);
        let places = places.filter(|(place, _)| is_called(*place));
        places.min().map(|(_, slot)| slot)
    }

    /// Its link has come so far.
    pub(super) fn on_state(&mut self, slot: Slot, state: LinkState, now: Instant) {
        self.change(slot, |neighbour| {
            (neighbour.state, neighbour.since) = (state, now.into());
        });
    }

    /// Whether it sits in another group. Whether that is news.
    pub(super) fn set_bridge(&mut self, slot: Slot, bridge: bool) -> bool {
        let is_news = self.place(slot).is_some() && self.is_bridge(slot) != bridge;
        if is_news {
            Links::set(&mut self.links.bridges, slot, bridge);
        }
        is_news
    }

    /// Whether it sits in another group: it takes no part in this one's division of work.
    pub(super) const fn is_bridge(&self, slot: Slot) -> bool {
        is_in(self.links.bridges, slot)
    }

    /// Whether it is a native agent.
    pub(super) const fn is_native(&self, slot: Slot) -> bool {
        is_in(self.natives, slot)
    }

    /// It has told this of itself. Whether what counts of it is news.
    pub(super) fn on_status(&mut self, slot: Slot, status: &PeerStatus) -> bool {
        let told = Tracks::told(&status.tracks);
        let Some(known) = self.get(slot) else {
            return false;
        };
        let is_news = (known.weight, self.tracks_of(known)) != (status.weight, told.ids());
        self.forget_several(slot);
        if told.ids().len() > 1 {
            self.several.reserve_exact(1);
            self.several.push((slot, told));
        }
        if let Some(neighbour) = self.get_mut(slot) {
            neighbour.weight = status.weight;
            neighbour.track_count = told.ids().len() as u8;
            neighbour.track = told.ids().first().copied().unwrap_or_default();
        }
        is_news
    }

    fn forget_several(&mut self, slot: Slot) {
        self.several.retain(|(of, _)| *of != slot);
        self.several.shrink_to_fit();
    }

    fn tracks_of<'a>(&'a self, neighbour: &'a Neighbour) -> &'a [TrackId] {
        match neighbour.track_count {
            0 => &[],
            1 => core::slice::from_ref(&neighbour.track),
            _ => {
                let mut several = self.several.iter();
                let theirs = several.find(|(slot, _)| *slot == neighbour.slot);
                theirs.map_or(&[], |(_, tracks)| tracks.ids())
            }
        }
    }

    fn plays(&self, neighbour: &Neighbour, track: Option<TrackId>) -> bool {
        let is_among = |track| self.tracks_of(neighbour).contains(&track);
        neighbour.is_ready() && track.is_some_and(is_among)
    }

    /// Whether it shares the work on a track's segments: it plays it, is of the group, and keeps its
    /// promises.
    fn shares(&self, neighbour: &Neighbour, track: Option<TrackId>) -> bool {
        !self.is_bridge(neighbour.slot) && neighbour.is_believed() && self.plays(neighbour, track)
    }

    /// Those who share the work on a track's segments.
    pub(super) fn sharing(
        &self,
        track: Option<TrackId>,
    ) -> impl Iterator<Item = &Neighbour> + Clone {
        self.list.iter().filter(move |n| self.shares(n, track))
    }

    /// A piece was handed to its link.
    pub(super) fn on_handed(&mut self, slot: Slot, len: u32, now: Instant) {
        let known = self.change(slot, |neighbour| neighbour.on_handed(len, now));
        if known.is_some() {
            Links::set(&mut self.links.sending, slot, true);
        }
    }

    /// So much still waits in its link.
    pub(super) fn on_sent(&mut self, slot: Slot, buffered: u32, now: Instant) {
        let known = self.change(slot, |neighbour| neighbour.on_sent(buffered, now));
        if known.is_some() {
            Links::set(&mut self.links.sending, slot, buffered > LITTLE_BYTES);
        }
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
        self.links.latest <= at || self.get(slot).is_some_and(|n| n.since.get() <= at)
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
            self.list.reserve_exact(1);
        }
        let neighbour = Neighbour::new(slot, peer, now);
        self.links.note(&neighbour);
        Links::set(&mut self.natives, slot, native);
        self.tags[free] = peer.tag() as u8;
        self.list.push(neighbour);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Neighbour> {
        let index = self.place(slot)?;
        self.touch_view();
        self.links.forget(slot);
        self.forget_several(slot);
        self.places[usize::from(slot.0)] = FREE;
        let removed = self.list.remove(index);
        self.list.shrink_to_fit();
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
        let (believed, elsewhere) = (self.mask(Neighbour::is_believed), self.links.bridges);
        let weighty = self.mask(|n| n.weight > 0);
        let playing = self.mask(|n| self.plays(n, track));
        let masks = Masks {
            here: believed & !elsewhere,
            bridges: believed & elsewhere,
            giving: believed & elsewhere & weighty,
            playing,
            seeding: believed & !elsewhere & weighty & playing,
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
        let shares = self.sharing(track).map(|n| (n.peer, n.weight));
        shares.filter(|(_, w)| *w > 0)
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

/// Whether a slot is among those in `bits`.
const fn is_in(bits: u32, slot: Slot) -> bool {
    match bits.checked_shr(slot.0 as u32) {
        Some(rest) => rest & 1 == 1,
        None => false,
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
    fn what_is_known_of_all_links_at_once_is_what_is_known_of_each() {
        let mut rng = crate::rng::Rng::new(4);
        let mut neighbours = Neighbours::default();
        let (mut bridges, mut sending) = (0u32, 0u32);
        for step in 0..4000 {
            let now = Instant::from_millis(1000 + step);
            let slot = Slot(rng.at_most(31) as u8);
            match rng.at_most(7) {
                0 => drop(neighbours.add(PeerId(rng.next_u64()), true, now)),
                1 if rng.at_most(2) == 0 => {
                    neighbours.remove(slot);
                    (bridges, sending) = (bridges & !(1 << slot.0), sending & !(1 << slot.0));
                }
                2 => neighbours.on_state(slot, LinkState::Open, now),
                3 => neighbours.on_state(slot, LinkState::Ready, now),
                4 => {
                    neighbours.set_bridge(slot, step % 2 == 0);
                    Links::set(&mut bridges, slot, step % 2 == 0);
                }
                5 => {
                    neighbours.on_handed(slot, 20_000, now);
                    Links::set(&mut sending, slot, true);
                }
                6 => {
                    let buffered = rng.at_most(100_000) as u32;
                    neighbours.on_sent(slot, buffered, now);
                    Links::set(&mut sending, slot, buffered > LITTLE_BYTES);
                }
                _ => drop(neighbours.rename(slot, PeerId(rng.next_u64()))),
            }
            let ready = neighbours.mask(Neighbour::is_ready);
            let has_room = |n: &Neighbour| n.is_ready() && n.buffered < BUFFERED_BYTES_MAX;
            assert_eq!(neighbours.ready_slots(), ready);
            assert_eq!(neighbours.roomy_slots(), neighbours.mask(has_room));
            let all = neighbours.mask(|_| true);
            (bridges, sending) = (bridges & all, sending & all);
            assert_eq!(neighbours.bridge_slots(), bridges);
            let waiting = neighbours.sending().fold(0, |all, n| all | 1 << n.slot.0);
            assert_eq!(waiting, sending);
            let at = Instant::from_millis(1000 + rng.at_most(step));
            for n in neighbours.iter() {
                assert_eq!(neighbours.is_since(n.slot, at), n.since.get() <= at);
                let called = |other: &&Neighbour| other.peer.tag() == n.peer.tag();
                let first = neighbours.iter().find(called).map(|other| other.slot);
                assert_eq!(neighbours.by_tag(n.peer.tag(), u32::MAX), first);
                assert_eq!(neighbours.by_tag(n.peer.tag(), 0), None);
            }
            assert_eq!(neighbours.list.capacity(), neighbours.list.len());
        }
    }

    #[test]
    fn who_plays_what_is_as_it_was_told_last() {
        let mut neighbours = Neighbours::default();
        let slot = neighbours
            .add(PeerId(1), true, Instant::ORIGIN)
            .expect("there is room");
        neighbours.on_state(slot, LinkState::Ready, Instant::ORIGIN);
        for tracks in [&[5][..], &[], &[7, 5], &[5, 7], &[9]] {
            let tracks: Vec<TrackId> = tracks.iter().copied().map(TrackId).collect();
            let status = PeerStatus {
                weight: 3,
                buffer_ms: 0,
                tracks: tracks.clone(),
            };
            assert!(neighbours.on_status(slot, &status));
            assert!(!neighbours.on_status(slot, &status), "it is no news");
            let known = neighbours.get(slot).expect("it is there");
            assert_eq!(neighbours.tracks_of(known), tracks);
            for track in [5, 7, 9].map(TrackId) {
                let sharing = neighbours.sharing(Some(track)).count();
                assert_eq!(sharing, usize::from(tracks.contains(&track)));
            }
            assert_eq!(neighbours.several.len(), usize::from(tracks.len() > 1));
        }
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
}

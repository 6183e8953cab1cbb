//! What the directory shows to dashboards, metrics and tests.

use alloc::collections::BTreeSet;
use core::ops::Bound;

use super::{
    Directory,
    place::Network,
    slab::Key,
    viewer::{Totals, Viewer},
};
use crate::{
    id::{PeerId, StreamId, TrackId},
    wire::tracker::{Distance, Nat, Status, ViewerFlags},
};

/// What is kept of a stream beside its viewers.
#[derive(Debug, Default)]
pub(super) struct StreamEntry {
    pub(super) viewers: BTreeSet<Key>,
    pub(super) totals: Totals,
}

/// A stream with viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// Which.
    pub stream: StreamId,
    /// Its viewers, those that may come back included.
    pub viewers: usize,
    /// Sums over all viewers since it had its first one, those that have left included.
    pub totals: Totals,
}

/// A viewer, as dashboards see it.
#[derive(Clone, Copy, Debug)]
pub struct ViewerView<'a> {
    directory: &'a Directory,
    viewer: &'a Viewer,
    seat: Seat,
}

/// A viewer's place in the order in which [`Directory::viewers`] has them: whoever looks at a few at a time
/// goes on from there. Given out again when its viewer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat(Key);

/// One pair of viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairView {
    /// The other viewer.
    pub peer: PeerId,
    /// Whether the link is up; else it is being set up.
    pub up: bool,
    /// Round trip in milliseconds, 0 if not known.
    pub rtt_ms: u16,
    /// How far the other is.
    pub distance: Distance,
    /// Whether it was meant to reach another group.
    pub long: bool,
}

impl Directory {
    /// Viewers at present, those that may come back included.
    pub fn viewers_len(&self) -> usize {
        self.viewers.len()
    }

    /// Groups at present.
    pub fn groups_len(&self) -> usize {
        self.groups.len()
    }

    /// The streams that have viewers.
    pub fn streams(&self) -> impl Iterator<Item = StreamView> + '_ {
        self.streams.iter().map(|(stream, entry)| StreamView {
            stream: *stream,
            viewers: entry.viewers.len(),
            totals: entry.totals,
        })
    }

    /// One stream.
    pub fn stream(&self, stream: StreamId) -> Option<StreamView> {
        let entry = self.streams.get(&stream)?;
        Some(StreamView {
            stream,
            viewers: entry.viewers.len(),
            totals: entry.totals,
        })
    }

    /// The viewers of a stream.
    pub fn viewers(&self, stream: StreamId) -> impl Iterator<Item = ViewerView<'_>> + '_ {
        self.viewers_after(stream, None, 1)
    }

    /// Every `step`th viewer of a stream after this seat, or from the first one on. Who sat in the seat may
    /// have gone meanwhile.
    pub fn viewers_after(
        &self,
        stream: StreamId,
        seat: Option<Seat>,
        step: usize,
    ) -> impl Iterator<Item = ViewerView<'_>> + '_ {
        let from = seat.map_or(Bound::Unbounded, |seat| Bound::Excluded(seat.0));
        let skipped = if seat.is_some() { step - 1 } else { 0 };
        let entry = self.streams.get(&stream).into_iter();
        entry
            .flat_map(move |entry| entry.viewers.range((from, Bound::Unbounded)))
            .skip(skipped)
            .step_by(step)
            .filter_map(|key| self.view(*key))
    }

    /// The viewers of a group of a stream; none if that has no such group.
    pub fn group_viewers(
        &self,
        stream: StreamId,
        group: u32,
    ) -> impl Iterator<Item = ViewerView<'_>> + '_ {
        let group = self.groups.get(Key(group));
        let group = group.filter(|group| group.swarm.0 == stream).into_iter();
        group
            .flat_map(|group| &group.members)
            .filter_map(|member| self.view(member.key))
    }

    /// A viewer by its name.
    pub fn viewer(&self, peer: PeerId) -> Option<ViewerView<'_>> {
        self.view(*self.names.get(&peer)?)
    }

    fn view(&self, key: Key) -> Option<ViewerView<'_>> {
        Some(ViewerView {
            directory: self,
            viewer: self.viewers.get(key)?,
            seat: Seat(key),
        })
    }
}

impl<'a> ViewerView<'a> {
    /// Its name.
    pub const fn peer(&self) -> PeerId {
        self.viewer.peer
    }

    /// Where to go on after it.
    pub const fn seat(&self) -> Seat {
        self.seat
    }

    /// Whether its connection is there; else it may come back.
    pub const fn connected(&self) -> bool {
        self.viewer.conn.is_some()
    }

    /// The stream it watches.
    pub const fn stream(&self) -> StreamId {
        self.viewer.stream
    }

    /// The track it plays.
    pub const fn track(&self) -> TrackId {
        self.viewer.track
    }

    /// Facts about it, the operator's rules included.
    pub const fn flags(&self) -> ViewerFlags {
        self.viewer.flags
    }

    /// Its network's way with ports.
    pub const fn nat(&self) -> Nat {
        self.viewer.nat
    }

    /// Where it is.
    pub const fn network(&self) -> &'a Network {
        &self.viewer.network
    }

    /// The number of its group; numbers are used again.
    pub fn group(&self) -> Option<u32> {
        self.viewer.group.map(|group| group.0)
    }

    /// Its last report.
    pub const fn status(&self) -> &'a Status {
        &self.viewer.status
    }

    /// How long the last report's counters ran, in milliseconds; 0 before the first.
    pub const fn status_gap_ms(&self) -> u32 {
        self.viewer.status_gap_ms
    }

    /// Sums over its reports.
    pub const fn totals(&self) -> &'a Totals {
        &self.viewer.totals
    }

    /// Milliseconds since it joined.
    pub const fn age_ms(&self) -> u64 {
        self.directory.now.ms_since(self.viewer.joined_at)
    }

    /// The group of each viewer that it has a link with.
    pub fn linked_groups(&self) -> impl Iterator<Item = u32> + use<'a> {
        let Self {
            directory, viewer, ..
        } = *self;
        let up = viewer.meetings.iter().filter(|m| m.up);
        up.filter_map(|m| Some(directory.viewers.get(m.with)?.group?.0))
    }

    /// Those it is introduced to.
    pub fn pairs(&self) -> impl Iterator<Item = PairView> + use<'a> {
        let Self {
            directory, viewer, ..
        } = *self;
        viewer.meetings.iter().filter_map(move |m| {
            let other = directory.viewers.get(m.with)?;
            Some(PairView {
                peer: other.peer,
                up: m.up,
                rtt_ms: m.rtt_ms(),
                distance: viewer
                    .network
                    .distance(&other.network, directory.policy.metro_km),
                long: m.long,
            })
        })
    }
}

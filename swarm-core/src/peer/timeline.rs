//! Playlists and the player's requests: which segments there are, and which are wanted.

use alloc::vec::Vec;

use super::{
    Peer,
    duty::Request,
    io::{Action, Outbox},
    segment::Segment,
};
use crate::{
    id::{Name, RequestId, TrackId},
    limits::{REQUESTS_MAX, SEGMENTS_MAX, TRACKS_MAX},
    timeline::{Content, SegmentInfo},
};

/// Segments that no playlist of this viewer lists are kept for so long.
const UNLISTED_MS_MAX: u64 = 30_000;
/// How many of them are kept.
const UNLISTED_MAX: usize = 16;

/// What neighbours have of a whole segment is remembered until as many newer ones are listed.
const ROWS_KEPT: u64 = 3;

/// The tracks that a player plays: nearly always one, and looked at on every occasion, so they are kept
/// in place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracks {
    count: u8,
    list: [TrackId; TRACKS_MAX],
}

impl Tracks {
    /// As somebody has told them; no more than there may be.
    pub(super) fn told(tracks: &[TrackId]) -> Self {
        let mut told = Self::default();
        for (place, track) in told.list.iter_mut().zip(tracks) {
            *place = *track;
            told.count += 1;
        }
        told
    }

    /// The player's own in order, others' as they have told them.
    pub(super) fn ids(&self) -> &[TrackId] {
        self.list.get(..usize::from(self.count)).unwrap_or(&[])
    }

    const fn is_full(&self) -> bool {
        self.count as usize >= TRACKS_MAX
    }

    fn add(&mut self, track: TrackId) {
        if let Some(place) = self.list.get_mut(usize::from(self.count)) {
            *place = track;
            self.count += 1;
            self.list[..usize::from(self.count)].sort_unstable();
        }
    }

    fn remove(&mut self, track: TrackId) {
        let rest = self.ids().iter().copied().filter(|known| *known != track);
        *self = Self::told(&rest.collect::<Vec<TrackId>>());
    }
}

impl Peer {
    pub(super) fn handle_timeline(
        &mut self,
        track: TrackId,
        listed: &[SegmentInfo],
        out: &mut Outbox,
    ) {
        let window = SEGMENTS_MAX / TRACKS_MAX;
        let keep = usize::from(self.policy.segments_kept).max(window);
        let listed = &listed[listed.len().saturating_sub(keep)..];
        let is_known_track = self.tracks.ids().contains(&track);
        if !is_known_track {
            if self.tracks.is_full() {
                return;
            }
            self.tracks.add(track);
            self.tracker.hasten_status(self.now);
        }
        for info in listed {
            self.list_segment(track, info, is_known_track, out);
        }
        self.evict_old(track, listed, out);
    }

    fn list_segment(&mut self, track: TrackId, info: &SegmentInfo, fresh: bool, out: &mut Outbox) {
        let (now, window_ms) = (self.now, self.window_ms());
        let index = match self
            .segments
            .iter()
            .position(|segment| segment.name == info.name)
        {
            Some(index) => index,
            None => {
                self.make_room(out);
                self.set_segment_aside();
                let mut segment = Segment::new(info.name, now);
                segment.fresh = fresh;
                segment.duty_mut().window_ms = window_ms;
                self.segments.push(segment);
                self.segments.len() - 1
            }
        };
        let segment = &mut self.segments[index];
        let is_new = segment.list(track);
        segment.seq = info.seq;
        segment.duration_ms = info.duration_ms;
        segment.is_progressive = self.player.is_progressive;
        let content = info.content.filter(Content::is_valid);
        if let Some(replaced) = content.and_then(|content| segment.set_content(content)) {
            segment.fresh = true;
            segment.duty_mut().known_at = now;
            out.push(Action::Evict(replaced.id));
        }
        if let Some(id) = segment.id() {
            // What neighbours have said of it counts from now on.
            if let Some(row) = self.remotes.row_mut(id) {
                row.note_known();
            }
        }
        if is_new {
            self.believe_all(index, out);
            let have = self.segments[index].have();
            self.plan_pushes(index, have);
            self.segments[index].rest_if_idle();
        }
    }

    /// Forgets what lies behind the window, and what nobody has listed for long.
    fn evict_old(&mut self, track: TrackId, listed: &[SegmentInfo], out: &mut Outbox) {
        let kept = u64::from(self.policy.segments_kept);
        let (first, last) = match listed {
            [first, .., last] => (first.seq, last.seq),
            [only] => (only.seq, only.seq),
            [] => return,
        };
        let oldest = last.saturating_sub(kept).min(first);
        let now = self.now;
        for segment in &mut self.segments {
            let is_old = segment.seq.saturating_add(ROWS_KEPT) <= last && segment.is_complete();
            if let Some(id) = segment
                .id()
                .filter(|_| is_old && segment.track() == Some(track))
            {
                segment.rest();
                self.remotes.forget_if_quiet(id);
            }
        }
        self.evict_where(out, |segment| match segment.track() {
            Some(known) => {
                let is_listed = || listed.iter().any(|info| info.name == segment.name);
                let outside = segment.seq < oldest || segment.seq > last;
                known == track && outside && !is_listed()
            }
            None => now.ms_since(segment.known_at()) > UNLISTED_MS_MAX,
        });
    }

    pub(super) fn evict_where(&mut self, out: &mut Outbox, is_old: impl Fn(&Segment) -> bool) {
        let (fetches, remotes) = (&self.fetches, &mut self.remotes);
        self.segments.retain(|segment| {
            let busy = segment.is_wanted() || fetches.iter().any(|f| f.name == segment.name);
            let keep = busy || !is_old(segment);
            if let (false, Some(id)) = (keep, segment.id()) {
                remotes.forget(id);
                out.push(Action::Evict(id));
            }
            keep
        });
        self.segments.shrink_to_fit();
    }

    /// Makes room for one more segment.
    fn make_room(&mut self, out: &mut Outbox) {
        while self.segments.len() >= SEGMENTS_MAX {
            // The list is in the order in which they became known.
            let oldest = self.segments.iter().find(|segment| !segment.is_wanted());
            let Some(name) = oldest.map(|segment| segment.name) else {
                return;
            };
            self.forget(name, out);
        }
    }

    /// There is a place for one more in the list; it grows by one, not by half of what it is.
    fn set_segment_aside(&mut self) {
        if self.segments.len() == self.segments.capacity() {
            self.segments.reserve_exact(1);
        }
    }

    fn forget(&mut self, name: Name, out: &mut Outbox) {
        self.fetches.retain(|fetch| {
            let keep = fetch.name != name;
            if !keep {
                out.push(Action::CancelFetch(fetch.id));
            }
            keep
        });
        if let Some(index) = self
            .segments
            .iter()
            .position(|segment| segment.name == name)
        {
            let segment = self.segments.remove(index);
            if let Some(id) = segment.id() {
                self.remotes.forget(id);
                out.push(Action::Evict(id));
            }
        }
    }

    /// A segment that a neighbour vouches for and no playlist here lists yet. `None` if there are
    /// too many of those already.
    pub(super) fn add_unlisted(&mut self, name: Name, seq: u64, out: &mut Outbox) -> Option<usize> {
        let unlisted = self
            .segments
            .iter()
            .filter(|segment| segment.track().is_none());
        if unlisted.clone().count() >= UNLISTED_MAX {
            let oldest = unlisted
                .min_by_key(|s| (s.known_at(), s.seq))
                .map(|s| s.name)?;
            self.forget(oldest, out);
        }
        self.make_room(out);
        let mut segment = Segment::new(name, self.now);
        (segment.seq, segment.fresh) = (seq, true);
        segment.duty_mut().window_ms = self.window_ms();
        if let [only] = self.tracks.ids() {
            segment.guess(*only);
        }
        self.set_segment_aside();
        self.segments.push(segment);
        Some(self.segments.len() - 1)
    }

    pub(super) fn handle_track_ended(&mut self, track: TrackId, out: &mut Outbox) {
        self.tracks.remove(track);
        self.tracker.hasten_status(self.now);
        let dropped: Vec<Name> = self
            .segments
            .iter()
            .filter(|s| s.track() == Some(track) && !s.is_wanted() && s.have() == 0)
            .map(|s| s.name)
            .collect();
        for name in dropped {
            self.forget(name, out);
        }
        for segment in self
            .segments
            .iter_mut()
            .filter(|s| s.track() == Some(track))
        {
            segment.fresh = false;
        }
    }

    pub(super) fn handle_wanted(
        &mut self,
        request: RequestId,
        name: Name,
        grain_ms: u32,
        out: &mut Outbox,
    ) {
        self.player.is_progressive = grain_ms > 0;
        self.player.asked_at = Some(self.now);
        let waiting: usize = self.segments.iter().map(|s| s.work().requests.len()).sum();
        let deadline = self.now.plus_ms(self.buffer_ms());
        let is_usable = self.policy.enabled && self.tracker.stream().is_some();
        let listed = |s: &Segment| s.name == name && s.track().is_some() && !s.duty().cdn_only;
        let found = self.segments.iter().position(listed);
        match found {
            Some(index) if is_usable && waiting < REQUESTS_MAX => {
                let segment = &mut self.segments[index];
                segment.add_request(Request {
                    id: request,
                    since: self.now,
                    deadline,
                    grain_ms,
                    released: 0,
                });
                self.note_asked(index);
                self.release_pieces(index, out);
            }
            _ => out.push(Action::Bypass(request)),
        }
    }

    /// Start-up is over when the player asks for what is newest, with time left for a fetch on a bad day.
    fn note_asked(&mut self, index: usize) {
        let segment = &self.segments[index];
        let len = segment.content().map_or(0, |content| content.len);
        let is_newer = |s: &Segment| s.track() == segment.track() && s.seq > segment.seq;
        let is_newest = !self.segments.iter().any(is_newer);
        let has_time = self.buffer_ms() >= self.estimate.cdn_ms_worst(len.into());
        self.player.caught_up |= is_newest && has_time;
    }

    pub(super) fn handle_abandoned(&mut self, request: RequestId, out: &mut Outbox) {
        let has = |segment: &Segment| segment.work().requests.iter().any(|r| r.id == request);
        let Some(segment) = self.segments.iter_mut().find(|segment| has(segment)) else {
            return;
        };
        segment.drop_request(request);
        if segment.is_wanted() {
            return;
        }
        let name = segment.name;
        self.fetches.retain(|fetch| {
            let keep = fetch.name != name || fetch.seeding;
            if !keep {
                out.push(Action::CancelFetch(fetch.id));
            }
            keep
        });
    }
}

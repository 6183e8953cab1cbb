//! Which tracks the player plays: those whose segments it asks for. Reading a playlist says little:
//! some players read those of all renditions, and a DASH manifest has all in one.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_core::id::TrackId;
use swarm_core::limits::TRACKS_MAX;
use swarm_core::timeline::{SegmentInfo, Track};
use tokio::time::Instant;

/// A track of which nothing was wanted for this long is not played, at the least.
const IDLE_MIN: Duration = Duration::from_secs(12);
/// The same, in target durations.
const IDLE_TARGETS: u32 = 4;
/// Tracks remembered at most.
const KNOWN_MAX: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Tracks {
    known: BTreeMap<TrackId, Known>,
}

#[derive(Debug)]
struct Known {
    segments: Vec<SegmentInfo>,
    target: Duration,
    /// Whether the core follows it.
    active: bool,
    last_used: Instant,
}

impl Tracks {
    /// Takes a playlist; whether the core should hear of this track now.
    pub(super) fn on_read(&mut self, track: &Track, now: Instant) -> bool {
        let full = self.known.len() >= KNOWN_MAX && !self.known.contains_key(&track.track);
        if full && let Some(oldest) = self.least_recently_used(|_| true) {
            self.known.remove(&oldest);
        }
        let known = self.known.entry(track.track).or_insert_with(|| Known {
            segments: vec![],
            target: Duration::ZERO,
            active: false,
            last_used: now,
        });
        known.segments.clear();
        known
            .segments
            .extend(track.segments.iter().map(|listed| listed.info));
        known.target = Duration::from_millis(track.target_ms.into());
        known.active
    }

    /// A segment of the track is wanted; its timeline, if the core does not follow it yet.
    pub(super) fn on_wanted(&mut self, track: TrackId, now: Instant) -> Option<&[SegmentInfo]> {
        let known = self.known.get_mut(&track)?;
        known.last_used = now;
        let news = !std::mem::replace(&mut known.active, true);
        news.then_some(known.segments.as_slice())
    }

    /// The player has left the track; whether the core follows it.
    pub(super) fn on_ended(&mut self, track: TrackId) -> bool {
        let known = self.known.get_mut(&track);
        known.is_some_and(|known| std::mem::take(&mut known.active))
    }

    /// The timeline of a track.
    pub(super) fn segments(&self, track: TrackId) -> &[SegmentInfo] {
        self.known.get(&track).map_or(&[], |known| &known.segments)
    }

    /// Tracks that the core should not follow any more: unused ones, and the least recently used
    /// beyond what it can follow.
    pub(super) fn take_idle(&mut self, now: Instant) -> Vec<TrackId> {
        let mut idle = Vec::new();
        for (track, known) in &mut self.known {
            let patience = IDLE_MIN.max(known.target * IDLE_TARGETS);
            if known.active && now.duration_since(known.last_used) > patience {
                known.active = false;
                idle.push(*track);
            }
        }
        while self.known.values().filter(|known| known.active).count() > TRACKS_MAX {
            let Some(oldest) = self.least_recently_used(|known| known.active) else {
                break;
            };
            self.on_ended(oldest);
            idle.push(oldest);
        }
        idle
    }

    fn least_recently_used(&self, fits: impl Fn(&Known) -> bool) -> Option<TrackId> {
        let fitting = self.known.iter().filter(|(_, known)| fits(known));
        fitting
            .min_by_key(|(_, known)| known.last_used)
            .map(|(track, _)| *track)
    }
}

#[cfg(test)]
mod tests {
    use swarm_core::timeline::Parts;

    use super::*;

    fn track(id: u32) -> Track {
        Track {
            track: TrackId(id),
            stream: None,
            target_ms: 2000,
            ended: false,
            inits: vec![],
            segments: vec![],
            parts: Parts::default(),
        }
    }

    #[test]
    fn tracks_are_played_when_their_segments_are_wanted() {
        let (mut tracks, now) = (Tracks::default(), Instant::now());
        assert!(!tracks.on_read(&track(1), now));
        assert!(tracks.on_wanted(TrackId(1), now).is_some());
        assert!(tracks.on_wanted(TrackId(1), now).is_none());
        assert!(tracks.on_read(&track(1), now));
        assert!(tracks.on_wanted(TrackId(3), now).is_none());
    }

    #[test]
    fn unused_tracks_end_until_they_are_wanted_again() {
        let (mut tracks, now) = (Tracks::default(), Instant::now());
        tracks.on_read(&track(1), now);
        tracks.on_wanted(TrackId(1), now);
        let later = now + IDLE_MIN + Duration::from_secs(1);
        assert!(tracks.take_idle(now).is_empty());
        assert_eq!(tracks.take_idle(later), [TrackId(1)]);
        assert!(!tracks.on_read(&track(1), later));
        assert!(tracks.on_wanted(TrackId(1), later).is_some());
        assert!(tracks.on_ended(TrackId(1)));
        assert!(!tracks.on_ended(TrackId(1)));
    }

    #[test]
    fn no_more_tracks_than_the_core_can_follow() {
        let (mut tracks, now) = (Tracks::default(), Instant::now());
        for id in 0..TRACKS_MAX as u32 + 2 {
            let at = now + Duration::from_secs(id.into());
            tracks.on_read(&track(id), at);
            tracks.on_wanted(TrackId(id), at);
        }
        assert_eq!(tracks.take_idle(now), [TrackId(0), TrackId(1)]);
    }
}
